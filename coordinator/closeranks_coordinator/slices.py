"""Long work on the event loop in slices: sessions, health checks and load balancers wait for one of them at most.

Only the coordinator's own task works so, and what it has in its hands is not in anybody else's reach: a turn that is
given changes nothing of what is decided, and nothing is promised in between.
"""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.02


class Slice:
    """One piece of work. `give` between its parts lets everything else have its turn when a slice is over."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def give(self) -> None:
        if time.monotonic() - self._began >= SLICE_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()
