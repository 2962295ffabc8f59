"""What a hold keeps back, and whether there is anything in it for a person to decide.

A disk may fill while none of its node's changes waits: by what somebody writes beside the volumes, or where the agent
keeps its state. Neither allow nor reject makes room there, so nobody is asked for them.
"""

from __future__ import annotations

from .nodes import Node, Volume
from .records import HoldRecord
from .sizes import own_bytes
from .world import World


def volumes(world: World, node: Node, hold: HoldRecord) -> list[Volume]:
    return [one for one in world.volumes_of(node) if not hold.names or one.name in hold.names]


def waiting(world: World, hold: HoldRecord) -> tuple[int, int]:
    """How much is kept back: (paths, bytes) in which the node differs there by its own doing, as its own view says it.

    What it is only late in comes to it by itself, or after the decision, and is none of that. The one figure of a
    hold for `held`, `incidents`, `status` and `nodes`. Of one that was decided: as it was then.
    """
    node = world.nodes.get(hold.node)
    if hold.state != "held" or node is None:
        return hold.waiting_paths, hold.waiting_bytes
    views = [(one, node.view(one.name)) for one in volumes(world, node, hold)]
    return sum(one.own for _, one in views), sum(own_bytes(world, *pair) or 0 for pair in views)


def is_of_state(hold: HoldRecord) -> bool:
    """Whether it is the disk of the agent's own state that is full: no decision about changes makes room there."""
    return hold.guard == "disk_full" and hold.volume is None


def wants_room(world: World, hold: HoldRecord) -> bool:
    """Whether only room is wanted: nothing is kept back that could be allowed or rejected."""
    return is_of_state(hold) or (hold.guard == "disk_full" and is_empty(world, hold))


def is_empty(world: World, hold: HoldRecord) -> bool:
    """Whether no own change is kept back, nor about to be: of a file that still grows no view says anything."""
    node = world.nodes.get(hold.node)
    if node is None:
        return True
    found = volumes(world, node, hold)
    meters = (world.brake.meters.get((node.name, one.name)) for one in found)
    growing = any(meter is not None and meter.unseen for meter in meters)
    return not growing and not any(node.view(one.name).own for one in found)
