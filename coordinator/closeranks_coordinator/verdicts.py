"""From votes to verdicts: moves each volume's truth, holds every node against it, names who diverges.

Runs after every event that can matter; what has not changed since the last time costs a comparison of
tuples. It decides nothing about fences (`fencing`) and moves nobody's files (`recovery`).
"""

from __future__ import annotations

import math

from closeranks_proto.limits import INCIDENT_MAX_PATHS

from . import incidents
from .diffs import DiffRow, row
from .incidents import Incident
from .judge import Analysis, Confirmation, analyse
from .truth import Decision, decide_quorum
from .words import human_duration, plural
from .world import Node, View, Volume, World

FOUND_WAIT_S = 5.0  # beyond settle_s: how long a founding waits for the rest of the fleet
ROLLING_MAX_KEYS = 20_000  # differing keys of one node that are compared with other nodes'
RECENT_INCIDENTS = 20  # closed ones that are searched for paths that come back


def judge_volume(world: World, volume: Volume) -> None:
    """Bring truth, undetermined paths and every node's view of this volume up to date."""
    decision = _decide(world, volume)
    if decision is not None:
        _take(world, volume, decision)
    _watch_undetermined(world, volume)
    if volume.truth is None:
        return
    nodes = world.members(volume)
    for node in nodes:
        _look(world, volume, node)
    if volume.config.policy == "quorum":
        _restart_rolling(world, volume, nodes)
    for node in nodes:
        _confirm(world, volume, node)


def _decide(world: World, volume: Volume) -> Decision | None:
    """The truth as it should be now; None when nothing that it depends on has changed."""
    if volume.config.policy == "baseline":
        pinned = world.baselines.get(volume.record.pinned or "")
        return Decision(None if pinned is None else pinned.root)
    votes = {
        node.name: root
        for node in world.members(volume)
        if (root := node.volume(volume.config.name).root) is not None and world.may_vote(node, volume)
    }
    volume.voters = tuple(sorted(votes))
    if volume.truth is None and not _may_found(world, volume, votes):
        return None
    basis = (volume.truth, tuple(sorted(votes.items())), volume.need)
    if basis == volume.decided:
        return None
    decision = decide_quorum(world.differ, votes, volume.need, volume.truth)
    volume.decided = (decision.root, *basis[1:])
    return decision


def _may_found(world: World, volume: Volume, votes: dict[str, bytes]) -> bool:
    """Equal majorities found at once; a fleet that disagrees is first heard as completely as it can be."""
    roots = list(votes.values())
    if any(roots.count(root) >= volume.need for root in dict.fromkeys(roots)):
        return True
    if len(votes) < volume.need:
        volume.votes_since = None
        return False
    if volume.votes_since is None:
        volume.votes_since = world.now.mono
    due = volume.votes_since + volume.config.settle_s + FOUND_WAIT_S
    world.wake(due)
    return len(votes) == len(volume.config.nodes) or world.now.mono >= due


def _take(world: World, volume: Volume, decision: Decision) -> None:
    volume.undetermined = decision.undetermined
    if decision.root == volume.truth:
        return
    name = volume.config.name
    world.keep(decision.pages)
    if decision.root is None:
        volume.record.roots = []
        volume.history.roots.clear()
        volume.history.forget(0)
    else:
        if not volume.record.roots:
            world.log("info", f"{name}: the first truth is founded: {decision.root.hex()}")
        volume.history.move(decision.root)
        known = {order: at for order, _, at in volume.record.roots}
        volume.record.roots = [
            (order, root, known.get(order, world.now.wall_ms)) for order, root in volume.history.roots
        ]
    world.touch("volume", name)
    world.publish("volume", name)


def _watch_undetermined(world: World, volume: Volume) -> None:
    """Tell of undetermined paths once they have lasted; nobody is accused of them meanwhile."""
    now = world.now.mono
    volume.unclear_since = {key: volume.unclear_since.get(key, now) for key in sorted(volume.undetermined)}
    reported = undetermined_paths(world, volume)
    incident = world.open_incident("undetermined", None, volume.config.name)
    if reported and incident is None:
        first = min(volume.unclear_since[key] for key in reported)
        incident = incidents.undetermined(
            id=world.next_id("incident"),
            volume=volume.config.name,
            now_ms=world.now.wall_ms,
            first_seen_ms=world.now.wall_ms - int((now - first) * 1000),
            rows=_undetermined_rows(reported),
            path_count=len(reported),
            voted=len(volume.voters),
            assigned=len(volume.config.nodes),
            need=volume.need,
        )
        opened(world, incident)
    elif incident is not None and not volume.undetermined and volume.truth is not None:
        incident.note(world.now.wall_ms, "note", "A majority agrees again on every path.")
        closed(world, incident)
    pending = [since for since in volume.unclear_since.values() if now < since + volume.config.settle_s]
    if pending:
        world.wake(min(pending) + volume.config.settle_s)


