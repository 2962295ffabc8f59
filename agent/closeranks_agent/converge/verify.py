"""The proof before a release: what converge wrote, read from disk again, and a full scan.

The page cache proves nothing about a disk: cached pages of each file are dropped first, then it is read and
hashed. What can not be read, or does not hold still, gives no root: an error is not a pass. A long file that was read
back from the disk while it came (`readback`) is not read a second time, as long as its stat is what it was then.

A disk that is asked for one thing at a time is mostly idle. So the files of a batch are announced to the kernel
before the first of them is read, and a long file some way ahead of its reader. Rejected: one syncfs for each
batch (only clean pages can be dropped, but converge has synced these files already: writing out what somebody
else has dirtied since costs a look at each file, not a flush of the disk's cache).
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
from ..disk.hashing import KnownContent
from ..disk.records import BusyFile, Change, Record
from ..disk.volume import Volume
from .plan import is_withheld
from .readback import Proved
from .trash import Trash
from .written import Written

BATCH_KEYS = 256
AHEAD_BYTES = 32 * 1024 * 1024  # of a batch, and of one long file, that the kernel reads before we do
AHEAD_STEP_BYTES = 8 * 1024 * 1024
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
BUSY_RETRIES = 3
BUSY_PAUSE_S = 0.1


@dataclass(slots=True)
class _Reread:
    files: int = 0
    bytes: int = 0
    unread: list[str] = field(default_factory=list)


async def verify(volume: Volume, trash: Trash, proved: Proved, order: Verify) -> VerifyResult:
    """Raises what stops everything: VolumeGone, StateUnavailable, OSError of the private directory."""
    keys, withheld = await asyncio.to_thread(_written, trash, order.incident)
    reread = _Reread()
    for start in range(0, len(keys), BATCH_KEYS):
        await volume.run(_reread, volume, proved, keys[start : start + BATCH_KEYS], reread)
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


def _reread(volume: Volume, proved: Proved, keys: Sequence[bytes], reread: _Reread) -> None:
    """Read a batch from disk and record what it really is. On the volume's thread."""
    observed = time.monotonic()
    changes: list[Change] = []
    root_fd = volume.open_root()
    try:
        records = {key: volume.record(key) for key in keys}
        contents = {key: proved.still(root_fd, key, records[key]) for key in keys}
        unread = [key for key in keys if not _is_directory(records[key]) and contents[key] is None]
        refused = _chill(root_fd, unread)
        for key, known in records.items():
            if _is_directory(known):
                continue  # has no content; the scan compares its attributes
            try:
                if key in refused:
                    raise refused[key]
                change = _read_steadily(volume, root_fd, key, contents[key])
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


def _is_directory(record: Record | None) -> bool:
    return record is not None and entry_kind(record.value) is Kind.DIRECTORY


def _read_steadily(volume: Volume, root_fd: int, key: bytes, content: KnownContent | None) -> Change:
    """`content`: what was read back of it, if that still stands; else the file has been chilled."""
    if content is not None:
        try:
            return Change(key, volume.read_entry(root_fd, key, None, content))
        except BusyFile:  # somebody wrote to it a moment ago
            drop_cache(root_fd, key, AHEAD_BYTES)
    for attempt in range(BUSY_RETRIES + 1):
        try:
            with _Ahead(root_fd, key, volume.chunk_bytes) as ahead:
                return Change(key, volume.read_entry(root_fd, key, ahead.step))
        except BusyFile:
            if attempt == BUSY_RETRIES:
                raise
            time.sleep(BUSY_PAUSE_S)
    raise AssertionError("unreachable")


class _Ahead:
    """Lets the kernel read a long file some way ahead of whoever reads it chunk by chunk."""

    def __init__(self, root_fd: int, key: bytes, chunk_bytes: int) -> None:
        self._root_fd, self._key, self._chunk_bytes = root_fd, key, chunk_bytes
        self._read = 0
        self._asked = AHEAD_BYTES  # when the file was chilled
        self._fd: int | None = None

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def step(self) -> bool:
        """A chunk is about to be read. Never stops the reader."""
        if self._read + AHEAD_BYTES >= self._asked + AHEAD_STEP_BYTES:
            if self._fd is None:
                self._fd = beneath.open_beneath(self._root_fd, path_of(self._key), _READ_FLAGS)
            os.posix_fadvise(self._fd, self._asked, AHEAD_STEP_BYTES, os.POSIX_FADV_WILLNEED)
            self._asked += AHEAD_STEP_BYTES
        self._read += self._chunk_bytes
        return False


def _chill(root_fd: int, keys: Sequence[bytes]) -> dict[bytes, OSError]:
    """Make the next reads of these files come from the disk, and let it begin with them.

    Those that can not be opened, with the reason.
    """
    refused: dict[bytes, OSError] = {}
    ahead = AHEAD_BYTES
    for key in keys:
        try:
            ahead -= drop_cache(root_fd, key, ahead)
        except OSError as error:
            refused[key] = error
    return refused


def drop_cache(root_fd: int, key: bytes, ahead: int) -> int:
    """Make the next read of a file come from the disk, and ask for its first `ahead` bytes at once.

    How many bytes were asked for. Raises OSError where the file can not be opened.
    """
    try:
        fd = beneath.open_beneath(root_fd, path_of(key), _READ_FLAGS)
    except OSError as error:
        if error.errno in beneath.DETOUR_ERRNOS:
            return 0  # gone or a symlink: there is nothing to drop
        raise
    try:
        syscalls.write_out(fd)  # only clean pages can be dropped
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = min(os.fstat(fd).st_size, ahead)
        if size > 0:
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
        return max(0, size)
    finally:
        os.close(fd)


def _still_withheld(volume: Volume, key: bytes, target: bytes) -> bool:
    known = volume.record(key)
    if known is None:
        return False
    width = volume.algorithm.width
    own, wanted = decode_entry(known.value, width), decode_entry(target, width)
    return is_withheld(own, wanted, volume.settings.special_bits)
