"""How much of a writer's time the watcher may take: what the kernel is not asked to tell while too much is written.

Each event is made in the writer's own time, about a microsecond of it, also where the kernel folds it into one that is
queued already. A program that only hands bytes to the page cache pays a fifth of its time for that. So there is a
budget. Within it everything is told. Above it, news of contents and attributes is left out; what is made, moved and
deleted is told always, with whose hand it was: each of these is one event for a name, and no look would find
them in its place. Where most of what is written is new, the closing of files is left out, too: their making was told.
Where files are rewritten in place, closing is all that tells of them, and stays.

A file that is written without a pause (see `muted`) leaves out news of writes alone, once its writers make so many
calls that even an event which the kernel ignores, a quarter of a microsecond, takes a hundredth of their time.

Whatever is left out is told again for WINDOW_S of every PERIOD_S: a sample, which names hands and finds files that
have been open for long. Once a sample is calm, everything is told again, and then a scan looks for what was
missed; when that proved wrong a moment later, more calm samples in a row are wanted. Scans are asked for in between
as well, so that nothing stays unseen for long. Nothing of this is done where a scan takes long (SCAN_MAX_S).

Pure: times are the caller's. Rejected: reading less often (measured: it changes nothing, the writer pays all the same);
an estimate of the writer's speed from outside; the scan of only those directories that the samples named, which is
not complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .events import What

# News of contents and attributes, each kind counted once for each name and read. A new small file is three of
# these, and six to eight events to the kernel: some two hundredths of a writer's time.
NEWS_S: Final = 10_000.0
CREDIT: Final = (
    6_000.0  # so many at once are told whatever their rate: 2,000 new files are no reason for a scan
)
CALM_NEWS_S: Final = NEWS_S / 2
HOT_WRITES_S: Final = 30_000.0
PERIOD_S: Final = 1.0
WINDOW_S: Final = 0.02
CALM_MAX: Final = 8  # samples in a row
AGAIN_S: Final = 30.0  # so soon after an end, the next one takes twice as many
SCAN_FIRST_S: Final = 2.0
SCAN_EVERY_S: Final = 10.0
SCAN_SHARE: Final = 20.0  # a scan is asked for after so many times as long as it takes
SCAN_MAX_S: Final = 3.0
CONTENT: Final = What.MODIFIED | What.ATTRIBUTES
NOTHING: Final = What(0)


@dataclass(frozen=True, slots=True)
class Heard:
    """What was told of one volume. `news`: kinds of news that could be left out, a name's once for each read.

    `made` and `rewritten`: names that were created, and that were closed after writing and not created.
    """

    news: int = 0
    made: int = 0
    rewritten: int = 0


class Budget:
    """Of one volume. `left_out`: what is not to be told now. `active`: something may have been missed."""

    def __init__(self) -> None:
        self.left_out = NOTHING
        self.active = False
        self.burst = False  # and it was too many names, not a file that is written without a pause
        self._credit, self._at = CREDIT, 0.0
        self._made = self._rewritten = 0
        self._window: float | None = None  # since when the sample under way is taken
        self._window_due = self._scan_due = 0.0
        self._sampled = 0
        self._calm, self._calm_wanted = 0, 1
        self._ended = float("-inf")

    def due(self) -> float:
        """When `step` should be called at the latest."""
        if not self.active:
            return float("inf")
        return self._window_due if self._window is None else self._window + WINDOW_S

    def step(self, now: float, heard: Heard, hot_writes_s: float, scan_s: float | None) -> bool:
        """Take in what was heard since the last step; True where everything is told again and a scan is due.

        `hot_writes_s`: how many calls the writers of files make that are written without a pause. `scan_s`: how long a
        scan takes; None: not known yet.
        """
        hot = hot_writes_s >= HOT_WRITES_S
        if self.active:
            return self._sample(now, heard, hot)
        self._spend(now, heard)
        if (self._credit < 0 or hot) and scan_s is not None and scan_s <= SCAN_MAX_S:
            again = now - self._ended < AGAIN_S
            self._calm, self._calm_wanted = 0, min(2 * self._calm_wanted, CALM_MAX) if again else 1
            self.active, self.burst = True, self._credit < 0
            self._scan_due = now + SCAN_FIRST_S
            self._leave_out(now)
        return False

    def wants_scan(self, now: float, scan_s: float) -> bool:
        """Whether it is time for a scan while things are left out; then the next is due later."""
        if not self.active or now < self._scan_due:
            return False
        self._scan_due = now + max(SCAN_EVERY_S, scan_s * SCAN_SHARE)
        return True

    def _spend(self, now: float, heard: Heard) -> None:
        self._credit = min(CREDIT, self._credit + (now - self._at) * NEWS_S)
        self._at = now
        if self._credit >= CREDIT:
            self._made = self._rewritten = 0
        self._credit = max(-1.0, self._credit - heard.news)
        self._made += heard.made
        self._rewritten += heard.rewritten

    def _leave_out(self, now: float) -> None:
        self.left_out = CONTENT if self.burst else What.MODIFIED
        if self.burst and self._made >= self._rewritten:
            self.left_out |= What.CLOSED
        self._window, self._window_due = None, now + PERIOD_S

    def _sample(self, now: float, heard: Heard, hot: bool) -> bool:
        if self._window is None:
            if now >= self._window_due:
                self._window, self.left_out = now, NOTHING
                self._sampled = self._made = self._rewritten = 0
            return False
        self._sampled += heard.news
        self._made += heard.made
        self._rewritten += heard.rewritten
        if now - self._window < WINDOW_S:
            return False
        self.burst = self._sampled >= CALM_NEWS_S * (now - self._window)
        self._calm = 0 if self.burst or hot else self._calm + 1
        if self._calm < self._calm_wanted:
            self._leave_out(now)
            return False
        self.active, self.left_out, self._window = False, NOTHING, None
        self._credit, self._at, self._ended = CREDIT, now, now
        return True
