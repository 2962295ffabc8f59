"""Asking a peer for long chunks without a client library in between: what comes goes where it belongs at once.

Through aiohttp each mebibyte is copied four times before it lies in memory that can be written to a disk; here the
kernel puts it there. Requests and answers are the same plain HTTP/1.1, and no more of a peer is believed: heads and
lines are bounded, framing is checked, and whoever calls sets the time limits. Connections are kept for the next
request while a run lasts. Bundles of small files go the other way: they are cut out of what came anyway.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from closeranks_proto.errors import ProtocolError

HEAD_MAX_BYTES = 16 * 1024
LINE_MAX_BYTES = 1024
TRAILERS_MAX = 16
INTERIM_MAX = 8  # answers that only say that another will come
ASIDE_BYTES = 16 * 1024  # read at once where framing may follow: what is payload of it is copied
IDLE_MAX = 16
ADDRESSES_MAX = 8  # of one peer that are tried
HEAD_START_S = 0.25  # of each address before the next one is tried beside it
UNTIL_CLOSE = 1 << 62  # the length of a body that ends when the peer hangs up
_STATUS = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2})(?: .*)?")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")

_Address = tuple[int, int, int, tuple[Any, ...]]  # family, type, protocol, where to


class Answer:
    """A peer's answer whose head has come. The rest can be read once."""

    def __init__(self, sock: socket.socket, status: int, length: int | None, came: bytes) -> None:
        """`length` of the body, None where it comes in HTTP's chunks; `came` behind the head already."""
        self.status = status
        self._sock, self._loop = sock, asyncio.get_running_loop()
        self._chunked, self._left, self._inside = length is None, length or 0, False
        self._came, self._at = came, 0
        self._ended = length == 0
        self._closes = length == UNTIL_CLOSE

    def at_eof(self) -> bool:
        return self._ended

    def is_clean(self) -> bool:
        """Whether the connection stands where another answer may begin."""
        return self._ended and self._at == len(self._came)

    async def readchunk(self) -> tuple[bytes, bool]:
        """Some of the body, b"" at its end; and whether a chunk of HTTP ends there, or the body."""
        if not await self._has_more():
            return b"", True
        if self._at == len(self._came) and not await self._receive():
            return b"", True
        piece = self._came[self._at : self._at + self._left]
        self._at += len(piece)
        self._left -= len(piece)
        return piece, not self._left

    async def read_into(self, view: memoryview) -> int:
        """Some of the body into `view`, without a detour where that can be; how much, 0 at its end."""
        if not await self._has_more():
            return 0
        most = min(len(view), self._left)
        got = min(most, len(self._came) - self._at)
        if got:
            view[:got] = memoryview(self._came)[self._at : self._at + got]
            self._at += got
        else:
            try:
                got = self._sock.recv_into(view, most)
            except BlockingIOError:
                got = await self._loop.sock_recv_into(self._sock, view[:most])
            if not got:
                return self._hung_up()
        self._left -= got
        return got

    async def read(self, most: int) -> bytes:
        """The body, or its first `most` bytes."""
        found = b""
        while len(found) < most and (piece := (await self.readchunk())[0]):
            found += piece
        return found[:most]

    async def _has_more(self) -> bool:
        if self._left or self._ended:
            return not self._ended
        if not self._chunked:
            self._ended = True
            return False
        if self._inside and await self._line():
            raise ProtocolError("its answer is not framed as HTTP wants it")
        self._inside = True
        size = (await self._line()).partition(b";")[0].strip()
        if not _CHUNK_SIZE.fullmatch(size):
            raise ProtocolError("its answer is not framed as HTTP wants it")
        self._left = int(size, 16)
        if not self._left:
            await self._trailers()
        return not self._ended

    async def _trailers(self) -> None:
        for _ in range(TRAILERS_MAX):
            if not await self._line():
                self._ended = True
                return
        raise ProtocolError("its answer has too many trailers")

    async def _line(self) -> bytes:
        while (end := self._came.find(b"\n", self._at)) < 0:
            if len(self._came) - self._at > LINE_MAX_BYTES:
                raise ProtocolError("its answer has too long a line")
            await self._receive()
        line = self._came[self._at : end]
        self._at = end + 1
        return line.rstrip(b"\r")

    async def _receive(self) -> bool:
        """Whether something came; False at the end of a body that ends so."""
        came = await self._loop.sock_recv(self._sock, ASIDE_BYTES)
        # What is there already is given at once: tiny frames without end would stop all else.
        await asyncio.sleep(0)
        if not came:
            return bool(self._hung_up())
        self._came, self._at = self._came[self._at :] + came, 0
        return True

    def _hung_up(self) -> int:
        """0, where that is the body's end. Raises ConnectionError."""
        if not self._closes:
            raise ConnectionResetError("it hung up")
        self._ended, self._left = True, 0
        return 0


