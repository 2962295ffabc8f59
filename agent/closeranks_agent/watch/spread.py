"""Putting a watch on every directory of a volume, and keeping the tree of watches true to the disk.

A new directory is watched first and listed after, so what was made in it before the watch is found by the
listing and what is made later gives events. Whether a path still leads to the watched directory, `watches` knows. Where
the disk has moved on beyond the events read so far, the check is put off until these were read. So once the tree is
quiet and all events are read, every directory is watched under its key.

Running out of watches costs the subtree that has none, and is said once for each directory that has such children.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from closeranks_proto.paths import escape, path_of

from ..beneath import open_beneath
from ..disk.private import PRIVATE_NAME
from . import calls
from .events import Lost
from .watched import Node
from .watches import NOT_THERE, Watches, exhausted

UNSURE_MAX: Final = 10_000
# A check that is put off for so long, with every event read and no directory moving, will not come right by waiting.
# Counted in seconds, for on a busy machine whoever moves a directory may stand still before its event is queued. While
# directories move for ever, the canary's limit ends the wait.
RETRY_S: Final = 2.0
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK


@dataclass(slots=True)
class Task:
    """One subtree being covered: what is still to be listed, and what to say when all of it is watched."""

    parent: Node | None  # with `name`: the directory to tell of at the end
    name: bytes
    mask: int
    again: bool  # descend into what is watched already, too
    lost: Lost | None = None
    stack: list[Node] = field(default_factory=list)


class Spread:
    """Of the watches below one root. Raises RootGone, OSError."""

    def __init__(self, watches: Watches, ignored: Callable[[bytes], bool]) -> None:
        self.watches, self.tree = watches, watches.tree
        self._ignored = ignored
        self.tasks: deque[Task] = deque()
        # (watch of the parent, name): mask, put off since when, monotonic
        self.unsure: dict[tuple[int, bytes], tuple[int, float]] = {}
        self.lost: list[Lost] = []
        self.short: set[int] = set()  # directories with children that could not be watched
        # Names in new directories: they were made before there was a watch that could tell of them.
        self.found = 0
        self.moved_at = float("-inf")  # when directories were heard to move last, monotonic

    def check(self, parent: Node, name: bytes, mask: int, since: float | None = None) -> bool:
        """Watch the directory that is `name` in `parent` now, if one is there. True: it is told of later.

        `since`: it was put off then for the first time.
        """
        if self._is_outside(parent, name):
            self._forget(self.tree.child(parent, name))
            return False
        try:
            fd = self.watches.directory(parent)
            if fd is None:
                now = time.monotonic()
                since = now if since is None else since
                if now - max(since, self.moved_at) > RETRY_S:
                    self._give_up(parent)
                    return False
                self.unsure[parent.watch, name] = mask, since
                return True
            task = Task(parent, name, mask, again=False)
            if not self._add(task, parent, fd, name, list_now=True):
                return False
        except OSError as error:
            self.not_watched(parent, name, error)
            return False
        self.tasks.append(task)
        return True

    def retry(self) -> list[tuple[Node, bytes, int]]:
        """Check again what the disk was ahead of; what is to be told at once of it (parent, name, mask).

        Too many of these: everything is looked at anew.
        """
        if len(self.unsure) > UNSURE_MAX:
            self.unsure.clear()
            self.start_over(Lost("directories moved faster than their watches could follow", None))
            return []
        unsure, self.unsure = self.unsure, {}
        told: list[tuple[Node, bytes, int]] = []
        for (watch, name), (mask, since) in unsure.items():
            parent = self.tree.get(watch)
            if parent is not None and not self.check(parent, name, mask, since):
                told.append((parent, name, mask))
        return told

    def start_over(self, lost: Lost) -> None:
        """Look at every directory again, then say what may have been missed."""
        if sum(task.again for task in self.tasks) > 1:
            return  # one is under way, and another waits to see what happened behind its back
        self.tasks.append(Task(None, b"", 0, again=True, lost=lost, stack=[self.tree.root]))

    def forget_tasks(self) -> None:
        """All is about to be looked at anew."""
        self.tasks.clear()
        self.unsure.clear()

    def cover(self, node: Node) -> None:
        """Look at everything below a directory at once, however long it takes."""
        task = Task(None, b"", 0, again=True, stack=[node])
        while task.stack:
            self._list(task)
        self.watches.release()

    def step(self, directories: int) -> list[Task]:
        """List at most so many directories; the tasks that were finished by it."""
        finished: list[Task] = []
        while self.tasks:
            task = self.tasks[0]
            while task.stack and directories > 0:
                directories -= 1
                self._list(task)
            if task.stack:
                break
            finished.append(self.tasks.popleft())
        self.watches.release()
        return finished

    def _list(self, task: Task) -> None:
        node = task.stack.pop()
        if self.tree.get(node.watch) is not node:
            return
        try:
            fd = self.watches.directory(node)
            if fd is not None:
                self._list_open(task, node, fd)
                return
            self.put_off(node)
        except OSError as error:
            if node.parent is not None:
                self.not_watched(node.parent, node.name, error)

    def put_off(self, node: Node) -> None:
        """It moved meanwhile: what tells of that is queued, and it is looked at as a whole after it."""
        self.tree.owe(node)
        if node.parent is not None:
            put_off = self.unsure.get((node.parent.watch, node.name))
            since = time.monotonic() if put_off is None else put_off[1]
            # Not as made: its names are none that were `found`.
            self.unsure[node.parent.watch, node.name] = calls.MOVED_TO | calls.ON_DIRECTORY, since

    def _list_open(self, task: Task, node: Node, fd: int) -> None:
        """Watch the subdirectories of an open directory, and leave it to the task to list them."""
        with os.scandir(fd) as entries:
            all_of_it = list(entries)
        names = [os.fsencode(one.name) for one in all_of_it if one.is_dir(follow_symlinks=False)]
        if not node.listed and task.mask & calls.CREATE:
            self.found += len(all_of_it)
        self.short.discard(node.watch)
        if node.children:
            present = set(names)
            for child in self.tree.children(node):
                if child.name not in present:
                    self._forget(child)
        for name in names:
            if self._is_outside(node, name):
                self._forget(self.tree.child(node, name))
                continue
            try:
                self._add(task, node, fd, name)
            except OSError as error:
                self.not_watched(node, name, error)
                if error.errno == errno.ENOSPC:
                    return
        node.listed = True

    def _add(self, task: Task, parent: Node, parent_fd: int, name: bytes, list_now: bool = False) -> bool:
        """Watch `name` in an open directory. True where it is yet to be listed: the task does."""
        try:
            fd = open_beneath(
                parent_fd, name, _LIST
            )  # never through a bind mount, where it could be a circle
        except OSError as error:
            if error.errno in NOT_THERE:
                return False
            raise
        try:
            if os.fstat(fd).st_dev != self.watches.device:
                self._forget(self.tree.child(parent, name))
                return False
            before = self.tree.child(parent, name)
            is_polled = before is not None and before.polled is not None and self.watches.is_of(fd, before)
            watch = before.watch if before is not None and is_polled else self.watches.of(fd)
            node = self.attach(parent, name, watch)
            owed = not node.listed  # new, or it was moved before its turn to be listed had come
            if owed and list_now:
                self._list_open(task, node, fd)  # most new directories are empty: spare them a second opening
            elif owed or task.again:
                task.stack.append(node)
        finally:
            os.close(fd)
        return owed

    def attach(self, parent: Node, name: bytes, watch: int) -> Node:
        """`watch` is the directory `name` in `parent` now. Raises Confused.

        What it displaces gives its watches back: the events that would say where it is may be lost, or there are none.
        Where it has arrived it is found as a new one.
        """
        node, _, displaced = self.tree.attach(parent, name, watch)
        self.unwatch([one for one in displaced if self.tree.get(one) is None])
        return node

    def renew(self, node: Node, watch: int) -> None:
        """Another watch stands for the same directory."""
        before = node.watch
        self.tree.renew(node, watch)
        if before in self.short:
            self.short.remove(before)
            self.short.add(watch)
        for above, name in [one for one in self.unsure if one[0] == before]:
            self.unsure[watch, name] = self.unsure.pop((above, name))

    def _is_outside(self, parent: Node, name: bytes) -> bool:
        key = self.tree.key(parent)
        if not key and name == PRIVATE_NAME:
            return True
        return key is not None and self._ignored(key + b"\0" + name if key else name)

    def _forget(self, node: Node | None) -> None:
        if node is not None:
            self.unwatch(self.tree.drop(node))

    def unwatch(self, watches: list[int]) -> None:
        """Give watches back; those of deleted directories are gone already."""
        for watch in watches:
            self.short.discard(watch)
            self.watches.remove(watch)

    def _give_up(self, parent: Node) -> None:
        key = self.tree.key(parent)
        if key is not None:
            self.short.add(parent.watch)
            shown = escape(path_of(key)) or "the root"
            self.lost.append(
                Lost(f"{shown} can not be reached to be watched; its changes are found by scans", key)
            )

    def not_watched(self, parent: Node, name: bytes, error: OSError) -> None:
        """Say which subtree has no watch: all that a directory lacks at once where watches ran out."""
        if error.errno in NOT_THERE:
            return
        below = self.tree.key(parent)
        if below is None:
            return
        key = below + b"\0" + name if below else name
        if error.errno == errno.ENOSPC:
            if parent.watch not in self.short:
                self.short.add(parent.watch)
                self.lost.append(Lost(exhausted(), below))
            return
        self.short.add(parent.watch)
        reason = (
            f"{escape(path_of(key))} can not be watched: {error.strerror}; its changes are found by scans"
        )
        self.lost.append(Lost(reason, key))
