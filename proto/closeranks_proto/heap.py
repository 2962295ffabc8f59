"""What this process asks of the C library's allocator, and how it gives memory back. Both daemons use it.

A storm of small files passes megabytes through frames, bodies and pages of trees. Left to itself, glibc raises the
size from which it maps a block of its own with every large block that is freed, up to 32 MiB: from then on frames of
8 MiB are cut out of the heap, small things come to lie between them, and what is free never leaves the process. So
that size is fixed (`settle`), and free pages within the heap are given back every few seconds (`give_back`). What
is in use does not change; without glibc nothing happens.

Rejected: one mapping for each kibibyte (a tenth of the processor time of a storm goes into page faults), another
allocator by LD_PRELOAD (one more thing to install), a new process after each storm.
"""

from __future__ import annotations

import ctypes
from collections.abc import Awaitable, Callable

from .limits import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
MMAP_FROM_BYTES = 1 * MIB
TOP_KEPT_BYTES = 8 * MIB  # free room at the heap's end that is kept for the next moment
ARENAS_MAX = 2  # of all threads: each has fragments of its own
FREE_MAX_BYTES = 8 * MIB
GIVE_BACK_EVERY_S = 10.0  # in a storm some 10 MB/s are asked for again: a hundredth of a core


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _library() -> ctypes.CDLL | None:
    """The C library, if it is a glibc that can tell (2.33)."""
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("mallopt", "mallinfo2", "malloc_trim")):
        return None
    library.mallinfo2.restype = _Mallinfo2
    library.mallinfo2.argtypes = ()
    library.malloc_trim.argtypes = (ctypes.c_size_t,)
    return library


_LIBC = _library()


def settle() -> None:
    """Fix the allocator's sizes. Once, before there are threads."""
    if _LIBC is not None:
        _LIBC.mallopt(_M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, TOP_KEPT_BYTES)
        _LIBC.mallopt(_M_ARENA_MAX, ARENAS_MAX)


def free_bytes() -> int:
    """What the process holds of the heap and does not use."""
    return 0 if _LIBC is None else int(_LIBC.mallinfo2().fordblks)


def give_back() -> bool:
    """Return free pages to the system where there are many; whether there were. Some milliseconds: not on the loop."""
    if _LIBC is None or free_bytes() < FREE_MAX_BYTES:
        return False
    _LIBC.malloc_trim(0)
    return True


async def tend(
    sleep: Callable[[float], Awaitable[object]],
    aside: Callable[[Callable[[], bool]], Awaitable[object]],
    told: Callable[[str], object],
) -> None:
    """For ever: what a storm leaves free in the heap goes back to the system, during it and after it.

    The loop is the caller's: `sleep` waits, `aside` runs something on a thread, `told` hears what went wrong.
    """
    while True:
        await sleep(GIVE_BACK_EVERY_S)
        try:
            await aside(give_back)
        except RuntimeError as error:  # no more threads for now; nobody else needs this
            told(f"free memory is not given back to the system: {error}")
