"""The chunk digests of a part of a long file, with the least cost a byte.

What is in the page cache can be mapped, a window at a time, and hashed where it lies, or copied into a buffer that
stays in the processor's cache. Which costs less depends on the machine, its filesystem and the digest (mapping was
measured at 0.75 to 1.4 times the speed of copying), so both are tried on the first windows, and now and then
again, and the cheaper is taken. A mapped file that shrinks ends its reader with SIGBUS, and so does a bad
sector: therefore only a reading process maps, whose death is expected (`readers` asks another one again, without
mapping). What is not in the cache is asked for two windows ahead, so that the device always has several MiB to
fetch, and read.

Holes are not read: their chunks are known. They are believed only of files that have rested for
HOLES_REST_NS, since filesystems have been wrong about holes in data that was just written.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from typing import Final

from closeranks_proto.digests import DigestAlgorithm

from .cache import is_absent, let_go

MIB: Final = 1 << 20
WINDOW_BYTES: Final = 8 * MIB
BUFFER_BYTES: Final = (
    256 * 1024
)  # what was copied is hashed while it is in the second cache: 3 to 5% faster than 1 MiB
TRIES: Final = 3  # windows of each way before one is preferred
AGAIN: Final = 128  # windows until the other way is tried once more: 1 GiB
AHEAD_WINDOWS: Final = 2  # 16 MiB asked for: a disk at 3 GB/s has 5 ms of work
HOLES_REST_NS: Final = 10_000_000_000


class RangeReader:
    """For one algorithm and chunk length. Not thread-safe: one buffer."""

    def __init__(self, algorithm: DigestAlgorithm, chunk_bytes: int, keep_cache: bool) -> None:
        self._of, self._new = algorithm.of, algorithm.new
        self._chunk_bytes, self._keep_cache = chunk_bytes, keep_cache
        self._costs: dict[bool, list[float]] = {True: [], False: []}  # CPU seconds a byte, mapped or read
        self._windows = 0
        # Whole chunks, whatever their length.
        self._window_bytes = max(WINDOW_BYTES - WINDOW_BYTES % chunk_bytes, chunk_bytes)
        self._buffer: memoryview | None = None
        self._zeros: dict[int, bytes] = {}

    def digests(self, fd: int, offset: int, end: int, mapped: bool, holes: bool) -> bytes:
        """Of the chunks from `offset` up to `end`, joined; fewer where the file ends before.

        `mapped`: cached windows may be mapped. `holes`: a hole may be taken for zeros unread.
        """
        parts: list[bytes] = []
        starts = range(offset, end, self._window_bytes)
        absent = [self._keep_cache and is_absent(fd, at, min(self._window_bytes, end - at)) for at in starts]
        solid = not _has_hole(fd, offset, end - offset)
        asked = 0  # windows that the kernel was asked to fetch
        for number, at in enumerate(starts):
            length = min(self._window_bytes, end - at)
            if holes and not solid and self._is_hole(fd, at, length):
                parts.append(self._of_zeros(length))
                continue
            cached = not absent[number] and _is_cached(fd, at + length - 1)
            if asked or not cached:  # what we asked for has come: the disk must have more to do meanwhile
                for ahead in range(max(asked, number), min(number + AHEAD_WINDOWS + 1, len(starts))):
                    _fetch(fd, starts[ahead], min(self._window_bytes, end - starts[ahead]))
                    asked = ahead + 1
            if cached:
                part = self._hash_cached(fd, at, length, mapped and (solid or not _has_hole(fd, at, length)))
            else:
                part = self._read(fd, at, length)
            parts.append(part[0])
            if absent[number]:
                let_go(fd, at, length)
            if part[1] < length:
                break
        return b"".join(parts)

    def _hash_cached(self, fd: int, at: int, length: int, may_map: bool) -> tuple[bytes, int]:
        """By the way that costs less here."""
        if not may_map or length < self._window_bytes:
            return self._read(fd, at, length)
        self._windows += 1
        mapped, read = self._costs[True], self._costs[False]
        if len(mapped) < TRIES or len(read) < TRIES:
            by_map = len(mapped) <= len(read)
        else:
            by_map = (min(mapped) < min(read)) is not (self._windows % AGAIN == 0)
        began = time.thread_time()
        part = self._map(fd, at, length) if by_map else self._read(fd, at, length)
        costs = self._costs[by_map]
        costs.append((time.thread_time() - began) / length)
        del costs[:-TRIES]
        return part

    def _map(self, fd: int, at: int, length: int) -> tuple[bytes, int]:
        """(digests, bytes hashed) of a window in place."""
        try:
            window = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=at)
        except (OSError, ValueError):  # it has shrunk, or is of a filesystem that maps nothing
            return self._read(fd, at, length)
        with window, memoryview(window) as view:
            return self._hash(view), length

    def _read(self, fd: int, at: int, length: int) -> tuple[bytes, int]:
        """(digests, bytes hashed) of a window, a chunk at a time: what was just read is hashed in the cache."""
        if self._buffer is None:
            self._buffer = memoryview(
                mmap.mmap(-1, min(BUFFER_BYTES, self._chunk_bytes))
            )  # aligned to a page
        found: list[bytes] = []
        count = 0
        while count < length:
            wanted = min(self._chunk_bytes, length - count)
            digest, got = self._read_chunk(fd, at + count, wanted, self._buffer)
            if got:
                found.append(digest)
            count += got
            if got < wanted:
                break
        return b"".join(found), count

    def _read_chunk(self, fd: int, at: int, wanted: int, buffer: memoryview) -> tuple[bytes, int]:
        """(digest, bytes read) of one chunk."""
        if wanted <= len(buffer):
            got = _read_full(fd, buffer[:wanted], at)
            return self._of(buffer[:got]), got
        hasher, got = self._new(), 0
        while got < wanted:
            piece = min(len(buffer), wanted - got)
            more = _read_full(fd, buffer[:piece], at + got)
            hasher.update(buffer[:more])
            got += more
            if more < piece:
                break
        return hasher.digest(), got

    def _hash(self, view: memoryview) -> bytes:
        of, step = self._of, self._chunk_bytes
        if len(view) == step:
            return of(view)
        found: list[bytes] = []
        for start in range(0, len(view), step):
            with view[start : start + step] as chunk:
                found.append(of(chunk))
        return b"".join(found)

    def _is_hole(self, fd: int, at: int, length: int) -> bool:
        try:
            return os.lseek(fd, at, os.SEEK_DATA) >= at + length
        except OSError as error:
            return error.errno == errno.ENXIO  # no data up to the end

    def _of_zeros(self, length: int) -> bytes:
        whole, rest = divmod(length, self._chunk_bytes)
        return self._zero(self._chunk_bytes) * whole + (self._zero(rest) if rest else b"")

    def _zero(self, length: int) -> bytes:
        if length not in self._zeros:
            if len(self._zeros) > 8:
                self._zeros.clear()  # lengths of last chunks
            self._zeros[length] = self._of(bytes(length))
        return self._zeros[length]


def _read_full(fd: int, view: memoryview, offset: int) -> int:
    count = os.preadv(fd, [view], offset)
    while 0 < count < len(view):
        more = os.preadv(fd, [view[count:]], offset + count)
        if not more:
            break
        count += more
    return count


def _is_cached(fd: int, at: int) -> bool:
    """Whether the page of this byte can be had without waiting."""
    try:
        return os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno in (errno.EOPNOTSUPP, errno.EINVAL)  # not told: take it as it comes


def _has_hole(fd: int, at: int, length: int) -> bool:
    """A hole is never mapped: a filesystem in memory would have to make its pages."""
    try:
        return os.lseek(fd, at, os.SEEK_HOLE) < at + length
    except OSError:
        return True


def _fetch(fd: int, at: int, length: int) -> None:
    try:
        os.posix_fadvise(fd, at, length, os.POSIX_FADV_WILLNEED)
    except OSError:
        return  # not a filesystem that takes advice
