"""The parts that messages are made of, and the bounds of their fields.

Bounded while they are decoded: an array's header is refused before its first element is made. Keys, values,
digests and chunk lists are bytes; names and reasons are text.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from .limits import FRAME_MAX_ITEMS, MAX_TEXT_BYTES
from .lines import shortened

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


class Edit(Message, frozen=True):
    """One changed entry: its key, its new value (None: gone), its encoded chunk list if it has one."""

    key: bytes
    value: bytes | None
    chunks: bytes | None = None


OUTSIDE = "outside the volumes"  # how the `detail` of a hand begins that wrote in no volume
OUTSIDE_SOMEWHERE = f"{OUTSIDE} (it may have been to another disk)"  # the kernel does not tell to which


def is_outside(detail: str) -> bool:
    """Whether a hand with that `detail` wrote in no volume."""
    return detail.startswith(OUTSIDE)


class Hand(Worded, frozen=True):
    """Who changed something, as far as the kernel told. Names and command lines are the node's own words.

    `pid` 0: unknown, and `detail` says why. `unit` is the systemd unit, else the cgroup's path. `parents` are
    "PID EXE", nearest first. `files` and `bytes` are what this hand changed in the commit or the report that
    carries it.
    """

    pid: Whole
    exe: Text
    command: Text
    uid: Whole | None
    login_uid: Whole | None
    unit: Text
    parents: Many[Text]
    files: Moved
    bytes: Moved
    detail: Text = ""

    @property
    def outside(self) -> bool:
        """Whether it wrote in no volume."""
        return is_outside(self.detail)


class PushEdit(Message, frozen=True):
    """One path's step of the truth: it may be made only where the node still holds `before`."""

    key: bytes
    before: bytes | None
    after: bytes | None
    chunks: bytes | None = None  # the chunk list of `after`, where it has one


class VolumeActivity(Message, frozen=True):
    """What was written in one volume since the report before, committed or not, as the agent saw it."""

    name: Text
    files: Moved
    bytes: Moved
    pending: Whole  # paths that changed and are not committed yet


class DiskState(Worded, frozen=True):
    """One filesystem that holds volumes or the agent's state. `rate_bytes_s`: what is lost of its free room.

    `full_in_s`: None while its filling can not be foreseen. `taken_bytes`: what converges, pushes and the agent's own
    state have taken of it since the agent started, as of this moment. `trash_bytes`: what its volumes' trashes hold.
    """

    path: Text  # where it is mounted
    volumes: Many[Text]
    holds_state: bool
    total_bytes: Whole
    free_bytes: Whole
    rate_bytes_s: Seconds
    full_in_s: Seconds | None
    taken_bytes: Whole = 0
    trash_bytes: Whole = 0


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
    scrub_interval_s: Seconds = 0.0  # from the start of one tour to the next; 0: only on demand
    scrub_bytes_s: Whole | None = None  # None: no limit
    scrub_files_s: Whole | None = None


class ScrubState(Worded, frozen=True):
    """How far the re-reading of a volume's contents is. Ages are of now; None: never, or nothing to say.

    `state`: off (only on demand), waiting (for the next tour), running, paused. `slowed`: it leaves the machine to
    others at the moment. `files` and `bytes` count the present tour, or the last one; `debt_bytes` is what should
    have been read by now. `oldest_age_ms`: no content was last verified longer ago than that.
    """

    state: Literal["off", "waiting", "running", "paused"]
    slowed: bool
    files: Whole
    files_total: Whole
    bytes: Whole
    bytes_total: Whole
    debt_bytes: Whole
    found: Whole  # files with other bytes under an unchanged stat, since the index was made
    unreadable: Whole
    started_age_ms: Whole | None
    ended_age_ms: Whole | None  # since the last whole tour
    oldest_age_ms: Whole | None
    bytes_s: Whole | None
    files_s: Whole | None


class Decayed(Message, frozen=True):
    """A file that has decayed on disk: `before` is the entry that it had until then."""

    key: bytes
    before: bytes


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
    too_large, withheld (special mode bits that may not be written), case_twin, ignored_content, busy,
    hard_link (compared, but as a file of its own; not counted as left out), decayed (a scrub found other bytes
    under an unchanged stat; compared, not counted).
    """

    key: bytes
    why: Text
    detail: Text


class Unreached(Worded, frozen=True):
    """A peer from which this node has to fetch chunks and whose server does not answer it; `detail` says how."""

    node: Text
    address: Text
    detail: Text


class VolumeBeat(Message, frozen=True):
    """A volume at rest: the last commit made, and the age of the last complete scan's start.

    `watched_age_ms`: the age of the moment up to which its watcher has proven to have seen everything;
    whatever was written before stands in commits up to `last_seq`. None where nothing watches.
    """

    name: Text
    last_seq: Whole
    scan_started_age_ms: Whole | None
    watched_age_ms: Whole | None = None


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
