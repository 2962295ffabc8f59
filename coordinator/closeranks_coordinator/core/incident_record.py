"""The record of one incident: what broke ranks, on what evidence, and everything that happened since.

Invariant: a record is bounded whatever a rogue does. At most INCIDENT_MAX_PATHS paths with at most
RANGES_MAX chunk ranges each, INCIDENT_MAX_TIMELINE events (the first HEAD_EVENTS and the newest, with a
`note` between them that says how many are left out) and ROOTS_MAX roots. Counts are never cut.

How each kind begins, with its words for people, stands in `incidents`. Rejected: one event for each
recurrence (a script that writes five times a second would push its own detection out of sight within
two minutes).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, get_args

import msgspec

from closeranks_proto.errors import CodecError
from closeranks_proto.limits import INCIDENT_MAX_PATHS, INCIDENT_MAX_TIMELINE
from closeranks_proto.lines import timestamp
from closeranks_proto.paths import escape, path_of

from . import words
from .diffs import DiffRow
from .shapes import IncidentView, PathView, TimelineView
from .writers import HandRecord

Kind = Literal[
    "divergence",
    "regression",
    "outage",
    "undetermined",
    "many_suspects",
    "runaway",
    "recurrence",
    "conflict",
    "duplicate_node",
    "audit",
    "put_back",
]
EventName = Literal[
    "detected",
    "named",
    "fenced",
    "resync_started",
    "resynced",
    "verified",
    "released",
    "recurrence",
    "held",
    "note",
]
EVENT_NAMES: tuple[str, ...] = get_args(EventName)
Evidence = dict[str, str | int | list[str]]

HEAD_EVENTS = 100
RANGES_MAX = 64
ROOTS_MAX = 32
RECURRENCE_JOIN_MS = 5000
_RECURRENCE_KEYS = 20  # compared to tell whether a recurrence is of the same paths, with their number
_NAMED_PATHS = 3


class IncidentPath(msgspec.Struct):
    """`chunks`: the first RANGES_MAX ranges, all are in `closeranks diff --chunks`; `count`: how often it came."""

    change: str
    aspects: tuple[str, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()
    count: int = 1
    bytes: int = 0  # of all chunks that differ


class TimelineEvent(msgspec.Struct):
    at_ms: int
    event: EventName
    text: str


class Incident(msgspec.Struct):
    """One incident. Times are Unix milliseconds of the coordinator, for people only.

    `recurrences` adds up how often each path came back. `roots` must stay in the store while it is open.
    `differing_bytes` and `path_count` are the most that was seen.
    """

    id: str
    kind: Kind
    node: str | None
    volume: str | None
    opened_ms: int
    summary: str
    advice: str
    closed_ms: int | None = None
    paths: dict[bytes, IncidentPath] = {}
    path_count: int = 0
    differing_bytes: int = 0
    recurrences: int = 0
    timeline: list[TimelineEvent] = []
    left_out: int = 0  # timeline events that gave way
    evidence: Evidence = {}
    bytes_moved: int = 0
    files_trashed: int = 0
    writers: list[str] = []
    roots: list[bytes] = []
    recurring: list[bytes] = []  # of the newest recurrence: its first keys, in order
    recurring_count: int = 0
    hands: list[HandRecord] = []  # `writers` tells them
    quiet_since_ms: int = 0  # of a recurrence: since when nothing has come back
    missing: int = 0  # of the paths of a divergence: those that the node does not have

    @property
    def is_open(self) -> bool:
        return self.closed_ms is None

    # --- what happens to it ----------------------------------------------------------------------

    def note(self, at_ms: int, event: EventName, text: str) -> None:
        """Add one event to the timeline."""
        assert event in EVENT_NAMES, event
        self.timeline.append(TimelineEvent(at_ms, event, words.line(text)))
        if len(self.timeline) > INCIDENT_MAX_TIMELINE:
            self._leave_out()

    def _leave_out(self) -> None:
        """The oldest events behind the first ones give way; a note in their place tells how many did."""
        excess = len(self.timeline) - INCIDENT_MAX_TIMELINE
        if self.left_out:
            start = HEAD_EVENTS + 1  # behind the note
        else:
            start = HEAD_EVENTS
            excess += 1  # the note needs room
        newest = self.timeline[start + excess - 1].at_ms
        self.left_out += excess
        text = (
            f"{words.plural(self.left_out, 'event')} up to here left out, so that this record stays readable."
        )
        self.timeline[HEAD_EVENTS : start + excess] = [TimelineEvent(newest, "note", text)]

    def observe_paths(
        self, rows: Iterable[DiffRow], path_count: int, differing_bytes: int | None = None
    ) -> None:
        """Remember these paths as they are now, as far as there is room; counts only grow.

        Reads at most INCIDENT_MAX_PATHS rows, and adds up their bytes if `differing_bytes` is not given.
        The summary is told anew.
        """
        added = 0
        for row in islice(rows, INCIDENT_MAX_PATHS):
            added += row.bytes
            known = self.paths.get(row.key)
            if known is not None:
                known.change, known.aspects, known.chunks = row.change, row.aspects, row.chunks[:RANGES_MAX]
                known.bytes = row.bytes
            elif len(self.paths) < INCIDENT_MAX_PATHS:
                chunks = row.chunks[:RANGES_MAX]
                self.paths[row.key] = IncidentPath(row.change, row.aspects, chunks, bytes=row.bytes)
        self.path_count = max(self.path_count, path_count, len(self.paths))
        self.differing_bytes = max(
            self.differing_bytes, added if differing_bytes is None else differing_bytes
        )
        self.summary = _summary(self) or self.summary

    def recur(self, at_ms: int, keys: Sequence[bytes], by: str = "") -> None:
        """These paths came back after they were repaired: one event, however many they are.

        `by` says whose hand it was, "" where nobody knows. The newest event is continued if it tells of the same
        paths and began less than 5 s before.
        """
        keys = list(dict.fromkeys(keys))
        if not keys:
            return
        for key in keys:
            if key in self.paths:
                self.paths[key].count += 1
            elif len(self.paths) < INCIDENT_MAX_PATHS:
                self.paths[key] = IncidentPath("modified", count=2)
        self.path_count = max(self.path_count, len(self.paths))
        self.recurrences += len(keys)
        newest = self.timeline[-1] if self.timeline else None
        same = self.recurring == keys[:_RECURRENCE_KEYS] and self.recurring_count == len(keys)
        self.summary = _summary(self) or self.summary
        text = words.line(self._recurrence_text(keys, by))
        if (
            newest is not None
            and newest.event == "recurrence"
            and same
            and at_ms - newest.at_ms < RECURRENCE_JOIN_MS
        ):
            newest.text = text
        else:
            self.recurring, self.recurring_count = keys[:_RECURRENCE_KEYS], len(keys)
            self.note(at_ms, "recurrence", text)

    def _recurrence_text(self, keys: Sequence[bytes], by: str) -> str:
        named: list[str] = []
        for key in keys[:_NAMED_PATHS]:
            known = self.paths.get(key)
            often = "" if known is None else f" (seen {words.times(known.count)})"
            named.append(words.path_words(key) + often)
        verb = "comes" if len(keys) == 1 else "come"
        hand = f"Written by {by}" if by else f"Something on {self.node or 'the node'} writes again"
        return (
            f"{words.join(named, _NAMED_PATHS, len(keys))} {verb} back after the repair; "
            f"{_returns(self)} so far. {hand}."
        )

    def keep(self, root: bytes) -> None:
        """The store must keep this root: the first and the newest are remembered."""
        if root not in self.roots:
            if len(self.roots) >= ROOTS_MAX:
                del self.roots[1]
            self.roots.append(root)

    def close(self, at_ms: int) -> None:
        """It is over. Closing twice keeps the first time."""
        if self.closed_ms is None:
            self.closed_ms = at_ms

    # --- kept and shown --------------------------------------------------------------------------

    def encode(self) -> bytes:
        return _ENCODER.encode(self)

    @classmethod
    def decode(cls, blob: bytes) -> Incident:
        """Raises CodecError for what `encode` can not have made."""
        try:
            return _DECODER.decode(blob)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CodecError(f"the stored record of an incident can not be read: {error}") from error

    def _looking_back(self) -> str:
        """What is left to do when it is over."""
        if self.kind in ("runaway", "put_back") and self.files_trashed:
            trash = f"`closeranks trash list {self.node} --incident {self.id}`"
            return f"This is over. What was set aside can be had back: {trash}."
        merged = self.evidence.get("merged_before")
        if self.kind == "runaway" and isinstance(merged, int) and merged:
            return (
                f"This is over. {words.plural(merged, 'change')} of {self.node} had been merged in the minutes "
                f"before it was held, and stayed on all nodes whatever was decided: the timeline says more."
            )
        if self.kind not in ("divergence", "regression"):
            return "This is over; nothing has to be done."
        found = f"This is over. Find out what wrote or lost these paths on {self.node}, or it comes again."
        if self.files_trashed:
            found += f" What was set aside can be had back: `closeranks trash list {self.node} --incident {self.id}`."
        return found

    def view(self) -> IncidentView:
        return IncidentView(
            id=self.id,
            kind=self.kind,
            state="open" if self.is_open else "closed",
            node=self.node,
            volume=self.volume,
            opened_at=timestamp(self.opened_ms),
            closed_at=None if self.closed_ms is None else timestamp(self.closed_ms),
            summary=self.summary,
            advice=self.advice if self.is_open else self._looking_back(),
            paths=tuple(_path_view(key, path) for key, path in self.paths.items()),
            path_count=self.path_count,
            recurrences=self.recurrences,
            writers=tuple(self.writers),
            timeline=tuple(TimelineView(timestamp(one.at_ms), one.event, one.text) for one in self.timeline),
            evidence=dict(self.evidence),
            bytes_moved=self.bytes_moved,
            files_trashed=self.files_trashed,
        )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Incident)


def _path_view(key: bytes, path: IncidentPath) -> PathView:
    name = path_of(key)
    code = b64encode(name).decode("ascii")
    return PathView(escape(name), code, path.change, path.aspects, path.chunks, path.bytes, path.count)


def _broken(incident: Incident) -> str:
    """How a node differs: absence is an entry that the truth never had, but nobody would say so."""
    if not incident.missing:
        return "holds what the truth never had"
    if incident.missing >= incident.path_count:
        return "lacks what the truth has"
    return "holds what the truth never had, or lacks what it has,"


def _least(incident: Incident) -> str:
    """What a repair took away is remembered up to a bound: at the bound nobody knows how much more came back."""
    return "at least " if incident.kind == "recurrence" and len(incident.paths) >= INCIDENT_MAX_PATHS else ""


def _returns(incident: Incident) -> str:
    return _least(incident) + words.plural(incident.recurrences, "return")


def _summary(incident: Incident) -> str | None:
    """What happened, in one sentence; None where it does not depend on the paths seen."""
    cut = incident.path_count > len(incident.paths)  # what lies beyond has no bytes here
    paths = f"{words.plural(incident.path_count, 'path')} of volume {incident.volume}"
    named = f": {words.path_list(incident.paths, incident.path_count)}" if incident.paths else ""
    least = "at least " if cut else ""
    amount = f", {least}{words.human_bytes(incident.differing_bytes)}" if incident.differing_bytes else ""
    match incident.kind:
        case "divergence":
            return f"{incident.node} {_broken(incident)} in {paths}{amount}{named}"
        case "regression":
            return (
                f"{incident.node} had the newer entries and went back to older ones in {paths}{amount}{named}"
            )
        case "undetermined":
            return f"Nobody can tell what is right in {paths}: no entry has a quorum{named}"
        case "recurrence" if incident.path_count:
            return (
                f"What was put right on {incident.node} came back in {_least(incident)}{paths}, "
                f"{_returns(incident)} so far{named}"
            )
        case "conflict":
            return f"{incident.node} and another writer changed the same thing at once in {paths}{named}"
        case _:
            return None
