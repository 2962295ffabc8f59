"""What many sessions share of the rounds of one event loop."""

from __future__ import annotations

import asyncio

from closeranks_coordinator.slices import ROUND_S, WOKEN, Rounds


class Work:
    """Tasks that take a turn each, `cost_s` on an invented clock; `rounds` lists who ran in which round of the loop."""

    def __init__(self, cost_s: float) -> None:
        self.cost_s = cost_s
        self.now = 0.0
        self.shared = Rounds(clock=lambda: self.now)
        self.rounds: list[list[int]] = []

    async def piece(self, number: int) -> None:
        await self.shared.turn()
        self.now += self.cost_s
        self.rounds[-1].append(number)

    async def run(self, tasks: list[asyncio.Task[None]]) -> None:
        while not all(task.done() for task in tasks):
            self.rounds.append([])
            await asyncio.sleep(0)
        self.rounds = [one for one in self.rounds if one]


async def test_what_is_ready_at_once_is_spread_over_rounds_in_its_order() -> None:
    work = Work(cost_s=ROUND_S / 4)
    await work.run([asyncio.create_task(work.piece(number)) for number in range(50)])
    assert [number for one in work.rounds for number in one] == list(range(50))
    assert len(work.rounds[0]) == 4, "the share of a round"
    assert all(len(one) <= WOKEN for one in work.rounds)


async def test_a_few_short_pieces_wait_for_nothing() -> None:
    work = Work(cost_s=0.0)
    await work.run([asyncio.create_task(work.piece(number)) for number in range(50)])
    assert len(work.rounds) == 1


async def test_who_has_left_takes_nobodys_turn() -> None:
    work = Work(cost_s=ROUND_S)
    tasks = [asyncio.create_task(work.piece(number)) for number in range(4 * WOKEN)]
    work.rounds.append([])
    await asyncio.sleep(0)
    for task in tasks[1 : 3 * WOKEN]:
        task.cancel()
    rest = [tasks[0], *tasks[3 * WOKEN :]]
    await work.run(rest)
    assert [number for one in work.rounds for number in one] == [0, *range(3 * WOKEN, 4 * WOKEN)]
    assert len(work.rounds) <= 3


async def test_many_short_pieces_fill_their_share_of_a_round_and_not_more() -> None:
    """A thousand acknowledgements at eight a round would take 125 rounds, each of them with a slice of other work."""
    work = Work(cost_s=ROUND_S / 100)
    await work.run([asyncio.create_task(work.piece(number)) for number in range(1000)])
    assert [number for one in work.rounds for number in one] == list(range(1000))
    assert max(map(len, work.rounds)) <= 101
    assert len(work.rounds) <= 20


async def test_what_turns_out_longer_has_fewer_turns_from_the_next_round_on() -> None:
    work = Work(cost_s=ROUND_S / 100)
    tasks = [asyncio.create_task(work.piece(number)) for number in range(1000)]
    while work.shared._fit < 100:
        work.rounds.append([])
        await asyncio.sleep(0)
    work.cost_s = ROUND_S
    work.rounds = []
    await work.run(tasks)
    assert len(work.rounds[0]) <= 100
    assert all(len(one) <= WOKEN for one in work.rounds[2:])
