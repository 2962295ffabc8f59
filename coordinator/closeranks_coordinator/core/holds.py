"""What a tripped guard does, and how that ends: the life of a hold.

    held -> allowed (a person wants it; until it expires the same guard lets through what goes on) -> over
    held -> rejected (fenced, converged to the truth, verified, released) -> over in all but name
    held -> over (its cause is gone, or a fence has taken its place)

A hold is told in an incident of kind `runaway`, and to the node, which pauses or freezes only where its own
configuration permits that. It survives restarts of the coordinator and is told again to a node that dials.
Expiries go by the coordinator's wall clock, since they outlive its process.
"""

from __future__ import annotations

import heapq
from typing import Literal

from closeranks_proto import messages as wire
from closeranks_proto.lines import timestamp

from . import advice, blame, incidents, kept, recovery
from .diffs import row
from .fencing import drop_recovery, fence, is_doubted, quorum_survives, room_for_fence
from .incidents import Incident
from .meters import Meter
from .model import AllowAsked, Refusal, RejectAsked
from .nodes import Node, Volume
from .records import HoldRecord
from .rules import GuardRules
from .shapes import ActionView, HoldView
from .sizes import differing_bytes
from .tripping import Trip, past
from .views import action_of
from .words import human_duration, join, line
from .world import World
from .writers import HandRecord, told

HOLDS_MAX = 1000
REACTIONS_MAX = 20
PATHS_MAX = 200  # of what is pending, in the incident
FEW_PATHS = 10_000  # so many are looked through again every few seconds
RESENT_MAX = 10  # ended holds of which a node that dials is told again
ALLOW_MAX_S = 30 * 86400.0


# --- beginning ------------------------------------------------------------------------------------


def begin(
    world: World, node: Node, volume: Volume | None, trip: Trip, rules: GuardRules, hands: list[HandRecord],
    by: str | None = None,
) -> HoldRecord:  # fmt: skip
    """Hold this node's changes: durable, told to people and to the node. `hands`: whose they are, as `by` words it."""
    now = world.now
    volumes = [one for one in world.volumes_of(node) if one.name in trip.volumes or one is volume]
    volumes = [] if volume is None else volumes
    reason = line(trip.reason + (blame.words(hands) if by is None else by))
    hold = HoldRecord(
        world.next_hold(), trip.guard, node.name, None if volume is None else volume.name, now.wall_ms,
        reason, paths=trip.paths, bytes=trip.bytes, writers=hands,
        keeps_vote=not _quorum_survives(world, node, volumes or world.volumes_of(node)), disk=trip.disk,
        free_bytes=trip.free_bytes, volumes=[one.name for one in volumes], of_paths=trip.of,
    )  # fmt: skip
    world.holds[hold.id] = hold
    incident = world.open_incident("runaway", node.name, hold.volume)
    if incident is None:
        incident = incidents.runaway(
            id=world.next_incident(), node=node.name, volume=hold.volume, now_ms=now.wall_ms, hold=hold.id,
            guard=hold.guard, reason=hold.reason, spreads=_spreads(world, node, hold), volumes=hold.names,
            merged=_merged(world, node, volumes or world.volumes_of(node)), allow_s=rules.allow_s,
        )  # fmt: skip
        world.open(incident)
    else:
        incident.note(now.wall_ms, "held", f"{hold.reason} ({hold.id}, guard {hold.guard}).")
    incident.writers = [told(hand) for hand in hands] or incident.writers
    hold.incident = incident.id
    if hold.keeps_vote:
        text = f"{node.name} keeps its vote: without it a quorum would be lost."
        incident.note(now.wall_ms, "note", text)
    world.touch_incident(incident)
    world.touch_hold(hold)
    world.touch_node(node)
    world.count("closeranks_guard_holds_total", 1, guard=hold.guard)
    world.log("error", f"{hold.reason}: held by guard {hold.guard} ({hold.id}, {incident.id})")
    tell(world, node, hold, rules)
    _prune(world)
    return hold


def _spreads(world: World, node: Node, hold: HoldRecord) -> bool:
    """Whether closeranks itself would carry any of what is held."""
    return any(one.config.replicated for one in kept.volumes(world, node, hold))


def _merged(world: World, node: Node, volumes: list[Volume]) -> int:
    """Changes of this node that were let through within the window of the shares."""
    meters = (world.brake.meters.get((node.name, volume.name)) for volume in volumes)
    return sum(meter.merged.sums(world.now.mono)[0] for meter in meters if meter is not None)


