"""Nodes and volumes as the core holds them: a record that survives, and around it what does not.

What is not in a record (connections, clocks, scans, the round of a recovery) is made anew after a
restart: nodes dial again and say where they stand, and a recovery starts its present round again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from closeranks_proto import messages as wire
from closeranks_proto.limits import GONE_GRACE_S

from .changes import Changes
from .clocks import Clocks
from .history import TruthHistory
from .judge import Analysis, Stand
from .lateness import Lateness
from .model import VolumeConfig
from .records import NodeRecord, NodeVolume, ScrubWord, VolumeRecord
from .truth import Values, quorum_of
from .writers import Writing


@dataclass(slots=True)
class Recovery:
    """The round that a recovery is in. Times are monotonic.

    `quiet_since`: since when nothing of the node's own has differed. `goal`: the truth when the
    verification under way was asked for; `proven`: the truth that each volume was found to equal; in paths
    that nobody can judge what the node has.
    """

    stage: Literal["converge", "verify", "settle"] = "converge"
    asked: str | None = None  # the volume whose answer is awaited
    asked_at: float = 0.0  # or when it was last heard of
    target: bytes | None = None  # of the converge under way
    checked: tuple[object, ...] = ()  # what that target was held against last
    attempt: int = 0
    not_before: float = 0.0
    to_verify: list[str] = field(default_factory=list)
    goal: bytes | None = None
    proven: dict[str, bytes | None] = field(default_factory=dict)
    quiet_since: float | None = None
    catch_ups: int = 0  # rounds behind a truth that moved on while it was quiet
    bytes_before: int = 0  # moved by earlier rounds
    # The connection was lost meanwhile, or the coordinator was restarted: a result may be lost with it.
    interrupted: bool = False
    reached: dict[str, bytes] = field(default_factory=dict)  # roots brought about while the truth moved on
    progress: dict[str, wire.ConvergeProgress] = field(default_factory=dict)
    problem: dict[str, wire.Problem] = field(default_factory=dict)  # by volume, of its last round
    noted: str = ""  # last trouble told in the timeline


@dataclass(slots=True)
class SizeOf:
    """Differing bytes of one pair of roots, and the keys that have changed since, with what they were.

    `late`: bytes of those in which the node is only late, as they were looked at last.
    """

    total: int
    changed: dict[bytes, Values | None] = field(default_factory=dict)
    late: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class Pushing:
    """What is pushed to one node of one volume; times are monotonic. A session's end forgets it.

    `number` is that of the push under way, or the last. `sent` are the steps (before, after) of pushes without an
    answer, the newest two: the commits that they make may come after everything else is forgotten. `todo` are paths
    still to be sent, the next one last.
    """

    number: int = 0
    asked_at: float | None = None  # None: none is under way
    due_at: float = 0.0  # when one under way is given up
    fetch_bytes: int = 0  # of the one under way
    source: str = ""  # the first one named in it
    attempt: int = 0
    not_before: float = 0.0
    progress_at: float | None = None
    starved: bool = False  # what is left can be had from nobody now
    problem: wire.Problem | None = None  # that the last answer told of
    problem_since_ms: int | None = None
    failed: str = ""  # why something could not be made, by the last answer
    noted: str = ""  # the same, as it was logged last
    noted_at: float = -math.inf
    todo: list[bytes] = field(default_factory=list)
    sent: Mapping[bytes, Values] = field(default_factory=dict)
    sent_before: Mapping[bytes, Values] = field(default_factory=dict)

    def made(self, key: bytes, step: Values) -> bool:
        """Whether this step of the node is one that a push asked for."""
        return self.sent.get(key) == step or self.sent_before.get(key) == step


@dataclass(slots=True)
class Audit:
    """A question under way to those in `sessions`. `doubted`: whose proof was another in an earlier round."""

    number: int
    key: bytes
    value: bytes
    chunk: int
    asked_at: float
    sessions: dict[str, str]
    doubted: tuple[str, ...]
    answers: dict[str, wire.AuditAnswer] = field(default_factory=dict)


@dataclass(slots=True)
class Audits:
    """A volume's audits: how many were `begun`, and the `number` of the last question, which may be asked again.

    `unproven`: by node the entries that it gave no proof for since its last one.
    """

    next_at: float | None = None
    number: int = 0
    begun: int = 0
    ended: bool = False  # there are none, and what was open is closed
    asked: Audit | None = None
    unproven: dict[str, dict[bytes, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class View:
    """A node's volume as judged last. `unclear` and `lag_unclear` count undetermined paths in it.

    `by_us`: the root that is to be judged next was made by a converge or a push; `is_commit`: and what it changed of
    the root judged last is nothing but that. `by_another`: where we carry writes, it is the first of another agent.
    `brought`: paths of the root that is to be judged next that its agent tells to be our doing.
    """

    stand: Stand | None = None
    analysis: Analysis | None = None
    undetermined: frozenset[bytes] = frozenset()  # as the clocks know it
    unclear: int = 0
    lag_unclear: int = 0
    clocks: Clocks = field(default_factory=Clocks)
    lag_since: float | None = None
    lag_at_least: bool = False  # it was late already when it was first looked at
    seen: dict[bytes, None] = field(default_factory=dict)  # own paths of the open incident
    confirmed: int = 0
    unconfirmed: int = 0
    size: SizeOf | None = None
    by_us: bool = False
    is_commit: bool = False
    by_another: bool = False
    brought: frozenset[bytes] = frozenset()
    looked_at: float = 0.0
    order: int = 0  # of the truth that it was looked at last
    fresh: list[bytes] = field(default_factory=list)  # own entries that are news, until holders are counted
    changes: Changes | None = None  # of a writer
    orders: list[tuple[bytes, bytes]] = field(default_factory=list)  # the newest converges: (from, to) roots
    late: Lateness = field(default_factory=Lateness)
    pushing: Pushing = field(default_factory=Pushing)

    @property
    def own(self) -> int:
        """Paths that differ by the node's own doing, those that nobody can judge left out."""
        return self.differing - self.behind

    @property
    def behind(self) -> int:
        """Paths in which the node is only late, those that nobody can judge left out."""
        return 0 if self.analysis is None else len(self.analysis.lagging) - self.lag_unclear

    @property
    def differing(self) -> int:
        """All paths in which the node differs from the truth, those that nobody can judge left out."""
        return 0 if self.analysis is None else len(self.analysis.differing) - self.unclear


