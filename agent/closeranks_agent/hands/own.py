"""How much of its disk the agent's own state has taken since the agent started.

An index that grows with a first scan is nobody's doing: a guard that looks for whoever fills a disk must not find it.
What is given back shows as free room, so only growth counts, as with what converges bring (`disk/taken`).
"""

from __future__ import annotations

import os
from typing import Final

BLOCK_BYTES: Final = 512  # of st_blocks
FILES_MAX: Final = 4096  # a state directory has a few dozen; a look takes 2 us each


class OwnState:
    """Of one state directory. For one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: int | None = None
        self._grown = 0

    def taken(self) -> int:
        """Bytes, as of this look. Raises OSError where the directory can not be read."""
        size = _size(self._path)
        if self._last is not None:
            self._grown += max(0, size - self._last)
        self._last = size
        return self._grown


def _size(path: str) -> int:
    size = seen = 0
    below = [path]
    while below and seen < FILES_MAX:
        with os.scandir(below.pop()) as found:
            for one in found:
                seen += 1
                try:
                    if one.is_dir(follow_symlinks=False):
                        below.append(one.path)
                    size += one.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                except FileNotFoundError:
                    continue  # a journal of the database that has ended
    return size
