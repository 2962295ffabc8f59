"""From a path on disk to its record: stat, content digest, link target, attributes.

Opening never blocks (a fifo) and never follows a symlink. A file counts as read only if its stat is the same
before and after, otherwise it is *busy*: what was read of it is given back too, for a file that never rests
must still be seen to differ. No more is read than the size at opening, so a file that grows without end
ends. Rejected: mapping files (a truncated one kills the reader with SIGBUS).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from closeranks_proto.content import ChunkList, encode_chunk_list, max_file_bytes
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.entries import DIGEST_AT, MODE_BITS, Entry, Kind, encode_entry
from closeranks_proto.limits import MAX_TARGET_BYTES, MAX_XATTRS_BYTES, MIB
from closeranks_proto.paths import escape, path_of

from .. import beneath
from .records import BusyFile, Record, StatSignature, clock_ns, is_settled, pack_signature

BUFFER_BYTES: Final = 1 * MIB
_MTIME_MAX: Final = 2**63 - 1
FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What replicas share. Security labels and `trusted` belong to the machine, capabilities to its operator.
XATTR_PREFIXES: Final = (b"user.", b"system.posix_acl_")


class TooLarge(OSError):
    """More than an entry can describe: the file's chunk list or its attributes would not fit an object."""


class NotRegular(OSError):
    """What was a file when the directory was listed is something else now."""


class Stopped(Exception):
    """The scan was told to stop in the middle of a file."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A file as it was read. `steady` is False where it changed meanwhile; `bytes` were hashed in `seconds`."""

    record: Record
    steady: bool
    bytes: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class KnownContent:
    """What a long file holds while its stat, as `pack_signature` has it, is that: then it need not be read."""

    signature: bytes
    digest: bytes
    chunks: bytes


