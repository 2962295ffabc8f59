"""What a push brings of few bytes, in parts: two visits to the volume's thread, and the fetching between them.

All of a part shares one ledger entry, one sync of files and one of directories, and one transaction. What came along
with the push is not fetched; where nothing has to be, a part takes one visit. Bytes wait in memory until they are
written, so their sum bounds a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..chunks.fetch import ChunkWant, Fetcher
from ..disk.volume import Volume
from .plan import Step
from .pushed import Count
from .room import NoRoom
from .stage import Staged
from .work import FULL_ERRNOS, Outcome, Result, failed
from .workbench import Workbench

SMALL_STEPS = 2048  # of one part, which is one sync of the filesystem: mostly the whole push
SMALL_BYTES = 8 * 1024 * 1024  # of one part, held in memory until they are written


@dataclass(slots=True)
class Part:
    """Steps that are made together, and what of their files is begun."""

    steps: Sequence[Step]
    large: bool = False
    staged: list[Staged] = field(default_factory=list)
    wants: list[ChunkWant] = field(default_factory=list)  # what must be fetched
    came: dict[tuple[bytes, int], bytes] = field(default_factory=dict)


class Parts:
    """Makes parts of pushes on one volume. `note` takes results, bytes that were lacking, and the fetcher's story."""

    def __init__(self, volume: Volume, note: Callable[[Count, Sequence[Result], int, str], None]) -> None:
        self._volume, self._note = volume, note

    async def bring(self, bench: Workbench, part: Part, fetcher: Fetcher, count: Count) -> None:
        """Begin it, if nobody did, fetch what it lacks, and finish it."""
        if not part.staged and await self._volume.run_soon(self.begin, bench, part, count):
            return
        came = part.came

        async def keep(parts: Sequence[tuple[ChunkWant, bytes | memoryview]]) -> Sequence[ChunkWant]:
            bad = [want for want, data in parts if self._volume.algorithm.of(data) != want.digest]
            came.update({(want.key, want.index): bytes(data) for want, data in parts if want not in bad})
            count.goes_on()
            return bad

        await fetcher.fetch(part.wants, keep)
        await self._volume.run_soon(self._finish, bench, part, count, fetcher.story())

    def begin(self, bench: Workbench, part: Part, count: Count) -> bool:
        """Stage what is at hand; True where nothing must be fetched and everything is done already."""
        for step in part.steps:
            if step.need is None:
                continue
            try:
                staged = bench.stage.begin(step)
            except NoRoom as error:
                self._note(count, [Result(step, Outcome.NO_ROOM)], error.needed, "")
            except OSError as error:
                self._note(count, [failed(step, error)], 0, "")
            else:
                part.staged.append(staged)
                self._sort_out(part, staged, count)
        if part.wants:
            return False
        self._finish(bench, part, count)
        return True

    @staticmethod
    def _sort_out(part: Part, staged: Staged, count: Count) -> None:
        """What of a staged file came along with the push, and what has to be fetched."""
        for want in staged.wants:
            body = count.bodies.get(want.digest)
            if body is not None and len(body) == want.length:
                part.came[want.key, want.index] = body
            else:
                part.wants.append(want)

    def _finish(self, bench: Workbench, part: Part, count: Count, story: str = "") -> None:
        """Write, sync, swap and record everything of one part. On the volume's thread."""
        results: list[Result] = []
        try:
            results += self._fill(bench, part.staged, part.came)
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            results += [Result(one.step, Outcome.NO_ROOM) for one in part.staged]
        finally:
            for one in part.staged:
                bench.stage.forget(one)
        begun = {one.step.key for one in part.staged} - {result.step.key for result in results}
        ready = [step for step in part.steps if step.need is None or step.key in begun]
        if ready:
            results += bench.installer.apply(ready)
        self._note(count, results, 0, story)

    def _fill(
        self, bench: Workbench, staged: Sequence[Staged], came: dict[tuple[bytes, int], bytes]
    ) -> list[Result]:
        """Complete the staged files; the results of those that can not be."""
        results: list[Result] = []
        whole: list[tuple[Staged, bytes]] = []
        parts: list[Staged] = []
        for one in staged:
            if any((want.key, want.index) not in came for want in one.wants):
                results.append(Result(one.step, Outcome.NO_SOURCE))
            elif one.need.chunks is None and one.wants:
                whole.append((one, came[one.step.key, 0]))
            else:
                bench.stage.write([(one, want, came[want.key, want.index]) for want in one.wants])
                parts.append(one)
        if whole:
            results += [failed(one.step, error) for one, error in bench.stage.make(whole)]
        if parts:
            results += [failed(one.step, error) for one, error in bench.stage.finish(parts)]
        return results


def parts_of(steps: Sequence[Step]) -> Iterator[Part]:
    """Cut steps, in their order, into parts of at most SMALL_STEPS and, from two steps on, SMALL_BYTES."""
    start = size = 0
    for index, step in enumerate(steps):
        cost = 0 if step.need is None else step.need.stage_bytes
        if index > start and (index - start >= SMALL_STEPS or size + cost > SMALL_BYTES):
            yield Part(steps[start:index])
            start, size = index, 0
        size += cost
    yield Part(steps[start:])


def stage_bytes_of(steps: Sequence[Step]) -> int:
    """How much these steps stage."""
    return sum(step.need.stage_bytes for step in steps if step.need is not None)
