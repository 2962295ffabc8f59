"""When a guard trips, and what it says: figures in, a finding or nothing out. It changes nothing.

Limits are the largest of three, so that nobody is held for what is usual: a minimum that is never unusual,
the node's own past, and its peers at this moment. On a node's first day (`warm_up_s`) its past is no
argument yet.

A burst that is still going on is judged a little ahead, because the next report is a second away: only
where so much would be a good part of the disk, or at the end of an observation. Everything that was pending
is held then, so judging late costs nothing on other nodes.

Who writes gigabytes a second has written some more until a hold stands. So a rush trips where what it will have
written by then passes what a runaway may write: 2 GB, or a tenth of the disk. On disks of 30 GB and more that is
beyond `rate_min_bytes` anyway. Rejected: a lower minimum for all (a copy of 1.9 GB is ordinary), the pace of a
single report (a large file that is moved into the volume is told of in one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from . import blame, filling
from .filling import MINUTE_S
from .meters import Gauge, Meter
from .nodes import Node, Volume
from .rules import GuardRules
from .windows import ALTERED, LOST, RETYPED, USUAL_BUCKET_S, deviation, middle
from .words import human_bytes, human_duration, plural
from .world import World

# Entries: a volume of so many that loses all of them was emptied, whatever share_min_paths says.
EMPTIED_MIN = 10
AHEAD_S = 2.0
AHEAD_AT_END_S = 3.0
SMALL_DISK_BYTES = 20 * 10**9  # of which a tenth is less than the 2 GB that a runaway may write
DISK_REPORTS = 2
SLOW_TIMES = 5  # times disk_min_share: what a disk loses by and by, not within observe_s
TRICKLE_STEPS = 3  # minutes
RUNAWAY_BYTES = 2 * 10**9  # or a tenth of its disk: what a runaway may write before it is held
REACH_S = 0.15  # from what an agent has seen to a hold that stands: two looks, and what is written for it
FULL_S = 2.0  # a disk that is full, or will be before a second report could come

# How what was foreseen is told when it is over.
_PAST = (
    ("will be full in", "was to be full in"), ("; disk full in", "; its disk was to be full in"),
    ("and goes on: at this pace", "and went on: at that pace"), (" and is full: ", " and was full: "),
    (" by now, ", " by then, "), (" are free", " were free"),
)  # fmt: skip

SHARE_GUARDS = ("deleted_share", "changed_share", "type_changes")
GUARDS = (*SHARE_GUARDS, "write_rate", "disk_full")


@dataclass(frozen=True, slots=True)
class Trip:
    """One finding. `paths` and `bytes` are what is unusual, of `of` paths; `began`: when it did, monotonic."""

    guard: str
    reason: str
    paths: int
    bytes: int
    began: float
    disk: str = ""
    free_bytes: int = 0
    volumes: tuple[str, ...] = ()  # of that disk
    of: int = 0  # of a share


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be written in the window, and why so much: the node's usual and its peers' median."""

    files: int
    bytes: int
    usual: tuple[int, int]
    peers: tuple[int, int]
    warming: bool


def shares(
    node: Node, meter: Meter, rules: GuardRules, now: float, of: int = 0, since: float = inf
) -> Iterator[Trip]:
    """The unusual shares of a volume that went, each guard's: a person may have allowed one, and not the others.

    A hold that goes on is told of the `of` paths and the moment `since` that it began with. Its node gets nothing of
    what others add, and so cannot lose it: what was 35% of a volume stays that, however large the truth grows.
    """
    found, most = meter.shares, of or max(1, meter.shares.entries(now))
    entries = of or max(1, found.others(now))
    if found.since(now) is None:
        return
    lost = found.lost(now)
    began, took = _took(found.began(now, LOST), since, now)
    emptied = not of and lost >= most >= EMPTIED_MIN
    if emptied or (lost >= rules.share_min_paths and lost > rules.deleted_share * entries):
        whole = entries if lost <= entries else max(most, lost)  # what it had before most of it went
        what = "everything" if emptied else f"{lost / whole:.0%}"
        reason = (
            f"{node.name} deleted {what} of the volume, {lost:,} of {plural(whole, 'path', 'paths')}, in {took}; "
            f"more than {rules.deleted_share:.0%} is never deleted at once (what was only renamed is not counted)"
        )
        yield Trip("deleted_share", reason, lost, 0, began, of=whole)
    altered = found.altered(now)
    began, took = _took(found.began(now, ALTERED), since, now)
    if altered >= rules.share_min_paths and altered > rules.changed_share * entries:
        whole = entries if altered <= entries else max(most, altered)
        reason = (
            f"{node.name} changed {altered / whole:.0%} of the volume, {altered:,} of "
            f"{plural(whole, 'path', 'paths')}, in {took}; more than {rules.changed_share:.0%} is never changed at "
            "once"
        )
        yield Trip("changed_share", reason, altered, meter.waiting_bytes, began, of=whole)
    retyped = found.retyped(now)
    began, took = _took(found.began(now, RETYPED), since, now)
    if retyped > rules.type_changes:
        reason = (
            f"{node.name} made something else of {plural(retyped, 'path')} in {took} (files became links or "
            f"directories, or the other way round); more than {rules.type_changes} at once is unusual"
        )
        yield Trip("type_changes", reason, retyped, 0, began)


