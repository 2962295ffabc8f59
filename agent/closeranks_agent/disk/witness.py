"""The number of a volume's last step, kept beside its files: it tells whether they went back together with the index.

The index lies in the state directory, the tree elsewhere. Who puts back a whole machine to a snapshot has both as
they were then, and nothing in the tree is news. Who puts back the state directory alone has an index that is
older than the tree, and what changed since is this node's own. So each step's number is written here as well, after it
is durable in the index and before anybody is told. A number above the index's own: the tree is newer.

Never synced: it outlives a process that is killed, and a power cut can only take it back, which then counts as a
whole machine. Written only into a file that is there already and names this very index, so that nothing is written
below a root that was replaced. Rejected: the tree's own times (a copy may keep or lose them).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from closeranks_proto.limits import SEQ_MAX

from .private import open_private

WITNESS_NAME: Final = b"WITNESS"
_FILE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINE_BYTES: Final = 32 + 1 + 20 + 1


@dataclass(frozen=True, slots=True)
class Witness:
    """In the private directory `where`, of the index with that id. Raises OSError where the disk does."""

    where: bytes
    index_id: str

    def begin(self, seq: int) -> None:
        """From now on the file is this index's, and says `seq`."""
        top = open_private(self.where)
        try:
            fd = os.open(WITNESS_NAME, _FILE | os.O_CREAT, 0o600, dir_fd=top)
            try:
                os.ftruncate(fd, _LINE_BYTES)
                os.pwrite(fd, self._line(seq), 0)
            finally:
                os.close(fd)
        finally:
            os.close(top)

    def read(self) -> int | None:
        """The last number; None where the file does not say one of this index."""
        try:
            fd = self._open()
        except FileNotFoundError:
            return None
        try:
            return self._seq_in(fd)
        finally:
            os.close(fd)

    def tell(self, seq: int) -> None:
        """The last step has this number. Nothing is written where the file is not this index's."""
        fd = self._open()
        try:
            if self._seq_in(fd) is not None:
                os.pwrite(fd, self._line(seq), 0)
        finally:
            os.close(fd)

    def _open(self) -> int:
        top = open_private(self.where)
        try:
            return os.open(WITNESS_NAME, _FILE, dir_fd=top)
        finally:
            os.close(top)

    def _line(self, seq: int) -> bytes:
        return b"%s %020d\n" % (self.index_id.encode(), seq)

    def _seq_in(self, fd: int) -> int | None:
        line = os.pread(fd, _LINE_BYTES + 1, 0)
        head, _, number = line.partition(b" ")
        if len(line) != _LINE_BYTES or head != self.index_id.encode() or not number[:-1].isdigit():
            return None
        seq = int(number)
        return seq if seq <= SEQ_MAX else None
