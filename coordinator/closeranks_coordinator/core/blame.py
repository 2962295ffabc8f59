"""To whom a disk that fills is laid: whoever is known to have written in its volumes, and nobody on a guess.

What a program writes outside the volumes is counted by the kernel for all disks together, and not at all on a
tmpfs. So such a program is listed behind those of the volumes, with the words that it may have been another disk.
The headline names it only where the volumes account for less than half, and the node has told of no other disk.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import islice

from closeranks_proto import programs
from closeranks_proto.parts import OUTSIDE, OUTSIDE_SOMEWHERE

from . import hands as told_hands
from . import writers
from .filling import REPORT_S
from .meters import Gauge
from .nodes import Node
from .rules import GuardRules
from .world import World
from .writers import HandKey, HandRecord

NOT_KNOWN = "; which program wrote is not known"


def inside(world: World, node: Node, gauge: Gauge, rules: GuardRules) -> int | None:
    """Bytes written in the volumes of this disk in its burst; None where they are not counted any more."""
    now = world.now.mono
    if now - gauge.began > rules.rate_window_s:
        return None
    meters = (world.brake.meters.get((node.name, name)) for name in gauge.state.volumes)
    return sum(meter.written(now)[1] for meter in meters if meter is not None)


def hands(world: World, node: Node, gauge: Gauge, most: int) -> list[HandRecord]:
    """Who wrote while this disk filled: in its volumes first, then in a volume that is not told yet, then outside."""
    since_ms = world.now.wall_ms - int((world.now.mono - gauge.began + REPORT_S) * 1000)
    found = {hand.key: hand for hand in world.brake.hands.get(node.name, ())}
    found |= {hand.key: hand for hand in node.writing.top(world.now.mono) if not hand.outside}
    found = {key: hand for key, hand in found.items() if hand.seen_ms >= since_ms}
    held, beyond = _held(world, node, gauge)
    found |= held
    ranked = [(_rank(node, gauge, hand, held), hand) for hand in found.values()]
    ranked = [one for one in ranked if one[0] is not None]
    ranked.sort(key=lambda one: (one[0], -one[1].bytes, -one[1].files))
    last = [writers.unknown(writers.BEYOND, world.now.wall_ms, beyond)] if beyond else []
    return writers.first([*writers.merged([hand for _, hand in ranked]), *last], most)


def _held(world: World, node: Node, gauge: Gauge) -> tuple[dict[HandKey, HandRecord], int]:
    """What each hand wrote of what is not let through yet, in the volumes of this disk; paths not looked at for it."""
    found: list[HandRecord] = []
    beyond = 0
    for name in gauge.state.volumes:
        analysis, meter = node.view(name).analysis, world.brake.meters.get((node.name, name))
        if analysis is None or meter is None:
            continue
        beyond += max(0, len(meter.pending) - writers.KEYS_MAX)
        keys = islice(filter(analysis.is_own, meter.pending), writers.KEYS_MAX)
        for hand in told_hands.sums(world, node, name, analysis, keys):
            if hand.pid:
                writers.add_to(found, hand)
    return {hand.key: hand for hand in found}, beyond


def _rank(node: Node, gauge: Gauge, hand: HandRecord, held: Container[HandKey]) -> int | None:
    """None: it is known to have written in volumes of other disks alone, or is a thread of the kernel.

    Behind those whose files wait, or are not whole yet, stands whose files were let through before.
    """
    if hand.outside:
        return None if hand.exe.startswith("[") else 3
    wrote = {name for name, book in node.writing.books.items() if _is_in(book.hour.buckets, hand.key)}
    if not wrote:
        return 1
    if not wrote.intersection(gauge.state.volumes):
        return None
    return 2 if hand.key not in held and _is_let_through(node, gauge, hand) else 0


def _is_let_through(node: Node, gauge: Gauge, hand: HandRecord) -> bool:
    books = [node.writing.books[name] for name in gauge.state.volumes if name in node.writing.books]
    return any(one.key == hand.key for book in books for one in book.settled.values())


def _is_in(buckets: dict[int, dict[HandKey, HandRecord]], key: HandKey) -> bool:
    return any(key in bucket for bucket in buckets.values())


def by_words(world: World, node: Node, gauge: Gauge, rules: GuardRules, hands: Sequence[HandRecord]) -> str:
    """How the headline names a program, or says that none is known."""
    size = inside(world, node, gauge, rules)
    if not gauge.state.volumes or (size is not None and 2 * size < gauge.foreign):
        beside = [hand for hand in hands if hand.outside and hand.pid]
        others = any(one is not gauge for one in world.brake.disks(node.name).values())
        if beside and not others:
            return _named(beside[0])
        why = f" (programs that wrote {OUTSIDE} may have written to another disk)" if beside else ""
        return NOT_KNOWN + why
    return words([hand for hand in hands if not hand.outside])


def words(hands: Sequence[HandRecord]) -> str:
    """`; by /usr/bin/php (script /srv/site/cron.php), unit apache2`; where nobody knows that, and why."""
    known = next((hand for hand in hands if hand.pid), None)
    if known is not None:
        return _named(known)
    why = next((hand.detail for hand in hands if hand.detail), "")
    return NOT_KNOWN + (f" ({why})" if why else "")


def _named(hand: HandRecord) -> str:
    return (
        f"; by {programs.words(hand.exe, hand.command)}"
        + (f", unit {hand.unit}" if hand.unit else "")
        + (f", {OUTSIDE_SOMEWHERE}" if hand.outside else "")
    )
