"""Who has looked lately: nodes on whose word a verdict waits are asked to look now, and never at rest.

A scan or a watcher's proof says up to when a node has seen everything that was written on it. A difference is
judged when every voter has looked since it was first seen; asked at once, they need not wait for their scan.
"""

from __future__ import annotations

from closeranks_proto import messages as wire

from .nodes import Node, Volume
from .world import World

ASK_EVERY_S = 0.3
ASK_MAX_S = 10.0  # where nothing watches each question costs a scan: a node that is slow is asked less often


def ask(world: World, volume: Volume, node: Node) -> None:
    """Ask a node to look now, unless it was asked a moment ago. Wakes when it may be asked again."""
    if node.session is None:
        return
    now = world.now.mono
    at, pause_s = node.asked.get(volume.name, (-ASK_MAX_S, 0.0))
    if now < at + pause_s:
        world.wake(at + pause_s)
        return
    answered = (node.current(volume.name) or 0.0) > at
    pause_s = ASK_EVERY_S if answered else min(max(ASK_EVERY_S, 2 * pause_s), ASK_MAX_S)
    node.asked[volume.name] = (now, pause_s)
    world.wake(now + pause_s)
    world.send(node, wire.Ask(volume.name))


def ask_voters(world: World, volume: Volume, accused: Node, since: float) -> None:
    """Ask the voters that have not looked since then."""
    for name in volume.voters:
        voter = world.nodes[name]
        if voter is not accused and (voter.current(volume.name) or 0.0) <= since:
            ask(world, volume, voter)
