"""What a watcher tells whoever opened it: calls as things happen, and a tally of what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class WatchTally:
    """What a volume's watchers have done since the agent started."""

    events: int = 0
    looks: int = 0
    changed: int = 0
    dropped: int = 0  # times that events were lost
    canary_misses: int = 0
    storms: int = 0  # times that so much was written that it was only listened to in samples
    hushes: int = 0  # times that so many writes went into open files that none of them was told


class Owner(Protocol):
    """Who is told. Called in the watcher's thread."""

    def scan_needed(self, why: str) -> None:
        """Something may have been missed: scan the volume soon."""

    def proven(self) -> None:
        """`Watcher.proven` has moved."""

    def broken(self, watcher: object, why: str) -> None:
        """This watcher has ended by itself: open another, then scan."""
