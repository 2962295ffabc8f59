"""Making a volume's root another root: one operation for resync, catching up, restoring and following a writer.

A run collects the target's pages, then goes in rounds: compare the present root with the target, plan a
window of the differences, apply it. What changed under its hands is simply a difference of the next round.
A run that was killed or cancelled is therefore continued by starting another one; nothing but the stage's
bytes, which are verified again, is carried over.

The world's failures end a run as `partial` (some paths could not be brought over, named in `detail`) or
`failed` (nothing more can happen before `problem` is gone). Bugs of ours are raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import aiohttp

from closeranks_proto.errors import UserError
from closeranks_proto.limits import FRAME_MAX_ITEMS
from closeranks_proto.messages import (
    Converge,
    ConvergeProgress,
    ConvergeResult,
    Member,
    PlanStep,
    Problem,
    Push,
    PushResult,
    TrashItem,
    TrashList,
    TrashRestore,
    Verify,
    VerifyResult,
)

from ..chunks.reach import Reach
from ..disk.volume import Volume
from ..speed import Bucket
from .athand import WINDOW, local_content, rules_of, windows
from .plan import Saw, plan, step_for_people
from .push import Pusher
from .readback import Proved
from .restore import restore_in_place, restore_to
from .rounds import Rounds
from .tally import Tally
from .target import Want, collect
from .told import WORLD, told
from .trash import Trash
from .verify import verify

log = logging.getLogger("closeranks.converge")

PLAN_SHOWN_BYTES = 4 * 1024 * 1024  # of keys and notes in one answer
LIST_MAX = 1000


class Converger:
    """Converges and verifies one volume, one order at a time.

    `members`, `term` and `open_incidents` give the membership of this moment; `want` gets objects from the
    coordinator, leaving out those that it lacks.
    """

    def __init__(
        self,
        volume: Volume,
        self_name: str,
        members: Callable[[], Mapping[str, Member]],
        want: Callable[[tuple[bytes, ...]], Awaitable[dict[bytes, bytes]]],
        http: aiohttp.ClientSession,
        term: Callable[[], int] = lambda: 0,
        open_incidents: Callable[[], Collection[str]] = tuple,
        window: int = WINDOW,
        budget: Bucket | None = None,
        reach: Reach | None = None,
    ) -> None:
        self.volume = volume
        self.self_name = self_name
        self.members, self.term, self.open_incidents = members, term, open_incidents
        self.http = http
        self.window = window
        self.trash = Trash(volume)
        self.proved = Proved(volume.algorithm)
        self.budget = budget  # of bytes received, shared with all volumes
        self.reach = reach or Reach()
        self.want: Want = want
        self.lock = asyncio.Lock()
        self._pusher = Pusher(self)
        self._stopped_by: dict[str, Problem] = {}  # the last run, the last push
        self._stuck: set[bytes] = set()  # keys of the last run's steps that had no room

    @property
    def waits_for(self) -> Problem | None:
        """What must be gone before the tree can be brought to the truth, as far as this has found. Any thread."""
        return next(iter(self._stopped_by.copy().values()), None)

    async def prepare(self) -> None:
        """To be called when the agent starts: a disk that is full later can then still be repaired.

        Raises VolumeGone, OSError.
        """
        await asyncio.to_thread(self.trash.prepare)

    async def run(self, order: Converge, progress: Callable[[ConvergeProgress], None]) -> ConvergeResult:
        """Carry out the order. Cancellable at any point; what is finished stays."""
        assert order.volume == self.volume.name
        async with self.lock:
            await self._pusher.close()
            if not order.dry_run:
                self._stuck = set()
            tally = Tally(order.action, progress, asyncio.get_running_loop().time)
            try:
                result = await self._run(order, tally)
            except WORLD as error:
                problem, detail = told(error, self.volume)
                log.warning("converge %s of volume %s failed: %s", order.action, order.volume, detail)
                result = tally.result(order, "failed", self.volume.root, detail, problem)
            finally:
                if self.volume.root is not None:
                    self.volume.drop_staged()
            if not order.dry_run:
                self._stopped_by = {} if result.problem is None else {"run": result.problem}
            return result

    async def push(self, push: Push, came_at: float, bodies: Sequence[bytes] = ()) -> PushResult:
        """Apply the truth's next steps to what is still as they take it. Cancellable; what is finished stays.

        `came_at`: when it came (monotonic), for it is not good for ever. `bodies` are contents that came along,
        whatever they are: what has a wanted digest is not fetched.
        """
        assert push.volume == self.volume.name
        async with self.lock:
            result = await self._pusher.run(push, came_at, bodies)
            self._stopped_by.pop("push", None)
            if result.problem is not None:
                self._stopped_by["push"] = result.problem
            elif self._stuck and result.applied == len(push.edits):
                self._stuck.difference_update(edit.key for edit in push.edits)
                if not self._stuck:  # pushes have brought what the run had no room for
                    self._stopped_by.pop("run", None)
            return result

    async def close(self) -> None:
        """Let go of what is kept open between pushes."""
        async with self.lock:
            await self._pusher.close()

    async def verify(self, order: Verify) -> VerifyResult:
        """Re-read what the converges of the incident wrote, scan fully, and say what the root is."""
        assert order.volume == self.volume.name
        async with self.lock:
            await self._pusher.close()
            try:
                return await verify(self.volume, self.trash, self.proved, order)
            except WORLD as error:
                _, detail = told(error, self.volume)
                return VerifyResult(order.action, order.volume, None, 0, 0, False, detail, ())

    async def list_trash(self, order: TrashList) -> tuple[tuple[TrashItem, ...], str | None]:
        """A page of the volume's trash and the next cursor. Raises VolumeGone, OSError."""
        limit = max(1, min(order.limit, LIST_MAX))
        return await asyncio.to_thread(self.trash.items, order.incident, limit, order.cursor)

    async def tidy_trash(self) -> int:
        """Evict what is old and belongs to no open incident; to be called now and then. Bytes freed.

        Raises VolumeGone, LedgerDamaged, OSError.
        """
        return await asyncio.to_thread(self.trash.evict, set(self.open_incidents()))

    async def restore_trash(self, order: TrashRestore, outside: Sequence[bytes]) -> tuple[TrashItem, ...]:
        """Give items back; `outside` are directories that the restored must not lie in. Raises UserError."""
        try:
            if order.in_place:
                if self.lock.locked():
                    raise UserError("the volume is being converged or verified; ask again when that is over")
                async with self.lock:
                    await self._pusher.close()
                    return await self.volume.run(restore_in_place, self.volume, self.trash, order.ids)
            return await asyncio.to_thread(restore_to, self.volume, self.trash, order.ids, order.to, outside)
        except WORLD as error:
            raise UserError(told(error, self.volume)[1]) from error

    async def _run(self, order: Converge, tally: Tally) -> ConvergeResult:
        if self.volume.root is None:
            report = await self.volume.run(self.volume.scan)
            if self.volume.root is None:
                detail = "the volume could not be scanned yet"
                return tally.result(order, "failed", None, detail, report.problem)
        await collect(self.volume, order.target_root, self.want)
        if order.base is not None:
            await collect(self.volume, order.base, self.want)
        if order.dry_run:
            return await self.volume.run(self._dry_run, order, tally)
        rounds = Rounds(self, order, tally)
        result = await rounds.run()
        self._stuck = rounds.stuck
        return result

    def _dry_run(self, order: Converge, tally: Tally) -> ConvergeResult:
        """What a run would do now. Changes nothing, not even in the private directory."""
        shown: list[PlanStep] = []
        shown_bytes = steps = fetch_bytes = withheld = 0
        carried: tuple[Saw, ...] = ()
        for window in windows(self.volume, order.target_root, (), self.window):
            saws = (*carried, *window.saws)
            planned = plan(saws, local_content(self.volume, saws, None), rules_of(self.volume), window.cut)
            carried = planned.waiting
            withheld += len(planned.withheld)
            for step in planned.steps:
                steps += 1
                told = step_for_people(step, self.volume.algorithm.width)
                fetch_bytes += told.fetch_bytes
                shown_bytes += len(told.key) + len(told.note) + 32
                if len(shown) < FRAME_MAX_ITEMS and shown_bytes <= PLAN_SHOWN_BYTES:
                    shown.append(told)
        tally.steps_total = steps
        return ConvergeResult(
            order.action, order.volume, "done", self.volume.root, 0, 0, 0, withheld, "", None,
            tuple(shown), steps, fetch_bytes,
        )  # fmt: skip
