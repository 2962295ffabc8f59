"""How fast chunks may travel: rules, the weekly schedule and an operator's word, divided among those who fetch.

What an operator said stands until it is taken back, over restarts too; else the first line of the schedule
that holds at this moment; else the base. The fleet's sum is divided equally among the nodes that fetch right
now; a node that does not gets what would be its share if it began, so that its first second is no burst. A
node that fetched a moment ago still counts: small pushes come and go, and every change is a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from closeranks_proto import messages as wire

from .model import Refusal, SpeedAsked
from .nodes import Node
from .rules import SpeedRules, SpeedWindow
from .shapes import SpeedView
from .words import human_bytes
from .world import World

DAY_S = 86400
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EPOCH_DAY = 3  # 1 January 1970 was a Thursday
LEAST_BYTES_S = 1024  # of a node, however many share: below it nothing would ever end
MOST_BYTES_S = 2**50
LINGER_S = 2.0  # a node counts as fetching for so long after it did
TELL_EVERY_S = 1.0
FETCHING = ", fetching now"
BY_HAND = "by hand"
Limit = int | None


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds at one moment, bytes/s; None: no limit."""

    node: Limit
    fleet: Limit
    why: str


# --- the schedule ---------------------------------------------------------------------------------


def scheduled(rules: SpeedRules, wall_ms: int) -> InForce:
    """What the configuration says for this moment."""
    local_s = wall_ms // 1000 + _offset_s(rules, wall_ms)
    day, second = local_s // DAY_S, local_s % DAY_S
    for window in rules.windows:
        if _holds(window, (day + EPOCH_DAY) % 7, second):
            return InForce(window.node_bytes_s, window.fleet_bytes_s, f"the schedule: {told(window)}")
    limited = rules.node_bytes_s is not None or rules.fleet_bytes_s is not None
    return InForce(
        rules.node_bytes_s, rules.fleet_bytes_s, "the configuration" if limited else "no limit is set"
    )


