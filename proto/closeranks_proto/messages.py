"""Every message of the agent's session with the coordinator, both directions.

Frozen records, encoded as msgpack arrays that begin with their tag (see `wire`). Ages are milliseconds
before the moment of sending: no clock of a node is ever compared with another's. Keys, values, digests
and chunk lists are bytes; names and reasons are text.

A session: the agent dials and sends Hello; the coordinator answers Welcome or Refused. From then on both
send what they have, in any order. What must survive is acknowledged; what must not be believed late
carries a fence token.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL = 1  # the only version so far; Hello states the range that the agent speaks

Mode = Literal["divergence", "lag", "join", "manual"]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages and their parts."""


# --- parts ---------------------------------------------------------------------------------------


class Edit(Message, frozen=True):
    """One changed entry: its key, its new value (None: gone), its encoded chunk list if it has one."""

    key: bytes
    value: bytes | None
    chunks: bytes | None = None


class VolumeSettings(Message, frozen=True):
    """What the coordinator's configuration says about a volume, for the agent."""

    name: str
    chunk_bytes: int
    ignore: tuple[str, ...]
    track: tuple[str, ...]
    scan_interval_s: float
    special_bits: bool
    trash_max_bytes: int | None  # None: 10% of the filesystem
    trash_keep_s: float


class VolumeHello(Message, frozen=True):
    """Where a volume of this agent stands. `root` is None before the first scan has finished.

    The journal holds commits `first_seq` to `last_seq` (equal to last_seq + 1 and last_seq when empty);
    `base_root` is the root that the first of them starts from.
    """

    name: str
    root: bytes | None
    last_seq: int
    first_seq: int
    base_root: bytes | None


class FenceState(Message, frozen=True):
    """The fence that a node keeps on disk."""

    token: int
    reason: str
    incident: str
    since_unix_ms: int  # shown to people, never compared


class Member(Message, frozen=True):
    """One node as its peers must treat it."""

    node: str
    address: str  # host:port of its chunk server; "" while unknown
    fenced: bool  # take nothing from it
    may_fetch: bool  # give it chunks (a fenced node may while it is being converged)


class Problem(Message, frozen=True):
    """What keeps a volume from working, in words for an operator."""

    code: str  # no_space unreadable io_error not_mounted trash_full read_only private_dir ...
    message: str
    needed_bytes: int | None = None
    free_bytes: int | None = None


class Unreadable(Message, frozen=True):
    """A path that a scan or a converge left out, and why.

    `why`: unreadable (`detail` has the errno's text), special (device, socket, fifo), other_filesystem,
    too_large, withheld (special mode bits that may not be written), case_twin, ignored_content, busy.
    """

    key: bytes
    why: str
    detail: str


class VolumeBeat(Message, frozen=True):
    """A volume at rest: the last commit made, and the age of the last complete scan's start."""

    name: str
    last_seq: int
    scan_started_age_ms: int | None


class TrashItem(Message, frozen=True):
    id: str
    volume: str
    key: bytes
    kind: str  # file directory symlink
    size_bytes: int
    trashed_unix_ms: int
    incident: str
    why: str  # replaced removed


class PlanStep(Message, frozen=True):
    """One step of a converge plan, as the dry run shows it."""

    verb: str  # make_directory fetch copy link set_attributes replace remove
    key: bytes
    fetch_bytes: int
    chunks: int
    note: str


# --- agent to coordinator ------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=1):
    """First frame of an agent. `highest_token`: the highest fence token that it has ever seen."""

    protocol_min: int
    protocol_max: int
    software: str
    node: str
    agent_id: str  # made once per state directory
    digests: tuple[str, ...]
    address: str  # advertised host:port of the chunk server; ":port" lets the coordinator add the host it sees
    highest_token: int
    fence: FenceState | None
    volumes: tuple[VolumeHello, ...]


class Commit(Message, frozen=True, tag=2):
    """From `base_root` by `edits`, sorted by key, to `root`. Numbered from 1 for each volume of an agent."""

    volume: str
    seq: int
    base_root: bytes
    root: bytes
    edits: tuple[Edit, ...]
    cause: str  # scan converge restore
    observed_age_ms: int  # since the first of these changes was seen


class Announce(Message, frozen=True, tag=3):
    """A numbered step whose edits are not sent: the first scan, a mass change, a lost history.

    The coordinator asks for the objects that it lacks, then acknowledges.
    """

    volume: str
    seq: int
    root: bytes
    cause: str
    observed_age_ms: int


class Beat(Message, frozen=True, tag=4):
    """Sent when a scan has completed, and at rest every BEAT_INTERVAL_S."""

    volumes: tuple[VolumeBeat, ...]


class VolumeStatus(Message, frozen=True, tag=5):
    """Sent after Welcome and whenever one of these changed (at most once a second)."""

    volume: str
    problem: Problem | None
    entries: int | None  # of any kind
    files: int | None
    bytes: int | None
    unreadable: tuple[Unreadable, ...]  # the first REPORT_MAX_UNREADABLE
    unreadable_count: int
    disk_total_bytes: int
    disk_free_bytes: int
    scan_duration_ms: int | None


class FenceAnswer(Message, frozen=True, tag=6):
    """The node has persisted (fenced=True) or lifted its fence; how the hook went, in words, "" without one."""

    token: int
    fenced: bool
    hook: str
    hook_ok: bool


