"""Which entries the truth had earlier, path by path: what tells lag from divergence.

Kept as the sequence of truth roots; the index of changed paths is derived from the differences of
neighbours, so it is the same after a restart. Bounded in roots and in changed paths: what is older is
forgotten, and a node that returns from longer ago is judged by what it held itself (see `judge`).
"""

from __future__ import annotations

from collections.abc import Sequence

from closeranks_proto.errors import MissingObject

from .truth import Differ

HISTORY_MAX_ROOTS = 512
HISTORY_MAX_CHANGES = 100_000  # about 400 bytes each: 40 MB after a change of the whole volume

Order = tuple[int, bytes]


class TruthHistory:
    """The truth's earlier entries. Order numbers grow with each move of the truth."""

    def __init__(self, differ: Differ, roots: Sequence[Order]) -> None:
        self._differ = differ
        self.roots = list(roots)  # (order, root), oldest first; the last is the present truth
        self._values: dict[bytes, list[tuple[int, bytes | None]]] | None = None
        self._changes = 0
        self._steps: dict[int, tuple[bytes, ...]] = {}  # what each step changed, by the order after it

    def move(self, root: bytes) -> None:
        """The truth is `root` from now on."""
        self._index()
        order = self.roots[-1][0] + 1 if self.roots else 1
        if self.roots:
            self._add(self.roots[-1], (order, root))
        self.roots.append((order, root))
        if len(self.roots) > HISTORY_MAX_ROOTS or self._changes > HISTORY_MAX_CHANGES:
            self.forget(self.roots[min(len(self.roots) - 1, len(self.roots) // 4 + 1)][0])

    def clear(self) -> None:
        """There is no truth, and there never was one."""
        self.roots, self._values, self._changes = [], None, 0
        self._steps.clear()

    def forget(self, before: int) -> None:
        """Drop roots with a lower order number; the present truth stays."""
        self.roots = [one for one in self.roots[:-1] if one[0] >= before] + self.roots[-1:]
        first = self.roots[0][0] if self.roots else before
        for order in [one for one in self._steps if one <= first]:
            self._drop(self._steps.pop(order))

    def latest_order(self, key: bytes, value: bytes | None) -> int | None:
        """The newest order number under which the truth of `key` was `value`; None: it never was."""
        for order, held in reversed(self._index().get(key, ())):
            if held == value:
                return order
        return None

    def earliest_order(self, key: bytes, value: bytes | None) -> int | None:
        """The oldest order number under which the truth of `key` was `value`, as far as is known."""
        for order, held in self._index().get(key, ()):
            if held == value:
                return order
        return None

    def changed(self, order: int) -> tuple[bytes, ...] | None:
        """What the step to this order changed; None: longer ago than is known."""
        self._index()
        return self._steps.get(order)

    def newest_order(self, key: bytes) -> int | None:
        """The order number of the step that made the truth of `key` what it is; None: longer ago than is known."""
        known = self._index().get(key)
        return None if not known else known[-1][0]

    def _index(self) -> dict[bytes, list[tuple[int, bytes | None]]]:
        """The index, made anew where it is not at hand. Roots whose pages are gone are forgotten."""
        while self._values is None:
            self._values, self._changes = {}, 0
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
        changed = self._differ.diff(earlier[1], later[1])
        self._steps[later[0]] = tuple(changed)
        for key, (before, after) in changed.items():
            known = self._values.setdefault(key, [(earlier[0], before)])
            known.append((later[0], after))
        self._changes += len(changed)

    def _drop(self, changed: tuple[bytes, ...]) -> None:
        """The oldest step is forgotten: of what it changed, the value before it."""
        assert self._values is not None, "steps are known with their index"
        for key in changed:
            known = self._values[key]
            del known[0]
            if len(known) == 1:
                del self._values[key]
        self._changes -= len(changed)
