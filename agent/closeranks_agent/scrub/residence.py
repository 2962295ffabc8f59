"""Leaving the page cache as it was found: what was read only for a scrub is given back, what others use stays.

Before a range is read, mincore says which of its pages are in memory; afterwards those that were not are
dropped. The kernel answers mincore honestly only to who may write the file. For anybody else the first page stands
for the range, and RWF_NOWAIT tells of it. Nothing of a mapping is ever touched: a file that shrinks meanwhile harms
nobody.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Final

PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_PROT_READ, _MAP_SHARED = 1, 1
_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
)  # fmt: skip
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)

Runs = Sequence[tuple[int, int]]  # (offset, length) in bytes, ascending


def absent(fd: int, offset: int, length: int, status: os.stat_result) -> Runs:
    """What of a range, which begins at a page, is not in memory."""
    if not length:
        return ()
    if os.geteuid() == 0 or status.st_uid == os.geteuid():
        resident = _mincore(fd, offset, length)
        if resident is not None:
            return _runs(resident, offset, length)
    return () if _is_hot(fd, offset) else ((offset, length),)


def drop(fd: int, runs: Runs) -> None:
    """Give these pages back; dirty ones and those that somebody maps stay."""
    for offset, length in runs:
        whole = -(-length // PAGE_BYTES) * PAGE_BYTES  # a last page that is not full counts only as a whole
        os.posix_fadvise(fd, offset, whole, os.POSIX_FADV_DONTNEED)


def _mincore(fd: int, offset: int, length: int) -> bytes | None:
    """A byte for each page, its lowest bit set where the page is in memory; None where it can not be told."""
    address = _libc.mmap(None, length, _PROT_READ, _MAP_SHARED, fd, offset)
    if address == _FAILED:
        return None
    try:
        found = ctypes.create_string_buffer(-(-length // PAGE_BYTES))
        return found.raw if _libc.mincore(address, length, found) == 0 else None
    finally:
        _libc.munmap(address, length)


def _runs(resident: bytes, offset: int, length: int) -> Runs:
    runs: list[tuple[int, int]] = []
    start: int | None = None
    for page in range(len(resident) + 1):
        cold = page < len(resident) and not resident[page] & 1
        if cold and start is None:
            start = page
        elif not cold and start is not None:
            begin, end = start * PAGE_BYTES, min(page * PAGE_BYTES, length)
            runs.append((offset + begin, end - begin))
            start = None
    return runs


def _is_hot(fd: int, offset: int) -> bool:
    try:
        return bool(os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
    except OSError:
        return True  # it can not be told: rather leave a page behind than take one from somebody
