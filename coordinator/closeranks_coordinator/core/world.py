"""Everything that the core knows, and the questions that all its parts ask of it.

One object for the life of the core. Whatever a step touches here is written out by one Persist at the
step's front (see `persistence`); the effects gathered here leave behind it.
"""

from __future__ import annotations

from typing import Literal
from weakref import WeakKeyDictionary

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.tree import ObjectSource, Tree

from . import seconds
from .incidents import Incident, Kind
from .judge import Analysis, Judge, Passed
from .meters import Brake
from .model import Effect, FleetConfig, Log, Now, Observe, Publish, Send
from .nodes import Node, Volume
from .records import (
    ActionRecord,
    BaselineRecord,
    ConflictRecord,
    Counters,
    HoldRecord,
    Purpose,
    RepairsRecord,
    ScrubRecord,
    SpeedRecord,
)
from .states import Phase, step
from .targets import target_of
from .truth import Differ
from .windows import Usual

STALE_MIN_S = 60.0
ACTIONS_MAX = 1000
INCIDENTS_MAX = 1000
PLANS_MAX = 10  # dry runs whose plans are kept
UNTRUSTED = ("not_mounted",)  # problems under which a scan says nothing about the node
DIVERGED: tuple[Kind, ...] = ("divergence", "regression")
ACCUSING: tuple[Kind, ...] = (*DIVERGED, "audit")
TRASHING: tuple[Kind, ...] = (*ACCUSING, "runaway", "put_back")  # those whose repair sets something aside

IncidentKey = tuple[str, str | None, str | None]


