"""Holds as time goes by: their figures grow, allowances expire, causes vanish, rejected nodes come back.

Runs after every event; what is learned of nodes' usual is looked after once a minute.
"""

from __future__ import annotations

from . import blame, holds, kept, tripping, whose, writers
from .meters import Gauge, Meter
from .nodes import Node, Volume
from .records import HoldRecord
from .rules import GuardRules
from .words import line
from .world import World

UPDATE_S = 5.0
OVER_AFTER_S = 30.0  # a cause must have been gone for so long
REPORT_OLD_S = 10.0  # nothing is reported while nothing is written


def watch(world: World) -> None:
    """Learn what is usual, and end holds whose time has come; after every event."""
    for hold in world.live_holds:
        _follow(world, hold)
    brake, now = world.brake, world.now
    number = now.wall_ms // 60000
    for name, volume in list(brake.unsettled):
        node, meter = world.nodes.get(name), brake.meters.get((name, volume))
        analysis = None if node is None or meter is None else node.view(volume).analysis
        if meter is None or analysis is None or not analysis.divergent:
            del brake.unsettled[name, volume]
        if meter is not None and analysis is not None and not analysis.divergent:
            meter.settle(now.mono)
    if number == brake.learned:
        return
    brake.learned = number
    for (name, volume), meter in list(brake.meters.items()):
        key = f"{name}/{volume}"
        if volume not in world.volumes or name not in world.volumes[volume].config.nodes:
            del brake.meters[name, volume]
            world.usuals.pop(key, None)
            world.touch("usual", key)
        elif (name, volume) in world.held or (name, "") in world.held:
            meter.bucket.number = 0  # what is held is not what is usual
        elif meter.learn(world.now.wall_ms):
            world.touch("usual", key)
    for name in [one for one in brake.gauges if one not in world.nodes]:
        del brake.gauges[name]
    for name in [one for one in brake.hands if one not in world.nodes]:
        del brake.hands[name]
        brake.reported.pop(name, None)


def _follow(world: World, hold: HoldRecord) -> None:
    node, volume = world.nodes.get(hold.node), world.volumes.get(hold.volume or "")
    if node is None or (hold.volume is not None and volume is None):
        _forget(world, hold)
        holds.end(world, hold, "The node or the volume was removed from the configuration.")
        return
    match hold.state:
        case "rejected":
            if not node.fenced:
                _forget(world, hold)
                told = f"{node.name} was brought back to the truth and is released.{holds.still_there(world, hold)}"
                holds.end(world, hold, told)
        case "allowed":
            _expire(world, hold)
        case "held" if node.fenced and not _is_brought_back(world, node):
            _forget(world, hold)
            holds.end(world, hold, f"{node.name} is fenced, which goes further than a hold.")
        case "held":
            _hold_on(world, hold, node, volume)
        case "over":
            pass


def _is_brought_back(world: World, node: Node) -> bool:
    """Whether its fence is of another hold, which was rejected: this one waits for its own decision."""
    return any(one.node == node.name and one.state == "rejected" for one in world.live_holds)


def _expire(world: World, hold: HoldRecord) -> None:
    """An allowance ends: what was written until then was allowed, and the guard begins anew.

    A wall clock that is set back must not make minutes of it into days: it is asked once, after a restart.
    """
    left_s = max(0.0, ((hold.expires_ms or 0) - world.now.wall_ms) / 1000)
    ends = world.brake.allowed.setdefault(hold.id, world.now.mono + min(left_s, holds.ALLOW_MAX_S))
    if world.now.mono < ends:
        world.wake(ends)
        return
    _forget(world, hold)
    holds.end(
        world, hold, f"The time that it was allowed for is over; the guard {hold.guard} is armed again."
    )


def _forget(world: World, hold: HoldRecord) -> None:
    brake = world.brake
    for records in (brake.calm, brake.told, brake.burst, brake.allowed, brake.since):
        records.pop(hold.id, None)
    meter = brake.meters.get((hold.node, hold.volume or ""))
    if meter is not None:
        meter.forget()
    brake.gauges.pop(hold.node, None)


