"""Who is fenced, and who waits for it.

The order of a quarantine is the order of effects: first the fence is durable, then every peer knows
(membership), then the node itself, then the world. It needs no goodwill of the node. Never more than
`max_quarantined` on our own account, and never so many that a quorum is lost: if many look bad, the one
who judges may be the one who is wrong.
"""

from __future__ import annotations

from typing import Literal

from closeranks_proto import messages as wire

from . import incidents, recurrence, remarks
from .incidents import Incident
from .nodes import Node, Volume
from .records import FenceRecord
from .words import join
from .world import World

PENDING_WAIT_S = 5.0  # a suspect waits so long for others' differences to be confirmed or gone
REASON_MAX = 500


# --- one node's fence -----------------------------------------------------------------------------


def fence(
    world: World, node: Node, reason: str, incident: Incident | None, by_hand: bool,
    release: Literal["automatic", "by_hand"],
) -> None:  # fmt: skip
    """Fence a node, with the next token. Its work under way ends."""
    drop_recovery(world, node, "the node was fenced")
    token = _next_token(world)
    node.record.fence = FenceRecord(
        token,
        reason[:REASON_MAX],
        None if incident is None else incident.id,
        world.now.wall_ms,
        by_hand,
        release,
    )
    world.move(node, "quarantined")
    world.touch_node(node)
    if incident is not None:
        how = f" by an operator, who said: {reason}" if by_hand else ""
        text = f"{node.name} was fenced{how} (token {token}): nothing is taken from it any more."
        incident.note(world.now.wall_ms, "fenced", text)
        world.touch_incident(incident)
    world.log("warning", f"{node.name} is quarantined: {reason}")
    for remark in remarks.of_fence(world, node):
        world.log("warning", remark)
        if incident is not None:
            incident.note(world.now.wall_ms, "note", remark)
    send_fence(world, node)


def _next_token(world: World) -> int:
    world.counters.token += 1
    world.touch("counters", "")
    return world.counters.token


def send_fence(world: World, node: Node) -> None:
    """Tell the node of the fence on record."""
    found = node.record.fence
    assert found is not None, "a fence is told while it is on record"
    world.send(node, wire.Fence(found.token, found.reason, found.incident or "", found.by_hand))


def is_doubted(world: World, node: Node) -> bool:
    """Whether it has failed an audit, of whichever volume: its own word proves nothing, and a person releases it."""
    return any(one.kind == "audit" for one in world.accusing(node))


def unfence(world: World, node: Node, text: str) -> None:
    """Lift the fence; close its incidents."""
    found = node.record.fence
    assert found is not None, "only a fenced node is released"
    node.record.fence = None
    node.record.unfence = found.token
    node.record.recovery, node.recovery = None, None
    joined = True
    for volume in world.volumes_of(node):
        stored = node.volume(volume.name)
        # Behind the fence its settings may have changed: then it has yet to scan by them.
        known = stored.held is None and world.compared(node, volume)
        if known and world.left(node, volume, "divergence") == 0:
            stored.held = world.target(node, volume, "divergence")
        joined = joined and stored.held is not None
    world.move(node, "in_rank" if joined else "joining")
    world.touch_node(node)
    for incident in world.accusing(node):
        incident.note(world.now.wall_ms, "released", text)
        world.close(incident)
    for view in node.views.values():
        view.seen = {}
    world.log("info", f"{node.name} is released: {text}")
    world.send(node, wire.Unfence(found.token, found.incident or ""))


def reconcile(world: World, node: Node, reported: wire.FenceState | None, highest_token: int) -> None:
    """A node has connected: make its fence the one on record, or keep one that we have lost (RULES 1.11)."""
    record = node.record
    if highest_token > world.counters.token:
        world.counters.token = highest_token
        world.touch("counters", "")
    if record.fence is not None:
        _reconcile_fence(world, node, record.fence, reported, highest_token)
    elif reported is not None and record.unfence is not None and reported.token <= record.unfence:
        world.send(node, wire.Unfence(record.unfence, reported.incident))
    elif reported is not None:
        drop_recovery(world, node, "the node came with a fence")
        _adopt(world, node, reported)
    elif record.unfence is not None:
        record.unfence = None
        world.touch_node(node)


def _reconcile_fence(
    world: World, node: Node, found: FenceRecord, reported: wire.FenceState | None, highest_token: int
) -> None:
    if reported is not None and reported.token >= found.token:
        found.token, found.acknowledged = reported.token, True  # a higher one: our record is an old copy
    else:
        if highest_token > found.token:
            found.token = _next_token(world)  # the node would refuse one below what it has seen
        found.acknowledged = False
        send_fence(world, node)
    world.touch_node(node)


def _adopt(world: World, node: Node, state: wire.FenceState) -> None:
    # The incident went with the state that was lost: its number may be another node's by now.
    node.record.fence = FenceRecord(
        state.token, state.reason, None, world.now.wall_ms, by_hand=True,
        release="by_hand", acknowledged=True,
    )  # fmt: skip
    world.move(node, "quarantined")
    world.touch_node(node)
    text = f"{node.name} came with a fence (token {state.token}) that was not on record: it is kept"
    world.log("warning", text)


def drop_recovery(world: World, node: Node, why: str) -> None:
    """End the work under way, if any."""
    record = node.record.recovery
    if record is None:
        return
    action = world.actions.get(record.action)
    if action is not None and action.state in ("queued", "running"):
        action.state, action.error = "failed", why
        world.touch_action(action)
    world.send(node, wire.Cancel(record.action))
    node.record.recovery, node.recovery = None, None
    world.touch_node(node)


# --- bounds ---------------------------------------------------------------------------------------


