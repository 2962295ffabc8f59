"""Directories that are read-only, made writable while converge works in them, and given back their mode.

Only an agent without root's privileges needs this. The mode to restore is durable before it is changed: after
a kill the next run restores it, whether modes are tracked or not.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import msgpack

from closeranks_proto.paths import path_of

from .. import beneath
from .ledger import Ledger

_NAME = b"lifted"
_WORKABLE = 0o700


@dataclass(frozen=True, slots=True)
class _Lifted:
    mode: int
    inode: int


class Lifts:
    """The directories lifted in one run, and those that a killed run left lifted."""

    def __init__(self, trash_fd: int, root_fd: int) -> None:
        self._root_fd = root_fd
        self._ledger = Ledger(trash_fd, _NAME)
        self._lifted: dict[bytes, _Lifted] = {}
        for record in self._ledger.read():
            match record:
                case (bytes(key), int(mode), int(inode)):
                    self._lifted.setdefault(key, _Lifted(mode, inode))
                case _:
                    continue  # of another version: the mode is compared and set by the plan

    @property
    def any(self) -> bool:
        """Whether a directory is lifted now."""
        return bool(self._lifted)

    def mode_before(self, key: bytes, mode: int) -> int:
        """The mode that this directory had before it was lifted; `mode` itself where that is not our doing."""
        lifted = self._lifted.get(key)
        return lifted.mode if lifted is not None and mode == lifted.mode | _WORKABLE else mode

    def lift(self, key: bytes) -> bool:
        """Make the directories down to `key` (b"" is the root) workable; whether any of them was changed."""
        changed = False
        names = key.split(b"\0") if key else []
        for depth in range(len(names) + 1):
            changed |= self._lift_one(b"\0".join(names[:depth]))
        return changed

    def _lift_one(self, key: bytes) -> bool:
        fd = beneath.open_beneath(self._root_fd, path_of(key), os.O_PATH | os.O_DIRECTORY)
        try:
            status = os.fstat(fd)
            mode = stat.S_IMODE(status.st_mode)
            if mode & _WORKABLE == _WORKABLE or status.st_uid != os.geteuid():
                return False
            if key not in self._lifted:
                self._lifted[key] = _Lifted(mode, status.st_ino)
                self._ledger.append([msgpack.packb((key, mode, status.st_ino))])
                self._ledger.sync()
            os.chmod(b"/proc/self/fd/%d" % fd, mode | _WORKABLE)
            return True
        finally:
            os.close(fd)

    def forget(self, key: bytes) -> None:
        """The plan has set this directory's mode: there is nothing to give back."""
        self._lifted.pop(key, None)

    def restore(self) -> None:
        """Give all modes back, deepest first, where nobody else has changed them meanwhile."""
        for key in sorted(self._lifted, reverse=True):
            lifted = self._lifted.pop(key)
            try:
                fd = beneath.open_beneath(self._root_fd, path_of(key), os.O_PATH | os.O_DIRECTORY)
            except OSError:
                continue  # gone, or not ours to enter any more
            try:
                status = os.fstat(fd)
                if status.st_ino == lifted.inode and stat.S_IMODE(status.st_mode) == lifted.mode | _WORKABLE:
                    os.chmod(b"/proc/self/fd/%d" % fd, lifted.mode)
            finally:
                os.close(fd)
        if self._ledger.size:
            self._ledger.replace(())

    def close(self) -> None:
        self._ledger.close()
