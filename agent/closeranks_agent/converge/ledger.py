"""An append-only file of small records that survives kill -9 and power loss: a ledger.

The trash's list and the list of what converge wrote are ledgers. A record is durable when `sync` returns;
a torn tail (a crash in the middle of an append) is cut off at the next opening, since nothing that was
promised stands in it. Room for the next records is reserved ahead, so that a full disk can still be
repaired: removing a rogue's file must not fail for want of a hundred bytes.

Rejected: one sidecar file per record (two more names and one more fsync for each), and SQLite (the ledger
must live on the volume's filesystem beside the bytes it describes, and be readable by eye with `strings`).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator

from closeranks_proto.errors import CloseranksError, CodecError
from closeranks_proto.wire import unpack_bounded

from .. import syscalls

_FRAME = struct.Struct(">II")  # length, crc32
RECORD_MAX_BYTES = 128 * 1024  # a key, an entry with attributes, and change
AHEAD_BYTES = 256 * 1024  # room reserved beyond the end: some two thousand records
_READ_BYTES = 256 * 1024


class LedgerDamaged(CloseranksError):
    """A ledger holds whole records that this program does not understand."""


class Ledger:
    """One ledger file in an open directory. Not thread-safe: its owner locks."""

    def __init__(self, directory_fd: int, name: bytes) -> None:
        self._directory_fd = directory_fd
        self._name = name
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
        self._end = 0
        self._ahead = 0
        for _, end in self._frames():
            self._end = end
        if os.fstat(self._fd).st_size > self._end:
            os.ftruncate(self._fd, self._end)
        os.fsync(directory_fd)

    @property
    def size(self) -> int:
        return self._end

    def prepare(self) -> bool:
        """Reserve room for the next records; False where there is none left (appending may still work)."""
        if self._end + AHEAD_BYTES // 2 <= self._ahead:
            return True
        try:
            syscalls.allocate(self._fd, self._end, AHEAD_BYTES, keep_size=True)
        except OSError:
            return False  # full: what was reserved earlier is used up first, then `append` says ENOSPC
        self._ahead = self._end + AHEAD_BYTES
        return True

    def append(self, records: Iterable[bytes]) -> None:
        """Write records (each one msgpack value) at the end. Raises OSError and then holds none of them."""
        blob = b"".join(map(_frame, records))
        try:
            _write(self._fd, blob, self._end)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += len(blob)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def read(self) -> Iterator[object]:
        """All records, oldest first, decoded. A damaged one ends the list: nothing behind it is trusted."""
        for record, _ in self._frames():
            try:
                yield unpack_bounded(record, RECORD_MAX_BYTES)
            except CodecError as error:
                raise self.damaged() from error

    def damaged(self) -> LedgerDamaged:
        return LedgerDamaged(
            f"{os.fsdecode(self._name)} in the trash of the volume has a record of an unknown kind: was it written by "
            "a newer closeranks? Use that one, or move the file away: its items are then listed under made-up paths."
        )

    def replace(self, records: Iterable[bytes]) -> None:
        """Atomically become the list of `records`. Raises OSError and is then one of the two, as the disk is."""
        fresh_name = self._name + b".new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(fresh_name, flags, 0o600, dir_fd=self._directory_fd)
        try:
            end = 0
            for record in records:
                end += _write(fd, _frame(record), end)
            os.fsync(fd)
            os.rename(fresh_name, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except BaseException:
            os.close(fd)
            os.unlink(fresh_name, dir_fd=self._directory_fd)
            raise
        os.close(self._fd)
        # First: what is appended later belongs into the file of that name.
        self._fd, self._end, self._ahead = fd, end, 0
        os.fsync(self._directory_fd)

    def close(self) -> None:
        os.close(self._fd)

    def _frames(self) -> Iterator[tuple[bytes, int]]:
        """(record, offset behind it) as far as the file is well formed."""
        base = at = 0  # offsets in the file: of the buffer's start, of the next frame
        buffer = b""
        while True:
            start = at - base
            length, checksum = (
                _FRAME.unpack_from(buffer, start) if len(buffer) - start >= _FRAME.size else (0, 0)
            )
            if not length or len(buffer) - start - _FRAME.size < length:
                if length > RECORD_MAX_BYTES:
                    return
                base, buffer, start = at, os.pread(self._fd, _READ_BYTES, at), 0
                if len(buffer) < _FRAME.size:
                    return
                length, checksum = _FRAME.unpack_from(buffer)
                if not 0 < length <= min(RECORD_MAX_BYTES, len(buffer) - _FRAME.size):
                    return
            record = buffer[start + _FRAME.size : start + _FRAME.size + length]
            if zlib.crc32(record) != checksum:
                return
            at += _FRAME.size + length
            yield record, at


def _frame(record: bytes) -> bytes:
    return _FRAME.pack(len(record), zlib.crc32(record)) + record


def _write(fd: int, data: bytes, at: int) -> int:
    """All of it, and how much that is: a disk that fills takes a part before it says so. Raises OSError."""
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], at + written)
    return written