def _quorum_survives(world: World, node: Node, volumes: list[Volume]) -> bool:
    """Whether each of these that goes by a quorum keeps a majority of voters when this node has no vote."""
    for volume in volumes:
        if volume.config.policy != "quorum":
            continue
        voters = [
            one
            for one in world.members(volume)
            if one is not node and not one.fenced and not world.is_muted(one, volume)
        ]
        if len(voters) < volume.need:
            return False
    return True


def tell(world: World, node: Node, hold: HoldRecord, rules: GuardRules) -> None:
    """Tell the node of its hold."""
    message = wire.Hold(hold.id, hold.volume or "", hold.guard, hold.reason, rules.pause_writer, rules.freeze)
    world.send(node, message)


def _prune(world: World) -> None:
    for key in list(world.holds)[: max(0, len(world.holds) - HOLDS_MAX)]:
        if world.holds[key].ended_ms is not None:
            del world.holds[key]
            world.touch("hold", key)


# --- while it lasts -------------------------------------------------------------------------------


def keep_waiting(world: World, hold: HoldRecord) -> None:
    """Remember what is kept back, for when it is not any more. What has gone by itself stays told as it was."""
    paths, size = kept.waiting(world, hold)
    if not paths or (paths, size) == (hold.waiting_paths, hold.waiting_bytes):
        return
    hold.waiting_paths, hold.waiting_bytes = paths, size
    world.touch_hold(hold)
    incident = world.incidents.get(hold.incident or "")
    if incident is not None:
        of_it = [one.waiting_paths for one in world.holds.values() if one.incident == incident.id]
        incident.path_count = max(of_it)
        world.touch_incident(incident)


def show_paths(world: World, volume: Volume, hold: HoldRecord, meter: Meter) -> None:
    """The first of the pending paths into its incident, anew where others are pending; of a flood only once."""
    incident = world.incidents.get(hold.incident or "")
    if incident is None or not meter.pending or (incident.paths and len(meter.pending) > FEW_PATHS):
        return
    keys = heapq.nsmallest(PATHS_MAX, meter.pending)
    if list(incident.paths) == keys:
        return
    width, chunk_bytes = world.algorithm.width, volume.config.chunk_bytes
    rows = [row(key, *meter.pending[key][:2], world.object, width, chunk_bytes) for key in keys]
    incident.paths, shown = {}, incident.path_count
    incident.observe_paths(rows, len(rows), meter.waiting_bytes)
    incident.path_count = max(shown, hold.waiting_paths)
    world.touch_incident(incident)


def answered(world: World, node: Node, answer: wire.HoldAnswer) -> None:
    """What a node did about a hold or its end."""
    hold = world.holds.get(answer.hold)
    if hold is None or hold.node != node.name:
        if answer.detail:  # something stands there for a hold that is forgotten here: it is over
            world.send(node, wire.Unhold(answer.hold))
        return
    hold.unheld = hold.state != "held"
    detail = line(answer.detail)
    if detail and (not hold.reactions or hold.reactions[-1] != detail):
        hold.reactions = [*hold.reactions, detail][-REACTIONS_MAX:]
        _note(world, hold, "note", f"{node.name}: {detail}.")
    world.touch_hold(hold)


def connected(world: World, node: Node) -> None:
    """A node that dials is told of its hold, and of those that have ended meanwhile."""
    mine = [hold for hold in world.holds.values() if hold.node == node.name]
    for hold in [one for one in mine if one.state != "held" and not one.unheld][-RESENT_MAX:]:
        world.send(node, wire.Unhold(hold.id))
    for hold in mine:
        if hold.state == "held":
            tell(world, node, hold, rules_of(world, hold))


def rules_of(world: World, hold: HoldRecord) -> GuardRules:
    """The rules that a hold goes by: its volume's, else those of the first volume of its node."""
    volume = world.volumes.get(hold.volume or "")
    node = world.nodes.get(hold.node)
    if volume is None and node is not None:
        volume = next(iter(world.volumes_of(node)), None)
    return GuardRules() if volume is None else volume.config.guards


# --- ending ---------------------------------------------------------------------------------------


def end(world: World, hold: HoldRecord, text: str) -> None:
    """It is over; `text` says why."""
    was = hold.state
    keep_waiting(world, hold)
    hold.ended_ms = world.now.wall_ms
    if was == "held":
        _unhold(world, hold)
    if was != "rejected":
        hold.state = "over"
    hold.reason = past(hold.reason)
    _close(world, hold, "released" if was == "rejected" else "note", text)
    world.touch_hold(hold)
    world.log("info", f"{hold.id} of {hold.node} is over: {text}")


def _unhold(world: World, hold: HoldRecord) -> None:
    node = world.nodes.get(hold.node)
    hold.unheld = False
    if node is not None:
        world.send(node, wire.Unhold(hold.id))


