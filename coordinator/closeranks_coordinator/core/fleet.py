"""The coordinator's core: one event in, effects out. Pure: its only clock is what it is given.

A step changes the world, then lets the consequences follow in a fixed order: truth and verdicts of every
volume, names of nodes, fences, recoveries. Effects leave in the order of DESIGN §5: first one Persist
with everything that changed, then membership, then what is sent to nodes, then what the world is told.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.tree import ObjectSource

from . import (
    arrivals,
    auditing,
    conflicts,
    fencing,
    guards,
    hands,
    holds,
    phases,
    placement,
    presence,
    pushing,
    recovery,
    recurrence,
    requests,
    scrubbing,
    speed,
    views,
)
from .diffs import DiffRow, diff_page
from .incidents import Incident
from .judge import excused_of
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
from .nodes import Volume
from .pace import Pace
from .shapes import (
    ActionView,
    BaselineView,
    ConflictView,
    FleetView,
    HoldView,
    IncidentView,
    NodeView,
    ScrubView,
    SpeedView,
    VolumeView,
)
from .states import State
from .verdicts import judge_volume
from .world import DIVERGED, World

Answer = ActionView | BaselineView | VolumeView | HoldView | SpeedView | ScrubView | Refusal | None


@dataclass(frozen=True, slots=True)
class FleetDiff:
    """A page of a node's difference. `total` paths differ in all; `undetermined` ones are left out.

    `withheld` ones differ in special mode bits that the node may not write: they are listed, and not counted.

    `stale` are nodes of which this is only what they reported last: it proves nothing about now.
    """

    rows: tuple[DiffRow, ...]
    next_key: bytes | None
    undetermined: int
    total: int
    stale: tuple[str, ...]
    withheld: int


class Fleet:
    """All nodes and volumes. `step` is the only way to change it; the views only read.

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
        self._rng = rng
        self._pace = Pace()
        self._world = World(config, algorithm, source, now)
        placement.place(self._world, config, self._world.load(records))
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
        world, pace = self._world, self._pace
        world.now = now
        judged_first = pace.must_follow_first(event)
        if judged_first:
            self._follow()
            world.seal()
        answer = self._take(event)
        if not isinstance(event, FromAgent) or not isinstance(event.message, wire.ConvergeProgress):
            due = pace.due(event, now.mono, len(world.nodes))
            if due > now.mono:
                world.wake(due)
            else:
                self._follow()
        unjudged = pace.unjudged
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

    def _follow(self) -> None:
        """What every change may bring about, in a fixed order."""
        world = self._world
        self._pace.followed(world.now.mono, len(world.nodes))
        for volume in world.volumes.values():
            judge_volume(world, volume)
        guards.watch(world)
        auditing.drive(world, self._rng)
        joined = [node for node in world.nodes.values() if phases.join(world, node)]
        if joined:
            for volume in world.volumes.values():
                judge_volume(world, volume)
        for node in world.nodes.values():
            phases.update_phase(world, node)
        fencing.fence_suspects(world)
        recovery.start_due(world)
        recovery.drive(world)
        pushing.drive(world)
        speed.drive(world)
        scrubbing.drive(world)
        presence.watch(world)
        recurrence.watch(world)
        hands.watch(world)
        presence.gather(world)

    def _effects(self, unjudged: frozenset[str]) -> tuple[Effect, ...]:
        """One Persist, then membership, then everything else in its order."""
        world = self._world
        others, world.effects = world.effects, []
        presence.announce(world)
        membership, world.effects = world.effects, []
        persist = world.persist(unjudged)
        wakes, world.wakes = world.wakes, []
        front: list[Effect] = [] if persist is None else [persist]
        back: list[Effect] = [WakeAt(min(wakes))] if wakes else []
        return (*front, *membership, *others, *back)

    # --- views ---------------------------------------------------------------------------------

    def fleet_view(self, now: Now) -> FleetView:
        found = views.fleet_view(self._at(now))
        allowed = [holds.view(one) for one in self._world.live_holds if one.state == "allowed"]
        return msgspec.structs.replace(found, allowed=tuple(allowed)) if allowed else found

    def node_names(self) -> list[str]:
        return list(self._world.nodes)

    def node_view(self, now: Now, node: str) -> NodeView | None:
        world = self._at(now)
        return views.node_view(world, world.nodes[node]) if node in world.nodes else None

    def volume_names(self) -> list[str]:
        return list(self._world.volumes)

    def volume_view(self, now: Now, volume: str) -> VolumeView | None:
        world = self._at(now)
        return views.volume_view(world, world.volumes[volume]) if volume in world.volumes else None

    def incident_ids(self) -> list[str]:
        """Newest first."""
        return list(reversed(self._world.incidents))

    def incident_view(self, incident: str) -> IncidentView | None:
        found: Incident | None = self._world.incidents.get(incident)
        return None if found is None else found.view()

    def action_ids(self) -> list[str]:
        """Newest first."""
        return list(reversed(self._world.actions))

    def action_view(self, action: str) -> ActionView | None:
        return views.action_view(self._world, action)

    def hold_ids(self) -> list[str]:
        """Newest first."""
        return list(reversed(self._world.holds))

    def hold_view(self, hold: str) -> HoldView | None:
        found = self._world.holds.get(hold)
        return None if found is None else holds.view(found)

    def baseline_names(self) -> list[str]:
        return sorted(self._world.baselines)

    def baseline_view(self, name: str) -> BaselineView | None:
        found = self._world.baselines.get(name)
        return None if found is None else views.baseline_view(self._world, found)

    def conflicts(self, volume: str) -> tuple[ConflictView, ...]:
        """The conflicts of a volume, newest first."""
        return conflicts.views(self._world, volume)

    def speed_view(self, now: Now) -> SpeedView:
        return speed.view(self._at(now))

    def scrub_view(self) -> ScrubView:
        return scrubbing.view(self._world)

    def lb_status(self, now: Now, node: str) -> Literal[200, 503] | None:
        return views.lb_status(self._at(now), node)

    def diff(
        self,
        volume: str,
        node: str,
        against: str | None,
        low: bytes = b"",
        limit: int = 100,
        same: bool = False,
    ) -> FleetDiff | Refusal:
        """How a node differs from the truth (`against` None or "truth"), another node or a baseline."""
        world = self._world
        found = world.volumes.get(volume)
        if found is None or node not in found.config.nodes:
            return Refusal(404, "unknown_node", f"{node!r} has no volume {volume!r}.")
        stored = world.nodes[node].volume(volume)
        root, status = stored.root, stored.status
        other = self._root_named(found, against)
        if isinstance(other, Refusal):
            return other
        if root is None:
            return Refusal(409, "not_scanned", f"{node} has not finished its first scan of {volume}.")
        to_truth = against in (None, "truth")
        skipped = found.undetermined if to_truth else frozenset()
        differing = {
            key: values for key, values in world.differ.diff(root, other).items() if key not in skipped
        }
        excused = excused_of(differing, stored.withheld if to_truth else (), world.algorithm.width)
        page = diff_page(
            world.tree, root, other, width=world.algorithm.width, chunk_bytes=found.config.chunk_bytes,
            chunk_list=world.object, skip=skipped.__contains__,
            unreadable={one.key: one.detail for one in status.unreadable if one.why == "unreadable"} if status else {},
            withheld=excused, low=low, limit=limit, same=same,
        )  # fmt: skip
        stale = tuple(
            one
            for one in (node, against)
            if one in found.config.nodes and not world.compared(world.nodes[one], found)
        )
        return FleetDiff(
            page.rows, page.next_key, len(skipped), len(differing) - len(excused),
            tuple(one for one in stale if one is not None), len(excused),
        )  # fmt: skip

    def _root_named(self, volume: Volume, against: str | None) -> bytes | Refusal:
        world = self._world
        if against in (None, "truth"):
            return volume.truth or Refusal(409, "no_truth", f"{volume.name} has no truth yet.")
        assert against is not None
        if against in volume.config.nodes:
            root = world.nodes[against].volume(volume.name).root
            return root or Refusal(409, "not_scanned", f"{against} has not finished its first scan.")
        baseline = world.baselines.get(against)
        if baseline is not None and baseline.volume == volume.name:
            return baseline.root
        return Refusal(
            404, "unknown_against", f"{against!r} is neither truth nor a node nor a baseline of this volume."
        )

    def live_roots(self, now: Now) -> set[bytes]:
        """Every root whose tree must be kept: present, held, the truth's past, baselines, open evidence."""
        world = self._at(now)
        live: list[bytes | None] = []
        for volume in world.volumes.values():
            volume.history.forget_left(now.mono - world.config.history_keep_s)
            first = volume.history.roots[0][0] if volume.history.roots else 0
            if volume.record.roots and volume.record.roots[0][0] < first:
                volume.record.roots = [one for one in volume.record.roots if one[0] >= first]
                world.touch("volume", volume.name)
            live += [root for _, root in volume.history.roots]
        for node in world.nodes.values():
            live += [root for stored in node.record.volumes.values() for root in (stored.root, stored.held)]
            live.append(None if node.recovery is None else node.recovery.target)
            live += [root for view in node.views.values() for order in view.orders for root in order]
            live += [view.analysis.truth for view in node.views.values() if view.analysis is not None]
        live += world.targets()
        live += [baseline.root for baseline in world.baselines.values()]
        live += [root for incident in world.incidents.values() if incident.is_open for root in incident.roots]
        return {root for root in live if root is not None}

    def state(self, now: Now, node: str) -> State | None:
        """Only the state of a node; None for one that does not exist."""
        world = self._at(now)
        return views.state_of(world, world.nodes[node]) if node in world.nodes else None

    def _at(self, now: Now) -> World:
        self._world.now = now
        return self._world
