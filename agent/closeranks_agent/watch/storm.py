"""When so much is written at once that telling of it would cost its writer more than it may: a storm. Pure.

An event costs whoever causes it 0.6 to 0.9 us of its own time, whatever is done with it here. So what is told has a
budget, which a writer of 3,700 files a second reaches. Beyond it the kernel is asked to tell nothing but short samples:
whose hand writes, and how much. What they do not show is found by scans, at the pace of an agent that does not watch
and once behind the storm. When a sample shows less than half of the budget it is prolonged, and where that stays
so, the storm is over.

Where twice the budget is told, nothing is looked at until that ends or is a storm, 0.7 s later at most: of the first
tenth of a second of a fast writer a look takes as much as the events do, by its work beside it and by the disk that is
flushed for it.

Counted are names and what was told of each (`What`), not the kernel's events, most of which were merged before anybody
could count them: a file that `tar` makes is nine events and four of these. What is removed does not count: the brake
must see a deletion whole, while it goes on.

Rejected: a smaller mask instead of none (one event a file costs 4% already); a sample of 10 ms as the end of a storm
(a writer that waits for its disk shows nothing in it); scans a fifth of the time while it lasts (what they read and
commit took a quarter of `tar`'s pace from it, on two cores).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

BUDGET_S: Final = 15_000.0  # 2.7% of a core, at nine events for four
BURST: Final = 4_500.0  # what may be told at once beyond it: 70 ms of a fast writer, 1,400 files
BREWING_S: Final = 2 * BUDGET_S  # the pace of what is a storm soon, unless it ends: within BURST / BUDGET_S
BREWING: Final = 800.0  # what may be told at once beyond that: 10 ms of a fast writer
BREWED_S: Final = 0.05  # so long behind it looks begin again
SAMPLE_S: Final = 0.01
SAMPLE_EVERY_S: Final = 0.5
CALM_SHARE: Final = 0.5  # of the budget
CALM_S: Final = 0.1  # so long a prolonged sample must show less
SCAN_EVERY_MIN_S: Final = 5.0


@dataclass(slots=True)
class Storm:
    """Of one volume. Times are the caller's, monotonic."""

    began: float | None = None
    sample_due: float = 0.0
    scan_due: float = 0.0
    known: float = 0.0  # up to when a scan has seen what was written
    pace: float = 0.0  # names a second, by the last sample
    scan_every_s: float = SCAN_EVERY_MIN_S
    looks_due: float = 0.0  # until then a storm is brewing, and looks wait
    due: float = inf  # when it begins, if as much is told as between the last two calls
    _left: float = BURST
    _quiet: float = BREWING
    _at: float = 0.0

    def told(self, weight: int, now: float) -> bool:
        """So much was told; whether that is more than the budget, and a storm should begin."""
        elapsed_s = now - self._at
        self._left = min(BURST, self._left + elapsed_s * BUDGET_S) - weight
        self._quiet = max(-BREWED_S * BREWING_S, min(BREWING, self._quiet + elapsed_s * BREWING_S) - weight)
        self.looks_due = now + max(0.0, -self._quiet / BREWING_S)
        beyond = weight - elapsed_s * BUDGET_S
        self.due = now + max(0.0, self._left) * elapsed_s / beyond if beyond > 0 else inf
        self._at = now
        return self._left < 0 and self.began is None

    def begin(self, now: float, scan_interval_s: float) -> None:
        self.began = self.known = now
        self.scan_every_s = max(SCAN_EVERY_MIN_S, scan_interval_s)
        self.sample_due, self.scan_due, self.pace = now + SAMPLE_EVERY_S, now + self.scan_every_s, 0.0

    def is_calm(self, weight: int, seconds: float) -> bool:
        """Whether so much, told in so many seconds, is little enough to end a storm."""
        return weight < CALM_SHARE * BUDGET_S * max(seconds, SAMPLE_S)

    def sampled(self, names: int, seconds: float, now: float) -> None:
        """A sample showed so many changed names, and the storm goes on."""
        self.pace = names / max(seconds, SAMPLE_S)
        self.sample_due = now + SAMPLE_EVERY_S

    def scanned(self, started: float, now: float) -> None:
        """A scan that began then has ended: the next one waits."""
        self.known = max(self.known, started)
        self.scan_due = now + self.scan_every_s

    def unseen(self, now: float) -> int:
        """How many names have changed that no scan has seen yet, by the pace of the last sample."""
        return int(self.pace * max(0.0, now - self.known))

    def end(self, now: float) -> None:
        """It is over, and the budget is whole again."""
        self.began, self._left, self._at = None, BURST, now
