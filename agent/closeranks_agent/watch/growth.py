"""What was written, told before and after it is committed.

A file that grows for minutes would be told of only when it rests, and of many files that are written at once most
wait for their look; a guard must hear of them at once. So files of which something was heard are asked for their size
twenty times a second while there are any, and what they grew is told; the commit then tells only what is left. A page
cache takes gigabytes a second: what is asked for less often is told when a disk is half full.

Of a sparse file only what takes room was written: a virtual machine's new disk has 500 GB and no bytes.

A file counts once an hour as a file, however often it is written: who wrote one file 83 times has not written 83.

A file that is closed is asked once for each time that something is heard of it. Where more were closed than can be
asked in a moment, the others count like those that were: how much is written is told now, and what it was exactly with
the commit. What is taken is never more than a share of the thread's time.

Nothing here waits for the disk. The index is locked while a look's rows become durable, which takes a second where a
runaway writes to the same disk. So it is not asked whether the volume is still the one that it knows (a look does),
nor of a new file; a long one's length is kept from its last commit, and a file that nothing else is known of is told
later.

Rejected: the room that the disk has left. XFS gives a growing file up to twice of what was written, btrfs shows nothing
until it writes, and what somebody else writes beside the volume is in it, too.
"""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from closeranks_proto.entries import entry_size
from closeranks_proto.errors import CloseranksError
from closeranks_proto.messages import Hand
from closeranks_proto.paths import path_of

from ..disk.attributed import hand_finder
from ..disk.look import LookReport
from ..disk.taken import written_bytes
from ..disk.volume import Volume
from ..hands.written import Written
from .batch import Batch
from .dirty import Dirty

FILES_A_LOOK: Final = 256
CLOSED_A_LOOK: Final = 512  # of those that were closed since the look before; 3 us each
TOLD_MAX: Final = 16_384  # 4 MB
COUNTED_MAX: Final = 8_192  # 1.5 MB
COUNTED_S: Final = 3600.0  # a file that is written again within that is no other file
FRESH_S: Final = 2.0  # a file with an elder mtime was not written in this burst, or that was set back
AHEAD_S: Final = 10.0  # what was told ahead is committed by then, or is gone
REST_SHARE: Final = 9.0  # a rest follows that is so many times as long as a look kept the processor


@dataclass(slots=True)
class _Told:
    """Of a file its `base`: its size before; and `until` which size it was told of since, if `counted`."""

    base: int
    until: int
    counted: bool = False


Counts = dict["Hand | None", list[int]]  # files and bytes by hand


