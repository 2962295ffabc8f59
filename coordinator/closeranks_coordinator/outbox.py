"""What one agent is to be sent, in order, encoded when it is queued.

A peer that does not read what it is sent ends its own session: nobody waits until there is room, for whoever queues
serves all nodes. Nothing is queued before the Welcome: it is meant for the session before this one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from aiohttp import web

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.errors import CodecError
from closeranks_proto.wire import clipped, encode_message

from .slices import Rounds

log = logging.getLogger("closeranks.sessions")

# Frames waiting for one agent. Membership of 1,000 nodes is about 60 KB; 64 MiB is a stuck peer.
OUTBOX_MAX_FRAMES = 4096
OUTBOX_MAX_BYTES = 64 * limits.MIB
# What one agent asked for and has not read yet: of a thousand that come back at once, half a gigabyte.
GIVEN_MAX_BYTES = 2 * limits.FRAME_TARGET_BYTES


@dataclass(slots=True)
class Ending:
    """That a session is to end, and why. It and its outbox share this: nobody would collect a cycle of the two."""

    reason: str = ""
    comes: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, reason: str) -> None:
        """The first reason stands."""
        self.reason = self.reason or reason
        self.comes.set()


class Outbox:
    """Of one session. `writes` are the turns of all sessions."""

    def __init__(self, node: str, socket: web.WebSocketResponse, writes: Rounds, ending: Ending) -> None:
        self.node, self._socket, self._writes, self._ending = node, socket, writes, ending
        self._frames: asyncio.Queue[bytes] = asyncio.Queue(OUTBOX_MAX_FRAMES)
        self.bytes = 0
        self.is_open = False

    def post(self, message: wire.CoordinatorMessage) -> bytes | None:
        """Queue a message; its frame, None where it has none."""
        if not self.is_open:
            return None
        try:
            # A push has no words for people in it, and thousands of parts.
            frame = encode_message(message if isinstance(message, wire.Push) else clipped(message))
        except CodecError as error:
            log.error("%s can not be told: %s", self.node, error)
            self._ending.end("what it has to know does not fit a frame")
            return None
        self.post_frame(frame)
        return frame

    def post_carried(self, frame: bytes) -> None:
        """Queue contents ahead of a push, if the node reads what it is sent: they may as well be fetched."""
        if self.bytes <= OUTBOX_MAX_BYTES // 4:
            self.post_frame(frame)

    def post_frame(self, frame: bytes) -> None:
        """Queue an encoded message. A peer that does not read ends its own session."""
        if not self.is_open:
            return
        if self._frames.full() or self.bytes + len(frame) > OUTBOX_MAX_BYTES:
            self._ending.end("it does not read what it is sent")
            return
        self.bytes += len(frame)
        self._frames.put_nowait(frame)

    async def run(self) -> None:
        """Send what is queued. Raises TimeoutError where nothing is read."""
        while True:
            frame = await self._frames.get()
            await self._writes.turn()
            try:
                async with asyncio.timeout(limits.SILENT_AFTER_S):
                    await self._socket.send_bytes(frame)
            except TimeoutError:
                raise TimeoutError("it does not read what it is sent") from None
            self.bytes -= len(frame)

    async def room(self) -> None:
        """Wait until it has drained enough for another bundle; the limit of `run` bounds this."""
        while self.bytes > GIVEN_MAX_BYTES:
            await asyncio.sleep(0.01)
