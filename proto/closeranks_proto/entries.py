"""One path's record, and its canonical bytes.

The tree maps keys to *values*: the encoded entry without its path. Equal entries are equal bytes, so
trees are compared without decoding. Layout, big-endian:

    version << 4 | kind    1 byte
    flags                  1 byte   which of the optional parts follow (mode, owner, mtime, xattrs)
    mode                   2 bytes  low 12 bits; 0 where not tracked
    size                   8 bytes  file: bytes; symlink: length of the target; directory: 0
    content digest         file only: the fleet's digest width
    uid, gid               4 + 4    if flagged
    mtime                  8        nanoseconds, signed, if flagged
    xattrs                 2 count, then each 2 + name, 4 + value, sorted by name, if flagged
    target                 symlink only: the rest

Rejected: msgpack for values (its integers have several encodings; a decoder would have to refuse most).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from zlib import crc32

from .errors import CodecError
from .limits import MAX_TARGET_BYTES, MAX_XATTRS_BYTES

_VERSION = 1
_HEAD = struct.Struct(">BBHQ")
_OWNER = struct.Struct(">II")
_MTIME = struct.Struct(">q")
_MODE, _HAS_OWNER, _HAS_MTIME, _HAS_XATTRS = 1, 2, 4, 8
_ALL_FLAGS = 15
_SIZE = slice(4, 12)
DIGEST_AT: Final = _HEAD.size  # where a file's value has its content digest
MODE_BITS = 0o7777
SPECIAL_BITS = 0o7000
_PLAIN_FILE = _VERSION << 4 | 1
_KIND_AND_SIZE = struct.Struct(">B3xQ").unpack_from


class Kind(IntEnum):
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One path's record. What the volume does not track is None and takes no part in comparison.

    `digest` is the content digest of a file (b"" otherwise), `target` a symlink's target (b"" otherwise),
    `mode` the low 12 bits, None for symlinks and where not tracked.
    """

    kind: Kind
    size: int = 0
    digest: bytes = b""
    mode: int | None = None
    target: bytes = b""
    owner: tuple[int, int] | None = None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None


def encode_entry(entry: Entry) -> bytes:
    """The canonical value. The entry is assumed well formed (see `decode_entry` for what that means)."""
    flags = (
        (_MODE if entry.mode is not None else 0)
        | (_HAS_OWNER if entry.owner is not None else 0)
        | (_HAS_MTIME if entry.mtime_ns is not None else 0)
        | (_HAS_XATTRS if entry.xattrs is not None else 0)
    )
    head = _HEAD.pack(_VERSION << 4 | entry.kind, flags, entry.mode or 0, entry.size)
    if flags <= _MODE:
        return head + entry.digest + entry.target
    parts = [head, entry.digest]
    if entry.owner is not None:
        parts.append(_OWNER.pack(*entry.owner))
    if entry.mtime_ns is not None:
        parts.append(_MTIME.pack(entry.mtime_ns))
    if entry.xattrs is not None:
        parts.append(len(entry.xattrs).to_bytes(2, "big"))
        for name, value in entry.xattrs:
            parts += [len(name).to_bytes(2, "big"), name, len(value).to_bytes(4, "big"), value]
    parts.append(entry.target)
    return b"".join(parts)


def file_head(size: int, mode: int | None) -> bytes:
    """What the value of a file begins with that has no attributes besides its mode; its digest follows, and ends it."""
    if mode is None:
        return _HEAD.pack(_PLAIN_FILE, 0, 0, size)
    return _HEAD.pack(_PLAIN_FILE, _MODE, mode & MODE_BITS, size)


def decode_entry(value: bytes, width: int) -> Entry:
    """The entry of a canonical value; `width` is the fleet's digest width in bytes.

    Raises CodecError for an unknown version or kind, a truncated or overlong value, and for any bytes
    that `encode_entry` would not have produced.
    """
    if len(value) < _HEAD.size:
        raise CodecError(f"an entry has at least {_HEAD.size} bytes, not {len(value)}")
    first, flags, mode, size = _HEAD.unpack_from(value)
    if first >> 4 != _VERSION:
        raise CodecError(f"entry of version {first >> 4}; this program reads version {_VERSION}")
    if first & 15 not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK):
        raise CodecError(f"entry of unknown kind {first & 15}")
    kind = Kind(first & 15)
    if (
        flags & ~_ALL_FLAGS
        or mode & ~MODE_BITS
        or (mode and not flags & _MODE)
        or (flags & _MODE and kind is Kind.SYMLINK)
    ):
        raise CodecError("entry with unknown flags or an impossible mode")
    at = _HEAD.size
    digest = b""
    if kind is Kind.FILE:
        digest = _take(value, at, width)
        at += width
    owner: tuple[int, int] | None = None
    if flags & _HAS_OWNER:
        uid, gid = _OWNER.unpack(_take(value, at, _OWNER.size))
        owner = (uid, gid)
        at += _OWNER.size
    mtime_ns: int | None = None
    if flags & _HAS_MTIME:
        (mtime_ns,) = _MTIME.unpack(_take(value, at, _MTIME.size))
        at += _MTIME.size
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None
    if flags & _HAS_XATTRS:
        xattrs, at = _take_xattrs(value, at)
    target = value[at:]
    _check_rest(kind, size, target)
    return Entry(kind, size, digest, mode if flags & _MODE else None, target, owner, mtime_ns, xattrs)


