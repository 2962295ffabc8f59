"""The kernel's event buffers, taken apart. Pure: bytes in, values out, nothing else asked.

A storm is mostly repetition, so identical events of one buffer are folded before anything is made of them:
the raw bytes that name directory, name and writer are the key of a dictionary, their masks are united. What does
not have the kernel's shape raises MalformedEvents, for guessing where the next record begins invents names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from . import calls
from .events import SourceBroken, What

# event_len, vers, reserved, metadata_len, mask, fd, pid; then the first information record's type, pad and len.
_FANOTIFY: Final = struct.Struct("=IBBHQiiBBH")
_FANOTIFY_HEAD_BYTES: Final = 24
_FANOTIFY_VERSION: Final = 3
_PID_AT: Final = 20
# A folded key: pid, then the information record: type, pad, len, fsid, handle's length and type, handle, name.
_FOLDED: Final = struct.Struct("=i4x8xI4x")
_HANDLE_AT: Final = 16
_FID: Final = 1
_DFID_NAME: Final = 2
_INOTIFY: Final = struct.Struct("=iIII")  # wd, mask, cookie, len
_STRUCTURE: Final = (
    calls.OVERFLOW | calls.IGNORED | calls.UNMOUNT | calls.DELETE_SELF | calls.MOVE_SELF | calls.ON_DIRECTORY
)


class MalformedEvents(SourceBroken):
    """Bytes that no kernel known to us sends."""


def _what_table() -> tuple[tuple[int, What], ...]:
    return (
        (calls.CREATE, What.CREATED),
        (calls.DELETE, What.DELETED),
        (calls.MOVED_FROM, What.MOVED_FROM),
        (calls.MOVED_TO, What.MOVED_TO),
        (calls.MODIFY, What.MODIFIED),
        (calls.CLOSE_WRITE, What.CLOSED),
        (calls.ATTRIB, What.ATTRIBUTES),
        (calls.ON_DIRECTORY, What.DIRECTORY),
    )


_WHAT: Final = _what_table()
_COMPOSED_MAX: Final = 1024
_composed: dict[int, What] = {}


def what_of(mask: int) -> What:
    """The flags of a mask; bits that say nothing of a name are left out."""
    found = _composed.get(mask)
    if found is None:
        found = What(0)
        for bit, what in _WHAT:
            if mask & bit:
                found |= what
        if len(_composed) < _COMPOSED_MAX:
            _composed[mask] = found
    return found


@dataclass(slots=True)
class FanotifyBatch:
    """One buffer: masks by folded key, the union of all masks, and whether a file without a name was written."""

    masks: dict[bytes, int]
    union: int
    nameless: bool


def parse_fanotify(data: bytes, own_pid: int, kept_name: bytes) -> FanotifyBatch:
    """Fold a buffer of fanotify events. Of `own_pid`, only events whose bytes contain `kept_name` are kept;
    their masks are in the union all the same. Raises MalformedEvents."""
    unpack = _FANOTIFY.unpack_from
    masks: dict[bytes, int] = {}
    get = masks.get
    nameless = False
    union = at = 0
    end = len(data)
    data += b"\0\0\0\0"  # the last record may have no information
    while at < end:
        if end - at < _FANOTIFY_HEAD_BYTES:
            raise MalformedEvents(f"fanotify: {end - at} bytes are left over")
        length, version, _, head, mask, _, pid, kind, _, information = unpack(data, at)
        if head != _FANOTIFY_HEAD_BYTES or length < head or length > end - at or version != _FANOTIFY_VERSION:
            raise MalformedEvents(
                f"fanotify: a record of {length} bytes, version {version}, head {head} with {end - at} left"
            )
        union |= mask
        if length > head and not mask & calls.OVERFLOW:
            if information > length - head:
                raise MalformedEvents(f"fanotify: information of {information} bytes in a record of {length}")
            if kind == _DFID_NAME:
                key = data[at + _PID_AT : at + head + information]
                if pid != own_pid or kept_name in key:
                    masks[key] = get(key, 0) | mask
            # Every unlink and link tells a change of the file's link count without a name: that is no loss.
            elif kind == _FID and pid != own_pid and mask & ~calls.ATTRIB:
                nameless = True
        at += length
    return FanotifyBatch(masks, union, nameless)


def fields_of(key: bytes) -> tuple[int, bytes, bytes]:
    """(pid, directory's handle, name) of a folded key; the name is b"." for the directory itself.

    Raises MalformedEvents.
    """
    if len(key) < _FOLDED.size:
        raise MalformedEvents(f"fanotify: an information record of {len(key)} bytes")
    pid, handle_length = _FOLDED.unpack_from(key)
    name_at = _FOLDED.size + handle_length
    if name_at >= len(key):
        raise MalformedEvents(f"fanotify: a handle of {handle_length} bytes in a record of {len(key)}")
    name = key[name_at:].partition(b"\0")[0]
    if not name or b"/" in name:
        raise MalformedEvents("fanotify: a name that is empty or has a slash")
    return pid, key[_HANDLE_AT:name_at], name


@dataclass(slots=True)
class InotifyBatch:
    """One buffer: masks by (watch, name), and in order (watch, mask, cookie, name) of what changes directories."""

    masks: dict[tuple[int, bytes], int]
    structure: list[tuple[int, int, int, bytes]]


def parse_inotify(data: bytes) -> InotifyBatch:
    """Fold a buffer of inotify events. Raises MalformedEvents."""
    unpack = _INOTIFY.unpack_from
    masks: dict[tuple[int, bytes], int] = {}
    get = masks.get
    structure: list[tuple[int, int, int, bytes]] = []
    at = 0
    end = len(data)
    head = _INOTIFY.size
    while at < end:
        if end - at < head:
            raise MalformedEvents(f"inotify: {end - at} bytes are left over")
        watch, mask, cookie, length = unpack(data, at)
        at += head
        if length > end - at:
            raise MalformedEvents(f"inotify: a name of {length} bytes with {end - at} left")
        name = data[at : at + length].rstrip(b"\0") if length else b""
        at += length
        if mask & _STRUCTURE:
            structure.append((watch, mask, cookie, name))
        if name:
            if b"\0" in name or b"/" in name:
                raise MalformedEvents("inotify: a name with a slash or a NUL")
            folded = (watch, name)
            masks[folded] = get(folded, 0) | mask
    return InotifyBatch(masks, structure)