class World:
    """The core's memory, and the effects of the step under way."""

    def __init__(
        self, config: FleetConfig, algorithm: DigestAlgorithm, source: ObjectSource, now: Now
    ) -> None:
        self.config = config
        self.algorithm = algorithm
        self._stored = source
        self.fresh: dict[bytes, bytes] = {}  # pages of the step under way
        self.tree = Tree(algorithm, self.object)
        self.differ = Differ(self.tree)
        self.judge = Judge(self.differ, algorithm.width)
        self.now = now
        self._began = now
        self.nodes: dict[str, Node] = {}
        self.volumes: dict[str, Volume] = {}
        self.incidents: dict[str, Incident] = {}
        self.actions: dict[str, ActionRecord] = {}
        self.baselines: dict[str, BaselineRecord] = {}
        self.holds: dict[str, HoldRecord] = {}
        self.usuals: dict[str, Usual] = {}  # by "node/volume"
        self.brake = Brake()
        self.held: frozenset[tuple[str, str]] = frozenset()  # (node, volume); "": all of its volumes
        self.muted: frozenset[tuple[str, str]] = frozenset()  # those of them that have no vote
        self.live_holds: tuple[HoldRecord, ...] = ()  # held, allowed, or rejected and not back yet
        self.conflicts: dict[str, ConflictRecord] = {}
        self.unplaced: dict[str, None] = {}  # open conflicts whose second version only the loser may have
        self.pushes = 0  # numbers given
        self.kept: dict[tuple[str, bytes], str] = {}  # volume and conflict name, to the open conflict
        self.counters = Counters()
        self.speed = SpeedRecord()
        self.scrubs = ScrubRecord()
        self.scrubs_told = False  # whether any node was ever told of a word
        self.limited = False  # whether any node was ever told of a limit
        self.repairs: dict[str, RepairsRecord] = {}  # by volume: what was put right
        self.remembering: dict[
            str, tuple[str, int]
        ] = {}  # by volume: the newest repair, places it took in memory
        self.unsaved_repairs: dict[str, float] = {}  # by volume: since when
        self.effects: list[Effect] = []
        self.wakes: list[float] = []
        self.told: tuple[wire.Member, ...] = ()  # membership as broadcast last
        self.told_at = 0.0
        self.membership: wire.Membership | None = None  # as most nodes were told it last
        self.untold: dict[str, None] = {}  # nodes that must be told of it again
        self.duplicates: dict[str, float] = {}  # node to when a second agent was refused last
        self.sizes: WeakKeyDictionary[Analysis, int] = WeakKeyDictionary()  # differing bytes, as far as asked
        self.going: WeakKeyDictionary[Analysis, frozenset[bytes]] = WeakKeyDictionary()  # see `holders`
        # Of the judgement under way, what many nodes have in common.
        self.own_of: dict[tuple[Analysis, int], tuple[bytes, ...]] = {}
        self.passed_of: dict[tuple[Analysis, int, int], Passed] = {}  # analyses of writers are nobody else's
        self.moved_of: dict[
            tuple[Analysis, tuple[bytes, ...], int], tuple[tuple[bytes, ...], tuple[bytes, ...]]
        ] = {}
        # Of the step under way: records that changed, those that must be written as they were, and what is told anyway.
        self.dirty: dict[tuple[str, str], None] = {}
        self.sealed: dict[tuple[str, str], bytes | None] = {}
        self.published: dict[tuple[str, str], None] = {}
        self._open: dict[IncidentKey, Incident] = {}
        self._open_of: dict[
            str | None, dict[IncidentKey, Incident]
        ] = {}  # the same by node: asked at every step
        self._targets: dict[tuple[str, str], tuple[object, object, Purpose, tuple[bytes, ...], bytes]] = {}
        self._assigned: dict[str, list[Volume]] = {}  # asked many times a step

    # --- objects -------------------------------------------------------------------------------

    def object(self, digest: bytes) -> bytes:
        """A page or chunk list, those of the step under way included. Raises MissingObject."""
        fresh = self.fresh.get(digest)
        return self._stored(digest) if fresh is None else fresh

    def keep(self, pages: dict[bytes, bytes]) -> None:
        """Pages that this step made: usable at once, durable with its Persist."""
        self.fresh.update(pages)

    # --- what changes --------------------------------------------------------------------------

    def touch(self, kind: str, key: str) -> None:
        """This record is written at the end of the step."""
        self.dirty[(kind, key)] = None

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
        if (kind, key) not in self.published:
            self.published[(kind, key)] = None
            self.effects.append(Publish(kind, key))

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
            if phase == "suspect":
                node.suspect_since = self.now.mono
            else:
                node.blocked_by = None
            self.touch_node(node)

    @property
    def steady_ms(self) -> int:
        """The wall clock of this process's start, gone on by the monotonic one: for what is counted over restarts.

        A step of the wall clock neither makes a repeat offender's past longer ago nor keeps it for ever.
        """
        return self._began.wall_ms + int((self.now.mono - self._began.mono) * 1000)

    def lately(self, moments_ms: list[int], window_s: float) -> list[int]:
        """Those of these steady moments that lie within. What an earlier process saw later than now was just now."""
        now_ms = self.steady_ms
        return [min(at, now_ms) for at in moments_ms if now_ms - at < window_s * 1000]

    def new_action(
        self, kind: str, node: Node, volume: str | None, state: Literal["running", "done"], dry_run: bool = False
    ) -> ActionRecord:  # fmt: skip
        """The next action; the oldest that has ended gives way."""
        action = ActionRecord(
            self._next_id("action"), kind, node.name, volume, state, self.now.wall_ms, dry_run
        )
        self.actions[action.id] = action
        self.touch_action(action)
        for old in list(self.actions)[: max(0, len(self.actions) - ACTIONS_MAX)]:
            if self.actions[old].state in ("done", "failed"):
                del self.actions[old]
                self.touch("action", old)
        return action

    def forget_plans(self) -> None:
        """Keep the plans of the newest dry runs only: one may have thousands of steps."""
        planned = [action for action in self.actions.values() if action.plan is not None]
        for action in planned[:-PLANS_MAX]:
            action.plan = None
            self.touch("action", action.id)

    # --- incidents -----------------------------------------------------------------------------

    def next_incident(self) -> str:
        return self._next_id("incident")

    def next_hold(self) -> str:
        return self._next_id("hold")

    def open(self, incident: Incident) -> None:
        self.incidents[incident.id] = incident
        self.opened(incident)
        self.count("closeranks_incidents_total", 1, kind=incident.kind)
        self.touch_incident(incident)
        self._incident_of(incident)
        if len(self.incidents) > INCIDENTS_MAX:
            self._prune()

    def close(self, incident: Incident) -> None:
        incident.close(self.now.wall_ms)
        self._open.pop(_key_of(incident), None)
        self._open_of.get(incident.node, {}).pop(_key_of(incident), None)
        self.touch_incident(incident)
        self._incident_of(incident)

    def opened(self, incident: Incident) -> None:
        """It is open, and found by what it is about."""
        key = _key_of(incident)
        self._open[key] = incident
        self._open_of.setdefault(incident.node, {})[key] = incident

    def _incident_of(self, incident: Incident) -> None:
        """A node keeps the trash of its open incidents: it must know them."""
        if incident.node is not None and incident.kind in TRASHING:
            self.untold[incident.node] = None

    def _prune(self) -> None:
        for key in list(self.incidents)[: len(self.incidents) - INCIDENTS_MAX]:
            if not self.incidents[key].is_open:
                del self.incidents[key]
                self.touch("incident", key)

    def open_incident(self, kind: Kind, node: str | None, volume: str | None) -> Incident | None:
        return self._open.get((kind, node, volume))

    def open_incidents(self) -> list[Incident]:
        return list(self._open.values())

    def diverged(self, node: Node, volume: str | None = None) -> list[Incident]:
        """The open incidents that tell of this node's differences, on one volume or any."""
        return [one for one in self.accusing(node, volume) if one.kind in DIVERGED]

    def accusing(self, node: Node, volume: str | None = None) -> list[Incident]:
        """The open incidents for which this node is suspect, on one volume or any: its differences, its audits."""
        return [
            incident
            for incident in self._open_of.get(node.name, {}).values()
            if incident.kind in ACCUSING and (volume is None or incident.volume == volume)
        ]

    def trashing(self, node: Node) -> list[Incident]:
        """The open incidents for which this node must keep its trash."""
        return [one for one in self._open_of.get(node.name, {}).values() if one.kind in TRASHING]

    # --- questions -----------------------------------------------------------------------------

    def members(self, volume: Volume) -> list[Node]:
        return [self.nodes[name] for name in volume.config.nodes]

    def volumes_of(self, node: Node) -> list[Volume]:
        found = self._assigned.get(node.name)
        if found is None:
            found = [volume for volume in self.volumes.values() if node.name in volume.config.nodes]
            self._assigned[node.name] = found
        return found

    def assign(self) -> None:
        """Volumes or their nodes have changed."""
        self._assigned = {}

    def unreachable(self, node: Node) -> bool:
        """Whether people see this node as unreachable: gone for longer than the grace, or without its tree."""
        if node.session is None:
            return self.now.mono - node.gone_at >= node.grace_s
        return any(self.untrusted(node, volume.name) for volume in self.volumes_of(node))

    def untrusted(self, node: Node, volume: str) -> bool:
        status = node.volume(volume).status
        return status is not None and status.problem is not None and status.problem.code in UNTRUSTED

    def stale(self, node: Node, volume: Volume) -> bool:
        """Whether nobody has looked at its tree for too long, or it was never scanned, for its root to count.

        A volume in trouble may be unable to scan: it is waited for less long.
        """
        looked = node.current(volume.name)
        if looked is None or volume.name not in node.scanned:
            return True
        status, interval_s = node.volume(volume.name).status, volume.config.scan_interval_s
        took_s = (status.scan_duration_ms or 0) / 1000 if status is not None else 0.0
        if status is not None and status.problem is not None:
            limit = 2 * interval_s + 2 * took_s
        else:
            limit = max(STALE_MIN_S, self.config.stale_after_scans * interval_s, 3 * took_s)
        return self.now.mono - looked > limit

    def compared(self, node: Node, volume: Volume) -> bool:
        """Whether what we know of this node's volume is current."""
        stored = node.volume(volume.name)
        return (
            node.session is not None
            and stored.root is not None
            and stored.settings == volume.settings
            and not self.untrusted(node, volume.name)
            and not self.stale(node, volume)
        )

    def recovers(self, node: Node, volume: str) -> bool:
        """Whether this volume of the node is being brought to another tree."""
        work = node.record.recovery
        return work is not None and volume in work.volumes

    def is_held(self, node: Node, volume: Volume | None = None) -> bool:
        """Whether a guard holds this node's changes, of this volume or any: there it gives and is given nothing."""
        if volume is None:
            return any(name == node.name for name, _ in self.held)
        return self._is_among(self.held, node, volume)

    def is_muted(self, node: Node, volume: Volume) -> bool:
        """Whether a hold has taken its vote there."""
        return self._is_among(self.held if volume.config.replicated else self.muted, node, volume)

    @staticmethod
    def _is_among(found: frozenset[tuple[str, str]], node: Node, volume: Volume) -> bool:
        return bool(found) and ((node.name, volume.name) in found or (node.name, "") in found)

    def concerned(self, node: Node) -> list[Volume]:
        """The volumes that a fence is about: after a reject those that were held and those that diverged.

        Elsewhere its own changes are nobody's business: they stay, and are merged when it is released.
        """
        volumes = self.volumes_of(node)
        holds = [hold for hold in self.live_holds if hold.node == node.name and hold.state == "rejected"]
        if not holds or any(not hold.names for hold in holds):
            return volumes
        names = {name for hold in holds for name in hold.names}
        return [volume for volume in volumes if volume.name in names or self.accusing(node, volume.name)]

    def touch_hold(self, hold: HoldRecord) -> None:
        self.touch("hold", hold.id)
        self.publish("node", hold.node)
        self.index_holds()

    def index_holds(self) -> None:
        self.live_holds = tuple(hold for hold in self.holds.values() if hold.ended_ms is None)
        held = [hold for hold in self.live_holds if hold.state == "held"]
        self.held = frozenset((hold.node, name) for hold in held for name in hold.names or ("",))
        muted = [hold for hold in held if not hold.keeps_vote]
        self.muted = frozenset((hold.node, name) for hold in muted for name in hold.names or ("",))

    def may_vote(self, node: Node, volume: Volume) -> bool:
        if node.fenced or self.is_muted(node, volume) or not self.compared(node, volume):
            return False
        return volume.truth is None or node.volume(volume.name).held is not None

    def left(self, node: Node, volume: Volume, purpose: Purpose) -> int | None:
        """In how many paths the node still has to follow the truth; None while nobody knows."""
        view = node.view(volume.name)
        if view.analysis is None:
            return None
        if self.target(node, volume, purpose) == view.analysis.root:
            return 0
        return view.behind if purpose == "lag" else view.differing

    def target(self, node: Node, volume: Volume, purpose: Purpose) -> bytes | None:
        """The root to converge this node to; None while there is no truth."""
        view = node.view(volume.name)
        analysis = view.analysis
        if analysis is None:
            return volume.truth
        # What fenced nodes hold is given to nobody: of theirs nothing is put in safety first.
        back = () if purpose == "divergence" else seconds.held_back(self, volume, node, analysis)
        key = (node.name, volume.name)
        known = self._targets.get(key)
        if (
            known is not None
            and known[0] is analysis
            and known[1] is volume.undetermined
            and known[2:4] == (purpose, back)
        ):
            return known[4]
        stays = frozenset(one for one in analysis.raw if seconds.is_below(one, back)) if back else frozenset()
        edited = target_of(self.tree, analysis, purpose, volume.undetermined | stays)
        root = analysis.truth if edited is None else edited.root
        if edited is not None:
            self.keep(edited.pages)
        self._targets[key] = (analysis, volume.undetermined, purpose, back, root)
        return root

    def targets(self) -> list[bytes]:
        """Roots made for single nodes, which an order may name again."""
        return [known[4] for known in self._targets.values()]

    def _next_id(self, kind: Literal["incident", "action", "hold"]) -> str:
        number = getattr(self.counters, kind) + 1
        setattr(self.counters, kind, number)
        self.touch("counters", "")
        return f"{kind[0]}-{number:06d}"


def _key_of(incident: Incident) -> IncidentKey:
    return incident.kind, incident.node, incident.volume
