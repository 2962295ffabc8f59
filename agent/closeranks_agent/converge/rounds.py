"""The rounds of one converge: compare, plan, apply, until nothing is left that can be done.

Each round plans one window. Its steps without bytes are applied in batches on the volume's thread; files go
through `transfer`. A step whose path changed meanwhile comes again in the next round; where the tree's
shape is not what the index says, a scan comes in between. Everything opened here is closed before `run`
returns or raises, also when it is cancelled: no thread works on after it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Literal

from closeranks_proto.messages import Converge, ConvergeResult, Problem

from ..chunks.fetch import Fetcher
from .athand import Window, local_content, rules_of, windows
from .install import Installer
from .lift import Lifts
from .plan import Plan, Step, plan, sources_of
from .readback import Readbacks
from .stage import Stage, clear_stage
from .tally import Tally, Unfit, no_space, trash_full, unfit
from .transfer import Transfer
from .work import Outcome, Result
from .workroom import Workroom
from .written import Written, forget_closed

if TYPE_CHECKING:
    from .converger import Converger

BATCH_STEPS = 256
SCANS_MAX = 3
THREADS = 3
STEPS_SLACK = 10_000  # beyond twice the first count: somebody writes as fast as we repair


class Rounds:
    """One run. Use once."""

    def __init__(self, owner: Converger, order: Converge, tally: Tally) -> None:
        self._owner, self._order, self._tally = owner, order, tally
        self._volume, self._trash = owner.volume, owner.trash
        self._stopped = threading.Event()
        self._withheld: dict[bytes, bytes] = {}
        self._news: set[bytes] = set()  # paths that stay, for the coordinator does not know yet what is there
        self._window_size = owner.window
        self._scans = 0
        self._complete = False
        self._needed: dict[bytes, int] = {}  # bytes that files without room would take
        self._unfit: dict[bytes, Unfit] = {}  # what steps without room in the trash would move there
        self._ordinary = order.ordinary and not order.incident

    @property
    def stuck(self) -> set[bytes]:
        """Keys of the steps that had no room on the disk or in the trash."""
        return {*self._needed, *self._unfit}

    async def run(self) -> ConvergeResult:
        """Raises what stops everything; the tally then says how far it came."""
        async with AsyncExitStack() as stack:
            if self._order.base is not None:
                objects = self._volume.history.objects
                objects.pin(self._order.base)
                stack.callback(objects.unpin, self._order.base)
            room = await self._open(stack)
            await self._all_rounds()
            return await asyncio.to_thread(self._conclude, room)
        raise AssertionError("unreachable")

    async def _open(self, stack: AsyncExitStack) -> Workroom:
        """Open everything; the stack closes it in the opposite order."""
        opening = asyncio.create_task(asyncio.to_thread(self._open_files))
        stack.push_async_callback(self._close_files, opening)  # also when it is cancelled while it opens
        room, self._written, self._lifts = await asyncio.shield(opening)
        stack.push_async_callback(self._restore)
        await self._volume.run(self._lifts.restore)
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"converge-{self._volume.name}")
        stack.push_async_callback(asyncio.to_thread, threads.shutdown)
        readbacks = Readbacks(self._volume.algorithm, self._stopped.is_set, self._owner.proved)
        stack.push_async_callback(asyncio.to_thread, readbacks.close)
        stack.callback(self._stopped.set)
        self._installer = Installer(
            self._volume,
            room,
            self._trash,
            self._written,
            self._lifts,
            self._order.incident,
            self._open_incidents,
            self._ordinary,
        )
        stage = Stage(
            room,
            self._volume.algorithm,
            self._volume.settings.special_bits,
            self._installer.moved.get,
            self._stopped.is_set,
            readbacks,
        )
        self._fetcher = await stack.enter_async_context(
            Fetcher(
                self._volume.name,
                self._volume.algorithm.name,
                self._volume.chunk_bytes,
                self._owner.self_name,
                self._order.sources,
                self._owner.members,
                self._owner.term,
                self._owner.http,
                self._tally.received,
                budget=self._owner.budget,
                reach=self._owner.reach,
            )
        )
        self._stage_room = stage.room
        self._transfer = Transfer(
            self._volume, stage, self._fetcher, self._installer, threads, self._note, self._tally.came,
            rng=random.Random() if len(self._order.sources) > 1 else None,
        )  # fmt: skip
        return room

    def _open_files(self) -> tuple[Workroom, Written, Lifts]:
        """In a thread. What a killed run left behind is recovered here, and what is too old evicted."""
        incident = self._order.incident
        open_incidents = self._open_incidents()
        with ExitStack() as stack:
            room = stack.enter_context(self._trash.opened())
            self._trash.note_incidents(open_incidents)
            self._trash.evict(open_incidents)
            forget_closed(room.trash_fd, {*open_incidents, ""})
            written = Written(room.trash_fd, incident)
            stack.callback(written.close)
            lifts = Lifts(room.trash_fd, room.root_fd)
            stack.callback(lifts.close)
            self._files = stack.pop_all()
        return room, written, lifts

    def _open_incidents(self) -> set[str]:
        """Those of this node; the one that is repaired may not have been told of yet."""
        return {*self._owner.open_incidents(), self._order.incident} - {""}

    async def _close_files(self, opening: asyncio.Task[object]) -> None:
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            await asyncio.to_thread(self._files.close)

    async def _restore(self) -> None:
        """Give directories their modes back; on the volume's thread, so that a batch under way has ended."""
        try:
            await self._volume.run(self._lifts.restore)
        except RuntimeError:  # the volume was closed before us and its thread has ended
            await asyncio.to_thread(self._lifts.restore)

    # --- rounds ----------------------------------------------------------------------------------

    async def _all_rounds(self) -> None:
        limit = None
        while limit is None or self._tally.steps_done < limit:
            self._tally.enter("plan")
            window, planned = await self._volume.run(self._plan)
            if limit is None:
                self._count(planned)
            limit = 2 * self._tally.steps_total + STEPS_SLACK
            self._withheld.update((saw.key, saw.target) for saw in planned.withheld if saw.target is not None)
            if planned.steps:
                if not await self._apply_and_look(planned.steps):
                    break
            elif window.cut is None:
                self._tally.give_up()
                self._complete = not self._tally.aside
                return
            elif not planned.withheld:
                self._window_size *= 2  # only directories that wait for what lies behind the cut

    async def _apply_and_look(self, steps: Sequence[Step]) -> bool:
        """Apply, then scan if the tree turned out to have another shape. False when that was too often."""
        await self._apply(steps)
        if not self._tally.stale:
            return True
        self._tally.stale = False
        self._scans += 1
        if self._scans > SCANS_MAX:
            return False
        await self._volume.run(self._volume.scan)
        return True

    def _plan(self) -> tuple[Window, Plan]:
        """The next window that has not been set aside, and its plan. On the volume's thread."""
        waiting = self._tally.waiting(self._installer.has_heir)
        skip = self._tally.aside.keys() | self._withheld.keys() | self._news | waiting
        window = next(windows(self._volume, self._order.target_root, skip, self._window_size))
        window = self._without_news(window)
        local = local_content(self._volume, window.saws, self._trash)
        planned = plan(window.saws, local, rules_of(self._volume), window.cut)
        self._installer.sources = sources_of(planned.steps)
        return window, planned

    def _without_news(self, window: Window) -> Window:
        """Leave alone what is neither as the coordinator took it nor made by this run: it is the node's own change.

        It is committed already, and has to be judged or merged before anything may take its place.
        """
        base = self._order.base
        if base is None or base == self._volume.root:
            return window
        known = self._volume.tree.lookup_many(base, [saw.key for saw in window.saws])
        unlike = self._installer.unlike
        left = [
            saw
            for saw in window.saws
            if saw.own == known.get(saw.key) or (saw.own is not None and saw.own == unlike.get(saw.key))
        ]
        if len(left) < len(window.saws):
            self._news.update({saw.key for saw in window.saws}.difference(saw.key for saw in left))
        return Window(tuple(left), window.cut)

    def _count(self, planned: Plan) -> None:
        self._tally.steps_total = len(planned.steps)
        self._tally.bytes_remaining = sum(step.need.fetch_bytes for step in planned.steps if step.need)

    async def _apply(self, steps: Sequence[Step]) -> None:
        at = 0
        while at < len(steps):
            is_file = steps[at].need is not None
            end = at
            while end < len(steps) and (steps[end].need is not None) is is_file:
                end += 1
            if is_file:
                self._tally.enter("fetch")
                await self._transfer.run(steps[at:end])
            else:
                self._tally.enter("install")
                for start in range(at, end, BATCH_STEPS):
                    batch = steps[start : min(end, start + BATCH_STEPS)]
                    self._note(await self._volume.run(self._installer.apply, batch))
            at = end

    def _note(self, results: Sequence[Result]) -> None:
        for result in results:
            match result.outcome:
                case Outcome.NO_ROOM:
                    self._needed[result.step.key] = result.step.need.stage_bytes if result.step.need else 0
                case Outcome.TRASH_FULL:
                    self._unfit[result.step.key] = unfit(result)
                case _:
                    continue
        self._tally.note(results)

    # --- the end ---------------------------------------------------------------------------------

    def _conclude(self, room: Workroom) -> ConvergeResult:
        self._tally.give_up()
        problem = self._problem()
        root = self._volume.root
        if self._withheld:
            self._written.withhold(sorted(self._withheld.items()))
        if self._complete:
            clear_stage(room.stage_fd)
        state: Literal["done", "partial", "failed"] = "partial"
        if self._complete:
            state = "done"
        elif problem is not None:
            state = "failed"
        detail = self._tally.detail(self._fetcher.story())
        if state == "partial" and not detail:
            detail = "the tree changes as fast as it is repaired; asking again continues"
        self._tally.report(force=True)
        return self._tally.result(self._order, state, root, detail, problem, len(self._withheld))

    def _problem(self) -> Problem | None:
        """What keeps the whole run from its target, if it is one thing."""
        where = f"{self._volume.private.decode('utf-8', 'backslashreplace')}/trash"
        if self._needed:
            needed = sum(self._needed.values())
            return no_space(needed, self._stage_room.free(), self._trash.usage(), where)
        if self._unfit:
            needed = sum(one.charge for one in self._unfit.values())
            largest = max(self._unfit.values(), key=lambda one: one.charge)
            most = self._trash.max_bytes
            free = max(0, most - sum(self._trash.usage().values()))
            return trash_full(needed, largest, free, most, where, self._ordinary)
        return None
