"""The chunk digests of a part of a long file, with the least cost a byte.

What is in the page cache can be mapped, a window at a time, and hashed where it lies, or copied into a buffer that
stays in the processor's cache, in pieces of a mebibyte or a quarter of one. Which costs least depends on the
machine, its filesystem, the digest and the hour (mapping was measured at 0.75 to 1.4 times the speed of copying, the
smaller pieces at 0.97 to 1.05 times that of the larger), so all are tried on the first windows, and now and then
again, and the cheapest is taken. A mapped file that shrinks ends its reader with SIGBUS, and so does a bad
sector: therefore only a reading process maps, whose death is expected (`readers` asks another one again, without
mapping).

What is not in the cache is read, in the kernel's own read-ahead where that is long: it fetches into large pieces of
memory, which a disk can be asked for in one request of megabytes; what a program asks for ahead (WILLNEED) comes into
single pages, in requests of a mebibyte. Two threads read then, a half of the part each, for a disk has more to give
than one stream a processor asks for. Where the kernel reads little ahead (128 KiB unless somebody set it), or must not,
two windows are asked for ahead, so that the device always has several MiB to fetch.

Holes are not read: their chunks are known. They are believed only of files that have rested for
HOLES_REST_NS, since filesystems have been wrong about holes in data that was just written.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from typing import Final

from closeranks_proto.digests import DigestAlgorithm

from .cache import is_absent, let_go, read_ahead_bytes

MIB: Final = 1 << 20
WINDOW_BYTES: Final = 8 * MIB
PIECES: Final = (MIB, MIB // 4)  # what is read at once, at most
MAPPED: Final = 0  # the way that reads nothing; the others are named by their pieces
TRIES: Final = 3  # windows of each way before one is preferred
AGAIN: Final = 128  # windows until another way is tried once more: 1 GiB
AHEAD_WINDOWS: Final = 2  # 16 MiB asked for: a disk at 3 GB/s has 5 ms of work
KERNEL_AHEAD_BYTES: Final = WINDOW_BYTES // 2  # where the kernel reads so much ahead, nothing is asked for
KERNEL_LEAST_BYTES: Final = 32 * MIB  # but of shorter parts, over which it would only get going
HOLES_REST_NS: Final = 10_000_000_000


class RangeReader:
    """For one algorithm and chunk length. One thread uses it: one buffer."""

    def __init__(self, algorithm: DigestAlgorithm, chunk_bytes: int, keep_cache: bool) -> None:
        self._algorithm, self._of, self._new = algorithm, algorithm.of, algorithm.new
        self._chunk_bytes, self._keep_cache = chunk_bytes, keep_cache
        pieces = sorted({min(piece, chunk_bytes) for piece in PIECES}, reverse=True)
        self._costs: dict[int, list[float]] = {way: [] for way in (MAPPED, *pieces)}  # CPU seconds a byte
        self._windows = 0
        # Whole chunks, whatever their length.
        self._window_bytes = max(WINDOW_BYTES - WINDOW_BYTES % chunk_bytes, chunk_bytes)
        self._buffer_bytes = pieces[0]
        self._buffer: memoryview | None = None
        self._kernel_ahead: int | None = None  # of the filesystem below the root
        self._zeros: dict[int, bytes] = {}

    def digests(self, fd: int, offset: int, end: int, mapped: bool, holes: bool) -> bytes:
        """Of the chunks from `offset` up to `end`, joined; fewer where the file ends before.

        `mapped`: cached windows may be mapped. `holes`: a hole may be taken for zeros unread.
        """
        parts: list[bytes] = []
        starts = range(offset, end, self._window_bytes)
        asks = end - offset < KERNEL_LEAST_BYTES or self._asks_ahead(fd)
        cold = False  # something had to be waited for: what comes now in time does so because it was fetched ahead
        absent = [self._keep_cache and is_absent(fd, at, min(self._window_bytes, end - at)) for at in starts]
        solid = not _has_hole(fd, offset, end - offset)
        asked = 0  # windows that the kernel was asked to fetch
        for number, at in enumerate(starts):
            length = min(self._window_bytes, end - at)
            if holes and not solid and self._is_hole(fd, at, length):
                parts.append(self._of_zeros(length))
                continue
            cached = not absent[number] and (asks or not cold) and _is_cached(fd, at + length - 1)
            cold = cold or not cached
            if cold and not asks and solid and end - at >= KERNEL_LEAST_BYTES:
                return b"".join((*parts, self._by_two(fd, at, end)))
            if cold and asks:
                for ahead in range(max(asked, number), min(number + AHEAD_WINDOWS + 1, len(starts))):
                    _fetch(fd, starts[ahead], min(self._window_bytes, end - starts[ahead]))
                    asked = ahead + 1
            if cached:
                part = self._hash_cached(fd, at, length, mapped and (solid or not _has_hole(fd, at, length)))
            else:
                part = self._read(fd, at, length, self._buffer_bytes)
            parts.append(part[0])
            if absent[number]:
                let_go(fd, at, length)
            if part[1] < length:
                break
        return b"".join(parts)

    def _asks_ahead(self, fd: int) -> bool:
        """Whether we ask for what is to be read, not the kernel: it would bring in what a scrub did not look at."""
        if self._keep_cache:
            return True
        if self._kernel_ahead is None:
            self._kernel_ahead = read_ahead_bytes(fd)
        return self._kernel_ahead < KERNEL_AHEAD_BYTES

    def _by_two(self, fd: int, at: int, end: int) -> bytes:
        """Digests of what lies on the disk, by two threads: the kernel reads ahead for each opened file apart."""
        from concurrent.futures import ThreadPoolExecutor  # for those that have something to wait for

        cut = at + (end - at) // 2 // self._window_bytes * self._window_bytes
        try:
            again = os.open(
                f"/proc/self/fd/{fd}",  # a link: opened with O_NOFOLLOW, it would be refused
                os.O_RDONLY | os.O_CLOEXEC | fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NOATIME,
            )
        except OSError:  # no /proc here
            return self._read(fd, at, end - at, self._buffer_bytes)[0]
        try:
            other = RangeReader(self._algorithm, self._chunk_bytes, self._keep_cache)
            with ThreadPoolExecutor(1) as pool:
                rest = pool.submit(other._read, again, cut, end - cut, self._buffer_bytes)
                first, count = self._read(fd, at, cut - at, self._buffer_bytes)
                second, _ = rest.result()
        finally:
            os.close(again)
        return first + second if count == cut - at else first

    def _hash_cached(self, fd: int, at: int, length: int, may_map: bool) -> tuple[bytes, int]:
        """By the way that costs least here."""
        if length < self._window_bytes:
            return self._read(fd, at, length, self._buffer_bytes)
        way = self._way(may_map)
        began = time.thread_time()
        part = self._read(fd, at, length, way) if way else self._map(fd, at, length)
        costs = self._costs[way]
        costs.append((time.thread_time() - began) / length)
        del costs[:-TRIES]
        return part

    def _way(self, may_map: bool) -> int:
        """The cheapest; one that was hardly tried, and now and then each of the others, to know their cost."""
        self._windows += 1
        costs = self._costs
        ways = [way for way in costs if way or may_map]
        for way in ways:
            if len(costs[way]) < TRIES:
                return way
        best = min(ways, key=lambda way: min(costs[way]))
        turn, rest = divmod(self._windows, AGAIN)
        if rest or len(ways) < 2:
            return best
        others = [way for way in ways if way != best]
        return others[turn % len(others)]

    def _map(self, fd: int, at: int, length: int) -> tuple[bytes, int]:
        """(digests, bytes hashed) of a window in place."""
        try:
            window = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=at)
        except (OSError, ValueError):  # it has shrunk, or is of a filesystem that maps nothing
            return self._read(fd, at, length, self._buffer_bytes)
        with window, memoryview(window) as view:
            return self._hash(view), length

    def _read(self, fd: int, at: int, length: int, piece: int) -> tuple[bytes, int]:
        """(digests, bytes hashed) of a window: what was just read is hashed in the processor's cache."""
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, self._buffer_bytes))  # aligned to a page
        preadv, new, chunk_bytes = os.preadv, self._new, self._chunk_bytes
        found: list[bytes] = []
        end = at + length
        with self._buffer[:piece] as view:
            views = [view]
            for start in range(at, end, chunk_bytes):
                wanted = min(chunk_bytes, end - start)
                # Whole pieces first: a call for each would cost a twentieth.
                if wanted == piece:
                    got = preadv(fd, views, start)
                    if got == piece:
                        found.append(self._of(view))
                        continue
                    hasher = new()
                    hasher.update(view[:got])
                else:
                    hasher, got = new(), 0
                    while wanted - got >= piece and preadv(fd, views, start + got) == piece:
                        hasher.update(view)
                        got += piece
                while got < wanted:
                    more = preadv(fd, [view[: min(piece, wanted - got)]], start + got)
                    if not more:
                        break
                    hasher.update(view[:more])
                    got += more
                if got:
                    found.append(hasher.digest())
                if got < wanted:
                    return b"".join(found), start + got - at
        return b"".join(found), length

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
