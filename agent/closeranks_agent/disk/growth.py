"""The tree of an index that is still being filled: built behind a first scan, up to where nothing can change any more.

A tree that is built when all has been read keeps one core busy and the others idle. Here it is built from the index,
which stays the one source, while other processes still read: every path before the *frontier* is recorded for good.
Whoever writes or removes a single path, beside what comes from the readers, ends that, and the tree is built at the
end as ever: the path may lie before the frontier.

Memory: the pages, which are kept anyway, and a page of rows for each level of the directory that was reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from closeranks_proto.tree import Edited, Tree

from .index import Delta, Index

BATCH_ITEMS: Final = 2048


class Growth:
    """For one scan into an index that has been empty. It is told of each delta before that is written."""

    def __init__(self, index: Index, tree: Tree) -> None:
        self._items: Iterator[tuple[bytes, bytes]] = index.items()
        self._ahead: list[tuple[bytes, bytes]] = []  # the one path that was read and not added yet
        self._building = tree.begin()
        self._begun = False
        self.stunted = False  # what was built is of no use

    def writing(self, delta: Delta) -> None:
        self.stunted |= self._begun and bool(delta.rows)

    def grow(self, frontier: bytes) -> None:
        """Everything before this key is written, and stays as it is."""
        if self.stunted or not frontier:  # b"": the root's own paths are still to come
            return
        self._begun = True
        while batch := self._before(frontier):
            self._building.add(batch)

    def finish(self) -> Edited:
        """The tree of all there is."""
        assert not self.stunted
        while batch := self._before(None):
            self._building.add(batch)
        return self._building.finish()

    def _before(self, frontier: bytes | None) -> list[tuple[bytes, bytes]]:
        """Some of what comes before it.

        One path behind it is looked at, and kept. It stands in a directory before the frontier, so in a finished one.
        """
        batch, self._ahead = self._ahead, []
        if batch and frontier is not None and batch[0][0] >= frontier:
            self._ahead = batch
            return []
        for item in islice(self._items, BATCH_ITEMS):
            if frontier is not None and item[0] >= frontier:
                self._ahead = [item]
                break
            batch.append(item)
        return batch
