"""Naming who breaks ranks: opens the incident of a confirmed difference, and keeps it up to date.

One incident is open for each node, volume and kind. Whoever writes goes on writing: new paths join the
open incident, and a path that comes back after it was put right is counted as a recurrence. Without a
fence, the incident closes when the difference is gone; behind one, at the release.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from closeranks_proto.limits import INCIDENT_MAX_PATHS
from closeranks_proto.messages import MADE_ANEW

from . import hands, incidents, recurrence
from .clocks import Confirmation
from .diffs import DiffRow, row
from .incidents import Incident
from .judge import Analysis, Touched
from .nodes import Node, Volume
from .words import human_duration, join, plural
from .world import World

RECENT_INCIDENTS = 20  # closed ones that are searched for paths that come back
SAMPLES = 5


def name(world: World, volume: Volume, node: Node, found: Confirmation) -> None:
    """Open the incident of a confirmed divergence, once."""
    view = node.view(volume.name)
    analysis = view.analysis
    if world.diverged(node, volume.name):
        return
    assert analysis is not None, "clocks run for an analysed node"
    assert found.since is not None, "what is confirmed was first seen at some time"
    now, lasted = world.now, world.now.mono - found.since
    own = list(view.clocks)
    rows = _rows(world, volume, analysis, own)
    describe = incidents.regression if len(own) == len(analysis.regressed) else incidents.divergence
    incident = describe(
        id=world.next_incident(),
        node=node.name,
        volume=volume.name,
        now_ms=now.wall_ms,
        first_seen_ms=now.wall_ms - int(lasted * 1000),
        rows=rows,
        path_count=len(own),
        bytes=sum(one.bytes for one in rows),
        on_divergence=volume.config.on_divergence,
        evidence=_evidence(world, volume, node, analysis, [one.key for one in rows], lasted),
        by=hands.words_of(world, node, volume.name, own),
        missing=_missing(analysis, own),
    )
    hands.tell(incident, hands.sums(world, node, volume.name, analysis, own))
    incident.keep(analysis.root)
    incident.keep(analysis.truth)
    if not node.volume(volume.name).anew:
        _recall(world, incident)
    view.seen = dict.fromkeys(own)
    world.open(incident)
    recurrence.returned(world, volume, node, incident, analysis, rows)
    observed = node.observed.get(volume.name, found.since)
    world.count("closeranks_divergence_detected_seconds", max(0.0, now.mono - observed))
    told = f"{plural(len(own), 'path')} for {human_duration(lasted)}"
    world.log("warning", f"{node.name} breaks ranks on {volume.name}: {told} ({incident.id})")


def _missing(analysis: Analysis, keys: Iterable[bytes]) -> int:
    """How many of these the node does not have."""
    return sum(analysis.differing[key][0] is None for key in keys)


def _recall(world: World, incident: Incident) -> None:
    """Paths of this node that were put right in an earlier incident have come back."""
    earlier = [
        one
        for one in world.incidents.values()
        if (one.node, one.volume) == (incident.node, incident.volume) and not one.is_open
    ][-RECENT_INCIDENTS:]
    known = dict.fromkeys(key for one in earlier for key in one.paths)
    back = [key for key in incident.paths if key in known]
    if back:
        incident.recur(world.now.wall_ms, back)


def _rows(world: World, volume: Volume, analysis: Analysis, keys: Iterable[bytes]) -> list[DiffRow]:
    """The first INCIDENT_MAX_PATHS of these keys as rows."""
    width, chunk_bytes = world.algorithm.width, volume.config.chunk_bytes
    return [
        row(key, *analysis.differing[key], world.object, width, chunk_bytes)
        for key in heapq.nsmallest(INCIDENT_MAX_PATHS, keys)
    ]


def _evidence(
    world: World, volume: Volume, node: Node, analysis: Analysis, keys: list[bytes], lasted_s: float
) -> incidents.Evidence:
    voters = [voter for voter in volume.voters if voter != node.name]
    assigned = len(volume.config.nodes)
    if volume.config.policy == "baseline":
        decided_by = f"baseline {volume.record.pinned}"
    elif volume.config.policy == "writers":
        named = join(volume.config.writers, 8)
        decided_by = f"writers: only what {named} changed is the truth, in the order of its arrival"
    else:
        decided_by = (
            f"quorum: {volume.need} of {assigned} nodes must hold an entry; {len(voters)} others voted"
        )
    return incidents.evidence(
        compared=sum(world.compared(one, volume) for one in world.members(volume)),
        assigned=assigned,
        voters=voters,
        need=volume.need,
        decided_by=decided_by,
        node_root=analysis.root,
        truth_root=analysis.truth,
        algorithm=world.algorithm,
        lasted_s=lasted_s,
        samples=[(key, *analysis.differing[key]) for key in keys[:SAMPLES]],
    )


def follow(
    world: World, volume: Volume, node: Node, before: Analysis | None, after: Analysis, touched: Touched
) -> None:
    """Take a node's newest differences into its open incident: new paths, and paths that came back."""
    hands.judged(node, volume.name, before, after, touched)
    if before is not None:
        _remember_repair(world, volume, node, before, after, touched)
    found = world.diverged(node, volume.name)
    if not found or before is None:
        return
    incident, view = found[0], node.view(volume.name)
    keys = after.own_keys() if touched is None else touched
    own = [key for key in keys if after.is_own(key) and key not in volume.undetermined]
    another = (
        node.writing.book(volume.name).cause == MADE_ANEW
    )  # then nobody wrote these again: the tree is another
    back = [key for key in own if key in view.seen and key not in before.differing and not another]
    fresh = [key for key in own if key not in view.seen]
    if fresh:
        view.seen.update(dict.fromkeys(fresh))
        room = INCIDENT_MAX_PATHS - len(incident.paths)
        rows = _rows(world, volume, after, fresh)[:room] if room > 0 else []
        size = incident.differing_bytes + sum(one.bytes for one in rows)
        incident.missing += _missing(after, fresh)
        incident.observe_paths(rows, max(incident.path_count, len(view.seen)), size)
        hands.tell(incident, hands.sums(world, node, volume.name, after, fresh))
        recurrence.returned(world, volume, node, incident, after, rows)
    if back:
        hands.tell(incident, hands.sums_of_returns(world, node, volume.name, incident, after, back))
        incident.recur(world.now.wall_ms, sorted(back), hands.words_of(world, node, volume.name, back))
        text = f"{node.name}: {plural(len(back), 'path')} came back after repair ({incident.id})"
        world.log("warning", text)
    if fresh or back:
        world.touch_incident(incident)


def _remember_repair(
    world: World, volume: Volume, node: Node, before: Analysis, after: Analysis, touched: Touched
) -> None:
    """A converge has put own entries right: what returns later is to be recognised."""
    record = node.record.recovery
    if record is None or record.purpose != "divergence":
        return
    if node.writing.book(volume.name).cause != "converge":
        return
    keys = before.own_keys() if touched is None else touched
    gone = [key for key in keys if before.is_own(key) and key not in after.differing]
    if gone:
        entries = {key: before.differing[key][0] for key in heapq.nsmallest(recurrence.REPAIR_MAX, gone)}
        recurrence.repaired(world, volume, node, record.incident or "", entries)


def healed(world: World, volume: Volume, node: Node) -> None:
    """Nothing of this node's own doing is left. Behind a fence the release closes the incident."""
    found = [] if node.fenced else world.diverged(node, volume.name)
    if not found or not world.compared(node, volume):
        return
    for incident in found:
        incident.note(world.now.wall_ms, "note", "The difference is gone without our doing.")
        world.close(incident)
        node.view(volume.name).seen = {}