def fenced_count(world: World) -> int:
    return sum(node.fenced for node in world.nodes.values())


def quorum_survives(world: World, node: Node) -> bool:
    """Whether every volume of this node keeps a majority without it.

    Fenced nodes count as lost for good. Silent ones count as lost only where this fence would make the
    difference: a quorum that is lost already is not lost by it. Where closeranks carries the writes one node has to
    be left: behind fences nobody could give the truth to anybody.
    """
    for volume in world.volumes_of(node):
        if volume.config.replicated:
            others = [one for one in world.members(volume) if one is not node]
            if others and all(one.fenced for one in others):
                return False
        if volume.config.policy != "quorum":
            continue
        members = [one for one in world.members(volume) if not one.fenced]
        if len(members) - 1 < volume.need:
            return False
        heard = [one for one in members if not world.unreachable(one)]
        if node in heard and len(heard) == volume.need:
            return False
    return True


def room_for_fence(world: World, node: Node) -> str:
    """What a person can do so that this node may be fenced: where `quorum_survives` says no."""
    others = {one.name: one for volume in world.volumes_of(node) for one in world.members(volume)}
    others.pop(node.name, None)
    for one in others.values():
        fence = one.record.fence
        if fence is not None:
            first = "" if fence.verified else f"`closeranks resync {one.name} --wait`, then "
            return f"Release {one.name} first, which is fenced: {first}`closeranks release {one.name}`."
    silent = [one.name for one in others.values() if world.unreachable(one)]
    if silent:
        return f"First bring back who is away: {join(silent)}."
    return "So few nodes can spare none: take it out of service by hand."


# --- suspects -------------------------------------------------------------------------------------


def fence_suspects(world: World) -> None:
    """Fence confirmed suspects as far as the bounds allow; hold back when many look bad."""
    look_bad = [node for node in world.nodes.values() if node.record.phase == "suspect"]
    suspects = [node for node in look_bad if _is_candidate(world, node)]
    limit = world.config.max_quarantined + 1
    _watch_many(world, look_bad, limit)
    if not suspects:
        return
    if len(look_bad) > limit:
        for node in suspects:
            _block(world, node, "many_suspects")
        return
    if len(look_bad) + _pending(world) > limit:
        due = max(node.suspect_since for node in suspects) + PENDING_WAIT_S
        if world.now.mono < due:
            world.wake(due)
            return  # many differ, not all of them for long enough: who breaks ranks will be clear in a moment
    for node in sorted(suspects, key=lambda one: (one.suspect_since, one.name)):
        volume = _ready(world, node)
        if fenced_count(world) >= world.config.max_quarantined:
            _block(world, node, "max_quarantined")
        elif not quorum_survives(world, node):
            _block(world, node, "quorum_would_be_lost")
        elif volume is not None:
            _fence_suspect(world, node, volume)


def _is_candidate(world: World, node: Node) -> bool:
    """Whether this suspect is one to be fenced, now or when it is confirmed again."""
    return any(
        volume.config.on_divergence != "alert" and world.accusing(node, volume.name)
        for volume in world.volumes_of(node)
    )


def _ready(world: World, node: Node) -> Volume | None:
    """The volume whose present, confirmed differences, or failed audit, have this suspect fenced."""
    for volume in world.volumes_of(node):
        confirmed = node.view(volume.name).confirmed or world.open_incident("audit", node.name, volume.name)
        if volume.config.on_divergence != "alert" and confirmed and world.compared(node, volume):
            return volume
    return None


def _pending(world: World) -> int:
    """Connected nodes whose own differences are not confirmed yet."""
    return sum(
        node.session is not None
        and not node.fenced
        and node.record.recovery is None
        and node.record.phase != "suspect"
        and any(view.unconfirmed for view in node.views.values())
        for node in world.nodes.values()
    )


def _block(world: World, node: Node, why: str) -> None:
    if node.blocked_by != why:
        node.blocked_by = why
        world.publish("node", node.name)
        world.count("closeranks_guard_holds_total", 1, guard=why)


def _fence_suspect(world: World, node: Node, volume: Volume) -> None:
    found = world.accusing(node, volume.name)
    incident = found[0] if found else None
    recent = world.lately(node.record.releases_ms, world.config.auto_release_window_s)
    node.record.releases_ms = recent
    often = len(recent) >= world.config.auto_release_max
    by_rule = volume.config.on_divergence == "quarantine"
    reason = incident.summary if incident is not None else f"divergence on {volume.name}"
    again = recurrence.by_hand(incident)
    fence(
        world,
        node,
        reason,
        incident,
        False,
        "by_hand" if often or by_rule or again or is_doubted(world, node) else "automatic",
    )
    if often and incident is not None:
        incident.note(
            world.now.wall_ms, "note",
            f"{node.name} was released {len(recent)} times lately and diverged again: "
            f"a person has to release it (closeranks release {node.name}).",
        )  # fmt: skip


def _watch_many(world: World, suspects: list[Node], limit: int) -> None:
    incident = world.open_incident("many_suspects", None, None)
    if len(suspects) > limit and incident is None:
        names = [node.name for node in suspects]
        incident = incidents.many_suspects(
            id=world.next_incident(),
            volume=None,
            now_ms=world.now.wall_ms,
            nodes=names,
            max_quarantined=world.config.max_quarantined,
        )
        world.open(incident)
        text = f"{join(names, 8)} diverge at once: nothing is fenced automatically ({incident.id})"
        world.log("error", text)
    elif len(suspects) <= limit and incident is not None:
        incident.note(world.now.wall_ms, "note", "Few enough nodes diverge now to act again.")
        world.close(incident)
