"""The chunk digests of a part of a long file, with the least cost a byte.

What is in the page cache is mapped, a window at a time, and hashed where it lies: a quarter faster than copying
it out. A mapped file that shrinks ends its reader with SIGBUS, and so does a bad sector: therefore only a
reading process maps, whose death is expected (`readers` asks another one again, without mapping). What is not
in the cache is asked for two windows ahead, so that the device always has several MiB to fetch, and read.

Holes are not read: their chunks are known. They are believed only of files that have rested for
HOLES_REST_NS, since filesystems have been wrong about holes in data that was just written.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from typing import Final

from .cache import is_absent, let_go

MIB: Final = 1 << 20
WINDOW_BYTES: Final = 8 * MIB
AHEAD_WINDOWS: Final = 2  # 16 MiB asked for: a disk at 3 GB/s has 5 ms of work
HOLES_REST_NS: Final = 10_000_000_000

Of = Callable[[memoryview], bytes]


class RangeReader:
    """For one algorithm and chunk length. `buffer` holds at least a window and is overwritten."""

    def __init__(self, of: Callable[..., bytes], chunk_bytes: int, keep_cache: bool) -> None:
        self._of, self._chunk_bytes, self._keep_cache = of, chunk_bytes, keep_cache
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
        asked = 0  # windows that the kernel was asked to fetch
        for number, at in enumerate(starts):
            length = min(self._window_bytes, end - at)
            if holes and self._is_hole(fd, at, length):
                parts.append(self._of_zeros(length))
                continue
            cached = not absent[number] and _is_cached(fd, at + length - 1)
            if cached and mapped:
                part = self._map(fd, at, length)
            else:
                if not cached:
                    for ahead in range(max(asked, number), min(number + AHEAD_WINDOWS + 1, len(starts))):
                        _fetch(fd, starts[ahead], min(self._window_bytes, end - starts[ahead]))
                        asked = ahead + 1
                part = self._read(fd, at, length)
            parts.append(part[0])
            if absent[number]:
                let_go(fd, at, length)
            if part[1] < length:
                break
        return b"".join(parts)

    def _map(self, fd: int, at: int, length: int) -> tuple[bytes, int]:
        """(digests, bytes hashed) of a window in place."""
        try:
            window = mmap.mmap(fd, length, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ, offset=at)
        except (OSError, ValueError):  # it has shrunk, or is of a filesystem that maps nothing
            return self._read(fd, at, length)
        with window, memoryview(window) as view:
            return self._hash(view), length

    def _read(self, fd: int, at: int, length: int) -> tuple[bytes, int]:
        """(digests, bytes hashed) of a window, a chunk at a time: what was just read is hashed in the cache."""
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, self._chunk_bytes))  # aligned to a page
        found: list[bytes] = []
        count = 0
        while count < length:
            wanted = min(self._chunk_bytes, length - count)
            view = self._buffer[:wanted]
            got = _read_full(fd, view, at + count)
            if got:
                found.append(self._of(view[:got]))
            count += got
            if got < wanted:
                break
        return b"".join(found), count

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


def _fetch(fd: int, at: int, length: int) -> None:
    try:
        os.posix_fadvise(fd, at, length, os.POSIX_FADV_WILLNEED)
    except OSError:
        return  # not a filesystem that takes advice
