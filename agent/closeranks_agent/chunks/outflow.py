"""Sending chunks past the event loop: one thread reads, hashes and sends.

Through the event loop each mebibyte is copied twice more, and sixteen streams share one thread. So once the answer's
headers are out, batches go straight to the socket, framed as HTTP's chunked coding wants it: on the wire nothing
is different. The event loop's transport has nothing to send meanwhile. Only for plain TCP; where a budget slows the
stream, slices go through the event loop, which is where budgets live.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from aiohttp import HttpVersion11, web

from ..memory import aligned

Buffer = bytes | memoryview

SLICE_BYTES = 256 * 1024  # each must be taken within the time limit
PARTS_MAX = 64  # in one call
TICK_S = 0.25  # how soon a thread hears that it is to stop


class Stopped(ConnectionError):
    """Nobody waits for the rest."""


class Outflow:
    """One answer's socket. `send` is called in a thread, everything else on the event loop."""

    def __init__(self, fd: int, timeout_s: float) -> None:
        self._fd, self._timeout_s = fd, timeout_s
        self._stop = threading.Event()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._buffer: memoryview | None = None

    def send(self, parts: Sequence[Buffer]) -> None:
        """One HTTP chunk of these parts. Raises ConnectionError, TimeoutError where the peer reads too slowly."""
        left = [memoryview(part) for part in (b"%x\r\n" % sum(map(len, parts)), *parts, b"\r\n")]
        taken, deadline = 0, time.monotonic() + self._timeout_s
        while left:
            if self._stop.is_set():
                raise Stopped
            try:
                sent = os.writev(self._fd, left[:PARTS_MAX])
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("it reads too slowly") from None
                self._poll.poll(TICK_S * 1000)
                continue
            taken += sent
            if taken >= SLICE_BYTES:
                taken, deadline = 0, time.monotonic() + self._timeout_s
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]

    def buffer(self, length: int) -> memoryview:
        """Memory to read into, always the same: a mebibyte of new memory costs more than to fill it."""
        if self._buffer is None or len(self._buffer) < length:
            self._buffer = aligned(length)
        return self._buffer

    def stop(self) -> None:
        """Let a `send` that is under way end soon."""
        self._stop.set()

    def close(self) -> None:
        os.close(self._fd)


def outflow_of(request: web.Request, timeout_s: float) -> Outflow | None:
    """A way past the event loop; None where there is none. Older clients than HTTP/1.1 know no chunked coding."""
    transport = request.transport
    if request.version != HttpVersion11:
        return None
    if transport is None or transport.is_closing() or transport.get_extra_info("ssl_object") is not None:
        return None
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return Outflow(os.dup(found.fileno()), timeout_s)
