"""Guards: what no sane writer does is held before the truth moves. See `GuardRules` for the numbers.

The door of the brake. A writer's own changes come here before they may become the truth (`may_merge`), and
so does what agents say of the moment (`active`). `meters` count, `tripping` judges, `holds` acts, `holding`
follows time. A change waits for one of two reasons: a guard has tripped, and a person decides; or it is part
of something that may become a runaway, and is *observed* until that is known: new files and bytes (`_is_clear`), room
on a small disk (`runs`), deletions (`losses`), and files that get another content or become something else (`sprees`).

Invariant: nothing of a held node becomes the truth, whatever is asked and however often.

An empty root is the agent's `not_mounted`; a root that was emptied while mounted, by `rm -r`, comes here as
deletions of everything, and is held by the guard deleted_share.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial

from closeranks_proto import messages as wire
from closeranks_proto.content import filled_bytes, hole_digest
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size, same_content
from closeranks_proto.errors import MissingObject

from . import blame, currency, filling, holding, holds, losses, sprees, tripping, whose
from .diffs import row
from .meters import QUIET_S, Change, Gauge, Meter
from .model import AllowAsked, Refusal, RejectAsked
from .nodes import Node, Volume
from .rules import GuardRules
from .shapes import ActionView
from .truth import Values
from .windows import Usual
from .words import human_duration, join
from .world import World
from .writers import record_of

PEERS_WAIT_S = 3.0
EXCUSED_S = 3.0  # a report tells of what was written until now
GLANCE_S = 0.5  # in which a flood has become a burst
OBSERVE_TIMES = 3  # an observation is prolonged to so many times its length while a limit is near


def is_held(world: World, node: Node) -> bool:
    """Whether this node's changes are held: no source, no vote, nothing is merged or pushed."""
    return world.is_held(node)


# --- a writer's changes ---------------------------------------------------------------------------


def may_merge(
    world: World, volume: Volume, node: Node, own: Mapping[bytes, Values]
) -> Generator[None, None, bool]:
    """Whether a writer's own changes (key to (its entry, the truth's)) may become the truth now.

    False while they are held or observed; the core asks again at every step and at what `world.wake` set.
    """
    rules = volume.config.guards
    if not own:
        return not world.is_held(node, volume)
    if not rules.enabled:
        return not world.is_held(node, volume)
    meter = _meter(world, volume, node)
    yield from _count(world, volume, node, meter, own)
    if world.is_held(node, volume):
        return False
    trip, waits = _unusual_share(world, volume, node, meter)
    if trip is None and not _is_allowed(world, node, volume, "write_rate"):
        trip = tripping.rate(world, volume, node, meter)
    if trip is not None:
        _hold(world, node, volume, meter, trip)
        return False
    if waits:
        return False
    # Who is allowed what one guard finds is watched for all others: they stay on, and must see it before it spreads.
    watched = (
        ("deleted_share", losses.are_over), (None, _has_changed_enough),
        ("disk_full", _is_paid), ("write_rate", _is_clear),
    )  # fmt: skip
    for guard, is_known in watched:
        is_allowed = guard is not None and _is_allowed(world, node, volume, guard)
        if not is_allowed and not is_known(world, volume, node, meter):
            return False
    meter.let_through(own, world.now.mono)
    return True


def _unusual_share(
    world: World, volume: Volume, node: Node, meter: Meter
) -> tuple[tripping.Trip | None, bool]:
    """The first unusual share that nobody has allowed, and whether one waits for a proof that what went is gone."""
    trips = {one.guard: one for one in tripping.shares(node, meter, volume.config.guards, world.now.mono)}
    waits = False
    if "deleted_share" not in trips:
        meter.over_loss = None
    elif not _is_allowed(world, node, volume, "deleted_share"):
        waits = not losses.are_proven(world, volume, node, meter)
        if waits:
            del trips["deleted_share"]
    return next(
        (one for one in trips.values() if not _is_allowed(world, node, volume, one.guard)), None
    ), waits


