"""The tree of an index that is still being filled: built behind a first scan, up to where nothing can change any more.

A tree that is built when all has been read keeps one core busy and the others idle. Here it is built from the index,
which stays the one source, while other processes still read: every path before the *frontier* is recorded for good.
Whoever writes or removes a single path where it was looked at already, beside what comes from the readers, ends that,
and the tree is built at the end as ever. Below a directory that was not entered yet, anybody may write.

Memory: the pages, which are kept anyway, and a page of rows for each level of the directory that was reached.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from closeranks_proto.paths import parent_key
from closeranks_proto.tree import Edited, Tree

from .index import Index
from .rows import Delta

BATCH_ITEMS: Final = 2048


class Growth:
    """For one scan into an index that has been empty. It is told of each delta before that is written."""

    def __init__(self, index: Index, tree: Tree) -> None:
        self._stretches = index.stretches()
        self._ahead: tuple[list[bytes], list[bytes]] = [], []  # what was looked at and not added yet
        self._building = tree.begin()
        self._begun = False
        self._looked: bytes | None = b""  # the last path that was looked at; None: all there were
        self.stunted = False  # what was built is of no use

    def writing(self, delta: Delta) -> None:
        self.stunted |= self._begun and any(map(self._is_known, delta.rows))

    def _is_known(self, key: bytes) -> bool:
        """Whether it may have been looked at: a directory that was entered may be known a page ahead."""
        above = parent_key(key)
        return (
            self._looked is None or key <= self._looked or not above or self._looked.startswith(above + b"\0")
        )

    def grow(self, frontier: bytes) -> None:
        """Everything before this key is written, and stays as it is."""
        if self.stunted or not frontier:  # b"": the root's own paths are still to come
            return
        self._begun = True
        self._add(frontier)

    def finish(self) -> Edited:
        """The tree of all there is."""
        assert not self.stunted
        self._add(None)
        return self._building.finish()

    def _add(self, frontier: bytes | None) -> None:
        """All that comes before it.

        The rest of a stretch is looked at, and kept. It stands in a directory before the frontier, so in a finished
        one; what is below a directory behind the frontier is not looked at.
        """
        keys, values = self._ahead
        while frontier is None or not keys or keys[-1] < frontier:
            if len(keys) >= BATCH_ITEMS:
                self._building.add(keys, values)
                keys, values = [], []
            stretch = next(self._stretches, None)
            if stretch is None:
                frontier = self._looked = None
                break
            keys += stretch[0]
            values += stretch[1]
            self._looked = keys[-1]
        end = len(keys) if frontier is None else bisect_left(keys, frontier)
        if end:
            self._building.add(keys[:end], values[:end])
        self._ahead = keys[end:], values[end:]
