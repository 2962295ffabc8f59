"""Names of one directory against the index's rows: what differs is read and recorded.

Scans and looks both do this, for all names or for some. Nothing is read whose settled row has the stat that the name
has now. An error is never a deletion: what can not be read keeps its rows and is reported. A file that changes while it
is read is not recorded here: scan and look decide for how long it is waited for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from closeranks_proto.content import changed_bytes, filled_bytes, hole_digest
from closeranks_proto.entries import Kind, entry_kind, entry_size
from closeranks_proto.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, SNAPSHOT_EDITS
from closeranks_proto.paths import parent_key, path_of

from .. import beneath
from ..hotpath.readers import Readers
from ..syscalls import is_open_to_write
from .busy import Busy
from .findings import Findings
from .hashing import EntryReader, NotRegular, Reading, TooLarge, open_file, read_ahead
from .ignore import IgnoreRules
from .index import Index
from .lately import Lately
from .links import Links
from .listing import Status
from .recorder import Recorder
from .records import Record, StatSignature, clock_ns, pack_signature
from .rows import Row, is_directory
from .taken import written_bytes

if TYPE_CHECKING:
    from .listers import Lister

READ_AHEAD_FILES: Final = 64
MOUNTED_OVER: Final = "another filesystem is mounted over it: what the volume holds there counts as unchanged"


@dataclass(frozen=True, slots=True)
class ScanSetup:
    """What a scan or look goes by."""

    index: Index
    reader: EntryReader
    ignore: IgnoreRules
    busy: Busy  # outlives scans
    stopped: Callable[[], bool]
    findings: Findings
    full: bool = False  # look into every directory
    restat: bool = False  # besides, derive every value again from its stat
    reread: Collection[bytes] = ()  # keys whose content is read whatever their stat says
    links: Links = field(default_factory=Links)  # what is known of files with several names; outlives scans
    listers: Sequence[Lister] = ()  # other processes that list directories; worth it where little has changed
    readers: Callable[[int], Readers] | None = None  # processes that read new directories below the root
    at_once: bool = False  # those run already: they read everything that is new
    # Between directories: what waits is let through, if anything does and a call then says that all is recorded;
    # whether directories went away meanwhile.
    breathe: Callable[[Callable[[], bool]], bool] | None = None
    lately: Lately = field(default_factory=Lately)  # what was read soon after a change; outlives scans
    careful: bool = False  # what somebody has open to write is busy


@dataclass(slots=True)
class OpenDirectory:
    """The directory that is being compared."""

    key: bytes
    fd: int
    prefix: bytes
    clean: bool
    ignored: int
    hard_links: int
    enter: list[bytes]
    unread: list[tuple[bytes, os.stat_result, Row | None]]  # files to be read, by name

    def child(self, name: bytes) -> bytes:
        return self.prefix + name


class Comparison:
    """Compares what is on disk with the rows. What the disk does is reported, or raised by who reads the root."""

    def __init__(self, setup: ScanSetup, recorder: Recorder) -> None:
        self._setup = setup
        self._index, self._reader, self._ignore = setup.index, setup.reader, setup.ignore
        self._recorder = recorder
        self._forced: dict[bytes, set[bytes]] = {}
        for key in setup.reread:
            self._forced.setdefault(parent_key(key), set()).add(key)
        self._unsteady: list[Reading] = []  # of files that changed while they were read
        self._device = 0
        self._root_fd = -1
        self.findings = setup.findings

    # --- entries -------------------------------------------------------------------------------

    def _entry(self, here: OpenDirectory, name: bytes, status: Status | None, row: Row | None) -> None:
        """One name that is on disk, in the index, or in both."""
        key = here.child(name)
        if status is None:
            assert row is not None
            self._remove(key, row)
            return
        if isinstance(status, OSError):
            here.clean = False
            self._left_out(key, status)
            return
        mode = status.st_mode
        if self._ignore and self._ignore.matches(key, stat.S_ISDIR(mode)):
            here.ignored += 1
            if row is not None:
                self._remove(key, row)
        elif len(key) > MAX_PATH_BYTES or len(name) > MAX_NAME_BYTES:
            here.clean = False
            why = f"its path or name is longer than {MAX_PATH_BYTES} or {MAX_NAME_BYTES} bytes"
            self.findings.report(key[:MAX_PATH_BYTES], "unreadable", why)
        elif stat.S_ISREG(mode):
            self._file(here, name, status, row)
        elif stat.S_ISDIR(mode):
            self._directory(here, name, status, row)
        elif stat.S_ISLNK(mode):
            self._symlink(here, name, status, row)
        else:
            here.clean = False
            self.findings.report(key, "special", _kind_of_special(mode))
            if row is not None:
                self._remove(key, row)

    def _directory(self, here: OpenDirectory, name: bytes, status: os.stat_result, row: Row | None) -> None:
        key = here.child(name)
        if status.st_dev != self._device:
            here.clean = False
            if row is not None and not is_directory(row.value):
                self._remove(key, row)
                row = None
            self._mounted_over(key, row)
            return
        here.enter.append(name)
        try:
            record = self._reader.directory_record(key, here.fd, name, status)
        except OSError as error:
            here.clean = False
            self._left_out(key, error)
            return
        self._put(record, row)

    def _symlink(self, here: OpenDirectory, name: bytes, status: os.stat_result, row: Row | None) -> None:
        if row is not None and self._unchanged(here, row, status) and not self._setup.restat:
            return
        key = here.child(name)
        try:
            record = self._reader.symlink_record(key, here.fd, name, status)
        except OSError as error:
            here.clean = False
            if error.errno not in (
                errno.ENOENT,
                errno.EINVAL,
            ):  # gone or replaced: the next scan sees what it is
                self._left_out(key, error)
            return
        here.clean = here.clean and record.settled
        self._put(record, row)

    def _file(self, here: OpenDirectory, name: bytes, status: os.stat_result, row: Row | None) -> None:
        if status.st_nlink > 1:
            here.hard_links += 1
            self._setup.links.note(here.child(name), status)
        if row is not None and self._unchanged(here, row, status):
            if not self._setup.restat:
                return
            if not self._reader.xattrs:
                self._restat(here.child(name), status, row)
                return
        here.unread.append((name, status, row))
        if len(here.unread) >= READ_AHEAD_FILES:
            self._read_files(here)

    def _unchanged(self, here: OpenDirectory, row: Row, status: os.stat_result) -> bool:
        return (
            row.settled
            and row.stat == pack_signature(status)
            and not (here.key in self._forced and here.child(row.name) in self._forced[here.key])
        )

    def _restat(self, key: bytes, status: os.stat_result, row: Row) -> None:
        """The same content under other tracked attributes."""
        digest = self._reader.digest_of(row.value)
        value = self._reader.file_value(status, digest, None)
        if value != row.value:
            known = self._index.record(key, self._reader.chunk_bytes)
            assert known is not None
            self._recorder.put(Record(key, value, known.stat, known.chunks, known.settled), True, 0)

    def _put(self, record: Record, row: Row | None) -> None:
        differs = row is None or row.value != record.value
        if row is not None and is_directory(row.value):
            if not is_directory(record.value):
                self._remove_beneath(record.key)
        elif row is not None and StatSignature.unpack(row.stat).inode != record.stat.inode:
            self._parted(record.key, row)
        if row is None or differs or row.stat != record.stat.pack() or row.settled is not record.settled:
            self._recorder.put(record, differs, self._written(record, row) if differs else None)

    def _written(self, record: Record, row: Row | None) -> int | None:
        """How many bytes of a file are new: of a long one by its chunks, without holes; None: all of them."""
        chunk_bytes = self._reader.chunk_bytes
        is_same_kind = row is not None and entry_kind(row.value) is entry_kind(record.value)
        if row is not None and is_same_kind and self._is_content(row.value, record.value):
            return 0  # whoever changes a mode, an owner or a time has written nothing
        if record.chunks is None:
            return None
        before = None
        if row is not None and is_same_kind and entry_size(row.value) > chunk_bytes:
            before = self._index.chunk_list(self._reader.digest_of(row.value))
        changed = None if before is None else changed_bytes(before, record.chunks)
        filled = filled_bytes(record.chunks, hole_digest(self._reader.algorithm, chunk_bytes))
        if filled < entry_size(record.value) and self._is_sparse(record.key):
            return filled if changed is None else min(filled, changed)
        return changed

    def _is_sparse(self, key: bytes) -> bool:
        """Whether what reads as zeros was not written."""
        try:
            fd = beneath.open_beneath(self._root_fd, path_of(key), os.O_PATH)
        except OSError:
            return False  # it went away since
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return written_bytes(status) < status.st_size

    def _is_content(self, before: bytes, now: bytes) -> bool:
        """Whether two values are of files that hold the same."""
        return entry_kind(now) is Kind.FILE and self._reader.digest_of(before) == self._reader.digest_of(now)

    def _remove(self, key: bytes, row: Row) -> None:
        if is_directory(row.value):
            self._remove_beneath(key)
        else:
            self._gone(row)
            self._parted(key, row)
        self._recorder.remove(key)

    def _gone(self, row: Row) -> None:
        """A file or symlink lost its name. A look remembers it: it may stand elsewhere now."""

    def _parted(self, key: bytes, row: Row) -> list[bytes]:
        """The name is not that file's any more. The names that the file has left, as far as they are known."""
        was = StatSignature.unpack(row.stat)
        return self._setup.links.forget(key, was.device, was.inode)

    def _remove_beneath(self, key: bytes) -> None:
        """Children before parents, so that no step shows an entry without its directory."""
        rows = self._index.rows(key)
        first = list(islice(rows, SNAPSHOT_EDITS))  # more are a mass change, whose order nobody sees
        for child, row in chain(rows, reversed(first)):
            if is_directory(row.value):
                self._recorder.listing(child, None)
            else:
                self._gone(row)
                self._parted(child, row)
            self._recorder.remove(child)
        self._recorder.listing(key, None)

    def _mounted_over(self, key: bytes, row: Row | None) -> None:
        """Another filesystem hides this directory. What the volume holds there is not deleted: it can not be read."""
        if row is None:
            self.findings.report(key, "other_filesystem", "another filesystem is mounted here")
        else:
            self.findings.report(key, "unreadable", MOUNTED_OVER)

    def _left_out(self, key: bytes, error: OSError) -> None:
        why = "too_large" if isinstance(error, TooLarge) else "unreadable"
        self.findings.report(key, why, error.strerror or str(error))

    # --- contents ------------------------------------------------------------------------------

    def _read_files(self, here: OpenDirectory) -> None:
        """Read what has come together, the kernel fetching all of it at once."""
        batch, here.unread = here.unread, []
        fds: list[int] = []
        opened: list[tuple[int | OSError, bytes, os.stat_result, Row | None]] = []
        try:
            for name, status, row in batch:
                try:
                    fds.append(open_file(name, here.fd))
                    opened.append((fds[-1], name, status, row))
                except OSError as error:
                    opened.append((error, name, status, row))
            if len(fds) > 1:
                read_ahead(fds)
            for fd, name, status, row in opened:
                key = here.child(name)
                try:
                    if isinstance(fd, OSError):
                        raise fd
                    reading = self._reading(key, fd, row)
                except OSError as error:
                    here.clean = False
                    self._not_read(key, row, error)
                    continue
                if not self._read(reading, row) or reading.record.stat.pack() != pack_signature(status):
                    here.clean = False
        finally:
            for fd in fds:
                os.close(fd)

    def _reading(self, key: bytes, fd: int, row: Row | None) -> Reading:
        """Raises what `read_file` raises."""
        return self._careful(key, fd)

    def _careful(self, key: bytes, fd: int) -> Reading:
        """Nobody may tell of the end of what is being written or mapped: a pause in it is no rest.

        Asked ahead of the reading as well: what a map stores into a part that has been read shows in no stat, and it
        may be closed before the rest has been read.
        """
        was_open = self._setup.careful and is_open_to_write(fd)
        reading = self._reader.read_file(key, fd, self._setup.stopped)
        if not self._setup.careful or not reading.steady or not (was_open or is_open_to_write(fd)):
            return reading
        return replace(reading, record=replace(reading.record, settled=False), steady=False)

    def _not_read(self, key: bytes, row: Row | None, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            if row is not None:
                self._remove(key, row)
        elif not isinstance(error, NotRegular) and error.errno not in (errno.ELOOP, errno.ENXIO):
            self._left_out(key, error)  # the others were replaced since they were listed

    def _read(self, reading: Reading, row: Row | None) -> bool:
        """Whether the file is done with: steady and settled."""
        self.findings.hashed_files += 1
        self.findings.hashed_bytes += reading.bytes
        if row is not None and self._is_content(row.value, reading.record.value):
            self.findings.same_files += 1
            self.findings.same_bytes += reading.bytes
        if not reading.steady:
            self._unsteady.append(reading)
            return False
        self._setup.busy.rests(reading.record.key)
        self._setup.lately.read(reading.record.key, reading.record.stat.ctime_ns, clock_ns())
        self._put(reading.record, row)
        return reading.record.settled


def _kind_of_special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "neither file, directory nor symlink"
