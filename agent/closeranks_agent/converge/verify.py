"""The proof before a release: what converge wrote, read from disk again, and a full scan.

The page cache proves nothing about a disk: cached pages of each file are dropped first, then it is read and
hashed. What can not be read, or does not hold still, gives no root: an error is not a pass. A long file that was read
back from the disk while it came (`readback`) is not read a second time, as long as its stat is what it was then.

A disk that is asked for one thing at a time is mostly idle. So the next AHEAD_FILES files are open and announced to
the kernel while one is read, and a long file some way ahead of its reader. What is read is what was opened: a file
that took its name meanwhile has another inode, and the scan at the end reads it. Rejected: one syncfs for each
batch (only clean pages can be dropped, but converge has synced these files already: writing out what somebody
else has dirtied since costs a look at each file, not a flush of the disk's cache).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from closeranks_proto.entries import Kind, decode_entry, entry_kind, entry_size
from closeranks_proto.messages import Verify, VerifyResult
from closeranks_proto.paths import escape, path_of

from .. import beneath, syscalls
from ..disk.hashing import KnownContent, NotRegular
from ..disk.records import BusyFile, Change, Record
from ..disk.volume import Volume
from .plan import is_withheld
from .readback import Proved
from .trash import Trash
from .written import Written

BATCH_KEYS = 512
AHEAD_FILES = 64
AHEAD_BYTES = 32 * 1024 * 1024  # that the kernel reads before we do, of the next files or of one long file
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
        # A directory has no content; the scan compares its attributes.
        files = [key for key in keys if not _is_directory(records[key])]
        for key, file in _chilled(root_fd, [(key, contents[key] is None) for key in files]):
            known = records[key]
            try:
                if isinstance(file, OSError):
                    raise file
                record = _read_steadily(volume, root_fd, key, contents[key], file)
            except (BusyFile, OSError) as error:
                reread.unread.append(f"{escape(path_of(key))}: {getattr(error, 'strerror', None) or error}")
                continue
            if record is not None and entry_kind(record.value) is Kind.FILE:
                reread.files += 1
                reread.bytes += entry_size(record.value)
            if record != known and (record is None or entry_kind(record.value) is not Kind.DIRECTORY):
                changes.append(Change(key, record))
    finally:
        os.close(root_fd)
    if changes:
        volume.apply(changes, "scan", observed)


def _is_directory(record: Record | None) -> bool:
    return record is not None and entry_kind(record.value) is Kind.DIRECTORY


def _read_steadily(
    volume: Volume, root_fd: int, key: bytes, content: KnownContent | None, fd: int | None
) -> Record | None:
    """`content`: what was read back of it, if that still stands; else `fd` is the file, and has been chilled."""
    if content is not None:
        try:
            return volume.read_entry(root_fd, key, None, content)
        except BusyFile:  # somebody wrote to it a moment ago
            drop_cache(root_fd, key)
    if fd is not None:
        try:
            return volume.read_open(key, fd, _Ahead(fd, volume.chunk_bytes).step)
        except (BusyFile, NotRegular):
            drop_cache(root_fd, key)  # it may rest, or be what it should, when it is looked for by its name
    for attempt in range(BUSY_RETRIES + 1):
        try:
            return volume.read_entry(root_fd, key)
        except BusyFile:
            if attempt == BUSY_RETRIES:
                raise
            time.sleep(BUSY_PAUSE_S)
    raise AssertionError("unreachable")


class _Ahead:
    """Lets the kernel read a long file some way ahead of whoever reads it chunk by chunk."""

    def __init__(self, fd: int, chunk_bytes: int) -> None:
        self._fd, self._chunk_bytes = fd, chunk_bytes
        self._read = 0
        self._asked = AHEAD_BYTES // AHEAD_FILES  # when the file was chilled

    def step(self) -> bool:
        """A chunk is about to be read. Never stops the reader."""
        if self._read + AHEAD_BYTES >= self._asked + AHEAD_STEP_BYTES:
            os.posix_fadvise(self._fd, self._asked, AHEAD_STEP_BYTES, os.POSIX_FADV_WILLNEED)
            self._asked += AHEAD_STEP_BYTES
        self._read += self._chunk_bytes
        return False


def _chilled(
    root_fd: int, keys: Sequence[tuple[bytes, bool]]
) -> Iterator[tuple[bytes, int | OSError | None]]:
    """Each with its open file where it is to be read, whose next reads come from the disk: the next ones are under way.

    The file is closed when the next one is asked for. None: nothing to be opened; an error: it can not be opened.
    """
    opened: deque[tuple[bytes, int | OSError | None]] = deque()
    try:
        for key, wanted in keys:
            opened.append((key, _open_cold(root_fd, key) if wanted else None))
            if len(opened) > AHEAD_FILES:
                yield opened[0]
                _close_first(opened)
        while opened:
            yield opened[0]
            _close_first(opened)
    finally:
        while opened:
            _close_first(opened)


def _close_first(opened: deque[tuple[bytes, int | OSError | None]]) -> None:
    _, file = opened.popleft()
    if isinstance(file, int):
        os.close(file)


def _open_cold(root_fd: int, key: bytes) -> int | OSError | None:
    """A file whose next read comes from the disk, and whose first bytes the disk has been asked for."""
    try:
        fd = beneath.open_beneath(root_fd, path_of(key), _READ_FLAGS)
    except OSError as error:
        return None if error.errno in beneath.DETOUR_ERRNOS else error  # gone or a symlink: nothing to drop
    try:
        _drop_cache(fd)
        os.posix_fadvise(fd, 0, AHEAD_BYTES // AHEAD_FILES, os.POSIX_FADV_WILLNEED)
    except OSError as error:
        os.close(fd)
        return error
    return fd


def drop_cache(root_fd: int, key: bytes) -> None:
    """Make the next read of a file come from the disk. Raises OSError where the file can not be opened."""
    try:
        fd = beneath.open_beneath(root_fd, path_of(key), _READ_FLAGS)
    except OSError as error:
        if error.errno in beneath.DETOUR_ERRNOS:
            return
        raise
    try:
        _drop_cache(fd)
    finally:
        os.close(fd)


def _drop_cache(fd: int) -> None:
    syscalls.write_out(fd)  # only clean pages can be dropped
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _still_withheld(volume: Volume, key: bytes, target: bytes) -> bool:
    known = volume.record(key)
    if known is None:
        return False
    width = volume.algorithm.width
    own, wanted = decode_entry(known.value, width), decode_entry(target, width)
    return is_withheld(own, wanted, volume.settings.special_bits)
