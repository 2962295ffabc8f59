"""Every message of the agent's session with the coordinator, both directions.

Frozen records, encoded as msgpack arrays that begin with their tag (see `wire`). Ages are milliseconds
before the moment of sending: no clock of a node is ever compared with another's. Keys, values, digests
and chunk lists are bytes; names and reasons are text.

A session: the agent dials and sends Hello; the coordinator answers Welcome or Refused. From then on both
send what they have, in any order. What must survive is acknowledged; what must not be believed late
carries a fence token.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from .limits import FRAME_MAX_ITEMS, MAX_TEXT_BYTES
from .lines import shortened

PROTOCOL = 1  # the only version so far; Hello states the range that the agent speaks

Mode = Literal["divergence", "lag", "join", "manual"]

# Bounded while they are decoded: an array's header is refused before its first element is made.
T = TypeVar("T")
Many = Annotated[tuple[T, ...], msgspec.Meta(max_length=FRAME_MAX_ITEMS)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_BYTES)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what the store can hold
Told = Annotated[
    int, msgspec.Meta(ge=0, le=2**53)
]  # a fence token that a node tells of: there is always a next
Moved = Annotated[int, msgspec.Meta(ge=0, le=2**50)]  # of one run; whoever adds them up stays far below 2**64
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # neither NaN nor infinite


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages and their parts."""


class Worded(Message, frozen=True):
    """Base of those that carry words for people: what is too long for a frame is cut where it is made."""

    def __post_init__(self) -> None:
        for name in ("message", "detail", "note", "hook", "error", "reason"):
            text = getattr(self, name, None)
            if isinstance(text, str) and len(text) > MAX_TEXT_BYTES:
                msgspec.structs.force_setattr(self, name, shortened(text, MAX_TEXT_BYTES))


# --- parts ---------------------------------------------------------------------------------------


class Edit(Message, frozen=True):
    """One changed entry: its key, its new value (None: gone), its encoded chunk list if it has one."""

    key: bytes
    value: bytes | None
    chunks: bytes | None = None


class VolumeSettings(Message, frozen=True):
    """What the coordinator's configuration says about a volume, for the agent."""

    name: Text
    chunk_bytes: Whole
    ignore: Many[Text]
    track: Many[Text]
    scan_interval_s: Seconds
    special_bits: bool
    trash_max_bytes: Whole | None  # None: 10% of the filesystem
    trash_keep_s: Seconds


class VolumeHello(Message, frozen=True):
    """Where a volume of this agent stands. `root` is None before the first scan has finished.

    The journal holds commits `first_seq` to `last_seq` (equal to last_seq + 1 and last_seq when empty);
    `base_root` is the root that the first of them starts from.
    """

    name: Text
    root: bytes | None
    last_seq: Whole
    first_seq: Whole
    base_root: bytes | None


class FenceState(Worded, frozen=True):
    """The fence that a node keeps on disk."""

    token: Told
    reason: Text
    incident: Text
    since_unix_ms: Whole  # shown to people, never compared


class Member(Message, frozen=True):
    """One node as its peers must treat it."""

    node: Text
    address: Text  # host:port of its chunk server; "" while unknown
    fenced: bool  # take nothing from it
    may_fetch: bool  # give it chunks (a fenced node may while it is being converged)


class Problem(Worded, frozen=True):
    """What keeps a volume from working, in words for an operator."""

    code: Text  # no_space unreadable io_error not_mounted trash_full read_only private_dir ...
    message: Text
    needed_bytes: Whole | None = None
    free_bytes: Whole | None = None


class Unreadable(Worded, frozen=True):
    """A path that a scan or a converge left out, and why.

    `why`: unreadable (`detail` has the errno's text), special (device, socket, fifo), other_filesystem,
    too_large, withheld (special mode bits that may not be written), case_twin, ignored_content, busy.
    """

    key: bytes
    why: Text
    detail: Text


class VolumeBeat(Message, frozen=True):
    """A volume at rest: the last commit made, and the age of the last complete scan's start."""

    name: Text
    last_seq: Whole
    scan_started_age_ms: Whole | None


