"""The looks that a watcher asks of its volume's thread: one at a time, of what is due.

While one is under way the next grows, so a burst makes few large looks and a single write a small quick one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

from closeranks_proto.messages import Hand

from ..disk.attributed import hand_finder
from ..disk.look import LookReport
from ..disk.volume import Volume
from .batch import Batch
from .dirty import Dirty
from .pacing import Looks


class Looking:
    """Of one watcher, in its thread; `hand` from any, and `pending`, under `lock`. `ring` is called as one ends."""

    def __init__(self, volume: Volume, dirty: Dirty, lock: threading.Lock, ring: Callable[[], None]) -> None:
        self._volume, self._dirty, self._lock, self._ring = volume, dirty, lock, ring
        self._under_way: tuple[Batch, Future[LookReport]] | None = None
        self._pace = Looks()

    def __bool__(self) -> bool:
        """Whether one is under way."""
        return self._under_way is not None

    @property
    def pending(self) -> int:
        """Paths that were heard of and are not committed."""
        under_way = self._under_way
        return len(self._dirty) + (under_way[0].size if under_way is not None else 0)

    def hand(self, key: bytes) -> Hand | None:
        """Whose hand was heard of at one that is not committed."""
        under_way = self._under_way
        found = self._dirty.hand(key)
        if found is None and under_way is not None:
            found = hand_finder(under_way[0].hands)(key)
        return found

    @property
    def due(self) -> float:
        """No look begins before, but for a proof."""
        return self._pace.due

    def begin(self, now: float, since: float | None = None) -> bool:
        """Ask for a look at what is due, or at all that was heard of until `since`; whether there is such.

        In one piece for `pending`: nothing is in neither place meanwhile.
        """
        with self._lock:
            batch = self._dirty.take(now, since)
            if batch is None:
                return False
            future = self._volume.look_soon(batch.names, batch.hands, batch.seen_mono)
            self._under_way = (batch, future)
        future.add_done_callback(lambda _: self._ring())
        return True

    def ended(self, now: float) -> tuple[Batch, LookReport] | None:
        """The one that has ended, if one has: `settle` follows."""
        if self._under_way is None or not self._under_way[1].done():
            return None
        batch, future = self._under_way
        self._pace.ended(batch.size, now)
        try:
            return batch, future.result()
        except CancelledError:
            self._under_way = None
            return None  # the volume was closed

    def settle(self, batch: Batch, report: LookReport, now: float) -> None:
        """What it could not finish comes again."""
        self._dirty.cost(report.costs, report.hot, now)
        with self._lock:
            self._dirty.again(dict.fromkeys((*report.again, *report.unfinished)), batch.hands, now)
            self._dirty.finished(batch, report.again, report.unfinished)
            self._under_way = None
