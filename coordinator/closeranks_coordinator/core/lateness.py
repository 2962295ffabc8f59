"""Since when a node lacks something of the truth: the age of the oldest step that it has not got.

Under a steady stream of writes a node is always a little behind; what tells is how old the oldest thing is
that it lacks, not since when it has been behind at all. Each step of the truth is looked at from the oldest on,
until one is found of which the node still lacks something: all of it together costs what the steps changed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .history import TruthHistory
from .judge import Analysis, Differing

STEPS_MAX = 512  # of one node; beyond it newer steps are not counted until older ones are reached


@dataclass(slots=True)
class Lateness:
    """The steps of the truth that one node may still lack: (order, when), oldest first.

    Order 0 is what it lacked when it was first looked at: `first`. What other steps changed is the history's to
    know, once for all nodes; of a step that it has forgotten, everything older is what is lacking. `witness` is the
    path that lacks the oldest of that, `witness_order` how far it has got: until that changes nothing else need be
    looked at, for a node that is 100,000 paths behind has hundreds of such steps.
    """

    steps: deque[tuple[int, float]] = field(default_factory=deque)
    first: Differing = field(default_factory=dict)
    witness: bytes | None = None
    witness_order: int = 0

    def follow(
        self, history: TruthHistory, before: Analysis | None, after: Analysis, now: float
    ) -> float | None:
        """Since when something has been lacking, monotonic; None while nothing is, or nobody knows since when."""
        steps = self.steps
        if not after.lagging:
            steps.clear()
            self.first = {}
            return None
        if before is None:
            steps.clear()
            steps.append((0, now))
            self.first = after.raw
        elif after.truth != before.truth and len(steps) < STEPS_MAX:
            steps.append((history.roots[-1][0], now))
        while steps and not self._lacks(history, steps[0][0], after):
            if not steps.popleft()[0]:
                self.first = {}
        return steps[0][1] if steps else None

    @property
    def at_least(self) -> bool:
        """Whether it lacks something since before it was first looked at: what a restart forgets is since when."""
        return bool(self.steps) and not self.steps[0][0]

    def _lacks(self, history: TruthHistory, order: int, after: Analysis) -> bool:
        """Whether the node has not yet got something that this step of the truth changed."""
        raw, lagging = after.raw, after.lagging
        if not order:
            return any(key in lagging and raw[key][0] == values[0] for key, values in self.first.items())
        changed = history.changed(order)
        if changed is None:
            return self._oldest(history, after) < order
        return any(
            key in lagging and (history.latest_order(key, raw[key][0]) or 0) < order for key in changed
        )

    def _oldest(self, history: TruthHistory, after: Analysis) -> int:
        """Up to which step of the truth the node has got, as far as the history can tell; all it lacks is looked at."""
        raw, lagging, order_of = after.raw, after.lagging, history.latest_order
        if self.witness is not None and self.witness in lagging:
            order = order_of(self.witness, raw[self.witness][0]) or 0
            if order == self.witness_order:
                return order
        oldest = -1
        for key in lagging:
            order = order_of(key, raw[key][0]) or 0
            # Of several the last one: pushes go in order of the paths, so it stays the longest.
            if order < oldest or oldest < 0 or (order == oldest and key > (self.witness or b"")):
                oldest, self.witness = order, key
        self.witness_order = oldest
        return oldest
