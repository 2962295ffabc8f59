"""From a directory's handle to its key in the volume, asked of the kernel once and remembered.

fanotify names a directory by its file handle, and the mark sees the whole filesystem: what lies outside the
volume must be told apart just as fast, so "outside" is remembered too. Invariant: an answer was true when it was
given and stays so until a directory moves; the caller says `forget` then, before it asks for what came later.

The volume's root is opened by its path for each batch with unknown handles and closed after it. A descriptor
kept open would keep the filesystem from being unmounted, and would hide that another directory lies there now.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from closeranks_proto.paths import key_of

from ..disk.private import PRIVATE_NAME
from . import calls
from .events import CANARY, Lost

# Two generations of so many directories, about 250 bytes each: 16 MB where a filesystem has that many busy ones.
GENERATION_MAX: Final = 32_768
_GONE: Final = frozenset({errno.ESTALE, errno.ENOENT})
OPEN_TRIES: Final = 3
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Keys; None: nothing of the volume's; Lost: somewhere below a directory whose own path is too long to be told.
Place = bytes | Lost | None


class RootGone(Exception):
    """The directory at the volume's path is not the one that this was opened for."""


class Directories:
    """The keys of directories by their handles, for one volume."""

    def __init__(self, path: bytes, private: bytes, ignored: Callable[[bytes], bool]) -> None:
        self._path = path
        self._private = private
        self._ignored = ignored
        self._young: dict[bytes, Place] = {}
        self._old: dict[bytes, Place] = {}
        self._root_fd = -1
        self._root_path = b""
        fd = os.open(path, _DIRECTORY)
        try:
            self._root_handle = calls.handle_of(fd)
            os.close(calls.open_handle(fd, self._root_handle))
        finally:
            os.close(fd)

    def forget(self) -> None:
        """A directory moved, or events were lost: every answer may be wrong now."""
        self._young.clear()
        self._old.clear()

    def place_of(self, handle: bytes) -> Place:
        """Where the directory of `handle` lies. Raises RootGone, OSError. Call `release` after a batch."""
        young = self._young
        if handle in young:
            return young[handle]
        place = self._old[handle] if handle in self._old else self._resolve(handle)
        if len(young) >= GENERATION_MAX:
            self._old = young
            self._young = young = {}
        young[handle] = place
        return place

    def anchor(self) -> None:
        """Open the root unless it is open. Raises RootGone where it is not the directory that it was."""
        if self._root_fd >= 0:
            return
        try:
            fd = os.open(self._path, _DIRECTORY)
        except OSError as error:
            raise RootGone from error
        try:
            if calls.handle_of(fd) != self._root_handle:
                raise RootGone
            self._root_path = calls.path_of_descriptor(fd).rstrip(b"/")
        except BaseException:
            os.close(fd)
            raise
        self._root_fd = fd
        self._young[self._root_handle] = b""
        try:
            private_fd = os.open(self._private, _LOOK)
        except OSError:
            return  # not there at present: no canary is, either, and the watcher misses it
        try:
            self._young[calls.handle_of(private_fd)] = CANARY
        finally:
            os.close(private_fd)

    def release(self) -> None:
        """Let go of the root until the next unknown handle."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def key_of(self, fd: int) -> bytes | None:
        """The key of an open file, by any name that it has in the volume. Raises RootGone. Call `release` afterwards.

        Its handle is opened anew, for who has opened it may see it at another place.
        """
        self.anchor()
        try:
            found = calls.open_handle(self._root_fd, calls.handle_of(fd))
        except OSError:
            return None
        try:
            directory, _, name = calls.path_of_descriptor(found).rpartition(b"/")
        except OSError:
            return None  # a path longer than the kernel tells: a scan finds it
        finally:
            os.close(found)
        key = self._inside(directory)
        return None if key is None else key + b"\0" + name if key else name

    def _resolve(self, handle: bytes) -> Place:
        self.anchor()
        if handle in self._young:
            return self._young[handle]
        for left in reversed(range(OPEN_TRIES)):
            try:
                fd = calls.open_handle(self._root_fd, handle)
                break
            except OSError as error:
                if error.errno in _GONE:
                    return None  # deleted; its parent's event says so
                if error.errno != errno.ENOMEM:
                    raise
                if not left:  # the kernel says so, too, of one that moves or goes while it is looked for
                    return Lost("the kernel could not resolve a directory's handle", None)
        try:
            if os.fstat(fd).st_nlink == 0:
                return None
            return self._inside(calls.path_of_descriptor(fd))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return self._ancestor(fd)
        finally:
            os.close(fd)

    def _inside(self, path: bytes) -> bytes | None:
        if not path.startswith(self._root_path + b"/"):
            return b"" if path == self._root_path else None
        key = key_of(path[len(self._root_path) + 1 :])
        if key == PRIVATE_NAME or key.startswith(PRIVATE_NAME + b"\0"):
            return None
        at = -1
        while at < len(key):
            at = key.find(b"\0", at + 1)
            at = len(key) if at < 0 else at
            if self._ignored(key[:at]):
                return None
        return key

    def _ancestor(self, fd: int) -> Place:
        """The nearest directory above whose path fits a page."""
        here = os.dup(fd)
        try:
            while True:
                above = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = above
                try:
                    key = self._inside(calls.path_of_descriptor(here))
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:
                        raise
                    continue
                if key is None:
                    return None
                return Lost("a path longer than the kernel tells changed below this directory", key)
        finally:
            os.close(here)
