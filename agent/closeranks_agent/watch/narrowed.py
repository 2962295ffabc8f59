"""Keeping to the budget of events (see `budget`): the source is told what to leave out, and people are told why.

While anything is left out the volume counts as a gap without an end: nothing is proven by its watcher, and no scan
closes it. The gap gets its end when everything is told again, before the scan is asked for that closes it. So nothing
falls between. The canary rests meanwhile, since what it waits for may be left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from closeranks_proto.messages import Hand

from ..hands.processes import Gone, ProcessDirectory
from .budget import Budget, Heard
from .source import Source

log = logging.getLogger("closeranks.watch")

PACE_EVERY_S: Final = 0.1
WRITERS_MAX: Final = 16
WHY_BURST: Final = (
    "more is written at once than can be told without slowing the writer down: for the moment only what is "
    "made, moved and deleted is told, and samples of the rest"
)
WHY_HOT: Final = (
    "a file is written without a pause, by more calls than can be told without slowing the writer down: for the moment "
    "samples of all writes are told"
)


class Pace:
    """How many calls a second the writers of some files make."""

    def __init__(self) -> None:
        self.writes_s = 0.0
        self._calls: dict[int, int] = {}
        self._at = 0.0

    def look(self, hands: Iterable[Hand | None], now: float) -> None:
        """At most every PACE_EVERY_S. A writer that has just begun counts from the next look on."""
        if now - self._at < PACE_EVERY_S:
            return
        pids = sorted({hand.pid for hand in hands if hand is not None and hand.pid})[:WRITERS_MAX]
        before, self._calls = self._calls, {}
        more = 0
        for pid in pids:
            calls = _write_calls(pid)
            if calls is not None:
                self._calls[pid] = calls
                more += max(0, calls - before.get(pid, calls))
        self.writes_s = more / (now - self._at)
        self._at = now


def _write_calls(pid: int) -> int | None:
    try:
        with ProcessDirectory(pid) as process:
            return process.write_calls()
    except (Gone, OSError):
        return None  # it has ended, or /proc can not be used: its file is listened to as before


class Narrowed:
    """Of one volume's source, in the watcher's thread."""

    def __init__(self, name: str, source: Source) -> None:
        self._name, self._source = name, source
        self._budget, self._pace = Budget(), Pace()
        self.why = ""  # in words, while something is left out
        self.since = 0.0
        self.scan_s: float | None = None  # how long a whole scan takes

    @property
    def active(self) -> bool:
        return bool(self.why)

    def due(self) -> float:
        return self._budget.due()

    def turn(self, now: float, heard: Heard, hot: Iterable[Hand | None]) -> bool:
        """Go by the budget; True where everything is told again: what was missed is to be scanned for.

        Raises SourceBroken.
        """
        if not self._source.can_leave_out:
            return False
        self._pace.look(hot, now)
        ended = self._budget.step(now, heard, self._pace.writes_s, self.scan_s)
        self._source.leave_out(self._budget.left_out)
        if ended:
            self.why = ""
        elif self._budget.active and not self.active:
            self.why, self.since = WHY_BURST if self._budget.burst else WHY_HOT, now
            log.warning("%s: %s; scans see what is missed", self._name, self.why)
        return ended

    def wants_scan(self, now: float) -> bool:
        return self._budget.wants_scan(now, self.scan_s or 0.0)
