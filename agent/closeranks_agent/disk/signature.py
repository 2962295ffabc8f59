"""By what a change of a path is seen without reading it, and when that can be relied on.

As long as a path's signature stays the same, its content is taken as unchanged, with one exception: a file whose
ctime lies within the clock's granularity of the moment it was read may change once more without changing its
signature. What was read so is not *settled*; the next scan reads the file again. Rejected: mtime as a witness,
which anybody can set.

Light to import: reading processes do.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from dataclasses import dataclass
from typing import Final

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


def drift_ns() -> int:
    """It falls where that clock is set back, and only there: the other one counts what the machine slept."""
    return clock_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def is_settled(ctime_ns: int, read_at_ns: int) -> bool:
    """Whether any write after `read_at_ns` is bound to give the file another ctime than `ctime_ns`."""
    tick = COARSE_TICK_NS if ctime_ns % 1_000_000_000 == 0 else TICK_NS
    return abs(read_at_ns - ctime_ns) > tick


def is_settled_before(ctime_ns: int, at_ns: int) -> bool:
    """`is_settled` for whatever is read at any moment after `at_ns`; it may be wrong to the safe side."""
    return is_settled(ctime_ns, at_ns) and ctime_ns < at_ns


def pack_state(size: int, mtime_ns: int, ctime_ns: int, inode: int, device: int) -> bytes:
    """`pack_signature` of fields that are at hand."""
    return _SIGNATURE.pack(size, mtime_ns & _WORD, ctime_ns & _WORD, inode, device)
