"""What of the core's memory survives a restart, record by record.

Records are mutable only inside a step; whatever a step touched is written out by one Persist at its
front, encoded with msgpack.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from closeranks_proto import messages as wire

from .states import Phase
from .writers import HandRecord

Purpose = Literal["divergence", "lag", "join"]


class FenceRecord(msgspec.Struct):
    """`release`: who may lift it. `verified`: its root was proven equal to the truth since it was fenced."""

    token: int
    reason: str
    incident: str | None
    since_ms: int
    by_hand: bool
    release: Literal["automatic", "by_hand"]
    verified: bool = False
    acknowledged: bool = False


class RecoveryRecord(msgspec.Struct):
    """A node's way back to the truth. `volumes` are those to look after.

    `begun` and `applied`: volumes of which the timeline has told that their converge began, and ended.
    """

    purpose: Purpose
    action: str
    incident: str | None
    volumes: list[str]
    started_ms: int
    begun: list[str] = []
    applied: list[str] = []


class NodeVolume(msgspec.Struct):
    """`held` None: never in rank. `withheld`: keys that may differ in special mode bits.

    `settings` are those that `root` was scanned by; "" until the first scan. `agent_id` is whose word `root` is.
    `anew`: the tree was told anew (a new agent, index or root), and has not been equal to the truth since.
    `before`: what `held` was when other settings took the truth away, until there is another (see `succession`).
    `decayed`: on a writer, files of `root` whose bytes nobody wrote, with their entries of before (see `decay`).
    """

    root: bytes | None = None
    held: bytes | None = None
    settings: str = ""
    withheld: tuple[bytes, ...] = ()
    status: wire.VolumeStatus | None = None
    status_ms: int = 0  # when it came: its ages are of then
    problem_since_ms: int | None = None
    last_scan_ms: int | None = None
    agent_id: str = ""
    anew: bool = False
    decayed: dict[bytes, bytes] = {}
    before: bytes | None = None


class NodeRecord(msgspec.Struct):
    phase: Phase = "joining"
    since_ms: int = 0
    story: list[str] = []
    agent_id: str = ""
    address: str = ""
    last_contact_ms: int | None = None
    fence: FenceRecord | None = None
    unfence: int | None = None  # token of a release that the node has not confirmed, unless a fence stands
    recovery: RecoveryRecord | None = None
    releases_ms: list[int] = []  # automatic ones, by `World.steady_ms`
    volumes: dict[str, NodeVolume] = {}


class VolumeRecord(msgspec.Struct):
    """`roots`: (order, root, since ms) of the truth, oldest first; `settings`: what founded it.

    `authors`: whose change a step of the truth was, by its order, where closeranks carries the writes.
    `before`: where it does, the last truth by other settings, until there is one by these. `whole_bytes`: files that
    are longer were cut into other chunks then, or are now, so that their digests tell nothing; None: all are cut alike.
    """

    roots: list[tuple[int, bytes, int]] = []
    settings: str = ""
    pinned: str | None = None
    authors: dict[int, str] = {}
    before: bytes | None = None
    whole_bytes: int | None = None


class ActionRecord(msgspec.Struct):
    id: str
    kind: str
    node: str
    volume: str | None
    state: Literal["queued", "running", "done", "failed"]
    started_ms: int
    dry_run: bool = False
    error: str | None = None
    bytes_moved: int = 0
    plan: list[wire.PlanStep] | None = None
    plan_steps: int | None = None
    plan_bytes: int | None = None


class BaselineRecord(msgspec.Struct):
    name: str
    volume: str
    root: bytes
    created_ms: int
    source: str
    files: int
    size_bytes: int


class ConflictRecord(msgspec.Struct):
    """Two writers changed `key`: `theirs` came first and stands, `ours` is kept as `kept` (None: nothing to keep)."""

    volume: str
    key: bytes
    kept: bytes | None
    winner: str  # "" where nobody knows any more
    loser: str
    at_ms: int
    ours: bytes | None
    theirs: bytes | None
    is_open: bool


class Counters(msgspec.Struct):
    token: int = 0
    term: int = 0
    incident: int = 0
    action: int = 0
    conflict: int = 0
    hold: int = 0


class SpeedRecord(msgspec.Struct):
    """What operators said of transfers' speed, until they take it back; None: no limit. Absent: by the rules."""

    fleet: int | None = None
    fleet_by_hand: bool = False
    nodes: dict[str, int | None] = {}


class ScrubWord(msgspec.Struct, frozen=True):
    """What an operator said of scrubs. `bytes_s` None: nothing, the settings hold; 0: no limit."""

    paused: bool = False
    bytes_s: int | None = None


class ScrubRecord(msgspec.Struct):
    """The fleet's word, and those of nodes that have another one."""

    fleet: ScrubWord = ScrubWord()
    nodes: dict[str, ScrubWord] = {}


class Repaired(msgspec.Struct):
    """A path or a content that was put right. `returns_ms`: when it came back, the newest few."""

    key: bytes
    node: str
    incident: str
    at_ms: int
    returns_ms: list[int] = []


class RepairsRecord(msgspec.Struct):
    """What was put right on one volume, oldest first: paths by node, NUL and key, contents by their digest."""

    paths: dict[bytes, Repaired] = {}
    contents: dict[bytes, Repaired] = {}


class HoldRecord(msgspec.Struct):
    """What a guard holds on a node. `volume` None: of the node as a whole, its disk.

    `paths` and `bytes` are what was pending or written; `disk` and `free_bytes` of a disk guard are where, and
    what was free then; `of_paths` of a share are those that there were then. `keeps_vote`: without its vote a quorum
    would be lost. `unheld`: the node let go.
    `volumes`: all that it holds, those of a disk; empty: `volume` alone, or each of the node where that is None.
    `waiting_paths` and `waiting_bytes` are what was kept back, as it was looked at last.
    """

    id: str
    guard: str
    node: str
    volume: str | None
    since_ms: int
    reason: str
    state: Literal["held", "allowed", "rejected", "over"] = "held"
    expires_ms: int | None = None
    ended_ms: int | None = None
    paths: int = 0
    bytes: int = 0
    incident: str | None = None
    writers: list[HandRecord] = []
    reactions: list[str] = []
    unheld: bool = False
    keeps_vote: bool = False
    disk: str = ""
    free_bytes: int = 0
    volumes: list[str] = []
    waiting_paths: int = 0
    waiting_bytes: int = 0
    of_paths: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The volumes that it holds; none: all of the node."""
        return tuple(self.volumes) or (() if self.volume is None else (self.volume,))
