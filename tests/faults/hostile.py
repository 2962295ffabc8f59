"""A source that means no good, and a coordinator's road that is bad: both on loopback, as real sockets."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from enum import Enum
from pathlib import Path

import msgspec


class Deed(Enum):
    """What a hostile source does with every request for chunks."""

    GARBAGE = "garbage"  # bytes that are no HTTP
    WRONG = "wrong"  # a stream of records of the right kind with nonsense in it
    FORGED = "forged"  # everything as it should be, but for the bytes themselves
    STALL = "stall"  # headers, then nothing
    DRIP = "drip"  # a record as it should be, but a byte a second
    MIDWAY = "midway"  # a part of a record as it should be, then the end
    ENDLESS = "endless"  # a record of four thousand million bytes
    REDIRECT = "redirect"  # to the machine's own metadata, or wherever; here to itself, which notices


ELSEWHERE = b"/elsewhere"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-closeranks-chunks\r\nConnection: close\r\n\r\n"


class HostileSource:
    """Listens until it is closed; `asked` counts the requests that it got, `followed` those that it led elsewhere.

    It has the tree that it is asked for, so that its records have the right length where the deed wants that.
    """

    def __init__(self, deed: Deed, tree: Path, seed: int = 1) -> None:
        self.deed, self.tree, self.asked, self.followed = deed, tree, 0, 0
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="hostile", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.settimeout(60)
            path, body = _request(peer)
            self.followed += path == ELSEWHERE
            lengths = self._lengths(body)
            self.asked += 1
            self._do(peer, lengths)

    def _lengths(self, request: bytes) -> list[int]:
        """Of the chunks that are asked for, as an honest source would send them."""
        _, _, _, chunk_bytes, chunks = msgspec.msgpack.decode(request)
        found = []
        for key, index, _ in chunks:
            size = (self.tree / os.fsdecode(key.replace(b"\0", b"/"))).stat().st_size
            found.append(min(chunk_bytes, size - index * chunk_bytes))
        return found

    def _do(self, peer: socket.socket, lengths: list[int]) -> None:
        record = _header(0, lengths[0])
        match self.deed:
            case Deed.GARBAGE:
                peer.sendall(self._rng.randbytes(100_000))
            case Deed.WRONG:
                peer.sendall(HEAD + b"\x00\x00\x00\x00\x00\x00\x10" + bytes(16))
            case Deed.FORGED:
                peer.sendall(HEAD)
                for position, length in enumerate(lengths):
                    peer.sendall(_header(position, length) + self._rng.randbytes(length))
            case Deed.STALL:
                peer.sendall(HEAD)
                self._closed.wait(60)
            case Deed.DRIP:
                peer.sendall(HEAD + record)
                while not self._closed.wait(1.0):
                    peer.sendall(b"x")
            case Deed.MIDWAY:
                peer.sendall(HEAD + record + b"x")
            case Deed.ENDLESS:
                peer.sendall(HEAD + b"\x00\x00\x00\xff\xff\xff\xff")
                while not self._closed.is_set():
                    peer.sendall(bytes(65536))
            case Deed.REDIRECT:
                peer.sendall(
                    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:%d%b\r\n"
                    b"Content-Length: 0\r\nConnection: close\r\n\r\n" % (self.port, ELSEWHERE)
                )


def _header(position: int, length: int) -> bytes:
    return struct.pack(">BHI", 0, position, length)


def _request(peer: socket.socket) -> tuple[bytes, bytes]:
    """Path and body of one HTTP request that tells its length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += peer.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += peer.recv(65536)
    return head.split(b" ", 2)[1], body


class RoughRoad:
    """A TCP door to `target` that delays each piece, cuts connections at random, and lets them meet out of order.

    Out of order: a connection may be held before its first byte goes on, so that a later one arrives earlier.
    """

    def __init__(self, target: int, seed: int, delay_s: float = 0.05, cut_after_s: float = 2.0) -> None:
        self.target, self.delay_s, self.cut_after_s = target, delay_s, cut_after_s
        self.connections = self.cuts = 0
        self.rough = True
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="road", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            life_s = self._rng.uniform(0.1, self.cut_after_s) if self.rough else None
            held_s = self._rng.uniform(0, 0.5) if self.rough else 0.0
            threading.Thread(target=self._carry, args=(near, life_s, held_s), daemon=True).start()

    def _carry(self, near: socket.socket, life_s: float | None, held_s: float) -> None:
        time.sleep(held_s)  # the fault itself: nothing waits for it
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()
        if life_s is not None:
            time.sleep(life_s)  # the fault itself
            self.cuts += 1
            for peer in (near, far):
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.rough:
                    time.sleep(self.delay_s)  # the fault itself
                sink.sendall(data)
        for peer in (source, sink):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        source.close()  # the other pump closes the other end
