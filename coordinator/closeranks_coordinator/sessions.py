"""All agents' sessions by node name: who may have one, and how it is reached.

One WebSocket per agent, dialled by the agent. A name belongs to the agent that holds it; another identity
(another machine, another state directory) gets it only when the first has been gone for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.errors import ProtocolError
from closeranks_proto.kinds import parse_address
from closeranks_proto.lines import printable
from closeranks_proto.messages import PROTOCOL
from closeranks_proto.settings import Invalid
from closeranks_proto.tree import Tree
from closeranks_proto.wire import clipped, decode_agent_message, encode_message

from .core.model import Disconnected, DuplicateRefused
from .inbox import Waiting
from .session import CLOSE_MAX_S, Core, Session, hang_up
from .slices import WRITES_S, Rounds
from .turns import Turns

log = logging.getLogger("closeranks.sessions")

# An agent with a new identity may take a name over when the old one has been away for so long.
TAKEOVER_AFTER_S = 10.0
RETRY_AFTER_S = 5.0


@dataclass(slots=True)
class _Claim:
    """Who holds a node's name, and since when nobody does."""

    agent_id: str
    session: Session | None
    gone_at: float


class Sessions:
    """All sessions, by node name."""

    def __init__(self, core: Core, clock: Callable[[], float] = time.monotonic) -> None:
        self._core = core
        self._clock = clock
        self._claims: dict[str, _Claim] = {}
        self._started = clock()
        self._tree = Tree(core.algorithm, core.store.object)
        self._draining = False
        self._turns: dict[str, Turns] = {}  # by volume
        self._reads, self._writes = Rounds(), Rounds(WRITES_S)
        self._inboxes = Waiting()
        # What was sent last: a membership goes to every node, and of a large fleet it is long to encode.
        self._told: tuple[wire.CoordinatorMessage | None, bytes | None] = None, None

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/agent", self._serve)]

    def send(self, node: str, message: wire.CoordinatorMessage) -> bool:
        """Queue a message for a node; False when it has no session."""
        claim = self._claims.get(node)
        if claim is None or claim.session is None:
            return False
        told, frame = self._told
        if message is told and frame is not None:
            claim.session.outbox.post_frame(frame)
        else:
            self._told = message, claim.session.outbox.post(message)
        return True

    def send_carried(self, node: str, frame: bytes) -> None:
        """Queue an encoded frame of contents for a node, ahead of the push that needs them."""
        claim = self._claims.get(node)
        if claim is not None and claim.session is not None:
            claim.session.outbox.post_carried(frame)

    def connected(self) -> list[str]:
        return sorted(node for node, claim in self._claims.items() if claim.session is not None)

    def answer_trash(self, node: str, answer: asyncio.Future[wire.TrashAnswer]) -> int | None:
        """Register a future for a node's next trash answer: its request number, None without a session."""
        claim = self._claims.get(node)
        if claim is None or claim.session is None or not claim.session.outbox.is_open:
            return None
        return claim.session.expect_trash(answer)

    def retire(self, nodes: Iterable[str]) -> None:
        """Close the sessions of nodes that the configuration no longer lists."""
        for node in nodes:
            claim = self._claims.pop(node, None)
            if claim is not None and claim.session is not None:
                claim.session.end("the node was removed from the coordinator's configuration")

    def restart(self, nodes: Iterable[str]) -> None:
        """Let these nodes dial again: what Welcome told them has changed."""
        for node in nodes:
            claim = self._claims.get(node)
            if claim is not None and claim.session is not None:
                claim.session.outbox.post(wire.Goodbye(0.0))
                claim.session.end("its settings have changed")

    async def drain(self) -> None:
        """Tell every agent that we go down, and close."""
        self._draining = True
        sessions = [claim.session for claim in self._claims.values() if claim.session is not None]
        for session in sessions:
            session.outbox.post(wire.Goodbye(limits.RECONNECT_MIN_S))
            session.end("the coordinator is shutting down")
        await asyncio.gather(*(session.closed.wait() for session in sessions))

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            max_msg_size=limits.MAX_FRAME_BYTES, compress=False, timeout=2.0, autoping=True
        )
        peer = request.remote or "?"
        try:
            await socket.prepare(request)
        except ConnectionError as error:
            log.info("the connection from %s was gone before it was taken: %s", peer, error)
            return socket
        try:
            hello = await self._hello(socket)
        except (ProtocolError, TimeoutError) as error:
            log.warning("connection from %s refused: %s", peer, error or "it said nothing in time")
            await _refuse(socket, "bad_hello", str(error) or "no Hello in time", RETRY_AFTER_S)
            return socket
        refusal = self._refusal(hello) or await self._free(hello)
        if refusal is not None:
            log.warning("agent of %s at %s refused: %s", printable(hello.node), peer, refusal.message)
            if refusal.code == "duplicate_node":
                self._core.feed(DuplicateRefused(hello.node, f"{refusal.message} It came from {peer}."))
            await _refuse(socket, refusal.code, refusal.message, refusal.retry_after_s)
            return socket
        await self._run(socket, hello, peer)
        return socket

    async def _free(self, hello: wire.Hello) -> wire.Refused | None:
        """End the same agent's older session. While we wait, others may do so too, or the node be retired."""
        while (claim := self._claims.get(hello.node)) is not None and claim.session is not None:
            claim.session.end("the same agent has opened a newer connection")
            await claim.session.closed.wait()
            refusal = self._refusal(hello)
            if refusal is not None:
                return refusal
        return None

    async def _hello(self, socket: web.WebSocketResponse) -> wire.Hello:
        frame = await socket.receive(timeout=limits.HANDSHAKE_TIMEOUT_S)
        if frame.type is not WSMsgType.BINARY:
            raise ProtocolError("the connection ended before a Hello")
        hello = decode_agent_message(frame.data)
        if not isinstance(hello, wire.Hello):
            raise ProtocolError(f"the first message was a {type(hello).__name__}, not a Hello")
        _check_address(hello.address)
        return hello

    def _refusal(self, hello: wire.Hello) -> wire.Refused | None:
        """Why this agent gets no session; None when it does."""
        config, algorithm = self._core.fleet_config, self._core.algorithm
        if self._draining:
            return wire.Refused("draining", "The coordinator is shutting down.", RETRY_AFTER_S)
        if not hello.protocol_min <= PROTOCOL <= hello.protocol_max:
            return wire.Refused(
                "protocol",
                f"The agent speaks protocol {hello.protocol_min} to {hello.protocol_max}, "
                f"the coordinator {PROTOCOL}: update the older one.",
                60.0,
            )
        if hello.node not in config.nodes:
            return wire.Refused(
                "unknown_node",
                f"{hello.node!r} is not in the coordinator's [fleet] nodes: add it there and reload, "
                "or mend the agent's node name.",
                RETRY_AFTER_S,
            )
        if algorithm.name not in hello.digests:
            text = f"The fleet uses {algorithm.name}, which this agent does not know: update the agent."
            return wire.Refused("digest", text, 60.0)
        return self._refused_name(hello)

    def _refused_name(self, hello: wire.Hello) -> wire.Refused | None:
        """A name that another agent holds, or held until just now."""
        claim = self._claims.get(hello.node)
        if claim is not None and claim.agent_id != hello.agent_id:
            if claim.session is not None:
                return wire.Refused(
                    "duplicate_node",
                    f"Another agent already runs as {hello.node}: its identity differs, so it is another "
                    "machine or another state_dir.",
                    RETRY_AFTER_S,
                )
            left_s = claim.gone_at + TAKEOVER_AFTER_S - self._clock()
            if left_s > 0:  # as after a rebuilt machine: two that are there at once are told of when they are
                return _taken_lately(hello.node, left_s)
        young = self._clock() - self._started < TAKEOVER_AFTER_S
        if claim is None and young and self._known_otherwise(hello):
            return _taken_lately(hello.node, RETRY_AFTER_S)
        return None

    def _known_otherwise(self, hello: wire.Hello) -> bool:
        roots = [self._core.store.node_root(hello.node, volume.name) for volume in hello.volumes]
        return any(root is not None and root.agent_id != hello.agent_id for root in roots)

    def _turns_of(self, volume: str) -> Turns:
        found = self._turns.get(volume)
        if found is None:
            found = self._turns[volume] = Turns(self._clock)
        return found

    async def _run(self, socket: web.WebSocketResponse, hello: wire.Hello, peer: str) -> None:
        session = Session(
            self._core,
            socket,
            hello,
            peer,
            self._tree,
            self._clock,
            self._turns_of,
            self._reads,
            self._writes,
            self._inboxes,
        )
        self._claims[hello.node] = _Claim(hello.agent_id, session, self._clock())
        try:
            await session.run()
        finally:
            current = self._claims.get(hello.node)
            if current is not None and current.session is session:
                current.session = None
                current.gone_at = self._clock()
            self._core.feed(Disconnected(hello.node, session.id))
            session.closed.set()


def _taken_lately(node: str, retry_after_s: float) -> wire.Refused:
    text = (
        f"{node} was another agent until just now (another state_dir), which may still come back. This one is let in "
        f"after {TAKEOVER_AFTER_S:.0f} s at most."
    )
    return wire.Refused("draining", text, min(retry_after_s, RETRY_AFTER_S))


def _check_address(text: str) -> None:
    """host:port or :port; every peer is told of it. Raises ProtocolError."""
    try:
        parse_address(f"localhost{text}" if text.startswith(":") else text)
    except Invalid as error:
        raise ProtocolError(f"the chunk server's address is of no use: {error}") from error


async def _refuse(socket: web.WebSocketResponse, code: str, message: str, retry_after_s: float) -> None:
    refused = wire.Refused(code, message, retry_after_s)
    try:
        async with asyncio.timeout(CLOSE_MAX_S):
            await socket.send_bytes(encode_message(clipped(refused)))
    except (ConnectionError, TimeoutError) as error:
        log.info("a refused connection was gone before it could be told why: %s", error)
    await hang_up(socket, message)