def _note(world: World, hold: HoldRecord, event: incidents.EventName, text: str) -> Incident | None:
    incident = world.incidents.get(hold.incident or "")
    if incident is not None and incident.is_open:
        incident.note(world.now.wall_ms, event, text)
        world.touch_incident(incident)
    return incident


def _close(world: World, hold: HoldRecord, event: incidents.EventName, text: str) -> None:
    incident = _note(world, hold, event, text)
    others = [one for one in world.live_holds if one is not hold and one.incident == hold.incident]
    if any(one.state == "held" for one in others):
        return  # it tells of them, too
    if incident is not None and incident.is_open:
        incident.summary = past(incident.summary)
        world.close(incident)


def allow(world: World, asked: AllowAsked) -> ActionView | Refusal:
    """What is held goes through, and what goes on with it until the expiry; this guard alone looks away."""
    hold = world.holds.get(asked.hold)
    node = None if hold is None else world.nodes.get(hold.node)
    if hold is None or node is None:
        return _unknown(asked.hold)
    if hold.state not in ("held", "allowed") or hold.ended_ms is not None:
        return _not_held(hold)
    seconds = rules_of(world, hold).allow_s if asked.seconds is None else asked.seconds
    if not 1 <= seconds <= ALLOW_MAX_S:
        text = f"An allowance lasts 1 to {ALLOW_MAX_S:.0f} seconds, not {seconds:g}."
        return Refusal(400, "bad_seconds", text)
    if hold.state == "held":
        keep_waiting(world, hold)
        _unhold(world, hold)
    hold.state = "allowed"
    hold.expires_ms = world.now.wall_ms + int(seconds * 1000)
    world.brake.allowed[hold.id] = world.now.mono + seconds
    text = (
        f"An operator allowed it. Until {timestamp(hold.expires_ms)} ({human_duration(seconds)}) the guard "
        f"{hold.guard} does not hold {node.name}{_on(hold)} again, whatever it does; every other guard stays on."
    )
    _close(world, hold, "note", text)
    world.touch_hold(hold)
    world.touch_node(node)
    world.log("warning", f"{hold.id}: {text}")
    return action_of(world.new_action("allow", node, hold.volume, "done"))


def reject(world: World, asked: RejectAsked) -> ActionView | Refusal:
    """Let go of what was paused or frozen, then fence the writer and bring it back to the truth."""
    hold = world.holds.get(asked.hold)
    node = None if hold is None else world.nodes.get(hold.node)
    if hold is None or node is None:
        return _unknown(asked.hold)
    if hold.state != "held":
        return _not_held(hold)
    volumes = kept.volumes(world, node, hold)
    untrue = [volume.name for volume in volumes if volume.truth is None]
    if untrue:
        return Refusal(
            409, "no_truth",
            f"{untrue[0]} has no truth yet, so there is nothing to converge to (`closeranks status` says why). Put "
            f"back what {node.name} changed by hand, or `closeranks allow {hold.id}`.",
        )  # fmt: skip
    if not quorum_survives(world, node):
        return Refusal(
            409, "quorum_would_be_lost",
            f"Without {node.name} a majority could not be reached any more, or nobody would be left to give the "
            f"truth to the others. {room_for_fence(world, node)}",
        )  # fmt: skip
    keep_waiting(world, hold)
    _unhold(world, hold)
    hold.state = "rejected"
    incident = _note(world, hold, "note", "An operator rejected it.")
    drop_recovery(world, node, "its changes were rejected")
    release: Literal["automatic", "by_hand"] = "by_hand" if is_doubted(world, node) else "automatic"
    fence(world, node, f"rejected: {hold.reason}", incident, by_hand=False, release=release)
    world.touch_hold(hold)
    action = recovery.begin(world, node, "divergence", [volume.name for volume in world.concerned(node)])
    action.kind = "reject"
    return action_of(action)


def _unknown(hold: str) -> Refusal:
    return Refusal(404, "unknown_hold", f"There is no hold {hold!r}: `closeranks held` lists those that are.")


def _not_held(hold: HoldRecord) -> Refusal:
    match hold.state:
        case "rejected":
            then = f"`closeranks nodes {hold.node}` says how far it is."
        case "allowed":
            then = (
                f"It can be rejected no more: `closeranks diff VOLUME {hold.node}` shows what still differs."
            )
        case _:
            then = f"`closeranks incident {hold.incident or 'ID'}` tells what became of it."
    return Refusal(409, "not_held", f"{hold.id} holds nothing any more: it is {hold.state}. {then}")


# --- shown ----------------------------------------------------------------------------------------


