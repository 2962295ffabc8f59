"""How each kind of incident begins: its words for people, and the evidence that it rests on.

Texts are for volunteers who see closeranks for the first time: the summary says what happened, the
advice why it matters and the exact command to type next. They are one printable line each, whatever the
names in them. The record itself, and all that happens to it later, is `incident_record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from closeranks_proto.digests import DigestAlgorithm

from . import words
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
    "put_back", "recurrence", "refuted", "regression", "runaway", "undetermined", "unsteady",
]  # fmt: skip

SAMPLES_MAX = 20


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
) -> Incident:
    """A node holds entries that the truth never had. `by`: whose hand it was, "" where nobody knows."""
    advice = _advice(id, "divergence", node, volume, on_divergence)
    incident = Incident(id, "divergence", node, volume, now_ms, "", advice)
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
) -> Incident:
    """A node held entries of the truth and left them for older ones."""
    advice = _advice(id, "regression", node, volume, on_divergence)
    incident = Incident(id, "regression", node, volume, now_ms, "", advice)
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


def _advice(id: str, kind: str, node: str, volume: str, on_divergence: OnDivergence) -> str:
    if kind == "regression":
        why = (
            f"{node} is not late: it had the present entries and lost them. Usual causes: a restored backup or "
            f"snapshot, a disk that dropped writes at a power cut, a second copy job that runs on {node}."
        )
    else:
        why = (
            f"Whoever reads these paths on {node} gets something else than on the other nodes: a process on "
            f"{node} wrote them, or its disk lost or changed them."
        )
    look = f"See the paths: `closeranks diff {volume} {node}`."
    match on_divergence:
        case "alert":
            now = (
                f"This volume only alerts: {node} keeps serving and nothing on its disk was changed. {look} If the "
                f"others are right, `closeranks resync {node}` fences it, brings it back and releases it. If {node} is "
                f"right, bring the others to what it holds; the incident closes when the difference is gone."
            )
        case "quarantine":
            now = (
                f"{node} is fenced as soon as the guards allow it, and stays so until you decide. {look} Then "
                f"`closeranks resync {node}` brings it back and verifies it, and `closeranks release {node}` lets it "
                f"serve again."
            )
        case "resync":
            now = (
                f"You need not do anything now: {node} is fenced, brought back, verified and released by itself. Find "
                f"out who wrote there, or it comes again. {look} If `closeranks status` says that it waits for a "
                f"person: `closeranks release {node}`."
            )
    return (
        f"{why} {now} What a resync replaces or removes stays in the trash of {node}: "
        f"`closeranks trash list {node} --incident {id}`."
    )


def outage(*, id: str, node: str, since_ms: int, now_ms: int, volumes: Sequence[str]) -> Incident:
    """A node is silent. `since_ms`: the last that was heard of it."""
    silent = words.human_duration((now_ms - since_ms) / 1000)
    held = f"volume{'' if len(volumes) == 1 else 's'} {words.join(volumes)}" if volumes else "no volume"
    incident = Incident(
        id, "outage", node, None, now_ms,
        f"{node} has been silent for {silent}; nobody knows the state of its copy of {held}",
        f"Silence is not agreement: {node} has no vote, and while it is away one more failure may leave no quorum. "
        f"On {node}: is the machine up, is the agent running (`closeranks doctor --config AGENT.TOML` says what is "
        f"wrong and the mend), does its network reach the coordinator? `closeranks nodes {node}` shows what was "
        f"known last. The incident closes by itself when {node} is back.",
    )  # fmt: skip
    incident.note(since_ms, "detected", f"The last that was heard of {node}.")
    incident.note(now_ms, "named", f"{node} is unreachable, after {silent} of silence.")
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
    fleet = words.plural(assigned, "node")
    if voted < need:
        cause = f"Only {voted} of {fleet} can be compared, and {need} must agree."
        mend = "Bring the missing nodes back: `closeranks status` names them."
    else:
        cause = f"{voted} of {fleet} were compared; {need} must hold the same entry, and no {need} do."
        mend = (
            f"Compare nodes with each other, `closeranks diff {volume} NODE --against NODE`, decide which is right "
            f"and bring the others to it with your own tools. As soon as {need} nodes hold one entry it is the truth."
        )
    advice = (
        f"{cause} So nobody is accused and nothing is repaired in these paths; every node keeps what it has. {mend} "
        f"Everything else of the volume is still watched. The incident closes by itself when {need} nodes agree."
    )
    incident = Incident(id, "undetermined", None, volume, now_ms, "", advice)
    incident.observe_paths(rows, path_count)
    incident.evidence = {"coverage": f"{voted}/{assigned} compared", "need": need, **(evidence or {})}
    incident.note(first_seen_ms, "detected", f"{incident.summary}.")
    incident.note(now_ms, "held", cause)
    return incident


def many_suspects(
    *, id: str, volume: str | None, now_ms: int, nodes: Sequence[str], max_quarantined: int
) -> Incident:
    """More nodes are suspect at once than may be fenced: the rule, or closeranks itself, may be wrong."""
    where = "" if volume is None else f" in volume {volume}"
    first = nodes[0] if nodes else "NODE"
    incident = Incident(
        id, "many_suspects", None, volume, now_ms,
        f"{words.plural(len(nodes), 'node')} break ranks at once{where}: {words.join(nodes, 5)}. "
        f"Nothing is fenced automatically",
        f"When so many look wrong, the truth itself may be: a change that is being rolled out, a moved or unmounted "
        f"directory, a new ignore pattern. Fencing them all could take the service down, so this waits for you "
        f"(max_quarantined = {max_quarantined}). Look at one: `closeranks diff {volume or 'VOLUME'} {first}`. If it "
        f"is wrong, `closeranks resync {first}`, and so on, one after the other; `closeranks quarantine {first} "
        f"--reason TEXT` only fences. If the change is wanted, finish it on the other nodes, and set settle_s above "
        f"the time that your own replication needs.",
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
    removed: bool = False,
) -> str:  # fmt: skip
    """One conflict, for the timeline. `kept` is the key of the second version, None where there was none to keep.

    `removed`: the loser had deleted it; otherwise only its attributes were other ones.

    `first_by`, `second_by`: whose hand made the two, as far as anybody knows.
    """
    path = words.path_words(key)
    first = f"{winner}'s version came first and stays as {path}" + (f" (by {first_by})" if first_by else "")
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
        f"A repair that does not last means that something on {node} writes this again: a cron job, a deploy or copy "
        f"script, an application's cache, or an intruder. Who wrote each time stands in the timeline, as far as the "
        f"kernel told; stop that, then it ends. `closeranks nodes {node}` shows who writes most there. If the content "
        f"is right after all, bring it to the others the regular way. After a few returns {node} is not released "
        f"by itself any more: `closeranks release {node}`, once its writer is found. The incident closes when {node} "
        f"is released and nothing has come back for an hour.",
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
    """A guard holds what a node does. `spreads`: closeranks itself would have carried it to the others.

    `volumes`: those that are held, none: all of the node. `merged`: paths that were let through just before.
    """
    where = (
        f"volume{'' if len(volumes) == 1 else 's'} {words.join(volumes)}" if volumes else "all its volumes"
    )
    held = f"Held is {where} of {node}; nothing else is."
    if spreads and merged:
        meaning = (
            f"{held} {words.plural(merged, 'changed path')} of {node} had been merged in the minutes before: they are "
            f"the truth now and a reject does not undo them. If they are part of it, restore them: what they replaced "
            f"lies in the trash of the other nodes (`closeranks trash list NODE`) or in a baseline. What is "
            f"held has reached no other node, and does not before you decide."
        )
    elif spreads:
        meaning = (
            f"{held} Nothing of it has reached another node, and nothing does before you decide; {node} goes on "
            f"serving what it has, and the others serve what was there before."
        )
    else:
        meaning = (
            f"closeranks spreads nothing; {node} has no vote and gives nothing there till you decide. {held}"
        )
    incident = Incident(
        id, "runaway", node, volume, now_ms, reason,
        f"{meaning} If this is wanted (a deploy, an import, a clean-up): `closeranks allow {hold}` lets it through, "
        f"and for {words.human_duration(allow_s)} (`--for SECONDS`: for so long) the guard "
        f"{guard} does not hold {node} "
        f"there again, whatever it does; other guards stay on. If not: stop the writer on {node}, then "
        f"`closeranks reject {hold}` fences {node}, brings it back to the truth, verifies and "
        f"releases it; what it wrote lies in its trash then. "
        f"`closeranks held` shows what waits.",
    )  # fmt: skip
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
    incident = Incident(
        id, "audit", node, volume, now_ms, summary, _audit_advice(node, volume, on_divergence)
    )
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
    incident = Incident(
        id, "audit", node, volume, now_ms, summary, _audit_advice(node, volume, on_divergence)
    )
    incident.paths = {key: IncidentPath("unreadable", ("content",)) for key in keys}
    incident.path_count = len(keys)
    incident.evidence = {"decided_by": f"{paths} that it reports to hold, asked for one after the other"}
    incident.note(now_ms, "detected", f"No proof for {paths} in a row; one would have ended the count.")
    incident.note(now_ms, "named", f"{summary}.")
    return incident


def _audit_advice(node: str, volume: str, on_divergence: OnDivergence) -> str:
    fate = {
        "alert": f"This volume only alerts: {node} keeps serving, and the incident closes when it proves what it "
        f"failed.",
        "quarantine": f"{node} is fenced as soon as the guards allow it, and stays so until you decide.",
        "resync": f"{node} is fenced as soon as the guards allow it. It is not released by itself: a node that does "
        f"not tell what is on its disk can not vouch for its own repair.",
    }[on_divergence]
    return (
        f"What {node} reports of its files is not what lies on its disk: a stale or damaged index, a disk that gives "
        f"other bytes from time to time, an agent that was tampered with. {fate} Stop its agent, remove "
        f"volume-{volume}.sqlite* from its state_dir and start it again: it then reads every file anew, and what "
        f"differs is judged like any difference. Then `closeranks resync {node}` and `closeranks release {node}`. If "
        f"it fails again, the machine is not to be trusted: see its log and its disks."
    )


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
        f"`closeranks trash list {node} --incident {id}`; `closeranks trash restore {node} VOLUME ID --to "
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
