"""Whose hand: who wrote what on which node, as agents tell it; bounded, and shown with everything that is told.

A step that a converge or a push made is closeranks' own and nobody's hand. A path keeps its hand for as long
as it differs by the node's own doing; a path that changed again without a hand being told is *unknown* again:
better nobody than the wrong one. Hands accuse nobody by themselves: verdicts never look at them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.entries import decode_entry

from . import writers
from .incidents import Incident
from .judge import Analysis, Touched
from .model import RootStored
from .nodes import Node
from .world import World
from .writers import KEYS_MAX, Book, HandRecord

SETTLED_MAX = 2_000  # the latest that do not differ any more
SAVE_EVERY_S = 60.0
OWN_CAUSES = ("converge", "push", "restore", "known")  # what an agent does by order
NAMED_HANDS = 3


# --- what agents tell -----------------------------------------------------------------------------


def note(world: World, node: Node, event: RootStored) -> None:
    """Remember the hands of a step."""
    book = node.writing.book(event.volume)
    book.cause, book.newest = event.cause, frozenset(key for key, _ in event.by)
    if event.cause in OWN_CAUSES or not event.hands:
        return
    bucket = writers.bucket_of(world.now.mono)
    hands = [
        msgspec.structs.replace(writers.record_of(hand, world.now.wall_ms), bucket=bucket)
        for hand in event.hands
    ]
    again = [0] * len(hands)
    counted: dict[tuple[int, int], HandRecord] = {}
    for key, number in event.by:
        hand, known = hands[number - 1], book.by_key.pop(key, None) or book.settled.get(key)
        if known is not None and _is_counted(known, hand):
            again[number - 1] += 1
            # Its path was counted then, and is again when that is over an hour ago, however often it is written.
            hand = counted.setdefault(
                (number, known.bucket), msgspec.structs.replace(hand, bucket=known.bucket)
            )
        if len(book.by_key) < KEYS_MAX:
            book.by_key[key] = hand
    for hand, times in zip(hands, again, strict=True):
        book.hour.add(msgspec.structs.replace(hand, files=max(0, hand.files - times)), world.now.mono)
    for hand in hands if not event.by else ():
        writers.add_to(book.untold, hand)
    node.writing.unsaved = True


def _is_counted(known: HandRecord, hand: HandRecord) -> bool:
    """Whether a path that this hand wrote counts in its hour as its own already: then it is no other file."""
    return known.key == hand.key and hand.bucket - known.bucket < writers.BUCKETS


def active(world: World, node: Node, activity: wire.Activity) -> None:
    """What a node reports of who is writing."""
    for hand in activity.hands:
        node.writing.reported.add(writers.record_of(hand, world.now.wall_ms), world.now.mono)
        node.writing.unsaved = True


def judged(node: Node, volume: str, before: Analysis | None, after: Analysis, touched: Touched) -> None:
    """Forget the hands of paths that do not differ any more, or that changed again by a hand nobody told of."""
    book = node.writing.book(volume)
    newest, book.newest = book.newest, frozenset()
    if not after.divergent:
        book.untold = []
    if not book.by_key:
        return
    if not after.divergent:
        _settle_all(book)
        return
    for key in list(book.by_key) if touched is None else (*touched, *newest):
        if key not in book.by_key:
            continue
        if not after.is_own(key):
            _settle(book, key)
        elif key not in newest and touched is not None and not _same(before, after, key):
            del book.by_key[key]


def _settle_all(book: Book) -> None:
    """As `_settle` for every path: of a fleet that has taken a step, on every node."""
    for key in book.by_key:
        book.settled.pop(key, None)
    book.settled.update(book.by_key)
    book.by_key = {}
    for key in list(islice(book.settled, max(0, len(book.settled) - SETTLED_MAX))):
        del book.settled[key]


def _settle(book: Book, key: bytes) -> None:
    book.settled.pop(key, None)
    book.settled[key] = book.by_key.pop(key)
    if len(book.settled) > SETTLED_MAX:
        del book.settled[next(iter(book.settled))]


def _same(before: Analysis | None, after: Analysis, key: bytes) -> bool:
    known = None if before is None else before.differing.get(key)
    return known is not None and known[0] == after.differing[key][0]


def watch(world: World) -> None:
    """Write down who writes most, at most once in a while."""
    for node in world.nodes.values():
        writing = node.writing
        if not writing.unsaved:
            continue
        if writing.saved_at is None or world.now.mono >= writing.saved_at + SAVE_EVERY_S:
            writing.unsaved, writing.saved_at = False, world.now.mono
            world.touch("writers", node.name)


# --- what is told of them -------------------------------------------------------------------------


def of_key(world: World, node: Node, volume: str, key: bytes) -> HandRecord:
    """Who made this path what it is, if anybody knows; else why not."""
    book = node.writing.book(volume)
    known = book.by_key.get(key)
    return writers.unknown(_why(node, volume, book), world.now.wall_ms) if known is None else known


def of_settled(node: Node, volume: str, key: bytes) -> str:
    """Who made this path of the truth what it is, while it is remembered; else ""."""
    hand = node.writing.book(volume).settled.get(key)
    return writers.who(hand) if hand is not None and hand.pid else ""


def words_of(world: World, node: Node, volume: str, keys: Iterable[bytes]) -> str:
    """Who wrote these paths, the first few hands; "" where nobody is known."""
    found: dict[writers.HandKey, str] = {}
    for key in islice(keys, KEYS_MAX):
        hand = of_key(world, node, volume, key)
        if hand.pid:
            found.setdefault(hand.key, writers.who(hand))
    named = list(found.values())
    more = f" and {len(named) - NAMED_HANDS} more" if len(named) > NAMED_HANDS else ""
    return "; ".join(named[:NAMED_HANDS]) + more


def sums(
    world: World, node: Node, volume: str, analysis: Analysis, keys: Iterable[bytes]
) -> list[HandRecord]:
    """What each hand made of these own paths."""
    book, found = node.writing.book(volume), list[HandRecord]()
    width, wall_ms = world.algorithm.width, world.now.wall_ms
    why = _why(node, volume, book)
    nobody = writers.unknown(why, wall_ms)
    for number, key in enumerate(keys):
        hand = book.by_key.get(key)
        value = analysis.differing[key][0]
        size = decode_entry(value, width).size if value is not None and number < KEYS_MAX else 0
        if hand is None:
            nobody.files, nobody.bytes = nobody.files + 1, nobody.bytes + size
        else:
            writers.add_to(found, msgspec.structs.replace(hand, files=1, bytes=size))
    if nobody.files and book.untold:
        for hand in book.untold:
            writers.add_to(found, hand)
    elif nobody.files:
        writers.add_to(found, nobody)
    return found


def sums_of_returns(
    world: World, node: Node, volume: str, incident: Incident, analysis: Analysis, keys: Iterable[bytes]
) -> list[HandRecord]:
    """Hands that the incident does not name yet; those that it names wrote the same paths again."""
    named = {hand.key for hand in incident.hands}
    return [one for one in sums(world, node, volume, analysis, keys) if one.key not in named]


def once(world: World, node: Node, volume: str, key: bytes) -> HandRecord:
    """The hand of one path, counted as one file of unknown length."""
    return msgspec.structs.replace(of_key(world, node, volume, key), files=1, bytes=0)


def tell(incident: Incident, found: Iterable[HandRecord]) -> None:
    """Add these hands to those of the incident."""
    for hand in found:
        writers.add_to(incident.hands, hand)
    incident.writers = [writers.told(hand) for hand in writers.top(incident.hands)]


def _why(node: Node, volume: str, book: Book) -> str:
    status = node.volume(volume).status
    watch_kind = "" if status is None else status.watch
    if book.cause == "scrub":
        return "found by a scrub: other bytes under the same size, times and inode; no program is known to have written"
    if book.cause in ("scan", wire.MADE_ANEW, wire.PUT_BACK) or watch_kind == "rescan":
        return "found by a scan, which does not tell who writes"
    if len(book.by_key) >= KEYS_MAX:
        return f"more paths differ than the {KEYS_MAX:,} whose writer is remembered"
    if watch_kind == "inotify":
        return "inotify does not tell who writes"
    if watch_kind == "fanotify":
        return "the kernel did not tell, or the writer was gone before it could be looked at"
    return "the node did not tell"