def _offset_s(rules: SpeedRules, wall_ms: int) -> int:
    """How far the windows' clock is before UTC at this moment."""
    if rules.zone is None:
        return rules.utc_offset_s
    offset = datetime.fromtimestamp(wall_ms // 1000, ZoneInfo(rules.zone)).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _holds(window: SpeedWindow, weekday: int, second: int) -> bool:
    """A window belongs to the day on which it begins, also where it ends on the next."""
    if window.start_s < window.end_s:
        return weekday in window.days and window.start_s <= second < window.end_s
    if second >= window.start_s:
        return weekday in window.days
    return second < window.end_s and (weekday - 1) % 7 in window.days


def told(window: SpeedWindow) -> str:
    """`mon, sat from 22:00 to 06:00`."""
    days = "every day" if len(window.days) == 7 else ", ".join(DAYS[day] for day in window.days)
    return f"{days} from {_clock(window.start_s)} to {_clock(window.end_s)}"


def _clock(second: int) -> str:
    return f"{second // 3600:02d}:{second % 3600 // 60:02d}"


def rate_words(limit: Limit) -> str:
    return "no limit" if limit is None else f"{human_bytes(limit)}/s"


# --- dividing -------------------------------------------------------------------------------------


def drive(world: World) -> None:
    """Tell nodes of limits that have changed for them, each at most once a second."""
    force = _in_force(world)
    if force.node is None and force.fleet is None and not world.speed.nodes and not world.limited:
        return  # nobody is limited, and nobody was
    fetching = [node.name for node in world.nodes.values() if _fetches(world, node)]
    for node in world.nodes.values():
        limits = _limits(world, node, force, len(fetching), node.name in fetching)
        _tell(world, node, limits)


def _in_force(world: World) -> InForce:
    by_rule, word = scheduled(world.config.speed, world.now.wall_ms), world.speed
    if word.fleet_by_hand:
        return InForce(by_rule.node, word.fleet, BY_HAND)
    return by_rule


def _fetches(world: World, node: Node) -> bool:
    """Whether chunks are on their way to this node, or were a moment ago."""
    if node.session is None:
        return False
    work = node.recovery
    converges = work is not None and work.asked is not None and work.stage == "converge"
    pushes = (view.pushing for view in node.views.values())
    if converges or any(push.asked_at is not None and push.fetch_bytes for push in pushes):
        node.fetched_at = world.now.mono
    return node.fetched_at is not None and world.now.mono - node.fetched_at < LINGER_S


def _limits(world: World, node: Node, force: InForce, fetching: int, is_one: bool) -> tuple[Limit, Limit]:
    """(what it may take, what it may give)."""
    own = world.speed.nodes.get(node.name, force.node)
    if force.fleet is None:
        return own, own
    share = max(LEAST_BYTES_S, force.fleet // max(1, fetching + (not is_one)))
    return share if own is None else min(own, share), own


def _tell(world: World, node: Node, limits: tuple[Limit, Limit]) -> None:
    """A new session knows of no limit."""
    if node.session is None:
        return
    if node.limits is None or node.limits[0] != node.session:
        node.limits, node.limits_at = (node.session, None, None), None
    if node.limits[1:] == limits:
        return
    if node.limits_at is not None and world.now.mono < node.limits_at + TELL_EVERY_S:
        world.wake(node.limits_at + TELL_EVERY_S)
        return
    node.limits, node.limits_at = (node.session, *limits), world.now.mono
    world.limited = True
    world.send(node, wire.Limits(*limits))


# --- an operator's word ---------------------------------------------------------------------------


def ask(world: World, event: SpeedAsked) -> SpeedView | Refusal:
    """Faster or slower, now."""
    if event.node is not None and event.node not in world.nodes:
        return Refusal(404, "unknown_node", f"There is no node {event.node!r} in this fleet.")
    given = event.bytes_s
    if given is not None and (event.unlimited or not LEAST_BYTES_S <= given <= MOST_BYTES_S):
        text = f"A limit is a number of bytes/s from {LEAST_BYTES_S} to {MOST_BYTES_S}, or none at all."
        return Refusal(400, "bad_speed", text)
    by_hand = event.unlimited or given is not None
    if event.node is None:
        world.speed.fleet, world.speed.fleet_by_hand = given, by_hand
    elif by_hand:
        world.speed.nodes[event.node] = given
    else:
        world.speed.nodes.pop(event.node, None)
    for name in [name for name in world.speed.nodes if name not in world.nodes]:
        del world.speed.nodes[name]  # retired meanwhile
    world.touch("speed", "")
    whose = "the fleet" if event.node is None else event.node
    what = rate_words(given) if by_hand else "as the configuration says"
    world.log("info", f"an operator set the speed of {whose}: {what}")
    for node in world.nodes.values():
        node.limits_at = None  # an order is told at once
    return view(world)


def view(world: World) -> SpeedView:
    force, by_rule = _in_force(world), scheduled(world.config.speed, world.now.wall_ms)
    fetching = [node.name for node in world.nodes.values() if _fetches(world, node)]
    shown: list[dict[str, str | int | None]] = []
    # An order for all does not touch what is set for each.
    ruled = force if force.node is None else by_rule
    for node in world.nodes.values():
        is_one = node.name in fetching
        take, give = _limits(world, node, force, len(fetching), is_one)
        why = BY_HAND if node.name in world.speed.nodes else ruled.why
        if force.fleet is not None and take is not None and take != give:
            why = f"its share of the fleet's {rate_words(force.fleet)} ({force.why})"
        shown.append(
            {
                "node": node.name,
                "receive_bytes_s": take,
                "serve_bytes_s": give,
                "why": why + (FETCHING if is_one else ""),
            }
        )
    return SpeedView(force.fleet, force.why, tuple(shown))


def limits(world: World) -> dict[str, str]:
    """In words, of each node whose fetches are limited now: `2.0 MB/s at most (by hand)`."""
    return {
        str(one["node"]): f"{rate_words(take)} at most ({str(one['why']).removesuffix(FETCHING)})"
        for one in view(world).nodes
        if isinstance(take := one["receive_bytes_s"], int)
    }
