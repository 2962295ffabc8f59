"""The vocabulary of the coordinator's core: what happens to it, what it wants done, what it shows.

`Fleet.step(now, event)` takes one event and returns a `Step`: effects in the order in which the shell
must carry them out (a Persist is durable before anything behind it is sent), and for an operator's
request its answer. Views are what the HTTP API serves, field by field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from closeranks_proto import messages as wire

from .rules import GuardRules, SpeedRules
from .shapes import ActionView, BaselineView, HoldView, ScrubView, SpeedView, VolumeView

Policy = Literal["quorum", "writers", "any-writer", "baseline"]
OnDivergence = Literal["alert", "quarantine", "resync"]


@dataclass(frozen=True, slots=True)
class Now:
    """The coordinator's clocks: `mono` seconds decide, `wall_ms` (Unix milliseconds) is only shown."""

    mono: float
    wall_ms: int


# --- configuration, as the core sees it -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """One `[[volume]]` of coordinator.toml; units in the names, defaults already applied.

    `writers` are the nodes whose commits make the truth: those listed, or all of them with `any-writer`.
    """

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
    scrub_interval_s: float = 0.0  # 0: only on demand
    scrub_bytes_s: int | None = None
    scrub_files_s: int | None = None
    audit_interval_s: float = 0.0  # 0: none
    writers: tuple[str, ...] = ()  # sorted
    guards: GuardRules = field(default_factory=GuardRules)

    @property
    def replicated(self) -> bool:
        """Whether closeranks itself carries the writes of this volume."""
        return self.policy in ("writers", "any-writer")

    def may_write(self, node: str) -> bool:
        """Whether closeranks carries what this node writes."""
        return self.policy == "any-writer" or (self.policy == "writers" and node in self.writers)


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
    speed: SpeedRules = field(default_factory=SpeedRules)
    recurrence_max: int = 3  # returns of what was put right, from which on a person releases


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """An agent's session stands (Welcome was sent); it replaces any older session of that node.

    `unheard`: volumes of which the agent has steps that nobody has heard of yet.
    """

    node: str
    session: str
    agent_id: str
    address: str
    highest_token: int
    fence: wire.FenceState | None
    volumes: tuple[str, ...]  # those that the agent has
    unheard: tuple[str, ...] = ()


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

    `observed_mono` is when the node saw the first of the changes, on the coordinator's clock. `by` gives for
    keys that the step changed the number of their hand in `hands`, from 1; keys that nobody knows the hand of
    are left out. `edits` are all that a proven commit changed of `base`, (key, value), in order; None where the tree
    was announced, or was known already. `heard`: all that the agent had when its session began has come. `decayed`:
    files of an announced tree that nobody wrote so, with the entries that they had before. `brought`: paths of it that
    are as a converge or a push of ours has left them.
    """

    node: str
    volume: str
    root: bytes
    cause: str
    observed_mono: float
    hands: tuple[wire.Hand, ...] = ()
    by: tuple[tuple[bytes, int], ...] = ()
    base: bytes | None = None
    edits: tuple[tuple[bytes, bytes | None], ...] | None = None
    heard: bool = True
    decayed: tuple[tuple[bytes, bytes], ...] = ()
    brought: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """The node's watcher has proven: everything written before `seen_mono` (coordinator's clock) is in its root."""

    node: str
    volume: str
    seen_mono: float


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
        wire.VolumeStatus
        | wire.FenceAnswer
        | wire.ConvergeProgress
        | wire.ConvergeResult
        | wire.VerifyResult
        | wire.PushResult
        | wire.Activity
        | wire.HoldAnswer
        | wire.AuditAnswer
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


@dataclass(frozen=True, slots=True)
class AllowAsked:
    """Let what this hold keeps back through, once, and for `seconds` what goes on with it (None: the default)."""

    hold: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class RejectAsked:
    """Converge the writer back to the truth."""

    hold: str


@dataclass(frozen=True, slots=True)
class SpeedAsked:
    """Limit transfers by hand until it is taken back. `node` None: the fleet's sum. `bytes_s` None: by the rules.

    `unlimited`: by hand, without any limit.
    """

    node: str | None
    bytes_s: int | None
    unlimited: bool = False


@dataclass(frozen=True, slots=True)
class ScrubAsked:
    """A word on scrubs. `node` None: of all. `paused` None: as it was; of the speed at most one: `bytes_s`,
    `unlimited`, or `auto`, which takes an earlier word back. `now`: begin a tour, or go on.
    """

    node: str | None
    now: bool = False
    paused: bool | None = None
    bytes_s: int | None = None
    unlimited: bool = False
    auto: bool = False


Event = (
    Connected
    | Disconnected
    | DuplicateRefused
    | RootStored
    | Scanned
    | Watched
    | FromAgent
    | Configured
    | Tick
    | QuarantineAsked
    | ReleaseAsked
    | ResyncAsked
    | BaselineCreateAsked
    | BaselineDeleteAsked
    | PinAsked
    | AllowAsked
    | RejectAsked
    | SpeedAsked
    | ScrubAsked
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
    """What an event brought about.

    `unjudged`: nodes whose last root was taken and not judged yet. Nothing of such a root is in the effects, and
    nothing of it may be made durable or acknowledged before a later step leaves the node out: a crash in between
    would leave a root behind of which nobody knows whose doing it was. `judged_first`: every root that was taken before
    this event is judged, whatever node is unjudged again: it is made durable with these effects.
    """

    effects: tuple[Effect, ...]
    answer: ActionView | BaselineView | VolumeView | HoldView | SpeedView | ScrubView | Refusal | None = None
    unjudged: frozenset[str] = frozenset()
    judged_first: bool = False
