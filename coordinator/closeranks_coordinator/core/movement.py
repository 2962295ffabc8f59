"""The truth moves: its new root is taken, its past remembered, and what depends on it told."""

from __future__ import annotations

from . import conflicts
from .nodes import Volume
from .truth import Decision
from .world import World


def move(world: World, volume: Volume, decision: Decision, author: str = "") -> None:
    """Take a decision about the truth. `author`: the writer whose change it is."""
    if decision.undetermined != volume.undetermined:
        volume.undetermined = decision.undetermined
    before = volume.truth
    if decision.root == before:
        return
    record = volume.record
    world.keep(decision.pages)
    if decision.root is None:
        record.roots, record.authors = [], {}
        volume.history.clear()
    else:
        if not record.roots:
            world.log("info", f"{volume.name}: the truth is founded: {decision.root.hex()}")
        volume.history.move(decision.root, world.now.mono)
        known = {order: at for order, _, at in record.roots}
        record.roots = [
            (order, root, known.get(order, world.now.wall_ms)) for order, root in volume.history.roots
        ]
        first, last = record.roots[0][0], record.roots[-1][0]
        if author:
            record.authors[last] = author
        if record.authors and min(record.authors) < first:
            record.authors = {order: one for order, one in record.authors.items() if order >= first}
        if world.kept and before is not None:
            conflicts.follow(world, volume, world.differ.diff(before, decision.root))
        elif world.kept:
            conflicts.founded(world, volume, decision.root)
    world.touch("volume", volume.name)
    world.publish("volume", volume.name)
