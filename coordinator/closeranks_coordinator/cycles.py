"""When the interpreter looks for cycles of dead objects. Left to itself it looks at everything that lives, in the
middle of a storm: 90 to 230 ms with a thousand sessions, during which nobody is answered.

What is young is collected as ever (generations 0 and 1). What outlived them is gone through once, in a *sweep* of some
30,000 objects, and then set aside (`gc.freeze`): nothing looks at it any more. Sessions end by their reference counts
and leave no cycles behind, set aside or not (`test_sessions.py` holds them to it). Should a cycle die there all the
same, a *whole* collection finds it. It is due when what is set aside has grown by GROWN_IDLE objects since the last
one, and waits for a moment with little to do, but not beyond GROWN_MAX. So dead cycles never take more than a bounded
share of memory, and a fleet of 1,000 nodes in order, which is some 300,000 objects, never causes one.

Rejected: no collections at all (one leaking cycle would be for ever), whole ones on a timer (each is the block that
this is to avoid), higher thresholds (the same block, less often).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

log = logging.getLogger("closeranks.coordinator")

LOOK_EVERY_S = 0.05
# Each pass of generation 1 hands on what outlived 10 passes of generation 0, of 700 objects each.
SWEEP_AFTER_PASSES = 4
NEVER = 1_000_000_000  # passes until the interpreter would go through everything by itself
# To count what is set aside is to go through it: 3 ms for 300,000 objects, and 40 ms when they are more and others use
# the processor's cache. So it waits for a moment with little to do, and for memory that has changed at all.
COUNT_EVERY_S = 10.0
COUNT_AFTER_BLOCKS = 100_000  # of Python's memory, more or less than at the last count; every object has one
GROWN_IDLE = 500_000  # objects: some 50 MB, and 0.1 s to go through them
GROWN_MAX = 4_000_000
IDLE_SHARE = 0.25  # of a core: below it there is little to do


class Act(Enum):
    NOTHING = auto()
    SWEEP = auto()
    WHOLE = auto()


@dataclass(slots=True)
class Cycles:
    """The policy. `kept`: objects that were set aside right after the last whole collection."""

    kept: int

    def due(self, passes: int, aside: int, share: float) -> Act:
        """What is due. `passes` of generation 1 since the last sweep; `aside`: objects set aside; `share` of a core
        that the process has used lately."""
        grown = aside - self.kept
        if grown >= GROWN_MAX or (grown >= GROWN_IDLE and share < IDLE_SHARE):
            return Act.WHOLE
        return Act.SWEEP if passes >= SWEEP_AFTER_PASSES else Act.NOTHING


class Collector:
    """Carries the policy out, on the interpreter that it runs in. `begin` once, `end` takes it back."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, spent: Callable[[], float] = time.process_time
    ) -> None:
        self._clock, self._spent = clock, spent
        self._thresholds = gc.get_threshold()
        self._looked = clock(), spent()
        self._cycles = Cycles(0)
        self._aside, self._blocks = 0, 0  # as counted last
        self._asked_at = clock()  # whether it is to be counted

    def begin(self) -> None:
        """What is loaded by now stays: set it aside, and take full collections into our own hands."""
        gc.set_threshold(*self._thresholds[:2], NEVER)
        self._whole()

    def end(self) -> None:
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def look(self) -> Act:
        """Do what is due, and say what it was."""
        (before, used), now, spent = self._looked, self._clock(), self._spent()
        self._looked = now, spent
        share = (spent - used) / max(now - before, 1e-3)
        if now >= self._asked_at + COUNT_EVERY_S:
            self._asked_at = now
            if self._may_count(share):
                self._count()
        act = self._cycles.due(gc.get_count()[2], self._aside, share)
        match act:
            case Act.SWEEP:
                self._set_aside()
            case Act.WHOLE:
                self._whole()
        return act

    def _set_aside(self) -> int:
        """Go through what is not set aside yet, and set aside what lives; how many dead ones were found."""
        found = gc.collect()
        gc.freeze()
        return found

    def _may_count(self, share: float) -> bool:
        moved = abs(sys.getallocatedblocks() - self._blocks)
        return moved >= (COUNT_AFTER_BLOCKS if share < IDLE_SHARE else GROWN_MAX)

    def _count(self) -> None:
        self._aside, self._blocks = gc.get_freeze_count(), sys.getallocatedblocks()
        self._cycles.kept = min(
            self._cycles.kept, self._aside
        )  # what a large fleet left is no room for dead cycles

    def _whole(self) -> None:
        began = self._clock()
        gc.unfreeze()
        found = self._set_aside()
        self._count()
        self._cycles.kept = self._aside
        log.debug("%d objects live, %d in dead cycles, %.3f s", self._aside, found, self._clock() - began)

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()
