"""Who is fenced, and what a node is called meanwhile.

The order of a quarantine is the order of effects: first the fence is durable, then every peer knows
(membership), then the node itself, then the world. It needs no goodwill of the node. Never more than
`max_quarantined` on our own account, and never so many that a quorum is lost: if many look bad, the one
who judges may be the one who is wrong.
"""

from __future__ import annotations

from typing import Literal

from closeranks_proto import messages as wire

from . import incidents
from .incidents import Incident
from .records import FenceRecord
from .verdicts import closed, opened
from .words import join
from .world import Node, Volume, World

UNREACHABLE_INCIDENT_S = 10.0
DUPLICATE_QUIET_S = 60.0
PENDING_WAIT_S = 5.0  # a suspect waits so long for others' differences to be confirmed or gone


def update_phase(world: World, node: Node) -> None:
    """Call a node what its volumes say, while neither a fence nor a recovery decides."""
    if node.fenced or node.record.recovery is not None or node.session is None:
        return
    volumes = world.volumes_of(node)
    _join(world, node, volumes)
    views = [node.view(volume.config.name) for volume in volumes]
    divergent = any(view.analysis is not None and view.analysis.divergent for view in views)
    if any(view.confirmed for view in views) or (node.record.phase == "suspect" and divergent):
        world.move(node, "suspect")
        return
    if node.record.phase == "suspect":
        _heal(world, node)
    if any(node.volume(volume.config.name).held is None for volume in volumes):
        world.move(node, "joining")
    elif any(view.analysis is not None and view.analysis.lagging for view in views):
        world.move(node, "lagging")
    else:
        world.move(node, "in_rank")
    if node.record.phase != "suspect":
        node.blocked_by = None


def _join(world: World, node: Node, volumes: list[Volume]) -> None:
    """A node whose root is the truth's has joined that volume."""
    for volume in volumes:
        stored = node.volume(volume.config.name)
        known = stored.root is not None and volume.truth is not None
        if stored.held is None and known and not world.left(node, volume, "join"):
            stored.held = volume.truth
            world.touch_node(node)


def _heal(world: World, node: Node) -> None:
    """A suspect's difference is gone without our doing."""
    node.blocked_by = None
    for incident in list(world.incidents.values()):
        if incident.is_open and incident.node == node.name and incident.kind in ("divergence", "regression"):
            incident.note(world.now.wall_ms, "note", f"The difference is gone: {node.name} is in rank again.")
            closed(world, incident)


# --- fences ---------------------------------------------------------------------------------------


def fence(
    world: World, node: Node, reason: str, incident: Incident | None, by_hand: bool,
    release: Literal["automatic", "by_hand"],
) -> None:  # fmt: skip
    """Fence a node, with the next token. Its work under way ends."""
    drop_recovery(world, node, "the node was fenced")
    world.counters.token += 1
    world.touch("counters", "")
    node.record.fence = FenceRecord(
        world.counters.token,
        reason,
        None if incident is None else incident.id,
        world.now.wall_ms,
        by_hand,
        release,
    )
    node.record.unfence = None
    node.blocked_by = None
    world.move(node, "quarantined")
    world.touch_node(node)
    if incident is not None:
        incident.note(
            world.now.wall_ms, "fenced",
            f"{node.name} was fenced (token {world.counters.token}): nothing is taken from it any more.",
        )  # fmt: skip
        world.touch_incident(incident)
    world.log("warning", f"{node.name} is quarantined: {reason}")
    send_fence(world, node)


def send_fence(world: World, node: Node) -> None:
    """Tell the node of the fence on record."""
    found = node.record.fence
    assert found is not None
    world.send(node, wire.Fence(found.token, found.reason, found.incident or "", found.by_hand))


def unfence(world: World, node: Node, text: str) -> None:
    """Lift the fence; close its incidents."""
    found = node.record.fence
    assert found is not None
    node.record.fence = None
    node.record.unfence = found.token
    node.record.recovery, node.recovery = None, None
    world.move(node, "in_rank")
    world.touch_node(node)
    for incident in list(world.incidents.values()):
        if incident.is_open and incident.node == node.name and incident.kind in ("divergence", "regression"):
            incident.note(world.now.wall_ms, "released", text)
            closed(world, incident)
    for view in node.views.values():
        view.seen = {}
    world.log("info", f"{node.name} is released: {text}")
    world.send(node, wire.Unfence(found.token, found.incident or ""))


def adopt(world: World, node: Node, state: wire.FenceState) -> None:
    """A node came with a fence that we have lost: keep it (RULES 1.11)."""
    node.record.fence = FenceRecord(
        state.token, state.reason, state.incident or None, world.now.wall_ms, by_hand=True,
        release="by_hand", acknowledged=True,
    )  # fmt: skip
    world.move(node, "quarantined")
    world.touch_node(node)
    world.log(
        "warning", f"{node.name} came with a fence (token {state.token}) that was not on record: it is kept"
    )


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


def fenced_count(world: World) -> int:
    return sum(node.fenced for node in world.nodes.values())


def quorum_survives(world: World, node: Node) -> bool:
    """Whether every volume of this node could still reach a majority without it."""
    for volume in world.volumes_of(node):
        if volume.config.policy != "quorum":
            continue
        left = [one for one in world.members(volume) if not one.fenced and one is not node]
        if len(left) < volume.need:
            return False
    return True


