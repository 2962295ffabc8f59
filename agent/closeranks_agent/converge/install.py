"""Applying a batch of steps to the tree, on the volume's thread.

For each step the path is compared with what the plan saw; what differs is read anew and left to the next
plan. Then, once for the whole batch, and durably: the trash's ledger announces what will come, and the list
of written paths what will be written. Then the entries are swapped; then directories are synced; then the
volume's index and journal learn of it. A kill anywhere leaves each path old or new, and nothing lost.

The world's errors become results of their step; only what stops everything (the root is gone, the disk
fails, the index can not be written) is raised.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from closeranks_proto.entries import Entry, Kind, encode_entry, entry_kind
from closeranks_proto.paths import parent_key, path_of

from .. import beneath
from ..beneath import Spot
from ..disk.ignore import IgnoreRules
from ..disk.records import BusyFile, Change, Record, StatSignature
from ..disk.volume import Volume
from . import attributes
from .durable import sync_directories
from .items import Discard, discard_of
from .lift import Lifts
from .plan import Saw, Step, Verb, entry_of
from .stage import stage_name
from .swap import NoExchange, NotEmpty, Surprise, Taken, move_within, put_new, swap_in, take_out
from .trash import Trash
from .workroom import Workroom
from .written import Written

FATAL_ERRNOS = frozenset({errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EUCLEAN})
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_CHANGED = "it was changed while converge worked"
_NOT_YET = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Outcome(Enum):
    DONE = auto()
    CHANGED = auto()  # the path is not what the plan saw: plan it again
    STALE = auto()  # the tree's shape is not what the index says: scan, then plan again
    WAITS = auto()  # for other steps below the same directory
    OVER = auto()  # the push that asked for it is not good any more
    BLOCKED = auto()  # can not be applied; `why` and `detail` say so
    NO_ROOM = auto()
    NO_SOURCE = auto()  # no healthy peer has the bytes
    TRASH_FULL = auto()


@dataclass(frozen=True, slots=True)
class Result:
    step: Step
    outcome: Outcome
    why: str = ""  # a word of messages.Unreadable
    detail: str = ""
    trashed: bool = False


@dataclass(slots=True)
class _Work:
    step: Step
    status: os.stat_result | None
    discard: Discard | None = None
    item: bytes = b""


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
        self._ignore = IgnoreRules(volume.settings.ignore)
        self._width = volume.algorithm.width
        self._special_bits = volume.settings.special_bits
        self.moved: dict[bytes, bytes] = {}  # key -> item that its bytes became in this run
        self.unlike: dict[bytes, bytes] = {}  # key -> value made, where that could not be the target's
        self.sources: Collection[bytes] = ()  # keys and items that the plan under way copies from
        self.is_over: Callable[[], bool] = lambda: False
        self._results: list[Result] = []
        self._made: dict[bytes, Record | None] = {}
        self._found: dict[bytes, Record | None] = {}

    def apply(self, steps: Sequence[Step]) -> list[Result]:
        """Apply steps in their order, on the volume's thread. Raises OSError, VolumeGone, StateUnavailable."""
        observed = time.monotonic()
        if self.is_over():
            return [Result(step, Outcome.OVER) for step in steps]
        os.close(self._volume.open_root())
        self._results, self._made, self._found = [], {}, {}
        left: Sequence[_Work] = [work for work in map(self._check, steps) if work is not None]
        while True:
            works, left = self._admit(left)
            arrived = self._swap(works)
            self._sync(works)
            if any(work.discard is not None for work in works):
                self._trash.settle(arrived, self._incident, self._ordinary)
            self._commit(self._made, "converge", observed)
            self._commit(self._found, "scan", observed)
            self._made, self._found = {}, {}
            if not left:
                return self._results

    def _swap(self, works: Sequence[_Work]) -> list[tuple[str, Discard]]:
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

    # --- compare ---------------------------------------------------------------------------------

    def _check(self, step: Step) -> _Work | None:
        """The step's work if the path is what the plan saw; else its result is noted."""
        if step.seen is None and step.source is None:
            return _Work(step, None)  # that nothing is there is seen when it appears: it never replaces
        return self._check_now(step)

    def _check_now(self, step: Step) -> _Work | None:
        try:
            return self._check_once(step)
        except PermissionError as error:
            try:
                if self._lifts.lift(parent_key(step.key)):
                    return self._check_once(step)
            except OSError as again:
                error = again if isinstance(again, PermissionError) else error
            self._results.append(failed(step, error))
        except OSError as error:
            if step.seen is None and step.source is None and error.errno in _NOT_YET:
                return _Work(step, None)  # an earlier step of the batch makes its directory
            self._results.append(failed(step, error))
        return None

    def _check_once(self, step: Step) -> _Work | None:
        if step.source is not None:
            return self._check_source(step, step.source)
        with beneath.spot(self._room.root_fd, step.key) as where:
            status = beneath.status(where)
            if is_same(step.seen, status) and not self._is_other_directory(step):
                return self._work(step, status)
            if status is not None and step.seen is None and _is_twin(where):
                twin = "another name that this filesystem takes for the same (upper and lower case) is there"
                self._results.append(Result(step, Outcome.BLOCKED, "case_twin", twin))
                return None
        self._results.append(self._reread(step, status))
        return None

    def _is_other_directory(self, step: Step) -> bool:
        """Whether somebody else has given a directory other attributes: its stat signature does not tell."""
        if step.verb is not Verb.SET_ATTRIBUTES or entry_kind(step.own or b"") is not Kind.DIRECTORY:
            return False
        if self._lifts.is_lifted(step.key):
            return False  # by ourselves
        record = self._volume.read_entry(self._room.root_fd, step.key)
        return record is None or record.value != step.own

    def _check_source(self, step: Step, source: Saw) -> _Work | None:
        with beneath.spot(self._room.root_fd, source.key) as where:
            status = beneath.status(where)
        if is_same(source.seen, status):
            return _Work(step, status)
        self._reread(Step(Verb.REMOVE, source.key, source.own, None, source.seen), status)
        self._results.append(Result(step, Outcome.CHANGED, "busy", _CHANGED))
        return None

    def _work(self, step: Step, status: os.stat_result | None) -> _Work:
        work = _Work(step, status)
        if status is not None and step.verb is not Verb.SET_ATTRIBUTES:
            assert step.own is not None
            why = "removed" if step.target is None else "replaced"
            work.discard = discard_of(step.key, status, why, step.own, self._stage_name(step))
        return work

    def _stage_name(self, step: Step) -> bytes:
        if step.target is None:
            return b""
        target = entry_of(step.target, self._width)
        return stage_name(step.key, step.need.digest if step.need else target.target)

    def _reread(self, step: Step, status: os.stat_result | None) -> Result:
        """The path was changed since it was recorded: record what it is now."""
        try:
            record = self._volume.read_entry(self._room.root_fd, step.key)
        except BusyFile:
            return Result(step, Outcome.CHANGED, "busy", "it changes while it is read")
        except OSError as error:
            return failed(step, error)
        was_directory = step.own is not None and entry_kind(step.own) is Kind.DIRECTORY
        is_directory = record is not None and entry_kind(record.value) is Kind.DIRECTORY
        if record is None and status is not None:
            return self._in_the_way(step, status)
        if is_directory and not was_directory:
            return Result(step, Outcome.STALE)  # nobody has looked into it yet
        self._found[step.key] = record
        done = (record.value if record is not None else None) == step.target
        return Result(step, Outcome.DONE if done else Outcome.CHANGED, "busy", _CHANGED)

    def _in_the_way(self, step: Step, status: os.stat_result) -> Result:
        """Something is there that is never compared, so the tree can not have it, and it is never removed."""
        if self._ignore.matches(step.key, stat.S_ISDIR(status.st_mode)):
            return Result(step, Outcome.BLOCKED, "ignored_content", "an ignored entry is in the way")
        if status.st_dev != os.fstat(self._room.root_fd).st_dev:
            return Result(step, Outcome.BLOCKED, "other_filesystem", "another filesystem is mounted there")
        return Result(step, Outcome.BLOCKED, "special", "a device, socket or fifo is in the way")

    # --- announce --------------------------------------------------------------------------------

    def _admit(self, works: Sequence[_Work]) -> tuple[Sequence[_Work], Sequence[_Work]]:
        """Announce the batch to trash and list: (what may be made now, what comes when that has been made).

        What the trash has no room for is left out. The rest of a batch that is larger than the trash waits where what
        goes before it may give way to it.
        """
        admitted: list[_Work] = []
        left: Sequence[_Work] = ()
        charge = count = 0
        refused = (
            self._trash.max_bytes + 1
        )  # so much has no room: the ledger is not read again for as much or more
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

    def _announced(self, admitted: Sequence[_Work]) -> Sequence[_Work]:
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

    def _attempt(self, work: _Work) -> Result:
        step = work.step
        for attempt in (1, 2):
            try:
                return self._perform(work)
            except Surprise:
                return self._surprised(work)
            except NotEmpty:
                return self._remains(step)
            except NoExchange:
                detail = "this filesystem can neither exchange two names nor make hard links"
                return Result(step, Outcome.BLOCKED, "unsupported", detail)
            except PermissionError as error:
                if attempt == 2 or not self._lift_for(work):
                    return failed(step, error)
            except OSError as error:
                return failed(step, error)
        raise AssertionError("unreachable")

    def _surprised(self, work: _Work) -> Result:
        """What the path holds instead is recorded at once where it was not compared before."""
        step = work.step
        if step.seen is None:
            before = len(self._results)
            plain = replace(step, source=None)
            if self._check_now(plain) is None and len(self._results) > before:
                found = self._results.pop()
                if step.source is None:
                    return found
        return Result(step, Outcome.CHANGED, "busy", _CHANGED)

    def _lift_for(self, work: _Work) -> bool:
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

    def _perform(self, work: _Work) -> Result:
        step = work.step
        if step.source is not None:
            return self._move(work, step.source)
        taken = None if work.discard is None else Taken(work.item, work.discard)
        with beneath.spot(self._room.root_fd, step.key) as where:
            if step.target is None:
                assert taken is not None
                take_out(self._room, where, taken)
                self._made[step.key] = None
                self._lifts.forget(step.key)
                return Result(step, Outcome.DONE, trashed=True)
            target = entry_of(step.target, self._width)
            if step.verb is Verb.SET_ATTRIBUTES:
                self._set_attributes(work, target, where)
            else:
                name = self._staged(step, target, where)
                if taken is None:
                    put_new(name, self._room, where)
                else:
                    swap_in(name, self._room, where, taken)
            now = beneath.status(where)
        if now is None:
            raise Surprise
        record = self._made[step.key] = self._record(step.key, target, now)
        if record.value != step.target:
            self.unlike[step.key] = record.value
        return Result(step, Outcome.DONE, trashed=taken is not None)

    def _move(self, work: _Work, source: Saw) -> Result:
        """Give a file its new name. What a third party slipped under the old one goes back there."""
        step = work.step
        assert step.target is not None
        assert work.status is not None
        with (
            beneath.spot(self._room.root_fd, source.key) as origin,
            beneath.spot(self._room.root_fd, step.key) as where,
        ):
            move_within(origin, where, work.status)
            now = beneath.status(where)
        self._made[source.key] = None
        if now is None:
            raise Surprise
        self._made[step.key] = self._record(step.key, entry_of(step.target, self._width), now)
        return Result(step, Outcome.DONE)

    def _staged(self, step: Step, target: Entry, where: Spot) -> bytes:
        """The name in the stage of what will appear; directories and symlinks are made here."""
        name = self._stage_name(step)
        parent = os.fstat(where.parent_fd)
        stage_fd = self._room.stage_fd
        if target.kind is Kind.SYMLINK:
            _drop_staged(name, stage_fd)
            os.symlink(target.target, name, dir_fd=stage_fd)
            attributes.set_symlink(name, stage_fd, target, parent)
        elif target.kind is Kind.DIRECTORY:
            _drop_staged(name, stage_fd)
            os.mkdir(name, 0o700, dir_fd=stage_fd)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage_fd)
            try:
                attributes.set_new(fd, target, None, parent, self._special_bits)
                mode = os.fstat(fd).st_mode & 0o7777
                if os.geteuid() != 0 and mode & 0o700 != 0o700:
                    os.fchmod(fd, mode | 0o700)  # the next plan sets what is missing, when work in it is over
            finally:
                os.close(fd)
        return name

    def _set_attributes(self, work: _Work, target: Entry, where: Spot) -> None:
        if target.kind is Kind.SYMLINK:
            assert work.status is not None
            attributes.set_symlink(where.name, where.parent_fd, target, work.status)
            return
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(where.name, flags, dir_fd=where.parent_fd)
        try:
            if not is_same(work.step.seen, os.fstat(fd)):
                raise Surprise
            attributes.set_existing(fd, target, self._special_bits)
        finally:
            os.close(fd)
        if target.kind is Kind.DIRECTORY:
            self._lifts.forget(work.step.key)

    def _record(self, key: bytes, target: Entry, now: os.stat_result) -> Record:
        value = encode_entry(attributes.entry_now(target, now))
        chunks = None
        if target.kind is Kind.FILE and target.size > self._volume.chunk_bytes:
            chunks = self._volume.object(target.digest)
            assert chunks is not None, "the plan had the chunk list"
        # Not settled: the next scan reads a file once more, so nobody can hide a write behind ours.
        return Record(key, value, StatSignature.of(now), chunks, target.kind is Kind.DIRECTORY)

    def _remains(self, step: Step) -> Result:
        """Why a directory is not empty: steps that did not run, newcomers, or what is never removed."""
        try:
            fd = beneath.open_directory(self._room.root_fd, path_of(step.key))
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
                ignored = [
                    name for name in names if self._is_never_removed(step.key + b"\0" + name, name, fd)
                ]
            finally:
                os.close(fd)
        except OSError as error:
            return failed(step, error)
        if len(ignored) == len(names):
            detail = f"the directory holds {len(names)} ignored or special entries, so it stays"
            return Result(step, Outcome.BLOCKED, "ignored_content", detail)
        if any(self._volume.record(step.key + b"\0" + name) is not None for name in names):
            return Result(
                step, Outcome.WAITS, "ignored_content", "entries in the directory could not be removed"
            )
        return Result(step, Outcome.STALE)

    def _is_never_removed(self, key: bytes, name: bytes, fd: int) -> bool:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            return True
        return self._ignore.matches(key, kind == stat.S_IFDIR) or status.st_dev != os.fstat(fd).st_dev

    def _sync(self, works: Sequence[_Work]) -> None:
        if not works:
            return
        parents = {path_of(parent_key(work.step.key)) for work in works}
        parents |= {path_of(parent_key(work.step.source.key)) for work in works if work.step.source}
        # The stage needs no sync: a name leaves it in the same rename that brings it to the tree or the trash.
        trashed = (self._room.items_fd,) if any(work.discard is not None for work in works) else ()
        sync_directories(self._room.root_fd, parents, trashed)


