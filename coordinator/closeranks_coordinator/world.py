"""Everything that the core knows, and the questions that all its parts ask of it.

What is not in a record (connections, clocks, scans, work under way) is made anew after a restart: nodes
dial again and say where they stand, and a recovery starts its present round again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.limits import GONE_GRACE_S
from closeranks_proto.tree import ObjectSource, Tree

from .history import TruthHistory
from .incidents import Incident
from .judge import Analysis, Clocks, same_but_special_bits
from .model import Effect, FleetConfig, Log, Now, Observe, Persist, Publish, Send, VolumeConfig
from .records import ActionRecord, BaselineRecord, Counters, NodeRecord, NodeVolume, Purpose, VolumeRecord
from .states import Phase, step
from .truth import Differ, quorum_of

STARTUP_GRACE_S = 10.0  # after a start nodes keep their stored state for so long
STALE_MIN_S = 60.0
ACTIONS_MAX = 1000
INCIDENTS_MAX = 1000
UNTRUSTED = ("not_mounted",)  # problems under which a scan says nothing about the node


@dataclass(slots=True)
class Recovery:
    """What of a recovery is not persisted: the round it is in. Times are monotonic."""

    stage: Literal["converge", "verify", "settle"] = "converge"
    asked: str | None = None  # the volume whose answer is awaited
    attempt: int = 0
    not_before: float = 0.0
    to_verify: list[str] = field(default_factory=list)
    verified_at: float = 0.0
    bytes_before: int = 0  # moved by earlier rounds
    bytes_now: int = 0
    progress: dict[str, wire.ConvergeProgress] = field(default_factory=dict)
    noted: str = ""  # last trouble told in the timeline


@dataclass(slots=True)
class View:
    """A node's volume as judged last; made anew whenever root, truth or held change."""

    basis: tuple[bytes | None, ...] = ()
    analysis: Analysis | None = None
    clocks: Clocks = field(default_factory=Clocks)
    lag_since: float | None = None
    seen: dict[bytes, None] = field(default_factory=dict)  # keys that differed in the open incident
    confirmed: int = 0
    unconfirmed: int = 0
    confirmed_since: float | None = None
    bytes: tuple[bytes, bytes, int] | None = None  # differing bytes, by (root, target)


@dataclass(slots=True)
class Node:
    """One node: its record, its connection, its work."""

    name: str
    record: NodeRecord
    session: str | None = None
    gone_at: float = 0.0
    grace_s: float = GONE_GRACE_S
    has_volumes: tuple[str, ...] = ()
    scanned: dict[str, float] = field(default_factory=dict)  # start of the last scan, monotonic
    observed: dict[str, float] = field(default_factory=dict)  # when the oldest open difference was seen
    views: dict[str, View] = field(default_factory=dict)
    recovery: Recovery | None = None
    blocked_by: str | None = None

    def view(self, volume: str) -> View:
        return self.views.setdefault(volume, View())

    def volume(self, volume: str) -> NodeVolume:
        return self.record.volumes.setdefault(volume, NodeVolume())

    @property
    def fenced(self) -> bool:
        return self.record.fence is not None


@dataclass(slots=True)
class Volume:
    """One volume: configuration, record, and the truth's earlier roots."""

    config: VolumeConfig
    record: VolumeRecord
    history: TruthHistory
    undetermined: frozenset[bytes] = frozenset()
    unclear_since: dict[bytes, float] = field(default_factory=dict)  # undetermined keys, since when
    voters: tuple[str, ...] = ()
    votes_since: float | None = None  # since when a quorum could found the truth
    rolling: dict[tuple[bytes, bytes | None], int] = field(default_factory=dict)
    decided: tuple[object, ...] = ()

    @property
    def truth(self) -> bytes | None:
        return self.record.roots[-1][1] if self.record.roots else None

    @property
    def need(self) -> int:
        return quorum_of(len(self.config.nodes))


