"""Who wrote how much, counted within bounds: the sums of one incident, and of the last hour.

A *hand* is what an agent tells of one process. Processes come and go, so hands are added up under what stays
the same from one to the next: executable, unit, uid, and an interpreter's script, else the first word of the
command line, and the second if it says what is done (`git checkout`) and not to which file (`rm FILE`). The newest
pid and parents stand for all of them. Whatever a node tells, a sum holds at most a fixed number of hands; what is
beyond is added up as one hand that nobody is accused by.

Rejected: counting every process by itself (a shell loop makes a new one for each file).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto import programs
from closeranks_proto.lines import printable, shortened, timestamp
from closeranks_proto.parts import OUTSIDE, OUTSIDE_SOMEWHERE, is_outside

from . import words
from .shapes import NOT_LOOKED_AT, HandView

WINDOW_S = 3600.0
BUCKETS = 12  # of five minutes each
BUCKET_HANDS = 64  # 12 x 64 hands of about 1 KB: under 1 MB a node, and only while so many write
SUM_HANDS = 16
DOES = re.compile("-{0,2}[a-z][a-z-]*")  # a second word of a command line that says what is done
PARENTS_SHOWN = 3
COMMAND_SHOWN = 200  # characters of a command line
UNTOLD = "more writers than are kept apart"
KEYS_MAX = 10_000  # paths of one node's volume whose hand is remembered, or looked for at a time
BEYOND = f"{NOT_LOOKED_AT}, of so many paths only {KEYS_MAX:,} are"

HandKey = tuple[str, str, int | None, str]


class HandRecord(msgspec.Struct):
    """One hand and what it wrote. `pid` 0: unknown, `detail` says why.

    Of the hand of a path `bucket` is that of the hour in which the path was counted last.
    """

    pid: int
    exe: str
    command: str
    uid: int | None
    login_uid: int | None
    unit: str
    parents: tuple[str, ...] = ()
    detail: str = ""
    files: int = 0
    bytes: int = 0
    seen_ms: int = 0
    bucket: int = 0

    @property
    def key(self) -> HandKey:
        """What hands are added up under."""
        if not self.pid:
            return "", "", None, self.detail
        words_of_it = programs.key_of(self.exe, self.command)
        if words_of_it is None:
            first = self.command.split()[:2]
            words_of_it = " ".join(first if DOES.fullmatch(first[-1]) else first[:1]) if first else ""
        return self.exe, self.unit, self.uid, f"{words_of_it}\n{OUTSIDE}" if self.outside else words_of_it

    @property
    def outside(self) -> bool:
        """Whether this was written in no volume: it is never added to what the same program wrote in one."""
        return is_outside(self.detail)

    @property
    def is_beyond(self) -> bool:
        """Whether this stands for paths that were not looked at: how many, and nothing of their bytes."""
        return self.detail == BEYOND

    def add(self, other: HandRecord) -> None:
        """The newest process stands for all."""
        self.pid, self.parents, self.command = other.pid, other.parents, other.command
        self.login_uid, self.detail = other.login_uid, other.detail
        self.seen_ms = max(self.seen_ms, other.seen_ms)
        self.files += other.files
        self.bytes += other.bytes

    def view(self) -> HandView:
        return HandView(
            self.pid, self.exe, self.command, self.uid, self.login_uid, self.unit, self.parents, self.files, self.bytes,
            timestamp(self.seen_ms) if self.seen_ms else None, self.detail,
        )  # fmt: skip


def record_of(hand: wire.Hand, seen_ms: int, files: int | None = None, size: int | None = None) -> HandRecord:
    """What an agent told, as printable and bounded lines."""
    return HandRecord(
        hand.pid, _line(hand.exe), _line(hand.command), hand.uid, hand.login_uid, _line(hand.unit),
        tuple(_line(parent) for parent in hand.parents[:8]), _line(hand.detail),
        hand.files if files is None else files, hand.bytes if size is None else size, seen_ms,
    )  # fmt: skip


def unknown(detail: str, seen_ms: int, files: int = 0, size: int = 0) -> HandRecord:
    return HandRecord(0, "", "", None, None, "", (), detail, files, size, seen_ms)


def _line(text: str) -> str:
    return shortened(printable(text), 512)


def who(hand: HandRecord) -> str:
    """`/usr/bin/php (script cron.php, pid 4711, unit cron.service, uid 33, "php cron.php"), parents 812 bash`."""
    if not hand.pid:
        return f"unknown: {hand.detail or 'the node did not tell'}"
    runs = programs.inside(hand.exe, hand.command)
    about = [*([runs] if runs else []), f"pid {hand.pid}"]
    if hand.unit:
        about.append(f"unit {hand.unit}")
    if hand.uid is not None:
        about.append(f"uid {hand.uid}")
    if hand.login_uid is not None:
        about.append(f"login uid {hand.login_uid}")
    if hand.command and hand.command != hand.exe:
        about.append(f'"{hand.command[:COMMAND_SHOWN]}"')
    parents = f", parents {', '.join(hand.parents[:PARENTS_SHOWN])}" if hand.parents else ""
    where = f", {OUTSIDE_SOMEWHERE}" if hand.outside else ""
    return f"{hand.exe or hand.command or 'a process'} ({', '.join(about)}){parents}{where}"


def told(hand: HandRecord) -> str:
    """The same, and what it wrote: `...: 41 files, 3.2 GB`."""
    if hand.is_beyond:
        return f"{who(hand)}: {words.plural(hand.files, 'more file')}"
    return f"{who(hand)}: {words.plural(hand.files, 'file')}, {words.human_bytes(hand.bytes)}"


def add_to(hands: list[HandRecord], new: HandRecord, most: int = SUM_HANDS) -> HandRecord:
    """Add one hand to a sum of at most `most`, the one for the rest included. Returns where it was counted."""
    for known in hands:
        if known.key == new.key:
            known.add(new)
            return known
    if len(hands) < most - 1 or (len(hands) < most and new.detail == UNTOLD):
        hands.append(msgspec.structs.replace(new))
        return hands[-1]
    return add_to(hands, unknown(UNTOLD, new.seen_ms, new.files, new.bytes), most)


def top(hands: list[HandRecord], most: int = SUM_HANDS) -> list[HandRecord]:
    """The most active by bytes and the most active by files, without repetition."""
    if len(hands) < 2:  # of most nodes, whenever anybody looks at the fleet
        return list(hands)
    by_bytes = sorted(hands, key=lambda one: (-one.bytes, -one.files, one.key[0], one.pid))
    by_files = sorted(hands, key=lambda one: (-one.files, -one.bytes, one.key[0], one.pid))
    found: list[HandRecord] = []
    for pair in zip(by_bytes, by_files, strict=True):
        for hand in pair:
            if len(found) < most and not any(hand is known for known in found):
                found.append(hand)
    return sorted(found, key=lambda one: (-one.bytes, -one.files, one.key[0], one.pid))


def first(hands: list[HandRecord], most: int) -> list[HandRecord]:
    """So many of them, in their order; what stands for paths that were not looked at is one of these, the last."""
    beyond = [hand for hand in hands if hand.is_beyond]
    return [*[hand for hand in hands if not hand.is_beyond][: most - len(beyond)], *beyond]


def merged(hands: list[HandRecord]) -> list[HandRecord]:
    """A process that was gone before its program could be read (`[cp]`) is the one with its pid that has a name."""
    named = {one.pid: one for one in hands if one.pid and not _is_nameless(one)}
    for one in hands:
        known = named.get(one.pid)
        if known is not None and known is not one and _is_nameless(one) and known.outside == one.outside:
            whole = msgspec.structs.replace(
                known, files=known.files + one.files, bytes=known.bytes + one.bytes
            )
            hands = [whole if each is known else each for each in hands if each is not one]
            named[one.pid] = whole
    return hands


def _is_nameless(hand: HandRecord) -> bool:
    return not hand.exe or hand.exe.startswith("[")


def bucket_of(mono: float) -> int:
    """The number of the bucket that takes what is written now."""
    return int(mono // (WINDOW_S / BUCKETS))


@dataclass(slots=True)
class Hour:
    """What hands wrote in the last hour, in five-minute buckets (number to sum)."""

    buckets: dict[int, dict[HandKey, HandRecord]] = field(default_factory=dict)

    def add(self, hand: HandRecord, mono: float) -> None:
        number = bucket_of(mono)
        if number not in self.buckets:
            self.buckets = {at: one for at, one in self.buckets.items() if at > number - BUCKETS}
            self.buckets[number] = {}
        bucket = self.buckets[number]
        known = bucket.get(hand.key)
        if known is not None:
            known.add(hand)
        elif len(bucket) < BUCKET_HANDS:
            bucket[hand.key] = msgspec.structs.replace(hand)
        else:
            rest = unknown(UNTOLD, hand.seen_ms, hand.files, hand.bytes)
            bucket.setdefault(rest.key, unknown(UNTOLD, hand.seen_ms)).add(rest)

    def sums(self, mono: float) -> dict[HandKey, HandRecord]:
        """Each hand's sum over the last hour."""
        first = bucket_of(mono) - BUCKETS
        found: dict[HandKey, HandRecord] = {}
        for number, bucket in self.buckets.items():
            for key, hand in bucket.items() if number > first else ():
                if key in found:
                    found[key].add(hand)
                else:
                    found[key] = msgspec.structs.replace(hand)
        return found


