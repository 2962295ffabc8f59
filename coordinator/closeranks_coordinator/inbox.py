"""What an agent sends, taken off its socket as it comes and dated, while what came before is still being stored.

An agent proves that it has seen everything up to a moment by an age, which counts from the arrival of its frame.
A frame that lies in the socket until the disk has written the one before it would be taken for older than it is;
under load no proof would be young enough for a verdict. So frames wait here, with the moment of their coming.

While a disk keeps the one before them waiting, some need not wait: see `ahead`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from closeranks_proto import limits

# What may wait for one session: all the commits that its credit allows, and what two of them carry. Beyond it the
# socket is left alone.
INBOX_MAX_BYTES = limits.CREDIT_COMMITS * limits.COMMIT_MAX_BYTES + 2 * limits.CARRY_MAX_BYTES
INBOX_MAX_FRAMES = 256
# What may wait for all sessions together: six that are full, or 1,000 with half of the largest commit each. Beyond it a
# session that has something waiting is not read on: each holds one frame then, and all get on.
INBOXES_MAX_BYTES = 128 * limits.MIB
IDLE_S = 0.001  # a frame that was waited for so long had not arrived before
BACKLOG_IDLE_S = 0.1  # the same while a socket that was left alone is being emptied


@dataclass(slots=True)
class Waiting:
    """What waits in all inboxes."""

    bytes: int = 0


class Inbox:
    """The frames of one session, in order. `run` fills it, `take` empties it; `close` at its end."""

    def __init__(
        self, socket: web.WebSocketResponse, clock: Callable[[], float], waiting: Waiting | None = None
    ) -> None:
        self._waiting = waiting or Waiting()
        self._socket = socket
        self._clock = clock
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._takers: list[Callable[[bytes], bool]] = []

    async def take(self) -> tuple[float, bytes] | None:
        """The next frame and when it came (not later than that); None when there will be no more."""
        while not self._frames:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        arrived, frame = self._frames.popleft()
        self._hold(-len(frame))
        self._room.set()
        return arrived, frame

    @contextmanager
    def ahead(self, take: Callable[[bytes], bool]) -> Iterator[None]:
        """Meanwhile `take` is asked about every frame, and what it takes does not wait for its turn."""
        waiting, self._frames = self._frames, deque()
        for arrived, frame in waiting:
            if take(frame):
                self._hold(-len(frame))
            else:
                self._frames.append((arrived, frame))
        self._takers.append(take)
        try:
            yield
        finally:
            self._takers.remove(take)

    def close(self) -> None:
        """What was not taken is of no interest any more."""
        self._frames.clear()
        self._hold(-self._bytes)

    def _hold(self, length: int) -> None:
        self._bytes += length
        self._waiting.bytes += length

    def _is_full(self) -> bool:
        """Whoever holds nothing is always read on: nobody waits for what another session does."""
        if not self._frames:
            return False
        most = INBOX_MAX_BYTES if self._waiting.bytes <= INBOXES_MAX_BYTES else 0
        return self._bytes > most or len(self._frames) > INBOX_MAX_FRAMES

    async def run(self) -> None:
        """Until the connection ends. Raises TimeoutError when nothing comes for too long."""
        try:
            await self._receive()
        finally:
            self._ended = True
            self._news.set()

    async def _receive(self) -> None:
        # What is had without waiting may have lain in the socket since we last waited.
        arrived, idle_s = self._clock(), IDLE_S
        while True:
            asked = self._clock()
            try:
                frame = await self._socket.receive(timeout=limits.SILENT_AFTER_S)
            except TimeoutError:
                raise TimeoutError(f"nothing heard for {limits.SILENT_AFTER_S:.0f} s") from None
            if frame.type is not WSMsgType.BINARY:
                return
            if self._clock() - asked > idle_s:
                arrived, idle_s = self._clock(), IDLE_S
            if any(take(frame.data) for take in self._takers):
                continue
            self._frames.append((arrived, frame.data))
            self._hold(len(frame.data))
            self._news.set()
            while self._is_full():
                idle_s = BACKLOG_IDLE_S
                self._room.clear()
                await self._room.wait()
