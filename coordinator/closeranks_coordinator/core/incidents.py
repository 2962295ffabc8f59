"""How each kind of incident begins: its words for people, and the evidence that it rests on.

Texts are for volunteers who see closeranks for the first time: the summary says what happened, the
advice why it matters and the exact command to type next. They are one printable line each, whatever the
names in them. The record itself, and all that happens to it later, is `incident_record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from closeranks_proto.digests import DigestAlgorithm

from . import advice, words
from .diffs import DiffRow
from .incident_record import (
    RECURRENCE_JOIN_MS,
    EventName,
    Evidence,
    Incident,
    IncidentPath,
    Kind,
    TimelineEvent,
)
from .model import OnDivergence

__all__ = [
    "RECURRENCE_JOIN_MS", "EventName", "Evidence", "Incident", "IncidentPath", "Kind", "TimelineEvent",
    "conflict", "conflict_words", "divergence", "duplicate_node", "evidence", "many_suspects", "no_proof", "outage",
    "put_back", "recurrence", "refuted", "regression", "runaway", "tree_gone", "undetermined", "unsteady",
]  # fmt: skip

SAMPLES_MAX = 20
QUIET_TOLD_MS = 1000  # a session that ends as soon as its node is gone ends within so long


def divergence(
    *,
    id: str,
    node: str,
    volume: str,
    now_ms: int,
    first_seen_ms: int,
    rows: Iterable[DiffRow],
    path_count: int,
    bytes: int,
    on_divergence: OnDivergence,
    evidence: Evidence,
    by: str = "",
    missing: int = 0,
) -> Incident:
    """A node holds entries that the truth never had, or lost some. `by`: whose hand it was, "" where nobody knows.

    `missing`: so many of the paths are not on the node.
    """
    text = advice.difference(id, "divergence", node, volume, on_divergence)
    incident = Incident(id, "divergence", node, volume, now_ms, "", text)
    incident.missing = missing
    incident.observe_paths(rows, path_count, bytes)
    _name(incident, node, first_seen_ms, evidence, by)
    return incident


def regression(
    *,
    id: str,
    node: str,
    volume: str,
    now_ms: int,
    first_seen_ms: int,
    rows: Iterable[DiffRow],
    path_count: int,
    bytes: int,
    on_divergence: OnDivergence,
    evidence: Evidence,
    by: str = "",
    missing: int = 0,
) -> Incident:
    """A node held entries of the truth and left them for older ones."""
    text = advice.difference(id, "regression", node, volume, on_divergence)
    incident = Incident(id, "regression", node, volume, now_ms, "", text)
    incident.missing = missing
    incident.observe_paths(rows, path_count, bytes)
    _name(incident, node, first_seen_ms, evidence, by)
    return incident


def _name(incident: Incident, node: str, first_seen_ms: int, evidence: Evidence, by: str) -> None:
    incident.evidence = dict(evidence)
    paths = words.path_list(incident.paths, incident.path_count)
    incident.note(
        first_seen_ms, "detected", f"{node} differs from the truth of volume {incident.volume}: {paths}."
    )
    lasted = words.human_duration((incident.opened_ms - first_seen_ms) / 1000)
    coverage = evidence.get("coverage")
    compared = f" Coverage: {coverage}." if isinstance(coverage, str) else ""
    hand = f" Written by {by}." if by else ""
    incident.note(incident.opened_ms, "named", f"{incident.summary}. It has lasted {lasted}.{hand}{compared}")


def outage(
    *, id: str, node: str, heard_ms: int, gone_ms: int, now_ms: int, volumes: Sequence[str], since_start: bool = False
) -> Incident:  # fmt: skip
    """A node is silent. `heard_ms`: when it last told anything; `gone_ms`: since when nobody has a session with it.

    `since_start`: it was not heard of since the coordinator started, and of before it only what was stored is known.
    """
    silent = words.human_duration((now_ms - heard_ms) / 1000)
    held = f"volume{'' if len(volumes) == 1 else 's'} {words.join(volumes)}" if volumes else "no volume"
    least = "at least " if since_start else ""
    away = words.human_duration((now_ms - gone_ms) / 1000)
    quiet = (
        f"not been heard of since the coordinator started ({words.moment(gone_ms)})"
        if since_start
        else f"been silent since {words.moment(heard_ms)}"
    )
    incident = Incident(
        id, "outage", node, None, now_ms,
        f"{node} has {quiet}; nobody knows the state of its copy of {held}",
        f"Silence is not agreement: {node} has no vote, and while it is away one more failure may leave no quorum. "
        f"On {node}: is the machine up, is the agent running (`closeranks doctor --config AGENT.TOML` says what is "
        f"wrong and the mend), does its network reach the coordinator? `closeranks nodes {node}` shows what was "
        f"known last. The incident closes by itself when {node} is back.",
    )  # fmt: skip
    if since_start:
        text = f"The last of {node} on record, from before the coordinator started; it may have been heard later."
    else:
        text = f"The last that was heard of {node}."
    incident.note(min(heard_ms, now_ms), "detected", text)
    if gone_ms - heard_ms >= QUIET_TOLD_MS and not since_start:
        incident.note(
            gone_ms, "note", f"The connection to {node} is over: it had been quiet for too long, or it ended."
        )
    incident.note(
        now_ms, "named", f"{node} is unreachable, after {least}{away if since_start else silent} of silence."
    )
    return incident


def tree_gone(*, id: str, node: str, volume: str, since_ms: int, now_ms: int, message: str) -> Incident:
    """A node is there and has lost its tree: it is not silent, and says what is wrong."""
    incident = Incident(
        id, "outage", node, None, now_ms,
        f"{node} can not read its copy of volume {volume}: {message}",
        f"An empty or missing directory is not taken for deleted files: {node} has no vote and nothing is "
        f"written there. Mount or restore the volume on {node}; the incident then closes by itself. "
        f"`closeranks doctor --config AGENT.TOML` on {node} says the same of its other volumes.",
    )  # fmt: skip
    incident.evidence = {"tree": volume}
    incident.note(since_ms, "detected", message)
    incident.note(
        now_ms,
        "named",
        f"{node} counts as unreachable: it is connected, and its copy of {volume} is not there.",
    )
    return incident


def undetermined(
    *,
    id: str,
    volume: str,
    now_ms: int,
    first_seen_ms: int,
    rows: Iterable[DiffRow],
    path_count: int,
    voted: int,
    assigned: int,
    need: int,
    evidence: Evidence | None = None,
) -> Incident:
    """No entry of some paths has a quorum: `need` of `assigned` nodes must agree, `voted` had a vote."""
    text = advice.undetermined(volume, voted, assigned, need)
    incident = Incident(id, "undetermined", None, volume, now_ms, "", text)
    incident.observe_paths(rows, path_count)
    incident.evidence = {"coverage": f"{voted}/{assigned} compared", "need": need, **(evidence or {})}
    incident.note(first_seen_ms, "detected", f"{incident.summary}.")
    incident.note(now_ms, "note", advice.no_quorum(voted, assigned, need))
    return incident


def many_suspects(
    *, id: str, volume: str | None, now_ms: int, nodes: Sequence[str], max_quarantined: int
) -> Incident:
    """More nodes are suspect at once than may be fenced: the rule, or closeranks itself, may be wrong."""
    where = "" if volume is None else f" in volume {volume}"
    incident = Incident(
        id, "many_suspects", None, volume, now_ms,
        f"{words.plural(len(nodes), 'node')} break ranks at once{where}: {words.join(nodes, 5)}. "
        f"Nothing is fenced automatically",
        advice.many_suspects(volume, nodes, max_quarantined),
    )  # fmt: skip
    incident.evidence = {"suspects": list(nodes), "max_quarantined": max_quarantined}
    incident.note(now_ms, "detected", f"Suspect at once: {words.join(nodes, 20)}.")
    limit = max_quarantined + 1
    incident.note(
        now_ms, "held", f"Automatic fencing is held: more than max_quarantined + 1 = {limit} suspects."
    )
    return incident


def conflict(
    *, id: str, node: str, winner: str, volume: str, now_ms: int, rows: Iterable[DiffRow], path_count: int
) -> Incident:
    """Two writers changed the same paths without knowing of each other; `node` came second.

    Each conflict is told with `conflict_words`, by whoever opens or continues the incident.
    """
    incident = Incident(
        id, "conflict", node, volume, now_ms, "",
        f"Nothing is lost: what came first stands everywhere, what {node} had made of it lies beside it under its "
        f"conflict name, on every node. Compare the two and keep what is right: write it under the plain name on a "
        f"writer, then remove the other. `closeranks conflicts {volume}` lists them with both names; a conflict is "
        f"over when its conflict file is removed or renamed. If it happens often, let each directory be written on "
        f"one node only. The incident closes when none of its conflicts is left.",
    )  # fmt: skip
    incident.evidence = {
        "winner": winner,
        "decided_by": f"order of arrival: the change of {winner} came first",
    }
    incident.observe_paths(rows, path_count)
    return incident


def conflict_words(
    key: bytes, kept: bytes | None, winner: str, loser: str, first_by: str = "", second_by: str = "",
    removed: bool = False, first_removed: bool = False,
) -> str:  # fmt: skip
    """One conflict, for the timeline. `kept` is the key of the second version, None where there was none to keep.

    `removed`: the loser had deleted it; otherwise only its attributes were other ones. `first_removed`: the winner had.
    `first_by`, `second_by`: whose hand made the two, as far as anybody knows.
    """
    path = words.path_words(key)
    if first_removed:
        first = f"{winner} deleted it first, so there is no {path} any more"
    else:
        first = f"{winner}'s version came first and stays as {path}"
    first += f" (by {first_by})" if first_by else ""
    by = f" (by {second_by})" if second_by else ""
    if kept is None and removed:
        second = f"{loser} had deleted it{by}: there was nothing to keep beside it"
    elif kept is None:
        second = (
            f"{loser}'s{by} had the same content and other attributes: there was nothing to keep beside it"
        )
    else:
        second = f"{loser}'s version{by} is kept as {words.path_words(kept)}"
    return f"{path} was changed on {winner} and on {loser}, neither knew of the other. {first}; {second}."


def recurrence(*, id: str, node: str, volume: str, now_ms: int, first_ms: int, repaired_in: str) -> Incident:
    """Paths or contents that were put right have come back on `node`: each return is told by `recur`."""
    incident = Incident(
        id, "recurrence", node, volume, now_ms, f"What was put right in volume {volume} has come back on {node}",
        advice.recurrence(node, advice.NEWLY_NAMED),
    )  # fmt: skip
    incident.note(first_ms, "detected", f"It was put right for the first time in incident {repaired_in}.")
    incident.evidence = {"repaired_in": repaired_in}
    return incident


def unsteady(*, id: str, node: str, volume: str, now_ms: int, first_ms: int, failed_in: str) -> Incident:
    """A node fails audits, proves itself, and fails again: each return is a note."""
    incident = Incident(
        id, "recurrence", node, volume, now_ms,
        f"{node} fails audits of volume {volume} again and again, and proves itself in between",
        f"A disk, a controller or memory that gives other bytes now and then looks like this, so does an agent that "
        f"was tampered with. See the log and the disks of {node}, and have its tree read anew as the incident of the "
        f"audit says. After a few returns a proof does not end that any more: `closeranks release {node}`, once the "
        f"cause is found. This incident closes when nothing has come back for an hour.",
    )  # fmt: skip
    incident.note(first_ms, "detected", f"It had proven what it failed in incident {failed_in}.")
    incident.evidence = {"failed_in": failed_in}
    return incident


def runaway(
    *, id: str, node: str, volume: str | None, now_ms: int, hold: str, guard: str, reason: str, spreads: bool,
    volumes: Sequence[str], merged: int, allow_s: float,
) -> Incident:  # fmt: skip
    """A guard holds what a node does: see `advice.runaway` for what else is told."""
    text = advice.runaway(
        node=node, holds=[(hold, guard)], volumes=volumes, spreads=spreads, merged=merged, allow_s=allow_s
    )
    incident = Incident(id, "runaway", node, volume, now_ms, reason, text)
    incident.evidence = {"guard": guard, "hold": hold, "volumes": list(volumes), "merged_before": merged}
    incident.note(now_ms, "detected", f"{reason}.")
    incident.note(now_ms, "held", f"The guard {guard} holds it ({hold}) until a person allows or rejects it.")
    return incident


def refuted(
    *, id: str, node: str, volume: str, now_ms: int, key: bytes, chunk: int, voters: int, need: int, assigned: int,
    on_divergence: OnDivergence, algorithm: DigestAlgorithm,
) -> Incident:  # fmt: skip
    """What a node proved to have on its disk is not what `voters` others proved, twice, with two seeds."""
    what = f"chunk {chunk} of {words.path_words(key)} in volume {volume}"
    summary = f"{node} failed an audit: its disk does not have {what}, though it reports the right digest"
    incident = Incident(id, "audit", node, volume, now_ms, summary, advice.audit(node, volume, on_divergence))
    incident.paths[key] = IncidentPath("modified", ("content",), ((chunk, chunk),))
    incident.path_count = 1
    incident.evidence = {
        "decided_by": f"seeded digests of bytes read from disk at that moment; {voters} of {assigned} nodes agree",
        "need": need,
        "digest": algorithm.name,
        "digest_proves": words.digest_proof(algorithm),
    }
    incident.note(now_ms, "detected", f"Asked twice, with two seeds, {node} gave another digest of {what}.")
    incident.note(
        now_ms, "named", f"{summary}. {voters} of {assigned} nodes gave one and the same; {need} must."
    )
    return incident


def no_proof(
    *, id: str, node: str, volume: str, now_ms: int, keys: Sequence[bytes], on_divergence: OnDivergence
) -> Incident:
    """A node gave no proof for any of these paths, and goes on reporting that it holds them."""
    paths = words.plural(len(keys), "path")
    summary = (
        f"{node} gave no proof in the last audits of volume {volume}: {words.path_list(keys, len(keys))}"
    )
    incident = Incident(id, "audit", node, volume, now_ms, summary, advice.audit(node, volume, on_divergence))
    incident.paths = {key: IncidentPath("unreadable", ("content",)) for key in keys}
    incident.path_count = len(keys)
    incident.evidence = {"decided_by": f"{paths} that it reports to hold, asked for one after the other"}
    incident.note(now_ms, "detected", f"No proof for {paths} in a row; one would have ended the count.")
    incident.note(now_ms, "named", f"{summary}.")
    return incident


def duplicate_node(*, id: str, node: str, now_ms: int, detail: str) -> Incident:
    """A second agent claims the name of a node whose session stands."""
    said = words.line(detail).rstrip(".")
    incident = Incident(
        id, "duplicate_node", node, None, now_ms,
        f"A second agent calls itself {node} and was refused: {said}",
        f"If both were believed, {node} would seem to change its files with every message; the first agent stays "
        f"connected. Usual causes: a cloned machine, a copied agent.toml. Give the second machine a `node` name of "
        f"its own and an empty `state_dir`; `closeranks nodes {node}` shows the address of the one that is connected. "
        f"If {node} has moved to a new machine, stop the old agent: the new one is accepted 10 s later.",
    )  # fmt: skip
    incident.note(now_ms, "detected", f"A second agent with the name {node} was refused: {said}.")
    return incident


def put_back(*, id: str, node: str, now_ms: int) -> Incident:
    """A machine was put back to an earlier state, with its agent. Each volume's part of it is a note."""
    incident = Incident(
        id, "put_back", node, None, now_ms,
        f"{node} was put back to an earlier state: a snapshot or an image of it was restored, its agent with it",
        f"Its old files are nobody's change: they do not go to the other nodes. {node} is brought up to date by "
        f"itself, and does not serve before. What it had otherwise than the others goes to its trash, also what was "
        f"changed there since it was put back, or shortly before and reached nobody. See what that is: "
        f"`closeranks trash list {node} --incident {id}`; `closeranks trash restore {node} VOLUME --incident {id} --to "
        f"DIRECTORY` gives it back. The incident closes when {node} is back in rank.",
    )  # fmt: skip
    incident.note(now_ms, "detected", f"A step that {node} told before is not known to it any more.")
    return incident


