"""Memory that a disk reads from and writes to without a detour: aligned to pages, private, huge pages where it is long.

Shared anonymous memory, which `mmap` gives by default, costs a lookup for each page of each direct read or write.
"""

from __future__ import annotations

import mmap
from typing import Final

from closeranks_proto.limits import MIB

HUGE_BYTES: Final = 2 * MIB


def aligned(length: int) -> memoryview:
    """`length` bytes of zeros that begin at a page."""
    found = mmap.mmap(-1, max(length, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= HUGE_BYTES:
        try:
            found.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without huge pages: it is memory all the same
    return memoryview(found)[:length]
