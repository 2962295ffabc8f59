"""Too many writes to be told of, into files that stay open: the mark tells none of them, and holders are asked.

A write that is told costs its writer a microsecond, one that a mark on its file ignores (`muted`) still a third of
that, and 45 ns where the filesystem's mark does not ask for writes at all (measured, Linux 6.18). A database makes
hundreds of thousands a second. So where writes cost whoever makes them more than a budget, `MODIFY` leaves the mark:
a hush. All else is told as before. How much that is can not be counted by events, most of which are merged: it is what
the writers themselves have called for (`counters`), also those that write elsewhere on the filesystem.

inotify has no mark: there the directories of the files that are told of on and on lose their watches (`writing`,
`hushed`), and `Source.ask` compares what lies in them.

Until it is over, whoever holds a file open to write is looked for (`holders`), and what of it changed is noted. That is
for promptness alone, and not complete: truncate(2) by a path opens nothing, a kernel's own writer (nfsd, a loop device)
and a descriptor under way in a socket stand in no process's table. So a hush is a gap: what is proven meanwhile is
proven by scans, and one follows when all is told again.

Begun only where a scan behind it is a small part of the time (SCAN_SHARE), and never before the scan behind the last
one has ended: hushes that follow each other closely would leave no scan that proves anything. It ends when what its
writers call for would cost less than half of the budget for CALM_S. Rejected: an ignore mark for the whole filesystem
(as costly as that for a file), samples of 10 ms with the mark on (the counters tell as much, for nothing), proofs by
what holders show.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from math import inf
from typing import Final

from closeranks_proto.messages import Hand

from ..hands.attribution import Attribution
from .counters import Counters
from .dirty import Dirty
from .holders import Held, Holders
from .source import Source
from .stamps import Stamp, settled, stamp_of

# Seconds of its own time that a write costs whoever makes it, told and ignored by a mark on its file.
TOLD_S: Final = 1.0e-6
MUTED_S: Final = 0.3e-6
BUDGET: Final = 0.02  # of a second, each second
BURST_S: Final = 0.006
CALM_SHARE: Final = 0.5
CALM_S: Final = 5.0
COUNT_EVERY_S: Final = 0.01
COUNT_SHARE: Final = 50.0  # counting waits so many times as long as it takes
WRITERS_MAX: Final = 64
# Not told of for so long: what a process has called for since may have gone to a socket.
FORGET_S: Final = 0.25
LOOK_EVERY_S: Final = 0.1  # at those who have written of late
LOOK_RARELY_S: Final = 1.0
ASK_RARELY_S: Final = 10.0  # what is compared, where that takes long
ALL_EVERY_S: Final = 0.5  # at all processes
ALL_RARELY_S: Final = 120.0
LOOK_SHARE: Final = 200.0  # the next waits so many times as long as one takes
LATELY_S: Final = 2.0
SCAN_SHARE: Final = 20.0  # after the scan behind a hush the next waits so many times as long as that took
SHOWN: Final = (
    "so much is being written into open files that the agent is not told of each write: it asks those who have them "
    "open ten times a second, and scans prove that nothing was missed. It ends by itself: nothing has to be done"
)


class Hush:
    """Of one watcher, in its thread; `active`, `owes_scan` and `scanned` from any."""

    def __init__(self, source: Source, attribution: Attribution) -> None:
        self.active = False
        self.due = inf
        self.owes_scan = False  # it is over, and the scan behind it has not ended
        self._source, self._attribution = source, attribution
        self._counters, self._holders = Counters(), Holders(source.path)
        self._writers: dict[int, float] = {}  # by process: when it was told of last
        self._inside: set[int] = set()  # those that hold files of the volume
        self._left, self._counted, self._count_due = BURST_S, 0.0, 0.0
        self._allowed = self._full_due = self._ask_due = self._loud = 0.0
        # By inode, as it was looked at last; None: anything is news.
        self._stamps: dict[int, Stamp | None] = {}
        self._lately: dict[int, tuple[Held, float]] = {}  # files that have changed, by inode, and when

    # --- whether -------------------------------------------------------------------------------

    def told(self, writers: Collection[int], muted: Collection[int], now: float) -> bool:
        """These processes were told of; those of `muted` write into muted files. Whether a hush should begin."""
        for pid in writers:
            if pid > 0 and (pid in self._writers or len(self._writers) < WRITERS_MAX):
                self._writers[pid] = now
        if now < self._count_due or not (self._writers or muted):
            return False
        elapsed_s, self._counted = now - self._counted, now
        for pid in [one for one, at in self._writers.items() if now - at > FORGET_S and one not in muted]:
            del self._writers[pid]
        began = time.thread_time()
        counted = self._counters.since({*self._writers, *muted})
        cost_s = sum(writes * (MUTED_S if pid in muted else TOLD_S) for pid, writes in counted.items())
        if elapsed_s > FORGET_S:
            cost_s = 0.0
        self._left = max(-BURST_S, min(BURST_S, self._left + elapsed_s * BUDGET) - cost_s)
        self._count_due = now + max(COUNT_EVERY_S, (time.thread_time() - began) * COUNT_SHARE)
        return self._left < 0 and not self.owes_scan and now >= self._allowed and self._source.can_hush

    def scanned(self, started: float, now: float) -> None:
        """A scan that ends a gap has ended, which was begun then. Any thread."""
        if self.owes_scan:
            self.owes_scan, self._allowed = False, now + (now - started) * SCAN_SHARE

    # --- while it lasts ------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Writes are not told from here on; `look` follows at once. Raises SourceBroken."""
        self._source.hush()
        self.active, self.due = True, now
        self._full_due, self._ask_due, self._loud, self._counted = now, now, now, now
        self._counters.since(self._writers)

    def end(self) -> None:
        """They are told again; a last `look` follows. Raises SourceBroken."""
        self._source.unhush()
        self.owes_scan, self._full_due = True, 0.0

    def forget(self) -> None:
        """It is over, by whatever the mark asks for now."""
        self.active, self.due, self._left = False, inf, BURST_S
        self._stamps, self._inside, self._lately, self._writers = {}, set(), {}, {}

    def look(self, dirty: Dirty, now: float) -> bool:
        """Note what has changed of files that are open to write; whether no more than usual is written."""
        full, began = now >= self._full_due, time.thread_time()
        searched_s = 0.0
        if full:
            held = self._holders.find()
            searched_s = time.thread_time() - began
            self._stamps = {inode: stamp for inode, stamp in self._stamps.items() if inode in held}
        else:
            held = self._holders.again({inode: one for inode, (one, _) in self._lately.items()})
        for inode, one in held.items():
            self._compare(inode, one, dirty, now)
        asked_s = self._ask(now)
        self._lately = {
            inode: (one, at)
            for inode, (one, at) in self._lately.items()
            if inode in held and now - at < LATELY_S
        }
        # Who has a file open and has not written to it of late calls for writes into something else: a socket, mostly.
        calm = full and self._is_calm({pid for one, _ in self._lately.values() for pid in one.pids}, now)
        if full:
            self._full_due = now + min(max(ALL_EVERY_S, searched_s * LOOK_SHARE), ALL_RARELY_S)
        rest_s = (time.thread_time() - began - searched_s - asked_s) * LOOK_SHARE
        self.due = now + min(max(LOOK_EVERY_S, rest_s), LOOK_RARELY_S)
        return calm

    def _ask(self, now: float) -> float:
        """Have the source compare, unless that takes so long that it has to rest; the seconds that it took."""
        if now < self._ask_due:
            return 0.0
        began = time.thread_time()
        self._source.ask()
        took_s = time.thread_time() - began
        self._ask_due = now + min(took_s * LOOK_SHARE, ASK_RARELY_S)
        return took_s

    def _compare(self, inode: int, held: Held, dirty: Dirty, now: float) -> None:
        stamp = stamp_of(held.stat)
        if self._stamps.get(inode) == stamp:
            return
        self._stamps[inode] = settled(stamp)
        if self._source.hears_beside:
            self._lately[inode] = held, now
        try:
            fd = os.open(held.link, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return  # closed meanwhile: that is told
        try:
            key = self._source.key_of(fd)
        finally:
            os.close(fd)
        if key is not None:
            self._lately[inode] = held, now
            self._inside.update(held.pids)
            dirty.note(key, now, self._hand(held), open=True)

    def _hand(self, held: Held) -> Hand | None:
        if not self._source.tells_hands:  # there may be one whom this process can not see
            return self._attribution.unknown(self._source.why_unknown)
        if len(held.pids) == 1:
            return self._attribution.of(next(iter(held.pids)))
        return self._attribution.unknown(
            f"{len(held.pids)} processes had it open to write while very much was written, and nobody knows which did"
        )

    def _is_calm(self, active: set[int], now: float) -> bool:
        elapsed_s, self._counted = now - self._counted, now
        counted = self._counters.since(active | set(self._writers))
        muted = self._inside if self._source.can_mute else ()
        cost_s = sum(writes * (MUTED_S if pid in muted else TOLD_S) for pid, writes in counted.items())
        if cost_s > CALM_SHARE * BUDGET * elapsed_s:
            self._loud = now
        return now - self._loud >= CALM_S
