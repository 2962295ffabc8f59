"""The attributes of staged files: what the target says, and what a new file takes over from what stands there.

A volume tracks some attributes only. Of the others a file keeps those of the version that it replaces, and a new one
takes after its directory, as if a person had made it there.
"""

from __future__ import annotations

import errno
import os

from closeranks_proto.paths import parent_key, path_of

from .. import beneath
from . import attributes
from .plan import Step, entry_of


class Dressing:
    """Of one batch: the directories that its files will stand in are looked at once each."""

    def __init__(self, root_fd: int, width: int, special_bits: bool) -> None:
        self._root_fd, self._width, self._special_bits = root_fd, width, special_bits
        self._known: dict[bytes, os.stat_result] = {}

    def dress(self, fd: int, step: Step) -> None:
        """Give a staged file what its step says, and what it takes over. Raises OSError."""
        assert step.target is not None
        target = entry_of(step.target, self._width)
        replaced = None
        if step.own is not None:
            with beneath.spot(self._root_fd, step.key) as where:
                replaced = beneath.status(where)
                if target.xattrs is None and replaced is not None:
                    self._carry(fd, where)
        attributes.set_new(fd, target, replaced, self._parent(step.key), self._special_bits)

    def _parent(self, key: bytes) -> os.stat_result:
        """Of the parent, or, where the same batch has yet to make it, of the nearest directory above it."""
        directory = parent_key(key)
        found = self._known.get(directory)
        while found is None:
            try:
                fd = beneath.open_directory(self._root_fd, path_of(directory))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) or not directory:
                    raise
                directory = parent_key(directory)
                continue
            try:
                found = os.fstat(fd)
            finally:
                os.close(fd)
        self._known[parent_key(key)] = found
        return found

    @staticmethod
    def _carry(fd: int, where: beneath.Spot) -> None:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            old = os.open(where.name, flags, dir_fd=where.parent_fd)
        except OSError:
            return  # a symlink or unreadable: nothing to carry over
        try:
            attributes.carry_xattrs(old, fd)
        finally:
            os.close(old)
