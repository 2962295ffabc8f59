"""Chunks that are sent past the event loop: well framed, whole, and never for ever."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from closeranks_agent.chunks.outflow import SLICE_BYTES, Outflow, Stopped


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def outflow(ours: socket.socket, timeout_s: float = 20.0) -> Outflow:
    return Outflow(os.dup(ours.fileno()), timeout_s)


def read_all(theirs: socket.socket) -> bytes:
    found = bytearray()
    while part := theirs.recv(1 << 16):
        found += part
    return bytes(found)


def test_parts_leave_as_one_chunk_of_http_however_little_the_socket_takes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    parts = [os.urandom(size) for size in (1, 0, 7, 3 * SLICE_BYTES, 5)] + [b"x"] * 200
    flow = outflow(ours)

    def send() -> None:
        flow.send(parts)
        flow.close()
        ours.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send)
    sending.start()
    found = read_all(theirs)
    sending.join()
    body = b"".join(parts)
    assert found == b"%x\r\n%b\r\n" % (len(body), body)


def test_who_does_not_read_loses_the_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    flow = outflow(pair[0], timeout_s=0.2)
    with pytest.raises(TimeoutError):
        flow.send([bytes(16 << 20)])
    flow.close()


def test_who_hangs_up_ends_it(pair: tuple[socket.socket, socket.socket]) -> None:
    flow = outflow(pair[0])
    pair[1].close()
    with pytest.raises(ConnectionError):
        flow.send([b"nobody hears this"])
    flow.close()


def test_it_ends_when_it_is_told_to(pair: tuple[socket.socket, socket.socket]) -> None:
    flow = outflow(pair[0])
    threading.Timer(0.1, flow.stop).start()
    with pytest.raises(Stopped):
        flow.send([bytes(16 << 20)])
    flow.close()
