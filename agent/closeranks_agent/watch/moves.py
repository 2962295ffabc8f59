"""Following directories as they are made, moved and removed, by what the kernel tells of them.

One that moved away keeps its watches until it is told where it has arrived, which may be a read later: it is in limbo.
When every event was read and it has not, it lies outside and gives them back.
"""

from __future__ import annotations

import time
from typing import Final

from . import calls
from .events import Lost, SourceBroken
from .records import InotifyBatch
from .spread import Spread
from .watched import Node

LIMBO_MAX: Final = 4096
CONFUSIONS_MAX: Final = 8
FORGOTTEN: Final = calls.IGNORED | calls.UNMOUNT | calls.DELETE_SELF
OVERFLOWN: Final = (
    "the kernel's queue of inotify events overflowed (fs.inotify.max_queued_events): "
    "changes came faster than they were read"
)
CONFUSED: Final = "directories moved in a way that their events do not explain: all are watched anew"


class Moves:
    """Of one tree of watches. Raises RootGone, Confused, OSError."""

    def __init__(self, spread: Spread) -> None:
        self._spread, self._watches, self._tree = spread, spread.watches, spread.tree
        self.confusions = 0  # in a row
        self._limbo: dict[int, tuple[Node, Node, bytes]] = {}  # by cookie: what moved, and from where

    def follow(self, batch: InotifyBatch) -> int:
        """Follow what a read told of directories; what happened to the root where it is gone (a mask), or 0.

        A new directory is taken out of the batch: it is told of when all below it is watched.
        """
        for watch, mask, cookie, name in batch.structure:
            if mask & calls.OVERFLOW:
                self._spread.start_over(Lost(OVERFLOWN, None))
            elif self._follow(batch, watch, mask, cookie, name):
                return mask
        if batch.structure:
            self._spread.moved_at = time.monotonic()
        return 0

    def is_root_gone(self, watch: int, mask: int) -> bool:
        return watch == self._tree.root.watch and bool(mask & (FORGOTTEN | calls.MOVE_SELF))

    def settle(self, drained: bool) -> None:
        """Where every event was read, what moved away and did not arrive lies outside now."""
        if not drained and len(self._limbo) <= LIMBO_MAX:
            return
        for child, parent, name in self._limbo.values():
            self._let_go(child)
            if self._tree.get(parent.watch) is parent:
                self._spread.check(parent, name, calls.CREATE | calls.ON_DIRECTORY)
        self._limbo.clear()

    def leave(self) -> None:
        """What moved away and has not arrived gives its watches back: where it lies now is about to be looked at."""
        for child, _, _ in self._limbo.values():
            self._let_go(child)
        self._limbo.clear()

    def start_over(self) -> None:
        """The tree is Confused: all of it is looked at anew. Raises SourceBroken where that comes again and again."""
        self.confusions += 1
        if self.confusions > CONFUSIONS_MAX:
            raise SourceBroken("inotify: " + CONFUSED)
        self.leave()
        self._spread.start_over(Lost(CONFUSED, None))

    def _follow(self, batch: InotifyBatch, watch: int, mask: int, cookie: int, name: bytes) -> bool:
        """Follow one change of directories; True where the root is gone."""
        spread, tree = self._spread, self._tree
        node = tree.get(watch)
        if node is None:
            if watch == self._watches.private and mask & FORGOTTEN:
                self._watches.private = -1
            elif watch != self._watches.private and not mask & calls.IGNORED:
                spread.unwatch([watch])
            return False
        if node.polled is not None and mask & calls.IGNORED:
            return False  # it was taken away, and its directory is there
        if mask & (FORGOTTEN | calls.MOVE_SELF):
            if node is tree.root:
                return True
            if mask & FORGOTTEN:
                # It is empty: whatever stood below it has moved away unheard.
                spread.unwatch(tree.drop(node)[1:])
                spread.short.discard(watch)
            return False
        if not name:
            return False
        child = tree.child(node, name)
        if mask & calls.MOVED_FROM:
            if child is not None:
                tree.detach(child)
                self._limbo[cookie] = (child, node, name)
        elif mask & calls.MOVED_TO:
            self._arrive(batch, node, name, cookie)
        elif mask & calls.DELETE:
            if child is not None:
                spread.unwatch(tree.drop(child)[1:])
        elif mask & calls.CREATE:
            self._check(batch, node, name)
        return False

    def _arrive(self, batch: InotifyBatch, parent: Node, name: bytes, cookie: int) -> None:
        """A directory was moved here: with its watches if it had any. Then the disk is asked."""
        moved = self._limbo.pop(cookie, None)
        if moved is not None and self._tree.get(moved[0].watch) is moved[0]:
            self._spread.attach(parent, name, moved[0].watch)
        self._check(batch, parent, name)
        # Two directories that swap places leave none missing: the place left behind may have another one.
        if moved is not None and self._tree.get(moved[1].watch) is moved[1]:
            self._spread.check(moved[1], moved[2], calls.CREATE | calls.ON_DIRECTORY)

    def _check(self, batch: InotifyBatch, parent: Node, name: bytes) -> None:
        folded = (parent.watch, name)
        mask = batch.masks.get(folded, calls.CREATE | calls.ON_DIRECTORY)
        if self._spread.check(parent, name, mask):
            batch.masks.pop(folded, None)  # told when all below it is watched

    def _let_go(self, child: Node) -> None:
        """Give the watches of a directory back that moved away, unless it has arrived somewhere."""
        if child.parent is None and self._tree.get(child.watch) is child:
            self._spread.unwatch(self._tree.drop(child))
