"""Pages and chunk lists of one session: what is asked of the coordinator, and what it asks of us.

An answer is believed for what its bytes are: each object has a digest that was asked for, or the session ends. Ours
are read as fast as they leave, so that a tree of a million files never waits in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.errors import ProtocolError

from .disk.database import Damaged
from .disk.records import StateUnavailable

if TYPE_CHECKING:
    from .disk.volume import Volume
    from .runtime import Agent

log = logging.getLogger("closeranks.link")


@dataclass(slots=True)
class _Wanted:
    answer: asyncio.Future[dict[bytes, bytes]]
    digests: frozenset[bytes]
    found: dict[bytes, bytes] = field(default_factory=dict)


class Wants:
    """`post` queues a message; `room` waits until what is queued has left, but for a little."""

    def __init__(
        self,
        agent: Agent,
        trees: int,
        post: Callable[[wire.AgentMessage], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        """`trees`: how many volumes there are to ask for."""
        self._agent, self._post, self._room = agent, post, room
        self._wanted: dict[int, _Wanted] = {}
        self._requests = 0
        self._asked: asyncio.Queue[wire.Want] = asyncio.Queue(limits.WANT_MAX_DIGESTS * max(1, trees))

    def close(self) -> None:
        """Whoever waits for an answer hears that there will be none."""
        for wanted in self._wanted.values():
            if not wanted.answer.done():
                wanted.answer.set_exception(ConnectionError("the session with the coordinator ended"))

    async def want(self, volume: str, digests: tuple[bytes, ...]) -> dict[bytes, bytes]:
        """Raises ConnectionError when the session ends before the answer."""
        self._requests += 1
        request = self._requests
        wanted = _Wanted(asyncio.get_running_loop().create_future(), frozenset(digests))
        self._wanted[request] = wanted
        self._post(wire.Want(volume, request, digests))
        try:
            return await wanted.answer
        finally:
            del self._wanted[request]

    def received(self, objects: wire.Objects) -> None:
        """Raises ProtocolError for what nobody asked for."""
        wanted = self._wanted.get(objects.request)
        if wanted is None:
            return  # its asker was cancelled
        algorithm = self._agent.algorithm
        assert algorithm is not None, "set by Welcome"
        for blob in objects.objects:
            digest = algorithm.of(blob)
            if digest not in wanted.digests:
                raise ProtocolError("the coordinator sent an object that was not asked for")
            wanted.found[digest] = blob
        if objects.last and not wanted.answer.done():
            wanted.answer.set_result(wanted.found)

    def ask(self, want: wire.Want) -> None:
        """The coordinator asks. Raises ProtocolError for what no coordinator asks."""
        if want.volume not in self._agent.volumes or len(want.digests) > limits.WANT_MAX_DIGESTS:
            raise ProtocolError("a Want that can not be answered")
        try:
            self._asked.put_nowait(want)
        except asyncio.QueueFull:
            raise ProtocolError("more objects are asked for at once than one tree needs") from None

    async def answer(self) -> None:
        """Frames of about FRAME_TARGET_BYTES, read as fast as they leave: a chunk list may have 16 MiB."""
        while True:
            want = await self._asked.get()
            bundle: list[bytes] = []
            missing: list[bytes] = []
            size = 0
            for digest in want.digests:
                volume = self._agent.volumes.get(want.volume)
                blob = None if volume is None else await self._object(volume, digest)
                if blob is None:
                    missing.append(digest)
                    continue
                if bundle and size + len(blob) > limits.FRAME_TARGET_BYTES:
                    await self._room()
                    self._post(wire.Objects(want.volume, want.request, tuple(bundle), (), False))
                    bundle, size = [], 0
                bundle.append(blob)
                size += len(blob)
            if bundle and missing:
                self._post(wire.Objects(want.volume, want.request, tuple(bundle), (), False))
                bundle = []
            self._post(wire.Objects(want.volume, want.request, tuple(bundle), tuple(missing), True))

    async def _object(self, volume: Volume, digest: bytes) -> bytes | None:
        try:
            return await asyncio.to_thread(volume.object, digest)
        except (StateUnavailable, Damaged) as error:
            log.warning("%s: an object can not be read now: %s", volume.name, error)
            return None