class ConvergeProgress(Message, frozen=True, tag=7):
    """How far a converge is. Bytes moved are chunk payload received from peers, retries included."""

    action: str
    phase: str  # objects plan fetch install verify
    steps_done: int
    steps_total: int
    bytes_moved: int
    bytes_remaining: int


class ConvergeResult(Message, frozen=True, tag=8):
    """The end of a converge or of its dry run.

    `state`: done (the target was reached as far as this run could see), partial (some steps could not be
    applied; `detail` says why; asking again continues), failed (nothing can proceed before `problem` is gone).
    """

    action: str
    volume: str
    state: Literal["done", "partial", "failed"]
    root: bytes | None
    bytes_moved: int
    steps_done: int
    files_trashed: int
    withheld: int
    detail: str
    problem: Problem | None
    plan: tuple[PlanStep, ...]  # dry run only, the first FRAME_MAX_ITEMS
    plan_steps: int
    plan_bytes: int


class VerifyResult(Message, frozen=True, tag=9):
    """What a full scan and the re-reading of everything that converge wrote gave. Sent after its commits."""

    action: str
    volume: str
    root: bytes | None
    reread_files: int
    reread_bytes: int
    probes_ok: bool
    detail: str
    withheld: tuple[bytes, ...]  # keys whose set-uid, set-gid or sticky bit was not written


class TrashAnswer(Message, frozen=True, tag=10):
    request: int
    items: tuple[TrashItem, ...]
    next_cursor: str | None
    error: str  # "" or what went wrong, in words


# --- both directions -----------------------------------------------------------------------------


class Want(Message, frozen=True, tag=20):
    """Please send these objects (pages, chunk lists). At most WANT_MAX_DIGESTS."""

    volume: str
    request: int
    digests: tuple[bytes, ...]


class Objects(Message, frozen=True, tag=21):
    """Answer to Want, in one or more frames; `last` closes it. `missing` are not at hand any more."""

    volume: str
    request: int
    objects: tuple[bytes, ...]
    missing: tuple[bytes, ...]
    last: bool


# --- coordinator to agent ------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag=40):
    """The session stands. `acked` gives, for each volume, the last accepted (seq, root)."""

    protocol: int
    session: str
    digest: str
    credit_commits: int
    beat_interval_s: float
    volumes: tuple[VolumeSettings, ...]
    acked: tuple[tuple[str, int, bytes | None], ...]


class Refused(Message, frozen=True, tag=41):
    """No session. `code`: unknown_node duplicate_node protocol digest bad_hello draining."""

    code: str
    message: str
    retry_after_s: float


class Ack(Message, frozen=True, tag=42):
    """Everything of this volume up to `seq` is durable."""

    volume: str
    seq: int


class Resync(Message, frozen=True, tag=43):
    """The commit `seq` does not follow from what is stored: please Announce the present root instead."""

    volume: str
    seq: int
    reason: str


class Membership(Message, frozen=True, tag=44):
    """Who may give and take chunks. A lower term than the last one seen is ignored."""

    term: int
    members: tuple[Member, ...]
    open_incidents: tuple[str, ...]  # of this node: their trash must stay


class Fence(Message, frozen=True, tag=45):
    token: int
    reason: str
    incident: str
    by_hand: bool


class Unfence(Message, frozen=True, tag=46):
    """Lift the fence with this token; a node that has seen a higher one refuses."""

    token: int
    incident: str


class Converge(Message, frozen=True, tag=47):
    """Make the volume's root `target_root`, taking chunks from `sources`.

    The plan is made from the node's own root. In mode `divergence` the node must hold the fence `token`.
    """

    action: str
    volume: str
    target_root: bytes
    mode: Mode
    incident: str
    token: int
    sources: tuple[str, ...]
    dry_run: bool


class Verify(Message, frozen=True, tag=48):
    """Scan fully, re-read what the converges of `incident` wrote, run the probes, then VerifyResult."""

    action: str
    volume: str
    incident: str
    token: int


class Cancel(Message, frozen=True, tag=49):
    """Stop the converge or verify of this action; what it finished stays."""

    action: str


class Settings(Message, frozen=True, tag=50):
    """The configuration changed while the session stands."""

    volumes: tuple[VolumeSettings, ...]


class TrashList(Message, frozen=True, tag=51):
    request: int
    volume: str  # "" for all
    incident: str  # "" for all
    limit: int
    cursor: str


class TrashRestore(Message, frozen=True, tag=52):
    request: int
    volume: str
    ids: tuple[str, ...]
    to: str  # a directory on the node outside every volume; "" with in_place
    in_place: bool


class Goodbye(Message, frozen=True, tag=53):
    """The coordinator goes down in an orderly way; please dial again after the delay."""

    retry_after_s: float


AgentMessage = (
    Hello | Commit | Announce | Beat | VolumeStatus | FenceAnswer | ConvergeProgress | ConvergeResult
    | VerifyResult | TrashAnswer | Want | Objects
)
CoordinatorMessage = (
    Welcome | Refused | Ack | Resync | Membership | Fence | Unfence | Converge | Verify | Cancel | Settings
    | TrashList | TrashRestore | Goodbye | Want | Objects
)
