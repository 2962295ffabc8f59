"""Taking a peer's answer apart: the network is waited for only when nothing of what came is left.

A record of a small file costs less than one turn of the event loop, so that records are cut out of large
pieces without waiting in between. Long chunks go into memory that is aligned to pages and used again and again,
so that they can be written to a disk as they are. Payload is counted as it is taken, and paid for as fast as the
budget allows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp

from closeranks_proto.limits import PEER_TIMEOUT_S

from ..memory import aligned
from ..speed import Bucket
from .straight import Answer
from .wire import HEADER

SLAB_BYTES = 4 * 1024 * 1024  # of memory for chunks, got at once
PACE_BYTES_S = 256  # a source that keeps us waiting and sends less than this is as good as silent


class PeerFailed(Exception):
    """A peer gave no usable answer; the text says what it did."""

    def __init__(self, text: str, busy_s: float = 0.0) -> None:
        super().__init__(text)
        self.busy_s = busy_s


class Buffers:
    """Memory for chunks of at most `length` bytes. As much is kept as was ever in use at once."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._free: list[memoryview] = []
        self._lent: dict[int, memoryview] = {}  # by the identity of what was given out

    def take(self, length: int) -> memoryview:
        if not self._free:
            slab = aligned(self._length * max(1, SLAB_BYTES // self._length))
            self._free = [slab[at : at + self._length] for at in range(0, len(slab), self._length)][::-1]
        whole = self._free.pop()
        view = whole[:length]
        self._lent[id(view)] = whole
        return view

    def give_back(self, view: memoryview) -> None:
        """Nobody looks at it any more."""
        whole = self._lent.pop(id(view), None)
        if whole is not None:
            self._free.append(whole)

    def let_go(self) -> None:
        """Nothing is taken any more: whoever still writes from a view has its memory, and nobody else.

        The owner stands in circles of references, which Python looks for after minutes; until then each converge
        would keep its megabytes.
        """
        self._free.clear()
        self._lent.clear()


class Inflow:
    """The body of one answer."""

    def __init__(
        self,
        content: aiohttp.StreamReader | Answer,
        budget: Bucket,
        received: Callable[[int], None],
        timeout_s: float = PEER_TIMEOUT_S,
        least_bytes_s: float = PACE_BYTES_S,
    ) -> None:
        """`timeout_s` of waiting, one wait after the other, must bring `least_bytes_s` each."""
        self._content, self._budget, self._received = content, budget, received
        self._timeout_s, self._waited_s, self._came = timeout_s, 0.0, 0
        self._least_bytes_s = least_bytes_s
        self._piece = memoryview(b"")

    async def header(self) -> tuple[int, int, int]:
        """(status, position, payload length) of the next record. Raises PeerFailed where there is none."""
        status, position, length = HEADER.unpack(await self._taken(HEADER.size, False))
        return status, position, length

    async def payload(self, length: int) -> bytes:
        """The record's payload. Raises PeerFailed where the stream ends before."""
        return await self._taken(length, True)

    async def fill(self, buffer: memoryview) -> None:
        """The same, into `buffer`, which has the payload's length."""
        at = 0
        while at < len(buffer):
            if not self._piece and isinstance(self._content, Answer) and self._budget.rate_bytes_s is None:
                at += await self._into(self._content, buffer[at:])
                continue
            part = await self._part(len(buffer) - at, True)
            buffer[at : at + len(part)] = part
            at += len(part)

    async def _into(self, content: Answer, buffer: memoryview) -> int:
        """What came next, where it belongs."""
        asked = time.monotonic()
        async with asyncio.timeout(self._timeout_s):
            got = await content.read_into(buffer)
        if not got:
            raise PeerFailed("it ended the stream before everything was sent")
        self._pace(time.monotonic() - asked, got)
        self._received(got)
        return got

    async def ended(self) -> bool:
        """Whether nothing more comes; waits to the very end, or the connection could not be used again."""
        return not self._piece and not await self._next()

    async def _next(self) -> bytes:
        """What came next, as it came (joining pieces would copy them); b"" at the end.

        What is no payload (framing, trailers) keeps the socket busy: it must not put off the time limit.
        """
        async with asyncio.timeout(self._timeout_s):
            while True:
                piece, at_boundary = await self._content.readchunk()
                # The end is asked for too: a body that never was ends each piece at a boundary.
                if piece or not at_boundary or self._content.at_eof():
                    return piece

    async def _taken(self, length: int, counts: bool) -> bytes:
        piece = self._piece
        if len(piece) >= length and not (counts and self._budget.rate_bytes_s is not None):
            self._piece = piece[length:]
            if counts:
                self._received(length)
            return bytes(piece[:length])
        parts: list[memoryview] = []
        left = length
        while left:
            parts.append(await self._part(left, counts))
            left -= len(parts[-1])
        return b"".join(parts)

    async def _part(self, most: int, counts: bool) -> memoryview:
        """Some of what came, at most that many bytes; paid for where it `counts`."""
        if not self._piece:
            asked = time.monotonic()
            self._piece = memoryview(await self._next())
            if not self._piece:
                raise PeerFailed("it ended the stream before everything was sent")
            self._pace(time.monotonic() - asked, len(self._piece))
        limited = counts and self._budget.rate_bytes_s is not None
        part = self._piece[: min(most, self._budget.slice_bytes) if limited else most]
        self._piece = self._piece[len(part) :]
        if counts:
            self._received(len(part))
            await self._budget.take(len(part))
        return part

    def _pace(self, waited_s: float, came: int) -> None:
        """A source that is never silent must send something to speak of; time spent on our side does not count."""
        self._waited_s += waited_s
        self._came += came
        if self._waited_s >= self._timeout_s:
            if self._came < self._least_bytes_s * self._waited_s:
                raise PeerFailed(f"it sent {self._came} bytes in {self._waited_s:.0f} s")
            self._waited_s, self._came = 0.0, 0
