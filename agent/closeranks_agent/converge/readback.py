"""Reading a long file back from the disk while the rest of it still comes.

A node is released only after what was written has been read again from the disk. For a long file that used to
begin when everything had come, and the network waited for the disk and then the disk for nothing. So each range
that was written past the page cache is read again the same way, some moments later, by a thread of its own, and
hashed: nothing of it was ever in memory for the reading to find. What does not read as it was written ends the
converge as any other error of the disk.

What is read back so counts at the proof as long as the file is what it was: the same inode, size and times as right
after it came into the tree. There a `lease` closes the gap that a stat leaves: nobody had the file open to write from
before it had its name until its ctime was a tick old. Whatever is written afterwards changes the ctime, and the
proof reads the whole file again. What decays afterwards, under an unchanged stat, is found by scrubs and audits as in
every file that has been proved.

Only files whose every chunk came and was written in this run, and are worth it. A restart forgets all of it.
"""

from __future__ import annotations

import errno
import heapq
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from closeranks_proto.content import chunk_count
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.limits import MIB

from .. import beneath, syscalls
from ..disk.hashing import KnownContent
from ..disk.records import Record, StatSignature, clock_ns, is_settled
from ..disk.signature import TICK_NS
from ..disk.volume import Volume
from ..hotpath.cache import is_absent
from ..memory import aligned
from . import lease
from .sink import BLOCK_BYTES, DIRECT_MIN_BYTES

if TYPE_CHECKING:
    from .plan import FileNeed

MIN_BYTES = 64 * MIB  # shorter files are read by the proof within a twentieth of a second
READ_BYTES = 4 * MIB  # in one request, where that much was written side by side
THREADS = 2
KEPT_MAX = 16_384  # files; a further one is read by the proof
_FLAGS = os.O_RDONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in the tree that was read back: its content digest, and the stat that tells whether it is still that."""

    digest: bytes
    stat: StatSignature


class Proved:
    """What of a volume's files was read back, by key. Lives as long as the agent, in memory. Thread-safe."""

    def __init__(self, algorithm: DigestAlgorithm) -> None:
        self._algorithm = algorithm
        self._kept: dict[bytes, Kept] = {}

    def keep(self, key: bytes, kept: Kept) -> None:
        if len(self._kept) < KEPT_MAX or key in self._kept:
            self._kept[key] = kept

    def still(self, root_fd: int, key: bytes, record: Record | None) -> KnownContent | None:
        """What a file holds by what was read back, if it lies in the tree as it did then."""
        kept = self._kept.get(key)
        if kept is None or record is None or record.chunks is None or record.stat != kept.stat:
            return None
        try:
            with beneath.spot(root_fd, key) as where:
                status = beneath.status(where)
        except OSError:
            return None  # whoever reads it will say why
        if status is None or StatSignature.of(status) != kept.stat:
            return None
        if self._algorithm.of(record.chunks) != kept.digest:
            return None  # somebody has read other bytes since, under the same stat: a scrub that found decay
        return KnownContent(kept.stat.pack(), kept.digest, record.chunks)


class Readbacks:
    """Those of one run; `close` when everything has been told to stop."""

    def __init__(self, algorithm: DigestAlgorithm, stopped: Callable[[], bool], proved: Proved) -> None:
        self.algorithm, self.stopped, self.proved = algorithm, stopped, proved
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="readback")

    def begin(self, need: FileNeed, name: bytes, stage_fd: int) -> Readback | None:
        """For a new staged file; None where it is not worth it, or a part of it does not come from elsewhere."""
        if need.size < MIN_BYTES or need.chunks is None:
            return None
        if need.chunk_bytes < DIRECT_MIN_BYTES or need.chunk_bytes % BLOCK_BYTES:
            return None  # its chunks go through the page cache
        if len(need.fetch) < chunk_count(need.size, need.chunk_bytes):
            return None
        return Readback(self, need, name, stage_fd)

    def submit(self, work: Callable[[], None]) -> Future[None]:
        return self._threads.submit(work)

    def close(self) -> None:
        """Waits for what is being read."""
        self._threads.shutdown()


