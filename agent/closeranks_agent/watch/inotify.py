"""inotify: a watch on every directory, for where fanotify is not permitted. It never knows who wrote.

In a storm the queue is left unread: what is beyond its limit the kernel drops at once, which costs whoever writes
next to nothing, and new directories have no watch. Where so much was queued between two samples that it was thrown
away, the tree of watches is stale: what a sample tells is only counted, and all is watched anew before a storm can end.

The kernel's events drive a tree of watches (`watches`, `watched`): `moves` follows what is told of directories, and
`spread` keeps it true to the disk. New directories are told of only once all that lies below them is watched, so
whoever then looks at the subtree misses nothing. The canary waits for that, too: when it is told, nothing older is on
its way. After an overflow every directory is listed again, a piece at each read, before the loss is told.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Callable
from typing import Final

from closeranks_proto.paths import key_of, parent_key

from ..disk.private import PRIVATE_NAME
from . import calls
from .events import CANARY, CANARY_NAME, ROOT_GONE, Event, Lost, SourceBroken, SourceKind, What
from .hushed import Hushed
from .moves import FORGOTTEN, OVERFLOWN, Moves
from .records import InotifyBatch, parse_inotify, what_of
from .spread import Spread, Task
from .watched import Confused, Node
from .watches import RootGone, Watches
from .writing import Writing, path_inside

BUFFER_BYTES: Final = 64 * 1024
# About 30 us each: a read takes some 20 ms of it at most.
DIRECTORIES_A_READ: Final = 512
# Of what was left unread in a storm, so much is read: 5,000 events and more, as many as are told between two samples
# of half of its budget. Beyond that it goes on anyway.
UNREAD_MAX_BYTES: Final = 256 * 1024
# After all was watched anew in a storm, the next time waits so many times as long as that took.
ANEW_REST_SHARE: Final = 20.0
_LARGEST_EVENT_BYTES: Final = 16 + 256
_OVERFLOW: Final = struct.pack("=iI", -1, calls.OVERFLOW)  # how the event of a full queue begins


class InotifySource:
    """Changes of a volume by watches on its directories."""

    kind: SourceKind = "inotify"
    tells_hands = False
    can_mute = False
    can_hush = True
    hears_beside = False
    found = 0
    why_unknown = "inotify does not say who wrote; fanotify would, and needs root"

    def __init__(self, path: bytes, private: bytes, ignored: Callable[[bytes], bool]) -> None:
        """Watch the whole tree. Raises OSError where there is no inotify instance or no root."""
        self.path = path
        self._canaries: list[Event] = []
        self._root_gone = False
        self.drained = True
        self.stale = self._deaf = False
        self._anew_due = 0.0
        self._writing = Writing(path)
        self._is_hushed = False
        self._fd = calls.inotify_init()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        try:
            self._poll.register(self._fd, select.EPOLLIN)
            self._poll.register(self._wake, select.EPOLLIN)
            self._watches = Watches(self._fd, path, private)
            self._spread = Spread(self._watches, ignored)
            self._moves = Moves(self._spread)
            self._hushed = Hushed(self._spread)
            self._spread.cover(self._watches.tree.root)
            self._wake_if_busy()
        except RootGone as error:
            self.close()
            raise FileNotFoundError(f"{os.fsdecode(path)} was replaced while it was read") from error
        except BaseException:
            self.close()
            raise

    @property
    def watches(self) -> int:
        return len(self._watches.tree) - len(self._hushed.compared) + (self._watches.private >= 0)

    @property
    def unwatched(self) -> int:
        return len(self._spread.short)

    def fileno(self) -> int:
        return self._poll.fileno()

    def mute(self, fd: int) -> bool:
        return False  # its watches are of directories

    def unmute(self) -> None:
        pass

    def pause(self) -> None:
        if not self._deaf and self._fd >= 0:
            self._deaf = True
            self._poll.unregister(self._fd)

    def resume(self) -> None:
        try:
            if self._deaf:
                self._deaf = False
                self._poll.register(self._fd, select.EPOLLIN)
            if not self._throw_away() and self.stale:
                self._watch_anew()
        except RootGone as error:
            raise SourceBroken(ROOT_GONE) from error
        except OSError as error:
            raise SourceBroken(f"inotify stopped working: {error.strerror}") from error

    def _throw_away(self) -> bool:
        """Whether so much is queued that it is not worth reading."""
        queued = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, queued)
        left = queued[0]
        if left <= UNREAD_MAX_BYTES:
            return False
        was_full = False
        while left > 0:
            data = os.read(self._fd, BUFFER_BYTES)
            was_full = was_full or _OVERFLOW in data
            left -= len(data)
        if was_full and not self.stale:
            self._spread.lost.append(Lost(OVERFLOWN, None))  # told once, however long it goes on
        self.stale = True
        self._moves.leave()
        self._canaries.clear()
        self._spread.forget_tasks()
        return True

    def _watch_anew(self) -> None:
        """Every directory, at once; not again soon where that took long. Raises RootGone, OSError."""
        began = time.monotonic()
        if began < self._anew_due:
            return
        self.stale = False
        self._cover(self._watches.tree.root)
        self._anew_due = time.monotonic() + ANEW_REST_SHARE * (time.monotonic() - began)

    def _cover(self, node: Node) -> None:
        try:
            self._watches.watch_private()
            self._spread.cover(node)
        except Confused:
            self._moves.start_over()

    @property
    def writers(self) -> set[int]:
        return self._writing.writers

    def hush(self) -> None:
        self._is_hushed = True
        self._keep_hushed()

    def _keep_hushed(self) -> None:
        """Of the directories of hot files that can be looked up, also of such as became it in a hush."""
        self._hushed.hush({parent_key(key) for key in self._writing.known})

    def ask(self) -> None:
        self._hushed.poll()
        self._wake_if_busy()

    def unhush(self) -> None:
        self._is_hushed = False
        self._hushed.unhush()
        self._wake_if_busy()

    def key_of(self, fd: int) -> bytes | None:
        path = path_inside(self.path, fd)
        key = b"" if path is None else key_of(path)
        return key if key and self._watches.tree.find(parent_key(key)) is not None else None

    def close(self) -> None:
        if self._fd < 0:
            return
        self._poll.close()
        os.close(self._wake)
        os.close(self._fd)
        self._fd = -1

    def watch(self, key: bytes) -> list[Lost]:
        if self._root_gone or self.stale:
            return []  # with a stale tree: all is watched anew soon
        try:
            node = self._watches.tree.find(key)
            while node is None:
                key = key.rpartition(b"\0")[0]
                node = self._watches.tree.find(key)
            self._cover(node)
        except RootGone:
            return []  # `read` says so: its watch tells
        except OSError as error:
            raise SourceBroken(f"inotify can not watch: {error.strerror}") from error
        lost, self._spread.lost = self._spread.lost, []
        self._wake_if_busy()
        return lost

    def read(self) -> list[Event | Lost]:
        self.found = 0
        try:
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass  # nothing was left to do from the last time
            if self._deaf:
                return []
            try:
                data = os.read(self._fd, BUFFER_BYTES)
            except BlockingIOError:
                data = b""
            batch = parse_inotify(data)
            self._hushed.join(batch)
            drained = len(data) < BUFFER_BYTES - _LARGEST_EVENT_BYTES
            out = [] if self._root_gone else self._count(batch) if self.stale else self._take(batch, drained)
            self.found, self._spread.found = self._spread.found, 0
            self.drained = drained and not (self._spread.tasks or self._spread.unsure or self._canaries)
        except RootGone:
            out = self._lose_root(What.MOVED_FROM)
        except OSError as error:
            raise SourceBroken(f"inotify stopped working: {error.strerror}") from error
        self._wake_if_busy()
        return out

    def _count(self, batch: InotifyBatch) -> list[Event | Lost]:
        """What is told while directories may be others than their watches say: good for counting."""
        for watch, mask, _, _ in batch.structure:
            if self._moves.is_root_gone(watch, mask):
                return self._lose_root(What.DELETED if mask & FORGOTTEN else What.MOVED_FROM)
        out: list[Event | Lost] = [*self._spread.lost]
        self._spread.lost = []
        self._tell(batch, out)
        return out

    def _take(self, batch: InotifyBatch, drained: bool) -> list[Event | Lost]:
        spread = self._spread
        out: list[Event | Lost] = []
        finished: list[Task] = []
        try:
            gone = self._moves.follow(batch)
            if gone:
                return self._lose_root(What.DELETED if gone & FORGOTTEN else What.MOVED_FROM)
            self._moves.settle(drained)
            if drained and spread.unsure:
                for parent, name, mask in spread.retry():
                    self._tell_one(parent, name, mask, out)
            finished = spread.step(DIRECTORIES_A_READ)
        except Confused:
            self._moves.start_over()
        finally:
            self._watches.release()
        self._tell(batch, out)
        for task in finished:
            if task.lost is not None:
                self._moves.confusions = 0
                out.append(task.lost)
            elif task.parent is not None:
                self._tell_one(task.parent, task.name, task.mask, out)
        out.extend(spread.lost)
        spread.lost = []
        if self._canaries and not spread.tasks and not spread.unsure:
            out.extend(self._canaries)
            self._canaries.clear()
        return out

    def _tell(self, batch: InotifyBatch, out: list[Event | Lost]) -> None:
        tree = self._watches.tree
        keys: dict[int, bytes | None] = {}
        written: list[bytes] = []
        for (watch, name), mask in batch.masks.items():
            if watch not in keys:
                node = tree.get(watch)
                keys[watch] = tree.key(node) if node is not None else None
            key = keys[watch]
            if key is None:
                if watch != self._watches.private:
                    if tree.get(watch) is None:
                        self._spread.unwatch([watch])  # of a directory that has no place any more
                elif mask & calls.CLOSE_WRITE and name.startswith(CANARY_NAME):
                    self._canaries.append(Event(CANARY, name[len(CANARY_NAME) :], What.CLOSED, 0))
            elif key or name != PRIVATE_NAME:
                out.append(Event(key, name, what_of(mask), 0))
                if mask & calls.MODIFY:
                    written.append(key + b"\0" + name if key else name)
        self._writing.told(written, time.monotonic())
        if self._is_hushed:
            self._keep_hushed()

    def _tell_one(self, parent: Node, name: bytes, mask: int, out: list[Event | Lost]) -> None:
        key = self._watches.tree.key(parent)
        if key is not None:
            out.append(Event(key, name, what_of(mask), 0))

    def _lose_root(self, how: What) -> list[Event | Lost]:
        self._root_gone = True
        self._canaries.clear()
        return [Event(b"", b"", What.SELF | What.DIRECTORY | how, 0)]

    def _wake_if_busy(self) -> None:
        spread = self._spread
        if not self._root_gone and (spread.tasks or spread.lost or spread.unsure or self._hushed):
            os.eventfd_write(self._wake, 1)