class EntryReader:
    """Reads entries for one volume's settings. Not thread-safe: one buffer."""

    def __init__(self, algorithm: DigestAlgorithm, chunk_bytes: int, track: Sequence[str]) -> None:
        self.algorithm = algorithm
        self.chunk_bytes = chunk_bytes
        self.max_file_bytes = max_file_bytes(algorithm, chunk_bytes)
        self.mode, self.owner = "mode" in track, "owner" in track
        self.mtime, self.xattrs = "mtime" in track, "xattrs" in track
        self.plain = not (self.owner or self.mtime or self.xattrs)
        self._buffer = memoryview(bytearray(min(BUFFER_BYTES, chunk_bytes)))

    # --- values --------------------------------------------------------------------------------

    def file_value(
        self, status: os.stat_result, digest: bytes, xattrs: tuple[tuple[bytes, bytes], ...] | None,
        size: int | None = None,
    ) -> bytes:  # fmt: skip
        """The canonical value of a regular file with that status and content digest."""
        return encode_entry(
            Entry(
                Kind.FILE,
                status.st_size if size is None else size,
                digest,
                status.st_mode & MODE_BITS if self.mode else None,
                owner=(status.st_uid, status.st_gid) if self.owner else None,
                mtime_ns=_mtime_of(status) if self.mtime else None,
                xattrs=xattrs,
            )
        )

    def directory_record(self, key: bytes, fd: int, name: bytes, status: os.stat_result) -> Record:
        """Of a directory, by its name below `fd`. Its mtime tells about its names and is never compared."""
        value = encode_entry(
            Entry(
                Kind.DIRECTORY,
                mode=status.st_mode & MODE_BITS if self.mode else None,
                owner=(status.st_uid, status.st_gid) if self.owner else None,
                xattrs=self._xattrs_of(_proc_path(fd, name)) if self.xattrs else None,
            )
        )
        return Record(key, value, StatSignature.of(status), None, True)

    def symlink_record(self, key: bytes, fd: int, name: bytes, status: os.stat_result) -> Record:
        """Of a symlink, by its name below `fd`."""
        at = clock_ns()
        target = os.readlink(name, dir_fd=fd)
        if not 0 < len(target) <= MAX_TARGET_BYTES:
            raise TooLarge(errno.ENAMETOOLONG, f"a link target of {len(target)} bytes")
        value = encode_entry(
            Entry(
                Kind.SYMLINK,
                len(target),
                target=target,
                owner=(status.st_uid, status.st_gid) if self.owner else None,
                mtime_ns=_mtime_of(status) if self.mtime else None,
                xattrs=self._xattrs_of(_proc_path(fd, name)) if self.xattrs else None,
            )
        )
        return Record(key, value, StatSignature.of(status), None, is_settled(status.st_ctime_ns, at))

    # --- files ---------------------------------------------------------------------------------

    def read_file(
        self,
        key: bytes,
        fd: int,
        stopped: Callable[[], bool] | None = None,
        known: KnownContent | None = None,
    ) -> Reading:
        """The record of the open regular file `fd`.

        Raises OSError where it can not be read, TooLarge, NotRegular, Stopped when `stopped` says so, and BusyFile
        where the file is not any more what is `known` of it.
        """
        at, started = clock_ns(), time.monotonic()
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise NotRegular(errno.ESTALE, "not a regular file any more")
        size = before.st_size
        if size > self.max_file_bytes:
            raise TooLarge(errno.EFBIG, f"{size} bytes; at most {self.max_file_bytes} fit a chunk list")
        chunks: bytes | None
        if known is not None:
            if pack_signature(before) != known.signature:
                raise BusyFile(f"{escape(path_of(key))} changed since it was read")
            digest, chunks, count = known.digest, known.chunks, size
        elif size <= len(self._buffer):
            digest, chunks, count = self._read_small(fd, size)
        else:
            digest, chunks, count = self._read_chunks(fd, size, stopped)
        xattrs = self._xattrs_of(fd) if self.xattrs else None
        after = os.fstat(fd)
        steady = count == size and pack_signature(after) == pack_signature(before)
        value = self.file_value(after, digest, xattrs, count)
        settled = steady and is_settled(after.st_ctime_ns, at)
        record = Record(key, value, StatSignature.of(after), chunks, settled)
        return Reading(record, steady, count, time.monotonic() - started)

    def read_copy(self, key: bytes, content: memoryview, fd: int, status: os.stat_result) -> Reading:
        """The record of the open file `fd` as it was when it had that stat and held this. Not settled.

        Raises OSError, TooLarge.
        """
        started = time.monotonic()
        chunks: bytes | None = None
        if len(content) <= self.chunk_bytes:
            digest = self.algorithm.of(content)
        else:
            starts = range(0, len(content), self.chunk_bytes)
            digests = b"".join(self.algorithm.of(content[at : at + self.chunk_bytes]) for at in starts)
            digest, chunks = self._chunk_list(len(content), digests)
        xattrs = self._xattrs_of(fd) if self.xattrs else None
        value = self.file_value(status, digest, xattrs)
        record = Record(key, value, StatSignature.of(status), chunks, False)
        return Reading(record, True, len(content), time.monotonic() - started)

    def _chunk_list(self, size: int, digests: bytes) -> tuple[bytes, bytes]:
        """(content digest, encoded chunk list)."""
        chunks = encode_chunk_list(ChunkList(size, self.chunk_bytes, self.algorithm.width, digests))
        return self.algorithm.of(chunks), chunks

    def digest_of(self, value: bytes) -> bytes:
        """The content digest in a file's value."""
        return value[DIGEST_AT : DIGEST_AT + self.algorithm.width]

    def content(self, count: int) -> bytes:
        """What the last small file held, of which `count` bytes were read."""
        return bytes(self._buffer[:count])

    def _read_small(self, fd: int, size: int) -> tuple[bytes, None, int]:
        """(content digest, no chunk list, bytes read) of a file that fits the buffer and one chunk."""
        view = self._buffer[:size]
        count = os.preadv(fd, [view], 0) if size else 0
        while 0 < count < size:
            more = os.preadv(fd, [view[count:]], count)
            if not more:
                break
            count += more
        return self.algorithm.of(view[:count]), None, count

    def _read_chunks(
        self, fd: int, size: int, stopped: Callable[[], bool] | None
    ) -> tuple[bytes, bytes | None, int]:
        """(content digest, encoded chunk list if more than one chunk, bytes read)."""
        digests = bytearray()
        offset = 0
        while offset < size:
            if stopped is not None and stopped():
                raise Stopped
            digest, count = self._read_chunk(fd, offset, min(self.chunk_bytes, size - offset))
            if not count and offset:
                break
            digests += digest
            offset += count
            if count < self.chunk_bytes:
                break
        if offset <= self.chunk_bytes:
            return bytes(digests), None, offset
        return *self._chunk_list(offset, bytes(digests)), offset

    def _read_chunk(self, fd: int, offset: int, length: int) -> tuple[bytes, int]:
        """(digest, bytes read) of one chunk; fewer bytes than `length` only at the end of the file."""
        buffer = self._buffer
        count = beneath.pread_into(fd, buffer[: min(length, len(buffer))], offset)
        if length <= len(buffer) or count < len(buffer):
            return self.algorithm.of(buffer[:count]), count
        hasher = self.algorithm.new()
        hasher.update(buffer)
        while count < length:
            more = beneath.pread_into(fd, buffer[: min(length - count, len(buffer))], offset + count)
            if not more:
                break
            hasher.update(buffer[:more])
            count += more
        return hasher.digest(), count

    def _xattrs_of(self, where: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
        """The shared extended attributes of an open file or of `/proc/self/fd/N/name`, sorted."""
        by_path = not isinstance(where, int)
        found: list[tuple[bytes, bytes]] = []
        total = 0
        try:
            names = os.listxattr(where, follow_symlinks=not by_path)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.EPERM):
                return ()
            raise
        for name in sorted(os.fsencode(one) for one in names):
            if not name.startswith(XATTR_PREFIXES):
                continue
            value = os.getxattr(where, name, follow_symlinks=not by_path)
            total += len(name) + len(value)
            if total > MAX_XATTRS_BYTES:
                raise TooLarge(errno.E2BIG, f"extended attributes of more than {MAX_XATTRS_BYTES} bytes")
            found.append((name, value))
        return tuple(found)


