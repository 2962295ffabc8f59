"""How much of a volume's disk converges and pushes of ours have taken since the agent started.

A guard holds a node whose disk fills by what somebody writes there. What we bring is no such thing, whether it came
from a peer or was copied on this disk; and only the filesystem says what of it takes room. So it is counted in the
blocks of staged files, where they are written. It never shrinks: what is given back shows as free room.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BLOCK_BYTES: Final = 512  # of st_blocks
_SPARSE_MIN_BYTES: Final = 1 << 20


class Taken:
    """Of one volume. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    @contextmanager
    def counting(self, fd: int) -> Iterator[None]:
        """What this open file takes behind the block, less what it took ahead of it. Raises OSError.

        A block that is left by an exception counts nothing.
        """
        before_bytes = room_of(fd)
        yield
        grown = room_of(fd) - before_bytes
        if grown > 0:
            with self._lock:
                self.bytes += grown


def room_of(fd: int) -> int:
    """The bytes of its disk that an open file takes, with what is on its way there. Raises OSError."""
    return os.fstat(fd).st_blocks * BLOCK_BYTES


def written_bytes(status: os.stat_result) -> int:
    """The bytes of a file; of a long one that is mostly holes those that take room.

    Only where that is plain: blocks come and go by some while a file is being written. ZFS knows those of what was just
    written seconds later, and says one until then.
    """
    room, size = status.st_blocks * BLOCK_BYTES, status.st_size
    return room if size >= _SPARSE_MIN_BYTES and room < size // 2 and status.st_blocks != 1 else size
