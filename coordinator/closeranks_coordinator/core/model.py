"""The vocabulary of the coordinator's core: what happens to it, what it wants done, what it shows.

`Fleet.step(now, event)` takes one event and returns a `Step`: effects in the order in which the shell
must carry them out (a Persist is durable before anything behind it is sent), and for an operator's
request its answer. Views are what the HTTP API serves, field by field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from closeranks_proto import messages as wire

State = Literal[
    "joining", "in_rank", "lagging", "suspect", "quarantined", "resyncing", "verifying", "unreachable", "held"
]
Policy = Literal["quorum", "baseline"]
OnDivergence = Literal["alert", "quarantine", "resync"]


@dataclass(frozen=True, slots=True)
class Now:
    """The coordinator's clocks: `mono` seconds decide, `wall_ms` (Unix milliseconds) is only shown."""

    mono: float
    wall_ms: int


# --- configuration, as the core sees it -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """One `[[volume]]` of coordinator.toml; units in the names, defaults already applied."""

    name: str
    policy: Policy
    nodes: tuple[str, ...]  # sorted
    on_divergence: OnDivergence
    settle_s: float
    settle_max_s: float
    scan_interval_s: float
    on_lag: Literal["resync", "wait"]
    lag_grace_s: float
    chunk_bytes: int
    ignore: tuple[str, ...]
    track: tuple[str, ...]
    special_bits: bool
    trash_max_bytes: int | None
    trash_keep_s: float


@dataclass(frozen=True, slots=True)
class FleetConfig:
    digest: str
    nodes: tuple[str, ...]  # sorted
    max_quarantined: int
    auto_release_max: int
    auto_release_window_s: float
    lb_max_lag_s: float
    lb_unreachable_grace_s: float
    volumes: tuple[VolumeConfig, ...]  # sorted by name
    history_keep_s: float
    stale_after_scans: float = (
        10.0  # a voter without a scan for so many intervals (at least 60 s) has no vote
    )


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """An agent's session stands (Welcome was sent); it replaces any older session of that node."""

    node: str
    session: str
    agent_id: str
    address: str
    highest_token: int
    fence: wire.FenceState | None
    volumes: tuple[str, ...]  # those that the agent has


@dataclass(frozen=True, slots=True)
class Disconnected:
    node: str
    session: str


@dataclass(frozen=True, slots=True)
class DuplicateRefused:
    """A second agent claimed a name whose session stands."""

    node: str
    detail: str


@dataclass(frozen=True, slots=True)
class RootStored:
    """A node's new root is durable, with every object beneath it.

    `observed_mono` is when the node saw the first of the changes, on the coordinator's clock.
    """

    node: str
    volume: str
    root: bytes
    cause: str
    observed_mono: float


@dataclass(frozen=True, slots=True)
class Scanned:
    """A complete scan, begun at `started_mono` on the coordinator's clock, found what the root says."""

    node: str
    volume: str
    started_mono: float


@dataclass(frozen=True, slots=True)
class FromAgent:
    """A message whose meaning is the core's."""

    node: str
    message: (
        wire.VolumeStatus | wire.FenceAnswer | wire.ConvergeProgress | wire.ConvergeResult | wire.VerifyResult
    )