def entry_size(value: bytes) -> int:
    """The size in bytes that a value states: what trees add up. Symlinks and directories count 0."""
    return int.from_bytes(value[_SIZE], "big") if value[0] & 15 == Kind.FILE else 0


def is_file(value: bytes) -> bool:
    return value[0] & 15 == 1


def file_sizes(values: Iterable[bytes]) -> list[int]:
    """The sizes of those of these well-formed values that are files."""
    return [size for first, size in map(_KIND_AND_SIZE, values) if first & 15 == 1]


def large_files(values: Iterable[bytes], chunk_bytes: int, width: int) -> list[tuple[bytes, int]]:
    """(content digest, size) of those of these well-formed values that are files longer than a chunk."""
    return [
        (value[_HEAD.size : _HEAD.size + width], size)
        for value in values
        for first, size in (_KIND_AND_SIZE(value),)
        if size > chunk_bytes and first & 15 == 1
    ]


def check_values(values: Iterable[bytes | None], width: int) -> None:
    """Raise CodecError unless every value (None is passed over) is what `decode_entry` accepts.

    A plain file's entry, nearly every one, is recognised without decoding it.
    """
    plain_length = _HEAD.size + width
    for value in values:
        if value is None or (
            len(value) == plain_length and value[0] == _PLAIN_FILE and value[1] == _MODE and value[2] < 16
        ):
            continue
        decode_entry(value, width)


# An enumeration's own look-up takes four times as long.
_KINDS = {int(kind): kind for kind in Kind}


def entry_kind(value: bytes) -> Kind:
    """The kind of a well-formed value, without decoding the rest."""
    return _KINDS[value[0] & 15]


def content_mark(value: bytes) -> int:
    """A number that well-formed values of equal content share, whatever their names and attributes.

    It is made of a file's digest or a link's target; all directories have one. Different contents may share it.
    """
    match value[0] & 15:
        case Kind.FILE:
            return int.from_bytes(value[_HEAD.size : _HEAD.size + 8], "big")
        case Kind.SYMLINK:
            return -1 - crc32(value[_HEAD.size :])
        case _:
            return 0


def content_digest(value: bytes | None, width: int) -> bytes:
    """The content digest of a well-formed file's value; b"" of anything else."""
    return b"" if value is None or value[0] & 15 != 1 else value[DIGEST_AT : DIGEST_AT + width]


def same_content(one: bytes, other: bytes, width: int) -> bool:
    """Whether two well-formed values are files with the same content digest."""
    digest = slice(_HEAD.size, _HEAD.size + width)
    return one[0] & 15 == other[0] & 15 == 1 and one[digest] == other[digest]


def aspects(ours: Entry | None, theirs: Entry | None) -> tuple[str, ...]:
    """In what two entries of one path differ: of presence, kind, content, target, mode, owner, mtime, xattrs."""
    if ours is None or theirs is None:
        return () if ours is theirs else ("presence",)
    if ours.kind is not theirs.kind:
        return ("kind",)
    pairs = (
        (
            "content",
            (ours.digest, ours.size if ours.kind is Kind.FILE else 0),
            (theirs.digest, theirs.size if theirs.kind is Kind.FILE else 0),
        ),
        ("target", ours.target, theirs.target),
        ("mode", ours.mode, theirs.mode),
        ("owner", ours.owner, theirs.owner),
        ("mtime", ours.mtime_ns, theirs.mtime_ns),
        ("xattrs", ours.xattrs, theirs.xattrs),
    )
    return tuple(name for name, own, other in pairs if own != other)


def _take(value: bytes, at: int, length: int) -> bytes:
    part = value[at : at + length]
    if len(part) != length:
        raise CodecError("truncated entry")
    return part


def _take_xattrs(value: bytes, at: int) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    start = at
    found: list[tuple[bytes, bytes]] = []
    count = int.from_bytes(_take(value, at, 2), "big")
    at += 2
    for _ in range(count):
        name_length = int.from_bytes(_take(value, at, 2), "big")
        name = _take(value, at + 2, name_length)
        at += 2 + name_length
        value_length = int.from_bytes(_take(value, at, 4), "big")
        found.append((name, _take(value, at + 4, value_length)))
        at += 4 + value_length
        if at - start > MAX_XATTRS_BYTES + 2 + 6 * count:
            raise CodecError("entry with oversized extended attributes")
    names = [name for name, _ in found]
    if any(not name for name in names) or names != sorted(set(names)):
        raise CodecError("entry whose extended attributes are not sorted and distinct")
    return tuple(found), at


def _check_rest(kind: Kind, size: int, target: bytes) -> None:
    match kind:
        case Kind.SYMLINK:
            if not target or len(target) > MAX_TARGET_BYTES or len(target) != size or b"\0" in target:
                raise CodecError("symlink with an impossible target")
        case Kind.DIRECTORY:
            if target or size:
                raise CodecError("directory with a size or trailing bytes")
        case Kind.FILE:
            if target:
                raise CodecError("file entry with trailing bytes")