def is_same(seen: StatSignature | None, status: os.stat_result | None) -> bool:
    """Whether a path is still what was recorded of it."""
    if seen is None or status is None:
        return seen is None and status is None
    return StatSignature.of(status) == seen


def failed(step: Step, error: OSError) -> Result:
    """The result of a step that the world refused; what stops every step is raised."""
    if error.errno in FATAL_ERRNOS:
        raise error
    if error.errno in FULL_ERRNOS:
        return Result(step, Outcome.NO_ROOM)
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return Result(step, Outcome.BLOCKED, "other_filesystem", "another filesystem is mounted there")
    if error.errno in beneath.DETOUR_ERRNOS:
        return Result(step, Outcome.STALE)
    text = os.strerror(error.errno) if error.errno else str(error)
    return Result(step, Outcome.BLOCKED, "unwritable", f"it could not be changed: {text}{_hint(error)}")


def _hint(error: OSError) -> str:
    """What most often stands behind an operation that is not permitted."""
    if error.errno != errno.EPERM:
        return ""
    if os.geteuid() != 0:
        return "; the agent does not run as root, and only root gives files to other owners or changes those of others"
    return "; `lsattr` tells whether it was made immutable"


def _is_twin(where: Spot) -> bool:
    """Whether the name is found although the directory does not list it: it differs only in case."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=where.parent_fd)
    try:
        return os.fsdecode(where.name) not in os.listdir(fd)
    finally:
        os.close(fd)


def _drop_staged(name: bytes, stage_fd: int) -> None:
    """Forget what an earlier run staged under this name."""
    try:
        status = os.stat(name, dir_fd=stage_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        os.rmdir(name, dir_fd=stage_fd)
    else:
        os.unlink(name, dir_fd=stage_fd)
