"""A look at some names: what a scan does for everything, for the few paths of which something was heard.

Only the names asked for are looked up, never the whole directory, which may hold a hundred thousand others;
a directory that is new, or of which it is said that anything below it may have changed, is walked as a scan
walks. Names that are gone come first: what stands elsewhere now, under the very same stat signature that its
settled row had, is not read again (the files of a directory that was moved; a file that was renamed itself has
a new ctime and is read). Nothing may be recorded below a directory that has no row: then the directory is
looked at instead, and a directory that can not be opened becomes a look at its own name.

What could not be finished, because it changed while it was read or within the clock's tick before, is given
back as `again`: nobody else will tell of it.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Final

from closeranks_proto.entries import entry_size
from closeranks_proto.limits import CARRY_FILE_MAX_BYTES
from closeranks_proto.messages import Hand, Problem
from closeranks_proto.paths import parent_key, path_of

from .. import beneath
from .carrying import Carrying
from .comparison import OpenDirectory, ScanSetup
from .hashing import Reading
from .listing import Status
from .private import PRIVATE_NAME
from .recent import FILE_MAX_BYTES, Recent
from .recorder import Recorder
from .records import Record, StatSignature, clock_ns, is_settled, pack_signature
from .rows import Row, is_directory
from .scan import Scan
from .versions import Versions
from .walk import Walk

MOVED_MAX: Final = 65536  # files that lost their name lately, about 250 bytes each
PASSED_BY_MAX: Final = 64  # names of files with several, that are looked at when a name came and went unseen
MOVED_KEEP_S: Final = 5.0
BUSY_LOOK_MAX_AGE_S: Final = 1.0  # then a file that never rests is recorded as it was read
PATIENCE_S: Final = 0.1  # of one look with files that hardly rest
COSTS_TOLD_S: Final = 0.005  # files that take less to read are not worth remembering
COSTS_MAX: Final = 1024
SIZES_MAX: Final = 8192
ROWS_AT_ONCE: Final = 1024
AGAIN_MAX: Final = 4096  # fresh files that are left for later

Names = Mapping[bytes, "frozenset[bytes] | None"]  # by directory; None: everything below it


@dataclass(slots=True)
class LookReport:
    """What a look saw. `problem`: nothing was recorded, and why; a scan must look at what was asked for."""

    changed: int = 0
    hands: tuple[Hand, ...] = ()  # with what each changed
    again: list[bytes] = field(default_factory=list)  # keys that should be looked at once more soon
    unfinished: list[bytes] = field(default_factory=list)  # those of them that are not recorded at all
    costs: dict[bytes, float] = field(default_factory=dict)  # seconds that reading took, where it was long
    hot: set[bytes] = field(default_factory=set)  # longer files that come again and again
    scan: str = ""  # why only a scan can tell the rest
    directories_gone: bool = False
    # Bytes written by changed path, the first SIZES_MAX.
    sizes: dict[bytes, int] = field(default_factory=dict)
    lengths: dict[bytes, int] = field(default_factory=dict)  # of the files among these
    hashed_files: int = 0
    hashed_bytes: int = 0
    duration_s: float = 0.0
    problem: Problem | None = None


class Moved:
    """Values of files that lost their name, by their packed stat signature. Outlives looks for a moment."""

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._used = 0.0

    def fresh(self) -> None:
        """A look begins."""
        now = time.monotonic()
        if now - self._used > MOVED_KEEP_S:
            self._values.clear()
        self._used = now

    def keep(self, row: Row) -> None:
        if row.settled:
            self._values[row.stat] = row.value
            if len(self._values) > MOVED_MAX:
                self._values.popitem(last=False)

    def value(self, status: os.stat_result) -> bytes | None:
        return self._values.get(pack_signature(status))


@dataclass(slots=True)
class _Asked:
    """One name that is there, beside its row."""

    name: bytes
    status: Status
    row: Row | None


class Look(Scan):
    """Use once. Raises what a scan raises."""

    def __init__(
        self, setup: ScanSetup, recorder: Recorder, moved: Moved, recent: Recent, carrying: Carrying,
        versions: Versions, report: LookReport,
    ) -> None:  # fmt: skip
        super().__init__(setup, recorder)
        self._gone_values = moved
        self._recent, self._carrying, self._versions = recent, carrying, versions
        self._patient_until = time.monotonic() + PATIENCE_S
        self._gone_digests: set[bytes] = set()  # contents that replicas have under a name that is gone
        self._report = report
        self._trees: set[bytes] = set()  # directories to walk
        self._walking = False
        self._present: set[bytes] = set()  # directories that were seen by name
        self._known: dict[bytes, bool] = {}
        self._linked: set[bytes] = set()

    def look(self, root_fd: int, names: Names) -> None:
        """Look at these names, and below these directories."""
        self._root_fd, self._device = root_fd, os.fstat(root_fd).st_dev
        asked = self._asked(names)
        there: list[tuple[bytes, list[_Asked]]] = []
        while asked:  # what can not be opened is asked for one level higher, in the next round
            higher: dict[bytes, set[bytes]] = {}
            there.extend((key, self._removals(key, asked[key], higher)) for key in sorted(asked))
            asked = higher
        for key, found in sorted(there, key=itemgetter(0)):
            if found and not self._walked(key):
                self._additions(key, found)
        self._walk()
        self._linked_names()
        self._report_busy()

    # --- what is asked for ---------------------------------------------------------------------

    def _asked(self, names: Names) -> dict[bytes, set[bytes]]:
        """The names by directory. A directory to walk is asked for by its own name as well."""
        asked: dict[bytes, set[bytes]] = {}
        for key in sorted(names):
            wanted = names[key]
            if self._walked(key):
                continue
            missing = self._missing(parent_key(key) if wanted is None else key)
            if missing is not None:
                _ask(asked, missing)  # new, so it is walked, or it is not compared at all
            elif wanted is not None:
                asked.setdefault(key, set()).update(wanted)
            else:
                self._trees.add(key)
                if key:
                    _ask(asked, key)
        return asked

    def _missing(self, directory: bytes) -> bytes | None:
        """The outermost directory on the way to this one that has no row."""
        missing = None
        while directory and not self._is_known(directory):
            missing, directory = directory, parent_key(directory)
        return missing

    def _is_known(self, key: bytes) -> bool:
        if not key:
            return True
        if key not in self._known:
            row = self._index.row(key)
            self._known[key] = row is not None and is_directory(row.value)
        return self._known[key]

    def _walked(self, key: bytes) -> bool:
        """Whether a walk comes by the directory anyway."""
        if b"" in self._trees:
            return True
        while key and key not in self._trees:
            key = parent_key(key)
        return bool(key)

    # --- first what is gone --------------------------------------------------------------------

    def _removals(self, key: bytes, names: set[bytes], higher: dict[bytes, set[bytes]]) -> list[_Asked]:
        """Record what is gone of the names in one directory; those that are there."""
        try:
            fd = beneath.open_beneath(self._root_fd, path_of(key), os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if not key:
                raise
            if error.errno in beneath.DETOUR_ERRNOS:
                _ask(higher, key)
                self._trees.add(key)  # it may be back by then
            else:
                self._left_out(key, error)
            return []
        there: list[_Asked] = []
        here = OpenDirectory(key, fd, key and key + b"\0", True, 0, 0, [], [])
        try:
            for name, row in self._with_rows(key, names):
                if not key and name == PRIVATE_NAME:
                    continue
                try:
                    status: Status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    if row is not None:
                        self._remove(here.child(name), row)
                    else:
                        self._passed_by()
                    continue
                except OSError as error:
                    status = error
                there.append(_Asked(name, status, row))
        finally:
            os.close(fd)
        return there

    def _with_rows(self, key: bytes, names: set[bytes]) -> Iterator[tuple[bytes, Row | None]]:
        """Each name, ascending, with its row. None of them lies below another, so what is found of one stays true."""
        wanted = sorted(names)
        for start in range(0, len(wanted), ROWS_AT_ONCE):
            part = wanted[start : start + ROWS_AT_ONCE]
            rows = self._index.named(key, part)
            yield from ((name, rows.get(name)) for name in part)

    def _passed_by(self) -> None:
        """A name came and went unseen: it may have been another name of some file, and written through."""
        self._linked.update(self._setup.links.few(PASSED_BY_MAX))

    def _parted(self, key: bytes, row: Row) -> list[bytes]:
        """Its file may have been written through this name, of which nothing tells under the others."""
        left = super()._parted(key, row)
        self._linked.update(left)
        if left:
            self._passed_by()  # the name may have been a third file's in between
        return left

    def _remove(self, key: bytes, row: Row) -> None:
        if is_directory(row.value):
            self._report.directories_gone = True
        if len(self._report.sizes) < SIZES_MAX:
            self._report.sizes[key] = 0
        super()._remove(key, row)
        self._recorder.listing(parent_key(key), None)

    def _gone(self, row: Row) -> None:
        self._gone_values.keep(row)
        if self._carrying.on and len(self._gone_digests) < MOVED_MAX:
            self._gone_digests.add(self._reader.digest_of(row.value))

    # --- then what is there --------------------------------------------------------------------

    def _additions(self, key: bytes, found: list[_Asked]) -> None:
        try:
            fd = beneath.open_beneath(self._root_fd, path_of(key), os.O_PATH | os.O_DIRECTORY)
        except OSError:
            self._unfinished(key)  # it went away since: its own name is to be looked at
            return
        here = OpenDirectory(key, fd, key and key + b"\0", True, 0, 0, [], [])
        try:
            for one in found:
                self._entry(here, one.name, one.status, one.row)
            self._read_files(here)
        finally:
            os.close(fd)

    def _directory(self, here: OpenDirectory, name: bytes, status: os.stat_result, row: Row | None) -> None:
        super()._directory(here, name, status, row)
        if self._walking or not here.enter:
            return  # walked anyway, or not compared
        key = here.child(here.enter.pop())
        self._present.add(key)
        if row is None or not is_directory(row.value) or row.stat != StatSignature.of(status).pack():
            self._trees.add(key)  # what it holds was never seen
            self._report.directories_gone |= row is not None

    def _file(self, here: OpenDirectory, name: bytes, status: os.stat_result, row: Row | None) -> None:
        if status.st_nlink > 1:
            others, complete = self._setup.links.others(here.child(name), status)
            if row is None or not self._unchanged(here, row, status):
                self._linked.update(others)
                if not complete:
                    self._report.scan = "a file with several names changed, and not all of them are known"
        fresh = self._walking and row is None and not is_settled(status.st_ctime_ns, clock_ns())
        if fresh and len(self._report.again) < AGAIN_MAX:
            here.clean = False  # it is being written: it is heard of by its own name, and read once then
            self._unfinished(here.child(name))
            return
        value = None if row is not None else self._gone_values.value(status)
        if value is not None and self._put_moved(here.child(name), status, value):
            return
        super()._file(here, name, status, row)

    def _unchanged(self, here: OpenDirectory, row: Row, status: os.stat_result) -> bool:
        """A file that was heard of may have been written through a map although it looks the same: see `lately`."""
        if not super()._unchanged(here, row, status):
            return False
        return self._walking or here.child(row.name) not in self._setup.lately

    def _put_moved(self, key: bytes, status: os.stat_result, value: bytes) -> bool:
        """Record a file that only changed its place; False where its chunk list is not at hand any more."""
        chunks = None
        if status.st_size > self._reader.chunk_bytes:
            chunks = self._index.chunk_list(self._reader.digest_of(value))
            if chunks is None:
                return False
        self._put(Record(key, value, StatSignature.of(status), chunks, True), None)
        return True

    def _written(self, record: Record, row: Row | None) -> int | None:
        written = super()._written(record, row)
        if len(self._report.sizes) < SIZES_MAX:
            length = entry_size(record.value)
            self._report.sizes[record.key] = length if written is None else written
            self._report.lengths[record.key] = length
        return written

    def _put(self, record: Record, row: Row | None) -> None:
        super()._put(record, row)
        if not record.settled:
            self._report.again.append(record.key)
        self._recorder.listing(parent_key(record.key), None)

    def _reading(self, key: bytes, fd: int, row: Row | None) -> Reading:
        """What a longer file held that comes again and again is kept for its replicas."""
        if row is not None:
            status = os.fstat(fd)
            if self._versions.is_hot(key, status.st_size):
                self._report.hot.add(key)
                in_place = StatSignature.unpack(row.stat).inode == status.st_ino
                stopped, until, at_ns = self._setup.stopped, self._patient_until, clock_ns()
                reading = self._versions.read_file(self._reader, key, fd, stopped, in_place, until)
                return _rested(reading, row, at_ns)
        return super()._reading(key, fd, row)

    def _read(self, reading: Reading, row: Row | None) -> bool:
        if reading.seconds >= COSTS_TOLD_S and len(self._report.costs) < COSTS_MAX:
            self._report.costs[reading.record.key] = reading.seconds
        if reading.steady and 0 < reading.bytes <= min(FILE_MAX_BYTES, self._reader.chunk_bytes):
            self._remember(reading.record, reading.bytes, row)
        return super()._read(reading, row)

    def _remember(self, record: Record, count: int, row: Row | None) -> None:
        """Keep the content of a small file for who will want it in a moment: see `recent` and `carrying`."""
        digest = self._reader.digest_of(record.value)
        carried = (
            self._carrying.on
            and count <= CARRY_FILE_MAX_BYTES
            and (row is None or row.value != record.value)
            and digest not in self._gone_digests
        )
        if row is None and not carried:
            return
        content = self._reader.content(count)
        if row is not None:
            self._recent.keep(record.key, digest, content)
        if carried:
            self._carrying.keep(digest, content)

    def _linked_names(self) -> None:
        """The other names of files that changed, or lost a name."""
        self._walking = False
        seen: set[bytes] = set()
        while more := self._linked - seen:
            seen |= more
            for key in sorted(more):
                if self._index.row(key) is None or self._walked(parent_key(key)):
                    continue
                parent, _, name = key.rpartition(b"\0")
                for one in self._removals(parent, {name}, {}):
                    self._additions(parent, [one])

    # --- whole directories ---------------------------------------------------------------------

    def _walk(self) -> None:
        self._walking = True
        for key in sorted(self._trees):
            if key and (key not in self._present or self._walked(parent_key(key))):
                continue  # gone, not compared, or part of another one
            try:
                Walk(self._root_fd, self).run(key)
            except OSError as error:
                if not key:
                    raise
                if error.errno not in beneath.DETOUR_ERRNOS:  # else it is gone again, which will be heard of
                    self._left_out(key, error)

    def _report_busy(self) -> None:
        """What changed while it was read comes again; what never rests is recorded as it was read."""
        now = time.monotonic()
        for reading in self._unsteady:
            key = reading.record.key
            if self._setup.busy.is_young(key, now, BUSY_LOOK_MAX_AGE_S):
                self._unfinished(key)
            else:
                self._put(reading.record, self._index.row(key))

    def _left_out(self, key: bytes, error: OSError) -> None:
        """What a look can not read, a scan must: only a scan's report says what was left out, and looks again."""
        super()._left_out(key, error)
        self._report.scan = "a path that changed could not be read"

    def _unfinished(self, key: bytes) -> None:
        self._report.again.append(key)
        self._report.unfinished.append(key)


def _rested(reading: Reading, row: Row, at_ns: int) -> Reading:
    """A hot file that is read once more as it was, under the stat that it had, rests: it comes again no more."""
    record = reading.record
    same = reading.steady and (record.value, record.stat.pack()) == (row.value, row.stat)
    if record.settled or not same or not is_settled(record.stat.ctime_ns, at_ns):
        return reading
    return replace(reading, record=replace(record, settled=True))


def _ask(asked: dict[bytes, set[bytes]], key: bytes) -> None:
    parent, _, name = key.rpartition(b"\0")
    asked.setdefault(parent, set()).add(name)
