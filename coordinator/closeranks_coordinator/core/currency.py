"""Who has looked lately: nodes on whose word a verdict waits are asked to look now, and never at rest.

A scan or a watcher's proof says up to when a node has seen everything that was written on it. A difference is
judged when every voter has looked since it was first seen; asked at once, they need not wait for their scan.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

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
    if node.watched.get(volume.name, -math.inf) > at:
        pause_s = ASK_EVERY_S  # its watcher has answered: another question costs it nothing
    if now < at + pause_s:
        world.wake(at + pause_s)
        return
    answered = (node.current(volume.name) or 0.0) > at
    pause_s = ASK_EVERY_S if answered else min(max(ASK_EVERY_S, 2 * pause_s), ASK_MAX_S)
    node.asked[volume.name] = (now, pause_s)
    world.wake(now + pause_s)
    world.send(node, wire.Ask(volume.name))


def is_watched(node: Node, volume: Volume) -> bool:
    """Whether a watcher answers a question, and not a scan, as in a hush."""
    status = node.volume(volume.name).status
    return status is not None and status.watch in ("fanotify", "inotify") and not status.hush


def is_current(node: Node, volume: Volume, since: float) -> bool:
    """Whether everything that had happened there by then has come."""
    return (node.current(volume.name) or 0.0) > since


def ask_voters(world: World, volume: Volume, waiting: Iterable[tuple[str, float]]) -> None:
    """Ask the voters that have not looked since a difference was first seen: (accused node, when).

    Nobody is asked about itself. Each voter costs one look, however many nodes are accused.
    """
    newest, accused, others = -math.inf, "", -math.inf
    for name, since in waiting:
        if since > newest:
            newest, accused, others = since, name, newest
        else:
            others = max(others, since)
    for name in volume.voters if newest > -math.inf else ():
        voter = world.nodes[name]
        if (voter.current(volume.name) or 0.0) <= (others if name == accused else newest):
            ask(world, volume, voter)


class Looks:
    """Up to when the voters of a volume have looked, as of one moment. Made when it is first asked for."""

    def __init__(self, world: World, volume: Volume) -> None:
        self._world = world
        self._volume = volume
        self._least: list[tuple[float, str]] | None = None

    def of_others(self, node: str) -> float | None:
        """Up to when every voter but this node has looked; None where there is no other, or too few for a quorum.

        Paths in which voters differ are undetermined then. Who has no vote would be held against nobody's word.
        """
        if len(self._volume.voters) < self._volume.need:
            return None
        if self._least is None:
            nodes, name = self._world.nodes, self._volume.name
            looks = ((nodes[voter].current(name) or 0.0, voter) for voter in self._volume.voters)
            self._least = heapq.nsmallest(2, looks)
        return next((seen for seen, voter in self._least if voter != node), None)