class Growth:
    """Of one volume. In the watcher's thread."""

    def __init__(
        self, volume: Volume, written: Written,
        clock: Callable[[], float] = time.monotonic, spent: Callable[[], float] = time.thread_time,
    ) -> None:  # fmt: skip
        self._volume, self._written, self._clock, self._spent = volume, written, clock, spent
        self._told: OrderedDict[bytes, _Told] = OrderedDict()
        self._counted: OrderedDict[bytes, float] = OrderedDict()  # files, and when each was counted
        self._closed_until = 0.0  # the closed files of before were asked
        self._rested = 0.0
        # Files and bytes that were told of without asking, and when.
        self._ahead, self._ahead_at = [0, 0], 0.0

    def look(self, dirty: Dirty) -> None:
        """Tell how much grew since the last look."""
        if self._clock() < self._rested:
            return
        began = self._spent()
        growing = dirty.growing(FILES_A_LOOK)
        closed = dirty.closed(self._closed_until, TOLD_MAX)
        if not growing and not closed:
            return
        try:
            root_fd = self._volume.glance_root()
        except OSError:
            return  # the look at it says so
        counts: Counts = {}
        try:
            for key, hand in growing:
                self._ask(root_fd, key, hand, counts, dirty.is_made(key))
            self._ask_closed(root_fd, closed, counts, dirty)
        finally:
            os.close(root_fd)
        for hand, (files, size) in counts.items():
            if files or size:
                self._written.note(self._volume.name, files, size, hand)
        self._rested = self._clock() + (self._spent() - began) * REST_SHARE

    def forget(self) -> None:
        """Scans commit what is under way, and do not say so here: what is written later counts whole."""
        self._told.clear()
        self._ahead = [0, 0]

    def _ask_closed(
        self, root_fd: int, closed: list[tuple[bytes, Hand | None, float]], counts: Counts, dirty: Dirty
    ) -> None:
        if not closed:
            return
        self._closed_until = closed[0][2]
        asked, others = closed[:CLOSED_A_LOOK], len(closed) - CLOSED_A_LOOK
        before = sum(count[0] for count in counts.values())
        grown = [self._ask(root_fd, key, hand, counts, dirty.is_made(key)) for key, hand, _ in asked]
        if others > 0:
            files = (sum(count[0] for count in counts.values()) - before) * others // len(asked)
            size = sum(grown) * others // len(asked)
            for place, amount in enumerate((files, size)):
                self._ahead[place] += amount
                counts.setdefault(asked[0][1], [0, 0])[place] += amount
            self._ahead_at = self._clock()

    def _ask(self, root_fd: int, key: bytes, hand: Hand | None, counts: Counts, made: bool) -> int:
        """Count how much this file grew since it was told of last; the bytes."""
        try:
            found = os.stat(path_of(key), dir_fd=root_fd, follow_symlinks=False)
        except OSError:
            return 0  # gone, or too deep to be asked for like this
        if not stat.S_ISREG(found.st_mode):
            return 0
        known, is_new = self._told.get(key), made and found.st_nlink == 1
        if known is None or (is_new and not known.counted):
            base = 0 if is_new else self._known_size(key, found)
            if base is None:
                return 0
            known = _Told(base, base)
        size = written_bytes(found)
        grown = size - known.until
        if grown < 0:  # it was cut: what was told stays told, and it may grow anew
            known.base, known.until = known.base + grown, size
        if grown <= 0:
            return 0
        count = counts.setdefault(hand, [0, 0])
        count[0] += not known.counted and self._count(key)
        count[1] += grown
        known.until, known.counted = size, True
        self._keep(key, known)
        return grown

    def _keep(self, key: bytes, known: _Told) -> None:
        self._told[key] = known
        self._told.move_to_end(key)
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)

    def _count(self, key: bytes) -> bool:
        """Whether this is one file more: 83 writes of one file are one file."""
        now = self._clock()
        at = self._counted.pop(key, None)
        is_new = at is None or now - at > COUNTED_S
        self._counted[key] = now if at is None or is_new else at
        if len(self._counted) > COUNTED_MAX:
            self._counted.popitem(last=False)
        return is_new

    def _known_size(self, key: bytes, found: os.stat_result) -> int | None:
        """What it had before; None: it is not known now. One of a single chunk that was just written counts as written
        whole, as its commit says.

        Where only a mode, an owner or a time was changed, or an old time was set, what is known of it decides.
        """
        is_written = abs(time.time() - found.st_mtime) < FRESH_S
        if is_written and found.st_size <= self._volume.settings.chunk_bytes:
            return 0
        try:
            index = self._volume.history.index
            if not index.database.lock.acquire(blocking=False):
                return None
            try:
                row = index.row(key)
            finally:
                index.database.lock.release()
        except CloseranksError:
            return 0
        return 0 if row is None else entry_size(row.value)

    def committed(self, report: LookReport, batch: Batch) -> None:
        """Tell of what a look committed, without what was told of it before."""
        hand_of = hand_finder(batch.hands)
        counts: Counts = {}
        for key, size in report.sizes.items():
            known = self._told.pop(key, _Told(0, 0))
            count = counts.setdefault(hand_of(key), [0, 0])
            count[0] += not known.counted and self._count(key)
            count[1] += max(0, size - (known.until - known.base))
            length = report.lengths.get(key, 0)
            if length > self._volume.settings.chunk_bytes:
                self._keep(key, _Told(length, max(length, known.until)))
        if report.changed > len(report.sizes):
            count = counts.setdefault(report.hands[0] if report.hands else None, [0, 0])
            count[0] += report.changed - len(report.sizes)
        if self._clock() > self._ahead_at + AHEAD_S:
            self._ahead = [0, 0]
        for hand, (files, size) in counts.items():
            was = min(files, self._ahead[0]), min(size, self._ahead[1])
            self._ahead = [self._ahead[0] - was[0], self._ahead[1] - was[1]]
            self._written.note(self._volume.name, files - was[0], size - was[1], hand)