def _meter(world: World, volume: Volume, node: Node) -> Meter:
    name = (node.name, volume.name)
    meter, rules = world.brake.meters.get(name), volume.config.guards
    if meter is None:
        key = f"{node.name}/{volume.name}"
        usual = world.usuals.get(key)
        if usual is None:
            usual = world.usuals[key] = Usual(world.now.wall_ms)
            world.touch("usual", key)
        meter = world.brake.meters[name] = Meter.new(usual, rules)
    meter.fit(rules)
    return meter


def _count(
    world: World, volume: Volume, node: Node, meter: Meter, own: Mapping[bytes, Values]
) -> Iterator[None]:
    """Count what is news. Asked again about the same analysis, there is none."""
    analysis, now = node.view(volume.name).analysis, world.now.mono
    if now - meter.changed_at > volume.config.guards.rate_window_s:
        meter.cleared, meter.cleared_losses = (0.0, 0.0), 0.0
    if analysis is not None and meter.basis is not None and meter.basis == (id(analysis), len(own)):
        return
    world.brake.unsettled[node.name, volume.name] = None
    changes = node.view(volume.name).changes
    news = None if changes is None or meter.basis is None else changes.moved
    meter.basis, meter.analysis = None if analysis is None else (id(analysis), len(own)), analysis
    width, chunk_bytes = world.algorithm.width, volume.config.chunk_bytes

    def written(key: bytes, before: bytes | None, after: bytes | None) -> int:
        """What of this file is new: of a large one the chunks that differ, and no holes."""
        size = 0 if after is None else entry_size(after)
        if after is None or not size:
            return size
        if before is not None and same_content(after, before, width):
            return 0
        if size <= chunk_bytes:
            return size
        try:
            hole = hole_digest(world.algorithm, chunk_bytes)
            size = filled_bytes(world.object(after[DIGEST_AT : DIGEST_AT + width]), hole)
            if before is None or entry_kind(before) is not Kind.FILE:
                return size
            return min(size, row(key, after, before, world.object, width, chunk_bytes).bytes)
        except MissingObject:
            return size  # its former chunk list is gone: it may be all new

    entries = 0 if volume.truth is None else world.tree.summary(volume.truth).entries
    yield from meter.counting(own, entries, now, written, news)
    if changes is not None:
        changes.counted()


def _has_changed_enough(world: World, volume: Volume, node: Node, meter: Meter) -> bool:
    """Whether no more files get another content, or become something else, than may be spread: see `sprees`."""
    rules, now = volume.config.guards, world.now.mono
    least = max(rules.share_min_paths, rules.changed_share * meter.shares.others(now))
    found: list[float] = []
    for guard, changing, most in (
        ("changed_share", meter.altering, least),
        ("type_changes", meter.retyping, rules.type_changes),
    ):
        if not changing.waiting or _is_allowed(world, node, volume, guard):
            continue
        if now - changing.since < losses.STORM_MAX_S and losses.is_storm(node, volume):
            found.append(now + QUIET_S)
            continue
        few, at = changing.waiting <= sprees.HANDFUL, changing.at
        due = changing.spree.due(
            now, changing.count, most / rules.share_window_s, at, rules.observe_s, rules.share_window_s,
            partial(_rests, world, volume, node, few, at),
        )  # fmt: skip
        if due is not None:
            found.append(due)
    if found:
        world.wake(max(found))
    return not found


def _rests(world: World, volume: Volume, node: Node, few: bool, at: float) -> bool:
    """Whether a silence since then is the writer's, and not that of a node that tells late."""
    return few or _is_told(world, volume, node, at)


