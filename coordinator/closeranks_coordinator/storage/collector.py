"""The garbage collections of a store: mark what is reachable, deny the rest, then remove it in small transactions.

What `has` affirms is relied on: somebody may store a parent of it next. So each affirmation is noted here, and a
collection marks again for as long as more was relied on meanwhile. Once nothing was, the doomed are denied. One that is
brought again between two parts of the removal is young by then, and stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import apsw

from .collection import GivenUp, Marking, TouchedFilter, prune_history, sweep
from .store import GcReport, StoreFault, StoreFull
from .writer import Delta, Writer

log = logging.getLogger("closeranks.store")

SWEEP_AT_ONCE = 256
HISTORY_AT_ONCE = 1000
HISTORY_KEPT = 10_000  # roots of one node's volume; more than one a minute for a week
VACUUM_AT_ONCE = 256  # database pages, 1 MiB
MARK_ROUNDS_MAX = 16


class Collector:
    """Of one store, on its event loop. `gone` is told what was removed, and of which objects nothing may be cached."""

    def __init__(
        self,
        path: Path,
        width: int,
        writer: Writer,
        protect_s: float,
        mono: Callable[[], float],
        gone: Callable[[Delta, Sequence[bytes]], None],
    ) -> None:
        self._path, self._width, self._writer = path, width, writer
        self._protect_s, self._mono, self._gone = protect_s, mono, gone
        self._epoch_began = mono()
        self._touched = (TouchedFilter(), TouchedFilter())  # of the epoch before, of this one
        self._relied: set[bytes] | None = None  # while a collection runs: what was affirmed
        self._doomed: set[bytes] = set()  # while it sweeps
        self._marking: Marking | None = None
        self._stopped = False
        self._began, self._report = 0.0, GcReport(0, 0, 0, 0, 0.0, False)

    def dooms(self, digest: bytes) -> bool:
        """Whether this object is being removed."""
        return digest in self._doomed

    def affirmed(self, digest: bytes) -> None:
        """Somebody was told that this object is here, with all beneath it. Any thread."""
        self._touched[1].add(digest)
        if self._relied is not None:
            self._relied.add(digest)

    def brought(self, digests: Iterable[bytes]) -> None:
        """These were written again."""
        self._doomed.difference_update(digests)

    def stop(self) -> None:
        """End a collection that is under way soon."""
        self._stopped = True
        if self._marking is not None:
            self._marking.stopped = True

    async def collect(self, live: Iterable[bytes], history_before_ms: int | None) -> GcReport:
        """See `Store.collect`; one at a time."""
        roots = sorted(set(live))
        self._began, self._report = self._mono(), GcReport(0, 0, 0, 0, 0.0, False)
        try:
            await self._collect(roots, history_before_ms)
        except (GivenUp, StoreFull, StoreFault) as error:
            log.warning("the garbage collection was given up: %s", error)
        else:
            self._tell(complete=not self._stopped)
        finally:
            self._marking, self._relied = None, None
            self._doomed = set()
        self._tell(duration_s=self._mono() - self._began)
        return self._report

    async def _collect(self, roots: list[bytes], history_before_ms: int | None) -> None:
        await self._prune(history_before_ms)
        if self._began - self._epoch_began >= self._protect_s:
            await self._next_epoch(self._began)
        young_from = self._writer.epoch - 1
        before, present = self._touched
        touched = lambda digest: digest in before or digest in present  # noqa: E731
        marking = Marking(self._path, self._width, young_from, touched)
        self._marking, self._relied = marking, set()
        try:
            doomed = await self._mark(marking, roots)
        finally:
            marking.close()
        self._tell(live=len(marking.marked))
        await self._sweep(doomed, young_from)
        await self._vacuum()

    async def _prune(self, before_ms: int | None) -> None:
        gone = HISTORY_AT_ONCE
        while gone == HISTORY_AT_ONCE and not self._stopped:
            gone = await self._writer.call(
                partial(prune_history, before_ms=before_ms, at_most=HISTORY_AT_ONCE, keep=HISTORY_KEPT)
            )
            self._gone(Delta(history=-gone), ())
            self._tell(history_removed=self._report.history_removed + gone)

    async def _next_epoch(self, now: float) -> None:
        epoch = self._writer.epoch + 1

        def begin(connection: apsw.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (str(epoch).encode(),))

        await self._writer.call(begin)
        self._writer.epoch = epoch  # only now: an epoch that was not recorded has not begun
        self._touched = (self._touched[1], TouchedFilter())
        self._epoch_began = now

    async def _mark(self, marking: Marking, roots: list[bytes]) -> set[bytes]:
        """The digests to remove. From now on `has` denies them; none of them did it affirm before."""

        def first() -> list[bytes]:
            marking.mark(roots)
            marking.mark(marking.past_roots())
            return marking.doomed()

        def again(relied: set[bytes], doomed: list[bytes]) -> list[bytes]:
            marking.mark(relied)
            return [digest for digest in doomed if digest not in marking.marked]

        doomed = await _finish(marking, first)
        for _ in range(MARK_ROUNDS_MAX):
            if not self._relied:
                self._doomed = set(doomed)
                return self._doomed
            relied, self._relied = self._relied, set()
            doomed = await _finish(marking, partial(again, relied, doomed))
        raise GivenUp("trees change faster than they can be looked at; the next round will try again")

    async def _sweep(self, doomed: set[bytes], young_from: int) -> None:
        digests = sorted(doomed)
        for at in range(0, len(digests), SWEEP_AT_ONCE):
            if self._stopped:
                break
            part = digests[at : at + SWEEP_AT_ONCE]
            gone, gone_bytes = await self._writer.call(partial(sweep, digests=part, young_from=young_from))
            report = self._report
            self._tell(removed=report.removed + gone, removed_bytes=report.removed_bytes + gone_bytes)
            self._gone(Delta(-gone, -gone_bytes), [digest for digest in part if digest in self._doomed])

    async def _vacuum(self) -> None:
        """Give free pages back to the file system once they are a quarter of the file, bit by bit."""

        def free(connection: apsw.Connection) -> bool:
            pages, unused = connection.pragma("page_count"), connection.pragma("freelist_count")
            if unused * 4 < pages or unused < VACUUM_AT_ONCE:
                return False
            list(connection.execute(f"PRAGMA incremental_vacuum({VACUUM_AT_ONCE})"))
            return True

        while not self._stopped and await self._writer.call(free):
            pass
        if not self._stopped and self._report.removed:
            await self._writer.shrink()  # it has grown by everything that was moved

    def _tell(self, **found: float | bool) -> None:
        self._report = replace(self._report, **found)  # type: ignore[arg-type]


async def _finish(marking: Marking, work: Callable[[], list[bytes]]) -> list[bytes]:
    """The work's result. When we are cancelled it is told to stop, and waited for: it uses a connection."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        marking.stopped = True
        await asyncio.wait({running})
        raise
