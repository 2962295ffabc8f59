"""From hints to commits: one thread for each volume that reads its source and asks for looks.

The thread folds events into the dirty set (`dirty`) and gives what is due to the volume's own thread (`looking`); the
event loop has no part in it. Whose hand it was is asked at once, for a writer may be gone a moment later. What is known
for sure is `proof`'s.

Where being told costs whoever writes too much, less is told: writes into some files (`muted`) or into all (`hush`), or
everything (`sampling`). Here it is decided which of these holds, one at a time.

Rejected: looks at once for each event (half-written files, and thousands of transactions a second); a queue of
events (unbounded, where the dirty set folds).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from closeranks_proto.messages import Hand

from ..disk.volume import Volume
from ..hands.attribution import Attribution
from ..hands.written import Written
from . import hush, muted
from .bell import Bell
from .dirty import Dirty
from .events import CANARY, ROOT_GONE, Event, Lost, SourceBroken, What
from .growth import Growth
from .hush import Hush
from .looking import Looking
from .owner import Owner, WatchTally
from .pacing import PAUSE_MIN_S, Reads
from .proof import Proof
from .sampling import Sampling
from .source import Source

log = logging.getLogger("closeranks.watch")

GROWTH_EVERY_S: Final = 0.05  # as often as a runaway is told of
IDLE_S: Final = 5.0
REWATCH_EVERY_S: Final = 60.0  # what has no watch is tried again after a scan, at most so often
_NEW: Final = (What.CREATED | What.MOVED_TO).value
_CREATED: Final = What.CREATED.value
_DIRECTORY: Final = What.DIRECTORY.value
_SELF: Final = What.SELF.value
_GIVEN_UP: Final = (What.DELETED | What.MOVED_FROM).value
_MOVED_TO: Final = What.MOVED_TO.value
_OPEN: Final = (What.CREATED | What.MODIFIED).value
_CLOSED: Final = (What.CLOSED | What.DELETED | What.MOVED_FROM | What.MOVED_TO).value


class Watcher:
    """`start`, then `close` once."""

    def __init__(
        self, volume: Volume, source: Source, attribution: Attribution, written: Written, owner: Owner,
        tally: WatchTally,
    ) -> None:  # fmt: skip
        self.volume, self.source = volume, source
        self._attribution, self._owner, self._tally, self._written = attribution, owner, tally, written
        self._growth = Growth(volume, written)
        self._muted = muted.Muted(volume, source)
        self._hush = Hush(source, attribution)
        self._sampling = Sampling(volume, source, written)
        self._nobody = attribution.unknown(source.why_unknown)
        self._dirty = Dirty()
        self._lock = threading.Lock()
        self._bell = Bell(source.fileno())
        self._closing = False
        self._looking = Looking(volume, self._dirty, self._lock, self._bell.ring)
        self._proof = Proof(volume, source, owner, tally, self._lock)
        self._growth_due = self._mute_due = 0.0
        self._reads = Reads()
        self._rewatch_due = time.monotonic() + REWATCH_EVERY_S
        self._thread = threading.Thread(target=self._run, name=f"watch-{volume.name}", daemon=True)

    # --- from outside --------------------------------------------------------------------------

    def start(self) -> None:
        self.volume.heard = self.hand_of
        self._thread.start()

    def close(self) -> None:
        """End the thread and give the source back. Blocks for a moment."""
        self._closing = True
        self.volume.heard = None
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()
        self._sampling.close()
        self.source.close()
        self._bell.close()

    def prove(self) -> bool:
        """Begin a proof of everything written until now; False where only a scan can give it."""
        can_prove = self._proof.ask()
        if can_prove:
            self._bell.ring()
        return can_prove

    @property
    def proven(self) -> float | None:
        """The moment, monotonic, up to which everything is committed."""
        return self._proof.proven

    @property
    def covered(self) -> bool:
        """Nothing was missed since the last scan."""
        return self._proof.covered

    @property
    def stormy(self) -> bool:
        """So much is written, or was a moment ago, that scans find most of it."""
        return self._sampling.lasts

    @property
    def storm_shown(self) -> str:
        """What is told of a storm to people."""
        return self._sampling.shown

    @property
    def hushed(self) -> bool:
        """Writes are not told: whoever has files open is asked, and scans prove."""
        return self._hush.active

    @property
    def is_proven_by_scans(self) -> bool:
        """In a hush, and until the scan behind it has ended: a proof takes as long as a scan."""
        return self._hush.active or self._hush.owes_scan

    @property
    def pending(self) -> int:
        """Paths that changed and are not committed yet."""
        with self._lock:
            return self._looking.pending + self._sampling.pending

    def hand_of(self, key: bytes) -> Hand | None:
        """Whose hand a change is that was heard of and is not committed yet. Any thread."""
        hand = self._looking.hand(key)
        return self._sampling.hand(key) if hand is None else hand

    def scanned(self, started_mono: float) -> bool:
        """A complete scan that began then has ended; whether the watcher covers the volume now. Any thread."""
        calm = False
        with self._lock:
            if self._sampling.active:
                self._sampling.scanned(started_mono, time.monotonic())
            elif self._hush.active:
                pass  # it lasts as long as nothing tells of writes
            elif self._proof.gap is not None and self._proof.gap <= started_mono:
                self._proof.gap, calm = None, True
                self._sampling.close()
                self._hush.scanned(started_mono, time.monotonic())
            covered = self._proof.gap is None
        if self.source.unwatched or calm:
            self._bell.ring()
        return covered

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except SourceBroken as error:
            self._break(str(error))
        except Exception as error:
            log.exception("%s: a fault in watching", self.volume.name)
            self._break(f"a fault of the agent: {error!r}")

    def _break(self, why: str) -> None:
        self._proof.missed(why)
        self._closing = True
        self._owner.broken(self, why)

    def _turn(self) -> None:
        queued = self._bell.wait(self._timeout_ms())
        count = self._read() if queued else 0
        now = time.monotonic()
        if not queued or self.source.drained:
            self._proof.drained(now)
        self._finish_look(now)
        self._weather(now)
        self._keep_quiet(queued, now)
        self._watch_again(now)
        if not self._sampling.active:
            self._proof.keep(now)
        self._begin_look(time.monotonic())
        if now >= self._growth_due:
            self._growth_due = now + GROWTH_EVERY_S
            if self._sampling.active:
                self._sampling.look()
            else:
                self._growth.look(self._dirty)
            self._written.pending(self.volume.name, self.pending)
            self.volume.versions.forget()
        if now >= self._mute_due and (count or len(self._muted)) and not self._is_quiet:
            self._mute_due = now + muted.EVERY_S
            self._muted.look(self._dirty, now)
        if queued and not self._closing:
            time.sleep(self._pause(count))

    def _pause(self, count: int) -> float:
        """After a read that gave so many events of this volume. What is told beyond the budget costs whoever writes."""
        now = time.monotonic()
        pause_s = self._reads.pause(count, self.source.drained, now)
        if not self.source.drained:
            return pause_s
        return min(pause_s, max(PAUSE_MIN_S, self._sampling.begins_at - now))

    def _timeout_ms(self) -> float:
        now = time.monotonic()
        if self._sampling.active:
            return max(0.0, (min(self._sampling.due, self._growth_due) - now) * 1000)
        due = [now + IDLE_S, self._hush.due, self._proof.due(now, bool(self._looking))]
        if not self._looking:
            found = self._dirty.due()
            if found is not None:
                due.append(max(found, self._looking.due, self._sampling.looks_due))
        if self._proof.seen is not None and now < self._sampling.looks_due:
            due.append(self._sampling.looks_due)
        if len(self._dirty):
            due.append(self._growth_due)
        if len(self._muted):
            due.append(self._mute_due)
        return max(0.0, (min(due) - now) * 1000)

    # --- events --------------------------------------------------------------------------------

    def _read(self) -> int:
        events = self.source.read()
        now = time.monotonic()
        if not (events or self.source.found):
            return 0
        self._tally.events += len(events)
        hands: dict[int, Hand | None] = {0: self._nobody}
        for event in events:
            if isinstance(event, Lost):
                self._lost(event, now)
            elif event.directory == CANARY:
                if self._proof.heard(event.name, now):
                    self._muted.ask(self._dirty, now)
            else:
                self._note(event, now, hands)
        self._sampling.told(events, now)
        self._give_up()
        return len(events)

    def _give_up(self) -> None:
        """Leave it to a scan where not even whole directories are few enough."""
        if self._dirty.everything:
            self._tally.dropped += 1
            self._dirty.clear()
            self._proof.missed("more paths changed at once than are kept apart")

    def _note(self, event: Event, now: float, hands: dict[int, Hand | None]) -> None:
        what: int = event.what.value
        if what & _SELF:
            raise SourceBroken(ROOT_GONE)
        if event.pid not in hands:
            hands[event.pid] = self._attribution.of(event.pid)
        key = event.directory + b"\0" + event.name if event.directory else event.name
        tree = bool(what & _DIRECTORY and what & _NEW)
        still_open = False if what & (_CLOSED | _DIRECTORY) else True if what & _OPEN else None
        gone = bool(what & _GIVEN_UP) and not what & _MOVED_TO
        made = bool(what & _CREATED) and not what & (_DIRECTORY | _MOVED_TO)
        self._dirty.note(key, now, hands[event.pid], tree=tree, open=still_open, gone=gone, made=made)
        if what & _MOVED_TO:
            self._muted.arrived(key, tree)

    def _lost(self, lost: Lost, now: float) -> None:
        self._tally.dropped += 1
        if self._sampling.active:
            return  # scans see it
        if lost.below is None:
            self._proof.lost(now)
            self._proof.missed(lost.reason)
            return
        log.warning("%s: %s; what lies below it is looked at", self.volume.name, lost.reason)
        self._dirty.note(lost.below, now, self._nobody, tree=True)

    def _watch_again(self, now: float) -> None:
        """Directories that had no watch may get one by now: the limit was raised, or others were given back."""
        if not self.source.unwatched or now < self._rewatch_due:
            return
        self._rewatch_due = now + REWATCH_EVERY_S
        for lost in self.source.watch(b""):
            log.info("%s: %s", self.volume.name, lost.reason)
        if not self.source.unwatched:
            self._proof.missed("directories that had no watch are watched now")

    # --- storms --------------------------------------------------------------------------------

    def _weather(self, now: float) -> None:
        """Begin a storm, go on with one, or end it."""
        sampling = self._sampling
        if sampling.begins:
            self._muted.speak(self._dirty, now)
            if self._hush.active:
                self.source.unhush()
            with self._lock:
                sampling.begin(self._dirty, now)
                self._proof.gap = now
            self._proof.give_up()
            self._hush.forget()
            self._growth.forget()
            self._tally.storms += 1
        elif not sampling.active:
            sampling.settle(self._dirty, now)
        elif now < sampling.due:
            sampling.keep(self._dirty)
        elif sampling.sample(self._read, self._dirty):
            # As one: a scan that ends now began before the mark was back, and is not the last one.
            with self._lock:
                self._proof.gap = time.monotonic()
                sampling.end(self._proof.gap)
            self._proof.hurry(now)
            self._proof.missed("very much was written at once")
        elif sampling.wants_scan(now):
            sampling.scan_asked = True
            self._owner.scan_needed("very much is being written at once")

    # --- hushes --------------------------------------------------------------------------------

    @property
    def _is_quiet(self) -> bool:
        """Whether writes are not told at all."""
        return self._hush.active or self._sampling.active

    def _keep_quiet(self, read: bool, now: float) -> None:
        """Begin a hush, go on with one, or end it."""
        if not self._is_quiet:
            writers = self.source.writers if read else ()
            if self.source.can_hush and self._hush.told(writers, self._muted.writers, now):
                self._begin_hush(now)
        elif self._hush.active and now >= self._hush.due and self._hush.look(self._dirty, now):
            self._hush.end()
            self._hush.look(self._dirty, now)
            with self._lock:
                self._proof.gap = time.monotonic()
                self._hush.forget()
            log.info("%s: no more is written into open files than usual: all is told again", self.volume.name)
            self._proof.missed("writes into open files were not told for a while")

    def _begin_hush(self, now: float) -> None:
        self._muted.speak(self._dirty, now)
        with self._lock:
            self._proof.gap = now
            self._hush.begin(now)
            is_awaited = self._proof.is_under_way
            self._proof.give_up()
        self._tally.hushes += 1
        log.info("%s: %s", self.volume.name, hush.SHOWN)
        if is_awaited:
            self._owner.scan_needed("a proof was under way when writes ceased to be told")

    # --- looks ---------------------------------------------------------------------------------

    def _begin_look(self, now: float) -> None:
        if self._looking or self._closing or self._sampling.active or now < self._sampling.looks_due:
            return
        seen = self._proof.seen
        began = seen is not None and self._looking.begin(now, seen)
        if seen is not None and not began and not self._dirty.owes(seen):
            self._proof.end(now)
        if not began and now >= self._looking.due:
            self._looking.begin(now)

    def _finish_look(self, now: float) -> None:
        ended = self._looking.ended(now)
        if ended is None:
            return
        batch, report = ended
        self._tally.looks += 1
        self._tally.changed += report.changed
        self._growth.committed(report, batch)
        if report.problem is not None:
            self._proof.missed(f"a look could not be finished: {report.problem.message}")
        elif report.scan:
            self._proof.missed(report.scan)
        self._looking.settle(batch, report, now)
        self._give_up()
        self._proof.looked(report.duration_s)
