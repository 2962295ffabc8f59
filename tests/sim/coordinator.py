"""The coordinator's process: the real core and the real ingest, between a model of the shell and of its disk.

The shell is modelled as `runtime` and `session` are: one queue, what was queued together is decided together
and written in one transaction, and nothing of it is sent before that has ended. A fuse counts effects: when it
runs out, the process is killed there, between two effects of a step as well as between two steps.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import (
    Configured,
    Disconnected,
    DuplicateRefused,
    Event,
    FleetConfig,
    Now,
    Observe,
    Persist,
    Send,
    Step,
    Tick,
    VolumeConfig,
    WakeAt,
)
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.wire import decode_agent_message, encode_message

from .receipts import Receipt
from .session import ServerSession
from .stored import Batch, Stored
from .wires import COORDINATOR, Wire

if TYPE_CHECKING:
    from .fleet import World

BATCH_MAX_STEPS = 64
QUEUE_MAX = 4000  # events: sessions are read no further from 2,000 on
STORE_RETRY_S = 1.0
TAKEOVER_AFTER_S = 10.0
WALL_MS = 1_700_000_000_000


class Killed(BaseException):
    """The process ends here. No error handling may catch it."""


class Coordinator:
    """One process after the other, over one disk."""

    def __init__(self, world: World, config: FleetConfig) -> None:
        self.world = world
        self.time = world.time
        self.rng = world.time.stream("coordinator")
        self.config = config
        self.stored = Stored()
        self.up = False
        self.process = 0
        self.fuse: int | None = None  # effects until it is killed
        self.full = False  # the store has no room
        self.slow_s = 0.0  # what a transaction may take
        self.frozen_until = 0.0
        self.skew_ms = 0  # of the wall clock
        self.acked: dict[tuple[str, str], tuple[str, int]] = {}  # what agents were told is durable
        self.steps = 0
        self.after_step: list[Callable[[Event, Step], None]] = []
        self._restart()

    def _restart(self) -> None:
        self.sessions: dict[str, ServerSession] = {}
        self.claims: dict[str, tuple[str, float]] = {}  # node: agent id, when it went
        self.queue: deque[tuple[Event | None, Callable[[object], None] | None, Receipt | None]] = deque()
        self.deciding = False
        self.fleet_unjudged: frozenset[str] = frozenset()  # nodes, as of the last step
        self.unjudged: list[Receipt] = []  # of their roots
        self.unsaved: dict[bytes, bytes] = {}
        self.wake: float | None = None
        self.store_free = 0.0
        self.fleet = self.new_fleet()

    def new_fleet(self) -> Fleet:
        return Fleet(self.config, XXH3_128, self.page, self.stored.rows(), self.now(), random.Random(1))

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        assert not self.up, "one process at a time"
        self.up = True
        self.process += 1
        self._restart()
        self.feed(Tick())
        self._tick(self.process)

    def crash(self, why: str) -> None:
        if not self.up:
            return
        self.time.tell(f"the coordinator is killed ({why})")
        self.up, self.fuse = False, None
        self.process += 1
        self.stored.crash()
        for session in list(self.sessions.values()):
            session.wire.drop(COORDINATOR)
        self.sessions.clear()
        self.queue.clear()

    def effect(self) -> None:
        """One effect is about to be carried out."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise Killed

    def now(self) -> Now:
        return Now(self.time.now, WALL_MS + int(self.time.now * 1000) + self.skew_ms)

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        """Later, if this process still lives then; not while it is stopped."""
        process = self.process

        def run() -> None:
            if process != self.process:
                return
            if self.time.now < self.frozen_until:
                self.time.later(self.frozen_until - self.time.now, run)
                return
            try:
                what()
            except Killed:
                self.crash("at an effect")

        self.time.later(delay_s, run)

    # --- the core's queue ----------------------------------------------------------------------

    def feed(
        self,
        event: Event | None,
        answer: Callable[[object], None] | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Without an event: an answer once all that came before is durable."""
        assert len(self.queue) < QUEUE_MAX, "more is queued for the core than its bound"
        self.queue.append((event, answer, receipt))
        if not self.deciding:
            self.deciding = True
            self.later(0.0, self._decide)

    def _decide(self) -> None:
        taken = [self.queue.popleft() for _ in range(min(BATCH_MAX_STEPS, len(self.queue)))]
        steps: list[tuple[Event | None, Step, Callable[[object], None] | None]] = []
        receipts: list[Receipt] = []
        for event, answer, receipt in taken:
            step = Step(()) if event is None else self._step(event)
            steps.append((event, step, answer))
            receipts += self._judged(step, receipt)
        batch = Batch(
            {digest: body for _, step, _ in steps for one in step.effects if isinstance(one, Persist)
             for digest, body in one.objects.items()},
            {(kind, key): blob for _, step, _ in steps for one in step.effects if isinstance(one, Persist)
             for kind, key, blob in one.records},
            {receipt.name: receipt.root for receipt in receipts},
        )  # fmt: skip

        def written() -> None:
            self.unsaved.clear()
            for receipt in receipts:
                receipt.durable()
            for _, step, answer in steps:
                for effect in step.effects:
                    self._carry_out(effect)
                if answer is not None:
                    answer(step.answer)
            self.deciding = False
            if self.queue:
                self.deciding = True
                self.later(0.0, self._decide)

        if batch.objects or batch.records or batch.roots:
            self.write(batch, written)
        else:
            written()

    def _judged(self, step: Step, receipt: Receipt | None) -> list[Receipt]:
        judged: list[Receipt] = []
        if step.judged_first:
            judged, self.unjudged = self.unjudged, []
        if receipt is not None:
            self.unjudged.append(receipt)
        if not self.fleet_unjudged:
            judged, self.unjudged = [*judged, *self.unjudged], []
        return judged

    def _step(self, event: Event) -> Step:
        self.steps += 1
        step = self.fleet.step(self.now(), event)
        self.fleet_unjudged = step.unjudged
        for position, effect in enumerate(step.effects):
            if isinstance(effect, Persist):
                assert not position, "what must be durable stands in front of everything"
                self.unsaved.update(effect.objects)
            elif isinstance(effect, WakeAt):
                assert effect.mono > self.time.now - 60.0, (
                    "the core asks to be woken in the past: it would never sleep"
                )
        for check in self.after_step:
            check(event, step)
        return step

    def _carry_out(self, effect: object) -> None:
        match effect:
            case Send():
                self.effect()
                session = self.sessions.get(effect.node)
                if isinstance(effect.message, wire.Fence):
                    self.world.sent_token = max(self.world.sent_token, effect.message.token)
                if session is not None:
                    session.post(effect.message)
            case WakeAt():
                self._wake_at(effect.mono)
            case Observe():
                assert effect.value >= 0, f"{effect.metric} goes back"
            case _:
                pass

    def write(self, batch: Batch, then: Callable[[], None]) -> None:
        """One transaction: it is durable after a while, or never. A full store is tried again for ever."""
        self.effect()
        if batch not in self.stored.queued:
            self.stored.queued.append(batch)
        if self.full:
            self.later(STORE_RETRY_S, lambda: self.write(batch, then))
            return

        def end() -> None:
            if self.full:
                self.write(batch, then)
                return
            self.effect()
            self.stored.durable(batch, self.time.now)
            self.effect()
            then()

        self.store_free = max(self.store_free, self.time.now) + 0.001 + self.slow_s * self.rng.random()
        self.later(self.store_free - self.time.now, end)  # one writer: transactions end in their order

    def page(self, digest: bytes) -> bytes:
        unsaved = self.unsaved.get(digest)
        return self.stored.object(digest) if unsaved is None else unsaved

    def _tick(self, process: int) -> None:
        def run() -> None:
            if not self.queue:
                self.feed(Tick())
            self._tick(process)

        self.later(1.0, run)

    def _wake_at(self, mono: float) -> None:
        if self.wake is not None and self.time.now < self.wake <= mono:
            return
        self.wake = max(mono, self.time.now + 0.001)
        at = self.wake

        def woken() -> None:
            if self.wake == at:
                self.wake = None
                self.feed(Tick())

        self.later(at - self.time.now, woken)

    # --- people --------------------------------------------------------------------------------

    def ask(self, event: Event, answer: Callable[[object], None] | None = None) -> None:
        if self.up:
            self.feed(event, answer)

    def configure(self, config: FleetConfig) -> None:
        """Read again: sessions that were told of other settings dial again."""
        before = {name: self.settings_of(name) for name in self.sessions}
        self.config = config
        if not self.up:
            return
        self.feed(Configured(config))
        for name in [name for name, old in before.items() if old != self.settings_of(name)]:
            self.sessions[name].end("its settings have changed")

    def settings_of(self, node: str) -> tuple[wire.VolumeSettings, ...]:
        return tuple(_settings(one) for one in self.config.volumes if node in one.nodes)

    def collect(self) -> int:
        if not self.up or self.deciding:
            return 0
        return self.stored.collect(self.fleet.live_roots(self.now()), self.time.now)

    # --- sessions ------------------------------------------------------------------------------

    def accept(self, link: Wire) -> None:
        """An agent has dialled; its Hello comes next."""
        process = self.process

        def hello(frame: bytes) -> None:
            if self.up and process == self.process:
                message = decode_agent_message(frame)
                assert isinstance(message, wire.Hello)
                self.later(0.0, lambda: self._hello(link, message))

        link.takes[COORDINATOR] = hello
        link.ended[COORDINATOR] = lambda: None

    def _hello(self, link: Wire, hello: wire.Hello) -> None:
        node = hello.node
        if not link.open:
            return
        agent, gone = self.claims.get(node, (hello.agent_id, 0.0))
        old = self.sessions.get(node)
        if agent != hello.agent_id and (old is not None or self.time.now < gone + TAKEOVER_AFTER_S):
            self.feed(DuplicateRefused(node, "another agent has this name"))
            link.send(node, encode_message(wire.Refused("duplicate_node", "", 5.0)))
            self.later(0.5, lambda: link.drop(COORDINATOR))
            return
        if old is not None:
            old.end("the same agent has opened a newer connection")
        self.claims[node] = (hello.agent_id, self.time.now)
        self.sessions[node] = ServerSession(self, link, hello)

    def gone(self, session: ServerSession) -> None:
        if self.sessions.get(session.node) is session:
            del self.sessions[session.node]
            self.claims[session.node] = (session.agent_id, self.time.now)
            self.feed(Disconnected(session.node, session.id))


def _settings(volume: VolumeConfig) -> wire.VolumeSettings:
    return wire.VolumeSettings(
        volume.name, volume.chunk_bytes, volume.ignore, volume.track, volume.scan_interval_s, volume.special_bits,
        volume.trash_max_bytes, volume.trash_keep_s,
    )  # fmt: skip


def without_faults(config: FleetConfig) -> FleetConfig:
    """The configuration under which a fleet comes back by itself: lag is repaired, differences too."""
    volumes = tuple(replace(one, on_lag="resync", on_divergence="resync") for one in config.volumes)
    return replace(config, volumes=volumes)
