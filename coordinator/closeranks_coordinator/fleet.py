"""The coordinator's core: one event in, effects out. Pure: its only clock is what it is given.

A step changes the world, then lets the consequences follow in a fixed order: truth and verdicts of every
volume, names of nodes, fences, recoveries. Effects leave in the order of DESIGN §5: first one Persist
with everything that changed, then membership, then what is sent to nodes, then what the world is told.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.limits import GONE_GRACE_S
from closeranks_proto.tree import ObjectSource

from . import fencing, recovery, requests, views
from .diffs import DiffRow, diff_page
from .history import TruthHistory
from .incidents import Incident
from .model import (
    ActionView,
    BaselineCreateAsked,
    BaselineDeleteAsked,
    BaselineView,
    Configured,
    Connected,
    Disconnected,
    DuplicateRefused,
    Effect,
    Event,
    FleetConfig,
    FleetView,
    FromAgent,
    IncidentView,
    NodeView,
    Now,
    PinAsked,
    QuarantineAsked,
    Refusal,
    ReleaseAsked,
    ResyncAsked,
    RootStored,
    Scanned,
    Send,
    Step,
    Tick,
    VolumeConfig,
    VolumeView,
    WakeAt,
)
from .records import NodeRecord, VolumeRecord
from .verdicts import closed, judge_volume
from .world import INCIDENTS_MAX, Node, Volume, World

Answer = ActionView | BaselineView | VolumeView | Refusal | None


@dataclass(frozen=True, slots=True)
class FleetDiff:
    """A page of a node's difference. `total` paths differ in all; `undetermined` ones are left out."""

    rows: tuple[DiffRow, ...]
    next_key: bytes | None
    undetermined: int
    total: int


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
        self._world = World(config, algorithm, source, now)
        volumes = self._world.load(records)
        self._place(config, volumes)
        for incident in self._world.incidents.values():
            if incident.is_open and incident.node in self._world.nodes and incident.volume is not None:
                view = self._world.nodes[incident.node].view(incident.volume)
                view.seen = dict.fromkeys(incident.paths)

    # --- steps ---------------------------------------------------------------------------------

    def step(self, now: Now, event: Event) -> Step:
        """Take one event. The effects are in the order in which they must be carried out."""
        world = self._world
        world.now = now
        answer = self._take(event)
        if not isinstance(event, FromAgent) or not isinstance(event.message, wire.ConvergeProgress):
            self._follow()
        return Step(self._effects(), answer)

    def _take(self, event: Event) -> Answer:
        world = self._world
        match event:
            case Connected():
                self._connected(event)
            case Disconnected():
                self._disconnected(event)
            case DuplicateRefused():
                fencing.refuse_duplicate(world, event.node, event.detail)
            case RootStored():
                self._root_stored(event)
            case Scanned():
                self._scanned(event)
            case FromAgent():
                self._from_agent(event)
            case Configured():
                self._configured(event.config)
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
        return None

    def _follow(self) -> None:
        """What every change may bring about, in a fixed order."""
        world = self._world
        for volume in world.volumes.values():
            judge_volume(world, volume)
        for node in world.nodes.values():
            fencing.update_phase(world, node)
        fencing.fence_suspects(world)
        recovery.start_due(world)
        recovery.drive(world)
        fencing.watch_presence(world)
        self._prune()

    def _effects(self) -> tuple[Effect, ...]:
        """One Persist, then membership, then everything else in its order."""
        world = self._world
        others, world.effects = world.effects, []
        told = fencing.members_now(world)
        if told != world.told:
            world.told = told
            world.counters.term += 1
            world.touch("counters", "")
            for node in world.nodes.values():
                world.send(node, fencing.membership(world, node))
        membership, world.effects = world.effects, []
        persist = world.persist()
        wakes, world.wakes = world.wakes, []
        front: list[Effect] = [] if persist is None else [persist]
        back: list[Effect] = [WakeAt(min(wakes))] if wakes else []
        return (*front, *membership, *_single(others), *back)

    def _prune(self) -> None:
        world = self._world
        for key in list(world.incidents)[: max(0, len(world.incidents) - INCIDENTS_MAX)]:
            if not world.incidents[key].is_open:
                del world.incidents[key]
                world.touch("incident", key)

    # --- events --------------------------------------------------------------------------------

    def _connected(self, event: Connected) -> None:
        world = self._world
        node = world.nodes.get(event.node)
        if node is None:
            return  # retired while it dialled
        record = node.record
        node.session, node.has_volumes = event.session, event.volumes
        node.scanned = {}
        if record.agent_id != event.agent_id or record.address != event.address:
            record.agent_id, record.address = event.agent_id, event.address
            world.touch_node(node)
        record.last_contact_ms = world.now.wall_ms
        if event.highest_token > world.counters.token:
            world.counters.token = event.highest_token
            world.touch("counters", "")
        self._reconcile_fence(node, event.fence)
        if node.recovery is not None:
            node.recovery.asked = None
        world.send(node, fencing.membership(world, node))
        world.publish("node", node.name)

    def _reconcile_fence(self, node: Node, reported: wire.FenceState | None) -> None:
        """Make the node's fence the one on record, or keep one that we have lost."""
        world, record = self._world, node.record
        if record.fence is not None:
            record.fence.acknowledged = reported is not None and reported.token == record.fence.token
            fencing.send_fence(world, node)
        elif reported is not None and record.unfence is not None and reported.token <= record.unfence:
            world.send(node, wire.Unfence(record.unfence, reported.incident))
        elif reported is not None:
            fencing.drop_recovery(world, node, "the node came with a fence")
            fencing.adopt(world, node, reported)
        elif record.unfence is not None:
            record.unfence = None
            world.touch_node(node)

    def _disconnected(self, event: Disconnected) -> None:
        node = self._world.nodes.get(event.node)
        if node is None or node.session != event.session:
            return
        node.session = None
        node.gone_at = self._world.now.mono
        node.grace_s = GONE_GRACE_S
        node.scanned = {}
        if node.recovery is not None:
            node.recovery.asked, node.recovery.progress = None, {}
        self._world.publish("node", node.name)

    def _root_stored(self, event: RootStored) -> None:
        world = self._world
        node = world.nodes.get(event.node)
        if node is None or event.volume not in world.volumes:
            return
        stored = node.volume(event.volume)
        stored.root = event.root
        node.observed.setdefault(event.volume, event.observed_mono)
        node.record.last_contact_ms = world.now.wall_ms
        world.touch_node(node)
        world.count("closeranks_commits_total", 1, node=node.name, volume=event.volume)

    def _scanned(self, event: Scanned) -> None:
        node = self._world.nodes.get(event.node)
        if node is None or event.volume not in self._world.volumes:
            return
        before = node.scanned.get(event.volume, event.started_mono)
        node.scanned[event.volume] = max(before, event.started_mono)
        node.record.last_contact_ms = self._world.now.wall_ms
        node.volume(event.volume).last_scan_ms = self._world.now.wall_ms

    def _from_agent(self, event: FromAgent) -> None:
        world = self._world
        node = world.nodes.get(event.node)
        if node is None:
            return
        node.record.last_contact_ms = world.now.wall_ms
        match event.message:
            case wire.VolumeStatus():
                self._status(node, event.message)
            case wire.FenceAnswer():
                self._fence_answered(node, event.message)
            case wire.ConvergeProgress():
                recovery.progressed(world, node, event.message)
            case wire.ConvergeResult():
                recovery.converged(world, node, event.message)
            case wire.VerifyResult():
                recovery.verified(world, node, event.message)

    def _status(self, node: Node, status: wire.VolumeStatus) -> None:
        world = self._world
        if status.volume not in world.volumes:
            return
        stored = node.volume(status.volume)
        old = None if stored.status is None else stored.status.problem
        if (old is None) != (status.problem is None):
            stored.problem_since_ms = None if status.problem is None else world.now.wall_ms
            if status.problem is None and node.recovery is not None:
                node.recovery.not_before = 0.0  # what held it up is gone
        if status.problem is not None and (old is None or old.code != status.problem.code):
            world.log("warning", f"{node.name}, {status.volume}: {status.problem.message}")
            self._note_problem(node, status)
        stored.status = status
        world.touch_node(node)

    def _note_problem(self, node: Node, status: wire.VolumeStatus) -> None:
        assert status.problem is not None
        for incident in self._world.incidents.values():
            if incident.is_open and (incident.node, incident.volume) == (node.name, status.volume):
                incident.note(self._world.now.wall_ms, "note", status.problem.message)
                self._world.touch_incident(incident)

    def _fence_answered(self, node: Node, answer: wire.FenceAnswer) -> None:
        world, record = self._world, node.record
        fence = record.fence
        if answer.fenced and fence is not None and answer.token == fence.token:
            fence.acknowledged = True
            world.touch_node(node)
            incident = world.incidents.get(fence.incident or "")
        elif not answer.fenced and record.unfence == answer.token:
            record.unfence = None
            world.touch_node(node)
            incident = None
        else:
            return
        if answer.hook:
            world.log("info" if answer.hook_ok else "warning", f"{node.name}: {answer.hook}")
        if answer.hook and incident is not None:
            incident.note(world.now.wall_ms, "note", f"{node.name}: {answer.hook}.")
            world.touch_incident(incident)

    # --- configuration -------------------------------------------------------------------------

    def _configured(self, config: FleetConfig) -> None:
        world = self._world
        before = {name: volume.record for name, volume in world.volumes.items()}
        for name in sorted(set(world.nodes) - set(config.nodes)):
            world.touch("node", name)
        for name in sorted(set(before) - {volume.name for volume in config.volumes}):
            world.touch("volume", name)
        world.config = config
        self._place(config, before)
        for volume in world.volumes.values():
            if volume.config.policy == "quorum":
                world.log(
                    "info",
                    f"{volume.config.name}: {volume.need} of {len(volume.config.nodes)} nodes are a quorum now",
                )

    def _place(self, config: FleetConfig, records: dict[str, VolumeRecord]) -> None:
        """Hold what is known against the configuration: nodes and volumes come and go."""
        world = self._world
        known, world.nodes = world.nodes, {}
        for name in config.nodes:
            node = known.get(name)
            if node is None:
                node = Node(
                    name, NodeRecord(story=["joining"], since_ms=world.now.wall_ms), gone_at=world.now.mono
                )
            world.nodes[name] = node
        for incident in world.incidents.values():
            if incident.is_open and incident.node is not None and incident.node not in world.nodes:
                incident.note(world.now.wall_ms, "note", f"{incident.node} was removed from the fleet.")
                closed(world, incident)
        old, world.volumes = world.volumes, {}
        for one in config.volumes:
            record = records.get(one.name) or VolumeRecord(settings=_settings_of(one))
            volume = old.get(one.name)
            if volume is None:
                history = TruthHistory(world.differ, [(order, root) for order, root, _ in record.roots])
                volume = Volume(one, record, history)
            volume.config = one
            volume.decided = ()
            world.volumes[one.name] = volume
            if record.settings != _settings_of(one):
                self._found_again(volume)

    def _found_again(self, volume: Volume) -> None:
        """Other rules make another tree: nobody is accused of it, and a new truth is founded (RULES 3.5)."""
        world, name = self._world, volume.config.name
        volume.record.settings, volume.record.roots = _settings_of(volume.config), []
        volume.history = TruthHistory(world.differ, [])
        volume.undetermined, volume.unclear_since, volume.votes_since = frozenset(), {}, None
        world.touch("volume", name)
        world.log("info", f"{name}: its settings have changed; a new truth is founded")
        for node in world.members(volume):
            stored = node.volume(name)
            stored.root = stored.held = None
            stored.withheld = []
            node.views.pop(name, None)
            if not node.fenced:
                fencing.drop_recovery(world, node, "the volume's settings have changed")
                if node.record.phase != "joining":
                    world.move(node, "joining")
            world.touch_node(node)

    # --- views ---------------------------------------------------------------------------------

    def fleet_view(self, now: Now) -> FleetView:
        return views.fleet_view(self._at(now))

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

    def baseline_names(self) -> list[str]:
        return sorted(self._world.baselines)

    def baseline_view(self, name: str) -> BaselineView | None:
        found = self._world.baselines.get(name)
        return None if found is None else views.baseline_view(self._world, found)

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
        root, stored = world.nodes[node].volume(volume).root, world.nodes[node].volume(volume)
        other = self._root_named(found, against)
        if isinstance(other, Refusal):
            return other
        if root is None:
            return Refusal(409, "not_scanned", f"{node} has not finished its first scan of {volume}.")
        to_truth = against in (None, "truth")
        skipped = found.undetermined if to_truth else frozenset()
        status = stored.status
        page = diff_page(
            world.tree, root, other, width=world.algorithm.width, chunk_bytes=found.config.chunk_bytes,
            chunk_list=world.object, skip=skipped.__contains__,
            unreadable={one.key: one.detail for one in status.unreadable if one.why == "unreadable"} if status else {},
            low=low, limit=limit, same=same,
        )  # fmt: skip
        differing = world.differ.diff(root, other)
        total = len(differing) - sum(key in differing for key in skipped)
        return FleetDiff(page.rows, page.next_key, len(skipped), total)

    def _root_named(self, volume: Volume, against: str | None) -> bytes | Refusal:
        world = self._world
        if against in (None, "truth"):
            return volume.truth or Refusal(409, "no_truth", f"{volume.config.name} has no truth yet.")
        assert against is not None
        if against in volume.config.nodes:
            root = world.nodes[against].volume(volume.config.name).root
            return root or Refusal(409, "not_scanned", f"{against} has not finished its first scan.")
        baseline = world.baselines.get(against)
        if baseline is not None and baseline.volume == volume.config.name:
            return baseline.root
        return Refusal(
            404, "unknown_against", f"{against!r} is neither truth nor a node nor a baseline of this volume."
        )

    def live_roots(self, now: Now) -> set[bytes]:
        """Every root whose tree must be kept: present, held, the truth's past, baselines, open evidence."""
        world = self._at(now)
        keep_ms = now.wall_ms - int(world.config.history_keep_s * 1000)
        live: list[bytes | None] = []
        for volume in world.volumes.values():
            old = [order for order, _, at in volume.record.roots[:-1] if at < keep_ms]
            if old:
                volume.history.forget(max(old) + 1)
                volume.record.roots = [one for one in volume.record.roots if one[0] > max(old)]
                world.touch("volume", volume.config.name)
            live += [root for _, root in volume.history.roots]
        for node in world.nodes.values():
            live += [root for stored in node.record.volumes.values() for root in (stored.root, stored.held)]
            live += [world.target(node, one, "divergence") for one in world.volumes_of(node) if node.recovery]
        live += [baseline.root for baseline in world.baselines.values()]
        live += [root for incident in world.incidents.values() if incident.is_open for root in incident.roots]
        return {root for root in live if root is not None}

    def _at(self, now: Now) -> World:
        self._world.now = now
        return self._world


def _settings_of(volume: VolumeConfig) -> str:
    """What decides which entries a tree has: a change of it is a new truth."""
    return repr((volume.chunk_bytes, volume.ignore, volume.track))


def _single(effects: list[Effect]) -> list[Effect]:
    """Membership that one step sends to one node twice is sent once, the last."""
    last = {
        effect.node: position
        for position, effect in enumerate(effects)
        if isinstance(effect, Send) and isinstance(effect.message, wire.Membership)
    }
    return [
        effect
        for position, effect in enumerate(effects)
        if not (isinstance(effect, Send) and isinstance(effect.message, wire.Membership))
        or last[effect.node] == position
    ]