class Connections:
    """To the peers of one run."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[tuple[str, socket.socket]] = []

    @asynccontextmanager
    async def post(
        self, address: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[Answer]:
        """The answer of the peer at `address` (host:port). Raises ConnectionError, OSError, ProtocolError."""
        lines = [f"POST {path} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        sock, answer, stays = await self._exchange(address, request)
        try:
            yield answer
            stays = stays and answer.is_clean() and len(self._idle) < IDLE_MAX
        except BaseException:
            stays = False
            raise
        finally:
            if stays:
                self._idle.append((address, sock))
            else:
                sock.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    async def _exchange(self, address: str, request: bytes) -> tuple[socket.socket, Answer, bool]:
        """(connection, answer, whether it may be used again)."""
        while True:
            kept = next((one for one in self._idle if one[0] == address), None)
            if kept is not None:
                self._idle.remove(kept)
            if kept is None:
                async with asyncio.timeout(self._connect_timeout_s):
                    sock = await _connected(address)
            else:
                sock = kept[1]
            try:
                await asyncio.get_running_loop().sock_sendall(sock, request)
                return (sock, *await _answer(sock))
            except ConnectionError:
                sock.close()
                if kept is None:
                    raise  # of a kept one it only means that the peer did not keep it as long
            except BaseException:
                sock.close()
                raise


async def _connected(address: str) -> socket.socket:
    """Connected to the first of its addresses that answers; one that is silent soon has company (RFC 8305).

    Raises ConnectionError, whatever keeps us from there.
    """
    failure = "its address leads nowhere"
    try:
        waiting = deque(await _addresses(address))
    except (ValueError, OSError) as error:
        raise ConnectionError(f"{failure}: {error}") from error
    trying: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or trying:
            if waiting:
                trying.add(asyncio.create_task(_reached(*waiting.popleft())))
            head_start_s = HEAD_START_S if waiting else None
            ended, _ = await asyncio.wait(trying, timeout=head_start_s, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                trying.remove(one)
                try:
                    return one.result()
                except OSError as error:
                    failure = (
                        f"it can not be reached: {os.strerror(error.errno).lower() if error.errno else error}"
                    )
    finally:
        for one in trying:
            one.cancel()
        for late in await asyncio.gather(*trying, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    raise ConnectionError(failure)


async def _addresses(address: str) -> list[_Address]:
    """Raises ValueError, OSError."""
    where = urlsplit(f"//{address}")
    host, port = where.hostname or "", where.port or 0
    if not host or not port:
        return []
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, kind, protocol, to) for family, kind, protocol, _, to in found[:ADDRESSES_MAX]]


async def _reached(family: int, kind: int, protocol: int, to: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, to)
    except BaseException:
        sock.close()
        raise
    return sock


async def _answer(sock: socket.socket) -> tuple[Answer, bool]:
    """The answer as its head has it, and whether the connection stays."""
    came = b""
    for _ in range(INTERIM_MAX):
        while (end := came.find(b"\r\n\r\n")) < 0:
            if len(came) > HEAD_MAX_BYTES:
                raise ProtocolError("the head of its answer is too long")
            came += await _some(sock)
        first, *lines = came[:end].split(b"\r\n")
        came = came[end + 4 :]
        status = _STATUS.fullmatch(first)
        if status is None:
            raise ProtocolError("its answer is no HTTP/1.1")
        if status[1][:1] != b"1":
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (x.partition(b":") for x in lines)
            }
            length = _length(headers)
            stays = length != UNTIL_CLOSE and headers.get(b"connection", b"").lower() != b"close"
            return Answer(sock, int(status[1]), length, came), stays
    raise ProtocolError("it never comes to its answer")


def _length(headers: Mapping[bytes, bytes]) -> int | None:
    """Of the body in bytes; None where it comes in HTTP's chunks."""
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return None
    length = headers.get(b"content-length")
    if length is None:
        return UNTIL_CLOSE
    if not re.fullmatch(rb"[0-9]{1,15}", length):
        raise ProtocolError("its answer does not say rightly how long it is")
    return int(length)


async def _some(sock: socket.socket) -> bytes:
    came = await asyncio.get_running_loop().sock_recv(sock, ASIDE_BYTES)
    if not came:
        raise ConnectionResetError("it hung up")
    return came
