"""What the report of an incident says: the same for every form of it.

Words and figures for people, made of the incident alone. What a node said is made printable, and nothing is escaped for
any form yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from closeranks_proto.digests import ALGORITHMS
from closeranks_proto.lines import printable, timestamp

from ..core import words
from ..core.incident_record import RANGES_MAX
from ..core.shapes import IncidentView, PathView

VOTERS_SHOWN = 32
TITLES = {
    "divergence": "{node} broke ranks",
    "regression": "{node} went back to older files",
    "outage": "{node} went silent",
    "undetermined": "No majority in {volume}",
    "many_suspects": "Many nodes differ at once",
    "runaway": "{node} changes too much at once",
    "recurrence": "Repaired paths came back on {node}",
    "conflict": "{node} and another writer changed the same thing in {volume}",
    "duplicate_node": "Two agents call themselves {node}",
    "audit": "{node} reports what its disk does not have",
    "put_back": "{node} was put back to an earlier state",
}
UNSTEADY = "{node} fails audits again and again"  # a recurrence of which nothing was repaired
TREE_GONE = "{node} does not have its copy of {volume}"  # an outage of a node that is there
EVENT_WORDS = {"resync_started": "resync started"}
CHANGES = {
    "modified": ("changed", "differs from the truth"),
    "added": ("added", "only on this node"),
    "missing": ("missing", "not on this node"),
    "unreadable": ("unreadable", "could not be read"),
}
_EVIDENCE = (
    ("coverage", "Coverage"),
    ("decided_by", "How the truth was decided"),
    ("need", "Votes needed"),
    ("voters", "Voters"),
    ("suspects", "Suspects"),
    ("max_quarantined", "Most nodes fenced at once"),
    ("lasted", "Lasted when named"),
    ("tree", "Not there: its copy of volume"),
    ("winner", "Whose change came first"),
    ("repaired_in", "First put right in incident"),
    ("failed_in", "Last failed, and proven since, in incident"),
    ("release", "Release"),
    ("guard", "Guard"),
    ("hold", "Held as"),
    ("volumes", "Volumes held"),
    ("merged_before", "Let through just before"),
    ("truth_root", "Root of the truth"),
    ("node_root", "Root of the node"),
)
_FIRST = ((0, 0),)  # of most small files: it says no more than that the content differs
_ELSEWHERE = ("digest", "digest_proves", "entries", "sides")


@dataclass(frozen=True, slots=True)
class Row:
    """One path. `mark` is what `closeranks diff` would print before it."""

    mark: str
    path: str
    change: str
    what: str
    chunks: str
    count: int


@dataclass(frozen=True, slots=True)
class Moment:
    date: str
    time: str
    event: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """`code`: shown as it would be typed, roots for instance. `wide`: too long for a place beside others."""

    label: str
    value: str
    code: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """The report's content, the same for every form. Nothing in it is escaped for any of them yet."""

    incident: IncidentView
    title: str
    state: str
    happened: tuple[str, ...]
    facts: tuple[Fact, ...]
    rows: tuple[Row, ...]
    rows_left: int
    evidence: tuple[Fact, ...]
    entries: tuple[str, ...]
    proof: str
    advice: tuple[str, ...]  # in turn: words and commands; a command at every odd place
    moments: tuple[Moment, ...]
    moved: str
    trashed: str
    commands: tuple[tuple[str, str], ...]  # command, what for
    generated: str


