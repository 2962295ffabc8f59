"""From votes to verdicts: moves each volume's truth, holds every node against it, confirms differences.

Runs after every event that can matter; what has not changed since the last time costs a comparison of
tuples. Nobody is named here (`naming`), fenced (`fencing`) or repaired (`recovery`).
"""

from __future__ import annotations

import math
from collections import Counter

from . import naming, unclear
from .judge import Analysis, Differing, Stand, Touched
from .nodes import Node, View, Volume
from .truth import Decision, decide_quorum
from .world import World

Unclear = frozenset[bytes]
NOTHING = (b"", None)  # no entry's value: values of entries are never empty
FOUND_WAIT_S = 5.0  # beyond settle_s: how long a founding waits for the rest of the fleet


def judge_volume(world: World, volume: Volume) -> None:
    """Bring truth, undetermined paths and every node's view of this volume up to date."""
    decision = _decide(world, volume)
    if decision is not None:
        _take(world, volume, decision)
    unclear.watch(world, volume)
    nodes = world.members(volume)
    for node in nodes:
        _look(world, volume, node)
    if volume.config.policy == "quorum":
        _restart_rolling(volume, nodes, world.now.mono)
    for node in nodes:
        _confirm(world, volume, node)


# --- the truth ------------------------------------------------------------------------------------


def _decide(world: World, volume: Volume) -> Decision | None:
    """The truth as it should be now; None when nothing that it depends on has changed."""
    if volume.config.policy == "baseline":
        volume.voters = ()
        pinned = world.baselines.get(volume.record.pinned or "")
        return Decision(None if pinned is None else pinned.root)
    votes = {
        node.name: root
        for node in world.members(volume)
        if (root := node.volume(volume.name).root) is not None and world.may_vote(node, volume)
    }
    volume.voters = tuple(votes)
    if volume.truth is None and not _may_found(world, volume, votes):
        return None
    basis = (volume.truth, tuple(votes.items()), volume.need)
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
    if len(votes) == len(volume.config.nodes) or world.now.mono >= due:
        return True
    world.wake(due)
    return False


def _take(world: World, volume: Volume, decision: Decision) -> None:
    if decision.undetermined != volume.undetermined:
        volume.undetermined = decision.undetermined
    if decision.root == volume.truth:
        return
    world.keep(decision.pages)
    if decision.root is None:
        volume.record.roots = []
        volume.history.clear()
    else:
        if not volume.record.roots:
            world.log("info", f"{volume.name}: the truth is founded: {decision.root.hex()}")
        volume.history.move(decision.root)
        known = {order: at for order, _, at in volume.record.roots}
        volume.record.roots = [
            (order, root, known.get(order, world.now.wall_ms)) for order, root in volume.history.roots
        ]
    world.touch("volume", volume.name)
    world.publish("volume", volume.name)


# --- nodes against it -----------------------------------------------------------------------------


def _look(world: World, volume: Volume, node: Node) -> None:
    """Hold one node's root against the truth."""
    truth, stored, view = volume.truth, node.volume(volume.name), node.view(volume.name)
    if truth is None or stored.root is None:
        if view.analysis is not None:
            node.views[volume.name] = View(seen=view.seen)
        return
    before = view.analysis
    stand = Stand(stored.root, truth, stored.held, stored.withheld, view.by_us)
    if before is None or stand != view.stand:
        after, touched = world.judge.analyse(volume.history, stand, before)
        if after.held != stored.held:
            world.keep(after.pages)
            stored.held = after.held
            world.touch("node", node.name)
        view.analysis, view.by_us = after, False
        view.stand = Stand(stored.root, truth, stored.held, stored.withheld)
        world.publish("node", node.name)
        _remember_sizes(view, before, after, touched)
        naming.follow(world, volume, node, before, after, touched)
        _run_clocks(view, before, after, volume.undetermined, touched, world.now.mono)
    elif view.undetermined is not volume.undetermined:
        _run_clocks(view, before, before, volume.undetermined, (), world.now.mono)
        world.publish("node", node.name)
    if not view.behind:
        view.lag_since = None
    elif view.lag_since is None:
        view.lag_since = world.now.mono