def _is_paid(world: World, volume: Volume, node: Node, meter: Meter) -> bool:
    """Whether what is pending leaves its disk enough room, or has paid for it: see `runs`."""
    now, calm_bytes_s = world.now.mono, filling.calm_bytes_s(world, volume, node)
    if calm_bytes_s is None:
        world.wake(node.connected_at + filling.REPORT_S)
        return False
    rules = volume.config.guards
    due = meter.run.due(
        now,
        meter.grown + meter.growing,
        calm_bytes_s,
        meter.changed_at,
        rules.observe_s,
        rules.disk_full_in_s,
    )
    if due is not None:
        world.wake(due)
    return due is None


def _is_clear(world: World, volume: Volume, node: Node, meter: Meter) -> bool:
    """Whether what is pending is no burst, or one that was observed for long enough."""
    rules, now = volume.config.guards, world.now.mono
    files_s, bytes_s = meter.pace(now)
    files, size = max(files_s, len(meter.pending)), max(bytes_s, meter.waiting_bytes)
    usual_files, usual_bytes = meter.usual.pace()
    if files <= max(rules.observe_files_s, 2 * meter.cleared[0], usual_files) and size <= max(
        rules.observe_bytes_s, 2 * meter.cleared[1], usual_bytes
    ):
        meter.observing = None
        return _has_begun(world, volume, node, meter)
    meter.glancing = None
    if meter.observing is None:
        totals = meter.totals()
        meter.observing = now
        meter.observed = (totals[0] - len(meter.pending), totals[1] - meter.waiting_bytes)
    passed = now - meter.observing
    if passed < losses.STORM_MAX_S and losses.is_storm(node, volume):
        world.wake(now + QUIET_S)
        return False
    quiet = now - meter.changed_at >= QUIET_S and _is_told(world, volume, node, meter.changed_at)
    if quiet or (passed >= rules.observe_s and not _is_near(world, volume, node, meter, passed)):
        files_now, bytes_now = meter.totals()
        seconds = max(1.0, passed)
        meter.cleared = ((files_now - meter.observed[0]) / seconds, (bytes_now - meter.observed[1]) / seconds)
        meter.observing, meter.ordinary = None, not quiet
        return True
    due = [meter.changed_at + QUIET_S, meter.observing + rules.observe_s]
    world.wake(min((at for at in due if at > now), default=now + QUIET_S))
    return False


def _has_begun(world: World, volume: Volume, node: Node, meter: Meter) -> bool:
    """Whether this is all of it, or no beginning of a burst: what is more than a handful is glanced at for a moment.

    So is what is nothing but new directories: whoever makes one is about to write there.
    """
    rules, now, changes = volume.config.guards, world.now.mono, meter.pending
    few = len(changes) <= sprees.HANDFUL and not all(map(_is_new_directory, changes.values()))
    if few or meter.ordinary:
        meter.glancing = None
        return True
    if meter.glancing is None:
        meter.glancing = now
    if losses.is_storm(node, volume) and now < meter.glancing + losses.STORM_MAX_S:
        world.wake(now + QUIET_S)
        return False
    ends = meter.glancing + min(GLANCE_S, rules.observe_s)
    rested = meter.changed_at + sprees.HANDFUL_REST_S
    goes_on = now >= ends and _is_told(world, volume, node, ends - sprees.HANDFUL_REST_S)
    if goes_on or (now >= rested and _is_told(world, volume, node, meter.changed_at)):
        meter.ordinary, meter.glancing = goes_on, None  # until nothing comes for a while
        return True
    world.wake(
        min(at for at in (rested, ends, meter.changed_at + rules.observe_s, now + QUIET_S) if at > now)
    )
    return False


def _is_told(world: World, volume: Volume, node: Node, by: float) -> bool:
    """Whether a node has said that all which had happened by then has come: it is asked, and waited for `observe_s`.

    That nothing follows for a while says nothing of a node whose processors are busy: of a flood it had told the first
    forty files, and then nothing for a third of a second. Where no watcher answers, silence has to do.
    """
    if not currency.is_watched(node, volume) or currency.is_current(node, volume, by):
        return True
    if world.now.mono >= by + volume.config.guards.observe_s:
        return True
    currency.ask(world, volume, node)
    return False


