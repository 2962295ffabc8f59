"""The coordinator's core: one event in, effects out. Pure: its only clock is what it is given.

A step changes the world, then lets the consequences follow in a fixed order: truth and verdicts of every
volume, names of nodes, fences, recoveries. Effects leave in the order of DESIGN §5: first one Persist
with everything that changed, then membership, then what is sent to nodes, then what the world is told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.tree import ObjectSource

from . import (
    arrivals,
    auditing,
    fencing,
    guards,
    hands,
    persistence,
    phases,
    placement,
    presence,
    pushing,
    recovery,
    recurrence,
    requests,
    scrubbing,
    speed,
)
from .model import (
    AllowAsked,
    BaselineCreateAsked,
    BaselineDeleteAsked,
    Configured,
    Connected,
    Disconnected,
    DuplicateRefused,
    Effect,
    Event,
    FleetConfig,
    FromAgent,
    Now,
    PinAsked,
    QuarantineAsked,
    Refusal,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    RootStored,
    Scanned,
    ScrubAsked,
    SpeedAsked,
    Step,
    Tick,
    WakeAt,
    Watched,
)
from .pace import Pace
from .questions import FleetDiff, Questions
from .shapes import ActionView, BaselineView, HoldView, ScrubView, SpeedView, VolumeView
from .stepping import Stepping, parts
from .verdicts import judge_volume
from .world import DIVERGED, World

__all__ = ["Fleet", "FleetDiff"]

Answer = ActionView | BaselineView | VolumeView | HoldView | SpeedView | ScrubView | Refusal | None


class Fleet(Questions):
    """All nodes and volumes. `step` is the only way to change it, whole or in parts; `Questions` only read.

    `records` is everything that earlier Persists wrote; `source` gives stored objects and those that a
    Persist of an earlier step asked to store.
    """

    def __init__(
        self,
        config: FleetConfig,
        algorithm: DigestAlgorithm,
        source: ObjectSource,
        records: Iterable[tuple[str, str, bytes]],
        now: Now,
        rng: random.Random,
    ) -> None:
        super().__init__(World(config, algorithm, source, now))
        self._rng = rng
        self._pace = Pace()
        placement.place(self._world, config, persistence.load(self._world, records))
        for incident in self._world.open_incidents():
            if (
                incident.kind in DIVERGED
                and incident.node in self._world.nodes
                and incident.volume is not None
            ):
                view = self._world.nodes[incident.node].view(incident.volume)
                view.seen = dict.fromkeys(incident.paths)

    # --- steps ---------------------------------------------------------------------------------

    def step(self, now: Now, event: Event) -> Step:
        """Take one event. The effects are in the order in which they must be carried out."""
        return self.begin(now, event).end(now)

    def begin(self, now: Now, event: Event) -> Stepping:
        """The same in parts. The next one begins when this has been ended."""
        self._under_way = Stepping(self._stepping(now, event))
        return self._under_way

    def _stepping(self, now: Now, event: Event) -> Generator[None, None, Callable[[Now], Step]]:
        world, pace = self._world, self._pace
        world.now = now
        judged_first = pace.must_follow_first(event)
        if judged_first:
            yield from self._follow()
            persistence.seal(world)
        answer = self._take(event)
        if not isinstance(event, FromAgent) or not isinstance(event.message, wire.ConvergeProgress):
            due = pace.due(event, now.mono, len(world.nodes))
            if due > now.mono:
                world.wake(due)
            else:
                yield from self._follow()
        return partial(self._end, answer, judged_first)

    def _end(self, answer: Answer, judged_first: bool, now: Now) -> Step:
        self._under_way = None
        self._pace.ended(now.mono, len(self._world.nodes))
        unjudged = self._pace.unjudged
        return Step(self._effects(unjudged), answer, unjudged, judged_first)

    def foresee(self, volume: str, root: bytes) -> Iterator[None]:
        """Find out, slice by slice, how a tree that a node has announced differs from the truth, ahead of its step.

        What a step would take a tenth of a second for is then known to it. Nothing else is changed.
        """
        found = self._world.volumes.get(volume)
        if found is not None and found.truth is not None:
            yield from self._world.differ.foresee(root, found.truth)

    def _take(self, event: Event) -> Answer:
        world = self._world
        match event:
            case Connected():
                arrivals.connected(world, event)
            case Disconnected():
                arrivals.disconnected(world, event)
            case DuplicateRefused():
                presence.refuse_duplicate(world, event.node, event.detail)
            case RootStored():
                arrivals.root_stored(world, event)
            case Scanned():
                arrivals.scanned(world, event)
            case Watched():
                arrivals.watched(world, event)
            case FromAgent():
                arrivals.from_agent(world, event)
            case Configured():
                placement.configure(world, event.config)
            case Tick():
                pass
            case QuarantineAsked():
                return requests.quarantine(world, event)
            case ReleaseAsked():
                return requests.release(world, event)
            case ResyncAsked():
                return requests.resync(world, event)
            case BaselineCreateAsked():
                return requests.create_baseline(world, event)
            case BaselineDeleteAsked():
                return requests.delete_baseline(world, event)
            case PinAsked():
                return requests.pin(world, event)
            case AllowAsked():
                return guards.allow(world, event)
            case RejectAsked():
                return guards.reject(world, event)
            case SpeedAsked():
                return speed.ask(world, event)
            case ScrubAsked():
                return scrubbing.ask(world, event)
        return None

    def _follow(self) -> Iterator[None]:
        """What every change may bring about, in a fixed order."""
        world = self._world
        self._pace.followed(world.now.mono, len(world.nodes))
        for volume in world.volumes.values():
            yield from judge_volume(world, volume)
        guards.watch(world)
        auditing.drive(world, self._rng)
        yield
        joined = [node for node in world.nodes.values() if phases.join(world, node)]
        if joined:
            for volume in world.volumes.values():
                yield from judge_volume(world, volume)
        for part in parts(list(world.nodes.values())):
            for node in part:
                phases.update_phase(world, node)
            yield
        fencing.fence_suspects(world)
        recovery.start_due(world)
        recovery.drive(world)
        yield
        yield from pushing.drive(world)
        yield
        speed.drive(world)
        scrubbing.drive(world)
        yield
        presence.watch(world)
        recurrence.watch(world)
        hands.watch(world)
        yield
        presence.gather(world)

    def _effects(self, unjudged: frozenset[str]) -> tuple[Effect, ...]:
        """One Persist, then membership, then everything else in its order."""
        world = self._world
        others, world.effects = world.effects, []
        presence.announce(world)
        membership, world.effects = world.effects, []
        persist = persistence.persist(world, unjudged)
        wakes, world.wakes = world.wakes, []
        front: list[Effect] = [] if persist is None else [persist]
        back: list[Effect] = [WakeAt(min(wakes))] if wakes else []
        return (*front, *membership, *others, *back)
