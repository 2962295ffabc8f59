"""What is known of the disks of nodes, and what a burst of writes means for the one that it falls on.

A node's writes at a pace that fills its disk within `disk_full_in_s` are what the guard disk_full holds, so on a
small disk a burst begins there, however few bytes a second that is: it is watched before it is spread. And
a burst that took a part of its disk that would be held (`disk_min_share`) is let through only when the disk has
been looked at since: what fills a disk within a second is over before any forecast was made.

A *gauge* remembers a disk's room from the last report before a burst. At rest there are no reports, for nothing
moves by a hundredth; so the last one still says what was free then. The first one comes a second after a node has
connected; until then the room goes by what it said of its volume. Where it said nothing yet, changes wait a moment.
"""

from __future__ import annotations

from collections.abc import Iterator

from closeranks_proto import messages as wire

from .meters import DISK_QUIET_S, Gauge
from .nodes import Node, Volume
from .rules import GuardRules
from .world import World

GAUGES_MAX = 64  # disks of one node
DISK_CALM = 10.0  # times disk_full_in_s: a forecast beyond it is no burst
REPORT_S = 3.0  # reports come each second while there is news: the next two are there by then


def gauge(world: World, node: Node, state: wire.DiskState) -> None:
    """Take a disk's state: a burst begins with a forecast, and ends with it."""
    gauges, now, rules = world.brake.gauges, world.now.mono, rules_of(world, node, state)
    name = (node.name, state.path)
    known = gauges.get(name)
    if known is None and sum(one == node.name for one, _ in gauges) >= GAUGES_MAX:
        return
    by_us = node.record.recovery is not None  # after looking whether there is room
    soon = state.full_in_s is not None and state.full_in_s < rules.disk_full_in_s * DISK_CALM
    if known is None or by_us or state.free_bytes > known.start_free:
        before = _free_at_connect(world, node, state) if known is None and not by_us else 0
        began = node.connected_at if before > state.free_bytes else now
        known = Gauge(state, now, began, max(before, state.free_bytes), brought(world, node, state))
    elif not soon or now - known.at > DISK_QUIET_S:
        began, free = max(known.at, now - REPORT_S), max(known.state.free_bytes, state.free_bytes)
        known = Gauge(state, now, began, free, known.brought_last)
    gauges[name] = known
    known.state, known.at, known.brought_last = state, now, brought(world, node, state)
    near = state.full_in_s is not None and state.full_in_s < rules.disk_full_in_s
    known.alarms = known.alarms + 1 if near and not by_us else 0


def _free_at_connect(world: World, node: Node, state: wire.DiskState) -> int:
    """What was free when this node connected, as it said then of a volume there: a second is enough to fill a disk.

    0 where that is over, or a push has brought something since: only what it wrote itself counts.
    """
    if world.now.mono >= node.connected_at + REPORT_S:
        return 0
    meters = (world.brake.meters.get((node.name, name)) for name in state.volumes)
    if any(meter is not None and meter.excused_at >= node.connected_at for meter in meters):
        return 0
    found = [node.volume(one.name).status for one in world.volumes_of(node) if one.name in state.volumes]
    same = (one for one in found if one is not None and one.disk_total_bytes == state.total_bytes)
    return max((one.disk_free_bytes for one in same), default=0)


def rules_of(world: World, node: Node, state: wire.DiskState) -> GuardRules:
    """Those of the first guarded volume on this disk, else of the first guarded one of the node."""
    configs = [volume.config for volume in world.volumes_of(node) if volume.config.guards.enabled]
    on_it = [config for config in configs if config.name in state.volumes]
    return next((config.guards for config in (*on_it, *configs)), GuardRules(enabled=False))


def brought(world: World, node: Node, state: wire.DiskState) -> int:
    """Bytes that pushes have brought to this disk so far."""
    meters = (world.brake.meters.get((node.name, volume)) for volume in state.volumes)
    return sum(meter.received for meter in meters if meter is not None)


def calm_bytes_s(world: World, volume: Volume, node: Node) -> float:
    """So many bytes a second do not fill the disk of this node's volume within `disk_full_in_s` (0: nobody asks)."""
    full_in_s = volume.config.guards.disk_full_in_s
    if not full_in_s:
        return float("inf")
    free = [one.state.free_bytes for one in _under(world, volume, node)]
    status = node.volume(volume.name).status
    if not free and status is not None and status.disk_total_bytes:
        free = [status.disk_free_bytes]
    if not free and world.now.mono < node.connected_at + REPORT_S:
        return 0.0  # nothing is known of it yet, and will be in a moment
    return min((one / full_in_s for one in free), default=float("inf"))


def awaits_report(world: World, volume: Volume, node: Node, burst_bytes: int, since: float) -> bool:
    """Whether a burst took so much of a disk that it would be held, and no look at that disk has cleared it.

    A look counts that came after `since`; one that foresees a full disk waits for the next. Before the first report
    of a node that has just connected, only what would take half of the room that it told of waits for one.
    """
    rules = volume.config.guards
    share = rules.disk_min_share
    if not rules.disk_full_in_s:
        return False
    gauges = list(_under(world, volume, node))
    status = node.volume(volume.name).status
    if not gauges and status is not None and world.now.mono < node.connected_at + REPORT_S:
        return status.disk_total_bytes > 0 and 2 * burst_bytes >= status.disk_free_bytes
    return any(
        burst_bytes >= share * one.state.total_bytes and (one.at <= since or one.alarms > 0) for one in gauges
    )


def _under(world: World, volume: Volume, node: Node) -> Iterator[Gauge]:
    for (name, _), found in world.brake.gauges.items():
        if name == node.name and volume.name in found.state.volumes:
            yield found