def undetermined_paths(world: World, volume: Volume) -> list[bytes]:
    """Keys that have been without a majority for settle_s, in order."""
    due = world.now.mono - volume.config.settle_s
    return [key for key, since in volume.unclear_since.items() if since <= due]


def _undetermined_rows(keys: list[bytes]) -> list[DiffRow]:
    return [DiffRow(key, "modified") for key in keys[:INCIDENT_MAX_PATHS]]


def _look(world: World, volume: Volume, node: Node) -> None:
    """Hold one node's root against the truth."""
    name, truth = volume.config.name, volume.truth
    stored = node.volume(name)
    assert truth is not None, "judged only once there is a truth"
    if stored.root is None or stored.held is None:
        node.view(name).analysis = None
        return
    view = node.view(name)
    basis = (stored.root, truth, stored.held, *stored.withheld)
    changed = basis != view.basis
    if changed:
        before = view.analysis
        view.analysis = analyse(
            world.differ, volume.history, stored.root, truth, stored.held,
            frozenset(stored.withheld), world.algorithm.width,
        )  # fmt: skip
        _remember(world, node, name, view.analysis)
        view.basis = (stored.root, truth, stored.held, *stored.withheld)
        world.publish("node", node.name)
        if before is not None and view.analysis.differing:
            _update_incident(world, volume, node, before, view.analysis)
    assert view.analysis is not None
    view.lag_since = (view.lag_since or world.now.mono) if view.analysis.lagging else None
    if changed or volume.undetermined or len(view.clocks):
        view.clocks.watch(
            (
                key
                for key in view.analysis.differing
                if key not in view.analysis.lagging and key not in volume.undetermined
            ),
            world.now.mono,
        )


def _remember(world: World, node: Node, volume: str, analysis: Analysis) -> None:
    stored = node.volume(volume)
    if analysis.held != stored.held:
        world.keep(analysis.pages)
        stored.held = analysis.held
        world.touch_node(node)


def _restart_rolling(world: World, volume: Volume, nodes: list[Node]) -> None:
    """RULES 1.4: an entry that spreads restarts its clock with each new holder."""
    views = [
        (view, view.analysis)
        for node in nodes
        if not node.fenced
        and (view := node.view(volume.config.name)).analysis is not None
        and len(view.clocks)
    ]
    if len(views) < 2:
        volume.rolling = {}
        return
    holders: dict[tuple[bytes, bytes | None], int] = {}
    small = [
        (view, found) for view, found in views if found is not None and len(view.clocks) <= ROLLING_MAX_KEYS
    ]
    for view, found in small:
        for key, (value, _) in found.differing.items():
            if key in view.clocks:
                holders[(key, value)] = holders.get((key, value), 0) + 1
    grown = {one for one, size in holders.items() if size > max(1, volume.rolling.get(one, 1))}
    if grown:
        for view, found in small:
            for key, (value, _) in found.differing.items():
                if (key, value) in grown:
                    view.clocks.restart(key, world.now.mono)
    volume.rolling = {one: max(size, volume.rolling.get(one, 1)) for one, size in holders.items() if size > 1}


def _confirm(world: World, volume: Volume, node: Node) -> None:
    """Confirm what has lasted, and name the node."""
    view, config = node.view(volume.config.name), volume.config
    if view.analysis is None or not len(view.clocks):
        view.confirmed = view.unconfirmed = 0
        view.confirmed_since = None
        node.observed.pop(config.name, None)
        return
    found = view.clocks.confirm(
        world.now.mono, config.settle_s, config.settle_max_s, _others_scanned(world, volume, node)
    )
    if found.next_at is not None:
        world.wake(found.next_at)
    working = node.record.phase in ("resyncing", "verifying")
    if working or node.fenced or not world.compared(node, volume):
        view.unconfirmed = view.unconfirmed if node.session is None else found.unconfirmed + found.confirmed
        view.confirmed = 0 if working else view.confirmed
        return
    view.confirmed, view.unconfirmed, view.confirmed_since = found.confirmed, found.unconfirmed, found.since
    if found.confirmed:
        _name(world, volume, node, view, found)


def _others_scanned(world: World, volume: Volume, node: Node) -> float | None:
    """The oldest start of the other voters' last scans."""
    if volume.config.policy == "baseline":
        return math.inf
    name = volume.config.name
    starts = [world.nodes[voter].scanned[name] for voter in volume.voters if voter != node.name]
    return min(starts, default=None)


