"""The core's one queue and one task: events in, durable steps out.

All events go through one queue to one task, so the core sees a single order of things. What was queued
together is decided together and made durable in one write; nothing of those steps is sent or published
before. When the state directory is full, the task waits with everything in its hands: no promise is
made that is not on disk, sessions and the API go on, and `/-/ready` says why.

Readers have their moment right after each write, before the next step begins: what they see is durable, and
they need not wait for a step that is half done. So many of them as fit in a round have it, the others the next one.

What an agent says it is writing does not wait for a write: a runaway that fills the disk on which the coordinator's
database lies makes each of them last a second, in which gigabytes come. It *overtakes*: it is decided while the write
is under way, and what it brings about is in force from then on; nothing of it is sent or shown before it is durable.
Where there is anything to make durable, it is in the next write, and readers have their moment behind that one, or
behind the eighth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from closeranks_proto.digests import DigestAlgorithm

from .core.fleet import Fleet
from .core.model import Configured, Connected, Disconnected, Effect, Event, FleetConfig, Now, Persist, Step
from .session import STORE_RETRY_S, Receipt
from .slices import Rounds, Slice
from .storage.store import Batch, Store, StoreFault, StoreFull

log = logging.getLogger("closeranks.coordinator")

BATCH_MAX_STEPS = 64  # decided together, then one write
SETTLED_MAX_S = 1.0
# Events that wait; beyond the one sessions are not read on, from the other on they are again. A thousand sessions that
# looked for room every 50 ms took a fifth of the processor time of mass commits.
QUEUE_HIGH, QUEUE_LOW = 2000, 1000
OVERTAKING_MAX = 64  # during one write; a burst is told of twenty times a second by each of its writers
# Moments of the readers in a row: 40 ms on a good disk; on a bad one they wait for SETTLED_MAX_S.
SKIPPED_MAX = 8
# Nothing overtakes these: it may not mean the same behind them.
TURNING = (Connected, Disconnected, Configured)


def clock() -> Now:
    return Now(time.monotonic(), time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True)
class _Fed:
    """What waits for the core. Without an event: somebody who waits for what came before."""

    event: Event | None
    answer: asyncio.Future[object] | None = None
    receipt: Receipt | None = None


@dataclass(slots=True)
class _Round:
    """What becomes durable in one write."""

    decided: list[tuple[_Fed, Step]] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)

    @property
    def effects(self) -> list[Effect]:
        return [effect for _, step in self.decided for effect in step.effects]

    @property
    def is_binding(self) -> bool:
        """Whether there is anything in it to make durable."""
        return bool(self.receipts) or any(isinstance(effect, Persist) for effect in self.effects)


class Deciding:
    """The core and what waits for it. `carry_out` gets every effect but those that are stored, in their order."""

    def __init__(
        self,
        config: FleetConfig,
        algorithm: DigestAlgorithm,
        store: Store,
        carry_out: Callable[[Effect], None],
    ) -> None:
        self._store = store
        self._carry_out = carry_out
        self._unsaved: dict[bytes, bytes] = {}
        self.fleet = Fleet(
            config,
            algorithm,
            self._object,
            store.records(),
            clock(),
            random.SystemRandom(),  # nobody is to foresee what audits ask for
        )
        self.problem: str | None = None  # why nothing that was decided can be made durable
        self._durable = asyncio.Event()  # set while nothing decided waits for the disk
        self._durable.set()
        self._between = asyncio.Event()  # cleared while a step is under way
        self._between.set()
        self._looking = 0  # who waits for that
        self._looks = Rounds()  # of those who want to see what is durable
        self._queue: asyncio.Queue[_Fed] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._unjudged: frozenset[str] = frozenset()  # nodes, as of the last step
        self._unjudged_receipts: list[Receipt] = []  # of their roots: a session's credit bounds them
        self._turning = 0  # of what is queued
        self._early: _Round | None = None  # what has overtaken the write under way, where it may
        self._broken: Exception | None = None  # a fault of the core in that

    @property
    def queued(self) -> int:
        """How many events wait."""
        return self._queue.qsize()

    def feed(self, event: Event, receipt: Receipt | None = None) -> None:
        """Queue an event for the core. What it decides and the receipt's root become durable together."""
        self._queue.put_nowait(_Fed(event, receipt=receipt))
        self._turning += isinstance(event, TURNING)
        if self.queued > QUEUE_HIGH:
            self._room.clear()

    def overtake(self, event: Event) -> bool:
        """Decide it now where a write is under way, else queue it; False: neither, for too much waits already."""
        if self._broken is not None:
            raise self._broken
        if self._early is None or self._turning or len(self._early.decided) >= OVERTAKING_MAX:
            if self.queued > QUEUE_HIGH:
                return False
            self.feed(event)
            return True
        try:
            step = self.fleet.step(clock(), event)
        except Exception as error:
            self._broken = error  # it ends the coordinator, as if it had happened there
            raise
        self._note(step)
        self._early.decided.append((_Fed(event), step))
        self._early.receipts += self._judged(step, None)
        return True

    async def room(self) -> None:
        """Wait while too much is queued."""
        await self._room.wait()

    def ask(self, event: Event | None) -> asyncio.Future[object]:
        """The core's answer, once everything it promised is durable; None: that of what was fed so far."""
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Fed(event, answer))
        self._turning += isinstance(event, TURNING)
        return answer

    async def settled(self, step_max_s: float | None = None) -> bool:
        """Wait until what the core decided last is durable; whoever goes on at once sees that and nothing else.

        At most SETTLED_MAX_S: with a full disk the coordinator must still be seen, and says so. A step that is under
        way then is waited for all the same: whoever looked would do the rest of it without a pause, for everybody.
        `step_max_s`: not longer than that; False where it is under way still, and nobody may look.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_MAX_S):
                while True:
                    await self._durable.wait()
                    await self._looks.turn()
                    if self._durable.is_set():
                        return True
        self._looking += 1
        try:
            async with asyncio.timeout(step_max_s):
                await self._between.wait()
        except TimeoutError:
            return False
        finally:
            self._looking -= 1
        return True

    async def run(self) -> None:
        """Decide and carry out, for ever."""
        ahead: _Round | None = None  # it has overtaken the write before
        skipped = 0  # moments of the readers, in a row
        while True:
            this = await self._decide(ahead or _Round())
            self._early = _Round() if skipped < SKIPPED_MAX else None
            try:
                await self._persist(this)
            finally:
                early, self._early = self._early or _Round(), None
            if self._broken is not None:
                raise self._broken
            ahead = early if early.is_binding else None
            skipped = 0 if ahead is None else skipped + 1
            if ahead is None:
                this.decided += early.decided
                self._durable.set()
                await asyncio.sleep(0)  # the readers' moment
            await self._carry(this)

    async def _decide(self, this: _Round) -> _Round:
        """Take what waits, and wait for it where nothing was decided before."""
        taken = [] if this.decided else [await self._queue.get()]
        while len(taken) < BATCH_MAX_STEPS and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        self._turning -= sum(isinstance(fed.event, TURNING) for fed in taken)
        if self.queued <= QUEUE_LOW:
            self._room.set()
        self._durable.clear()
        piece = Slice()
        for fed in taken:
            step = await self._step(fed.event, piece)
            this.decided.append((fed, step))
            this.receipts += self._judged(step, fed.receipt)
            await piece.give()
        return this

    async def _carry(self, this: _Round) -> None:
        """It is durable: say so, and carry out what was decided."""
        piece = Slice()
        for receipt in this.receipts:
            receipt.durable()
            await piece.give()
        for fed, step in this.decided:
            for effect in step.effects:
                self._carry_out(effect)
                await piece.give()
            if fed.answer is not None and not fed.answer.done():
                fed.answer.set_result(step.answer)

    def _judged(self, step: Step, receipt: Receipt | None) -> list[Receipt]:
        """Those that may become durable now: of this event and earlier ones, where the core has judged the root."""
        judged: list[Receipt] = []
        if step.judged_first:
            judged, self._unjudged_receipts = self._unjudged_receipts, []
        if receipt is not None:
            self._unjudged_receipts.append(receipt)
        if not self._unjudged:  # they are judged all at once
            judged, self._unjudged_receipts = [*judged, *self._unjudged_receipts], []
        return judged

    async def _step(self, event: Event | None, piece: Slice) -> Step:
        if event is None:
            return Step(())
        stepping = self.fleet.begin(clock(), event)
        self._between.clear()
        try:
            while stepping.go_on():
                await piece.give()
            step = stepping.end(clock())
        finally:
            self._between.set()
        if self._looking:
            await asyncio.sleep(0)  # before the next step begins
        self._note(step)
        return step

    def _note(self, step: Step) -> None:
        self._unjudged = step.unjudged
        for effect in step.effects:
            if isinstance(effect, Persist):
                self._unsaved.update(effect.objects)

    def _object(self, digest: bytes) -> bytes:
        unsaved = self._unsaved.get(digest)
        return self._store.object(digest) if unsaved is None else unsaved

    async def _persist(self, this: _Round) -> None:
        objects: dict[bytes, bytes] = {}
        records: dict[tuple[str, str], bytes | None] = {}
        for effect in this.effects:
            if isinstance(effect, Persist):
                objects.update(effect.objects)
                records.update({(kind, key): value for kind, key, value in effect.records})
        if not objects and not records and not this.receipts:
            return
        batch = Batch(
            objects=objects,
            records=[(kind, key, value) for (kind, key), value in records.items()],
            node_roots=[receipt.root for receipt in this.receipts],
        )
        while True:
            try:
                await self._store.write(batch)
            except (StoreFull, StoreFault) as error:
                if self._broken is not None:
                    raise self._broken from None  # a disk that is full for days keeps no fault from being one
                if self.problem is None:
                    log.error("%s", error)
                self.problem = str(error)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                break
        self.problem = None
        for digest in objects:
            self._unsaved.pop(digest, None)
