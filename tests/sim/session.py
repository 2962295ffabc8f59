"""One agent's connection as the coordinator has it: frames strictly in order, each stored before the next is read.

A model of the real `session`, over the real ingest: what must be durable is acknowledged after it is, and a scan is
told to the core only once everything that it found is stored.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from closeranks_coordinator.core.heard import Heard
from closeranks_coordinator.core.ingest import Accepted, Ingest, Known, Outcome, Partial
from closeranks_coordinator.core.model import Connected, FromAgent, RootStored, Scanned, Watched
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.errors import MissingObject, ProtocolError
from closeranks_proto.limits import BEAT_INTERVAL_S, CREDIT_COMMITS
from closeranks_proto.tree import Tree
from closeranks_proto.wire import clipped, decode_agent_message, encode_message

from .receipts import Receipt
from .stored import Batch
from .wires import COORDINATOR, Wire

if TYPE_CHECKING:
    from .coordinator import Coordinator

CAUGHT_UP_MAX_S = 3.0
FRAMES_MAX = 4000  # of one session that wait


class ServerSession:
    """One agent's connection as the coordinator has it: frames strictly in order, each stored before the next."""

    def __init__(self, core: Coordinator, link: Wire, hello: wire.Hello) -> None:
        self.core, self.wire, self.node, self.agent_id = core, link, hello.node, hello.agent_id
        core.world.sessions_made += 1
        self.id = f"s-{core.world.sessions_made}"
        self.ended = False
        self.inbox: deque[tuple[float, bytes]] = deque()  # with when it came: ages count from then
        self.arrived = core.time.now  # of the frame under way
        self.storing = False
        self.welcomed = False
        self.streams: dict[str, Ingest] = {}
        self.heard = Heard(hello.volumes)
        self.durable: dict[str, int] = {}  # by volume: up to which seq commits may be acknowledged
        self.waiting: dict[tuple[str, type[Scanned] | type[Watched]], list[tuple[int, float]]] = {}
        self._tree = Tree(XXH3_128, core.stored.object)
        link.takes[COORDINATOR] = self._take
        link.ended[COORDINATOR] = lambda: core.later(0.0, self._over)
        # What the session before this one told may still be queued.
        core.feed(None, lambda _: self._welcome(hello, True))
        core.later(CAUGHT_UP_MAX_S, lambda: self._welcome(hello, False))

    def _welcome(self, hello: wire.Hello, caught_up: bool) -> None:
        if self.welcomed or self.ended:
            return
        self.welcomed = True
        core = self.core
        assigned = {one.name: one for one in core.config.volumes if self.node in one.nodes}
        names = tuple(sorted({one.name for one in hello.volumes} & set(assigned)))
        acked: list[tuple[str, int, bytes | None]] = []
        for name in names:
            agent, seq, root = core.stored.roots.get((self.node, name), (hello.agent_id, 0, None))
            if agent != hello.agent_id:
                seq, root = 0, None
            known = core.fleet._world.nodes[self.node].volume(name).root
            if not caught_up or root is None or root != known or not core.stored.has(root):
                root = None
            acked.append((name, seq, root))
            self.durable[name] = seq
            self.heard.open(name, seq, root)
            self.streams[name] = Ingest(
                name, seq, root, XXH3_128, assigned[name].chunk_bytes, core.stored.object, core.stored.has, self._tree
            )  # fmt: skip
        self.post(
            wire.Welcome(
                wire.PROTOCOL, self.id, "xxh3-128", CREDIT_COMMITS, BEAT_INTERVAL_S, core.settings_of(self.node),
                tuple(acked),
            )
        )  # fmt: skip
        core.feed(
            Connected(
                self.node, self.id, hello.agent_id, hello.address, hello.highest_token, hello.fence, names,
                self.heard.waiting,
            )
        )  # fmt: skip
        for name in names:
            self._feed_known(name, name not in self.heard.waiting)

    def _feed_known(self, volume: str, heard: bool) -> None:
        root = self.streams[volume].root
        if root is not None:
            self.core.feed(RootStored(self.node, volume, root, "known", self.core.time.now, heard=heard))

    def post(self, message: wire.CoordinatorMessage) -> None:
        if self.welcomed and not self.ended:
            self.wire.send(self.node, encode_message(clipped(message)))

    def end(self, why: str) -> None:
        self.core.time.mark(why)
        self.wire.drop(COORDINATOR)
        self._over()

    def _over(self) -> None:
        if not self.ended:
            self.ended = True
            self.inbox.clear()
            self.core.gone(self)

    # --- frames --------------------------------------------------------------------------------

    def _take(self, frame: bytes) -> None:
        if not self.ended:
            self.inbox.append((self.core.time.now, frame))
            assert len(self.inbox) < FRAMES_MAX, "frames of one session that wait"
            self.core.later(0.0, self._next)

    def _next(self) -> None:
        while self.inbox and not self.storing and not self.ended:
            self.arrived, frame = self.inbox.popleft()
            message = decode_agent_message(frame)
            try:
                self._handle(message)
            except ProtocolError as error:
                raise AssertionError(f"{self.node} broke the protocol: {error!r}") from error

    def _handle(self, message: wire.AgentMessage) -> None:
        match message:
            case wire.Commit():
                self._outcomes(message.volume, self.streams[message.volume].commit(message))
            case wire.Announce():
                self._outcomes(message.volume, self.streams[message.volume].announce(message))
            case wire.Objects():
                stream = self.streams[message.volume]
                self._outcomes(
                    message.volume, stream.receive(message.request, message.objects, message.missing)
                )
            case wire.Want():
                self._give(message)
            case wire.Beat():
                self._beat(message)
            case wire.Hello() | wire.TrashAnswer() | wire.Carried():
                raise ProtocolError("nothing that a session expects")
            case _:
                self.core.feed(FromAgent(self.node, message))

    def _outcomes(self, volume: str, outcomes: list[Outcome]) -> None:
        """Carry them out one after the other; what must be durable holds up everything behind it."""
        arrived = self.arrived
        while outcomes:
            outcome = outcomes.pop(0)
            match outcome:
                case Accepted() | Partial():
                    self.storing = True
                    batch = Batch(outcome.objects)
                    self.core.write(batch, partial(self._stored, volume, outcome, outcomes, arrived))
                    return
                case Known():
                    if outcome.seq <= self.durable[volume]:
                        self._ack(volume, outcome.seq)
                case _:
                    self.post(outcome)

    def _stored(self, volume: str, outcome: Accepted | Partial, rest: list[Outcome], arrived: float) -> None:
        self.storing = False
        if self.ended:
            return  # its reader has gone with it: nothing older may be told behind what the next session tells
        if isinstance(outcome, Accepted):
            observed = arrived - outcome.observed_age_ms / 1000
            self.core.feed(
                RootStored(
                    self.node, volume, outcome.root, outcome.cause, observed, outcome.hands, outcome.by, outcome.base,
                    outcome.edits, self.heard.accepted(volume, outcome.seq), outcome.decayed,
                    outcome.brought,
                ),
                receipt=Receipt(
                    (self.node, volume), (self.agent_id, outcome.seq, outcome.root),
                    partial(self._durable, volume, outcome.seq),
                ),
            )  # fmt: skip
            self._release(volume)
        self._outcomes(volume, rest)
        self._next()

    def _durable(self, volume: str, seq: int) -> None:
        self.durable[volume] = seq
        self._ack(volume, seq)

    def _ack(self, volume: str, seq: int) -> None:
        self.core.acked[self.node, volume] = (self.agent_id, seq)
        self.post(wire.Ack(volume, seq))

    def _give(self, want: wire.Want) -> None:
        found: list[bytes] = []
        missing: list[bytes] = []
        for digest in want.digests:
            try:
                found.append(self.core.stored.object(digest))
            except MissingObject:
                missing.append(digest)
        self.post(wire.Objects(want.volume, want.request, tuple(found), tuple(missing), True))

    def _beat(self, beat: wire.Beat) -> None:
        for one in beat.volumes:
            stream = self.streams[one.name]
            if one.last_seq < stream.seq + (stream.root is None):
                continue
            if self.heard.beaten(one.name, one.last_seq, stream.seq):
                self._feed_known(one.name, True)
            ages = ((Scanned, one.scan_started_age_ms), (Watched, one.watched_age_ms))
            for proof, age_ms in ages:
                if age_ms is not None:
                    waiting = self.waiting.setdefault((one.name, proof), [])
                    del waiting[1:]
                    waiting.append((one.last_seq, self.arrived - age_ms / 1000))
            self._release(one.name)

    def _release(self, volume: str) -> None:
        for proof in (Scanned, Watched):
            waiting = self.waiting.get((volume, proof), [])
            while waiting and self.streams[volume].seq >= waiting[0][0]:
                self.core.feed(proof(self.node, volume, waiting.pop(0)[1]))