@dataclass(slots=True)
class Book:
    """The hands of one node's volume.

    `by_key` has the hand of each path that differs by the node's own doing, as far as it was told; `newest`
    are the keys of the last step that came with hands. `untold` are hands of steps that did not say which
    path is whose. `settled` are the latest whose paths do not differ any more: they became the truth, or were
    put right.
    """

    hour: Hour = field(default_factory=Hour)
    by_key: dict[bytes, HandRecord] = field(default_factory=dict)
    newest: frozenset[bytes] = frozenset()
    untold: list[HandRecord] = field(default_factory=list)
    settled: dict[bytes, HandRecord] = field(default_factory=dict)
    cause: str = ""


@dataclass(slots=True)
class Writing:
    """All that is known of who writes on one node: its volumes' books, and what it reports of the moment.

    What is committed was reported before, so the two are never added: a hand's figures are the larger ones.
    """

    books: dict[str, Book] = field(default_factory=dict)
    reported: Hour = field(default_factory=Hour)
    unsaved: bool = False
    saved_at: float | None = None

    def book(self, volume: str) -> Book:
        found = self.books.get(volume)
        if found is None:
            found = self.books[volume] = Book()
        return found

    def top(self, mono: float) -> list[HandRecord]:
        """The most active hands of the last hour."""
        committed: dict[HandKey, HandRecord] = {}
        for book in self.books.values():
            for key, hand in book.hour.sums(mono).items():
                if key in committed:
                    committed[key].add(hand)
                else:
                    committed[key] = hand
        for key, hand in self.reported.sums(mono).items():
            known = committed.get(key)
            if known is None:
                committed[key] = hand
                continue
            newest = hand if hand.seen_ms >= known.seen_ms else known
            files, size = max(hand.files, known.files), max(hand.bytes, known.bytes)
            committed[key] = msgspec.structs.replace(newest, files=files, bytes=size)
        return top(list(committed.values()))


class WritersRecord(msgspec.Struct):
    """What of it survives a restart."""

    hands: list[HandRecord] = []
