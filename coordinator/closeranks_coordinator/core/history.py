"""Which entries the truth had earlier, path by path: what tells lag from divergence.

Kept as the sequence of truth roots; the index of changed paths is derived from the differences of
neighbours, so it is the same after a restart. Bounded in roots and in bytes of memory: what is older is
forgotten, and a node that returns from longer ago is judged by what it held itself (see `judge`). A path costs one
flat tuple, which the garbage collector need not look at: lists of pairs were half as much again, and their pages of
memory stayed behind when they were gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from closeranks_proto.errors import MissingObject
from closeranks_proto.limits import MIB

from .truth import Differ

HISTORY_MAX_ROOTS = 512
# Of the index in memory: some 45,000 changed paths, 20 s of 2,000 new files/s. A lag that is longer is told
# from divergence by what the node held.
HISTORY_MAX_BYTES = 12 * MIB
# Of a changed path besides its key and its new value: their two objects (33 each), a place in the dictionary (60),
# the tuple (72), the step's reference (8).
CHANGE_BYTES = 206

Order = tuple[int, bytes]
Known = tuple[int | bytes | None, ...]  # order, value, order, value, ...: oldest first


class TruthHistory:
    """The truth's earlier entries. Order numbers grow with each move of the truth."""

    def __init__(self, differ: Differ, roots: Sequence[Order], now: float) -> None:
        self._differ = differ
        self.roots = list(roots)  # (order, root), oldest first; the last is the present truth
        # When each was left, monotonic. What an earlier process left counts from the start of this one: a wall clock
        # that is set forward must not make the fleet forget what it was a moment ago.
        self._left = {order: now for order, _ in self.roots[:-1]}
        self.bytes = 0  # of memory that the index takes
        self._values: dict[bytes, Known] | None = None
        self._steps: dict[int, tuple[bytes, ...]] = {}  # what each step changed, by the order after it

    def move(self, root: bytes, now: float) -> None:
        """The truth is `root` from now on."""
        self._index()
        order = self.roots[-1][0] + 1 if self.roots else 1
        if self.roots and len(self._differ.diff(self.roots[-1][1], root)) * CHANGE_BYTES > HISTORY_MAX_BYTES:
            self.clear()  # a step that alone is more than may be kept: it need not be gone through to be forgotten
            self._values = {}
        elif self.roots:
            self._add(self.roots[-1], (order, root))
            self._left[self.roots[-1][0]] = now
        self.roots.append((order, root))
        while len(self.roots) > 1 and (len(self.roots) > HISTORY_MAX_ROOTS or self.bytes > HISTORY_MAX_BYTES):
            self.forget(self.roots[min(len(self.roots) - 1, len(self.roots) // 8 + 1)][0])

    def clear(self) -> None:
        """There is no truth, and there never was one."""
        self.roots, self._values, self.bytes = [], None, 0
        self._steps.clear()
        self._left.clear()

    def forget_left(self, before: float) -> None:
        """Drop what the truth left before then (monotonic)."""
        old = [order for order, at in self._left.items() if at < before]
        if old:
            self.forget(max(old) + 1)

    def forget(self, before: int) -> None:
        """Drop roots with a lower order number; the present truth stays."""
        self.roots = [one for one in self.roots[:-1] if one[0] >= before] + self.roots[-1:]
        first = self.roots[0][0] if self.roots else before
        self._left = {order: at for order, at in self._left.items() if order >= first}
        for order in [one for one in self._steps if one <= first]:
            self._drop(self._steps.pop(order))

    @property
    def is_complete(self) -> bool:
        """Whether every truth that there ever was is known."""
        return not self.roots or self.roots[0][0] == 1

    def among(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the keys on which the truth has moved, as far as is known."""
        index = self._index()
        return [key for key in keys if key in index] if index else []

    def latest_order(self, key: bytes, value: bytes | None) -> int | None:
        """The newest order number under which the truth of `key` was `value`; None: it never was."""
        known = self._index().get(key, ())
        for at in range(len(known) - 1, 0, -2):
            if known[at] == value:
                return _order(known[at - 1])
        return None

    def earliest_order(self, key: bytes, value: bytes | None) -> int | None:
        """The oldest order number under which the truth of `key` was `value`, as far as is known."""
        known = self._index().get(key, ())
        for at in range(1, len(known), 2):
            if known[at] == value:
                return _order(known[at - 1])
        return None

    def left_for(self, key: bytes, value: bytes | None, by: int) -> tuple[bytes | None] | None:
        """What the truth of `key` left `value` for, when it was it last up to the order `by`, and is it again now.

        None where it is not, or never went away since.
        """
        known = self._index().get(key, ())
        if not known or known[-1] != value or _order(known[-2]) <= by:
            return None
        for at in range(len(known) - 3, 0, -2):
            if known[at] == value and _order(known[at - 1]) <= by:
                return (_value(known[at + 2]),)
        return None

    def after(self, order: int) -> list[int]:
        """The order numbers of the steps since, newest first."""
        return [one for one, _ in takewhile(lambda one: one[0] > order, reversed(self.roots))]

    def changed(self, order: int) -> tuple[bytes, ...] | None:
        """What the step to this order changed; None: longer ago than is known."""
        self._index()
        return self._steps.get(order)

    def entries(self) -> Iterator[bytes]:
        """All entries that the truth is remembered to have had on paths that have changed, in no order."""
        for known in self._index().values():
            yield from (value for value in known[1::2] if isinstance(value, bytes))

    def newest_order(self, key: bytes) -> int | None:
        """The order number of the step that made the truth of `key` what it is; None: longer ago than is known."""
        known = self._index().get(key)
        return None if not known else _order(known[-2])

    def _index(self) -> dict[bytes, Known]:
        """The index, made anew where it is not at hand. Roots whose pages are gone are forgotten."""
        while self._values is None:
            self._values, self.bytes = {}, 0
            self._steps.clear()
            for earlier, later in zip(self.roots, self.roots[1:], strict=False):
                try:
                    self._add(earlier, later)
                except MissingObject:
                    self.forget(later[0])
                    self._values = None
                    break
        return self._values

    def _add(self, earlier: Order, later: Order) -> None:
        assert self._values is not None, "called while the index is being made"
        values, size = self._values, 0
        changed = self._differ.diff(earlier[1], later[1])
        self._steps[later[0]] = tuple(changed)
        for key, (before, after) in changed.items():
            values[key] = (*values.get(key, (earlier[0], before)), later[0], after)
            size += _bytes_of(key, after)
        self.bytes += size

    def _drop(self, changed: tuple[bytes, ...]) -> None:
        """The oldest step is forgotten: of what it changed, the value before it."""
        assert self._values is not None, "steps are known with their index"
        values = self._values
        for key in changed:
            known = values[key]
            self.bytes -= _bytes_of(key, _value(known[3]))
            if len(known) == 4:
                del values[key]
            else:
                values[key] = known[2:]


def _bytes_of(key: bytes, value: bytes | None) -> int:
    return CHANGE_BYTES + len(key) + len(value or b"")


def _order(part: int | bytes | None) -> int:
    assert isinstance(part, int), "orders stand in the even places"
    return part


def _value(part: int | bytes | None) -> bytes | None:
    assert not isinstance(part, int), "values stand in the odd places"
    return part
