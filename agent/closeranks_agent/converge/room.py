"""Room first: no byte is staged before there is room for it, with a rest left for everybody else.

Free space is what the filesystem gives to unprivileged users, less a margin, less what was promised to files
whose bytes are not on disk yet. Long files are reserved on disk by fallocate; promises cover the rest.
"""

from __future__ import annotations

import os
from threading import Lock

MARGIN_MAX_BYTES = 16 * 1024 * 1024
MARGIN_SHARE = 100  # or one per cent of a small filesystem
FILE_OVERHEAD_BYTES = 4096  # the last block of a file is never full; names and inodes take room too


class NoRoom(Exception):
    """`needed` bytes were asked for, `free` may be used."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} bytes are needed, {free} are free")
        self.needed, self.free = needed, free


class Room:
    """The room of one filesystem, during one converge."""

    def __init__(self, directory_fd: int) -> None:
        self._fd = directory_fd
        self._promised = 0
        self._lock = Lock()

    def free(self) -> int:
        status = os.fstatvfs(self._fd)
        margin = min(MARGIN_MAX_BYTES, status.f_blocks * status.f_frsize // MARGIN_SHARE)
        return max(0, status.f_bavail * status.f_frsize - margin - self._promised)

    def promise(self, needed: int) -> None:
        """Raises NoRoom."""
        with self._lock:
            free = self.free()
            if needed > free:
                raise NoRoom(needed, free)
            self._promised += needed

    def release(self, promised: int) -> None:
        """What was promised is on disk, or not needed any more."""
        with self._lock:
            self._promised -= promised
            assert self._promised >= 0