def _hold_on(world: World, hold: HoldRecord, node: Node, volume: Volume | None) -> None:
    """Bring its figures up to date; end it when its cause is gone by itself."""
    brake, now = world.brake, world.now.mono
    meter = None if volume is None else brake.meters.get((node.name, volume.name))
    if now >= brake.told.get(hold.id, -1e9) + UPDATE_S:
        brake.told[hold.id] = now
        if hold.guard == "disk_full":
            _follow_disk(world, hold, node)
        elif volume is not None and meter is not None:
            _update(world, hold, node, volume, meter)
        holds.keep_waiting(world, hold)
    if not _is_gone(world, hold, node, volume, meter):
        brake.calm.pop(hold.id, None)
        return
    since = brake.calm.setdefault(hold.id, now)
    if now < since + OVER_AFTER_S:
        world.wake(since + OVER_AFTER_S)
        return
    _forget(world, hold)
    holds.end(world, hold, "Its cause is gone by itself: nothing is left that would be held.")


def _update(world: World, hold: HoldRecord, node: Node, volume: Volume, meter: Meter) -> None:
    """How much it is by now."""
    now = world.now
    took_s = (now.wall_ms - hold.since_ms) / 1000
    totals = meter.totals()
    start, had, began = world.brake.burst.setdefault(
        hold.id, (totals, (hold.paths, hold.bytes), now.mono - took_s)
    )
    files, size = (had[place] + max(0, totals[place] - start[place]) for place in (0, 1))
    rules = volume.config.guards
    if volume.config.replicated:
        holds.show_paths(world, volume, hold, meter)
    text = None
    if hold.guard == "write_rate":
        paths, size = max(hold.paths, files), max(hold.bytes, size)  # what was written was written
    elif meter.basis is not None:
        paths, size, text = _share(hold, node, meter, rules, now.mono, began)
    else:
        return
    hands = whose.hands_since(world, node, volume, hold, meter)
    if (paths, size, hands) == (hold.paths, hold.bytes, hold.writers):
        return
    before, hold.paths, hold.bytes = blame.words(hold.writers), paths, size
    whose.name(world, hold, hands)
    if hold.guard == "write_rate":
        found = tripping.limits(world, volume, node, meter)
        # A rush is held below what is allowed, and a disk may be too small to pass it: told is what came closest.
        by_bytes = size > rules.rate_min_bytes or size * found.files >= paths * found.bytes
        text = tripping.rate_words(node.name, (paths, size), now.mono - began, found, rules, by_bytes)
    if text is None and hold.reason.endswith(before):
        # What was unusual stays; whose hand it was may be known better by now.
        text = hold.reason.removesuffix(before)
    if text is not None:
        hold.reason = line(text + blame.words(hold.writers))
        incident = world.incidents.get(hold.incident or "")
        if incident is not None:
            incident.summary = hold.reason
            world.touch_incident(incident)
    world.touch_hold(hold)


def _share(
    hold: HoldRecord, node: Node, meter: Meter, rules: GuardRules, now: float, began: float
) -> tuple[int, int, str | None]:
    """(paths, bytes) of a share by now, and its words where it is another.

    Less it is only where something was undone: not where the window, or the memory of a coordinator that was started
    since, does not reach back to where it began.
    """
    trips = tripping.shares(node, meter, rules, now, hold.of_paths, began)
    trip = next((one for one in trips if one.guard == hold.guard), None)
    since = meter.shares.since(now)
    is_whole = since is not None and since <= began
    if trip is None:
        # What was emptied is unusual however little it was: what its node writes since is none of it.
        left = (meter.gone, 0) if hold.guard == "deleted_share" else (len(meter.pending), meter.waiting_bytes)
        return (*(left if is_whole else (hold.paths, hold.bytes)), None)
    if trip.paths < hold.paths and not is_whole:
        return hold.paths, hold.bytes, None
    return trip.paths, trip.bytes, None if trip.paths == hold.paths else trip.reason


