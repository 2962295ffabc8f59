"""Of a volume one tree is fetched at a time, and nobody waits long for a node that is slow."""

from __future__ import annotations

import asyncio

from closeranks_coordinator import turns
from closeranks_coordinator.turns import STALLED_S, TURN_MAX_S, Turns


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """Turns whose beginnings are written down."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.begun: list[str] = []

    def take(self, *sessions: str) -> None:
        for session in sessions:
            self.turns.take(session, lambda session=session: self.begun.append(session))  # type: ignore[misc]


async def test_one_after_the_other_in_the_order_of_their_coming() -> None:
    queue = Queue()
    queue.take("a", "b", "c")
    assert queue.begun == ["a"]
    queue.turns.done("a")
    assert queue.begun == ["a", "b"]
    queue.turns.done("b")
    queue.turns.done("c")
    queue.take("d")
    assert queue.begun == ["a", "b", "c", "d"]


async def test_who_has_the_turn_begins_again_at_once_and_who_waits_keeps_its_place() -> None:
    queue = Queue()
    queue.take("a", "b", "c", "a", "b")
    assert queue.begun == ["a", "a"]
    queue.turns.done("a")
    assert queue.begun == ["a", "a", "b"]


async def test_who_ends_while_it_waits_is_passed_over() -> None:
    queue = Queue()
    queue.take("a", "b", "c")
    queue.turns.done("b")
    queue.turns.done("a")
    assert queue.begun == ["a", "c"]


async def test_a_beginning_that_ends_at_once_lets_the_next_begin() -> None:
    begun: list[int] = []
    many = Turns(Clock())

    def begin(number: int) -> None:
        begun.append(number)
        many.done(str(number))

    for number in range(500):
        many.take(str(number), lambda number=number: begin(number))  # type: ignore[misc]
    assert begun == list(range(500))


async def test_a_node_without_progress_does_not_hold_up_the_others(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(turns, "LOOK_EVERY_S", 0.001)
    queue = Queue()
    queue.take("slow", "b", "c")
    queue.clock.now += STALLED_S - 0.1
    queue.turns.progress("slow")
    queue.clock.now += STALLED_S - 0.1
    await asyncio.sleep(0.05)
    assert queue.begun == ["slow"], "it makes progress"
    queue.clock.now += 0.2
    async with asyncio.timeout(5):
        while queue.begun != ["slow", "b"]:
            await asyncio.sleep(0.001)
    queue.turns.done("b")
    assert queue.begun == ["slow", "b", "c"], "nobody waits for the slow one any more"


async def test_no_turn_lasts_for_ever(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(turns, "LOOK_EVERY_S", 0.001)
    queue = Queue()
    queue.take("large", "b")
    for _ in range(int(TURN_MAX_S) + 1):
        queue.clock.now += 1.0
        queue.turns.progress("large")
    async with asyncio.timeout(5):
        while queue.begun != ["large", "b"]:
            await asyncio.sleep(0.001)
