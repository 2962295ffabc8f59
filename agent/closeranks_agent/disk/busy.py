"""Since when files change whenever they are read.

A file that is written to just now is *busy*: what was read of it is no version that ever was. It is read again by the
next scan or look, and one that never rests is recorded as it was read when it has been busy for long enough.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

TRACKED_MAX: Final = 65536  # of more, those beyond are recorded at once


class Busy:
    """Of one volume, on its thread. It outlives scans and looks."""

    def __init__(self) -> None:
        self._since: dict[bytes, float] = {}  # monotonic

    def is_young(self, key: bytes, now: float, max_age_s: float) -> bool:
        """Whether this file, busy now, has been so for less than that: it is waited for."""
        return len(self._since) < TRACKED_MAX and now - self._since.setdefault(key, now) < max_age_s

    def rests(self, key: bytes) -> None:
        """It was read in a steady state."""
        self._since.pop(key, None)

    def keep(self, keys: Collection[bytes]) -> None:
        """Everything was looked at: all others rest, or are gone."""
        for key in [key for key in self._since if key not in keys]:
            del self._since[key]
