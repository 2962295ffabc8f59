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
from .truth import Differ

STEPS_MAX = 512  # of one node; beyond it newer steps are not counted until older ones are reached


@dataclass(slots=True)
class Lateness:
    """The steps of the truth that one node may still lack: (order, when, what they changed), oldest first.

    Order 0 is what it lacked when it was first looked at.
    """

    steps: deque[tuple[int, float, Differing]] = field(default_factory=deque)

    def follow(
        self, differ: Differ, history: TruthHistory, before: Analysis | None, after: Analysis, now: float
    ) -> float | None:
        """Since when something has been lacking, monotonic; None while nothing is, or nobody knows since when."""
        steps = self.steps
        if not after.lagging:
            steps.clear()
            return None
        if before is None:
            steps.clear()
            steps.append((0, now, after.raw))
        elif after.truth != before.truth and len(steps) < STEPS_MAX:
            steps.append((history.roots[-1][0], now, differ.diff(before.truth, after.truth)))
        while steps and not _lacks(history, steps[0][0], steps[0][2], after):
            steps.popleft()
        return steps[0][1] if steps else None


def _lacks(history: TruthHistory, order: int, changed: Differing, after: Analysis) -> bool:
    """Whether the node has not yet got something that this step of the truth changed."""
    for key, (earlier, later) in changed.items():
        if key not in after.lagging:
            continue
        value = after.raw[key][0]
        if not order:
            if value == earlier:
                return True
        elif value != later and (history.latest_order(key, value) or 0) < order:
            return True
    return False