def _took(began: float | None, since: float, now: float) -> tuple[float, str]:
    began = min(now if began is None else began, since)
    return began, human_duration(max(1.0, now - began))


def limits(world: World, volume: Volume, node: Node, meter: Meter) -> Limits:
    """What this node may write in the window."""
    rules = volume.config.guards
    scale = rules.rate_window_s / USUAL_BUCKET_S
    usual = (int(meter.usual.files() * scale), int(meter.usual.bytes() * scale))
    warming = world.now.wall_ms - meter.usual.began_ms < rules.warm_up_s * 1000
    own = (0, 0) if warming else usual
    written = [_written(world, volume, one) for one in _peers(world, volume, node)]
    files, sizes = [one[0] for one in written], [one[1] for one in written]
    factor = rules.rate_factor
    return Limits(
        max(rules.rate_min_files, int(factor * own[0]), _unusual(files, factor)),
        max(rules.rate_min_bytes, int(factor * own[1]), _unusual(sizes, factor)),
        usual,
        (middle(files), middle(sizes)),
        warming,
    )


def _unusual(values: Sequence[int], factor: float) -> int:
    """Peers that do quite the same have no deviation to speak of: twice as much is never unusual."""
    return int(max(2 * middle(values), middle(values) + factor * deviation(values)))


def _peers(world: World, volume: Volume, node: Node) -> list[Node]:
    """The other nodes that write here by themselves."""
    writers = volume.config.writers if volume.config.replicated else volume.config.nodes
    return [world.nodes[name] for name in writers if name != node.name and name in world.nodes]


def _written(world: World, volume: Volume, node: Node) -> tuple[int, int]:
    meter = world.brake.meters.get((node.name, volume.name))
    return (0, 0) if meter is None else meter.written(world.now.mono)


