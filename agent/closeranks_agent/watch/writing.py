"""Who writes into the files that inotify tells of on and on: it names nobody, but who has them open can be looked up.

A file is hot that HOT_READS reads within WINDOW_S told of a write to. Who has one open to write stands in /proc
(`holders`); whether that is too much, `hush` asks of those as of the processes that fanotify names. Of another user's
processes an agent that is not root learns nothing: no hush is for their sake, and their writes are told as before.

Rejected: the pace of events in place of processes (a write that follows one to the same file is merged with it, so
a database makes no more of them than a log does); what a hush has found in /proc, in place of a search of its own: that
is from before the file was hot, and in a hush of 16 s there were two searches here, 6 ms each, beside 18 of the hush's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

from closeranks_proto.paths import path_of

from . import calls
from .holders import Holders

WINDOW_S: Final = 0.1
HOT_READS: Final = 5
HOT_FOR_S: Final = 0.5
NAMES_MAX: Final = 4096  # counted in one window
HOT_MAX: Final = 64
FIND_SHARE: Final = 100.0  # the next search waits so many times as long as one takes
FIND_EVERY_S: Final = 5.0  # of the same files
_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Writing:
    """Of the volume at `path`, in its watcher's thread."""

    def __init__(self, path: bytes) -> None:
        self.hot: dict[bytes, float] = {}  # keys of files, and when each was found hot
        self.known: set[bytes] = set()  # of these, those that somebody was found to have open
        self.writers: set[int] = set()  # of what the last read told
        self._path, self._holders = path, Holders(path)
        self._times: dict[bytes, int] = {}
        self._window = self._found_at = self._due = 0.0
        self._asked: set[bytes] = set()
        self._found: set[int] = set()

    def told(self, keys: Iterable[bytes], now: float) -> None:
        """A read told of writes to these."""
        if now - self._window >= WINDOW_S:
            self._window, self._times = now, {}
            self.hot = {key: at for key, at in self.hot.items() if now - at < HOT_FOR_S}
            self.known &= self.hot.keys()
        is_hot = False
        for key in keys:
            times = self._times.get(key, 0) + 1
            if times > 1 or len(self._times) < NAMES_MAX:
                self._times[key] = times
            if times == HOT_READS and (key in self.hot or len(self.hot) < HOT_MAX):
                self.hot[key] = now
            is_hot = is_hot or key in self.hot
        if (
            is_hot
            and now >= self._due
            and (self.hot.keys() - self._asked or now - self._found_at > FIND_EVERY_S)
        ):
            self._find(now)
        self.writers = self._found if is_hot else set()

    def _find(self, now: float) -> None:
        began = time.thread_time()
        inodes = {key: inode for key in self.hot if (inode := self._inode(path_of(key))) is not None}
        held = self._holders.find()
        self.known = {key for key, inode in inodes.items() if inode in held}
        self._found = {pid for key in self.known for pid in held[inodes[key]].pids}
        self._asked, self._found_at = set(self.hot), now
        self._due = now + (time.thread_time() - began) * FIND_SHARE

    def _inode(self, path: bytes) -> int | None:
        try:
            return os.stat(self._path + b"/" + path, follow_symlinks=False).st_ino
        except OSError:
            return None  # gone, or too deep to be asked for like this


def path_inside(root: bytes, fd: int) -> bytes | None:
    """The path of an open file below the directory at `root`; None for one that does not lie there.

    Who has opened it may see it at another place: where this process may, it opens its handle anew.
    """
    try:
        root_fd = os.open(root, _ROOT)
    except OSError:
        return None
    try:
        try:
            found = calls.open_handle(root_fd, calls.handle_of(fd))
        except OSError:
            found = os.dup(fd)
        try:
            path, root_path = calls.path_of_descriptor(found), calls.path_of_descriptor(root_fd).rstrip(b"/")
        finally:
            os.close(found)
        if not path.startswith(root_path + b"/"):
            return None
        name = path[len(root_path) + 1 :]
        # A path of another mount namespace may be anything here.
        is_there = os.path.samestat(os.stat(name, dir_fd=root_fd, follow_symlinks=False), os.fstat(fd))
        return name if is_there else None
    except OSError:
        return None  # gone meanwhile, or a path longer than the kernel tells
    finally:
        os.close(root_fd)
