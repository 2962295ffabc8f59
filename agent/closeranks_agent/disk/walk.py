"""Walking a volume's directories by descriptor, parents before children, in the order of the tree's keys.

Every directory is opened by its bare name below its parent's descriptor, as a directory and never through a
symlink, so the walk can not leave the volume whatever is planted meanwhile, and paths of 4,095 bytes work
whatever the length of the root's own path. A tree may be thousands of levels deep: there is no recursion,
and only the innermost OPEN_MAX directories stay open. A parent that was closed is found again through
`..`, and is only believed when it is the very same inode; else it is looked up from the root.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from closeranks_proto.paths import path_of

from ..beneath import open_beneath, open_directory

OPEN_MAX = 32
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Visitor(Protocol):
    """What happens at each directory."""

    def directory(self, key: bytes, fd: int) -> Sequence[bytes]:
        """Look at the directory; the names of its subdirectories to enter, ascending. `fd` stays the walk's."""

    def closed(self, key: bytes, error: OSError) -> None:
        """The directory could not be opened."""


@dataclass(slots=True)
class _Frame:
    key: bytes
    fd: int  # -1 while closed
    identity: tuple[int, int]  # device, inode
    names: list[bytes]  # still to enter, descending


class Walk:
    """One walk below `root_fd`, which stays the caller's."""

    def __init__(self, root_fd: int, visitor: Visitor) -> None:
        self._root_fd = root_fd
        self._visitor = visitor
        self._stack: list[_Frame] = []
        self._device = os.fstat(root_fd).st_dev

    def run(self, start: bytes = b"") -> None:
        """Visit directory `start` and every one below that the visitor asks for. The visitor's exceptions end it.

        Raises OSError where `start` can not be opened.
        """
        try:
            path = path_of(start)
            self._visit(
                start, open_beneath(self._root_fd, path, DIRECTORY_FLAGS) if path else os.dup(self._root_fd)
            )
            while self._stack:
                frame = self._stack[-1]
                if frame.names:
                    self._enter(frame, frame.names.pop())
                else:
                    self._leave()
        finally:
            for frame in self._stack:
                if frame.fd >= 0:
                    os.close(frame.fd)
            self._stack.clear()

    def _enter(self, parent: _Frame, name: bytes) -> None:
        key = parent.key + b"\0" + name if parent.key else name
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=self._fd_of(parent))
        except OSError as error:
            self._visitor.closed(key, error)
            return
        if os.fstat(fd).st_dev != self._device:
            os.close(fd)
            self._visitor.closed(key, OSError(errno.EXDEV, "another filesystem is mounted there"))
            return
        self._visit(key, fd)

    def _visit(self, key: bytes, fd: int) -> None:
        try:
            names = self._visitor.directory(key, fd)
            if not names:
                os.close(fd)
                return
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        self._stack.append(_Frame(key, fd, (status.st_dev, status.st_ino), list(reversed(names))))
        if len(self._stack) > OPEN_MAX:
            outer = self._stack[-OPEN_MAX - 1]
            if outer.fd >= 0:
                os.close(outer.fd)
                outer.fd = -1

    def _leave(self) -> None:
        child = self._stack.pop()
        if child.fd < 0:
            return
        try:
            if self._stack and self._stack[-1].fd < 0:
                self._climb(child.fd, self._stack[-1])
        finally:
            os.close(child.fd)

    def _climb(self, child_fd: int, parent: _Frame) -> None:
        try:
            fd = os.open(b"..", DIRECTORY_FLAGS, dir_fd=child_fd)
        except OSError:
            return  # `_fd_of` looks it up from the root, and reports it if that fails too
        self._adopt(parent, fd)

    def _adopt(self, frame: _Frame, fd: int) -> bool:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != frame.identity:
            os.close(fd)
            return False
        frame.fd = fd
        return True

    def _fd_of(self, frame: _Frame) -> int:
        if frame.fd < 0 and not self._adopt(frame, open_directory(self._root_fd, path_of(frame.key))):
            raise OSError(errno.ESTALE, "the directory was moved while it was scanned")
        return frame.fd