class Readback:
    """One staged file's. `wrote` and `seal` are called in threads, `close` in any."""

    def __init__(self, owner: Readbacks, need: FileNeed, name: bytes, stage_fd: int) -> None:
        self._owner, self._need, self._name, self._stage_fd = owner, need, name, stage_fd
        self._lock = threading.Lock()
        self._waiting: list[int] = []  # a heap of chunk numbers
        self._read = 0
        self._reading: Future[None] | None = None
        self._fd: int | None = None
        self._buffer: memoryview | None = None
        self._given_up = self._closed = False
        self._failure: Exception | None = None
        self._sealed: os.stat_result | None = None

    def wrote(self, chunks: Sequence[int], directly: bool) -> None:
        """Chunks were written; what went through the page cache is left to the proof."""
        with self._lock:
            if not directly:
                self._given_up = True
            if self._given_up or self._closed:
                return
            for index in chunks:
                heapq.heappush(self._waiting, index)
            if self._reading is None:
                self._reading = self._owner.submit(self._drain)

    def seal(self) -> None:
        """Wait for the rest, and lease the file, which has its final attributes and is synced.

        Raises OSError where the disk did not give back what was written.
        """
        with self._lock:
            reading = self._reading
        if reading is not None:
            reading.result()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._given_up or self._fd is None or self._read < len(self._need.fetch):
                return
            if lease.take(self._fd):
                self._sealed = os.fstat(self._fd)

    def keep(self, volume: Volume, key: bytes) -> None:
        """To be called after the file came into the tree: remember that it needs no reading at the proof."""
        sealed, fd = self._sealed, self._fd
        if sealed is None or fd is None:
            return
        now = os.fstat(fd)
        if not is_settled(now.st_ctime_ns, clock_ns()):
            time.sleep((TICK_NS + 1) / 1e9)
        at = clock_ns()
        now = os.fstat(fd)
        known = volume.record(key)
        if (
            known is not None
            and known.stat == StatSignature.of(now)
            and is_settled(now.st_ctime_ns, at)
            and _unchanged(sealed) == _unchanged(now)
            and lease.is_unbroken(fd)
        ):
            self._owner.proved.keep(key, Kept(self._need.digest, known.stat))

    def close(self) -> None:
        """Let go of the file. What is being read ends soon, and does this itself."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            if self._reading is None:
                self._close_fd()

    def _close_fd(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    # --- reading ---------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Read what waits until nothing does. In a thread of the owner's."""
        if self._buffer is None:
            self._buffer = aligned(max(READ_BYTES, self._need.chunk_bytes))
        try:
            while (run := self._next_run()) is not None:
                self._read_run(*run, self._buffer)
        except Exception as error:  # noqa: BLE001 (whoever seals gets it)
            with self._lock:
                self._failure, self._given_up, self._reading = error, True, None
                if self._closed:
                    self._close_fd()

    def _next_run(self) -> tuple[int, int] | None:
        """(first, count) of chunks that lie side by side; None where nothing waits: then this thread is done."""
        most = max(1, READ_BYTES // self._need.chunk_bytes)
        with self._lock:
            if self._closed or self._given_up or not self._waiting or self._owner.stopped():
                self._reading = None
                if self._closed:
                    self._close_fd()
                return None
            first = heapq.heappop(self._waiting)
            count = 1
            while count < most and self._waiting and self._waiting[0] == first + count:
                heapq.heappop(self._waiting)
                count += 1
            return first, count

    def _read_run(self, first: int, count: int, buffer: memoryview) -> None:
        """Raises OSError where the disk gives something else than was written."""
        size = self._need.chunk_bytes
        start, last = first * size, min((first + count) * size, self._need.size)
        try:
            if self._fd is None:
                self._fd = os.open(self._name, _FLAGS, dir_fd=self._stage_fd)
            if last == self._need.size:  # its end may have gone through the page cache
                syscalls.write_out(self._fd)
                os.posix_fadvise(self._fd, start, last - start, os.POSIX_FADV_DONTNEED)
            got = self._read_full(self._fd, buffer, start, last - start)
            # A filesystem may take direct reads and answer them from memory all the same.
            whole = got == last - start and is_absent(self._fd, start, got)
        except OSError:
            whole = False
        if not whole:  # it may be that this disk is not to be read this way: the proof will tell
            self._given_up = True
            return
        for at in range(count):
            offset, length = self._need.span(first + at)
            if self._owner.algorithm.of(buffer[offset - start : offset - start + length]) != (
                self._need.chunk_digest(first + at)
            ):
                raise OSError(errno.EIO, "the disk gave back other bytes than were written to it")
        self._read += count

    @staticmethod
    def _read_full(fd: int, buffer: memoryview, offset: int, length: int) -> int:
        got = 0
        rounded = -(-length // BLOCK_BYTES) * BLOCK_BYTES
        while got < length:
            more = os.preadv(fd, [buffer[got:rounded]], offset + got)
            if not more:
                break
            got += more
        return got


def _unchanged(status: os.stat_result) -> tuple[int, ...]:
    """What a rename leaves as it was."""
    return (
        status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid, status.st_gid
    )  # fmt: skip
