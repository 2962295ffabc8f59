"""Whose hand a hold names, when it begins and while it lasts: of the very changes that it keeps back.

A guard of shares knows the paths, and so their hands. One of the pace knows only how much was written in which volume
and, apart from that, by whom: a program that writes in another volume of the same node must not be named for it.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from closeranks_proto import messages as wire

from . import hands as told_hands
from .meters import Meter
from .nodes import Node, Volume
from .records import HoldRecord
from .tripping import SHARE_GUARDS
from .world import World
from .writers import BEYOND, KEYS_MAX, HandRecord, add_to, first, record_of, told, unknown

WRITERS_MAX = 5
IN_SEVERAL = (
    "{node} has written in several volumes at once, and its reports do not say which program in which"
)


def hands_of(world: World, node: Node, volume: Volume) -> list[HandRecord]:
    """Who writes most in this volume of the node now, as far as that is known; of another volume's writers none."""
    hands = world.brake.hands.get(node.name) or node.writing.top(world.now.mono)
    hands = [hand for hand in hands if not hand.outside]
    found = [hand for hand in hands if _wrote_in(world, node, volume.name, hand)]
    if hands and not found:
        found = [unknown(IN_SEVERAL.format(node=node.name), world.now.wall_ms)]
    return found[:WRITERS_MAX]


def _wrote_in(world: World, node: Node, volume: str, hand: HandRecord) -> bool:
    """Whether a hand is known to have written in this volume.

    A report does not say which hand wrote in which volume. But nothing else was written to, or it wrote more than all
    that came to the others, or what it committed says so.
    """
    if [one.name for one in world.volumes_of(node)] == [volume]:
        return True
    reported = world.brake.reported.get(node.name)
    if reported is not None:
        beside = [one for name, one in reported.items() if name != volume]
        files, size = (sum(one[at] for one in beside) for at in (0, 1))
        if volume in reported and (hand.files > files or hand.bytes > size):
            return True
    return any(hand.key in bucket for bucket in node.writing.book(volume).hour.buckets.values())


def hands_behind(world: World, node: Node, volume: Volume, guard: str, meter: Meter) -> list[HandRecord]:
    """Whose hand made what a guard of shares has found: of these very paths, never who writes most just now.

    Whoever puts files back is busy while the deletions are looked at, and would be named for them. Of very many paths
    some are not looked at: the last hand says how many.
    """
    analysis = node.view(volume.name).analysis
    if guard not in SHARE_GUARDS or analysis is None:
        return hands_of(world, node, volume)
    is_loss = guard == "deleted_share"
    keys = (key for key, change in meter.pending.items() if (change[0] is None) is is_loss)
    found = told_hands.sums(
        world, node, volume.name, analysis, islice(filter(analysis.is_own, keys), KEYS_MAX)
    )
    beyond = (meter.gone if is_loss else len(meter.pending) - meter.gone) - KEYS_MAX
    return _ranked([*found, *([unknown(BEYOND, world.now.wall_ms, beyond)] if beyond > 0 else [])])


def add_hands(world: World, node: Node, activity: wire.Activity) -> None:
    """What is written while a node is held for its pace counts to its hands, one report after the other.

    A report does not say which hand wrote in which volume: where something was written in another one as well, it
    accuses nobody of this one.
    """
    written = {one.name for one in activity.volumes if one.files or one.bytes}
    told = [record_of(hand, world.now.wall_ms) for hand in activity.hands]
    told = [hand for hand in told if not hand.outside]
    for hold in world.live_holds if told else ():
        if (
            hold.node == node.name
            and hold.state == "held"
            and hold.guard == "write_rate"
            and written == {hold.volume}
        ):
            known = world.brake.since.setdefault(
                hold.id, [msgspec.structs.replace(one) for one in hold.writers]
            )
            for hand in told:
                add_to(known, hand)


def hands_since(world: World, node: Node, volume: Volume, hold: HoldRecord, meter: Meter) -> list[HandRecord]:
    """Whose a hold is by now, the biggest first."""
    if hold.guard in SHARE_GUARDS:
        known = [hand for hand in hold.writers if not hand.is_beyond]
        return biggest(known, hands_behind(world, node, volume, hold.guard, meter))
    found = [msgspec.structs.replace(one) for one in world.brake.since.get(hold.id, ())]
    return biggest(found or hold.writers, [])


def biggest(known: list[HandRecord], now: list[HandRecord]) -> list[HandRecord]:
    """Who caused it stays named when others write on: of each hand the most, the biggest first."""
    found: dict[object, HandRecord] = {}
    for hand in (*known, *now):
        had = found.get(hand.key)
        if had is None or (hand.bytes, hand.files) > (had.bytes, had.files):
            found[hand.key] = hand
    return _ranked(list(found.values()))


def _ranked(hands: list[HandRecord]) -> list[HandRecord]:
    """The biggest first, as many as are named; behind them what was not looked at."""
    return first(sorted(hands, key=lambda hand: (hand.bytes, hand.files), reverse=True), WRITERS_MAX)


def name(world: World, hold: HoldRecord, hands: list[HandRecord]) -> None:
    """Whose it is by now, also in its incident: what came after the hold has hands, too."""
    hold.writers = hands
    incident = world.incidents.get(hold.incident or "")
    if incident is not None and hands:
        others = [one for one in world.live_holds if one is not hold and one.incident == hold.incident]
        found: list[HandRecord] = list(hands)
        for one in others:
            found = biggest(found, one.writers)
        incident.writers = [told(hand) for hand in found]
        world.touch_incident(incident)