class TrashItem(Message, frozen=True):
    id: Text
    volume: Text
    key: bytes
    kind: Text  # file directory symlink
    size_bytes: Whole
    trashed_unix_ms: Whole
    incident: Text
    why: Text  # replaced removed


class PlanStep(Worded, frozen=True):
    """One step of a converge plan, as the dry run shows it."""

    verb: Text  # make_directory fetch copy link set_attributes replace remove
    key: bytes
    fetch_bytes: Whole
    chunks: Whole
    note: Text


# --- agent to coordinator ------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=1):
    """First frame of an agent. `highest_token`: the highest fence token that it has ever seen."""

    protocol_min: Whole
    protocol_max: Whole
    software: Text
    node: Text
    agent_id: Text  # made once per state directory
    digests: Many[Text]
    address: (
        Text  # advertised host:port of the chunk server; ":port" lets the coordinator add the host it sees
    )
    highest_token: Told
    fence: FenceState | None
    volumes: Many[VolumeHello]


class Commit(Message, frozen=True, tag=2):
    """From `base_root` by `edits`, sorted by key, to `root`. Numbered from 1 for each volume of an agent."""

    volume: Text
    seq: Whole
    base_root: bytes
    root: bytes
    edits: Many[Edit]
    cause: Text  # scan converge restore
    observed_age_ms: Whole  # since the first of these changes was seen


class Announce(Message, frozen=True, tag=3):
    """A numbered step whose edits are not sent: the first scan, a mass change, a lost history.

    The coordinator asks for the objects that it lacks, then acknowledges.
    """

    volume: Text
    seq: Whole
    root: bytes
    cause: Text
    observed_age_ms: Whole


class Beat(Message, frozen=True, tag=4):
    """Sent when a scan has completed, then only with that volume, and every BEAT_INTERVAL_S with all."""

    volumes: Many[VolumeBeat]


class VolumeStatus(Message, frozen=True, tag=5):
    """Sent after Welcome and whenever one of these changed (at most once a second)."""

    volume: Text
    problem: Problem | None
    entries: Whole | None  # of any kind
    files: Whole | None
    bytes: Whole | None
    unreadable: Many[Unreadable]  # the first REPORT_MAX_UNREADABLE
    unreadable_count: Whole
    disk_total_bytes: Whole
    disk_free_bytes: Whole
    scan_duration_ms: Whole | None


class FenceAnswer(Worded, frozen=True, tag=6):
    """The node has persisted (fenced=True) or lifted its fence; how the hook went, in words, "" without one."""

    token: Whole
    fenced: bool
    hook: Text
    hook_ok: bool


class ConvergeProgress(Message, frozen=True, tag=7):
    """How far a converge is. Bytes moved are chunk payload received from peers, retries included."""

    action: Text
    phase: Text  # objects plan fetch install verify
    steps_done: Moved
    steps_total: Whole
    bytes_moved: Moved
    bytes_remaining: Whole


class ConvergeResult(Worded, frozen=True, tag=8):
    """The end of a converge or of its dry run.

    `state`: done (the target was reached as far as this run could see), partial (some steps could not be
    applied; `detail` says why; asking again continues), failed (nothing can proceed before `problem` is gone).
    """

    action: Text
    volume: Text
    state: Literal["done", "partial", "failed"]
    root: bytes | None
    bytes_moved: Moved
    steps_done: Moved
    files_trashed: Moved
    withheld: Whole
    detail: Text
    problem: Problem | None
    plan: Many[PlanStep]  # dry run only, the first FRAME_MAX_ITEMS
    plan_steps: Whole
    plan_bytes: Whole


class VerifyResult(Worded, frozen=True, tag=9):
    """What a full scan and the re-reading of everything that converge wrote gave. Sent after its commits."""

    action: Text
    volume: Text
    root: bytes | None
    reread_files: Whole
    reread_bytes: Whole
    probes_ok: bool
    detail: Text
    withheld: Many[bytes]  # keys whose set-uid, set-gid or sticky bit was not written


