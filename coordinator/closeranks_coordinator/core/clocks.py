"""Since when each difference has lasted, and which have lasted long enough.

A clock belongs to a path, from the moment it was first seen to differ until it no longer does: another
write to the same path does not restart it, so a file that is rewritten for ever is confirmed like any
other. Clocks are kept in buckets of keys that began together: what one commit brought is one bucket,
however many paths it touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

BUCKETS_MAX = 512  # beyond it, buckets that are confirmed become one


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How many of the watched keys are confirmed, and when that may change by time alone."""

    confirmed: int
    unconfirmed: int
    since: float | None  # first_seen of the oldest confirmed key
    next_at: float | None


@dataclass(slots=True, eq=False)
class _Bucket:
    """Keys with one clock: when they were first seen, and when it was restarted last."""

    first: float
    start: float
    count: int = 0


class Clocks:
    """First-seen times of keys, monotonic."""

    def __init__(self) -> None:
        self._of: dict[bytes, _Bucket] = {}
        self._buckets: dict[_Bucket, None] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._of

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._of)

    def watch(self, keys: Iterable[bytes], now: float) -> None:
        """Exactly these keys differ now: new ones start, healed ones end, the others run on."""
        wanted = dict.fromkeys(keys)
        if not wanted:
            self._of.clear()
            self._buckets.clear()
            return
        if not self._of:
            self._enter(list(wanted), now, now)
            return
        self.change(wanted, [key for key in self._of if key not in wanted], now)

    def change(self, here: Iterable[bytes], gone: Iterable[bytes], now: float) -> None:
        """These keys differ now (a clock that runs runs on), those no longer. A key may be told twice."""
        for key in gone:
            bucket = self._of.pop(key, None)
            if bucket is not None:
                self._leave(bucket, 1)
        fresh = list(dict.fromkeys(key for key in here if key not in self._of))
        if fresh:
            self._enter(fresh, now, now)

    def restart(self, keys: Set[bytes], now: float) -> None:
        """Another node holds the same new entries: perhaps the fleet is on its way there.

        A bucket that is restarted as a whole costs a look at its keys; what is left of one is made anew.
        """
        if len(keys) >= len(self._of) and self._of.keys() <= keys:
            self.restart_all(now)
            return
        running = [key for key in keys if key in self._of]
        for bucket, count in Counter(map(self._of.__getitem__, running)).items():
            if bucket.start == now:
                continue
            if count == bucket.count:
                bucket.start = now
                continue
            moved = [key for key in running if self._of[key] is bucket]
            self._leave(bucket, len(moved))
            self._enter(moved, bucket.first, now)

    def restart_all(self, now: float) -> None:
        """The same for all keys."""
        for bucket in self._buckets:
            bucket.start = now

    def first_seen(self) -> float | None:
        """Since when anything differs."""
        return min((bucket.first for bucket in self._buckets), default=None)

    def newest_unsettled(self, scanned: float) -> float | None:
        """The newest moment, not before `scanned`, at which a key was first seen; None: all were earlier."""
        return max((bucket.first for bucket in self._buckets if bucket.first >= scanned), default=None)

    def confirm(
        self, now: float, settle_s: float, settle_max_s: float, scanned: float | None
    ) -> Confirmation:
        """Judge all keys. `scanned`: the oldest start of the other voters' last scans, None: one has none."""
        confirmed: list[_Bucket] = []
        next_at: float | None = None
        for bucket in self._buckets:
            due = min(bucket.start + settle_s, bucket.first + max(settle_s, settle_max_s))
            if now < due:
                next_at = due if next_at is None else min(next_at, due)
            elif scanned is not None and scanned > bucket.first:
                confirmed.append(bucket)
        count = sum(bucket.count for bucket in confirmed)
        since = min((bucket.first for bucket in confirmed), default=None)
        if len(self._buckets) > BUCKETS_MAX and len(confirmed) > 1:
            self._unite(confirmed)
        return Confirmation(count, len(self._of) - count, since, next_at)

    def lasting(self, since: float) -> list[bytes]:
        """The keys that were first seen at `since` or before."""
        return [key for key, bucket in self._of.items() if bucket.first <= since]

    def _unite(self, buckets: list[_Bucket]) -> None:
        """Make one bucket of these, all of them due: they stay due."""
        old = dict.fromkeys(buckets)
        keys = [key for key, bucket in self._of.items() if bucket in old]
        first, start = min(one.first for one in buckets), min(one.start for one in buckets)
        for bucket in buckets:
            del self._buckets[bucket]
        self._enter(keys, first, start)

    def _enter(self, keys: list[bytes], first: float, start: float) -> None:
        bucket = _Bucket(first, start, len(keys))
        self._buckets[bucket] = None
        self._of.update(dict.fromkeys(keys, bucket))

    def _leave(self, bucket: _Bucket, count: int) -> None:
        bucket.count -= count
        if not bucket.count:
            del self._buckets[bucket]
