"""Room set aside, so that a full disk keeps the coordinator from learning but not from fencing.

A file of RESERVE_BYTES lies beside the database. When the disk is full it is given up. Its first half is for small
changes of nodes, since what is not stored is not judged: 400 damaged files, some 30 KB of pages, were named by nobody
for as long as the disk was full. The second half is only for the core's own records (fences, incidents, verdicts) and
the garbage collection, which gives room back; trees of nodes have to wait then. It is set aside again once there is
room for it and a quarter more: that much is left to write to, and a disk of twice the reserve can get there with a
database on it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger("closeranks.store")

RESERVE_BYTES = 8 * 1024 * 1024
PAGE_BYTES = 4096  # of SQLite


class Reserve:
    """The reserve of one state directory. `held` False: it is given up, or there was never room for it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        self.held = self._path.exists()

    def free_bytes(self) -> int:
        found = os.statvfs(self._path.parent)
        return found.f_bavail * found.f_frsize

    def bears(self, size_bytes: int, objects: int) -> bool:
        """Whether so much of a node's tree fits before the half that is for records: into the log, and the database.

        The log gets a whole page of the database for each object, however small.
        """
        return self.free_bytes() - 2 * size_bytes - PAGE_BYTES * objects >= RESERVE_BYTES // 2

    @property
    def needed_bytes(self) -> int:
        """Free room with which it is set aside, so that everything may be written again."""
        return RESERVE_BYTES + RESERVE_BYTES // 4

    def hold(self) -> bool:
        """Set the room aside if there is enough of it."""
        if self.held:
            return True
        if self.free_bytes() < self.needed_bytes:
            return False
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("no room could be set aside: %s", error)
            self._path.unlink(missing_ok=True)
            return False
        self.held = True
        return True

    def give_up(self) -> bool:
        """Free the room; whether there was any."""
        if not self.held:
            return False
        self._path.unlink(missing_ok=True)
        self.held = False
        log.warning(
            "the disk is full: the room set aside in %s is used now, for fences first", self._path.parent
        )
        return True