def _run_clocks(
    view: View, before: Analysis | None, after: Analysis, unclear_keys: Unclear, touched: Touched, now: float
) -> None:
    """Clocks run for what a node brought itself and somebody can judge."""
    if not after.differing and not len(view.clocks):
        view.undetermined, view.unclear, view.lag_unclear = unclear_keys, 0, 0
        return
    if touched is not None and view.undetermined is not unclear_keys:
        touched = (*touched, *(view.undetermined ^ unclear_keys))
    if touched is None:
        own = [key for key in after.own_keys() if key not in unclear_keys]
        view.clocks.watch(own, now)
    else:
        own = [key for key in touched if after.is_own(key) and key not in unclear_keys]
        ours = frozenset(own)
        view.clocks.change(own, (key for key in touched if key not in ours), now)
    known: Differing = {} if before is None else before.differing
    view.fresh += [key for key in own if known.get(key, NOTHING)[0] != after.differing[key][0]]
    view.undetermined = unclear_keys
    view.unclear = sum(map(after.differing.__contains__, unclear_keys))
    view.lag_unclear = sum(map(after.lagging.__contains__, unclear_keys))


def _remember_sizes(view: View, before: Analysis | None, after: Analysis, touched: Touched) -> None:
    """What the differing bytes were added up from, so that only what changes is added up again."""
    if before is None or touched is None or view.size is None:
        view.size = None
        return
    for key in touched:
        view.size.changed.setdefault(key, before.differing.get(key))


# --- entries that spread --------------------------------------------------------------------------


def _restart_rolling(volume: Volume, nodes: list[Node], now: float) -> None:
    """RULES 1.4: an entry that spreads restarts its clock with each new holder."""
    views = [view for node in nodes if not node.fenced and len((view := node.view(volume.name)).clocks)]
    fresh = [view for view in views if view.fresh]
    if len(views) < 2:
        volume.rolling = {}
    elif fresh:
        _spread(volume, views, fresh, now)
    for node in nodes:
        node.view(volume.name).fresh = []


def _spread(volume: Volume, views: list[View], fresh: list[View], now: float) -> None:
    """Count the holders of what some nodes have newly brought; restart the clocks of what has grown."""
    groups = Counter(view.analysis for view in views)
    grown: dict[bytes, bytes | None] = {}
    for key, value in {
        (key, view.analysis.differing[key][0]): None
        for view in fresh
        if view.analysis is not None
        for key in view.fresh
        if key in view.clocks
    }:
        holders = sum(
            size
            for analysis, size in groups.items()
            if analysis is not None
            and analysis.differing.get(key, NOTHING)[0] == value
            and analysis.is_own(key)
        )
        known = volume.rolling.get(key)
        if holders > (known[1] if known is not None and known[0] == value else 1):
            volume.rolling[key] = (value, holders)
            grown[key] = value
    for view in views:
        analysis = view.analysis
        if grown and analysis is not None:
            held = [key for key, value in grown.items() if analysis.differing.get(key, NOTHING)[0] == value]
            view.clocks.restart(held, now)


# --- confirmation ---------------------------------------------------------------------------------


def _confirm(world: World, volume: Volume, node: Node) -> None:
    """Confirm what has lasted, and have the node named."""
    view, config = node.view(volume.name), volume.config
    if not len(view.clocks):
        view.confirmed = view.unconfirmed = 0
        if view.analysis is not None and not view.analysis.divergent:
            node.observed.pop(volume.name, None)
            naming.healed(world, volume, node)
        return
    found = view.clocks.confirm(
        world.now.mono, config.settle_s, config.settle_max_s, _others_scanned(world, volume, node)
    )
    if found.next_at is not None:
        world.wake(found.next_at)
    view.unconfirmed = found.unconfirmed
    if node.fenced:
        view.confirmed = 0
    elif world.compared(node, volume):
        view.confirmed = found.confirmed
        if found.confirmed:
            naming.name(world, volume, node, found)


def _others_scanned(world: World, volume: Volume, node: Node) -> float | None:
    """The oldest start of the other voters' last scans."""
    if volume.config.policy == "baseline":
        return math.inf
    name = volume.name
    starts = [world.nodes[voter].scanned[name] for voter in volume.voters if voter != node.name]
    return min(starts, default=None)
