"""Long work on the event loop in slices: sessions, health checks and load balancers wait for one of them at most.

`Slice` is for one long piece of work. Only the coordinator's own task works so, and what it has in its hands is not in
anybody else's reach: a turn that is given changes nothing of what is decided, and nothing is promised in between.

`Rounds` is for many short pieces that become ready in the same round of the loop: a thousand agents commit at once,
each frame takes a third of a millisecond, and the loop would run all of them before it looks at anything else. Here
they share a slice of each round, in the order of their coming.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

SLICE_S = 0.02
ROUND_S = 0.01
WOKEN = 8  # commits of 512 edits, the largest, take 3 ms each


class Slice:
    """One piece of work. `give` between its parts lets everything else have its turn when a slice is over."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def give(self) -> None:
        if time.monotonic() - self._began >= SLICE_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()


class Rounds:
    """What many tasks of one event loop share of its rounds: ROUND_S, then WOKEN of those that wait in each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None  # None: nobody has had a turn in this round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ending = False  # it is told when this round ends

    async def turn(self) -> None:
        """Come back at once, or in a later round when this one has had its share."""
        if self._waiting or not self._is_left():
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken

    def _is_left(self) -> bool:
        """Whether something is left of this round's share."""
        if self._began is None:
            self._began = self._clock()
            self._end_later()
        return self._clock() - self._began < ROUND_S

    def _end_later(self) -> None:
        if not self._ending:
            self._ending = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """The round is over: the next of those that wait have their turn."""
        self._began, self._ending = None, False
        woken = 0
        while self._waiting and woken < WOKEN:
            one = self._waiting.popleft()
            if not one.done():  # its task was cancelled
                one.set_result(None)
                woken += 1
        if self._waiting:
            self._end_later()
