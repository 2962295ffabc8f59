"""What the disk side of the agent hands around: records of paths, reports of scans, and their errors.

A record is an entry (see `closeranks_proto.entries`) together with the stat signature under which it was
read. As long as a path's signature stays the same, its content is taken as unchanged, with one exception:
a file whose ctime lies within the clock's granularity of the moment it was read may change once more
without changing its signature. Such a record is not *settled*; the next scan reads the file again.
Rejected: mtime as a witness, which anybody can set.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from dataclasses import dataclass, field
from typing import Final

from closeranks_proto.errors import CloseranksError
from closeranks_proto.messages import Problem, Unreadable

_SIGNATURE = struct.Struct("<QQQQQ")
_WORD: Final = 2**64 - 1  # times before 1970 and after 2554 wrap around: they only have to be told apart
# Kernel clocks tick every 1 to 10 ms; twice the slowest. Filesystems that keep whole seconds tick every 2 s.
TICK_NS: Final = 20_000_000
COARSE_TICK_NS: Final = 2_000_000_000


@dataclass(frozen=True, slots=True)
class StatSignature:
    """By what a change of a path is seen without reading it. Times in nanoseconds.

    Of a directory only the inode and device count: its size and times tell about the names in it, which
    are entries of their own. (Mode and owner of a directory are in its value.)
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> StatSignature:
        if stat.S_ISDIR(status.st_mode):
            return cls(0, 0, 0, status.st_ino, status.st_dev)
        return cls(
            status.st_size,
            status.st_mtime_ns & _WORD,
            status.st_ctime_ns & _WORD,
            status.st_ino,
            status.st_dev,
        )

    def pack(self) -> bytes:
        return _SIGNATURE.pack(self.size, self.mtime_ns, self.ctime_ns, self.inode, self.device)

    @classmethod
    def unpack(cls, blob: bytes) -> StatSignature:
        return cls(*_SIGNATURE.unpack(blob))


def pack_signature(status: os.stat_result) -> bytes:
    """`StatSignature.of(status).pack()` of anything but a directory, without the detour."""
    return _SIGNATURE.pack(
        status.st_size,
        status.st_mtime_ns & _WORD,
        status.st_ctime_ns & _WORD,
        status.st_ino,
        status.st_dev,
    )


def clock_ns() -> int:
    """The clock that the kernel stamps files with, in nanoseconds. Take it before reading a file."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


def is_settled(ctime_ns: int, read_at_ns: int) -> bool:
    """Whether any write after `read_at_ns` is bound to give the file another ctime than `ctime_ns`."""
    tick = COARSE_TICK_NS if ctime_ns % 1_000_000_000 == 0 else TICK_NS
    return abs(read_at_ns - ctime_ns) > tick


@dataclass(frozen=True, slots=True)
class Record:
    """One path as it was read: canonical value, stat signature, encoded chunk list of a long file.

    `settled` False makes the next scan read the content once more.
    """

    key: bytes
    value: bytes
    stat: StatSignature
    chunks: bytes | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a key: its new record, or None where the path is gone."""

    key: bytes
    record: Record | None


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What one scan saw. `complete` is False when it was stopped or could not begin (`problem` says why)."""

    started_mono: float
    duration_s: float
    complete: bool
    entries: int = 0
    files: int = 0
    directories_compared: int = 0  # those that were looked into entry by entry; the rest had not changed
    changed: int = 0
    hashed_files: int = 0
    hashed_bytes: int = 0
    ignored: int = 0
    hard_links: int = 0  # names of files that have more than one
    unreadable: tuple[Unreadable, ...] = ()  # the first REPORT_MAX_UNREADABLE
    unreadable_count: int = 0
    busy: frozenset[bytes] = field(default_factory=frozenset)
    problem: Problem | None = None


class VolumeGone(CloseranksError):
    """The volume's root is not what the index was made from, or can not be opened: touch nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class StateUnavailable(CloseranksError):
    """The state directory can not be written (full, read-only, failing): nothing was promised or changed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class BusyFile(CloseranksError):
    """A file changed while it was read."""


def problem_of(error: OSError, what: str) -> Problem:
    """The problem that an operating-system error means for a volume; `what` names what was attempted."""
    text = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Problem("no_space", f"{what}: {text}. Free some room; the agent tries again by itself.")
        case errno.EROFS:
            return Problem("read_only", f"{what}: {text}. Mount the filesystem read-write.")
        case errno.EACCES | errno.EPERM:
            return Problem("unreadable", f"{what}: {text}. Let the agent's user read it.")
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            return Problem("not_mounted", f"{what}: {text}. Mount it or correct `path`.")
        case _:
            return Problem("io_error", f"{what}: {text}. Look at the kernel's log; the disk may be failing.")