def _mtime_of(status: os.stat_result) -> int:
    """Nanoseconds, as far as an entry can tell them: from 1677 to 2262."""
    return max(-_MTIME_MAX - 1, min(_MTIME_MAX, status.st_mtime_ns))


def open_file(name: bytes, dir_fd: int) -> int:
    """The file `name` for reading: no symlink, no waiting, and no new access time where that is allowed."""
    try:
        return os.open(name, FILE_FLAGS | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, FILE_FLAGS, dir_fd=dir_fd)


@contextmanager
def opened_file(name: bytes, dir_fd: int) -> Iterator[int]:
    fd = open_file(name, dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def read_entry(
    reader: EntryReader,
    root_fd: int,
    key: bytes,
    stopped: Callable[[], bool] | None = None,
    known: KnownContent | None = None,
) -> Record | None:
    """The record of one path from disk; None where it is absent or of a kind that is never compared.

    Raises BusyFile, TooLarge, Stopped when `stopped` says so, and OSError where it can not be read.
    """
    try:
        with beneath.spot(root_fd, key) as spot:
            status = os.stat(spot.name, dir_fd=spot.parent_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if status.st_dev != os.fstat(root_fd).st_dev:
                    return None
                return reader.directory_record(key, spot.parent_fd, spot.name, status)
            if stat.S_ISLNK(status.st_mode):
                return reader.symlink_record(key, spot.parent_fd, spot.name, status)
            if not stat.S_ISREG(status.st_mode):
                return None
            with opened_file(spot.name, spot.parent_fd) as fd:
                reading = reader.read_file(key, fd, stopped, known)
    except OSError as error:
        if error.errno in beneath.DETOUR_ERRNOS:
            return None
        raise
    return _steady(reading)


def read_open(reader: EntryReader, key: bytes, fd: int, stopped: Callable[[], bool] | None = None) -> Record:
    """The record of a regular file that is open. Raises NotRegular too, and otherwise as `read_entry` does."""
    return _steady(reader.read_file(key, fd, stopped))


def _steady(reading: Reading) -> Record:
    if not reading.steady:
        raise BusyFile(f"{escape(path_of(reading.record.key))} changed while it was read")
    return reading.record


def read_ahead(fds: Sequence[int]) -> None:
    """Let the kernel fetch the beginnings of all these files at once; cold small files gain most of it."""
    for fd in fds:
        try:
            os.posix_fadvise(fd, 0, BUFFER_BYTES, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # not a kind of file or filesystem that takes advice


def _proc_path(fd: int, name: bytes) -> bytes:
    """`name` below `fd` for calls that only take paths, however long the real path is."""
    return b"/proc/self/fd/%d/%s" % (fd, name)
