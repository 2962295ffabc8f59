"""What is said of a node's disks while nobody is held for them, as they were reported last.

A disk that fills by what the truth brings holds nobody, since a hold would keep out what makes room there too; and a
trash is there on purpose. Both end with files that do not fit any more, so they are told where people look, with what
helps: not in an incident, for nobody did anything unusual.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import filling, tripping
from .meters import Gauge
from .nodes import Node
from .shapes import CareView
from .words import human_bytes, human_duration
from .world import World

SCARCE_SHARE = 0.05  # of a disk that is free: `doctor` warns from there on


def disks(world: World, node: Node) -> Iterator[CareView]:
    """By the path of the disk."""
    for gauge in _gauges(world, node):
        state = gauge.state
        text = tripping.by_us(node, gauge, filling.rules_of(world, node, state))
        if text:
            yield CareView(text, f"make room on {state.path} of {node.name}, or give it a larger disk")
        if state.free_bytes < min(SCARCE_SHARE * state.total_bytes, state.trash_bytes):
            yield _trash(world, node, gauge)


def trash_bytes(world: World, node: Node, volume: str) -> int:
    """What the trashes hold on the disk of this volume."""
    return sum(one.state.trash_bytes for one in _gauges(world, node) if volume in one.state.volumes)


def _trash(world: World, node: Node, gauge: Gauge) -> CareView:
    state = gauge.state
    keep_s = max(
        (one.config.trash_keep_s for one in world.volumes_of(node) if one.name in state.volumes), default=0.0
    )
    return CareView(
        f"{node.name}'s disk {state.path} is nearly full: {human_bytes(state.free_bytes)} of "
        f"{human_bytes(state.total_bytes)} are free, and {human_bytes(state.trash_bytes)} are closeranks' own trash, "
        f"which gives way by itself after {human_duration(keep_s)} (trash_keep_s), but for what an open incident "
        "needs. What does not fit until then waits.",
        f"restore what is still wanted to another disk (closeranks trash restore), then lower trash_keep_s or "
        f"trash_max_bytes in coordinator.toml and reload the coordinator; or make room on {state.path}",
    )


def _gauges(world: World, node: Node) -> list[Gauge]:
    found = [(path, gauge) for (name, path), gauge in world.brake.gauges.items() if name == node.name]
    return [gauge for _, gauge in sorted(found, key=lambda one: one[0])]