def evidence(
    *,
    compared: int,
    assigned: int,
    voters: Sequence[str],
    need: int,
    decided_by: str,
    node_root: bytes | None,
    truth_root: bytes | None,
    algorithm: DigestAlgorithm,
    lasted_s: float,
    samples: Iterable[tuple[bytes, bytes | None, bytes | None]],
) -> Evidence:
    """What a verdict rests on, in words.

    `samples` are (key, the node's entry, the truth's); the first SAMPLES_MAX are told. `decided_by` says how
    the truth came about. Raises CodecError for an entry that is not canonical.
    """
    entries = [
        words.line(
            f"{words.path_words(key)}: the node has {words.value_words(ours, algorithm)}; "
            f"the truth has {words.value_words(theirs, algorithm)}"
        )
        for key, ours, theirs in islice(samples, SAMPLES_MAX)
    ]
    return {
        "coverage": f"{compared}/{assigned} compared",
        "decided_by": words.line(decided_by),
        "need": need,
        "voters": list(voters),
        "node_root": "none" if node_root is None else node_root.hex(),
        "truth_root": "none" if truth_root is None else truth_root.hex(),
        "digest": algorithm.name,
        "digest_proves": words.digest_proof(algorithm),
        "lasted": words.human_duration(lasted_s),
        "entries": entries,
    }
