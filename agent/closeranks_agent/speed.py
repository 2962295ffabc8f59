"""How fast chunks may come and go: two budgets that the coordinator sets while everything runs.

One budget for what this node receives, over all volumes and peers, one for what it serves. Each is a token
bucket that may be overdrawn: whoever has moved some bytes pays for them, and waits until the debt is worked
off before the next. So any size can be moved at any rate, and the average is exact. Waiting streams are served in
turn; each pays for a slice at a time, which makes them equal. A new rate counts at once for those who wait.

Without a limit nothing is counted and nobody waits. A limit of 0 stops everything until it is raised.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from closeranks_proto import messages as wire

BURST_S = 0.1  # what was not used for so long may be used at once
SLICE_BYTES = 256 * 1024  # paid for at a time, and a tenth of a second's worth where that is less
SLICE_MIN_BYTES = 4 * 1024


@dataclass(slots=True)
class _Waiter:
    cost: int
    turn: asyncio.Future[None]


class Bucket:
    """One budget in bytes/s, of one event loop."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._rate: float | None = None
        self._level = 0.0  # bytes that may be moved now; negative: debt
        self._at = 0.0
        self._waiting: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate_bytes_s(self) -> float | None:
        return self._rate

    @property
    def slice_bytes(self) -> int:
        """How much to move at a time, so that nobody waits long for his turn."""
        if self._rate is None:
            return SLICE_BYTES
        return max(SLICE_MIN_BYTES, min(SLICE_BYTES, int(self._rate * BURST_S)))

    def set(self, rate_bytes_s: float | None) -> None:
        """From now on; also for those who wait."""
        if rate_bytes_s == self._rate:
            return
        if self._rate is None:
            self._level, self._at = 0.0, self._now()
        else:
            self._refill()
        self._rate = rate_bytes_s
        if rate_bytes_s is None:
            self._level = 0.0
        else:
            self._level = min(self._level, rate_bytes_s * BURST_S)
        self._serve()

    async def take(self, cost: int) -> None:
        """Pay for `cost` bytes that were moved or are about to be; returns when it is this one's turn."""
        if self._rate is None:
            return
        if not self._waiting:
            self._refill()
            if self._level >= 0 and self._rate:
                self._level -= cost
                return
        waiter = _Waiter(cost, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._arm()
        await waiter.turn

    def _refill(self) -> None:
        assert self._rate is not None
        now = self._now()
        self._level = min(self._level + (now - self._at) * self._rate, self._rate * BURST_S)
        self._at = now

    def _serve(self) -> None:
        """Give turns to those whose time has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rate:
            self._refill()
        while self._waiting and (self._rate is None or (self._rate and self._level >= 0)):
            waiter = self._waiting.popleft()
            if not waiter.turn.done():  # else its stream has ended
                self._level -= waiter.cost if self._rate is not None else 0
                waiter.turn.set_result(None)
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._waiting and self._rate:
            delay = max(0.0, -self._level / self._rate)
            self._timer = asyncio.get_running_loop().call_later(delay + 0.0005, self._serve)


class Speed:
    """The limits in force on this node."""

    def __init__(self) -> None:
        self.limits = wire.Limits(None, None)
        self.receive, self.serve = Bucket(), Bucket()

    @property
    def limited(self) -> bool:
        return self.limits.receive_bytes_s is not None or self.limits.serve_bytes_s is not None

    def set(self, limits: wire.Limits) -> None:
        self.limits = limits
        self.receive.set(limits.receive_bytes_s)
        self.serve.set(limits.serve_bytes_s)
