"""What longer files that never rest held when they were committed: so that some version of them reaches the replicas.

A file that is replaced or rewritten every few milliseconds is committed about once a second, and by the time a
peer asks for that version the path holds another one. For small files `recent` keeps the bytes. Here the version
itself is kept for as long as fetches take: of a file that is *replaced* an open descriptor of the inode that was
read, which costs nothing but its room on disk; of one that is *rewritten in place* a copy without a name
(O_TMPFILE), for a descriptor would show what is written next. Nothing has to be cleaned up after a crash: neither
has a name, and a copy that lives for seconds is seldom written to the disk at all.

Only files that a look has read a moment before as well (`is_hot`) are kept, and only a content that did not change
while it was read. Whoever serves holds the bytes against the digest as always. A file that never rests for as
long as it takes to be read (32 MiB: some 4 ms) comes when it does.

Bounded: KEEP_S after the last use, ALL_MAX_BYTES and VERSIONS_MAX in all, nothing where room is short, and
IN_PLACE_MAX_BYTES of memory while files are rewritten in place. Rejected: memory
(as many bytes, which can not be given to the disk when memory is short), a copy of what is only replaced (30 MB/s of
writing for nothing), clones where the filesystem has them (they write the file out first and hold its writer up for
that long), one version for each file (its replicas fetch at different paces).
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from closeranks_proto.content import chunk_count, chunk_span
from closeranks_proto.limits import MIB

from .. import beneath
from ..syscalls import stamped_here
from .hashing import EntryReader, Reading
from .private import open_private
from .recent import FILE_MAX_BYTES as SMALL_MAX_BYTES
from .signature import clock_ns

KEEP_S: Final = 5.0
HOT_S: Final = 5.0
WANTED_S: Final = 60.0  # so long copies are made after a peer has asked for one
HOT_MAX: Final = 1024  # paths that were read lately
FILE_MAX_BYTES: Final = 128 * MIB  # so that two versions of one file can be kept
IN_PLACE_MAX_BYTES: Final = 32 * MIB  # of memory, while such a file is hot
ALL_MAX_BYTES: Final = 256 * MIB
VERSIONS_MAX: Final = 64
SPARE_TIMES: Final = 8  # so many times its size must be free on the disk
PAUSE_S: Final = 0.001  # between looks whether a writer rests
RESTLESS_S: Final = 3.0  # so long a file is not waited for again that never rested long enough
_CLOCK_REALTIME_COARSE: Final = 5  # which stamps files
CLOCK_TICK_NS: Final = int(time.clock_getres(_CLOCK_REALTIME_COARSE) * 1e9) + 1_000_000
_COPY_FLAGS: Final = os.O_TMPFILE | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Version:
    fd: int
    size: int
    used: float


class Versions:
    """By (key, content digest). Copies have their room in the directory `private`. Any thread."""

    def __init__(self, private: bytes) -> None:
        self._private = private
        self._lock = threading.Lock()
        self._read: OrderedDict[bytes, float] = OrderedDict()
        self._kept: OrderedDict[tuple[bytes, bytes], _Version] = OrderedDict()  # the last used comes last
        self._bytes = 0
        self._restless: OrderedDict[bytes, float] = OrderedDict()  # until when a file is not waited for
        self._scratch = _Scratch()
        self._asked = -inf  # when a peer asked for what is not on disk any more

    def is_hot(self, key: bytes, size: int) -> bool:
        """Whether a longer file is being read for the second time within HOT_S. Asked once for each reading."""
        if not SMALL_MAX_BYTES < size <= FILE_MAX_BYTES:
            return False
        now = time.monotonic()
        with self._lock:
            last = self._read.pop(key, None)
            self._read[key] = now
            if len(self._read) > HOT_MAX:
                self._read.popitem(last=False)
        return last is not None and now - last <= HOT_S

    def read_file(
        self, reader: EntryReader, key: bytes, fd: int, stopped: Callable[[], bool], in_place: bool, until: float
    ) -> Reading:  # fmt: skip
        """Read a hot file as it is between two writes, and keep what it held. Raises what `read_file` raises.

        `in_place`: it is written in the inode that was read before. Where it does not rest for long enough until
        then (monotonic), or can not be kept, it is read as ever.
        """
        status = os.fstat(fd)
        try:
            room = os.fstatvfs(fd)
            if room.f_bavail * room.f_frsize < SPARE_TIMES * status.st_size:
                return reader.read_file(key, fd, stopped)
            if in_place:
                reading = self._read_copied(reader, key, fd, until)
                return reader.read_file(key, fd, stopped) if reading is None else reading
            own = os.dup(fd)
        except OSError:  # a filesystem without unnamed files, or no room
            return reader.read_file(key, fd, stopped)
        try:
            reading = reader.read_file(key, own, stopped)
            if (
                not reading.steady
                and reading.bytes == status.st_size
                and _written(os.fstat(fd)) == _written(status)
            ):
                reading = replace(reading, steady=True)  # its name went to the next version meanwhile
        except BaseException:
            os.close(own)
            raise
        if reading.steady:
            self._keep(key, reader.digest_of(reading.record.value), own, status.st_size)
        else:
            os.close(own)
        return reading

    def _read_copied(self, reader: EntryReader, key: bytes, fd: int, until: float) -> Reading | None:
        """Of a file between two writes; None where it does not rest. Raises OSError.

        A copy is kept once a peer has asked in vain: it gets the version that follows. A node that nobody fetches from
        writes none.

        By way of memory that is ready before the writer rests: reading into it takes a fifth of writing a file.
        """
        size = os.fstat(fd).st_size
        if not 0 < size <= IN_PLACE_MAX_BYTES or not stamped_here(fd):
            return None
        with self._lock:
            if self._restless.get(key, 0.0) > time.monotonic():
                return None
        with self._scratch.of(size) as view:
            while time.monotonic() < until:
                before = _at_rest(fd)
                if before is None or before.st_size != size:
                    time.sleep(PAUSE_S)
                    continue
                count = beneath.pread_into(fd, view, 0)
                if count == size and _written(os.fstat(fd)) == _written(before):
                    reading = reader.read_copy(key, view, fd, before)
                    if time.monotonic() - self._asked <= WANTED_S:
                        self._keep(key, reader.digest_of(reading.record.value), self._copy(view), size)
                    return reading
        with self._lock:
            self._restless.pop(key, None)
            self._restless[key] = time.monotonic() + RESTLESS_S
            if len(self._restless) > HOT_MAX:
                self._restless.popitem(last=False)
        return None

    def _copy(self, content: memoryview) -> int:
        top = open_private(self._private)
        try:
            copy = os.open(b".", _COPY_FLAGS, 0o600, dir_fd=top)
        finally:
            os.close(top)
        try:
            at = 0
            while at < len(content):
                at += os.pwrite(copy, content[at:], at)
        except BaseException:
            os.close(copy)
            raise
        return copy

    def _keep(self, key: bytes, digest: bytes, fd: int, size: int) -> None:
        with self._lock:
            self._drop((key, digest))
            self._kept[key, digest] = _Version(fd, size, time.monotonic())
            self._bytes += size
            while self._bytes > ALL_MAX_BYTES or len(self._kept) > VERSIONS_MAX:
                self._drop(next(iter(self._kept)))

    def read(self, key: bytes, index: int, chunk_bytes: int, wanted: Callable[[bytes], bool]) -> bytes | None:
        """That chunk of the kept version in which it is `wanted`; None where none has it."""
        self._asked = time.monotonic()
        with self._lock:
            names = [name for name in reversed(self._kept) if name[0] == key]
        for name in names:
            with self._lock:
                version = self._kept.get(name)
                if version is None or index >= chunk_count(version.size, chunk_bytes):
                    continue
                fd, span = os.dup(version.fd), chunk_span(version.size, chunk_bytes, index)
            try:
                data = beneath.pread_full(fd, *span)
            finally:
                os.close(fd)
            if wanted(data):
                self._use(name)
                return data
        return None

    def _use(self, name: tuple[bytes, bytes]) -> None:
        with self._lock:
            version = self._kept.get(name)
            if version is not None:
                version.used = time.monotonic()
                self._kept.move_to_end(name)

    def forget(self) -> None:
        """Let go of what nobody has asked for any more."""
        self._scratch.forget()
        if not self._kept:
            return
        with self._lock:
            now = time.monotonic()
            while self._kept:
                oldest = next(iter(self._kept))
                if now - self._kept[oldest].used <= KEEP_S:
                    break
                self._drop(oldest)

    def clear(self) -> None:
        """Let go of everything."""
        self._scratch.forget(0.0)
        with self._lock:
            while self._kept:
                self._drop(next(iter(self._kept)))

    def _drop(self, name: tuple[bytes, bytes]) -> None:
        dropped = self._kept.pop(name, None)
        if dropped is not None:
            os.close(dropped.fd)
            self._bytes -= dropped.size


class _Scratch:
    """Memory that is kept while it is used: to make 18 MiB ready takes 6 ms, to read a file into them 5."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory: mmap.mmap | None = None
        self._used = 0.0

    @contextmanager
    def of(self, size: int) -> Iterator[memoryview]:
        """So many bytes of it, of one user at a time. Raises OSError where there is no memory."""
        with self._lock:
            if self._memory is None or len(self._memory) < size:
                self._drop()
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
                self._memory = mmap.mmap(-1, 1 << (size - 1).bit_length(), flags=flags)  # it may grow
            try:
                with memoryview(self._memory) as whole, whole[:size] as view:
                    yield view
            finally:
                self._used = time.monotonic()

    def forget(self, keep_s: float = KEEP_S) -> None:
        """Let go of it unless it was used of late, or is."""
        if (
            self._memory is None
            or time.monotonic() - self._used < keep_s
            or not self._lock.acquire(blocking=False)
        ):
            return
        try:
            self._drop()
        finally:
            self._lock.release()

    def _drop(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


def _at_rest(fd: int) -> os.stat_result | None:
    """The stat of an open file that nobody is writing to; None where somebody may be.

    Whatever is written from now on changes its mtime: that is stamped when a write begins, by a clock that ticks. What
    was begun before has ended: looking for data waits for the lock that a write holds (ext4, XFS, btrfs, F2FS, tmpfs).
    Whose mtime is recent is not waited for: a writer that never rests would have to wait for its lock each time.
    """
    if not _is_older(os.fstat(fd)):
        return None
    os.lseek(fd, 0, os.SEEK_DATA)
    status = os.fstat(fd)
    return status if _is_older(status) else None


def _is_older(status: os.stat_result) -> bool:
    """Whether it was written so long ago that the next write has another time stamp."""
    return abs(clock_ns() - status.st_mtime_ns) > CLOCK_TICK_NS


def _written(status: os.stat_result) -> tuple[int, int]:
    """By what a write shows, and nothing that only its name went through."""
    return status.st_size, status.st_mtime_ns