def fence_suspects(world: World) -> None:
    """Fence confirmed suspects as far as the bounds allow; hold back when many look bad."""
    suspects = [
        node
        for node in world.nodes.values()
        if node.record.phase == "suspect" and not node.fenced and _wanted(world, node) is not None
    ]
    limit = world.config.max_quarantined + 1
    _many_suspects(world, suspects, limit)
    if len(suspects) > limit:
        for node in suspects:
            _block(world, node, "many_suspects")
        return
    waited_s = max((world.now.wall_ms - node.record.since_ms for node in suspects), default=0) / 1000
    if len(suspects) + _pending(world) > limit and waited_s < PENDING_WAIT_S:
        return  # many differ, not all of them for long enough: who breaks ranks will be clear in a moment
    for node in sorted(suspects, key=lambda one: (one.record.since_ms, one.name)):
        if fenced_count(world) >= world.config.max_quarantined:
            _block(world, node, "max_quarantined")
        elif not quorum_survives(world, node):
            _block(world, node, "quorum_would_be_lost")
        else:
            _fence_suspect(world, node)


def _wanted(world: World, node: Node) -> Volume | None:
    """The volume because of which this suspect is to be fenced."""
    for volume in world.volumes_of(node):
        if volume.config.on_divergence != "alert" and node.view(volume.config.name).confirmed:
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


def _fence_suspect(world: World, node: Node) -> None:
    volume = _wanted(world, node)
    assert volume is not None
    name = volume.config.name
    incident = world.open_incident("divergence", node.name, name) or world.open_incident(
        "regression", node.name, name
    )
    window_ms = int(world.config.auto_release_window_s * 1000)
    recent = [at for at in node.record.releases_ms if world.now.wall_ms - at < window_ms]
    often = len(recent) >= world.config.auto_release_max
    by_rule = volume.config.on_divergence == "quarantine"
    reason = incident.summary if incident is not None else f"divergence on {name}"
    fence(world, node, reason[:500], incident, False, "by_hand" if often or by_rule else "automatic")
    if often and incident is not None:
        incident.note(
            world.now.wall_ms, "note",
            f"{node.name} was released {len(recent)} times lately and diverged again: "
            f"it is repaired, but a person has to release it (closeranks release {node.name}).",
        )  # fmt: skip


def _many_suspects(world: World, suspects: list[Node], limit: int) -> None:
    incident = world.open_incident("many_suspects", None, None)
    if len(suspects) > limit and incident is None:
        names = sorted(node.name for node in suspects)
        incident = incidents.many_suspects(
            id=world.next_id("incident"),
            volume=None,
            now_ms=world.now.wall_ms,
            nodes=names,
            max_quarantined=world.config.max_quarantined,
        )
        opened(world, incident)
        world.log(
            "error", f"{join(names, 8)} diverge at once: nothing is fenced automatically ({incident.id})"
        )
    elif len(suspects) <= limit and incident is not None:
        incident.note(world.now.wall_ms, "note", "Few enough nodes diverge now to act again.")
        closed(world, incident)


# --- membership and presence ----------------------------------------------------------------------


def members_now(world: World) -> tuple[wire.Member, ...]:
    return tuple(
        wire.Member(
            node.name, node.record.address, node.fenced, not node.fenced or node.record.recovery is not None
        )
        for node in world.nodes.values()
    )


def membership(world: World, node: Node) -> wire.Membership:
    """What this node must know of its peers."""
    kept = tuple(
        incident.id
        for incident in world.incidents.values()
        if incident.is_open and incident.node == node.name and incident.kind in ("divergence", "regression")
    )
    return wire.Membership(world.counters.term, world.told, kept)


def watch_presence(world: World) -> None:
    """Open and close what tells of silent nodes and of names claimed twice."""
    now = world.now
    for node in world.nodes.values():
        incident = world.open_incident("outage", node.name, None)
        if not world.unreachable(node):
            if world.unreachable_since.pop(node.name, None) is not None:
                world.publish("node", node.name)
            if incident is not None:
                incident.note(now.wall_ms, "note", f"{node.name} is back.")
                closed(world, incident)
            if node.session is None:
                world.wake(node.gone_at + node.grace_s)
            continue
        if node.name not in world.unreachable_since:
            world.unreachable_since[node.name] = now.mono
            world.publish("node", node.name)
        since = world.unreachable_since[node.name]
        if incident is None and node.record.agent_id and now.mono - since >= UNREACHABLE_INCIDENT_S:
            volumes = [volume.config.name for volume in world.volumes_of(node)]
            silent_ms = int((now.mono - since) * 1000)
            incident = incidents.outage(
                id=world.next_id("incident"),
                node=node.name,
                since_ms=now.wall_ms - silent_ms,
                now_ms=now.wall_ms,
                volumes=volumes,
            )
            opened(world, incident)
    for name, at in list(world.duplicates.items()):
        incident = world.open_incident("duplicate_node", name, None)
        if now.mono - at > DUPLICATE_QUIET_S:
            del world.duplicates[name]
            if incident is not None:
                incident.note(now.wall_ms, "note", "The second agent has not tried again.")
                closed(world, incident)


def refuse_duplicate(world: World, name: str, detail: str) -> None:
    """A second agent claimed this name."""
    world.duplicates[name] = world.now.mono
    if name in world.nodes and world.open_incident("duplicate_node", name, None) is None:
        incident = incidents.duplicate_node(
            id=world.next_id("incident"), node=name, now_ms=world.now.wall_ms, detail=detail
        )
        opened(world, incident)
