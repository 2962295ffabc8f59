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

from .parts import (
    Decayed,
    DiskState,
    Edit,
    FenceState,
    Hand,
    Many,
    Member,
    Message,
    Moved,
    PlanStep,
    Problem,
    PushEdit,
    ScrubState,
    Seconds,
    Text,
    Told,
    TrashItem,
    Unreached,
    Unreadable,
    VolumeActivity,
    VolumeBeat,
    VolumeHello,
    VolumeSettings,
    Whole,
    Worded,
)

__all__ = [
    "MADE_ANEW",
    "PROTOCOL",
    "PUT_BACK",
    "Ack",
    "Activity",
    "AgentMessage",
    "Announce",
    "Ask",
    "Audit",
    "AuditAnswer",
    "Beat",
    "Cancel",
    "Carried",
    "Commit",
    "Converge",
    "ConvergeProgress",
    "ConvergeResult",
    "CoordinatorMessage",
    "Decayed",
    "DiskState",
    "Edit",
    "Fence",
    "FenceAnswer",
    "FenceState",
    "Goodbye",
    "Hand",
    "Hello",
    "Hold",
    "HoldAnswer",
    "Limits",
    "Member",
    "Membership",
    "Message",
    "Mode",
    "Objects",
    "PlanStep",
    "Problem",
    "Push",
    "PushEdit",
    "PushResult",
    "Refused",
    "Resync",
    "Scrub",
    "ScrubState",
    "TrashAnswer",
    "TrashItem",
    "TrashList",
    "TrashRestore",
    "Unfence",
    "Unhold",
    "Unreached",
    "Unreadable",
    "Verify",
    "VerifyResult",
    "VolumeActivity",
    "VolumeBeat",
    "VolumeHello",
    "VolumeSettings",
    "VolumeStatus",
    "Want",
    "Welcome",
    "Worded",
]

# Hello states the range that the agent speaks; 1 knew no replication, 2 no scrub and no audits, 3 no decay in Announce,
# 4 neither hurried reports nor the trash of a disk nor storms nor hushes nor peers that can not be reached.
PROTOCOL = 5
# Why a root is announced: what the agent knew of the volume is gone, so nothing says that its directory is the one that
# it was. The other: the machine was put back to an earlier state, with its agent.
MADE_ANEW = "made_anew"
PUT_BACK = "put_back"

Mode = Literal["divergence", "lag", "join", "manual"]


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
    cause: Text  # scan watch converge push restore scrub
    observed_age_ms: Whole  # since the first of these changes was seen
    hands: Many[Hand] = ()
    by: Many[Whole] = ()  # for each edit the number of its hand, from 1; 0: unknown. Empty: all unknown


class Announce(Message, frozen=True, tag=3):
    """A numbered step whose edits are not sent: the first scan, a mass change, a lost history.

    The coordinator asks for the objects that it lacks, then acknowledges. `decayed` names files of this tree whose
    bytes nobody wrote: a scrub found them so. `brought` names paths that are as a converge or a push has left them, in
    a step of which the coordinator may not have heard.
    """

    volume: Text
    seq: Whole
    root: bytes
    cause: Text  # also MADE_ANEW, PUT_BACK
    observed_age_ms: Whole
    hands: Many[Hand] = ()
    decayed: Many[Decayed] = ()  # by key
    brought: Many[bytes] = ()  # keys, in order


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
    watch: Text = ""  # fanotify inotify rescan; "" while nobody knows yet
    watch_detail: Text = ""  # why not a better one, in words
    watch_dropped: Whole = 0  # times that events were lost since the agent started, each answered by a scan
    hard_links: Whole = 0  # names of files that have more than one: each is replicated as a file of its own
    scrub: ScrubState | None = None
    storm: bool = False  # so much is written that most of it comes with a scan when it is over
    unreached: Many[Unreached] = ()  # by name
    hush: bool = False  # so much is written into open files that only scans prove what was written


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


class PushResult(Worded, frozen=True, tag=11):
    """The end of a push: what could be made was made, and its commits were sent before this.

    `skipped` paths no longer were as the push took them; `failed` ones could not be made, `detail` says why.
    """

    volume: Text
    push: Whole
    applied: Moved
    skipped: Moved
    failed: Moved
    bytes_moved: Moved
    files_trashed: Moved
    detail: Text
    problem: Problem | None