def _follow_disk(world: World, hold: HoldRecord, node: Node) -> None:
    """How full it is by now, and by whom: the timeline of its incident keeps what was said when it was held."""
    volume = world.volumes.get(hold.volume or "")
    meter = None if volume is None else world.brake.meters.get((node.name, volume.name))
    if volume is not None and meter is not None and volume.config.replicated:
        holds.show_paths(world, volume, hold, meter)
    gauge = world.brake.disks(node.name).get(hold.disk)
    if gauge is None:
        return
    _name_anew(world, hold, node, gauge)
    if gauge.state.free_bytes >= hold.free_bytes:
        return  # it has not gone on
    took_s = (world.now.wall_ms - hold.since_ms) / 1000
    by = blame.by_words(world, node, gauge, holds.rules_of(world, hold), hold.writers)
    reason = line(tripping.disk_words(node, gauge, hold.free_bytes + hold.bytes, took_s) + by)
    if reason == hold.reason:
        return
    hold.reason = reason
    world.touch_hold(hold)
    incident = world.incidents.get(hold.incident or "")
    if incident is not None:
        incident.summary = reason
        world.touch_incident(incident)


def _name_anew(world: World, hold: HoldRecord, node: Node, gauge: Gauge) -> None:
    """Whose a full disk is, with the figures of now. Who is known stays named."""
    found = blame.hands(world, node, gauge, whose.WRITERS_MAX)
    keys = {hand.key for hand in found}
    found += [hand for hand in hold.writers if hand.key not in keys and not hand.is_beyond]
    # Who wrote in no volume stands behind all who did, the most first: he may have had no part in it.
    found.sort(key=lambda hand: (hand.outside, -hand.bytes if hand.outside else 0))
    found = writers.first(found, whose.WRITERS_MAX)
    if found != hold.writers:
        whose.name(world, hold, found)
        world.touch_hold(hold)


def _is_gone(world: World, hold: HoldRecord, node: Node, volume: Volume | None, meter: Meter | None) -> bool:
    """Whether nothing is left of what tripped the guard."""
    if node.session is None:
        return False
    if hold.guard == "disk_full":
        gauge = world.brake.disks(node.name).get(hold.disk)
        return gauge is not None and not gauge.alarms and _has_room(world, hold, gauge)
    if volume is None or not world.compared(node, volume):
        return False
    view = node.view(volume.name)
    rules = volume.config.guards
    if view.analysis is None or (view.own and not _is_back(hold, node, meter, rules, world.now.mono)):
        return False
    if meter is None:
        return True  # the coordinator was restarted since, and nothing is left
    files, size = meter.written(world.now.mono)
    writing = meter.unseen and world.now.mono < meter.reported_at + REPORT_OLD_S
    return not writing and files <= rules.rate_min_files and size <= rules.rate_min_bytes


def _has_room(world: World, hold: HoldRecord, gauge: Gauge) -> bool:
    """Whether a disk that does not fill any more asks for nobody's decision: nothing is kept back, or there is room."""
    if kept.is_of_state(hold):
        return gauge.state.free_bytes >= holds.rules_of(world, hold).disk_min_share * gauge.state.total_bytes
    if gauge.state.free_bytes >= hold.free_bytes + hold.bytes // 2:
        return True
    return kept.is_empty(world, hold)


def _is_back(hold: HoldRecord, node: Node, meter: Meter | None, rules: GuardRules, now: float) -> bool:
    """Whether all that was deleted is there again, if with other times or contents, and the rest is nothing unusual.

    What is left is counted anew when the hold has ended, so that nothing slips through.
    """
    return (
        hold.guard == "deleted_share"
        and meter is not None
        and meter.basis is not None
        and not meter.gone
        and next(tripping.shares(node, meter, rules, now), None) is None
    )
