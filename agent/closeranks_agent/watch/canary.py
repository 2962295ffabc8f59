"""A file that is touched to see whether its event arrives: what was queued before it has been read by then.

The canary lies in the volume's private directory and is opened and closed for writing, nothing is written: that
costs the disk nothing. One is under way at a time. Its name tells which one it is, so a late event of an older
one proves nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from ..disk.private import PRIVATE_NAME
from ..disk.volume import Volume
from .events import CANARY_NAME

LIMIT_S: Final = 2.0  # unseen for so long with an empty queue: the source is deaf
LIMIT_BUSY_S: Final = 30.0  # however much is queued
NAMES: Final = 16
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(slots=True)
class Canary:
    """One that was touched at `touched`, monotonic. `seen`: when its event was read."""

    name: bytes
    touched: float
    seen: float | None = None

    def is_missed(self, now: float, idle: float) -> bool:
        """Whether it should have been seen; `idle` is when the queue was found empty last."""
        if self.seen is not None:
            return False
        waited = now - self.touched
        return waited > LIMIT_BUSY_S or (waited > LIMIT_S and idle - self.touched > LIMIT_S / 2)


def touch(volume: Volume, number: int) -> bytes:
    """Open and close the canary's file; the name by which its event is known. Raises VolumeGone, OSError."""
    name = b"%d" % (number % NAMES)
    root_fd = volume.open_root()
    try:
        inside = volume.private == volume.path + b"/" + PRIVATE_NAME
        path = (PRIVATE_NAME if inside else volume.private) + b"/" + CANARY_NAME + name
        os.close(os.open(path, _FLAGS, 0o600, dir_fd=root_fd))
    finally:
        os.close(root_fd)
    return name
