"""The directories of which inotify tells no writes in a hush: they are compared, or watched for all else.

Compared are those with few entries (`polled`). A watch with another mask would cost whoever writes there a fifth of a
microsecond each time all the same. Without one nothing is lost between the two: what was there is noted before a watch
is taken away, and compared once more after it is given back. What is queued under the old watch is told as well.

Where there is no room for a hot one, those in which nothing has changed of late are watched as ever, and make some.

One that has become too large meanwhile, or can not be found or opened as its watch is due, is told of as a whole.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from . import calls
from .events import ROOT_GONE, Lost, SourceBroken
from .polled import ENTRIES_MAX, Change, Polled
from .records import InotifyBatch
from .spread import Spread, Task
from .watched import Node
from .watches import MASK, QUIET, RootGone, exhausted

POLLED_MAX: Final = 4096  # entries of all that are compared
CALM_LOOKS: Final = 10  # comparisons in a row that found nothing


class Hushed:
    """Of one tree of watches. Raises SourceBroken."""

    def __init__(self, spread: Spread) -> None:
        self._spread, self._watches, self._tree = spread, spread.watches, spread.tree
        self._compared: list[Node] = []
        self._crowded: dict[Node, None] = {}  # watched, since there was no room to compare them
        self._told: list[tuple[Node, int, bytes]] = []  # (directory, mask, name), for the next read
        self._former: dict[int, Node] = {}  # by a watch taken away, until its last event is read
        self._moves = 0

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._told)

    @property
    def compared(self) -> list[Node]:
        """The directories that have no watch."""
        self._compared = [node for node in self._compared if node.polled is not None and self._is_there(node)]
        return self._compared

    def hush(self, keys: Iterable[bytes]) -> None:
        """Be told by events of no writes into the files of these directories."""
        with self._changing():
            for key in keys:
                node = self._tree.find(key)
                if node is not None and node.polled is None and node.watch not in self._watches.quiet:
                    self._hush(node)

    def _hush(self, node: Node) -> None:
        try:
            fd = self._watches.directory(node)
        except OSError:
            return  # it may not be opened now: told of as before
        if fd is None:
            return  # it moved meanwhile and is told of as before until it is found
        compared = self.compared
        room = POLLED_MAX - sum(len(one.polled) for one in compared if one.polled is not None)
        polled = Polled.of(fd, min(ENTRIES_MAX, room)) if room > 0 else None
        if polled is None:
            self._watches.quiet.add(node.watch)
            self._watches.add(fd, QUIET)
            if room < ENTRIES_MAX:
                self._crowded[node] = None
            else:
                self._crowded.pop(node, None)
        else:
            self._crowded.pop(node, None)
            node.polled = polled
            self._watches.quiet.discard(node.watch)
            compared.append(node)
            self._former[node.watch] = node
            self._watches.remove(node.watch)

    def poll(self) -> None:
        """Compare the directories without a watch. One that has become large gets its watch back."""
        with self._changing():
            for node in list(self.compared):
                polled = node.polled
                if polled is None or not self._is_there(node):
                    continue
                try:
                    fd = self._watches.directory(node)
                    if fd is None:
                        continue  # it moved meanwhile: it is compared again when it is found
                    found = polled.changes(fd)
                except OSError:
                    continue  # removed a moment ago, which is told, or not to be opened now: later, or at the end
                if found is not None:
                    self._tell(node, found)
                elif self._give_back(node, polled, QUIET):
                    self._watches.quiet.add(node.watch)
            if self._crowded:
                self._make_room()

    def _make_room(self) -> None:
        """For directories that are hot, by those that are no more."""
        self._crowded = {node: None for node in self._crowded if self._is_there(node)}
        calm = [(node, node.polled) for node in self.compared if node.polled is not None]
        calm = [(node, polled) for node, polled in calm if polled.unchanged >= CALM_LOOKS]
        for node, polled in calm:
            if self._is_there(node):
                self._give_back(node, polled, MASK)
        if calm:
            # One that can not be found now waits for the next room.
            for node in list(self._crowded):
                if self._is_there(node):
                    self._hush(node)

    def unhush(self) -> None:
        """Be told of all writes again; what can not be found now is told of as a whole when it is."""
        with self._changing():
            quiet, self._watches.quiet = self._watches.quiet, set()
            for watch in sorted(quiet):
                node = self._tree.get(watch)
                if node is None:
                    continue
                try:
                    if self._watches.directory(node) is None:
                        self._spread.put_off(node)
                except OSError as error:
                    self._not_watched(node, error)
            # Those above come first: what lies below one that is not found is watched when that is.
            for node in sorted(self.compared, key=self._depth):
                if node.polled is not None and self._is_there(node):
                    self._give_back(node, node.polled, MASK)
            self._compared, self._crowded = [], {}
            self._former = {watch: node for watch, node in self._former.items() if self._is_there(node)}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._watches.release()
        try:
            yield
        except RootGone as error:
            raise SourceBroken(ROOT_GONE) from error
        except OSError as error:
            why = exhausted() if error.errno == errno.ENOSPC else error.strerror
            raise SourceBroken(f"inotify's watches can not be changed: {why}") from error
        finally:
            self._watches.release()

    def join(self, batch: InotifyBatch) -> None:
        """What was found stands beside what the kernel tells, and what it tells of a former watch under the new one."""
        if self._former:
            self._rename(batch)
        told, self._told = self._told, []
        for node, mask, name in told:
            if not self._is_there(node):
                continue
            watch = node.watch
            batch.masks[watch, name] = batch.masks.get((watch, name), 0) | mask
            if mask & calls.ON_DIRECTORY and mask & calls.DELETE:
                # It may lie somewhere else by now, with all its watches. The kernel's cookies are above zero.
                self._moves += 1
                batch.structure.append((watch, calls.MOVED_FROM | calls.ON_DIRECTORY, -self._moves, name))
            elif mask & calls.ON_DIRECTORY:
                batch.structure.append((watch, mask, 0, name))

    def _rename(self, batch: InotifyBatch) -> None:
        renewed = {
            watch: node.watch
            for watch, node in self._former.items()
            if node.watch != watch and self._is_there(node)
        }
        for watch, name in [one for one in batch.masks if one[0] in renewed]:
            mask = batch.masks.pop((watch, name))
            folded = (renewed[watch], name)
            batch.masks[folded] = batch.masks.get(folded, 0) | mask
        for at, (watch, mask, cookie, name) in enumerate(batch.structure):
            if mask & calls.IGNORED:
                self._former.pop(watch, None)  # the last of it
            elif watch in renewed:
                batch.structure[at] = renewed[watch], mask, cookie, name

    def _give_back(self, node: Node, polled: Polled, mask: int) -> bool:
        """Give it a watch, and tell what happened until then; whether it has one now."""
        try:
            fd = self._watches.directory(node)
            watch = None if fd is None else self._watches.add(fd, mask)
            if fd is not None and watch is not None and self._tree.get(watch) is None:
                self._spread.renew(node, watch)
                self._tell(node, polled.changes(fd))
                return True
            self._spread.put_off(node)  # it moved meanwhile: events that are queued say where it is
        except OSError as error:
            self._not_watched(node, error)
        self._spread.unwatch(self._tree.drop(node))
        return False

    def _tell(self, node: Node, found: list[Change] | None) -> None:
        """None: as a whole, when all that lies below it is watched."""
        if found is not None:
            self._told.extend((node, mask, name) for mask, name in found)
            return
        mask = calls.MOVED_TO | calls.ON_DIRECTORY
        lost = Lost("the root has become too large to be compared", b"") if node.parent is None else None
        self._spread.tasks.append(Task(node.parent, node.name, mask, again=False, lost=lost, stack=[node]))

    def _not_watched(self, node: Node, error: OSError) -> None:
        if node.parent is None:
            raise error
        self._spread.not_watched(node.parent, node.name, error)

    def _is_there(self, node: Node) -> bool:
        return self._tree.get(node.watch) is node

    def _depth(self, node: Node) -> int:
        above, depth = node.parent, 0
        while above is not None:
            above, depth = above.parent, depth + 1
        return depth
