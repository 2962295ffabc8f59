"""The difference of two trees, by merging them from the left and skipping what they share.

Two cursors stand at the first element of each tree that is not consumed: an item, or a ref to everything up to
its key. Equal refs at both heads are equal subtrees with nothing before them: both are skipped unread.
Otherwise the head of the higher level is entered, and items are compared as in any merge. Each
difference thus costs the pages on its path in both trees and at most a neighbour a level: O(log n).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .pages import Page, read_child


@dataclass(frozen=True, slots=True)
class Difference:
    """One key where two trees differ; None where a tree does not have it."""

    key: bytes
    ours: bytes | None
    theirs: bytes | None


class _Cursor:
    """A position in one tree within [low, high). `page` is None behind the end."""

    __slots__ = ("_high", "_low", "_path", "_read", "index", "page")

    def __init__(self, read: Callable[[bytes], Page], root: bytes, low: bytes, high: bytes | None) -> None:
        self._read = read
        self._low = low
        self._high = high
        self._path: list[tuple[Page, int]] = []
        self.page: Page | None = None
        self.index = 0
        self._stand(read(root))

    def enter(self) -> None:
        """From a ref to the first element below it."""
        assert self.page is not None
        self._path.append((self.page, self.index))
        self._stand(read_child(self._read, self.page, self.index))

    @property
    def is_unbounded(self) -> bool:
        """Whether elements may be passed over without a look at where the range ends."""
        return self._high is None

    def advance(self, count: int = 1) -> None:
        """Behind the present element, or so many of a page."""
        assert self.page is not None
        self.index += count
        self._settle(self.page)

    def _stand(self, page: Page) -> None:
        self.page = page
        self.index = bisect_left(page.keys, self._low) if self._low else 0
        self._settle(page)

    def _settle(self, page: Page) -> None:
        """Leave pages that are done, and stop at `high`.

        What is below a ref may begin right behind its left neighbour's key.
        """
        while self.index == len(page.keys):
            if not self._path:
                self.page = None
                return
            page, self.index = self._path.pop()
            self.index += 1
            self.page = page
        if self._high is None:
            return
        if page.level:
            beyond = self.index > 0 and page.keys[self.index - 1] >= self._high
        else:
            beyond = page.keys[self.index] >= self._high
        if beyond:
            self.page = None


def differences(
    read: Callable[[bytes], Page], ours: bytes, theirs: bytes, low: bytes, high: bytes | None
) -> Iterator[Difference]:
    """The differences within [low, high) in order of keys."""
    own = _Cursor(read, ours, low, high)
    other = _Cursor(read, theirs, low, high)
    while own.page is not None or other.page is not None:
        left, right = own.page, other.page
        if left is not None and right is not None and left.level == right.level:
            if not left.level:
                yield from _merge(own, other, left, right)
            elif left.items[own.index] == right.items[other.index]:
                own.advance()
                other.advance()
            else:
                own.enter()
                other.enter()
        elif right is None or (left is not None and left.level > right.level):
            yield from _take(own, ours=True)
        else:
            yield from _take(other, ours=False)


def _take(cursor: _Cursor, ours: bool) -> Iterator[Difference]:
    """Enter a ref; items behind the other tree's end are only in this one."""
    assert cursor.page is not None
    if cursor.page.level:
        cursor.enter()
        return
    key, value = cursor.page.keys[cursor.index], cursor.page.values[cursor.index]
    cursor.advance()
    yield Difference(key, value, None) if ours else Difference(key, None, value)


def _merge(own: _Cursor, other: _Cursor, left: Page, right: Page) -> Iterator[Difference]:
    """Compare items until one of the two leaves is done."""
    keys, other_keys, values, other_values = left.keys, right.keys, left.values, right.values
    while own.page is left and other.page is right:
        if own.is_unbounded:
            start, other_start = own.index, other.index
            room = min(len(keys) - start, len(other_keys) - other_start)
            same = 0
            while (
                same < room
                and keys[start + same] == other_keys[other_start + same]
                and values[start + same] == other_values[other_start + same]
            ):
                same += 1
            if same:
                own.advance(same)
                other.advance(same)
                continue
        key, other_key = keys[own.index], other_keys[other.index]
        if key == other_key:
            value, other_value = values[own.index], other_values[other.index]
            own.advance()
            other.advance()
            if value != other_value:
                yield Difference(key, value, other_value)
        elif key < other_key:
            value = values[own.index]
            own.advance()
            yield Difference(key, value, None)
        else:
            value = other_values[other.index]
            other.advance()
            yield Difference(other_key, None, value)
