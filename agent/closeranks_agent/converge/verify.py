"""The proof before a release: what converge wrote, read from disk again, and a full scan.

The page cache proves nothing about a disk: cached pages of each file are dropped first, then it is read and
hashed. What can not be read, or does not hold still, gives no root: an error is not a pass.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from closeranks_proto.entries import Kind, decode_entry, entry_kind, entry_size
from closeranks_proto.messages import Verify, VerifyResult
from closeranks_proto.paths import escape, path_of

from .. import beneath, syscalls
from ..disk.records import BusyFile, Change
from ..disk.volume import Volume
from .plan import is_withheld
from .trash import Trash
from .written import Written

BATCH_KEYS = 128
BUSY_RETRIES = 3
BUSY_PAUSE_S = 0.1


@dataclass(slots=True)
class _Reread:
    files: int = 0
    bytes: int = 0
    unread: list[str] = field(default_factory=list)


async def verify(volume: Volume, trash: Trash, order: Verify) -> VerifyResult:
    """Raises what stops everything: VolumeGone, StateUnavailable, OSError of the private directory."""
    keys, withheld = await asyncio.to_thread(_written, trash, order.incident)
    reread = _Reread()
    for start in range(0, len(keys), BATCH_KEYS):
        await volume.run(_reread, volume, keys[start : start + BATCH_KEYS], reread)
    report = await volume.run(volume.scan, True)
    root = volume.root
    detail = ""
    if reread.unread:
        detail = f"{len(reread.unread)} paths could not be read again: {'; '.join(reread.unread[:5])}"
    elif not report.complete:
        detail = report.problem.message if report.problem else "the scan was not complete"
    if detail:
        root = None
    still = [key for key, target in sorted(withheld.items()) if _still_withheld(volume, key, target)]
    return VerifyResult(
        order.action, order.volume, root, reread.files, reread.bytes, True, detail[:4000], tuple(still)
    )


def _written(trash: Trash, incident: str) -> tuple[list[bytes], dict[bytes, bytes]]:
    with trash.opened() as room:
        written = Written(room.trash_fd, incident)
        try:
            return written.read()
        finally:
            written.close()


def _reread(volume: Volume, keys: Sequence[bytes], reread: _Reread) -> None:
    """Read a batch from disk and record what it really is. On the volume's thread."""
    observed = time.monotonic()
    changes: list[Change] = []
    root_fd = volume.open_root()
    try:
        syscalls.sync_filesystem(root_fd)  # only clean pages can be dropped
        for key in keys:
            known = volume.record(key)
            if known is not None and entry_kind(known.value) is Kind.DIRECTORY:
                continue  # has no content; the scan compares its attributes
            try:
                drop_cache(root_fd, key)
                change = _read_steadily(volume, root_fd, key)
            except (BusyFile, OSError) as error:
                reread.unread.append(f"{escape(path_of(key))}: {getattr(error, 'strerror', None) or error}")
                continue
            record = change.record
            if record is not None and entry_kind(record.value) is Kind.FILE:
                reread.files += 1
                reread.bytes += entry_size(record.value)
            if record != known and (record is None or entry_kind(record.value) is not Kind.DIRECTORY):
                changes.append(change)
    finally:
        os.close(root_fd)
    if changes:
        volume.apply(changes, "scan", observed)


def _read_steadily(volume: Volume, root_fd: int, key: bytes) -> Change:
    for attempt in range(BUSY_RETRIES + 1):
        try:
            return Change(key, volume.read_entry(root_fd, key))
        except BusyFile:
            if attempt == BUSY_RETRIES:
                raise
            time.sleep(BUSY_PAUSE_S)
    raise AssertionError("unreachable")


def drop_cache(root_fd: int, key: bytes) -> None:
    """Make the next read of a file come from the disk. Raises OSError where it can not be opened."""
    try:
        fd = beneath.open_beneath(root_fd, path_of(key), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in beneath.DETOUR_ERRNOS:
            return  # gone or a symlink: there is nothing to drop
        raise
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _still_withheld(volume: Volume, key: bytes, target: bytes) -> bool:
    known = volume.record(key)
    if known is None:
        return False
    width = volume.algorithm.width
    own, wanted = decode_entry(known.value, width), decode_entry(target, width)
    return is_withheld(own, wanted, volume.settings.special_bits)