@dataclass(frozen=True, slots=True)
class Configured:
    """SIGHUP or reload: nodes may join or retire, volumes and policies change."""

    config: FleetConfig


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent when the core asked for it (`WakeAt`) and at least once a second."""


@dataclass(frozen=True, slots=True)
class QuarantineAsked:
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    node: str


@dataclass(frozen=True, slots=True)
class ResyncAsked:
    node: str
    volume: str | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class BaselineCreateAsked:
    """`node` None: the truth."""

    name: str
    volume: str
    node: str | None


@dataclass(frozen=True, slots=True)
class BaselineDeleteAsked:
    name: str


@dataclass(frozen=True, slots=True)
class PinAsked:
    """`baseline` None: unpin."""

    volume: str
    baseline: str | None


Event = (
    Connected
    | Disconnected
    | DuplicateRefused
    | RootStored
    | Scanned
    | FromAgent
    | Configured
    | Tick
    | QuarantineAsked
    | ReleaseAsked
    | ResyncAsked
    | BaselineCreateAsked
    | BaselineDeleteAsked
    | PinAsked
)


# --- effects --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Make durable, in one transaction, before anything that follows.

    `objects` are new tree pages (digest to bytes); `records` are (kind, key, encoded record or None to
    delete): the core's own state, which it reads back at a restart.
    """

    objects: dict[bytes, bytes] = field(default_factory=dict)
    records: tuple[tuple[str, str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """To the node's session if it has one; lost otherwise (the core repeats at the next Connected)."""

    node: str
    message: wire.CoordinatorMessage


@dataclass(frozen=True, slots=True)
class Publish:
    """This node, volume, incident or action looks different now: tell the event stream."""

    kind: Literal["node", "volume", "incident", "action"]
    id: str


@dataclass(frozen=True, slots=True)
class Observe:
    """One observation for a metric: a histogram's value or a counter's increment."""

    metric: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    level: Literal["info", "warning", "error"]
    text: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a Tick at this monotonic time."""

    mono: float


Effect = Persist | Send | Publish | Observe | Log | WakeAt


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operator's request that can not be done: `status` is the HTTP status (400, 404, 409)."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    effects: tuple[Effect, ...]
    answer: ActionView | BaselineView | VolumeView | Refusal | None = None


# --- views: the API's answers ---------------------------------------------------------------------


class View(msgspec.Struct, frozen=True):
    """Base of the API's answers. Times are RFC 3339 UTC with milliseconds, roots lower-case hex."""


class ProblemView(View, frozen=True):
    code: str
    message: str
    since: str | None
    needed_bytes: int | None
    free_bytes: int | None


class NodeVolumeView(View, frozen=True):
    """`progress` is present while a converge or a verification runs."""

    name: str
    root: str | None
    differing_paths: int | None
    unconfirmed_paths: int | None
    differing_bytes: int | None
    lagging_paths: int | None
    lag_s: float | None
    files: int | None
    bytes: int | None
    last_full_scan: str | None
    problem: ProblemView | None
    unreadable: int | None
    unreadable_paths: tuple[dict[str, str], ...]  # path, path_b64, why, detail; the first 20
    withheld: int
    progress: dict[str, int | str] | None


class DiskView(View, frozen=True):
    volume: str
    total_bytes: int
    free_bytes: int


class QuarantineView(View, frozen=True):
    reason: str
    since: str | None
    fence_token: int
    incident: str | None
    by_hand: bool
    verified: bool
    release: Literal["automatic", "by_hand"]
    acknowledged: bool  # the node has persisted its fence


class NodeView(View, frozen=True):
    node: str
    state: State
    since: str | None
    last_contact: str | None
    connected: bool
    address: str | None
    blocked_by: str | None
    volumes: tuple[NodeVolumeView, ...]
    disk: tuple[DiskView, ...]
    quarantine: QuarantineView | None


class CoverageView(View, frozen=True):
    compared: int
    expected: int


class VolumeView(View, frozen=True):
    name: str
    policy: str
    truth_root: str | None
    in_rank_nodes: int
    undetermined: int
    nodes: tuple[str, ...]
    quorum: int
    voters: int
    files: int | None
    bytes: int | None
    baseline: str | None
    on_divergence: str


class FleetView(View, frozen=True):
    in_rank: bool
    coverage: CoverageView
    volumes: tuple[VolumeView, ...]
    nodes: tuple[NodeView, ...]


class PathView(View, frozen=True):
    path: str
    path_b64: str
    change: str
    aspects: tuple[str, ...]
    chunks: tuple[tuple[int, int], ...]  # inclusive index ranges that differ
    bytes: int = 0  # of the differing chunks
    count: int = 1  # how often it came (back)


class TimelineView(View, frozen=True):
    at: str
    event: str
    text: str


class IncidentView(View, frozen=True):
    """`evidence`: coverage, voters, quorum, both roots and how the truth was decided, in plain words."""

    id: str
    kind: str
    state: Literal["open", "closed"]
    node: str | None
    volume: str | None
    opened_at: str
    closed_at: str | None
    summary: str
    advice: str
    paths: tuple[PathView, ...]
    path_count: int
    recurrences: int
    writers: tuple[str, ...]
    timeline: tuple[TimelineView, ...]
    evidence: dict[str, str | int | list[str]]
    bytes_moved: int
    files_trashed: int


class ActionView(View, frozen=True):
    id: str
    kind: str
    node: str
    volume: str | None
    state: Literal["queued", "running", "done", "failed"]
    error: str | None
    bytes_moved: int
    dry_run: bool
    plan: tuple[dict[str, str | int], ...] | None  # dry run: verb, path, path_b64, fetch_bytes, chunks, note
    plan_steps: int | None
    plan_bytes: int | None


class BaselineView(View, frozen=True):
    name: str
    volume: str
    root: str
    created_at: str
    source: str  # "truth" or the node's name
    files: int
    bytes: int
    pinned: bool