def _is_new_directory(change: Change) -> bool:
    value, truth = change[:2]
    return truth is None and value is not None and entry_kind(value) is Kind.DIRECTORY


def _is_near(world: World, volume: Volume, node: Node, meter: Meter, passed_s: float) -> bool:
    """Whether this burst would pass a limit soon: it is observed a little longer, until it does or ends."""
    rules, now = volume.config.guards, world.now.mono
    if passed_s >= OBSERVE_TIMES * rules.observe_s or _is_allowed(world, node, volume, "write_rate"):
        return False
    (files, size), (files_s, bytes_s) = meter.written(now), meter.pace(now)
    coming = files + rules.observe_s * files_s, size + rules.observe_s * bytes_s
    if coming[0] <= rules.rate_min_files and coming[1] <= rules.rate_min_bytes:
        return False
    found = tripping.limits(world, volume, node, meter)
    return coming[0] > found.files or coming[1] > found.bytes


def _is_allowed(world: World, node: Node, volume: Volume | None, guard: str) -> bool:
    """Whether a person allowed what this guard has found here."""
    name = None if volume is None else volume.name
    return any(
        hold.state == "allowed" and hold.node == node.name and hold.volume == name and hold.guard == guard
        for hold in world.live_holds
    )


def _hold(world: World, node: Node, volume: Volume, meter: Meter, trip: tripping.Trip) -> None:
    """Hold it, and remember from where its figures go on."""
    gauges = world.brake.disks(node.name)
    full_in = [
        one.state.full_in_s for one in gauges.values() if one.alarms and one.state.full_in_s is not None
    ]
    reason = trip.reason + (f"; disk full in {human_duration(min(full_in))}" if full_in else "")
    hold = holds.begin(
        world, node, volume, replace(trip, reason=reason),
        volume.config.guards, whose.hands_behind(world, node, volume, trip.guard, meter),
    )  # fmt: skip
    world.brake.burst[hold.id] = (meter.totals(), (trip.paths, trip.bytes), trip.began)
    if volume.config.replicated:
        holds.show_paths(world, volume, hold, meter)


# --- what agents say of the moment ----------------------------------------------------------------


def active(world: World, node: Node, activity: wire.Activity) -> None:
    """What a node says it is writing, and how full its disks are."""
    now = world.now
    if activity.hands:
        world.brake.hands[node.name] = [
            record_of(hand, now.wall_ms) for hand in activity.hands[: whose.WRITERS_MAX]
        ]
        world.brake.reported[node.name] = {
            one.name: (one.files, one.bytes) for one in activity.volumes if one.files or one.bytes
        }
    whose.add_hands(world, node, activity)
    for one in activity.volumes:
        volume = world.volumes.get(one.name)
        if volume is None or node.name not in volume.config.nodes or not volume.config.guards.enabled:
            continue
        meter = _meter(world, volume, node)
        if not _is_excused(world, volume, node):
            meter.see(one, activity.window_ms, now.mono)
    for state in activity.disks:
        filling.gauge(world, node, state)
    _check(world, node)


def _is_excused(world: World, volume: Volume, node: Node) -> bool:
    """Whether what is being written may be what brings the node to the truth.

    fanotify leaves our own writes out; where the site itself replicates, a node that is behind is catching up.
    """
    if _is_joining(world, node):
        return True
    status, meter = node.volume(volume.name).status, _meter(world, volume, node)
    if volume.config.replicated and status is not None and status.watch == "fanotify":
        return False
    if node.record.recovery is not None or node.view(volume.name).behind:
        meter.excused_at = world.now.mono
    return world.now.mono < meter.excused_at + EXCUSED_S


def _is_joining(world: World, node: Node) -> bool:
    """Whether it has yet to reach the truth of a volume: what it gets is what the others have."""
    return any(node.volume(volume.name).held is None for volume in world.volumes_of(node))


