"""What the HTTP API answers with, field by field: made by the core, encoded as they are.

Times are RFC 3339 UTC with milliseconds, roots lower-case hex, counts null where nobody knows them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from closeranks_proto.parts import is_outside

from .states import State


class View(msgspec.Struct, frozen=True):
    """Base of the API's answers. Times are RFC 3339 UTC with milliseconds, roots lower-case hex."""


class ProblemView(View, frozen=True):
    code: str
    message: str
    since: str | None
    needed_bytes: int | None
    free_bytes: int | None


class ScrubVolumeView(View, frozen=True):
    """The re-reading of one volume's contents on one node: the tour under way, or the last one.

    `decayed` files had other bytes under an unchanged stat. `oldest_unverified`: no content was last verified before.
    `bytes_s` and `files_s` are the limits, null: none; `slowed`: less at the moment, the machine is busy.
    """

    state: Literal["off", "waiting", "running", "paused"]
    slowed: bool
    files: int
    files_total: int
    bytes: int
    bytes_total: int
    debt_bytes: int
    decayed: int
    unreadable: int
    started: str | None
    ended: str | None
    oldest_unverified: str | None
    bytes_s: int | None
    files_s: int | None


class NodeVolumeView(View, frozen=True):
    """`progress` is present while a converge or a verification runs; `watch` is how the node notices writes."""

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
    watch: str = ""  # fanotify, inotify, rescan; "" while nobody knows
    watch_detail: str = ""  # why not a better one
    storm: bool = False  # so much is written that most of it comes with a scan when it is over
    watch_dropped: int = 0  # times that events were lost, each answered by a scan
    hard_links: int = 0  # names of files that have more than one: each is a file of its own elsewhere
    last_scrub: str | None = None  # when every content had been read again
    scrub: ScrubVolumeView | None = None
    # When it last proved a random chunk from its disk, since the coordinator started.
    last_audit: str | None = None
    compared: bool = True  # what is known of it is current
    # A burst of its own changes is watched: spread once it has rested so long, or before.
    rest_s: float | None = None
    # It was behind already when this coordinator first saw it: by how much more than `lag_s` nobody knows.
    lag_at_least: bool = False


class DiskView(View, frozen=True):
    volume: str
    total_bytes: int
    free_bytes: int
    trash_bytes: int = 0  # of all volumes on that disk


class CareView(View, frozen=True):
    """What nobody is out of rank for, and somebody should look at: what and why, and what to do."""

    text: str
    next: str


NOT_LOOKED_AT = "not looked at"  # how the `detail` of a hand begins that stands for paths beyond a bound


class HandView(View, frozen=True):
    """Who wrote. `pid` 0: unknown, `detail` says why."""

    pid: int
    exe: str
    command: str
    uid: int | None
    login_uid: int | None
    unit: str
    parents: tuple[str, ...]
    files: int
    bytes: int
    last_seen: str | None
    detail: str

    @property
    def outside(self) -> bool:
        """Whether it wrote in no volume: it may have had no part in what happened to one."""
        return is_outside(self.detail)

    @property
    def beyond(self) -> bool:
        """Whether it is nobody, but so many more paths whose writers were not looked for."""
        return self.detail.startswith(NOT_LOOKED_AT)


class QuarantineView(View, frozen=True):
    reason: str
    since: str | None
    fence_token: int
    incident: str | None
    by_hand: bool
    verified: bool
    release: Literal["automatic", "by_hand"]
    acknowledged: bool  # the node has persisted its fence
    remarks: tuple[str, ...] = ()  # what this fence takes from the others


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
    writers: tuple[HandView, ...] = ()  # who wrote most in the last hour, by bytes
    holds: tuple[str, ...] = ()  # of guards: `GET /api/v1/held/{id}`
    waiting: str | None = None  # for what a person has to put right, in words
    in_service: bool = True  # as `GET /lb/{node}` says: 200, else 503
    wants_room: bool = False  # held for a full disk alone, with nothing kept back: room there ends it
    cares: tuple[CareView, ...] = ()  # of its disks


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
    writers: tuple[str, ...] = ()  # the nodes whose changes make the truth
    conflicts: int = 0  # open ones


class FleetView(View, frozen=True):
    in_rank: bool
    coverage: CoverageView
    volumes: tuple[VolumeView, ...]
    nodes: tuple[NodeView, ...]
    allowed: tuple[HoldView, ...] = ()  # allowances that run
    problem: str | None = None  # why the coordinator can store nothing: what is shown may be long past
    limits: dict[str, str] = {}  # of nodes whose fetches are limited: to how much, and why


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


class HoldView(View, frozen=True):
    """What a guard holds. `state`: held, allowed (until `expires_at`), rejected, over (it went away by itself).

    `paths` and `bytes` are what is unusual: deleted, changed, written, lost of a disk. `waiting_paths` and
    `waiting_bytes` are what is kept back: so much of the node differs from the truth, or did when it was decided.
    `merged_changes`: so many of the node had been let through in the minutes before; a reject does not undo them.
    """

    id: str
    guard: str
    node: str
    volume: str | None
    state: Literal["held", "allowed", "rejected", "over"]
    since: str
    expires_at: str | None
    reason: str
    advice: str
    paths: int
    bytes: int
    incident: str | None
    writers: tuple[HandView, ...]
    reactions: tuple[str, ...]  # processes paused, volumes frozen, in words
    volumes: tuple[str, ...] = ()  # all that are held, a disk's; none: every volume of the node
    waiting_paths: int = 0
    waiting_bytes: int = 0
    # Its cause is gone (undone, or the disk has room again): it ends in a moment.
    ends_by_itself: bool = False
    wants_room: bool = False  # of a full disk, with nothing kept back to decide about: room there ends it
    merged_changes: int = 0


class SpeedView(View, frozen=True):
    """Transfer limits in force, bytes/s; None: none. `why`: by hand, the schedule's line, or the base."""

    fleet_bytes_s: int | None
    why: str
    nodes: tuple[dict[str, str | int | None], ...]  # node, receive_bytes_s, serve_bytes_s, why


class ScrubNodeView(View, frozen=True):
    """`said_bytes_s`: what an operator said, 0: no limit, null: nothing. `volumes`: null where nobody told yet."""

    node: str
    connected: bool
    paused: bool
    said_bytes_s: int | None
    volumes: dict[str, ScrubVolumeView | None]


class ScrubView(View, frozen=True):
    nodes: tuple[ScrubNodeView, ...]


class ConflictView(View, frozen=True):
    """Two writers changed one path: `path` has the first's version, `kept_path` the other's."""

    volume: str
    path: str
    path_b64: str
    kept_path: str | None  # None where there was nothing to keep (the loser deleted it)
    kept_path_b64: str | None
    winner: str
    loser: str
    at: str
    state: Literal["open", "resolved"]
    what: str