class World:
    """The core's memory, and the effects of the step under way."""

    def __init__(
        self, config: FleetConfig, algorithm: DigestAlgorithm, source: ObjectSource, now: Now
    ) -> None:
        self.config = config
        self.algorithm = algorithm
        self._stored = source
        self._fresh: dict[bytes, bytes] = {}
        self.tree = Tree(algorithm, self.object)
        self.differ = Differ(self.tree)
        self.now = now
        self.started = now.mono
        self.nodes: dict[str, Node] = {}
        self.volumes: dict[str, Volume] = {}
        self.incidents: dict[str, Incident] = {}
        self.actions: dict[str, ActionRecord] = {}
        self.baselines: dict[str, BaselineRecord] = {}
        self.counters = Counters()
        self.effects: list[Effect] = []
        self.wakes: list[float] = []
        self.told: tuple[wire.Member, ...] = ()  # membership as broadcast last
        self.duplicates: dict[str, float] = {}  # node to when a second agent was refused last
        self.unreachable_since: dict[str, float] = {}
        self._dirty: dict[tuple[str, str], None] = {}

    # --- objects -------------------------------------------------------------------------------

    def object(self, digest: bytes) -> bytes:
        """A page or chunk list, those of the step under way included. Raises MissingObject."""
        fresh = self._fresh.get(digest)
        return self._stored(digest) if fresh is None else fresh

    def keep(self, pages: dict[bytes, bytes]) -> None:
        """Pages that this step made: usable at once, durable with its Persist."""
        self._fresh.update(pages)

    # --- what changes --------------------------------------------------------------------------

    def touch(self, kind: str, key: str) -> None:
        """This record is written at the end of the step."""
        self._dirty[(kind, key)] = None

    def touch_node(self, node: Node) -> None:
        self.touch("node", node.name)
        self.publish("node", node.name)

    def touch_incident(self, incident: Incident) -> None:
        self.touch("incident", incident.id)
        self.publish("incident", incident.id)

    def touch_action(self, action: ActionRecord) -> None:
        self.touch("action", action.id)
        self.publish("action", action.id)

    def publish(self, kind: Literal["node", "volume", "incident", "action"], key: str) -> None:
        effect = Publish(kind, key)
        if effect not in self.effects:
            self.effects.append(effect)

    def send(self, node: Node, message: wire.CoordinatorMessage) -> None:
        if node.session is not None:
            self.effects.append(Send(node.name, message))

    def log(self, level: Literal["info", "warning", "error"], text: str) -> None:
        self.effects.append(Log(level, text))

    def count(self, metric: str, value: float, **labels: str) -> None:
        self.effects.append(Observe(metric, value, tuple(sorted(labels.items()))))

    def wake(self, mono: float) -> None:
        self.wakes.append(mono)

    def move(self, node: Node, phase: Phase) -> None:
        """One step of the table."""
        record = node.record
        if record.phase != phase:
            record.story = step(node.name, record.story, record.phase, phase)
            record.phase = phase
            record.since_ms = self.now.wall_ms
            self.touch_node(node)

    # --- persistence ---------------------------------------------------------------------------

    def persist(self) -> Persist | None:
        """What the step under way must make durable; None when nothing."""
        records = tuple((kind, key, self._encode(kind, key)) for kind, key in self._dirty)
        objects, self._fresh, self._dirty = self._fresh, {}, {}
        return Persist(objects, records) if objects or records else None

    def _encode(self, kind: str, key: str) -> bytes | None:
        found: object | None
        match kind:
            case "node":
                found = self.nodes[key].record if key in self.nodes else None
            case "volume":
                found = self.volumes[key].record if key in self.volumes else None
            case "incident":
                incident = self.incidents.get(key)
                return None if incident is None else incident.encode()
            case "action":
                found = self.actions.get(key)
            case "baseline":
                found = self.baselines.get(key)
            case "counters":
                found = self.counters
            case _:
                raise AssertionError(f"no record of kind {kind}")
        return None if found is None else msgspec.msgpack.encode(found)

    def load(self, records: Iterable[tuple[str, str, bytes]]) -> dict[str, VolumeRecord]:
        """Take back what was persisted; the volumes' records for the caller to place."""
        volumes: dict[str, VolumeRecord] = {}
        for kind, key, blob in records:
            match kind:
                case "node":
                    record = msgspec.msgpack.decode(blob, type=NodeRecord)
                    node = Node(key, record, gone_at=self.now.mono, grace_s=STARTUP_GRACE_S)
                    if record.recovery is not None:
                        node.recovery = Recovery()
                    self.nodes[key] = node
                case "volume":
                    volumes[key] = msgspec.msgpack.decode(blob, type=VolumeRecord)
                case "incident":
                    self.incidents[key] = Incident.decode(blob)
                case "action":
                    self.actions[key] = msgspec.msgpack.decode(blob, type=ActionRecord)
                case "baseline":
                    self.baselines[key] = msgspec.msgpack.decode(blob, type=BaselineRecord)
                case "counters":
                    self.counters = msgspec.msgpack.decode(blob, type=Counters)
                case _:
                    self.log("warning", f"a stored record of unknown kind {kind!r} is left alone")
        return volumes

    # --- questions -----------------------------------------------------------------------------

    def members(self, volume: Volume) -> list[Node]:
        return [self.nodes[name] for name in volume.config.nodes]

    def volumes_of(self, node: Node) -> list[Volume]:
        return [volume for volume in self.volumes.values() if node.name in volume.config.nodes]

    def unreachable(self, node: Node) -> bool:
        """Whether people see this node as unreachable: gone for longer than the grace, or without its tree."""
        if node.session is None:
            return self.now.mono - node.gone_at >= node.grace_s
        return any(self.untrusted(node, volume.config.name) for volume in self.volumes_of(node))

    def untrusted(self, node: Node, volume: str) -> bool:
        status = node.volume(volume).status
        return status is not None and status.problem is not None and status.problem.code in UNTRUSTED

    def stale(self, node: Node, volume: Volume) -> bool:
        """Whether its last complete scan is too long ago, or none is known, for its root to count."""
        scanned = node.scanned.get(volume.config.name)
        limit = max(STALE_MIN_S, self.config.stale_after_scans * volume.config.scan_interval_s)
        return scanned is None or self.now.mono - scanned > limit

    def compared(self, node: Node, volume: Volume) -> bool:
        """Whether what we know of this node's volume is current."""
        return (
            node.session is not None
            and node.volume(volume.config.name).root is not None
            and not self.untrusted(node, volume.config.name)
            and not self.stale(node, volume)
        )

    def may_vote(self, node: Node, volume: Volume) -> bool:
        if node.fenced or not self.compared(node, volume):
            return False
        return volume.truth is None or node.volume(volume.config.name).held is not None

    def left(self, node: Node, volume: Volume, purpose: Purpose) -> list[bytes]:
        """Keys in which the node still has to follow the truth: not those that nobody can judge.

        A node that is only behind keeps its own new entries: they may be on their way to a majority.
        """
        stored, truth = node.volume(volume.config.name), volume.truth
        if truth is None or stored.root is None or stored.root == truth:
            return []
        differing = self.differ.diff(stored.root, truth)
        analysis = node.view(volume.config.name).analysis
        if purpose == "lag" and analysis is not None:
            return sorted(analysis.lagging)
        withheld = frozenset(stored.withheld)
        return [
            key
            for key, values in differing.items()
            if key not in volume.undetermined
            and not (key in withheld and same_but_special_bits(values, self.algorithm.width))
        ]

    def target(self, node: Node, volume: Volume, purpose: Purpose) -> bytes | None:
        """The root to converge this node to: the truth, with its own entries where it may keep them."""
        truth, root = volume.truth, node.volume(volume.config.name).root
        if truth is None or root is None:
            return truth
        differing = self.differ.diff(root, truth)
        follow = frozenset(self.left(node, volume, purpose))
        keeps = volume.undetermined if purpose != "lag" else frozenset(differing) - follow
        own = [(key, values[0]) for key, values in differing.items() if key in keeps]
        if not own:
            return truth
        edited = self.tree.edit(truth, own)
        self.keep(edited.pages)
        return edited.root

    def open_incident(self, kind: str, node: str | None, volume: str | None) -> Incident | None:
        for incident in self.incidents.values():
            if incident.is_open and (incident.kind, incident.node, incident.volume) == (kind, node, volume):
                return incident
        return None

    def next_id(self, kind: Literal["incident", "action"]) -> str:
        number = getattr(self.counters, kind) + 1
        setattr(self.counters, kind, number)
        self.touch("counters", "")
        return f"{kind[0]}-{number:06d}"