class Activity(Message, frozen=True, tag=12):
    """What was written lately and how full the disks are; none while nothing changes.

    At most one a second with disks; in a burst up to twenty without, which say nothing of them.
    """

    window_ms: Whole
    volumes: Many[VolumeActivity]
    disks: Many[DiskState]
    hands: Many[Hand]  # the most active, by bytes


class HoldAnswer(Worded, frozen=True, tag=13):
    """What the node did about a Hold or its end: processes paused or let go, a volume frozen or thawed."""

    hold: Text
    detail: Text


class AuditAnswer(Worded, frozen=True, tag=14):
    """`proof` is the seeded digest of the chunk as it was read from disk just now; None: there is none.

    Then `why` says so: `moved` (this node has another version of the file by now), `decayed` (the disk has other
    bytes than our index says), `failed` (`detail` says what went wrong).
    """

    volume: Text
    audit: Whole
    proof: bytes | None
    why: Literal["", "moved", "decayed", "failed"]
    detail: Text


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


class Carried(Message, frozen=True, tag=22):
    """Contents of small files that the next Commit (or Push) of the volume names: nobody has to ask for them.

    At most CARRY_MAX_BYTES, each at most CARRY_FILE_MAX_BYTES. Which is which its digest says.
    """

    volume: Text
    bodies: Many[bytes]


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
    carry: Many[Text] = ()  # volumes whose commits should bring small contents along


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

    The plan is made from the node's own root. In mode `divergence` the node must hold the fence `token`. With
    `base` (mode `lag`), the root that the coordinator takes the node to have, only what is still as it was there is
    changed: the rest is the node's own, and nobody has judged or merged it yet. `ordinary`: an authorised writer has
    replaced or removed itself what this replaces or removes, so in a full trash it gives way to what comes later.
    """

    action: Text
    volume: Text
    target_root: bytes
    mode: Mode
    incident: Text
    token: Whole
    sources: Many[Text]
    dry_run: bool
    base: bytes | None = None
    ordinary: bool = False


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


class Ask(Message, frozen=True, tag=54):
    """Please see everything that was written until now, commit it, and send a Beat that proves it."""

    volume: Text


class Push(Message, frozen=True, tag=55):
    """The truth's next steps for this node: apply them, taking contents from `sources`, then PushResult.

    Edits are in the order of keys, and need no objects but their own chunk lists. One push of a volume is
    under way at a time; `push` numbers grow within a session.
    """

    volume: Text
    push: Whole
    edits: Many[PushEdit]
    sources: Many[Text]


class Limits(Message, frozen=True, tag=56):
    """How fast this node may take chunks from peers and give them, in bytes/s; None: as fast as it can."""

    receive_bytes_s: Whole | None
    serve_bytes_s: Whole | None


class Scrub(Message, frozen=True, tag=59):
    """An operator's word on re-reading contents, for all volumes of the node, until the next one.

    `bytes_s` None: as the settings say; 0: no limit. Files per second follow in proportion. `now`: begin a tour,
    or go on with the one that is under way.
    """

    now: bool
    paused: bool
    bytes_s: Whole | None


class Audit(Message, frozen=True, tag=60):
    """Prove that you hold chunk `chunk` of this file: answer what `audits.seeded_digest` makes of it.

    `digest` is the chunk's own as the truth has it: whoever has another version need not read.
    """

    volume: Text
    audit: Whole
    key: bytes
    chunk: Whole
    digest: bytes
    seed: bytes


class Hold(Worded, frozen=True, tag=57):
    """A guard holds this node's changes. `pause`: stop the writing processes; `freeze`: make the volume read-only."""

    hold: Text
    volume: Text
    guard: Text
    reason: Text
    pause: bool
    freeze: bool


class Unhold(Message, frozen=True, tag=58):
    """The hold is over: let go of what was paused or frozen for it."""

    hold: Text


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
    | PushResult
    | Activity
    | HoldAnswer
    | AuditAnswer
    | Want
    | Objects
    | Carried
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
    | Ask
    | Push
    | Limits
    | Scrub
    | Audit
    | Hold
    | Unhold
    | Goodbye
    | Want
    | Objects
    | Carried
)