class TrashAnswer(Worded, frozen=True, tag=10):
    request: Whole
    items: Many[TrashItem]
    next_cursor: Text | None
    error: Text  # "" or what went wrong, in words


# --- both directions -----------------------------------------------------------------------------


class Want(Message, frozen=True, tag=20):
    """Please send these objects (pages, chunk lists). At most WANT_MAX_DIGESTS."""

    volume: Text
    request: Whole
    digests: Many[bytes]


class Objects(Message, frozen=True, tag=21):
    """Answer to Want, in one or more frames; `last` closes it. `missing` are not at hand any more."""

    volume: Text
    request: Whole
    objects: Many[bytes]
    missing: Many[bytes]
    last: bool


# --- coordinator to agent ------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag=40):
    """The session stands. `acked` gives, for each volume, the last accepted (seq, root)."""

    protocol: Whole
    session: Text
    digest: Text
    credit_commits: Whole
    beat_interval_s: Seconds
    volumes: Many[VolumeSettings]
    acked: Many[tuple[Text, Whole, bytes | None]]


class Refused(Worded, frozen=True, tag=41):
    """No session. `code`: unknown_node duplicate_node protocol digest bad_hello draining."""

    code: Text
    message: Text
    retry_after_s: Seconds


class Ack(Message, frozen=True, tag=42):
    """Everything of this volume up to `seq` is durable."""

    volume: Text
    seq: Whole


class Resync(Worded, frozen=True, tag=43):
    """The commit `seq` does not follow from what is stored: please Announce the present root instead."""

    volume: Text
    seq: Whole
    reason: Text


class Membership(Message, frozen=True, tag=44):
    """Who may give and take chunks. A lower term than the last one seen is ignored."""

    term: Whole
    members: Many[Member]
    open_incidents: Many[Text]  # of this node: their trash must stay


class Fence(Worded, frozen=True, tag=45):
    token: Whole
    reason: Text
    incident: Text
    by_hand: bool


class Unfence(Message, frozen=True, tag=46):
    """Lift the fence with this token; a node that has seen a higher one refuses."""

    token: Whole
    incident: Text


class Converge(Message, frozen=True, tag=47):
    """Make the volume's root `target_root`, taking chunks from `sources`.

    The plan is made from the node's own root. In mode `divergence` the node must hold the fence `token`.
    """

    action: Text
    volume: Text
    target_root: bytes
    mode: Mode
    incident: Text
    token: Whole
    sources: Many[Text]
    dry_run: bool


class Verify(Message, frozen=True, tag=48):
    """Scan fully, re-read what the converges of `incident` wrote, run the probes, then VerifyResult."""

    action: Text
    volume: Text
    incident: Text
    token: Whole


class Cancel(Message, frozen=True, tag=49):
    """Stop the converge or verify of this action; what it finished stays."""

    action: Text


class TrashList(Message, frozen=True, tag=51):
    request: Whole
    volume: Text  # "" for all
    incident: Text  # "" for all
    limit: Whole
    cursor: Text


class TrashRestore(Message, frozen=True, tag=52):
    request: Whole
    volume: Text
    ids: Many[Text]
    to: Text  # a directory on the node outside every volume; "" with in_place
    in_place: bool


class Goodbye(Message, frozen=True, tag=53):
    """The session ends in an orderly way (shutdown, changed settings); please dial again after the delay."""

    retry_after_s: Seconds


AgentMessage = (
    Hello
    | Commit
    | Announce
    | Beat
    | VolumeStatus
    | FenceAnswer
    | ConvergeProgress
    | ConvergeResult
    | VerifyResult
    | TrashAnswer
    | Want
    | Objects
)
CoordinatorMessage = (
    Welcome
    | Refused
    | Ack
    | Resync
    | Membership
    | Fence
    | Unfence
    | Converge
    | Verify
    | Cancel
    | TrashList
    | TrashRestore
    | Goodbye
    | Want
    | Objects
)
