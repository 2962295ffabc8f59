"""Counters over time, each bounded: what was written lately, what share of a volume went, what is usual.

Guards ask three things. *How much in the last minute?* `Rolling` has buckets of a second, and no more than
BUCKETS_MAX of them. *Which share of a volume within ten minutes?* `Shares` counts distinct paths, and
deletions whose content does not come back, in a few generations: a generation is forgotten as a whole, so a
window is up to a fifth longer than asked for. *What is usual here?* `Usual` keeps five-minute sums of seven
days and answers with their median; idle times say nothing about what work is usual, so they are left out.

Rejected: exponential averages (one runaway moves them for hours; a median does not notice), and keeping
each change with its time (a writer of 2,000 files a second would cost a gigabyte in ten minutes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from statistics import median

import msgspec

from closeranks_proto.entries import Kind, entry_kind

from .tally import Tally

BUCKETS_MAX = 600
GENERATIONS = 6  # a window is covered by five; the sixth is being filled
# Contents and paths remembered by one generation; beyond it they are only counted. Six generations of
# 100,000 contents at 18 to 36 bytes (`tally`), and of new paths and of those that went as many: 60 MB, of a node that
# changes 600,000 files in ten minutes; and as many paths as were rewritten, not made, at about 120 where nobody else
# holds them: 72 MB.
REMEMBERED_MAX = 100_000
# What a changed file's content counts as: nothing, it was made lately, it was moved here. And of a path that went: that
# it may come back as another.
_NOTHING, MADE, _MOVED, LEFT = range(4)
LOST, ALTERED, RETYPED = range(3)  # places in what a generation counts
USUAL_BUCKET_S = 300
USUAL_BUCKETS = 7 * 86400 // USUAL_BUCKET_S


class Rolling:
    """Sums of a few counters over the last `window_s` seconds."""

    def __init__(self, window_s: float, counters: int) -> None:
        self.window_s = window_s
        self._step_s = max(1.0, window_s / BUCKETS_MAX)
        self._buckets: deque[tuple[int, list[int]]] = deque()
        self._sums = [0] * counters

    def add(self, now: float, *amounts: int) -> None:
        number = int(now // self._step_s)
        self._forget(now)
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append((number, [0] * len(self._sums)))
        newest = self._buckets[-1][1]
        for place, amount in enumerate(amounts):
            newest[place] += amount
            self._sums[place] += amount

    def sums(self, now: float) -> tuple[int, ...]:
        self._forget(now)
        return tuple(self._sums)

    def peak(self, now: float) -> tuple[int, ...]:
        """The most that was counted in one of the last two buckets: the pace of this moment."""
        number = int(now // self._step_s)
        newest = [amounts for at, amounts in self._buckets if at >= number - 1]
        return tuple(max((one[place] for one in newest), default=0) for place in range(len(self._sums)))

    def wholes(self, now: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What was counted in each of the last two buckets that are over, the newer one first."""
        number, known = int(now // self._step_s), dict(self._buckets)
        nothing = [0] * len(self._sums)
        return tuple(known.get(number - 1, nothing)), tuple(known.get(number - 2, nothing))

    def since(self, now: float) -> float | None:
        """When the oldest of what is counted came."""
        self._forget(now)
        return self._buckets[0][0] * self._step_s if self._buckets else None

    def clear(self) -> None:
        self._buckets.clear()
        self._sums = [0] * len(self._sums)

    def _forget(self, now: float) -> None:
        first = int((now - self.window_s) // self._step_s)
        while self._buckets and self._buckets[0][0] <= first:
            for place, amount in enumerate(self._buckets.popleft()[1]):
                self._sums[place] -= amount


@dataclass(slots=True)
class _Generation:
    """`balance`: of each content how often it was lost, less how often it was gained."""

    began: float
    entries: int = 0
    least: int = 1 << 62  # entries
    balance: Tally = field(default_factory=Tally)
    lost: int = 0  # sum of the positive balances
    altered: set[bytes] = field(default_factory=set)
    retyped: set[bytes] = field(default_factory=set)
    grown: int = 0  # entries that this node added to the truth, less those that it took from it
    made: Tally = field(default_factory=Tally)  # paths
    # Paths that were news as altered, also where they went since.
    counted: Tally = field(default_factory=Tally)
    went: Tally = field(default_factory=Tally)  # paths, and for a count what each was (`what_is`)
    # Lost, altered, retyped beyond what is remembered.
    untold: list[int] = field(default_factory=lambda: [0, 0, 0])
    firsts: list[float] = field(default_factory=lambda: [inf, inf, inf])  # when the first of each came

    def add(self, now: float, place: int, is_first: bool) -> None:
        """One of a kind was told."""
        if is_first or self.firsts[place] == inf:
            self.firsts[place] = now


class Shares:
    """What went of a volume within about `window_s`: paths lost, paths with new content, paths of a new kind.

    A content that is lost under one name and gained under another was moved: it is not lost. Contents are
    known by a number that equal ones share.

    So what was gained lately may be lost again: a temporary file comes and goes. A file that was only changed
    is none of that: what `rm` makes writable or `shred` overwrites is as lost as anything when it goes. The new
    content of a file counts as gained where the former one did, or where it was moved here.

    A path that went and comes back as something else is altered, by whatever steps: `mv f f.bak` and then a new `f`
    is a rename and a new file otherwise.

    Shares are of what there was without this node (`others`): neither what it adds makes a volume larger, nor what it
    removed makes it smaller.
    """

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.present = 0  # entries, before what is pending
        self._generations: deque[_Generation] = deque()

    def lose(self, now: float, content: int) -> None:
        self._move(now, content, 1)

    def gain(self, now: float, content: int) -> None:
        self._move(now, content, -1)

    def make(self, now: float, key: bytes) -> None:
        """A path is new."""
        made, name = self._turn(now).made, _name(key)
        if len(made) < REMEMBERED_MAX and not made.get(name):
            made.add(name, 1)

    def is_made(self, key: bytes) -> bool:
        """Whether it was new within the window: this very path, for a copy of its content makes no other one new."""
        name = _name(key)
        return any(one.made.get(name) for one in self._generations)

    def leave(self, now: float, key: bytes, value: bytes) -> bool:
        """A path goes. Whether that is remembered now: not of what was made lately, and what it was first stands."""
        went, name = self._turn(now).went, _name(key)
        if len(went) >= REMEMBERED_MAX or any(
            one.went.get(name) or one.made.get(name) for one in self._generations
        ):
            return False
        went.add(name, what_is(value))
        return True

    def stay(self, key: bytes) -> None:
        """That it went was undone."""
        name = _name(key)
        for one in self._generations:
            one.went.add(name, -one.went.get(name))

    def former(self, key: bytes) -> int:
        """What a path was that went within the window, as `what_is` tells it; 0 where none did, and after `stay`."""
        name = _name(key)
        return next((found for one in self._generations if (found := one.went.get(name))), 0)

    def alter(self, now: float, key: bytes) -> bool:
        """A path is other than it was. Whether that is news within the window."""
        newest = self._turn(now)
        newest.add(now, ALTERED, not newest.altered)
        name = _name(key)
        is_news = not any(key in one.altered or one.counted.get(name) for one in self._generations)
        if not newest.counted.get(name) and len(newest.counted) < REMEMBERED_MAX:
            newest.counted.add(name, 1)
        if len(newest.altered) < REMEMBERED_MAX:
            newest.altered.add(key)
        else:
            newest.untold[ALTERED] += 1
        return is_news

    def rewrite(self, now: float, before: int, after: int) -> int:
        """A file has other content than before. Returns what `take_back` has to know."""
        self._forget(now)
        if before == after:
            return _NOTHING
        if any(one.balance.get(before) < 0 for one in self._generations):
            self.lose(now, before)
            self.gain(now, after)
            return MADE
        if any(one.balance.get(after) > 0 for one in self._generations):
            self.gain(now, after)
            return _MOVED
        return _NOTHING

    def take_back(self, now: float, before: int, after: int, how: int) -> None:
        """What `rewrite` did, as it said, is undone."""
        if how != _NOTHING:
            self.lose(now, after)
        if how == MADE:
            self.gain(now, before)

    def retype(self, now: float, key: bytes) -> bool:
        """A path is something else than it was. Whether that is news within the window."""
        newest = self._turn(now)
        newest.add(now, RETYPED, not newest.retyped)
        is_news = not any(key in one.retyped for one in self._generations)
        if len(newest.retyped) < REMEMBERED_MAX:
            newest.retyped.add(key)
        else:
            newest.untold[RETYPED] += 1
        return is_news

    def restore(self, key: bytes, altered: bool = True, retyped: bool = True) -> None:
        """This path is again what it was before that was told."""
        name = _name(key)
        for one in self._generations:
            if altered:
                one.altered.discard(key)
                one.counted.add(name, -one.counted.get(name))
            if retyped:
                one.retyped.discard(key)

    def vanish(self, key: bytes) -> None:
        """This path is gone, which counts for more than that it was changed before. That it was counted stays known."""
        for one in self._generations:
            one.altered.discard(key)
            one.retyped.discard(key)

    def reach(self, now: float, entries: int) -> None:
        """So many entries the volume has now. The most within the window tells whether it was emptied."""
        newest, self.present = self._turn(now), entries
        newest.entries, newest.least = max(newest.entries, entries), min(newest.least, entries)

    def lost(self, now: float) -> int:
        self._forget(now)
        return sum(one.lost + one.untold[LOST] for one in self._generations)

    def altered(self, now: float) -> int:
        self._forget(now)
        return self._distinct([one.altered for one in self._generations]) + sum(
            one.untold[ALTERED] for one in self._generations
        )

    def grow(self, now: float, entries: int) -> None:
        """This node's own changes have made the truth larger by so many entries, or smaller."""
        self._turn(now).grown += entries
        self.present += entries

    def others(self, now: float) -> int:
        """Entries that there would be without what this node did within the window: what shares are taken of.

        No less than there were once: what it had made others may have removed, and what it had removed made again. And
        what it made and is not remembered is there like anything else, for its loss would count.
        """
        self._forget(now)
        grown = min(
            sum(one.grown for one in self._generations), sum(len(one.made) for one in self._generations)
        )
        least = min((one.least for one in self._generations), default=0)
        return max(self.present - grown, min(self.present, least))

    def retyped(self, now: float) -> int:
        self._forget(now)
        return self._distinct([one.retyped for one in self._generations]) + sum(
            one.untold[RETYPED] for one in self._generations
        )

    def entries(self, now: float) -> int:
        self._forget(now)
        return max((one.entries for one in self._generations), default=0)

    def since(self, now: float) -> float | None:
        self._forget(now)
        return self._generations[0].began if self._generations else None

    def began(self, now: float, place: int) -> float | None:
        """When the first of those that are LOST, ALTERED or RETYPED came."""
        self._forget(now)
        return next((one.firsts[place] for one in self._generations if self._has(one, place)), None)

    @staticmethod
    def _has(one: _Generation, place: int) -> bool:
        return bool((one.lost, one.altered, one.retyped)[place] or one.untold[place])

    def clear(self) -> None:
        self._generations.clear()

    def _move(self, now: float, name: int, step: int) -> None:
        """Settle it with what went the other way before, else count it."""
        newest = self._turn(now)
        if step > 0:
            newest.add(now, LOST, not newest.lost)
        for one in self._generations:
            known = one.balance.get(name)
            if known * step < 0:
                # Settled: what is rewritten again and again leaves nothing behind.
                one.balance.add(name, step)
                one.lost -= known > 0
                return
        if len(newest.balance) < REMEMBERED_MAX or newest.balance.get(name):
            newest.balance.add(name, step)
            newest.lost += step > 0
        elif step > 0:
            newest.untold[LOST] += 1

    def _turn(self, now: float) -> _Generation:
        self._forget(now)
        if not self._generations or now - self._generations[-1].began >= self.window_s / (GENERATIONS - 1):
            self._generations.append(_Generation(now))
        return self._generations[-1]

    def _forget(self, now: float) -> None:
        while self._generations and now - self._generations[0].began >= self.window_s * GENERATIONS / (
            GENERATIONS - 1
        ):
            self._generations.popleft()

    @staticmethod
    def _distinct(sets: list[set[bytes]]) -> int:
        filled = [one for one in sets if one]
        return len(filled[0]) if len(filled) == 1 else len(set().union(*filled))


def what_is(value: bytes) -> int:
    """29 bits of all that an entry says, and its kind: never 0, and a count of a `Tally`."""
    return int.from_bytes(blake2b(value, digest_size=4).digest(), "big") >> 3 << 2 | entry_kind(value)


def kind_in(what: int) -> Kind:
    return Kind(what & 3)


def _name(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


class Usual(msgspec.Struct):
    """What a node writes in five minutes of work. `buckets`: (number since 1970, files, bytes), oldest first.

    Survives restarts: `began_ms` is when learning began, on the coordinator's clock.
    """

    began_ms: int
    buckets: list[tuple[int, int, int]] = []

    def learn(self, number: int, files: int, size: int) -> None:
        """A bucket is full; idle ones are not kept."""
        if (files or size) and (not self.buckets or number > self.buckets[-1][0]):
            self.buckets.append((number, files, size))
        while self.buckets and self.buckets[0][0] <= number - USUAL_BUCKETS:
            del self.buckets[0]

    def files(self) -> int:
        return int(median([one[1] for one in self.buckets])) if self.buckets else 0

    def bytes(self) -> int:
        return int(median([one[2] for one in self.buckets])) if self.buckets else 0

    def pace(self) -> tuple[float, float]:
        """Files/s and bytes/s."""
        return self.files() / USUAL_BUCKET_S, self.bytes() / USUAL_BUCKET_S


def middle(values: Sequence[int]) -> int:
    return int(median(values)) if values else 0


def deviation(values: Sequence[int]) -> int:
    """The median of the distances from the median."""
    centre = middle(values)
    return middle([abs(value - centre) for value in values])
