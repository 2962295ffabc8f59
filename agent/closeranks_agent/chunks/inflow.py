"""Taking a peer's answer apart: the network is waited for only when nothing of what came is left.

A record of a small file costs less than one turn of the event loop, so that records are cut out of large
pieces without waiting in between. Payload is counted as it is taken, and paid for as fast as the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from ..speed import Bucket
from .wire import HEADER


class PeerFailed(Exception):
    """A peer gave no usable answer; the text says what it did."""

    def __init__(self, text: str, busy_s: float = 0.0) -> None:
        super().__init__(text)
        self.busy_s = busy_s


class Inflow:
    """The body of one answer."""

    def __init__(
        self, content: aiohttp.StreamReader, budget: Bucket, received: Callable[[int], None]
    ) -> None:
        self._content, self._budget, self._received = content, budget, received
        self._piece = memoryview(b"")

    async def header(self) -> tuple[int, int, int]:
        """(status, position, payload length) of the next record. Raises PeerFailed where there is none."""
        status, position, length = HEADER.unpack(await self._taken(HEADER.size, False))
        return status, position, length

    async def payload(self, length: int) -> bytes:
        """The record's payload. Raises PeerFailed where the stream ends before."""
        return await self._taken(length, True)

    async def ended(self) -> bool:
        """Whether nothing more comes; waits to the very end, or the connection could not be used again."""
        return not self._piece and not await self._content.readany()

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
            if not self._piece:
                self._piece = memoryview(await self._content.readany())
                if not self._piece:
                    raise PeerFailed("it ended the stream before everything was sent")
            limited = counts and self._budget.rate_bytes_s is not None
            part = self._piece[: min(left, self._budget.slice_bytes) if limited else left]
            self._piece = self._piece[len(part) :]
            left -= len(part)
            parts.append(part)
            if counts:
                self._received(len(part))
                await self._budget.take(len(part))
        return b"".join(parts)