@dataclass(slots=True)
class Node:
    """One node: its record, its connection, its work."""

    name: str
    record: NodeRecord
    session: str | None = None
    unheard: frozenset[str] = frozenset()  # volumes: what it has from before this session is yet to be told
    connected_at: float = 0.0
    gone_at: float = 0.0
    grace_s: float = GONE_GRACE_S
    scanned: dict[str, float] = field(default_factory=dict)  # start of the last scan, monotonic
    watched: dict[str, float] = field(default_factory=dict)  # up to when its watcher proved to have seen all
    # (when, pause) it was last asked to look.
    asked: dict[str, tuple[float, float]] = field(default_factory=dict)
    observed: dict[str, float] = field(default_factory=dict)  # when the oldest open difference was seen
    views: dict[str, View] = field(default_factory=dict)
    recovery: Recovery | None = None
    suspect_since: float = 0.0
    unreachable_since: float | None = None
    blocked_by: str | None = None
    writing: Writing = field(default_factory=Writing)
    fetched_at: float | None = None  # when chunks were last on their way to it
    limits: tuple[str, int | None, int | None] | None = None  # session, receive and serve, as told last
    limits_at: float | None = None
    scrub_told: tuple[str, ScrubWord] | None = None  # session, and what it was told last of scrubs
    proven_ms: dict[str, int] = field(default_factory=dict)  # by volume: its last audit that was right
    offers: tuple[str, ...] | None = None  # volumes that its agent has; None until it connects

    def view(self, volume: str) -> View:
        found = self.views.get(volume)  # asked many times a step: no new View each time
        if found is None:
            found = self.views[volume] = View()
        return found

    def volume(self, volume: str) -> NodeVolume:
        found = self.record.volumes.get(volume)
        if found is None:
            found = self.record.volumes[volume] = NodeVolume()
        return found

    def current(self, volume: str) -> float | None:
        """Up to when this node is known to have looked at everything, by a scan or by its watcher; monotonic."""
        scanned, watched = self.scanned.get(volume), self.watched.get(volume)
        if scanned is None or watched is None:
            return watched if scanned is None else scanned
        return max(scanned, watched)

    @property
    def fenced(self) -> bool:
        return self.record.fence is not None


@dataclass(slots=True)
class Volume:
    """One volume: configuration, record, and the truth's earlier roots.

    `unclear` are the clocks of undetermined paths; `rolling` has the new entry that is spreading on a
    path, and the most nodes that held it at once; `rolled` is the same of all that one analysis has, instead.
    """

    config: VolumeConfig
    record: VolumeRecord
    history: TruthHistory
    undetermined: frozenset[bytes] = frozenset()
    unclear: Clocks = field(default_factory=Clocks)
    unclear_of: frozenset[bytes] = frozenset()  # what these clocks were started for
    unclear_count: int = 0  # undetermined for settle_s
    unpinned_since: float | None = None
    voters: tuple[str, ...] = ()
    votes_since: float | None = None  # since when a quorum could found the truth
    rolling: dict[bytes, tuple[bytes | None, int]] = field(default_factory=dict)
    rolled: tuple[Analysis, int] | None = None
    # The votes that the truth was decided of last. Nothing but they moves it, and another configuration forgets them.
    decided: tuple[tuple[str, bytes], ...] | None = None
    settings: str = ""  # what decides which entries a tree has
    audits: Audits = field(default_factory=Audits)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.config.name

    @property
    def truth(self) -> bytes | None:
        return self.record.roots[-1][1] if self.record.roots else None

    @property
    def need(self) -> int:
        """How many nodes must hold an entry for it to be the truth."""
        return 1 if self.config.replicated else quorum_of(len(self.config.nodes))


def settings_of(config: VolumeConfig) -> str:
    """What decides which entries a tree has: a change of it is a new truth, never a divergence."""
    return repr((config.chunk_bytes, config.ignore, config.track))


def chunk_bytes_in(settings: str) -> int:
    """How long chunks are by what `settings_of` gave."""
    return int(settings[1:].partition(",")[0])
