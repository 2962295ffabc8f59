"""What is known of the disks of nodes, and what a burst of writes means for the one that it falls on.

A node's writes at a pace that fills its disk within `disk_full_in_s` are what the guard disk_full holds, so what is
written as fast waits before it is spread (`runs`), however few bytes a second that is.

A *gauge* remembers a disk's room from the last report before a burst. At rest there are no reports, for nothing
moves by a hundredth; so the last one still says what was free then. The first one comes a second after a node has
connected; until then the room goes by what it said of its volume. Where it said nothing yet, changes wait a moment.
It also remembers the room of the last half hour, minute by minute: what fills a disk more slowly is seen there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from closeranks_proto import messages as wire

from .meters import DISK_QUIET_S, Gauge, Moment
from .nodes import Node, Volume
from .rules import GuardRules
from .world import World

GAUGES_MAX = 64  # disks of one node
DISK_CALM = 10.0  # times disk_full_in_s: a forecast beyond it is no burst
REPORT_S = 3.0  # reports come each second while there is news: the next two are there by then
ALIKE_SHARE = 0.02  # of a disk: what is lost of it between two nodes' reports
MINUTE_S, PAST_S = 60.0, 1800.0  # moments of a disk that are remembered: 31 at most


def gauge(world: World, node: Node, state: wire.DiskState) -> None:
    """Take a disk's state: a burst begins with a forecast, and ends with it."""
    gauges, now = world.brake.gauges.setdefault(node.name, {}), world.now.mono
    rules = rules_of(world, node, state)
    known = gauges.get(state.path)
    if known is None and len(gauges) >= GAUGES_MAX:
        return
    by_us = node.record.recovery is not None  # after looking whether there is room
    came = 0 if known is None else known.brought_last + _taken_since(known.state, state)
    soon = state.full_in_s is not None and state.full_in_s < rules.disk_full_in_s * DISK_CALM
    if known is None or by_us or state.free_bytes > known.start_free:
        before = _free_at_connect(world, node, state) if known is None and not by_us else 0
        began = node.connected_at if before > state.free_bytes else now
        past = deque[Moment]() if known is None or by_us else known.past
        known = Gauge(state, now, began, max(before, state.free_bytes), came, past=past)
    elif not soon or now - known.at > DISK_QUIET_S:
        began, free = max(known.at, now - REPORT_S), max(known.state.free_bytes, state.free_bytes)
        start = known.brought_last if state.free_bytes < free else came
        known = Gauge(state, now, began, free, start, past=known.past)
    gauges[state.path] = known
    known.state, known.at, known.brought_last = state, now, came
    near = state.full_in_s is not None and state.full_in_s < rules.disk_full_in_s
    known.alarms = known.alarms + 1 if near and not by_us else 0
    _remember(world, node, known)


def _remember(world: World, node: Node, known: Gauge) -> None:
    """The first moment of each minute, of the last half hour."""
    now, past = world.now.mono, known.past
    while past and past[0].at < now - PAST_S:
        past.popleft()
    if not past or now // MINUTE_S > past[-1].at // MINUTE_S:
        past.append(
            Moment(now, known.state.free_bytes, written(world, node, known.state), known.brought_last)
        )


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


def _taken_since(before: wire.DiskState, state: wire.DiskState) -> int:
    """What we have put there between two reports. An agent that was started again counts anew."""
    since = state.taken_bytes - before.taken_bytes
    return since if since >= 0 else state.taken_bytes


def calm_bytes_s(world: World, volume: Volume, node: Node) -> float | None:
    """So many bytes a second do not fill the disk of this node's volume within `disk_full_in_s` (0: nobody asks).

    What is usual for the node is calm, too. None: nothing is known of that disk yet, and will be in a moment.
    """
    full_in_s = volume.config.guards.disk_full_in_s
    free = [one.state.free_bytes for one in _under(world, volume, node)]
    status = node.volume(volume.name).status
    if not free and status is not None and status.disk_total_bytes:
        free = [status.disk_free_bytes]
    if full_in_s and not free and world.now.mono < node.connected_at + REPORT_S:
        return None
    if not full_in_s or not free:
        return float("inf")
    meter = world.brake.meters.get((node.name, volume.name))
    return max(min(free) / full_in_s, 0.0 if meter is None else meter.usual.pace()[1])


def alike(world: World, node: Node, gauge: Gauge) -> list[str]:
    """Other nodes at its address that tell of a disk as large with as much room: it may be the same one."""
    state, host = gauge.state, _host(node)
    found: list[str] = []
    for name, gauges in world.brake.gauges.items():
        other = world.nodes.get(name)
        if other is None or other is node or _host(other) != host or other.session is None:
            continue
        same = (one.state for one in gauges.values() if one.state.total_bytes == state.total_bytes)
        if any(abs(one.free_bytes - state.free_bytes) <= ALIKE_SHARE * state.total_bytes for one in same):
            found.append(name)
    return sorted(found)


def _host(node: Node) -> str:
    return node.record.address.rpartition(":")[0]


def written(world: World, node: Node, state: wire.DiskState) -> int:
    """Bytes that this node was seen writing in the volumes of this disk so far."""
    meters = (world.brake.meters.get((node.name, volume)) for volume in state.volumes)
    return sum(meter.totals()[1] for meter in meters if meter is not None)


def _under(world: World, volume: Volume, node: Node) -> Iterator[Gauge]:
    for found in world.brake.disks(node.name).values():
        if volume.name in found.state.volumes:
            yield found
