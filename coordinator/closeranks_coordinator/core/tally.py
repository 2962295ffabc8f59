"""Counts by a 64-bit name, 12 bytes of memory for a place in a table that is at most two thirds full.

What a guard remembers of each content that came or went in ten minutes. A dictionary of as many integers takes 90
bytes for each, and a writer of 2,000 files a second fills it by 10 MB a minute; here it is 3. Open addressing in
two arrays: names, and counts beside them. A count of zero is an empty place that a search goes on behind; they are
swept out when the table is full, so what comes and goes for ever takes no room. Small tables side by side, chosen by a
name's lowest bits: a table that grows is made anew in milliseconds, and the event loop does not notice.

Rejected: a counting filter (a loss that is taken for a move is a loss that no guard sees), sorted arrays (an
insertion moves half of it).
"""

from __future__ import annotations

from array import array

_PARTS_BITS = 4
_FIRST_PLACES = 16
_MASK = (1 << 64) - 1
_MIX = 0x9E3779B97F4A7C15  # 2^64 by the golden ratio: names that differ in few bits do not crowd
_PLACE_BYTES = 12


class Tally:
    """What has no count counts zero; none goes beyond 31 bits."""

    def __init__(self) -> None:
        self._parts = [_Table() for _ in range(1 << _PARTS_BITS)]

    def __len__(self) -> int:
        """Names whose count is not zero."""
        return sum(part.live for part in self._parts)

    def get(self, name: int) -> int:
        mixed = (name * _MIX) & _MASK or 1
        part = self._parts[mixed & ((1 << _PARTS_BITS) - 1)]
        return part.counts[part.find(mixed)]

    def add(self, name: int, step: int) -> None:
        mixed = (name * _MIX) & _MASK or 1
        self._parts[mixed & ((1 << _PARTS_BITS) - 1)].add(mixed, step)

    @property
    def bytes(self) -> int:
        """Of memory in its tables."""
        return sum(_PLACE_BYTES * len(part.counts) for part in self._parts)


class _Table:
    """One part. A name's search begins at its high bits; zero is the mark of a place that was never taken."""

    __slots__ = ("counts", "live", "names", "taken")

    def __init__(self) -> None:
        self.names = array("Q", bytes(8 * _FIRST_PLACES))
        self.counts = array("i", bytes(4 * _FIRST_PLACES))
        self.live = self.taken = 0

    def find(self, name: int) -> int:
        """Its place, or where it would be put."""
        names, last = self.names, len(self.names) - 1
        at = (name >> 20) & last
        while names[at] and names[at] != name:
            at = (at + 1) & last
        return at

    def add(self, name: int, step: int) -> None:
        at = self.find(name)
        if not self.names[at]:
            if 3 * (self.taken + 1) > 2 * len(self.names):
                self._grow()
                at = self.find(name)
            self.names[at] = name
            self.taken += 1
        before = self.counts[at]
        after = self.counts[at] = before + step
        self.live += (after != 0) - (before != 0)

    def _grow(self) -> None:
        """Make it anew without what counts zero, with room for as much again."""
        names, counts = self.names, self.counts
        places = _FIRST_PLACES
        while 3 * (self.live + 1) > places:
            places *= 2
        self.names, self.counts = array("Q", bytes(8 * places)), array("i", bytes(4 * places))
        self.taken = self.live
        for name, count in zip(names, counts, strict=True):
            if count:
                at = self.find(name)
                self.names[at], self.counts[at] = name, count
