"""One agent's connection, from Welcome to its end. A shell: it has no opinions about nodes.

Frames are handled strictly in order; what must be durable is written before it is acknowledged; a scan
is only reported to the core once the commits that it found are stored. Whatever breaks the protocol
ends the session with a reason, and nothing of it is believed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from aiohttp import web

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.errors import MissingObject, ProtocolError
from closeranks_proto.messages import PROTOCOL
from closeranks_proto.tree import Tree
from closeranks_proto.wire import decode_agent_message, tells_activity

from .core.heard import Heard
from .core.ingest import Accepted, Ingest, Known, Outcome, Partial
from .core.model import Connected, Event, FleetConfig, FromAgent, RootStored, Scanned, Watched
from .inbox import Inbox, Waiting
from .outbox import Ending, Outbox
from .proofs import Proof, Proofs
from .slices import Rounds
from .storage.store import Batch, NodeRoot, Store, StoreClosed, StoreFault, StoreFull
from .turns import Turns

log = logging.getLogger("closeranks.sessions")

STORE_RETRY_S = 1.0
CLOSE_MAX_S = 3.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """The root of a node that an event tells of: (node, volume, agent_id, seq, root).

    It is stored in one write with what the core makes of it, then `durable` is called. If the store were ahead of
    the core, a crash would leave a root behind of which nobody knows any more whose doing it was.
    """

    root: tuple[str, str, str, int, bytes]
    durable: Callable[[], None]


class Core(Protocol):
    """What a session needs of the coordinator."""

    store: Store
    algorithm: DigestAlgorithm

    @property
    def fleet_config(self) -> FleetConfig: ...
    def feed(self, event: Event, receipt: Receipt | None = None) -> None: ...
    def overtake(self, event: Event) -> bool:
        """Have it decided before what waits for the disk; False where so much waits that this has to wait, too."""

    async def room(self) -> None: ...
    async def caught_up(self) -> bool:
        """Wait until all that was fed so far is decided and durable; False where that can not be for now."""

    def settings_of(self, volume: str) -> wire.VolumeSettings: ...
    def carried(self, node: str, message: wire.Carried) -> None:
        """Contents that came with a commit of this node."""

    async def foreseen(self, volume: str, root: bytes) -> None:
        """Have it known how an announced tree differs, before the core has to find out in one go."""

    def known_root(self, node: str, volume: str) -> bytes | None:
        """What the core goes by: it may have forgotten on purpose what the store has."""


class Session:
    """One agent's connection, from Welcome to its end."""

    def __init__(
        self,
        core: Core,
        socket: web.WebSocketResponse,
        hello: wire.Hello,
        peer: str,
        tree: Tree,
        clock: Callable[[], float],
        turns: Callable[[str], Turns],
        reads: Rounds,
        writes: Rounds,
        waiting: Waiting,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.node = hello.node
        self.closed = asyncio.Event()
        self._core = core
        self._socket = socket
        self._hello = hello
        self._clock = clock
        self._address = _address(hello.address, peer)
        self._ending = Ending()
        self.outbox = Outbox(self.node, socket, writes, self._ending)
        self._proofs = Proofs(self.node, core.feed)
        self._trash: dict[int, asyncio.Future[wire.TrashAnswer]] = {}
        self._requests = 0
        self._streams: dict[str, Ingest] = {}
        self._durable: dict[str, int] = {}  # by volume: up to which seq commits may be acknowledged
        self._heard = Heard(hello.volumes)
        self._arrived = clock()  # of the frame under way: its ages count from then
        self._tree = tree
        self._turns = turns  # of a volume
        self._reads = reads  # of all sessions
        self._begun: dict[str, wire.Announce] = {}  # by volume: its turn has come
        self._begins = asyncio.Event()
        self._inbox = Inbox(socket, clock, waiting)

    def end(self, reason: str) -> None:
        """Close after what is queued has been sent."""
        self._ending.end(reason)

    def expect_trash(self, answer: asyncio.Future[wire.TrashAnswer]) -> int:
        self._requests += 1
        request = self._requests
        self._trash[request] = answer
        answer.add_done_callback(lambda _: self._trash.pop(request, None))
        return request

    async def run(self) -> None:
        """Serve until either side ends it."""
        # What the session before this one told may still be queued: no older root may be told behind it.
        volumes = self._open_streams(await self._core.caught_up())
        parts = (self._read(), self.outbox.run(), self._fetch(), self._ending.comes.wait())
        tasks = [asyncio.create_task(part) for part in parts]
        self._core.feed(
            Connected(
                self.node,
                self.id,
                self._hello.agent_id,
                self._address,
                self._hello.highest_token,
                self._hello.fence,
                volumes,
                self._heard.waiting,
            )
        )
        for volume in self._streams:  # a crash may have kept the core from hearing of it
            self._feed_known(volume, volume not in self._heard.waiting)
        log.info("%s connected from %s with %s", self.node, self._address, ", ".join(volumes) or "no volume")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._flush(tasks[1])
        finally:
            for task in tasks:
                task.cancel()
            for volume in volumes:
                self._turns(volume).done(self.id)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._explain(results)
            for answer in list(self._trash.values()):
                if not answer.done():
                    answer.set_exception(ConnectionError(f"{self.node} disconnected before it answered"))
            await hang_up(self._socket, self._ending.reason)

    def _feed_known(self, volume: str, heard: bool) -> None:
        root = self._streams[volume].root
        if root is not None:
            self._core.feed(RootStored(self.node, volume, root, "known", self._clock(), heard=heard))

    async def _flush(self, writer: asyncio.Task[object]) -> None:
        """Give what is queued a moment to leave."""
        deadline = self._clock() + 1.0
        while not writer.done() and self.outbox.bytes and self._clock() < deadline:
            await asyncio.sleep(0.01)

    def _explain(self, results: Sequence[object]) -> None:
        for result in results:
            if isinstance(result, asyncio.CancelledError) or not isinstance(result, BaseException):
                continue
            if isinstance(result, (ProtocolError, ConnectionError, TimeoutError, StoreClosed)):
                self._ending.reason = self._ending.reason or str(result)
            else:
                log.error("session of %s ended by our own fault", self.node, exc_info=result)
                self._ending.reason = self._ending.reason or "internal error"
        log.info("%s disconnected: %s", self.node, self._ending.reason or "the agent closed the connection")

    def _open_streams(self, caught_up: bool) -> tuple[str, ...]:
        """Welcome the agent; the volumes that it and the configuration share."""
        core = self._core
        assigned = {volume.name: volume for volume in core.fleet_config.volumes if self.node in volume.nodes}
        names = tuple(sorted({volume.name for volume in self._hello.volumes} & set(assigned)))
        acked: list[tuple[str, int, bytes | None]] = []
        for name in names:
            stored = core.store.node_root(self.node, name)
            if stored is None or stored.agent_id != self._hello.agent_id:
                stored = NodeRoot(self._hello.agent_id, 0, None)
            known = stored.root is not None and stored.root == core.known_root(self.node, name)
            if not caught_up or not known or stored.root is None or not core.store.has(stored.root):
                stored = NodeRoot(stored.agent_id, stored.seq, None)
            acked.append((name, stored.seq, stored.root))
            self._durable[name] = stored.seq
            self._heard.open(name, stored.seq, stored.root)
            self._streams[name] = Ingest(
                name,
                stored.seq,
                stored.root,
                core.algorithm,
                assigned[name].chunk_bytes,
                core.store.object,
                core.store.has,
                self._tree,
            )
        self.outbox.is_open = True
        self.outbox.post(
            wire.Welcome(
                PROTOCOL,
                self.id,
                core.algorithm.name,
                limits.CREDIT_COMMITS,
                limits.BEAT_INTERVAL_S,
                tuple(core.settings_of(name) for name in names),
                tuple(acked),
                tuple(name for name in names if assigned[name].may_write(self.node)),
            )
        )
        return names

    async def _read(self) -> None:
        inbox = self._inbox
        receiving = asyncio.create_task(inbox.run())
        try:
            while True:
                await self._core.room()
                taken = await inbox.take()
                if taken is None:
                    return await receiving
                await self._reads.turn()
                self._arrived, frame = taken
                await self._take(decode_agent_message(frame))
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            inbox.close()

    async def _take(self, message: wire.AgentMessage) -> None:
        match message:
            case wire.Commit():
                await self._carry_out(message.volume, self._stream(message.volume).commit(message))
            case wire.Announce():
                await self._announced(message)
            case wire.Objects():
                stream = self._stream(message.volume)
                self._turns(message.volume).progress(self.id)
                outcomes = stream.receive(message.request, message.objects, message.missing)
                await self._carry_out(message.volume, outcomes)
            case wire.Carried():
                self._stream(message.volume)  # of this node
                self._core.carried(self.node, message)
            case wire.Want():
                await self._give(message)
            case wire.Beat():
                self._beat(message)
            case wire.TrashAnswer():
                answer = self._trash.pop(message.request, None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            case wire.Hello():
                raise ProtocolError("a second Hello in one session")
            case wire.Activity():
                if not self._core.overtake(FromAgent(self.node, message)):
                    self._core.feed(FromAgent(self.node, message))
            case _:
                self._core.feed(FromAgent(self.node, message))

    def _overtakes(self, frame: bytes) -> bool:
        """Whether it was what the agent says of this moment: of a runaway gigabytes come while a disk is slow."""
        message = decode_agent_message(frame) if tells_activity(frame) else None
        return isinstance(message, wire.Activity) and self._core.overtake(FromAgent(self.node, message))

    async def _announced(self, announce: wire.Announce) -> None:
        stream = self._stream(announce.volume)
        if stream.is_at_hand(announce):
            await self._carry_out(announce.volume, stream.announce(announce))
            return
        stream.expect()
        self._turns(announce.volume).take(self.id, partial(self._begin, announce))

    def _begin(self, announce: wire.Announce) -> None:
        self._begun[announce.volume] = announce
        self._begins.set()

    async def _fetch(self) -> None:
        """Begin with trees whose turn has come."""
        while True:
            await self._begins.wait()
            self._begins.clear()
            while self._begun:
                volume, announce = self._begun.popitem()
                if not self._fetches(volume):
                    continue  # a newer announcement needed nothing
                outcomes = self._stream(volume).announce(announce)
                if not self._fetches(volume):  # it was all there: nobody need wait until this is stored
                    self._turns(volume).done(self.id)
                await self._carry_out(volume, outcomes)

    def _fetches(self, volume: str) -> bool:
        return self._streams[volume].fetching

    def _stream(self, volume: str) -> Ingest:
        if volume not in self._streams:
            raise ProtocolError(f"a message about volume {volume!r}, which is not this node's")
        return self._streams[volume]

    async def _carry_out(self, volume: str, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Accepted():
                    await self._accept(volume, outcome)
                case Known():
                    if outcome.seq <= self._durable[volume]:  # otherwise that is told in a moment
                        self.outbox.post(wire.Ack(volume, outcome.seq))
                case Partial():
                    await self._store(Batch(objects=outcome.objects))
                case _:
                    self.outbox.post(outcome)
        if not self._fetches(volume):
            self._turns(volume).done(self.id)  # only now: the next one finds what was stored

    async def _accept(self, volume: str, accepted: Accepted) -> None:
        """Its tree is durable first, then the core is told; what the core makes of it is, then it is acknowledged."""
        if accepted.objects:
            await self._store(Batch(objects=accepted.objects))
        if accepted.base is None:
            # Nothing else comes of an agent that has announced. A step is followed, also to a root that another has.
            await self._core.foreseen(volume, accepted.root)

        def durable() -> None:
            self._durable[volume] = accepted.seq
            self.outbox.post(wire.Ack(volume, accepted.seq))

        self._core.feed(
            RootStored(
                self.node,
                volume,
                accepted.root,
                accepted.cause,
                self._arrived - accepted.observed_age_ms / 1000,
                accepted.hands,
                accepted.by,
                accepted.base,
                accepted.edits,
                self._heard.accepted(volume, accepted.seq),
                accepted.decayed,
                accepted.brought,
            ),
            Receipt((self.node, volume, self._hello.agent_id, accepted.seq, accepted.root), durable),
        )
        self._proofs.release(volume, self._streams[volume].seq)

    async def _store(self, batch: Batch) -> None:
        """Durable when it returns. A full disk holds this session up; nothing is acknowledged meanwhile."""
        told = False
        with self._inbox.ahead(self._overtakes):
            while True:
                try:
                    await self._core.store.write(batch)
                except (StoreFull, StoreFault) as error:
                    if not told:
                        log.error("nothing of %s can be stored: %s", self.node, error)
                    told = True
                    await asyncio.sleep(STORE_RETRY_S)
                else:
                    return

    async def _give(self, want: wire.Want) -> None:
        """Answer a Want in frames of about FRAME_TARGET_BYTES."""
        if len(want.digests) > limits.WANT_MAX_DIGESTS:
            raise ProtocolError(
                f"a Want of {len(want.digests)} digests; at most {limits.WANT_MAX_DIGESTS} are allowed"
            )
        found: list[bytes] = []
        missing: list[bytes] = []
        size = 0
        for digest in want.digests:
            try:
                blob = self._core.store.object(digest)
            except MissingObject:
                missing.append(digest)
                continue
            if found and size + len(blob) > limits.FRAME_TARGET_BYTES:
                await self.outbox.room()
                self.outbox.post(wire.Objects(want.volume, want.request, tuple(found), (), False))
                found, size = [], 0
            found.append(blob)
            size += len(blob)
        await self.outbox.room()
        self.outbox.post(wire.Objects(want.volume, want.request, tuple(found), tuple(missing), True))

    def _beat(self, beat: wire.Beat) -> None:
        for volume in beat.volumes:
            stream = self._stream(volume.name)
            if volume.last_seq < stream.seq + (stream.root is None):
                continue  # of a tree whose numbers do not go on from ours yet: it will be announced
            if self._heard.beaten(volume.name, volume.last_seq, stream.seq):
                self._feed_known(volume.name, True)
            ages: tuple[tuple[Proof, int | None], ...] = (
                (Scanned, volume.scan_started_age_ms), (Watched, volume.watched_age_ms),
            )  # fmt: skip
            for proof, age_ms in ages:
                if age_ms is not None:
                    self._proofs.told(volume.name, proof, volume.last_seq, self._arrived - age_ms / 1000)
            self._proofs.release(volume.name, stream.seq)


async def hang_up(socket: web.WebSocketResponse, reason: str) -> None:
    """Close in bounded time, also where the other side reads nothing any more."""
    message = reason.encode()[:100].decode(errors="ignore").encode()
    try:
        async with asyncio.timeout(CLOSE_MAX_S):
            await socket.close(message=message)
    except TimeoutError:
        log.debug("a connection did not close in time")


def _address(advertised: str, peer: str) -> str:
    """The agent's chunk server: what it says, with the host that we see where it says only a port."""
    if not advertised.startswith(":"):
        return advertised
    return f"[{peer}]{advertised}" if ":" in peer else f"{peer}{advertised}"