def tell(incident: IncidentView, digest: str, wall_ms: int) -> Told:
    """What the report says. `digest` is the fleet's algorithm, `wall_ms` the moment of the telling."""
    tree = incident.evidence.get("tree")
    title = (
        UNSTEADY
        if _is_unsteady(incident)
        else TREE_GONE
        if tree
        else TITLES.get(incident.kind, incident.kind)
    ).format(node=incident.node or "a node", volume=incident.volume or tree or "a volume")
    return Told(
        incident=incident,
        title=title,
        state="open" if incident.closed_at is None else f"closed, after {_lasted(incident, wall_ms)}",
        happened=_happened(incident, wall_ms),
        facts=_facts(incident, wall_ms),
        rows=tuple(_row(path, incident.kind) for path in incident.paths),
        rows_left=max(0, incident.path_count - len(incident.paths)),
        evidence=_evidence(incident),
        entries=_entries(incident),
        proof=_proof(incident, digest),
        advice=_advice(incident.advice),
        moments=tuple(_told_moment(at.at, at.event, at.text) for at in incident.timeline),
        moved=_moved(incident),
        trashed=_trashed(incident),
        commands=_commands(incident),
        generated=_readable(timestamp(wall_ms)),
    )


def _happened(incident: IncidentView, wall_ms: int) -> tuple[str, ...]:
    """Two sentences: what, and since when."""
    what = incident.summary.rstrip(". ") + "."
    since = f"It began {_readable(_began(incident))}"
    if incident.closed_at is None:
        return what, f"{since} and is still open, {_lasted(incident, wall_ms)} later."
    return what, f"{since} and was over {_lasted(incident, wall_ms)} later, {_readable(incident.closed_at)}."


def _began(incident: IncidentView) -> str:
    """When the first of it was seen: an incident is opened later, once what was seen has lasted."""
    return min([incident.opened_at, *(at.at for at in incident.timeline if at.event == "detected")])


def _lasted(incident: IncidentView, wall_ms: int) -> str:
    began = _unix(_began(incident))
    end = wall_ms / 1000 if incident.closed_at is None else _unix(incident.closed_at)
    return words.human_duration(end - began)


def _is_unsteady(incident: IncidentView) -> bool:
    return "failed_in" in incident.evidence


def _facts(incident: IncidentView, wall_ms: int) -> tuple[Fact, ...]:
    found = [Fact("Node", incident.node or "none: nobody is accused", incident.node is not None)]
    if incident.volume is not None:
        found.append(Fact("Volume", incident.volume, True))
    found.append(Fact("Kind", incident.kind))
    found.append(Fact("Since", _readable(_began(incident))))
    if incident.closed_at is not None:
        found.append(Fact("Until", _readable(incident.closed_at)))
    if incident.path_count:
        found.append(Fact("Paths", f"{incident.path_count:,}"))
    if incident.recurrences:
        what = "Failed again after a proof" if _is_unsteady(incident) else "Came back after repair"
        found.append(Fact(what, words.times(incident.recurrences)))
    found.append(Fact("Moved", words.human_bytes(incident.bytes_moved)))
    found.append(Fact("Set aside", words.plural(incident.files_trashed, "file")))
    found += [Fact("Written by", printable(writer), wide=True) for writer in incident.writers]
    return tuple(found)


def _row(path: PathView, kind: str) -> Row:
    if kind == "undetermined":
        return Row("?", printable(path.path), "undetermined", "no entry of it has a quorum", "", path.count)
    change, meaning = CHANGES.get(path.change, (path.change, ""))
    mark = {"modified": "*", "added": "+", "missing": "-", "unreadable": "!"}.get(path.change, "?")
    aspects = [aspect for aspect in path.aspects if aspect != "presence"]
    return Row(
        mark,
        printable(path.path),
        change,
        printable(", ".join(aspects)) or meaning,
        "" if path.change in ("missing", "added") or path.chunks == _FIRST else _ranges(path.chunks),
        path.count,
    )


def _ranges(chunks: Iterable[tuple[int, int]]) -> str:
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in chunks]
    least = "at least " if len(shown) >= RANGES_MAX else ""  # no more are kept
    return ", ".join(shown[:8]) + (f" and {least}{len(shown) - 8} more ranges" if len(shown) > 8 else "")


