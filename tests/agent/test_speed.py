"""Budgets of bytes: exact on average, fair, changed at once for those who wait, and free where there are none."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine

import pytest

from closeranks_agent.speed import Bucket, Speed
from closeranks_proto import messages as wire


class Hasty(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def time(self) -> float:
        return self.clock

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if timers and not self._ready:  # type: ignore[attr-defined]
            self.clock = max(self.clock, timers[0].when())
        super()._run_once()  # type: ignore[misc]


def run(story: Coroutine[None, None, None]) -> float:
    """Seconds of the loop's own time that it took."""
    loop = Hasty()
    try:
        loop.run_until_complete(story)
        return loop.clock
    finally:
        loop.close()


async def moved(bucket: Bucket, size: int, seconds: float) -> int:
    """Bytes that one stream moves in slices of `size` within so long."""
    count = 0
    end = asyncio.get_running_loop().time() + seconds
    while True:
        await bucket.take(size)
        if asyncio.get_running_loop().time() >= end:
            return count
        count += size


@pytest.mark.parametrize(
    ("rate", "size"),
    [(50_000, 1000), (50_000, 65536), (50_000, 3_000_000), (1_000_000, 4096), (100_000_000, 262_144)],
)
def test_the_average_is_the_rate(rate: int, size: int) -> None:
    async def story() -> None:
        bucket = Bucket()
        bucket.set(rate)
        seconds = max(5.0, 40 * size / rate)
        assert await moved(bucket, size, seconds) == pytest.approx(rate * seconds, rel=0.05)

    run(story())


def test_streams_share_alike() -> None:
    async def story() -> None:
        bucket = Bucket()
        bucket.set(1_000_000)
        got = await asyncio.gather(*(moved(bucket, 20_000, 10) for _ in range(5)))
        assert max(got) - min(got) <= 40_000
        assert sum(got) == pytest.approx(10_000_000, rel=0.05)

    run(story())


def test_a_raised_rate_counts_at_once_for_a_stream_that_waits() -> None:
    async def story() -> None:
        bucket = Bucket()
        bucket.set(10)
        await bucket.take(1000)
        waiting = asyncio.ensure_future(bucket.take(1))
        await asyncio.sleep(1)
        bucket.set(10_000)
        await waiting

    assert run(story()) < 1.2


def test_a_lowered_rate_counts_at_once_for_a_stream_that_waits() -> None:
    async def story() -> None:
        bucket = Bucket()
        bucket.set(10_000)
        await bucket.take(20_000)
        waiting = asyncio.ensure_future(bucket.take(1))
        await asyncio.sleep(1)
        bucket.set(1000)
        await waiting

    assert run(story()) > 10.5


def test_zero_stops_and_none_lets_go() -> None:
    async def story() -> None:
        bucket = Bucket()
        bucket.set(0)
        waiting = [asyncio.ensure_future(bucket.take(5)) for _ in range(3)]
        await asyncio.sleep(3600)
        assert not any(one.done() for one in waiting)
        bucket.set(None)
        await asyncio.gather(*waiting)
        await bucket.take(1 << 60)

    assert run(story()) < 3600.1


def test_a_stream_that_ended_while_it_waited_pays_nothing() -> None:
    async def story() -> None:
        bucket = Bucket()
        bucket.set(1000)
        await bucket.take(1000)
        gone = asyncio.ensure_future(bucket.take(1_000_000))
        await asyncio.sleep(0)
        gone.cancel()
        await bucket.take(1)
        await bucket.take(1)

    assert run(story()) < 1.1


async def test_limits_of_the_coordinator_reach_both_budgets() -> None:
    speed = Speed()
    speed.set(wire.Limits(1000, None))
    assert (speed.receive.rate_bytes_s, speed.serve.rate_bytes_s) == (1000, None)
