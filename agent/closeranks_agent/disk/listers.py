"""The processes that list directories beside a scan, as the scan sees them: lent for one scan at a time.

They start when a scan of a large volume first wants them and end by themselves when nobody does (`lister`). One
that dies or answers nonsense is dropped; what it was asked is then done by the scan itself. A scan that ends
early leaves questions open: those processes are ended with it.

Invariant: what is under way to one process fits the socket's buffer, so that the two never wait for each other
to read.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, cast

from .channel import receive, send, start
from .index import LISTINGS_MAX
from .lister import Glance

log = logging.getLogger("closeranks.volume")

PROCESSES_MAX: Final = 4
UNDER_WAY: Final = 2  # batches: one in work, one waiting
BATCH_MAX: Final = LISTINGS_MAX
BATCH_MAX_BYTES: Final = 32 * 1024  # of paths; two such batches fit any socket buffer
BATCH_S: Final = 0.004  # how long a batch should take
ANSWER_MAX_S: Final = 600.0  # reading one answer that has begun


class Lister:
    """One process. Used by one scan at a time."""

    def __init__(self) -> None:
        self.channel, self._process = start("closeranks_agent.disk.lister")
        self.channel.settimeout(ANSWER_MAX_S)
        self.batches: deque[list[bytes]] = deque()  # under way
        self._each_s = BATCH_S / 8

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def appetite(self) -> int:
        """How many directories to ask for at a time."""
        return max(1, min(BATCH_MAX, int(BATCH_S / self._each_s)))

    def begin(self, root_fd: int) -> None:
        socket.send_fds(self.channel, [b"r"], [root_fd])

    def ask(self, skip: str, with_ctime: bool, paths: list[bytes]) -> None:
        """Raises OSError where the process is gone."""
        self.batches.append(paths)
        send(self.channel, (skip, with_ctime, paths))

    def answer(self) -> tuple[list[bytes], list[Glance | int]]:
        """The oldest batch and what was found. Raises OSError where the process is gone."""
        answer = receive(self.channel)
        if answer is None:
            raise ConnectionError("a process that lists directories ended")
        taken_s, found = cast(tuple[float, list[Glance | int]], answer)
        paths = self.batches.popleft()
        self._each_s = max(taken_s / len(paths), 1e-6)
        return paths, found

    def end(self) -> bool:
        """The scan is over; whether the process can be used again."""
        if self.batches:
            return False
        try:
            send(self.channel, ("", False, []))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.channel.close()
        self._process.kill()  # it holds nothing but descriptors
        self._process.wait()


class Listers:
    """`count` processes, as many as cores by default, for all volumes of an agent. Thread-safe."""

    def __init__(self, count: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0))
        self._count = min(PROCESSES_MAX, cores if cores > 1 else 0) if count is None else count
        self._listers: list[Lister] = []
        self._lent = threading.Lock()

    @contextmanager
    def lent(self, root_fd: int) -> Iterator[Sequence[Lister]]:
        """The processes, ready for a scan below `root_fd`; none while another scan has them."""
        if not self._count or not self._lent.acquire(blocking=False):
            yield ()
            return
        try:
            self._ready(root_fd)
            given = tuple(self._listers)
            try:
                yield given
            finally:
                for lister in given:
                    if not lister.end():
                        self._drop(lister)
        finally:
            self._lent.release()

    def close(self) -> None:
        """End them. A scan that has them finds them gone and goes on by itself."""
        for lister in list(self._listers):
            self._drop(lister)

    def _ready(self, root_fd: int) -> None:
        for lister in [one for one in self._listers if not one.alive]:
            self._drop(lister)
        try:
            while len(self._listers) < self._count:
                self._listers.append(Lister())
            for lister in self._listers:
                lister.begin(root_fd)
        except OSError as error:
            log.warning("directories are listed without the help of other processes: %s", error)
            self.close()

    def _drop(self, lister: Lister) -> None:
        if lister in self._listers:  # `close` may have been first
            self._listers.remove(lister)
        lister.close()
