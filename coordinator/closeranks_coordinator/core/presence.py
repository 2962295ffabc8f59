"""Who is there: membership as peers must know it, nodes that are silent, names that are claimed twice."""

from __future__ import annotations

from closeranks_proto import messages as wire

from . import incidents
from .incidents import Incident
from .nodes import Node
from .world import World

OUTAGE_AFTER_S = 10.0
DUPLICATE_QUIET_S = 60.0
# Telling everybody of everybody is nodes x nodes entries of some 60 bytes: 60 MB for 1,000 nodes, every 3 s.
TOLD_AT_ONCE = 64  # up to so many nodes nobody waits for it
TELL_S_A_PAIR = 3e-6


def gather(world: World) -> None:
    """Take note of a membership that has changed: everybody is to be told.

    A fence is told at once. Addresses that become known, as when a fleet starts, can wait a moment in a large
    fleet: each change costs a message of its size to everybody.
    """
    if len(world.told) == len(world.nodes) and all(map(_is_told, world.told, world.nodes.values())):
        return
    members = tuple(
        wire.Member(node.name, node.record.address, node.fenced, _may_fetch(node))
        for node in world.nodes.values()
    )
    now, due = world.now.mono, world.told_at + len(members) * len(members) * TELL_S_A_PAIR
    if now < due and len(members) > TOLD_AT_ONCE and _doors(members) == _doors(world.told):
        world.wake(due)
        return
    world.told, world.told_at, world.membership = members, now, None
    world.counters.term += 1
    world.touch("counters", "")
    world.untold = dict.fromkeys(world.nodes)


def _is_told(told: wire.Member, node: Node) -> bool:
    """Whether this is what everybody was told of a node. Nothing is made for it: it is asked for all at every step."""
    return (
        told.node == node.name
        and told.address == node.record.address
        and told.fenced == node.fenced
        and told.may_fetch == _may_fetch(node)
    )


def _may_fetch(node: Node) -> bool:
    return not node.fenced or node.record.recovery is not None


def _doors(members: tuple[wire.Member, ...]) -> list[tuple[str, bool, bool]]:
    """Who is in the fleet, and who may give and take."""
    return [(one.node, one.fenced, one.may_fetch) for one in members]


def announce(world: World) -> None:
    """Send the membership to those who have to hear it."""
    untold, world.untold = world.untold, {}
    if untold and world.membership is None:
        world.membership = wire.Membership(world.counters.term, world.told, ())
    for name in untold:
        node = world.nodes.get(name)
        if node is None or node.session is None or world.membership is None:
            continue
        kept = tuple(incident.id for incident in world.trashing(node))
        common = world.membership  # nearly everybody is told the very same: it is encoded once
        world.send(node, wire.Membership(common.term, common.members, kept) if kept else common)


def watch(world: World) -> None:
    """Open and close what tells of silent nodes and of names claimed twice."""
    for node in world.nodes.values():
        if world.unreachable(node):
            _missing(world, node)
        else:
            _present(world, node)
    for name, at in list(world.duplicates.items()):
        due = at + DUPLICATE_QUIET_S
        if world.now.mono < due:
            world.wake(due)
            continue
        del world.duplicates[name]
        incident = world.open_incident("duplicate_node", name, None)
        if incident is not None:
            incident.note(world.now.wall_ms, "note", "The second agent has not tried again.")
            world.close(incident)


def _present(world: World, node: Node) -> None:
    if node.unreachable_since is not None:
        node.unreachable_since = None
        world.publish("node", node.name)
    incident = world.open_incident("outage", node.name, None)
    if incident is not None and node.session is not None:
        incident.note(world.now.wall_ms, "note", f"{node.name} is back.")
        world.close(incident)
    back = world.open_incident("put_back", node.name, None)
    if back is not None and all(node.volume(one.name).held is not None for one in world.volumes_of(node)):
        back.note(world.now.wall_ms, "note", f"{node.name} has what the others have.")
        world.close(back)
    if node.session is None:
        world.wake(node.gone_at + node.grace_s)


def _missing(world: World, node: Node) -> None:
    if node.unreachable_since is None:
        node.unreachable_since = node.gone_at if node.session is None else world.now.mono
        world.publish("node", node.name)
    since = node.unreachable_since
    if not node.record.agent_id or world.open_incident("outage", node.name, None) is not None:
        return
    if world.now.mono < since + OUTAGE_AFTER_S:
        world.wake(since + OUTAGE_AFTER_S)
        return
    world.open(_tree_gone(world, node, since) or _silent(world, node, since))


def _wall(world: World, mono: float) -> int:
    return world.now.wall_ms - int((world.now.mono - mono) * 1000)


def _silent(world: World, node: Node, since: float) -> Incident:
    """`since`: the end of its session, or the coordinator's start. What was heard last may be older than the former."""
    gone_ms = _wall(world, since)
    heard_ms = gone_ms if node.record.last_contact_ms is None else min(node.record.last_contact_ms, gone_ms)
    return incidents.outage(
        id=world.next_incident(), node=node.name, heard_ms=heard_ms, gone_ms=gone_ms, now_ms=world.now.wall_ms,
        volumes=[volume.name for volume in world.volumes_of(node)], since_start=node.offers is None,
    )  # fmt: skip


def _tree_gone(world: World, node: Node, since: float) -> Incident | None:
    """The incident of a node that is there but has lost a tree; None where it is silent."""
    for volume in world.volumes_of(node):
        status = node.volume(volume.name).status
        if (
            node.session is not None
            and status is not None
            and status.problem
            and world.untrusted(node, volume.name)
        ):
            return incidents.tree_gone(
                id=world.next_incident(), node=node.name, volume=volume.name, since_ms=_wall(world, since),
                now_ms=world.now.wall_ms, message=status.problem.message,
            )  # fmt: skip
    return None


def refuse_duplicate(world: World, name: str, detail: str) -> None:
    """A second agent claimed this name."""
    if name not in world.nodes:
        return
    world.duplicates[name] = world.now.mono
    if world.open_incident("duplicate_node", name, None) is None:
        world.open(
            incidents.duplicate_node(
                id=world.next_incident(), node=name, now_ms=world.now.wall_ms, detail=detail
            )
        )
