"""How late the event loop is: the longest that something due had to wait, lately.

Everything long runs on other threads; what would hold up beats and orders shows here first. While nothing happens
it is measured once a second: waking a processor ten times a second is most of what an agent at rest would cost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

EVERY_S: Final = 0.1
REST_EVERY_S: Final = 1.0
STIRRED_S: Final = 10.0  # so long after something happened it is measured often
SLOT_S: Final = 10.0
SLOTS: Final = 6


class LoopLag:
    """`worst_s` is over the last minute."""

    def __init__(self) -> None:
        self._slots: deque[tuple[int, float]] = deque(maxlen=SLOTS)
        self._stirred = time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            every_s = self.every_s(time.monotonic())
            due = time.monotonic() + every_s
            await asyncio.sleep(every_s)
            self.note(time.monotonic(), due)

    def stirred(self) -> None:
        """Something happens: measure often for a while."""
        self._stirred = time.monotonic()

    def every_s(self, now: float) -> float:
        """How long until the next look."""
        return EVERY_S if now - self._stirred < STIRRED_S else REST_EVERY_S

    def note(self, now: float, due: float) -> None:
        """What was due then has come to run now."""
        slot, late = int(now / SLOT_S), max(0.0, now - due)
        if self._slots and self._slots[-1][0] == slot:
            late = max(late, self._slots.pop()[1])
        self._slots.append((slot, late))

    def worst_s(self) -> float:
        oldest = int(time.monotonic() / SLOT_S) - SLOTS
        return max((late for slot, late in self._slots if slot > oldest), default=0.0)