def rate(world: World, volume: Volume, node: Node, meter: Meter) -> Trip | None:
    """Whether this node writes more than it ever does, and more than its peers do."""
    rules, now = volume.config.guards, world.now.mono
    files, size = meter.written(now)
    coming = _coming(world, volume, node, meter)
    reached = size + REACH_S * meter.rush_bytes_s(now)
    if coming[0] <= rules.rate_min_files and max(coming[1], reached) <= rules.rate_min_bytes:
        return None
    found = limits(world, volume, node, meter)
    most = max(found.bytes, RUNAWAY_BYTES, _disk_bytes(world, volume, node) // 10)
    if coming[0] <= found.files and coming[1] <= found.bytes and reached <= most:
        return None
    by_bytes = coming[1] > found.bytes or reached > most
    began = meter.since(now)
    reason = rate_words(node.name, (files, size), now - began, found, rules, by_bytes)
    return Trip("write_rate", reason, files, size, began)


def _coming(world: World, volume: Volume, node: Node, meter: Meter) -> tuple[float, float]:
    """Files and bytes that it will have written in a moment, where it is about to be let through or its disk is small.

    By the pace that lasts: a scan finds in one moment what was written in many, and may be over. A small disk's bytes
    do not wait for it.
    """
    rules, now = volume.config.guards, world.now.mono
    files, size = meter.written(now)
    files_s, bytes_s = meter.pace(now)
    lasting_files_s, lasting_bytes_s = meter.lasting(now)
    if files_s <= rules.observe_files_s and bytes_s <= rules.observe_bytes_s:
        return files, size
    if meter.observing is not None and now - meter.observing >= rules.observe_s - 0.5:
        return files + AHEAD_AT_END_S * lasting_files_s, size + AHEAD_AT_END_S * lasting_bytes_s
    if _disk_bytes(world, volume, node) < SMALL_DISK_BYTES:
        return files + AHEAD_S * lasting_files_s, size + AHEAD_S * bytes_s
    return files, size


def _disk_bytes(world: World, volume: Volume, node: Node) -> int:
    """The size of the disk that a node's volume lies on; 0 while nobody has said."""
    totals = [
        gauge.state.total_bytes
        for gauge in world.brake.disks(node.name).values()
        if volume.name in gauge.state.volumes
    ]
    status = node.volume(volume.name).status
    return min(totals, default=0 if status is None else status.disk_total_bytes)


def rate_words(
    node: str, written: tuple[int, int], took_s: float, found: Limits, rules: GuardRules, by_bytes: bool
) -> str:
    """`node-11 wrote 41 GB in 6 min; its usual is 0.2 GB; its peers wrote 0.3 GB`."""
    took_s = max(1.0, took_s)
    scale = max(1.0, took_s / rules.rate_window_s)
    place = 1 if by_bytes else 0
    usual, peers = int(found.usual[place] * scale), int(found.peers[place] * scale)
    what = (
        f"wrote {human_bytes(written[1])} in {plural(written[0], 'file')}"
        if by_bytes and written[0]
        else f"wrote {human_bytes(written[1])}"
        if by_bytes
        else f"changed {plural(written[0], 'path')}"
    )
    say = human_bytes if by_bytes else (lambda count: plural(count, "path"))
    least = say(rules.rate_min_bytes if by_bytes else rules.rate_min_files)
    if found.warming:
        past = f"its usual is still being learned, and {least} in {human_duration(rules.rate_window_s)} are allowed"
    else:
        past = f"its usual is {say(usual)}"
    is_below = written[place] <= (found.files, found.bytes)[place]
    pace = ", at a pace that passes what is allowed within seconds" if is_below else ""
    return f"{node} {what} in {human_duration(took_s)}{pace}; {past}; its peers wrote {say(peers)}"


def disk(world: World, node: Node, gauge: Gauge, rules: GuardRules) -> Trip | None:
    """Whether a disk will be full soon by what somebody writes there: what closeranks brings is none of it."""
    state, now, filled = gauge.state, world.now.mono, gauge.foreign
    at_once, least = _is_at_once(gauge), rules.disk_min_share * state.total_bytes
    if not _is_soon(gauge) or state.full_in_s is None or not state.total_bytes or filled < least:
        return None
    took_s = max(1.0, now - gauge.began)
    is_fast = at_once or filled / took_s >= least / max(1.0, rules.observe_s)
    if not is_fast and filled < min(SLOW_TIMES * least, gauge.start_free / 2):
        return None
    reason = (
        f"{node.name}'s disk {state.path} ({_holds(gauge)}) lost {human_bytes(gauge.filled)}{_ours(gauge)} in "
        f"{human_duration(max(1.0, now - gauge.began))} and will be full in {human_duration(state.full_in_s)}: "
        f"{human_bytes(state.free_bytes)} of {human_bytes(state.total_bytes)} are free"
        + _elsewhere(world, node, gauge, rules)
    )
    return Trip(
        "disk_full", reason, 0, gauge.filled, gauge.began, state.path, state.free_bytes, state.volumes
    )


def disk_words(node: Node, gauge: Gauge, start_free: int, held_s: float) -> str:
    """Of a disk that goes on filling while its node is held: what of `start_free` is gone, and how it stands."""
    state = gauge.state
    soon = "is full" if not state.free_bytes else "fills no more"
    if state.free_bytes and state.full_in_s is not None:
        soon = f"will be full in {human_duration(state.full_in_s)}"
    lost = human_bytes(start_free - state.free_bytes) + (
        _ours(gauge) if gauge.start_free == start_free else ""
    )
    return (
        f"{node.name}'s disk {state.path} ({_holds(gauge)}) has lost {lost} by "
        f"now, {human_duration(max(1.0, held_s))} after it was held, and {soon}: {human_bytes(state.free_bytes)} of "
        f"{human_bytes(state.total_bytes)} are free"
    )


def past(reason: str) -> str:
    """A reason of a hold that is over: nothing in it is foreseen any more."""
    for now, then in _PAST:
        reason = reason.replace(now, then)
    return reason


def by_us(node: Node, gauge: Gauge, rules: GuardRules) -> str:
    """That a disk will be full soon by what closeranks brings there, and what to do; "" where it is not so."""
    state = gauge.state
    if (
        not _is_soon(gauge)
        or state.full_in_s is None
        or gauge.explained < max(gauge.foreign, 1, rules.disk_min_share * state.total_bytes)
    ):
        return ""
    return (
        f"{node.name}'s disk {state.path} ({_holds(gauge)}) fills with what closeranks puts there (what the other "
        f"nodes have, and its own state): {human_bytes(state.free_bytes)} of {human_bytes(state.total_bytes)} are "
        "free. Nothing is held for that. What does not fit any more waits until there is room: make some, or take a "
        "larger disk."
    )


def _ours(gauge: Gauge) -> str:
    return f" ({human_bytes(gauge.explained)} of it was brought by closeranks)" if gauge.explained else ""


def _is_at_once(gauge: Gauge) -> bool:
    return gauge.state.full_in_s is not None and gauge.state.full_in_s <= FULL_S


def _is_soon(gauge: Gauge) -> bool:
    return gauge.alarms >= (1 if _is_at_once(gauge) else DISK_REPORTS)


def trickle(world: World, node: Node, gauge: Gauge, rules: GuardRules) -> Trip | None:
    """Whether a small disk loses a good part of its room within half an hour, by what this node writes in its volumes.

    Nothing else tells a trickle that never ends from ordinary work: so it takes a quarter of the room (a tenth of
    the disk at least, half of the room at most), lost in three minutes or more, and beyond what is usual for the node.
    """
    state, now, past = gauge.state, world.now.mono, gauge.past
    if (
        not state.volumes
        or not rules.disk_full_in_s
        or not 0 < state.total_bytes < SMALL_DISK_BYTES
        or not past
    ):
        return None
    start = max(past, key=lambda one: (one.free, one.at))
    later = [one.free for one in past if one.at > start.at]
    steps = sum(after < before for before, after in pairwise((start.free, *later, state.free_bytes)))
    lost = start.free - state.free_bytes - (gauge.brought_last - start.brought)
    inside = filling.written(world, node, state) - start.written
    much = min(max(start.free / 4, SLOW_TIMES * rules.disk_min_share * state.total_bytes), start.free / 2)
    took_s = max(MINUTE_S, now - start.at)
    if (
        steps < TRICKLE_STEPS
        or not later
        or state.free_bytes >= later[-1]
        or 2 * inside < lost
        or lost < much
    ):
        return None
    before = (world.now.wall_ms / 1000 - took_s) // USUAL_BUCKET_S
    usual = sum(_usual(world, node, name, rules, before) for name in state.volumes) * took_s / USUAL_BUCKET_S
    if lost <= rules.rate_factor * usual:
        return None
    reason = (
        f"{node.name}'s disk {state.path} ({_holds(gauge)}) lost {human_bytes(lost)} in {human_duration(took_s)}, "
        f"{lost / start.free:.0%} of its free room, and goes on: at this pace it will be full in "
        f"{human_duration(state.free_bytes * took_s / lost)}; the usual of {node.name} is {human_bytes(int(usual))}"
    )
    return Trip("disk_full", reason, 0, lost, start.at, state.path, state.free_bytes, state.volumes)


def _usual(world: World, node: Node, name: str, rules: GuardRules, before: float) -> int:
    """Bytes in five minutes of work before this one began; nothing while it is being learned."""
    usual = world.usuals.get(f"{node.name}/{name}")
    if usual is None or world.now.wall_ms - usual.began_ms < rules.warm_up_s * 1000:
        return 0
    return middle([size for number, _, size in usual.buckets if number < before])


def _holds(gauge: Gauge) -> str:
    return f"volume {', '.join(gauge.state.volumes)}" if gauge.state.volumes else "the agent's own state"


def _elsewhere(world: World, node: Node, gauge: Gauge, rules: GuardRules) -> str:
    """What is said where most of it was not written in the volumes of that disk, as far as that can be told."""
    volumes, inside = gauge.state.volumes, blame.inside(world, node, gauge, rules)
    if not volumes or inside is None or 2 * inside >= gauge.foreign:
        return ""
    named = f"volume{'' if len(volumes) == 1 else 's'} {', '.join(volumes)}"
    return f"; most of it was written outside {named} ({human_bytes(inside)} within)"
