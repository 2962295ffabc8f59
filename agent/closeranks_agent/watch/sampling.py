"""A watcher in a storm: the mark taken off, samples taken, and whose hand they showed.

While it lasts nothing is looked at path by path, for the first files of a runaway must not run ahead of the rest;
what was heard is kept for the scan, which asks whose hand each change was. A hand of a sample is told as such, and
of all others it is told why it is not known. Nobody is named for what a sample did not show.

The mark is back before the scan that ends a storm begins, so what that scan comes too early for is told.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from closeranks_proto import programs
from closeranks_proto.messages import Hand
from closeranks_proto.paths import parent_key

from ..disk.attributed import unknown_hand
from ..disk.volume import Volume
from ..hands.written import Written
from .dirty import Dirty
from .events import Event, Lost, What
from .flood import ASKED_MAX, Flood
from .source import Source
from .storm import CALM_S, SAMPLE_S, Storm

log = logging.getLogger("closeranks.watch")

SEEN_MAX: Final = 20_000  # names of which the hand is kept, the latest
FOUND_WEIGHT: Final = 4  # as many as a watch would have told of a file that `tar` makes
_COUNTED: Final = ~(What.DELETED | What.MOVED_FROM | What.DIRECTORY).value
READS_MAX: Final = 64  # of one sample; what is queued beyond is read later
SAMPLED: Final = "seen in a sample, for very much was written at once"
UNSEEN: Final = unknown_hand(
    "very much was written at once, so the agent listened in short samples, and this change was in none of them"
)
_SAYS_EVERY_S: Final = 5.0  # each saying goes to the coordinator
_TOLD: Final = (
    "very much is being written at once{so_far}. So that watching slows down nobody, the agent listens in short "
    "samples, and a scan finds the rest when it is over; until then that is on no other node, and of most changes it "
    "is not known whose hand it was. It ends by itself: nothing has to be done"
)
SHOWN: Final = _TOLD.format(so_far="")


class Sampling:
    """Of one watcher, in its thread; `hand`, `pending` and `lasts` from any."""

    def __init__(self, volume: Volume, source: Source, written: Written) -> None:
        self.lasts = False  # from the beginning of a storm to the end of the scan behind it
        self.scan_asked = False
        self.shown = SHOWN  # what is told of it to people
        self._since = ""
        self._says_at = 0.0
        self._by: Counter[Hand] = Counter()  # names that samples have shown, by hand
        self._volume, self._source, self._written = volume, source, written
        self._storm, self._flood = Storm(), Flood(volume, written)
        self._weight = self._names = 0
        self._some: list[bytes] = []  # of the names of a sample
        self._over = False  # the budget is overdrawn
        self._ended = False
        self._seen: dict[bytes, tuple[Hand | None, bool]] = {}
        self._marked: dict[Hand, Hand] = {}
        self._unseen = UNSEEN if source.tells_hands else unknown_hand(source.why_unknown)

    # --- what is known -------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Nothing is told but samples."""
        return self._storm.began is not None

    @property
    def begins(self) -> bool:
        return self._over and not self.active

    @property
    def due(self) -> float:
        """When the next sample is due."""
        return self._storm.sample_due

    @property
    def looks_due(self) -> float:
        """Until then a storm may be about to begin, which no look is to run ahead of."""
        return self._storm.looks_due

    @property
    def begins_at(self) -> float:
        """When a storm begins, if as much is told as of late."""
        return self._storm.due

    @property
    def pending(self) -> int:
        """Paths that changed and are not committed: those that were heard of, or as many as the samples suggest."""
        return max(1, len(self._seen), self._storm.unseen(time.monotonic())) if self.lasts else 0

    def hand(self, key: bytes) -> Hand | None:
        """Whose hand was heard of at a path, or at one above it that changed as a whole; else why it is unknown."""
        if not self.lasts:
            return None
        hand, _ = self._seen.get(key, (None, False))
        while hand is None and key:
            key = parent_key(key)
            hand, whole = self._seen.get(key, (None, False))
            hand = hand if whole else None
        return self._unseen if hand is None else hand

    # --- what happens --------------------------------------------------------------------------

    def told(self, events: Sequence[Event | Lost], now: float) -> None:
        """These were read."""
        weight = sum((one.what.value & _COUNTED).bit_count() for one in events if isinstance(one, Event))
        weight += self._source.found * FOUND_WEIGHT
        self._names += self._source.found
        self._weight += weight
        self._over = self._storm.told(weight, now)

    def begin(self, dirty: Dirty, now: float) -> None:
        """The mark comes off. Raises SourceBroken."""
        self._source.pause()
        self._over = False
        self._storm.begin(now, self._volume.settings.scan_interval_s)
        self.lasts, self.scan_asked = True, False
        self._names, self._some = 0, []
        self._since = time.strftime("%H:%M:%S UTC", time.gmtime())
        self._says_at, self._by = now + _SAYS_EVERY_S, Counter()
        self.shown = _TOLD.format(so_far=f", since {self._since}")
        self.keep(dirty, "")
        self._flood.begin(self._some)
        self._volume.storms(True)
        log.info("%s: %s", self._volume.name, SHOWN)

    def keep(self, dirty: Dirty, detail: str = SAMPLED) -> None:
        """What was heard of is left to scans. With `detail`, their hands are told with it."""
        files: Counter[Hand] = Counter()
        known = dirty.known()
        self._names += len(known)
        self._some = [*self._some, *(key for key, _, tree in known[-ASKED_MAX:] if not tree)][-ASKED_MAX:]
        for key, hand, tree in known:
            if hand is not None and detail:
                hand = self._mark(hand, detail) if self._source.tells_hands else hand
                files[hand] += 1
            self._seen.pop(key, None)
            self._seen[key] = hand, tree
        dirty.clear()
        while len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._by.update(files)
        for hand, count in files.items():
            self._written.note(self._volume.name, count, 0, hand)

    def _mark(self, hand: Hand, detail: str) -> Hand:
        found = self._marked.get(hand)
        if found is None:
            if len(self._marked) >= SEEN_MAX:
                self._marked.clear()
            text = f"{hand.detail}; {detail}" if hand.detail else detail
            found = self._marked[hand] = msgspec.structs.replace(hand, detail=text)
        return found

    def sample(self, read: Callable[[], int], dirty: Dirty) -> bool:
        """Listen for a moment; whether it is calm: then the mark stays, and `end` follows. Raises SourceBroken."""
        self._source.resume()
        self._read_all(read, dirty)  # what was queued before
        self._weight = self._names = 0
        self._some = []
        began = time.monotonic()
        for seconds in (SAMPLE_S, CALM_S):
            time.sleep(seconds)
            took = time.monotonic() - began
            self._read_all(read, dirty)
            if self._source.stale or not self._storm.is_calm(self._weight, took):
                self._source.pause()
                now = time.monotonic()
                self._storm.sampled(self._names, took, now)
                if now >= self._says_at:
                    self._says_at = now + _SAYS_EVERY_S
                    self.shown = _TOLD.format(so_far=self._so_far(now))
                self._flood.sampled(self._some, self._names, took)
                return False
        self._flood.sampled(self._some, self._names, took)
        return True

    def _so_far(self, now: float) -> str:
        """Since when, how much, and by whom as far as samples have shown."""
        pace, unseen = _about(self._storm.pace), _about(self._storm.unseen(now))
        most = self._by.most_common(1)
        by = (
            f", most by {programs.words(most[0][0].exe, most[0][0].command)} (pid {most[0][0].pid})"
            if most and most[0][0].pid
            else ""
        )
        return (
            f", since {self._since}: by the last sample {pace} changed names a second{by}; {unseen} that no scan has "
            "seen yet"
        )

    def _read_all(self, read: Callable[[], int], dirty: Dirty) -> None:
        """What is queued, or as much as is read at once."""
        for _ in range(READS_MAX):
            if not read() and self._source.drained:
                break
        self.keep(dirty)

    def end(self, now: float) -> None:
        """All is told again, and a scan finds what no sample has shown."""
        self._storm.end(now)
        self._ended = True
        log.info("%s: no more than usual is being written: watched as before", self._volume.name)

    def look(self) -> None:
        """Tell how much is being written."""
        self._flood.look()

    def wants_scan(self, now: float) -> bool:
        return not self.scan_asked and now >= self._storm.scan_due

    def scanned(self, started: float, now: float) -> None:
        """A scan that began then has ended while the storm lasts. Any thread."""
        self._storm.scanned(started, now)
        self.scan_asked = False

    def close(self) -> None:
        """All is known again, or nobody listens any more. Any thread."""
        if self.lasts:
            self.lasts = False
            self._volume.storms(False)

    def settle(self, dirty: Dirty, now: float) -> None:
        """Behind the last scan of a storm: what it left, since somebody had it open to write, is looked at as ever."""
        if not self._ended or self.lasts:
            return
        self._ended = False
        for key in self._volume.condition.busy:
            dirty.note(key, now, self._seen.get(key, (None, False))[0], open=True)
        self._seen.clear()
        self._marked.clear()


def _about(count: float) -> str:
    """Two digits of it: a sample does not know more."""
    digits = len(str(int(count))) - 2
    return f"some {round(int(count), -max(0, digits)):,}"
