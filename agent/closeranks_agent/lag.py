"""How late the event loop is: the longest that something due had to wait, lately.

Everything long runs on other threads; what would hold up beats and orders shows here first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

EVERY_S: Final = 0.1
SLOT_S: Final = 10.0
SLOTS: Final = 6


class LoopLag:
    """`worst_s` is over the last minute."""

    def __init__(self) -> None:
        self._slots: deque[tuple[int, float]] = deque(maxlen=SLOTS)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = time.monotonic() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.note(time.monotonic(), due)

    def note(self, now: float, due: float) -> None:
        """What was due then has come to run now."""
        slot, late = int(now / SLOT_S), max(0.0, now - due)
        if self._slots and self._slots[-1][0] == slot:
            late = max(late, self._slots.pop()[1])
        self._slots.append((slot, late))

    def worst_s(self) -> float:
        oldest = int(time.monotonic() / SLOT_S) - SLOTS
        return max((late for slot, late in self._slots if slot > oldest), default=0.0)
