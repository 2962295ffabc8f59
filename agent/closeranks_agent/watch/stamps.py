"""What a file's stat says that is compared with an earlier one to see whether it was written meanwhile."""

from __future__ import annotations

import os
import time
from typing import Final

SETTLED_NS: Final = 20_000_000  # two of the slowest kernel's clock ticks
Stamp = tuple[int, int, int, int, int]  # inode, names, size, times of content and of the inode


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def settled(stamp: Stamp) -> Stamp | None:
    """None where it may be written once more under the same stamp."""
    return stamp if time.time_ns() - stamp[4] > SETTLED_NS else None
