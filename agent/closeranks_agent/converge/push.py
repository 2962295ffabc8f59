"""Pushes: the truth's next steps, applied to this node's tree as they come.

A push names paths with what the coordinator takes this node to hold (`before`) and what it is to hold
(`after`). Only where the tree still is as `before` says is a step made; everything else is left alone and
counted as *skipped*: the next push is made from what this node says then. No object is asked for but chunk
lists of very long files. Steps go the way of every converge (plan, stage, trash, swap, record), with the same
promises. A push that was killed needs no memory: what it finished is in the tree, the rest comes again. One that
makes no progress for PUSH_GOOD_S is given up, as the coordinator does: a process that was stopped in the middle of
it does not bring back what the truth, and every other node, has left meanwhile.

What small files cost decides how fast a fleet follows its writer. A push of few bytes is therefore made in `parts`,
mostly one. Larger ones go group by group through `transfer`.

No list of what was written is kept: nobody proves a push by reading everything again. A scan does it in time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size
from closeranks_proto.errors import ProtocolError
from closeranks_proto.messages import Push, PushResult
from closeranks_proto.paths import escape, parent_key

from ..chunks.fetch import Fetcher
from ..chunks.peers import Peers
from ..disk.records import StatSignature
from .athand import local_content, rules_of
from .contents import Contents
from .parts import Part, Parts, parts_of, stage_bytes_of
from .plan import LocalContent, Place, Saw, Step, entry_of, plan, sources_of
from .pushed import Count, checked, result_of
from .tally import no_space, trash_full, unfit, words
from .told import WORLD, told
from .transfer import Transfer
from .work import Outcome, Result
from .workbench import Workbench, Workshop

if TYPE_CHECKING:
    from .converger import Converger

log = logging.getLogger("closeranks.converge")

LARGE_BYTES = 16 * 1024 * 1024  # from here on several groups are under way at once
BATCH_STEPS = 256
PAID_BYTES = 16 * 1024  # 16 s of the lowest limit there is
ROUNDS_MAX = 3
SCAN_MIN_S = 10.0  # between two scans that pushes ask for
PATIENCE_S = 5.0  # with peers that give nothing: the next push names other sources


class Pusher:
    """Pushes of one volume, one at a time: whoever calls holds the volume's lock."""

    def __init__(self, owner: Converger) -> None:
        self._owner, self._volume = owner, owner.volume
        self._contents = Contents(owner.volume)
        self._shop = Workshop(owner.volume, owner.trash, owner.open_incidents, owner.lock)
        self._parts = Parts(owner.volume, self._note)
        self._scanned_at = float("-inf")
        self._peers = Peers((), owner.self_name, owner.members, random.Random())

    @property
    def _bench(self) -> Workbench:
        bench = self._shop.bench
        assert bench is not None, "opened when the push was planned"
        return bench

    async def close(self) -> None:
        """Let go of everything; the volume's lock is held."""
        await self._shop.close()

    # --- one push --------------------------------------------------------------------------------

    async def run(self, push: Push, came_at: float, bodies: Sequence[bytes] = ()) -> PushResult:
        """Apply what can be applied of a push that came then (monotonic).

        Raises what the world does to the whole volume; cancellable.
        """
        count = Count({}, {self._volume.algorithm.of(body): body for body in bodies})
        self._shop.rest()
        try:
            try:
                count.open = checked(push, self._volume.algorithm.width)
            except ProtocolError as error:
                count.detail = f"the push is not well formed: {error}"
                return result_of(push, count, len(push.edits))
            fetch_bytes = sum(0 if edit.after is None else entry_size(edit.after) for edit in push.edits)
            count.came(came_at, fetch_bytes)
            await self._pay(count)
            await self._lists(count)
            await self._rounds(push, count)
            return result_of(push, count)
        except WORLD as error:
            self._shop.spoilt = True
            count.problem, count.detail = told(error, self._volume)
            log.warning("push %d to volume %s failed: %s", push.push, push.volume, count.detail)
            return result_of(push, count)
        except BaseException:
            self._shop.spoilt = True
            raise
        finally:
            await self._shop.leave()

    async def _pay(self, count: Count) -> None:
        """What came along counts as moved, and against the limit."""
        size = sum(map(len, count.bodies.values()))
        count.moved += size
        if self._owner.budget is None:
            return
        for start in range(0, size, PAID_BYTES):  # an operator's low limit is no standstill
            await self._owner.budget.take(min(PAID_BYTES, size - start))
            count.goes_on()

    async def _lists(self, count: Count) -> None:
        """Bring the chunk lists that the edits name; those that nobody has fail their edits."""
        longest = self._volume.chunk_bytes
        if all(edit.after is None or entry_size(edit.after) <= longest for edit in count.open.values()):
            return
        lacking = await self._volume.run_soon(self._stage_lists, count)
        found: dict[bytes, bytes] = {}
        if lacking:
            found = await self._owner.want(tuple(sorted(set(lacking.values()))))
            for blob in found.values():
                decode_chunk_list(blob)
            self._volume.stage_objects(found)
        for key, digest in lacking.items():
            if digest not in found:
                count.fail(key, Outcome.NO_SOURCE, "its chunk list is not at hand any more")

    def _stage_lists(self, count: Count) -> dict[bytes, bytes]:
        """Keep the lists that came with the edits; key -> digest of those that are missing."""
        lists: dict[bytes, bytes] = {}
        lacking: dict[bytes, bytes] = {}
        for key, edit in count.open.items():
            if edit.after is None or entry_size(edit.after) <= self._volume.chunk_bytes:
                continue
            digest = entry_of(edit.after, self._volume.algorithm.width).digest
            if edit.chunks is not None and self._volume.algorithm.of(edit.chunks) == digest:
                lists[digest] = edit.chunks
            elif self._volume.object(digest) is None:
                lacking[key] = digest
        self._volume.stage_objects(lists)
        return lacking

    async def _rounds(self, push: Push, count: Count) -> None:
        for attempt in range(ROUNDS_MAX):
            count.again = count.stale = False
            parts = await self._volume.run_soon(self._plan, count, attempt == 0)
            if parts:
                async with self._fetcher(push, count) as fetcher:
                    for part in parts:
                        if part.large:
                            await self._large(part.steps, fetcher, count)
                        else:
                            await self._parts.bring(self._bench, part, fetcher, count)
            if count.stale:
                await self._look_again()
            if not count.open or not count.again:
                break
        for key in list(count.open):
            count.end(key, count.skipped)

    def _plan(self, count: Count, moves: bool) -> Sequence[Part]:
        """Compare, plan, and begin the first part. On the volume's thread; what needs no bytes is done at once."""
        saws = self._saws(count)
        if not saws:
            return ()
        bench = self._shop.opened()
        bench.installer.is_over = count.is_over
        self._owner.trash.note_incidents(self._owner.open_incidents())
        planned = plan(saws, self._at_hand(saws, count.bodies), rules_of(self._volume), moves=moves)
        for saw in planned.withheld:
            count.end(saw.key, count.done)  # as far as it may be: the special bits are told by the scan
        bench.installer.moved.clear()
        bench.installer.sources = sources_of(planned.steps)
        if stage_bytes_of(planned.steps) > LARGE_BYTES:
            return (Part(planned.steps, large=True),)
        first, *others = parts_of(planned.steps)
        if self._parts.begin(bench, first, count):
            return others
        return (first, *others)

    def _saws(self, count: Count) -> list[Saw]:
        """What is still as the push took it; the rest is settled."""
        saws: list[Saw] = []
        if self._volume.root is None:
            count.detail = "the volume was not scanned yet"
            return saws
        rows = self._volume.rows(count.open)
        for key, edit in list(count.open.items()):
            row = rows.get(key)
            own = None if row is None else row.value
            if own == edit.after:
                count.end(key, count.done)
            elif own != edit.before:
                count.end(key, count.skipped)
            else:
                saws.append(
                    Saw(key, own, edit.after, None if row is None else StatSignature.unpack(row.stat))
                )
        return saws

    def _at_hand(self, saws: Sequence[Saw], came: Collection[bytes]) -> LocalContent:
        """Where wanted contents are on this node: the push's own paths, the trash, the tree.

        What came along needs no search.
        """
        width = self._volume.algorithm.width
        wanted: dict[bytes, int] = {}
        going: dict[bytes, Place] = {}
        for saw in saws:
            if saw.own is not None and entry_kind(saw.own) is Kind.FILE:
                going[saw.own[DIGEST_AT : DIGEST_AT + width]] = Place(False, saw.key)
        for saw in saws:
            if saw.target is not None and entry_kind(saw.target) is Kind.FILE and entry_size(saw.target):
                wanted[saw.target[DIGEST_AT : DIGEST_AT + width]] = entry_size(saw.target)
        whole = {digest: going[digest] for digest in wanted if digest in going}
        left = {one: size for one, size in wanted.items() if one not in whole and one not in came}
        for digest in list(left):
            item = self._owner.trash.find(digest)
            if item is not None:
                whole[digest] = Place(True, item)
                del left[digest]
        if left:
            whole |= {digest: Place(False, key) for digest, key in self._contents.find(left).items()}
        return local_content(self._volume, saws, None, whole)

    # --- many bytes ------------------------------------------------------------------------------

    async def _large(self, steps: Sequence[Step], fetcher: Fetcher, count: Count) -> None:
        """In order: what needs no bytes in batches, files in groups of which several are under way."""
        bench = self._bench

        def note(results: Sequence[Result]) -> None:
            self._note(count, results, story=fetcher.story())

        transfer = Transfer(
            self._volume,
            bench.stage,
            fetcher,
            bench.installer,
            bench.threads,
            note,
            lambda _: count.goes_on(),
            soon=True,
        )
        at = 0
        while at < len(steps):
            is_file = steps[at].need is not None
            end = at
            while end < len(steps) and (steps[end].need is not None) is is_file:
                end += 1
            if is_file:
                await transfer.run(steps[at:end])
            else:
                for start in range(at, end, BATCH_STEPS):
                    batch = steps[start : min(end, start + BATCH_STEPS)]
                    note(await self._volume.run_soon(bench.installer.apply, batch))
            at = end

    # --- what became of it -----------------------------------------------------------------------

    def _note(self, count: Count, results: Sequence[Result], needed: int = 0, story: str = "") -> None:
        for result in results:
            step = result.step
            keys = [step.key] if step.source is None else [step.key, step.source.key]
            count.trashed += result.trashed
            if result.outcome is not Outcome.DONE and self._shop.bench is not None:
                self._shop.bench.untidy = True  # what was staged for it may still lie there
            match result.outcome:
                case Outcome.DONE:
                    count.goes_on()
                    for key in keys:
                        count.end(key, count.done)
                case Outcome.CHANGED:
                    count.again = True
                case Outcome.HEIRLESS if count.again:
                    pass  # it is planned again with the path that it waits for
                case Outcome.UNLIKE:
                    # Nothing is left to be done; but were it counted as done, it would be sent again at once, for ever.
                    count.goes_on()
                    count.fail(step.key, Outcome.UNLIKE, result.detail)
                    for key in keys:
                        count.end(key, count.done)
                case Outcome.WAITS | Outcome.OVER:
                    pass  # what it waits for, or what the truth has by then, comes with a later push
                case Outcome.STALE:
                    count.again |= step.source is not None
                    count.stale |= self._is_known(parent_key(step.key))
                case _ if step.source is not None:
                    count.again = True  # the two are done one by one then
                case outcome:
                    if outcome is Outcome.NO_ROOM:
                        count.needed += needed or (step.need.stage_bytes if step.need else 0)
                    elif outcome is Outcome.TRASH_FULL:
                        one = unfit(result)
                        count.needed += one.charge
                        if count.largest is None or one.charge > count.largest.charge:
                            count.largest = one
                    text = words(outcome, result.why, result.detail)
                    if outcome is Outcome.NO_SOURCE and story:
                        text += f" ({story})"
                    count.fail(step.key, outcome, text)
        self._problems(count)

    def _is_known(self, key: bytes) -> bool:
        """Whether the index takes this for a directory that is there."""
        if not key:
            return True
        record = self._volume.record(key)
        return record is not None and entry_kind(record.value) is Kind.DIRECTORY

    def _problems(self, count: Count) -> None:
        outcomes = {outcome for outcome, _ in count.failures.values()}
        trash, bench = self._owner.trash, self._shop.bench
        where = f"{escape(self._volume.private)}/trash"
        if Outcome.NO_ROOM in outcomes and bench is not None:
            count.problem = no_space(count.needed, bench.stage.room.free(), trash.usage(), where)
        elif Outcome.TRASH_FULL in outcomes and count.largest is not None:
            free = max(0, trash.max_bytes - sum(trash.usage().values()))
            count.problem = trash_full(count.needed, count.largest, free, trash.max_bytes, where, True)

    async def _look_again(self) -> None:
        """The tree is not shaped as the index says: look at all of it, though not at every push."""
        now = asyncio.get_running_loop().time()
        if now - self._scanned_at >= SCAN_MIN_S:
            self._scanned_at = now
            await self._volume.run(self._volume.scan)

    def _fetcher(self, push: Push, count: Count) -> Fetcher:
        def received(payload: int) -> None:
            count.moved += payload

        self._peers.choose(push.sources)
        owner = self._owner
        return Fetcher(
            self._volume.name,
            self._volume.algorithm.name,
            self._volume.chunk_bytes,
            owner.self_name,
            push.sources,
            owner.members,
            owner.term,
            owner.http,
            received,
            patience_s=PATIENCE_S,
            peers=self._peers,
            budget=owner.budget,
            reach=owner.reach,
        )

    # --- the bench -------------------------------------------------------------------------------
