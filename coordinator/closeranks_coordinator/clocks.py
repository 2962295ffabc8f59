"""Since when each difference has lasted, and which have lasted long enough.

A clock belongs to a path, from the moment it was first seen to differ until it no longer does: another
write to the same path does not restart it, so a file that is rewritten for ever is confirmed like any
other. Clocks are kept in buckets of keys that began together: what one commit brought is one bucket,
however many paths it touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BUCKETS_MAX = 512  # beyond it, buckets that are confirmed become one

Clock = tuple[float, float]  # first seen, restarted


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How many of the watched keys are confirmed, and when that may change by time alone."""

    confirmed: int
    unconfirmed: int
    since: float | None  # first_seen of the oldest confirmed key
    next_at: float | None


class Clocks:
    """First-seen times of keys, monotonic."""

    def __init__(self) -> None:
        self._of: dict[bytes, Clock] = {}
        self._buckets: dict[Clock, int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._of

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._of)

    def watch(self, keys: Iterable[bytes], now: float) -> None:
        """Exactly these keys differ now: new ones start, healed ones end, the others run on."""
        wanted = dict.fromkeys(keys)
        self.change(wanted, [key for key in self._of if key not in wanted], now)

    def change(self, here: Iterable[bytes], gone: Iterable[bytes], now: float) -> None:
        """These keys differ now (a clock that runs runs on), those no longer."""
        for key in gone:
            clock = self._of.pop(key, None)
            if clock is not None:
                self._leave(clock)
        for key in here:
            if key not in self._of:
                self._enter(key, (now, now))

    def restart(self, key: bytes, now: float) -> None:
        """Another node holds the same new entry: perhaps the fleet is on its way there."""
        clock = self._of.get(key)
        if clock is not None and clock[1] != now:
            self._leave(clock)
            self._enter(key, (clock[0], now))

    def first_seen(self) -> float | None:
        """Since when anything differs."""
        return min((first for first, _ in self._buckets), default=None)

    def confirm(
        self, now: float, settle_s: float, settle_max_s: float, scanned: float | None
    ) -> Confirmation:
        """Judge all keys. `scanned`: the oldest start of the other voters' last scans, None: one has none."""
        confirmed: list[Clock] = []
        next_at: float | None = None
        for clock in self._buckets:
            due = min(clock[1] + settle_s, clock[0] + max(settle_s, settle_max_s))
            if now < due:
                next_at = due if next_at is None else min(next_at, due)
            elif scanned is not None and scanned > clock[0]:
                confirmed.append(clock)
        count = sum(self._buckets[clock] for clock in confirmed)
        since = min((first for first, _ in confirmed), default=None)
        if len(self._buckets) > BUCKETS_MAX:
            self._unite(confirmed)
        return Confirmation(count, len(self._of) - count, since, next_at)

    def lasting(self, since: float) -> list[bytes]:
        """The keys that were first seen at `since` or before."""
        return [key for key, clock in self._of.items() if clock[0] <= since]

    def _unite(self, clocks: list[Clock]) -> None:
        """Make one bucket of these, all of them due: they stay due."""
        if len(clocks) < 2:
            return
        united = (min(first for first, _ in clocks), min(start for _, start in clocks))
        old = frozenset(clocks)
        self._of = {key: united if clock in old else clock for key, clock in self._of.items()}
        count = sum(self._buckets.pop(clock) for clock in clocks)
        self._buckets[united] = self._buckets.get(united, 0) + count

    def _enter(self, key: bytes, clock: Clock) -> None:
        self._of[key] = clock
        self._buckets[clock] = self._buckets.get(clock, 0) + 1

    def _leave(self, clock: Clock) -> None:
        self._buckets[clock] -= 1
        if not self._buckets[clock]:
            del self._buckets[clock]
