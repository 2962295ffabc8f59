"""The process that reads for a scrub: in the idle I/O class and nice, one file or range after the other.

A process, not a thread: a nice thread that holds the interpreter's lock while the machine is busy would keep the
whole agent waiting. It opens below the root's descriptor that it was sent, never through a symlink nor onto another
filesystem, reads without read-ahead, and gives the page cache back (`residence`).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from closeranks_proto.digests import DigestAlgorithm, algorithm_named

from .. import syscalls
from ..beneath import open_beneath, pread_into
from ..disk.channel import own_end, receive, send
from ..disk.hashing import FILE_FLAGS
from ..disk.records import pack_signature
from .residence import Runs, absent, drop

NICENESS: Final = 10
PIECE_MAX_BYTES: Final = (
    2 << 20
)  # the largest folio of a cache with pages of 4 KiB; only whole ones are dropped
BACK_BYTES: Final = 128 * 1024

# (path, packed stat signature that it must have, offset, length, chunk length, read from the disk itself)
Job = tuple[bytes, bytes, int, int, int, bool]
# (digests of the chunks, bytes that were not in memory, seconds that reading them took), MOVED, or an errno
Answer = tuple[bytes, int, float] | int
MOVED: Final = -1  # another file or another state of it: a scan's matter


def read_job(root_fd: int, algorithm: DigestAlgorithm, buffer: memoryview, job: Job) -> Answer:
    """One file's range. A file that changed before or meanwhile is MOVED, never an error of its bytes."""
    path, signature, offset, length, chunk_bytes, afresh = job
    opened = _open_known(root_fd, path, signature)
    if isinstance(opened, int):
        return opened
    fd, status = opened
    try:
        if afresh:
            # What somebody wrote through a mapping; only the first store to a page gives a new time.
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digests, cold, taken_s = bytearray(), 0, 0.0
        for at in range(offset, offset + max(length, 1), chunk_bytes):
            size = min(chunk_bytes, offset + length - at)
            runs = absent(fd, at, size, status)
            started = time.perf_counter()
            count = pread_into(fd, buffer[:size], at)
            if runs:
                taken_s += time.perf_counter() - started
                cold += sum(run[1] for run in runs)
                drop(fd, runs)
            if count < size:
                return MOVED
            digests += algorithm.of(buffer[:size])
        return (bytes(digests), cold, taken_s) if pack_signature(os.fstat(fd)) == signature else MOVED
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)


def read_chunk(root_fd: int, path: bytes, signature: bytes, offset: int, length: int) -> bytes | int:
    """A range of a file as it lies on disk now, else MOVED or an errno.

    Its pages are dropped first and read anew; those that were not in memory before do not stay there.
    """
    opened = _open_known(root_fd, path, signature)
    if isinstance(opened, int):
        return opened
    fd, status = opened
    try:
        start, wide = _whole_pieces(offset, length, status.st_size)
        cold = absent(fd, start, wide, status)
        syscalls.write_out(fd)  # only clean pages can be dropped
        drop(fd, ((start, wide),) if length else ())
        data = bytearray(length)
        count = pread_into(fd, memoryview(data), offset)
        drop(fd, cold)
        _bring_back(fd, start, wide, cold)
        return bytes(data) if count == length and pack_signature(os.fstat(fd)) == signature else MOVED
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(fd)


def _whole_pieces(offset: int, length: int, size: int) -> tuple[int, int]:
    """(start, length) of a range and of all pages that the kernel may keep in one piece with parts of it."""
    start = offset // PIECE_MAX_BYTES * PIECE_MAX_BYTES
    end = min(size, -(-(offset + length) // PIECE_MAX_BYTES) * PIECE_MAX_BYTES)
    return start, end - start


def _bring_back(fd: int, start: int, length: int, cold: Runs) -> None:
    """Read again what of a range was in memory.

    Waits for it: a page that is only on its way counts as absent, and the next audit would leave it out.
    """
    scratch = memoryview(bytearray(min(length, BACK_BYTES)))
    for begin, size in (*cold, (start + length, 0)):
        if begin > start:
            os.posix_fadvise(fd, start, begin - start, os.POSIX_FADV_WILLNEED)
            with suppress(OSError):  # the chunk itself was read; these bytes are whoever's who asks for them
                for at in range(start, begin, BACK_BYTES):
                    os.preadv(fd, [scratch[: begin - at]], at)
        start = begin + size


def _open_known(root_fd: int, path: bytes, signature: bytes) -> tuple[int, os.stat_result] | int:
    """(descriptor, stat) of a file that is still the one with this signature, else MOVED or an errno."""
    try:
        fd = _open(root_fd, path)
    except OSError as error:
        return _refused(error)
    try:
        status = os.fstat(fd)
        known = stat.S_ISREG(status.st_mode) and pack_signature(status) == signature
        if known:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # read-ahead would be left behind
    except OSError as error:
        os.close(fd)
        return error.errno or errno.EIO
    if not known:
        os.close(fd)
        return MOVED
    return fd, status


def _refused(error: OSError) -> int:
    """Why a file could not be opened: another one is there by now, or an errno."""
    gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENXIO)
    return MOVED if gone else error.errno or errno.EIO


def _open(root_fd: int, path: bytes) -> int:
    try:
        return open_beneath(root_fd, path, FILE_FLAGS | os.O_NOATIME)
    except PermissionError:
        return open_beneath(root_fd, path, FILE_FLAGS)


def serve(channel: socket.socket) -> None:
    """Answer until the other end closes. The first message brings the root, the digest and the chunk length."""
    _, fds, _, _ = socket.recv_fds(channel, 1, 1)
    first = receive(channel)
    if not fds or first is None:
        return
    algorithm, chunk_bytes = algorithm_named(first[0]), int(first[1])
    buffer = memoryview(bytearray(chunk_bytes))
    while (asked := receive(channel)) is not None:
        jobs: Sequence[Job] = asked[0]
        send(channel, ([read_job(fds[0], algorithm, buffer, job) for job in jobs],))


def main() -> int:
    syscalls.set_idle_io()
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    with own_end() as channel:
        try:
            serve(channel)
        except (ConnectionError, KeyboardInterrupt):
            return 0  # the agent is gone
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
