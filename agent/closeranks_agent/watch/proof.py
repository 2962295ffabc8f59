"""Up to when everything is known and committed: gaps, and the canaries that prove that there are none.

What may have been missed is a *gap*: from the source's opening until a scan that began later has ended, and
after every loss that no look at one directory can mend. In a gap nothing is proven. A proof is a canary that was
seen, and every path heard of before it looked at: then all that was written before the canary was touched is
committed.

A canary is a file that is touched to see whether its event arrives: what was queued before it has been read by then.
It lies in the volume's private directory and is opened and closed for writing, nothing is written: that costs the disk
nothing. One is under way at a time. Its name tells which one it is, so a late event of an older one proves nothing.
One that is not seen says that the source is deaf.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from math import inf
from typing import Final

from closeranks_proto.errors import CloseranksError

from ..disk.private import PRIVATE_NAME
from ..disk.volume import Volume
from .events import CANARY_NAME, SourceBroken
from .owner import Owner, WatchTally
from .source import Source

log = logging.getLogger("closeranks.watch")

LIMIT_S: Final = 2.0  # unseen for so long with an empty queue: the source is deaf
LIMIT_BUSY_S: Final = 30.0  # however much is queued
NAMES: Final = 16
EVERY_S: Final = 30.0
ASK_EVERY_S: Final = 0.5  # whether one that is under way should have been seen
REST_SHARE: Final = 2.0  # after a proof the next waits so many times as long as its looks took
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(slots=True)
class Canary:
    """One that was touched at `touched`, monotonic. `seen`: when its event was read."""

    name: bytes
    touched: float
    seen: float | None = None

    def is_missed(self, now: float, idle: float) -> bool:
        """Whether it should have been seen; `idle` is when the queue was found empty last."""
        if self.seen is not None:
            return False
        waited = now - self.touched
        return waited > LIMIT_BUSY_S or (waited > LIMIT_S and idle - self.touched > LIMIT_S / 2)


def touch(volume: Volume, number: int) -> bytes:
    """Open and close the canary's file; the name by which its event is known. Raises VolumeGone, OSError."""
    name = b"%d" % (number % NAMES)
    root_fd = volume.open_root()
    try:
        inside = volume.private == volume.path + b"/" + PRIVATE_NAME
        path = (PRIVATE_NAME if inside else volume.private) + b"/" + CANARY_NAME + name
        os.close(os.open(path, _FLAGS, 0o600, dir_fd=root_fd))
    finally:
        os.close(root_fd)
    return name


class Proof:
    """Of one watcher, in its thread; `ask`, `proven` and `covered` from any. The gap changes under `lock`."""

    def __init__(
        self, volume: Volume, source: Source, owner: Owner, tally: WatchTally, lock: threading.Lock
    ) -> None:
        self.proven: float | None = None
        self.gap: float | None = time.monotonic()  # what happened before then may have been missed
        self._volume, self._source, self._owner, self._tally, self._lock = volume, source, owner, tally, lock
        self._asked = False
        self._canary: Canary | None = None
        self._canaries = 0
        self._canary_due = 0.0
        self._due = self._cost_s = 0.0
        self._idle = 0.0

    # --- gaps ----------------------------------------------------------------------------------

    @property
    def covered(self) -> bool:
        """Nothing was missed since the last scan."""
        return self.gap is None and not self._source.unwatched

    def missed(self, why: str) -> None:
        """Only a scan can tell what happened."""
        log.warning("%s: %s; a scan looks at everything", self._volume.name, why)
        with self._lock:
            self.gap = time.monotonic()
        self._owner.scan_needed(why)

    # --- proofs --------------------------------------------------------------------------------

    def ask(self) -> bool:
        """Begin one soon; False where only a scan can give it."""
        with self._lock:
            if not self.covered:
                return False
            self._asked = True
        return True

    @property
    def is_under_way(self) -> bool:
        return self._asked or self._canary is not None

    @property
    def seen(self) -> float | None:
        """When the canary was seen: what was heard of before is still to be committed."""
        return None if self._canary is None else self._canary.seen

    def due(self, now: float, is_looking: bool) -> float:
        """When `keep` has something to do."""
        if self._canary is None:
            return self._due if self._asked and not is_looking else max(self._canary_due, self._due)
        return now + ASK_EVERY_S if self._canary.seen is None else inf

    def keep(self, now: float) -> None:
        """Touch a canary when one is due. Raises SourceBroken where it is missed."""
        if self._canary is not None:
            if self._canary.is_missed(now, self._idle):
                self._tally.canary_misses += 1
                raise SourceBroken(
                    f"its canary file was touched {now - self._canary.touched:.1f} s ago and not seen"
                )
            return
        if now < self._due or not (self._asked or now >= self._canary_due):
            return
        self._asked = False
        self._canary_due = now + EVERY_S
        self._canaries += 1
        self._cost_s = 0.0
        try:
            touched = time.monotonic()
            self._canary = Canary(touch(self._volume, self._canaries), touched)
        except (CloseranksError, OSError) as error:
            self.missed(f"the canary file can not be touched: {error}")

    def drained(self, now: float) -> None:
        """The queue was empty then."""
        self._idle = now

    def heard(self, name: bytes, now: float) -> bool:
        """The event of a canary was read; whether it is the one that is waited for."""
        canary = self._canary
        if canary is None or canary.name != name or canary.seen is not None:
            return False
        canary.seen = now
        return True

    def looked(self, seconds: float) -> None:
        """A look took so long."""
        self._cost_s += seconds

    def lost(self, now: float) -> None:
        """Events were lost, the canary's maybe, too: that is not deafness."""
        if self._canary is not None and self._canary.seen is None:
            self._canary, self._canary_due = None, now

    def give_up(self) -> None:
        """None can be had now."""
        self._asked, self._canary = False, None

    def hurry(self, now: float) -> None:
        """One should follow without being asked for."""
        self._canary_due = now

    def end(self, now: float) -> None:
        """Everything heard of before the canary was seen has been looked at."""
        assert self._canary is not None
        touched = self._canary.touched
        self._due = now + self._cost_s * REST_SHARE
        with self._lock:
            # It may have lost sight of one meanwhile.
            is_proven = self.covered
            if is_proven:
                self.proven = touched
            self._canary = None
        if is_proven:
            self._owner.proven()
