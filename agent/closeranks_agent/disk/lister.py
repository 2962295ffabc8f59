"""The process that lists directories for a scan: names and stats in, one digest of each out.

Started by `listers`, which gives it one end of a socket pair; it ends with the other end, or when nothing was
asked of it for IDLE_S. It opens directories below the root's descriptor that it was sent, never through a
symlink nor onto another filesystem, and reads names and stats only. Whatever goes wrong with one directory is
the answer for this directory.

Rejected: threads (a `stat` of a cached file takes about a microsecond of kernel and as long of interpreter;
two threads were no faster than one), `statx` into one buffer through ctypes (no faster than `os.scandir`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from ..beneath import open_beneath
from .channel import own_end, receive, send
from .listing import look
from .walk import DIRECTORY_FLAGS

IDLE_S: Final = 90.0  # longer than the usual interval between scans

# A directory: (digest, names of subdirectories, every name could be looked at), or the number of an error.
Glance = tuple[bytes, Sequence[bytes], bool]


def list_directories(
    root_fd: int, skip: str, with_ctime: bool, paths: Sequence[bytes]
) -> tuple[float, list[Glance | int]]:
    """(seconds it took, each directory's glance or errno). `skip` is left out of the root, whose path is b""."""
    started = time.perf_counter()
    found: list[Glance | int] = []
    for path in paths:
        try:
            fd = open_beneath(root_fd, path, DIRECTORY_FLAGS)
            try:
                seen = look(fd, None if path else skip, with_ctime, keep=False)
            finally:
                os.close(fd)
        except OSError as error:
            found.append(error.errno or 0)
        else:
            found.append((seen.digest, seen.directories, seen.whole))
    return time.perf_counter() - started, found


def serve(channel: socket.socket) -> None:
    """Answer until the other end closes, or nothing comes for IDLE_S."""
    channel.settimeout(IDLE_S)
    while True:
        try:
            _, fds, _, _ = socket.recv_fds(channel, 1, 1)
            if not fds:
                return
            _serve_scan(channel, fds[0])
        except TimeoutError:
            return


def _serve_scan(channel: socket.socket, root_fd: int) -> None:
    """One scan's questions; an empty one ends it."""
    try:
        while (asked := receive(channel)) is not None:
            skip, with_ctime, paths = asked
            if not paths:
                return
            send(channel, list_directories(root_fd, skip, with_ctime, paths))
    finally:
        os.close(root_fd)


def main() -> int:
    with own_end() as channel:
        try:
            serve(channel)
        except (ConnectionError, KeyboardInterrupt):
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
