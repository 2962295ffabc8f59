"""One volume of this node: its directory on disk, what is known of it, and its history.

One `worker` thread does everything that reads or writes the tree, so scans, plans and installs exclude each
other: `run` brings a function there. What only reads the index, the pages or the journal may be called from
any thread. How the tree is seen is the `observer`'s; here it is decided whether it may be looked at.

Invariant: nothing is written, neither to the tree nor to the history, while the root is not the directory
that the index was made from. An unmounted filesystem is a problem of the volume, not a deletion of its files.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.messages import (
    Announce,
    Commit,
    Hand,
    Problem,
    VolumeSettings,
    VolumeStatus,
)
from closeranks_proto.paths import escape
from closeranks_proto.tree import Summary, Tree

from .attributed import UNSEEN, HandOf, hand_finder
from .condition import Condition
from .database import Damaged
from .findings import Findings
from .hashing import KnownContent, Stopped, read_entry, read_open
from .history import History
from .listers import Listers
from .look import LookReport, Names
from .observer import Observer
from .private import Identity
from .recorder import changes_of
from .records import (
    Change,
    Record,
    ScanReport,
    StateUnavailable,
    VolumeGone,
    problem_of,
)
from .root import VolumeRoot, index_path
from .rows import Row
from .taken import Taken
from .worker import P, R, Worker

log = logging.getLogger("closeranks.volume")

PROBLEM_RETRY_S: Final = 10.0  # a state directory that could not be written is tried again this often


class Volume:
    """Raises UserError where the set-up is wrong; what the world did to the disk is in `problem`."""

    def __init__(
        self,
        name: str,
        path: bytes,
        state_dir: str | Path,
        settings: VolumeSettings,
        algorithm: DigestAlgorithm,
        private_dir: str | bytes | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.index_path = index_path(state_dir, name)
        private = None if private_dir is None else os.fsencode(private_dir)
        self._root = VolumeRoot(name, path, self.index_path, private)
        self.private = self._root.private
        self.listener: Callable[[], None] | None = None
        self.listers: Listers | None = None  # help with scans
        self.heard: HandOf | None = None  # of a watcher: whose hand a change is that a scan found first
        self.condition = Condition(name, path, self._tell)
        self._retry_after = 0.0
        self._worker = Worker(name, self.look)
        self._observer = Observer(self.private, self._worker, self._tell)
        self.recent, self.carrying = self._observer.recent, self._observer.carrying
        self.versions, self.taken = self._observer.versions, Taken()
        self._set(settings, algorithm)
        self._history: History | None = None
        self._damaged = False
        self._open_history()
        self._open_private(fatal=True)

    # --- settings ------------------------------------------------------------------------------

    def _set(self, settings: VolumeSettings, algorithm: DigestAlgorithm) -> None:
        self._observer.configure(settings, algorithm)
        self.settings = settings
        self.algorithm = algorithm
        self.chunk_bytes = settings.chunk_bytes

    def configure(self, settings: VolumeSettings, algorithm: DigestAlgorithm) -> None:
        """Go by other settings from now on; the next scan derives again what they change. On the volume's thread.

        Raises UserError for an `ignore` that can not be understood, and keeps the old settings then.
        """
        self._set(settings, algorithm)
        if self._history is not None:
            try:
                self._history.fit(settings, algorithm)
            except StateUnavailable as error:
                self._close_history()
                self.condition.trouble(error.problem)
        self._tell()

    def _open_history(self) -> None:
        try:
            self._history = History(self.index_path, self.name, self.settings, self.algorithm, self._damaged)
            self._damaged = False
        except StateUnavailable as error:
            self.condition.trouble(error.problem)

    def _close_history(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None

    @property
    def history(self) -> History:
        """Raises StateUnavailable while the index can not be opened."""
        if self._history is None:
            problem = self.condition.problem or Problem("io_error", f"{self.index_path} is not open")
            raise StateUnavailable(problem)
        return self._history

    # --- life ----------------------------------------------------------------------------------

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call on the volume's thread, after everything that was asked for earlier."""
        if function == self.close:
            self._worker.stop()  # a scan that is under way would keep it waiting
        return await self._worker.run(function, *args, **kwargs)

    async def run_soon(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, but also between two directories of a running scan. Cancelled in time, it is not called."""
        return await asyncio.wrap_future(self._worker.call_soon(function, *args, **kwargs))

    def call_soon(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """`run_soon` for other threads. Raises RuntimeError after `close`."""
        return self._worker.call_soon(function, *args, **kwargs)

    def look_soon(self, names: Names, hands: Mapping[bytes, Hand], seen_mono: float) -> Future[LookReport]:
        """`look` on the volume's thread, soon: also in the middle of a scan. Any thread."""
        return self._worker.look_soon(names, hands, seen_mono)

    def stop(self) -> None:
        """End a running scan soon, and every later one at once. Any thread."""
        self._worker.stop()

    def close(self) -> None:
        """Let go of everything. What is committed is on disk already."""
        self._worker.stop()
        self._close_history()
        self.versions.clear()
        self._worker.close()

    # --- what is known -------------------------------------------------------------------------

    @property
    def root(self) -> bytes | None:
        """None before the first scan has finished."""
        return None if self._history is None else self._history.root

    @property
    def is_comparing(self) -> bool:
        """Whether the index is older than the files, and no scan has compared them yet: its root is not theirs."""
        return self.condition.last_scan_started is None and self.history.outlived is not None

    @property
    def summary(self) -> Summary | None:
        return None if self._history is None else self._history.summary

    @property
    def tree(self) -> Tree:
        """Reads the volume's own pages, and staged ones."""
        return self.history.tree

    def record(self, key: bytes) -> Record | None:
        return self.history.index.record(key, self.chunk_bytes)

    def rows(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """What is known of many keys, without their chunk lists; those that are not there are left out."""
        return self.history.index.rows_at(keys)

    def chunk_list(self, digest: bytes) -> bytes | None:
        """The encoded chunk list with that content digest."""
        return self.history.index.chunk_list(digest)

    def object(self, digest: bytes) -> bytes | None:
        """A page or chunk list, own or staged."""
        if self._history is None:
            return None
        found = self._history.objects.get(digest)
        return self._history.index.chunk_list(digest) if found is None else found

    def stage_objects(self, objects: Mapping[bytes, bytes]) -> None:
        """Keep pages of a tree that this volume is to become, until `drop_staged`."""
        self.history.objects.stage(objects)

    def drop_staged(self) -> None:
        self.history.objects.drop_staged()

    # --- journal -------------------------------------------------------------------------------

    @property
    def first_seq(self) -> int:
        return 1 if self._history is None else self._history.journal.first_seq

    @property
    def last_seq(self) -> int:
        return 0 if self._history is None else self._history.journal.last_seq

    @property
    def base_root(self) -> bytes | None:
        """What the journal starts from: the present root while it is empty, None for an announcement."""
        return None if self._history is None else self._history.base_root()

    def follows(self, seq: int, root: bytes | None) -> bool:
        """Whether somebody who has `root` as of `seq` gets to the present root by the journal."""
        return self._history is not None and self._history.follows(seq, root)

    def pending(self, after_seq: int, limit: int) -> list[Commit | Announce]:
        """The next steps behind `after_seq`, ready to send."""
        return self.history.pending(after_seq, limit)

    def fresh(self, after_seq: int, limit: int) -> list[Commit]:
        """The same of what was committed a moment ago, without asking the database; [] where that is not enough."""
        return [] if self._history is None else self._history.fresh(after_seq, limit)

    def acknowledge(self, seq: int) -> None:
        """Forget the steps up to `seq`. While the state directory is full they stay, and are sent again."""
        try:
            self.history.acknowledge(seq)
        except StateUnavailable as error:
            log.warning("%s: acknowledged steps can not be forgotten yet: %s", self.name, error)

    def went_back(self, seq: int, root: bytes | None) -> bool:
        """Whether our state is older than the one that told somebody of `root` as of `seq`."""
        return self._history is not None and self._history.went_back(seq, root)

    @property
    def is_unwitnessed(self) -> bool:
        """Whether the files were not there yet to say how far they have come: what went back is not known before."""
        if self.condition.last_scan_started is not None or self._history is None:
            return False
        return not self._history.saying.is_witnessed

    def announce(self, after_seq: int = 0, cause: str = "scan") -> None:
        """One announcement of the present root in place of the journal, numbered above `after_seq`.

        It may be told a moment later: the listener is called then. Raises StateUnavailable where it can not be
        recorded.
        """
        history = self.history
        history.announce(after_seq, cause)
        history.saying.say_apart(self._tell)

    # --- the directory -------------------------------------------------------------------------

    def open_root(self) -> int:
        """A descriptor of the volume's root. Raises VolumeGone where it is not what the index was made from."""
        return self._root.open(None if self._history is None else self._history.index)

    def glance_root(self) -> int:
        """A descriptor of whatever is at the volume's path, at once; it proves nothing. Raises OSError."""
        return self._root.glance()

    def ensure_private(self) -> None:
        """Make or find the private directory. Raises UserError, OSError, VolumeGone."""
        self._root.ensure_private(None if self._history is None else self._history.index)

    def _open_private(self, fatal: bool) -> None:
        try:
            self.ensure_private()
            if self._history is not None:
                self._history.witness(self.private)
        except StateUnavailable as error:
            if not fatal:
                raise
            self.condition.trouble(error.problem)
        except UserError as error:
            if fatal:
                self.close()
                raise
            self.condition.private_problem = Problem("private_dir", str(error))
        except VolumeGone as error:
            if fatal:
                self.condition.trouble(error.problem)
        except OSError as error:
            self.condition.private_problem = problem_of(error, f"{escape(self.private)} can not be made")
        else:
            self.condition.private_problem = None

    def read_entry(
        self,
        root_fd: int,
        key: bytes,
        each_chunk: Callable[[], bool] | None = None,
        known: KnownContent | None = None,
    ) -> Record | None:
        """A path's record fresh from disk, None where it is absent or special. On the volume's thread.

        `each_chunk` is called before each chunk of a long file. Raises BusyFile (also where a file is not any more
        as it is `known`), TooLarge, OSError, and Stopped when it says True.
        """
        return read_entry(self._observer.reader, root_fd, key, each_chunk, known)

    def read_open(self, key: bytes, fd: int, each_chunk: Callable[[], bool] | None = None) -> Record:
        """The record of a regular file that is open already. Raises NotRegular too."""
        return read_open(self._observer.reader, key, fd, each_chunk)

    # --- changes -------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], cause: str, observed_mono: float) -> None:
        """Record what became of these keys, in one transaction. On the volume's thread.

        What lies below a directory that is gone or became something else goes with it. Raises StateUnavailable.
        """
        history = self.history
        delta, edits = changes_of(history.index, changes)
        if self.root is None:
            history.stow(delta)
            history.rest()
        else:
            history.commit(delta, edits, cause, observed_mono, self._hand_of if cause == "scan" else None)
        if edits:
            self._tell()

    def scan(self, full: bool = False, reread: Collection[bytes] = ()) -> ScanReport:
        """Look at the whole tree and record what changed. On the volume's thread; never raises for the disk's sake.

        `full` looks into directories that seem unchanged; `reread` are keys whose content is read whatever
        their stat says.
        """
        started = time.monotonic()
        self.versions.forget()  # where nothing watches any more nobody else does, and they keep room and filesystem
        findings = Findings()
        changed, complete, problem = 0, False, self.condition.problem
        if not self._worker.is_stopped() and started >= self._retry_after:
            try:
                changed = self._scan(findings, full, reread)
                complete, problem = True, None
            except Stopped:
                log.info("%s: the scan was stopped; what it read is kept", self.name)
            except (CloseranksError, OSError) as error:
                problem = self._problem_from(error)
        duration_s = time.monotonic() - started
        self.condition.trouble(problem)
        if complete:
            self.condition.scanned(findings, self._observer.links, started, duration_s)
        return findings.conclude(started, duration_s, complete, changed, self.summary, self.condition.problem)

    def _problem_from(self, error: CloseranksError | OSError) -> Problem:
        """What ended a scan or a look, in words. Raises what neither the disk nor the state directory did."""
        match error:
            case VolumeGone():
                return error.problem
            case StateUnavailable():
                self._retry_after = time.monotonic() + PROBLEM_RETRY_S
                return error.problem
            case Damaged():
                log.error("%s; it is set aside and the volume is read anew", error)
                self._damaged = True
                self._close_history()
                return Problem("io_error", f"{error}. Look at the state directory's disk.")
            case OSError():
                return problem_of(error, f"{escape(self.path)} can not be scanned")
        raise error

    def _scan(self, findings: Findings, full: bool, reread: Collection[bytes]) -> int:
        if self._history is None:
            self._open_history()
        history = self.history
        root_fd = self.open_root()
        try:
            self._open_private(fatal=False)
            history.rederiving()
            history.index_made_from(Identity.of(root_fd))
            changed = self._observer.scan(
                history, root_fd, findings, full, reread, self.listers, self._hand_of
            )
        finally:
            os.close(root_fd)
        history.rederived()
        return changed

    def storms(self, lasts: bool) -> None:
        """Whether very much is written, or was, of which a watcher hears next to nothing. Any thread.

        Until the scan behind it has ended, scans ask of what is new whether somebody writes to it, and do without the
        help of other processes, which would take from those who write.
        """
        self._observer.careful = lasts
        self._tell()

    @property
    def is_stormy(self) -> bool:
        """Whether what a program stored through a map and closed may look like decay until a scan comes by."""
        return self._observer.careful

    def _hand_of(self, key: bytes) -> Hand:
        """Whose hand a change is that a scan finds: as its watcher heard of it, if it did."""
        hand = None if self.heard is None else self.heard(key)
        return UNSEEN if hand is None else hand

    # --- looks ---------------------------------------------------------------------------------

    def look(self, names: Names, hands: Mapping[bytes, Hand], seen_mono: float | None = None) -> LookReport:
        """Look at these names in these directories, None for all that is below, and commit what changed.

        `hands` are whose hand a key's change is; a key without one is its directory's, if that has one. `seen_mono`
        is when the first of the changes was heard of. On the volume's thread; never raises for the disk's sake.
        """
        report, started = LookReport(), time.monotonic()
        try:
            if self._worker.is_stopped() or self.root is None or self.history.rederive:
                report.scan = "the volume has not been scanned"
            else:
                self._look(names, hands, started if seen_mono is None else seen_mono, report)
        except Stopped:
            report.scan = "the look was stopped"
        except (CloseranksError, OSError) as error:
            report.problem = self._problem_from(error)
            self.condition.trouble(report.problem)
        report.duration_s = time.monotonic() - started
        return report

    def recheck(self, key: bytes, cause: str) -> LookReport:
        """Read a path's content whatever its stat says, and commit it as it is. On the volume's thread."""
        report, (parent, _, name) = LookReport(), key.rpartition(b"\0")
        try:
            if self.root is not None and not self.history.rederive:
                self._look({parent: frozenset({name})}, {}, time.monotonic(), report, cause, (key,))
        except Stopped:
            report.scan = "the look was stopped"
        except (CloseranksError, OSError) as error:
            report.problem = self._problem_from(error)
            self.condition.trouble(report.problem)
        return report

    def _look(
        self, names: Names, hands: Mapping[bytes, Hand], seen_mono: float, report: LookReport,
        cause: str = "watch", reread: Collection[bytes] = (),
    ) -> None:  # fmt: skip
        history = self.history
        root_fd = self.open_root()
        try:
            hand_of = hand_finder(hands)
            self._observer.look(history, root_fd, names, hand_of, seen_mono, report, cause, reread)
        finally:
            os.close(root_fd)

    def ignores_directory(self, key: bytes) -> bool:
        """Whether a directory, whose parents are compared, is not. Any thread."""
        return self._observer.ignore.matches(key, True)

    # --- what is told --------------------------------------------------------------------------

    def status(self) -> VolumeStatus:
        """For the coordinator. Any thread."""
        return self.condition.status(self.summary)

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener()
