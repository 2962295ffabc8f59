"""What of a file is in the page cache, asked without touching it, and letting go of what was not; what the kernel
itself brings into it ahead.

`cachestat` (Linux 6.5) counts the pages of a range. Older kernels tell by `mincore` over a mapping. Where
neither answers, everything counts as resident: it is better to leave something in the cache than to take away
what the site is serving.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

SYS: Final = "/sys"
_SYS_CACHESTAT: Final = 451  # the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)
_cachestat_works = True


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64), ("dirty", ctypes.c_uint64), ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64), ("recently_evicted", ctypes.c_uint64),
    )  # fmt: skip


def is_absent(fd: int, offset: int, length: int) -> bool:
    """Whether nothing of this range is in the page cache."""
    global _cachestat_works
    if not length:
        return False
    if _cachestat_works:
        asked, counts = _Range(offset, length), _Counts()
        result = _libc.syscall(
            ctypes.c_long(_SYS_CACHESTAT), ctypes.c_uint(fd), ctypes.byref(asked), ctypes.byref(counts),
            ctypes.c_uint(0),
        )  # fmt: skip
        if result == 0:
            return bool(counts.cached == 0)
        _cachestat_works = False
    return _is_absent_by_mincore(fd, offset, length)


def _is_absent_by_mincore(fd: int, offset: int, length: int) -> bool:
    start = offset - offset % mmap.PAGESIZE
    length += offset - start
    pages = (ctypes.c_ubyte * (-(-length // mmap.PAGESIZE)))()
    try:
        # Written to by nobody: a private mapping is writable, which ctypes asks for to tell the address.
        with mmap.mmap(
            fd, length, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start
        ) as window:
            first = ctypes.c_char.from_buffer(window)
            result = _libc.mincore(ctypes.byref(first), ctypes.c_size_t(length), pages)
            del first
    except (OSError, ValueError):
        return False
    return result == 0 and not any(page & 1 for page in pages)


def let_go(fd: int, offset: int, length: int) -> None:
    """Take a range out of the page cache again. Dirty pages stay."""
    try:
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
    except OSError:
        return  # not a filesystem that takes advice


def read_ahead_bytes(fd: int) -> int:
    """How far the kernel reads ahead on the disk below this file, 0 where that is not told."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    # A disk and its partitions; then what has no disk of its own: btrfs, NFS, overlays.
    places = (f"dev/block/{number}/queue", f"dev/block/{number}/../queue", f"class/bdi/{number}")
    for place in places:
        try:
            with open(f"{SYS}/{place}/read_ahead_kb", "rb") as file:
                return int(file.read()) * 1024
        except (OSError, ValueError):
            continue
    return 0
