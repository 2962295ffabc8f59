"""What is said of a node while nobody is held or accused for it, as it was reported last: disks, and roads.

A disk that fills by what the truth brings holds nobody, since a hold would keep out what makes room there too; and a
trash is there on purpose. Both end with files that do not fit any more, so they are told where people look, with what
helps: not in an incident, for nobody did anything unusual. A node that does not reach those who have what it lacks
stays behind, however well it and they reach the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterator

from closeranks_proto import messages as wire

from . import filling, tripping
from .meters import Gauge
from .nodes import Node, Volume
from .shapes import CareView
from .words import human_bytes, human_duration, join
from .world import World

PEERS_SHOWN = 4
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


def roads(world: World, node: Node) -> Iterator[CareView]:
    """Peers that this node has to fetch from and does not reach, while there is something that it lacks."""
    missed: dict[str, wire.Unreached] = {}
    stay: list[str] = []
    is_cut_off = False
    for volume in world.volumes_of(node):
        status = node.volume(volume.name).status
        found = [] if status is None or not _lacks(world, node, volume) else status.unreached
        peers = {one.name for one in world.members(volume) if one is not node and _gives(one)}
        here = {one.node: one for one in found if one.node in peers}
        if here:
            missed |= here
            stay.append(volume.name)
            is_cut_off |= here.keys() == peers
    if not missed or node.session is None:
        return
    named = join(
        [f"{one.node} at {one.address} ({one.detail})" for one in list(missed.values())[:PEERS_SHOWN]]
    )
    more = "" if len(missed) <= PEERS_SHOWN else f", nor {len(missed) - PEERS_SHOWN} more"
    who = "nobody else has it, so" if is_cut_off else "where no other node can give it,"
    first = next(iter(missed.values()))
    yield CareView(
        f"{node.name} can not reach {named}{more}, though the coordinator can. Contents of files travel between the "
        f"nodes: {who} {node.name} stays behind on {join(stay)}.",
        f"let {node.name} reach that address: is the port open in the firewall of {first.node} and on the way (try on "
        f"{node.name}: curl http://{first.address}/), and is it the right one? It is `advertise`, else `listen`, in "
        f"agent.toml of {first.node}. It goes on by itself then",
    )


def _lacks(world: World, node: Node, volume: Volume) -> bool:
    return bool(node.view(volume.name).behind) or world.recovers(node, volume.name)


def _gives(peer: Node) -> bool:
    return peer.session is not None and not peer.fenced


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
    return [gauge for _, gauge in sorted(world.brake.disks(node.name).items())]
