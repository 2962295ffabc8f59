"""Applying a batch of steps to the tree, on the volume's thread.

For each step the path is compared with what the plan saw; what differs is read anew and left to the next
plan. Then, once for the whole batch, and durably: the trash's ledger announces what will come, and the list
of written paths what will be written. Then the entries are swapped; then directories are synced; then the
volume's index and journal learn of it. A kill anywhere leaves each path old or new, and nothing lost.

The world's errors become results of their step; only what stops everything (the root is gone, the disk
fails, the index can not be written) is raised.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence

from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind
from closeranks_proto.paths import escape, parent_key, path_of

from ..disk.records import Change, Record
from ..disk.volume import Volume
from .durable import sync_directories
from .items import Discard
from .lift import Lifts
from .maker import Maker
from .plan import Step
from .recheck import Recheck
from .swap import NoExchange, NotEmpty, Surprise
from .trash import Trash
from .work import FULL_ERRNOS, Outcome, Result, Work, failed
from .workroom import Workroom
from .written import Written


class Installer:
    """Applies steps during one converge, or during pushes.

    Pushes keep no list of what was written (`written` None: nobody proves them by reading again). They are good for a
    while only: `is_over` is asked before each batch, and before each step of it. `ordinary`: what is replaced or
    removed is what the truth itself has left, so in the trash it may give way to what comes later, even to the rest
    of its own batch; but not to what `sources` names, from which files are still to be copied.
    """

    def __init__(
        self,
        volume: Volume,
        room: Workroom,
        trash: Trash,
        written: Written | None,
        lifts: Lifts,
        incident: str,
        open_incidents: Callable[[], Collection[str]],
        ordinary: bool,
    ) -> None:
        self._volume, self._room, self._trash = volume, room, trash
        self._written, self._lifts, self._incident = written, lifts, incident
        self._open_incidents, self._ordinary = open_incidents, ordinary
        self._recheck = Recheck(volume, room, lifts)
        self._maker = Maker(volume, room, lifts)
        self.moved: dict[bytes, bytes] = {}  # key -> item that its bytes became in this run
        self.unlike = self._maker.unlike  # key -> value made, where that could not be the target's
        self.sources: Collection[bytes] = ()  # keys and items that the plan under way copies from
        self.is_over: Callable[[], bool] = lambda: False
        self._results: list[Result] = []

    def apply(self, steps: Sequence[Step]) -> list[Result]:
        """Apply steps in their order, on the volume's thread. Raises OSError, VolumeGone, StateUnavailable."""
        observed = time.monotonic()
        if self.is_over():
            return [Result(step, Outcome.OVER) for step in steps]
        os.close(self._volume.open_root())
        self._results = []
        made, found = self._maker.made, self._recheck.found
        made.clear()
        found.clear()
        left = self._checked(steps)
        while True:
            works, left = self._admit(left)
            arrived = self._swap(works)
            self._sync(works)
            if any(work.discard is not None for work in works):
                self._trash.settle(arrived, self._incident, self._ordinary)
            self._commit(made, "converge", observed)
            self._commit(found, "scan", observed)
            if not left:
                return self._results

    def _checked(self, steps: Sequence[Step]) -> Sequence[Work]:
        """The steps whose paths are what the plan saw; how the others ended is noted."""
        works: list[Work] = []
        for step in steps:
            match self._recheck.check(step):
                case Work() as work:
                    works.append(work)
                case Result() as result:
                    self._results.append(result)
        return works

    def _swap(self, works: Sequence[Work]) -> list[tuple[str, Discard]]:
        """Make the steps that were announced; what came to the trash."""
        arrived: list[tuple[str, Discard]] = []
        for work in works:
            result = Result(work.step, Outcome.OVER) if self.is_over() else self._attempt(work)
            self._results.append(result)
            if result.trashed:
                assert work.discard is not None
                arrived.append((work.item.decode(), work.discard))
                self.moved[work.step.key] = work.item
        return arrived

    def _commit(self, records: dict[bytes, Record | None], cause: str, observed: float) -> None:
        """What we made and what somebody else did are never one step: only the latter may be merged as a change."""
        changes = [Change(key, record) for key, record in sorted(records.items())]
        if changes:
            self._volume.apply(changes, cause, observed)
        records.clear()

    # --- announce --------------------------------------------------------------------------------

    def _admit(self, works: Sequence[Work]) -> tuple[Sequence[Work], Sequence[Work]]:
        """Announce the batch to trash and list: (what may be made now, what comes when that has been made).

        What the trash has no room for is left out. The rest of a batch that is larger than the trash waits where what
        goes before it may give way to it.
        """
        admitted: list[Work] = []
        left: Sequence[Work] = ()
        charge = count = 0
        # So much has no room: the ledger is not read again for as much or more.
        refused = self._trash.max_bytes + 1
        may_cut = self._ordinary
        for at, work in enumerate(works):
            if work.discard is not None:
                wanted = charge + work.discard.charge
                if wanted >= refused or not self._has_room(wanted, count + 1):
                    refused = min(refused, wanted)
                    if may_cut and count and work.discard.charge <= self._trash.max_bytes:
                        left = works[at:]
                        break
                    may_cut = may_cut and work.discard.charge > self._trash.max_bytes
                    self._results.append(Result(work.step, Outcome.TRASH_FULL, "", str(work.discard.charge)))
                    continue
                charge, count = charge + work.discard.charge, count + 1
            admitted.append(work)
        return self._announced(admitted), left

    def _announced(self, admitted: Sequence[Work]) -> Sequence[Work]:
        try:
            discarding = [work for work in admitted if work.discard is not None]
            ids: list[str] = []
            if discarding:
                coming = [work.discard for work in discarding if work.discard]
                ids = self._trash.intend(coming, self._incident, self._ordinary)
            for work, item in zip(discarding, ids, strict=True):
                work.item = item.encode()
            if admitted and self._written is not None:
                self._written.add(work.step.key for work in admitted if work.step.target is not None)
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            self._results.extend(Result(work.step, Outcome.NO_ROOM) for work in admitted)
            return ()
        return admitted

    def _has_room(self, charge: int, count: int) -> bool:
        """Whether so many items of `charge` bytes in all fit; ordinary ones give way."""
        if self._trash.has_room(charge, count):
            return True
        keep = {self.moved.get(name, name) for name in self.sources}
        return self._trash.make_room(charge, count, self._open_incidents(), keep)

    # --- swap ------------------------------------------------------------------------------------

    def _attempt(self, work: Work) -> Result:
        step = work.step
        if step.heirs and not self.has_heir(step):
            detail = f"it stays, since {escape(path_of(step.heirs[0]))}, which is to have its content, is not there"
            return Result(step, Outcome.HEIRLESS, "", detail)
        for attempt in (1, 2):
            try:
                return self._maker.make(work)
            except Surprise:
                return self._recheck.surprise(step)
            except NotEmpty:
                return self._recheck.remains(step)
            except NoExchange:
                detail = "this filesystem can neither exchange two names nor make hard links"
                return Result(step, Outcome.BLOCKED, "unsupported", detail)
            except PermissionError as error:
                if attempt == 2 or not self._lift_for(work):
                    return failed(step, error)
            except OSError as error:
                return failed(step, error)
        raise AssertionError("unreachable")

    def has_heir(self, step: Step) -> bool:
        """Whether one of the paths that are to have the content of this step's has it."""
        return any(self._has(heir, step.own) for heir in step.heirs)

    def _has(self, heir: bytes, own: bytes | None) -> bool:
        """Whether this path has the content of `own` by now, as far as is recorded."""
        made = self._maker.made
        record = made[heir] if heir in made else self._volume.record(heir)
        digest = slice(DIGEST_AT, DIGEST_AT + self._volume.algorithm.width)
        if record is None or own is None or entry_kind(record.value) is not Kind.FILE:
            return False
        return record.value[digest] == own[digest]

    def _lift_for(self, work: Work) -> bool:
        """Whether making directories writable gives hope. A directory that moves must be writable itself."""
        try:
            lifted = self._lifts.lift(parent_key(work.step.key))
            if work.step.source is not None:
                lifted |= self._lifts.lift(parent_key(work.step.source.key))
            if work.discard is not None and work.discard.kind is Kind.DIRECTORY:
                lifted |= self._lifts.lift(work.step.key)
        except OSError:
            return False
        return lifted

    def _sync(self, works: Sequence[Work]) -> None:
        if not works:
            return
        parents = {path_of(parent_key(work.step.key)) for work in works}
        parents |= {path_of(parent_key(work.step.source.key)) for work in works if work.step.source}
        # The stage needs no sync: a name leaves it in the same rename that brings it to the tree or the trash.
        trashed = (self._room.items_fd,) if any(work.discard is not None for work in works) else ()
        sync_directories(self._room.root_fd, parents, trashed)
