"""The kernel's side of the watched directories: opening them, and their watches.

Nothing here trusts a path: a directory is opened beneath the root, and believed to be the watched one only if adding a
watch to it answers with that same watch (the kernel knows one watch for each inode). One that has no watch for a while
(`polled`) is known by its handle. A descriptor of the root is never kept longer than a piece of work lasts: the
filesystem can be unmounted, and a replaced root is noticed.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from closeranks_proto.paths import path_of

from ..beneath import open_directory
from . import calls
from .watched import Node, Watched

OPEN_MAX: Final = 32
MASK: Final = calls.CHANGES | calls.DELETE_SELF | calls.MOVE_SELF
QUIET: Final = MASK & ~calls.MODIFY
# Gone, replaced by something else or by a mount: events tell, or another filesystem is none of ours.
NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ESTALE})
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PRIVATE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WATCHES_SYSCTL: Final = "/proc/sys/fs/inotify/max_user_watches"


class RootGone(Exception):
    """The directory at the volume's path is not the watched one."""


class Watches:
    """Of one inotify instance below one root, and of the volume's private directory. Raises RootGone, OSError."""

    def __init__(self, fd: int, path: bytes, private: bytes) -> None:
        self._fd, self._path, self._private_path = fd, path, private
        root_fd = os.open(path, _DIRECTORY)
        try:
            self.device = os.fstat(root_fd).st_dev
            self.tree = Watched(self.add(root_fd, MASK))
        finally:
            os.close(root_fd)
        self.private = -1  # the private directory's; below zero where it has none
        self.quiet: set[int] = set()  # those that tell of no writes
        self._root_fd = -1
        self._open: dict[Node, int] = {}  # proved to be the watched ones, whatever their paths are by now
        self.watch_private()

    def add(self, fd: int, mask: int) -> int:
        """Watch an open directory for this; the watch that it has by now."""
        return calls.inotify_add(self._fd, fd, mask)

    def of(self, fd: int) -> int:
        """The watch of an open directory, a new one if it had none. It tells of writes unless it is a quiet one."""
        if not self.quiet:
            return self.add(fd, MASK)
        watch = self.add(fd, QUIET | calls.ADD_TO_MASK)
        return self.add(fd, QUIET if watch in self.quiet else MASK)

    def remove(self, watch: int) -> None:
        """Take one from the kernel; it may be gone already."""
        try:
            calls.inotify_remove(self._fd, watch)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def watch_private(self) -> None:
        """For canaries."""
        try:
            fd = os.open(self._private_path, _PRIVATE)
        except OSError:
            return  # not there at present: no canary is, either, and the watcher misses it
        try:
            self.private = self.add(fd, calls.CLOSE_WRITE | calls.DELETE_SELF)
        finally:
            os.close(fd)

    def directory(self, node: Node) -> int | None:
        """An open descriptor of a watched directory until `release`; None where its path leads elsewhere now."""
        if node in self._open:
            return self._open[node]
        key = self.tree.key(node)
        if key is None:
            return None
        try:
            fd = open_directory(self._root(), path_of(key))
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise
        if not self.is_of(fd, node):
            os.close(fd)
            return None
        if len(self._open) >= OPEN_MAX:
            os.close(self._open.pop(next(iter(self._open))))
        self._open[node] = fd
        return fd

    def is_of(self, fd: int, node: Node) -> bool:
        """Whether the open directory is that of the node."""
        if node.polled is not None:
            return node.polled.is_it(fd)
        try:
            watch = self.of(fd)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return False  # it would have needed a new one
            raise
        if watch == node.watch:
            return True
        if self.tree.get(watch) is None:
            self.remove(watch)
        return False

    def release(self) -> None:
        """Close the directories that were kept open from one piece of work to the next."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def _root(self) -> int:
        if self._root_fd < 0:
            try:
                fd = os.open(self._path, _DIRECTORY)
            except OSError as error:
                raise RootGone from error
            if not self.is_of(fd, self.tree.root):
                os.close(fd)
                raise RootGone
            self._root_fd = fd
        return self._root_fd


def watch_limit() -> str:
    """How many watches the kernel grants to all programs of one user."""
    try:
        with open(_WATCHES_SYSCTL) as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def exhausted() -> str:
    """Why a watch was refused with ENOSPC, which says nothing of the disk."""
    return (
        f"inotify watches are used up: fs.inotify.max_user_watches is {watch_limit()} for all programs of this user. "
        "Raise it with sysctl; until then scans find these changes"
    )