def pushed(world: World, node: Node, result: wire.PushResult) -> None:
    """What a node was sent is none of its own writing; the room that it takes is the agent's to say (`taken_bytes`)."""
    volume = world.volumes.get(result.volume)
    if volume is not None and volume.config.guards.enabled and node.name in volume.config.nodes:
        meter = _meter(world, volume, node)
        meter.excused_at = world.now.mono


def _check(world: World, node: Node) -> None:
    """Judge a node by what it writes and by its disks."""
    if node.fenced or _is_joining(world, node):
        return
    for volume in world.volumes_of(node):
        meter = world.brake.meters.get((node.name, volume.name))
        if (
            meter is None
            or world.is_held(node, volume)
            or not volume.config.guards.enabled
            or _is_allowed(world, node, volume, "write_rate")
        ):
            continue
        trip = tripping.rate(world, volume, node, meter)
        if trip is None:
            meter.over_since = None
        elif volume.config.replicated or _has_lasted(meter, world.now.mono):
            _hold(world, node, volume, meter, trip)
            return
    _check_disks(world, node)


def _has_lasted(meter: Meter, now: float) -> bool:
    """Where the site itself replicates, peers report of the same writes a moment later: there is time for them."""
    if meter.over_since is None:
        meter.over_since = now
    return now >= meter.over_since + PEERS_WAIT_S


def _check_disks(world: World, node: Node) -> None:
    if any(name == node.name and not volume for name, volume in world.held):
        return
    for gauge in world.brake.disks(node.name).values():
        on_it = [one for one in world.volumes_of(node) if one.name in gauge.state.volumes]
        if on_it and all(world.is_held(node, one) for one in on_it):
            continue
        rules = filling.rules_of(world, node, gauge.state)
        volume = next(iter(on_it), None)
        if not rules.enabled:
            continue
        trip = tripping.disk(world, node, gauge, rules) or tripping.trickle(world, node, gauge, rules)
        if trip is None:
            _tell_filling(world, node, gauge, rules)
        if trip is not None and not _is_allowed(world, node, volume, "disk_full"):
            # Whoever fills the disk may write beside the volumes on it.
            hands = blame.hands(world, node, gauge, whose.WRITERS_MAX)
            by = blame.by_words(world, node, gauge, rules, hands) + _alike_words(world, node, gauge)
            holds.begin(world, node, volume, trip, rules, hands, by)
            return


def _alike_words(world: World, node: Node, gauge: Gauge) -> str:
    """That other nodes have seen the same, where it may be one disk: each has to be held, but it is one fact."""
    found = filling.alike(world, node, gauge)
    if not found:
        return ""
    tell = "tells" if len(found) == 1 else "tell"
    return f"; {join(found)} at the same address {tell} of a disk as large and as full, which may be this one"


def _tell_filling(world: World, node: Node, gauge: Gauge, rules: GuardRules) -> None:
    """Say once that a disk fills by what closeranks brings: a hold would keep out also what makes room there."""
    text = tripping.by_us(node, gauge, rules)
    if text and not gauge.told:
        gauge.told = True
        world.log("warning", text)


# --- time, people and nodes -----------------------------------------------------------------------------


def watch(world: World) -> None:
    """Learn what is usual, and end holds whose time has come; after every event."""
    holding.watch(world)


def connected(world: World, node: Node) -> None:
    """A node has dialled: it is told of its holds, and its usual begins to be learned."""
    holds.connected(world, node)
    for volume in world.volumes_of(node):
        if volume.config.guards.enabled and node.name in volume.config.writers:
            _meter(world, volume, node)


def answered(world: World, node: Node, answer: wire.HoldAnswer) -> None:
    """What a node did about a Hold."""
    holds.answered(world, node, answer)


def allow(world: World, event: AllowAsked) -> ActionView | Refusal:
    return holds.allow(world, event)


def reject(world: World, event: RejectAsked) -> ActionView | Refusal:
    return holds.reject(world, event)