def _entries(incident: IncidentView) -> tuple[str, ...]:
    """Who has what, of the first paths, and of how many more it is not told."""
    found = _texts(incident.evidence.get("entries"))
    left = incident.path_count - len(found)
    return (*found, f"and {words.plural(left, 'more path')}") if found and left > 0 else found


def _evidence(incident: IncidentView) -> tuple[Fact, ...]:
    found = []
    known = dict(_EVIDENCE)
    for key in [*known, *sorted(set(incident.evidence) - set(known) - set(_ELSEWHERE))]:
        value = incident.evidence.get(key)
        if value is None or value == []:
            continue
        label = known.get(key) or printable(key).replace("_", " ").capitalize()
        if isinstance(value, list):
            names = _texts(value)
            text = f"{len(names)}: {words.join(names, VOTERS_SHOWN)}"
        else:
            text = printable(str(value))
        found.append(Fact(label, text, key.endswith("_root")))
    return tuple(found)


def _proof(incident: IncidentView, digest: str) -> str:
    """What equal digests mean here, and what they do not."""
    name = printable(str(incident.evidence.get("digest", digest)))
    known = ALGORITHMS.get(name)
    proves = incident.evidence.get("digest_proves")
    if not isinstance(proves, str):
        proves = "unknown" if known is None else words.digest_proof(known)
    return f"Compared with {name}: {printable(proves)}"


def _texts(value: object) -> tuple[str, ...]:
    return tuple(printable(str(one)) for one in value) if isinstance(value, list | tuple) else ()


def _advice(advice: str) -> tuple[str, ...]:
    """Words and, at odd places, the commands that stand in backticks."""
    parts = printable(advice).split("`")
    return tuple(parts) if len(parts) % 2 else (printable(advice).replace("`", "'"),)


def _told_moment(at: str, event: str, text: str) -> Moment:
    date, _, time = at.rstrip("Z").partition("T")
    return Moment(date, time, EVENT_WORDS.get(event, event), event, printable(text))


def _moved(incident: IncidentView) -> str:
    if not incident.bytes_moved:
        return "No file contents were moved."
    moved = f"{words.human_bytes(incident.bytes_moved)} ({incident.bytes_moved:,} bytes)"
    return f"{moved} of file contents were fetched from healthy nodes."


def _trashed(incident: IncidentView) -> str:
    if not incident.files_trashed:
        return "Nothing was set aside: no file of the node was replaced or removed."
    verb = "was" if incident.files_trashed == 1 else "were"
    stay = (
        "What is there stays at least until this incident is closed"
        if incident.state == "open"
        else "What is there stays for trash_keep_s of the volume (by default seven days)"
    )
    return (
        f"{words.plural(incident.files_trashed, 'file')} that the node held {verb} set aside in its trash before being "
        f"replaced or removed. {stay}, and can be brought back."
    )


def _commands(incident: IncidentView) -> tuple[tuple[str, str], ...]:
    node, volume = incident.node, incident.volume
    found: list[tuple[str, str]] = []
    if (
        node is not None
        and volume is not None
        and incident.kind in ("divergence", "regression", "recurrence")
    ):
        found += [
            (f"closeranks diff {volume} {node} --chunks", "what differs now"),
            (f"closeranks nodes {node}", "how the node is"),
        ]
    if node is not None and incident.files_trashed:
        target = volume or "VOLUME"
        found += [
            (
                f"closeranks trash list {node} --incident {incident.id}",
                "what was set aside, with the ID of each",
            ),
            (
                f"closeranks trash restore {node} {target} ID --to /root/restored",
                f"brings one back into a directory on {node}; nothing is overwritten",
            ),
        ]
    if incident.kind == "conflict" and volume is not None:
        found.append((f"closeranks conflicts {volume}", "the conflicts with both names"))
    return tuple(found)


def _readable(moment: str) -> str:
    """`2026-03-01 12:00:00 UTC` of an RFC 3339 moment."""
    return moment.replace("T", " ").partition(".")[0].rstrip("Z") + " UTC"


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
