"""What a node is called while neither a fence nor a repair behind one decides.

The phase follows from the node's volumes: confirmed differences of its own, and audits that it failed, make a
suspect, a volume never joined makes a joiner, lag makes it lagging. A suspect stays one while anything of its own
differs, even where nobody can judge it any more: nodes stay what they were.
"""

from __future__ import annotations

from .fencing import drop_recovery
from .nodes import Node, Volume
from .states import Phase
from .world import World


def join(world: World, node: Node) -> bool:
    """A node whose root is the truth's has joined that volume. Whether one has: it has a vote now.

    In paths that nobody can judge it is not known to have held the truth: there it has held what it has.
    """
    joined = False
    for volume in world.volumes_of(node):
        stored = node.volume(volume.name)
        if stored.held is not None:
            continue
        if node.fenced or node.session is None or node.record.recovery is not None:
            return False
        if world.compared(node, volume) and world.left(node, volume, "join") == 0:
            stored.held = world.target(node, volume, "join")
            world.touch_node(node)
            joined = True
    return joined


def update_phase(world: World, node: Node) -> None:
    """Call a node what its volumes say."""
    if node.fenced or node.session is None:
        return
    volumes = world.volumes_of(node)
    suspect, held = _is_suspect(world, node, volumes), world.is_held(node)
    if node.record.recovery is not None:
        if not suspect and not held:
            return
        drop_recovery(world, node, "a difference of its own was confirmed" if suspect else "a guard holds it")
    phase = "suspect" if suspect else _phase(node, volumes)
    if held and phase in ("in_rank", "lagging"):
        if node.record.phase in ("joining", "resyncing", "verifying"):
            world.move(node, phase)  # as the table of states has it: only who is in rank or late is held
        phase = "held"
    world.move(node, phase)


def _phase(node: Node, volumes: list[Volume]) -> Phase:
    phase: Phase = "in_rank"
    for volume in volumes:
        if node.volume(volume.name).held is None:
            return "joining"
        if node.view(volume.name).behind:
            phase = "lagging"
    return phase


def _is_suspect(world: World, node: Node, volumes: list[Volume]) -> bool:
    for volume in volumes:
        view = node.view(volume.name)
        if view.confirmed or world.open_incident("audit", node.name, volume.name) is not None:
            return True
        if node.record.phase == "suspect" and view.analysis is not None and view.analysis.divergent:
            return True
    return False
