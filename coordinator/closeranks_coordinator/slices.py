"""Long work on the event loop in slices: sessions, health checks and load balancers wait for one of them at most.

`Slice` is for one long piece of work. Only the coordinator's own task works so, and what it has in its hands is not in
anybody else's reach: a turn that is given changes nothing of what is decided, and nothing is promised in between.

`Rounds` is for many short pieces that become ready in the same round of the loop: a thousand agents commit at once,
each frame takes a third of a millisecond, and the loop would run all of them before it looks at anything else. Here
they share a slice of each round, in the order of their coming. How many of those that wait may run in the next round
follows from what the last ones took: eight large commits, or some hundred acknowledgements.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

SLICE_S = 0.01
ROUND_S = 0.01
WRITES_S = 0.005  # of what leaves, which is shorter than what comes
WOKEN = 8  # at least; commits of 512 edits, the largest, take 3 ms each
WOKEN_MAX = 256


class Slice:
    """One piece of work. `give` between its parts lets everything else have its turn when a slice is over."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def give(self) -> None:
        if time.monotonic() - self._began >= SLICE_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()


class Rounds:
    """What many tasks of one event loop share of its rounds: `share_s` each, in which as many run as fit."""

    def __init__(self, share_s: float = ROUND_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._share_s = share_s
        self._clock = clock
        self._began: float | None = None  # None: nobody has had a turn in this round
        self._latest = 0.0  # when the last turn of this round began
        self._turns = 0  # in this round
        self._fit = WOKEN
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ending = False  # it is told when this round ends

    async def turn(self) -> None:
        """Come back at once, or in a later round when this one has had its share."""
        now = self._clock()
        if self._waiting or (self._began is not None and now - self._began >= self._share_s):
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken
            now = self._clock()
        if self._began is None:
            self._began = now
            self._end_later()
        self._latest = now
        self._turns += 1

    def _end_later(self) -> None:
        if not self._ending:
            self._ending = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """The round is over: the next of those that wait have their turn."""
        self._fit = self._fitting()
        self._began, self._turns, self._ending = None, 0, False
        woken = 0
        while self._waiting and woken < self._fit:
            one = self._waiting.popleft()
            if not one.done():  # its task was cancelled
                one.set_result(None)
                woken += 1
        if self._waiting:
            self._end_later()

    def _fitting(self) -> int:
        """How many pieces fit in a round, by what those of this one took. The last one's end is not known."""
        if self._began is None or self._turns < 2:
            return WOKEN
        each = max((self._latest - self._began) / (self._turns - 1), 1e-6)
        return max(WOKEN, min(int(self._share_s / each), 2 * self._fit, WOKEN_MAX))