def _on(hold: HoldRecord) -> str:
    """` on volumes docs and photos`; nothing where the whole node is held."""
    if not hold.names:
        return ""
    return f" on volume{'' if len(hold.names) == 1 else 's'} {join(hold.names)}"


def advise(world: World, node: Node, held: list[HoldRecord], incident: Incident) -> str:
    """What to do about those that wait for a person, which one incident tells of."""
    names = list(dict.fromkeys(name for hold in held for name in hold.names))
    if all(kept.wants_room(world, hold) for hold in held):
        return advice.make_room(node.name, [hold.disk for hold in held], any(map(kept.is_of_state, held)))
    return advice.runaway(
        node=node.name, holds=[(hold.id, hold.guard) for hold in held],
        volumes=[] if any(not hold.names for hold in held) else names,
        spreads=any(_spreads(world, node, hold) for hold in held), merged=_merged_before(incident),
        allow_s=rules_of(world, held[0]).allow_s, first=_first(world, node, held),
    )  # fmt: skip


def _merged_before(incident: Incident | None) -> int:
    found = None if incident is None else incident.evidence.get("merged_before")
    return found if isinstance(found, int) else 0


def _got_through(world: World, hold: HoldRecord) -> int:
    """How many changes of its node had been let through when it was held: what a reject does not undo."""
    node = world.nodes.get(hold.node)
    if node is None or not _spreads(world, node, hold):
        return 0
    return _merged_before(world.incidents.get(hold.incident or ""))


def still_there(world: World, hold: HoldRecord) -> str:
    """What to know once it was rejected: the rest of the runaway may be the truth. Begins with a space, or is empty."""
    count = _got_through(world, hold)
    return f" {advice.got_through(hold.node, count)}" if count else ""


def view(world: World, hold: HoldRecord) -> HoldView:
    paths, size = kept.waiting(world, hold)
    return HoldView(
        hold.id, hold.guard, hold.node, hold.volume, hold.state, timestamp(hold.since_ms),
        None if hold.expires_ms is None else timestamp(hold.expires_ms), hold.reason, _advice(world, hold), hold.paths,
        hold.bytes, hold.incident, tuple(hand.view() for hand in hold.writers), tuple(hold.reactions), hold.names,
        paths, size, hold.state == "held" and hold.id in world.brake.calm,
        hold.state == "held" and kept.wants_room(world, hold), _got_through(world, hold),
    )  # fmt: skip


def _first(world: World, node: Node | None, held: list[HoldRecord]) -> str:
    """What a reject of these needs first: whether what it sets aside has room in the trash, as far as that is known."""
    adding = [hold for hold in held if hold.guard != "deleted_share"]
    if node is None or not adding:
        return ""
    for volume in {one.name: one for hold in adding for one in kept.volumes(world, node, hold)}.values():
        status = node.volume(volume.name).status
        most = volume.config.trash_max_bytes
        if most is None and status is not None:
            most = status.disk_total_bytes // 10
        size = differing_bytes(world, volume, node.view(volume.name)) or 0
        if most and size > most:
            return advice.trash_too_small(node.name, volume.name, size, most)
    return advice.trash_first(node.name) if any(one.guard == "disk_full" for one in adding) else ""


def _advice(world: World, hold: HoldRecord) -> str:
    match hold.state:
        case "held" if hold.id in world.brake.calm:
            return (
                "Its cause is gone: what was unusual was undone, or the disk has room again. You need not do anything: "
                "it ends by itself in half a minute, unless it begins again."
            )
        case "held" if kept.wants_room(world, hold):
            return advice.make_room(hold.node, [hold.disk], kept.is_of_state(hold))
        case "held":
            return (
                f"If this is wanted: `closeranks allow {hold.id}` lets it through, and for guards.allow_s (or `--for "
                f"SECONDS`) the guard {hold.guard} does not hold {hold.node} again. If not: stop the writer on "
                f"{hold.node}, then `closeranks reject {hold.id}` brings {hold.node} back to the truth{_on(hold)}. "
                + _first(world, world.nodes.get(hold.node), [hold])
            ).rstrip()
        case "allowed":
            until = "" if hold.expires_ms is None else f" until {timestamp(hold.expires_ms)}"
            return f"It was allowed:{until} this guard does not hold {hold.node}{_on(hold)} again; then it is armed."
        case "rejected" if hold.ended_ms is not None:
            return (
                f"{hold.node} was brought back to the truth; what it wrote lies in its trash."
                f"{still_there(world, hold)}"
            )
        case "rejected":
            return f"{hold.node} is brought back to the truth: closeranks nodes {hold.node}"
        case "over":
            return "This is over; nothing has to be done."