def _name(world: World, volume: Volume, node: Node, view: View, found: Confirmation) -> None:
    """Open the incident of a confirmed divergence, once."""
    name = volume.config.name
    if any(world.open_incident(kind, node.name, name) for kind in ("divergence", "regression")):
        return
    analysis = view.analysis
    assert analysis is not None
    assert found.since is not None
    now = world.now
    lasted = now.mono - found.since
    rows = rows_of(world, volume, analysis)
    describe = incidents.regression if analysis.divergent == len(analysis.regressed) else incidents.divergence
    incident = describe(
        id=world.next_id("incident"),
        node=node.name,
        volume=name,
        now_ms=now.wall_ms,
        first_seen_ms=now.wall_ms - int(lasted * 1000),
        rows=rows,
        path_count=analysis.divergent,
        bytes=sum(one.bytes for one in rows),
        on_divergence=volume.config.on_divergence,
        evidence=_evidence(world, volume, node, analysis, lasted),
    )
    root = node.volume(name).root
    for one in (root, volume.truth):
        if one is not None:
            incident.keep(one)
    _recall(world, incident, now.wall_ms)
    view.seen = dict.fromkeys(key for key in analysis.differing if key not in analysis.lagging)
    opened(world, incident)
    observed = node.observed.get(name, found.since)
    world.count("closeranks_divergence_detected_seconds", max(0.0, now.mono - observed))
    paths = plural(analysis.divergent, "path")
    world.log(
        "warning", f"{node.name} breaks ranks on {name}: {paths} for {human_duration(lasted)} ({incident.id})"
    )


def _recall(world: World, incident: Incident, now_ms: int) -> None:
    """Paths of this node that were put right in an earlier incident have come back."""
    earlier = [
        one
        for one in world.incidents.values()
        if (one.node, one.volume) == (incident.node, incident.volume) and not one.is_open
    ][-RECENT_INCIDENTS:]
    known = dict.fromkeys(key for one in earlier for key in one.paths)
    back = [key for key in incident.paths if key in known]
    if back:
        incident.recur(now_ms, back)


def rows_of(world: World, volume: Volume, analysis: Analysis) -> list[DiffRow]:
    """The first INCIDENT_MAX_PATHS differing paths that are the node's own doing, as rows."""
    keys = [key for key in analysis.differing if key not in analysis.lagging][:INCIDENT_MAX_PATHS]
    return [
        row(
            key, analysis.differing[key][0], analysis.differing[key][1], world.object,
            world.algorithm.width, volume.config.chunk_bytes,
        )
        for key in keys
    ]  # fmt: skip


def _evidence(
    world: World, volume: Volume, node: Node, analysis: Analysis, lasted_s: float
) -> incidents.Evidence:
    keys = [key for key in analysis.differing if key not in analysis.lagging][:5]
    root, truth = node.volume(volume.config.name).root, volume.truth
    assert root is not None
    assert truth is not None
    voters = [name for name in volume.voters if name != node.name]
    decided_by = (
        f"baseline {volume.record.pinned}"
        if volume.config.policy == "baseline"
        else f"quorum: {volume.need} of {len(volume.config.nodes)} nodes must hold an entry; {len(voters)} others voted"
    )
    return incidents.evidence(
        compared=sum(world.compared(one, volume) for one in world.members(volume)),
        assigned=len(volume.config.nodes),
        voters=voters,
        need=volume.need,
        decided_by=decided_by,
        node_root=root,
        truth_root=truth,
        algorithm=world.algorithm,
        lasted_s=lasted_s,
        samples=[(key, *analysis.differing[key]) for key in keys],
    )


def _update_incident(world: World, volume: Volume, node: Node, before: Analysis, after: Analysis) -> None:
    """Whoever writes goes on writing: the incident's paths follow, and what comes back is counted."""
    for kind in ("divergence", "regression"):
        incident = world.open_incident(kind, node.name, volume.config.name)
        if incident is not None:
            _follow(world, volume, node, incident, before, after)


def _follow(
    world: World, volume: Volume, node: Node, incident: Incident, before: Analysis, after: Analysis
) -> None:
    """Take a node's newest differences into its open incident: new paths, and paths that came back."""
    view = node.view(volume.config.name)
    own = [key for key in after.differing if key not in after.lagging]
    back = [key for key in own if key in view.seen and key not in before.differing]
    fresh = [key for key in own if key not in view.seen]
    if not back and not fresh:
        return
    view.seen.update(dict.fromkeys(fresh))
    if fresh:
        incident.observe_paths(rows_of(world, volume, after), max(incident.path_count, len(view.seen)))
    if back:
        incident.recur(world.now.wall_ms, back)
        world.log(
            "warning", f"{node.name}: {plural(len(back), 'path')} came back after repair ({incident.id})"
        )
    world.touch_incident(incident)


def opened(world: World, incident: Incident) -> None:
    world.incidents[incident.id] = incident
    world.count("closeranks_incidents_total", 1, kind=incident.kind)
    world.touch_incident(incident)


def closed(world: World, incident: Incident) -> None:
    incident.close(world.now.wall_ms)
    world.touch_incident(incident)
