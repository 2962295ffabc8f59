"""The loop's lag is measured often while something happens, seldom at rest, and the worst of a minute is told."""

from __future__ import annotations

import asyncio
import time

from closeranks_agent.lag import EVERY_S, REST_EVERY_S, STIRRED_S, LoopLag


def test_at_rest_it_is_measured_once_a_second_and_often_when_something_happened() -> None:
    lag = LoopLag()
    now = time.monotonic()
    assert lag.every_s(now + STIRRED_S + 1) == REST_EVERY_S
    lag.stirred()
    assert lag.every_s(now + 1) == EVERY_S


def test_the_worst_of_the_last_minute_is_told() -> None:
    lag = LoopLag()
    now = time.monotonic()
    lag.note(now, now - 0.25)
    lag.note(now, now - 0.5)
    lag.note(now, now + 1.0)
    assert 0.4 < lag.worst_s() < 0.6


async def test_a_loop_that_is_held_up_shows() -> None:
    lag = LoopLag()
    work = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    time.sleep(EVERY_S + 0.2)  # noqa: ASYNC251 (what must not happen, made to happen)
    await asyncio.sleep(EVERY_S / 10)
    work.cancel()
    assert lag.worst_s() >= 0.15
