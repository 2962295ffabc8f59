"""Bringing files: stage, fetch, finish, install, for groups of files, several groups at once.

While one group waits for the network, another is synced and a third is installed. A group is at most
GROUP_FILES files or GROUP_BYTES bytes (a longer file is a group of its own), so that small files share
requests, hops between threads, ledger entries and transactions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ..chunks.fetch import ChunkWant, Fetcher
from ..disk.volume import Volume
from .install import Installer
from .plan import Step
from .room import NoRoom
from .stage import Stage, Staged
from .work import FULL_ERRNOS, Outcome, Result, failed

GROUP_FILES = 1024
GROUP_BYTES = 32 * 1024 * 1024
GROUPS_AT_ONCE = 3

P = ParamSpec("P")
R = TypeVar("R")


def groups_of(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Cut file steps into groups, in their order."""
    group: list[Step] = []
    size = 0
    for step in steps:
        assert step.need is not None
        cost = step.need.stage_bytes
        if group and (len(group) >= GROUP_FILES or size + cost > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(step)
        size += cost
    if group:
        yield group


class Transfer:
    """Brings the file steps of plans. `note` takes results as they come, `came` bytes that need not come any more."""

    def __init__(
        self,
        volume: Volume,
        stage: Stage,
        fetcher: Fetcher,
        installer: Installer,
        threads: ThreadPoolExecutor,
        note: Callable[[Sequence[Result]], None],
        came: Callable[[int], None],
        soon: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        """`soon`: install also in the middle of a scan. `rng`: take groups in any order, not in that of the steps."""
        self._volume, self._stage, self._fetcher, self._installer = volume, stage, fetcher, installer
        self._threads, self._note, self._came = threads, note, came
        self._soon, self._rng = soon, rng

    async def run(self, steps: Sequence[Step]) -> None:
        """Returns when every step has its result. Raises what stops everything."""
        places = asyncio.Semaphore(GROUPS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as tasks:
                for group in self._ordered(groups_of(steps)):
                    await places.acquire()
                    tasks.create_task(self._group(group)).add_done_callback(lambda _: places.release())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several  # groups fail of one cause: the first says it

    def _ordered(self, groups: Iterator[list[Step]]) -> Iterable[list[Step]]:
        if self._rng is None:
            return groups
        mixed = list(groups)
        self._rng.shuffle(mixed)
        return mixed

    async def _group(self, steps: list[Step]) -> None:
        staged, results = await self._in_thread(self._begin, steps)
        self._note(results)
        if not staged:
            return
        try:
            complete = await self._complete(staged)
            if complete:
                unfinished = dict(await self._finish(complete))
                ready = [one.step for one in complete if one.step.key not in unfinished]
                self._note(list(unfinished.values()))
                run = self._volume.run_soon if self._soon else self._volume.run
                self._note(await run(self._installer.apply, ready))
                await self._in_thread(self._keep, complete)
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            self._note([Result(one.step, Outcome.NO_ROOM) for one in staged])
        finally:
            for one in staged:
                self._stage.forget(one)
                if one.readback is not None:
                    one.readback.close()

    def _keep(self, complete: Sequence[Staged]) -> None:
        for one in complete:
            if one.readback is not None:
                one.readback.keep(self._volume, one.step.key)

    async def _finish(self, complete: Sequence[Staged]) -> list[tuple[bytes, Result]]:
        lost = await self._in_thread(self._stage.finish, complete)
        return [(one.step.key, failed(one.step, error)) for one, error in lost]

    def _begin(self, steps: Sequence[Step]) -> tuple[list[Staged], list[Result]]:
        staged: list[Staged] = []
        results: list[Result] = []
        for step in steps:
            assert step.need is not None
            try:
                staged.append(self._stage.begin(step))
            except NoRoom:
                results.append(Result(step, Outcome.NO_ROOM))
            except OSError as error:
                results.append(failed(step, error))
        return staged, results

    async def _complete(self, staged: Sequence[Staged]) -> list[Staged]:
        """Fetch what is missing; those that have everything now."""
        by_key = {one.step.key: one for one in staged}

        async def write(parts: Sequence[tuple[ChunkWant, bytes | memoryview]]) -> Sequence[ChunkWant]:
            bad = await self._in_thread(
                self._stage.write, [(by_key[want.key], want, data) for want, data in parts]
            )
            self._came(sum(want.length for want, _ in parts) - sum(want.length for want in bad))
            return bad

        denied = await self._fetcher.fetch([want for one in staged for want in one.wants], write, True)
        lacking = {want.key for want in denied}
        self._note([Result(by_key[key].step, Outcome.NO_SOURCE) for key in sorted(lacking)])
        return [one for one in staged if one.step.key not in lacking]

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = asyncio.get_running_loop().run_in_executor
        return await call(self._threads, lambda: function(*args, **kwargs))
