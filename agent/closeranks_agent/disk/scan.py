"""One scan of a volume: every directory listed, every difference to the index read and recorded.

A directory whose names and stats give the digest that the index keeps (its *listing*) is done: nothing of
it is read. Otherwise names and rows are merged in order; what differs is read. A listing is stored only
when everything in the directory is settled, readable and was seen in one consistent state, so whatever was
left open is looked at again by the next scan. An error is never a deletion: what can not be read keeps its
rows and is reported.

Rejected: comparing by a directory's own mtime (a file that is rewritten in place does not change it).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import Kind, entry_kind, entry_size
from closeranks_proto.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MIB, SNAPSHOT_EDITS
from closeranks_proto.paths import parent_key, path_of

from .. import beneath
from ..hotpath.readers import Readers
from ..syscalls import is_open_to_write
from .findings import Findings
from .fresh import Fresh
from .hashing import EntryReader, NotRegular, Reading, Stopped, TooLarge, open_file, opened_file, read_ahead
from .ignore import IgnoreRules
from .index import Index, Listing, Row, is_directory
from .lately import Lately
from .links import Links
from .listing import Look, Status, beside, look, statuses
from .private import PRIVATE_NAME
from .recorder import Recorder
from .records import Record, StatSignature, clock_ns, pack_signature
from .walk import Walk

if TYPE_CHECKING:
    from .lister import Glance
    from .listers import Lister

BUSY_MAX_AGE_S: Final = 2.0  # then a file that never rests is recorded as it was read
BUSY_TRACKED_MAX: Final = 65536
BUSY_RETRIES: Final = 2
BUSY_PAUSE_S: Final = 0.03
BUSY_RETRY_MAX_BYTES: Final = 64 * MIB  # a longer file is not read twice in one scan
READ_AHEAD_FILES: Final = 64
COMPARED_CHUNKS: Final = 1024  # at once: most blocks of a long file are the same
READERS_FILES: Final = 1024  # to read, from which on other processes are worth starting
STARTED_FILES: Final = 256  # from which on they are started, which takes as long as reading the rest of those
HELD_UP_FILES: Final = 16_384  # read between two stops for odd directories: a hundredth of the time, at most
READERS_BYTES: Final = 128 * MIB
BREATH_S: Final = 0.25  # between looks while other processes read
_SKIPPED: Final = os.fsdecode(PRIVATE_NAME)


@dataclass(frozen=True, slots=True)
class ScanSetup:
    """What a scan goes by. `busy_since` outlives scans: when a file was first found busy, monotonic."""

    index: Index
    reader: EntryReader
    ignore: IgnoreRules
    busy_since: MutableMapping[bytes, float]
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


class Scan:
    """Visits a volume once. Raises Stopped, StateUnavailable; what the tree's disk does is reported."""

    def __init__(self, setup: ScanSetup, recorder: Recorder) -> None:
        self._setup = setup
        self._index, self._reader, self._ignore = setup.index, setup.reader, setup.ignore
        self._recorder = recorder
        self._forced: dict[bytes, set[bytes]] = {}
        for key in setup.reread:
            self._forced.setdefault(parent_key(key), set()).add(key)
        self._busy: list[Reading] = []
        self._device = 0
        self._root_fd = -1
        self._moved = False  # directories went away while this scan was under way
        self._readers: Readers | None = None
        self._fresh: Fresh | None = None
        self._left: bytes | None = None  # a directory that comes back from the readers
        self._at: bytes | None = None  # where a walk is: it will come to greater keys only
        self._breath_due = 0.0
        self._left_due = (
            HELD_UP_FILES  # files read, by when what was left is compared if the tree waits for it
        )
        self.findings = setup.findings

    def run(self, root_fd: int) -> None:
        self._root_fd, self._device = root_fd, os.fstat(root_fd).st_dev
        try:
            if self._setup.listers:
                from .sweep import Sweep  # not for those who scan once

                Sweep(root_fd, self._setup.listers, self, _SKIPPED, self._reader.xattrs).run()
            else:
                Walk(root_fd, self).run()
            self._at = None
            self._finish_fresh()
        finally:
            if self._readers is not None:
                self._readers.close()
        self._settle_busy(root_fd)

    # --- directories ---------------------------------------------------------------------------

    def pause(self) -> None:
        """Between the answers of those that list for this scan."""
        if self._setup.stopped():
            raise Stopped
        self._breathe(b"", self._root_fd)

    def agree(self, keys: Sequence[bytes], glances: Sequence[Glance]) -> Sequence[Sequence[bytes] | None]:
        """Which directories are as the index has them: the subdirectories to enter, None for the others."""
        agreed: list[Sequence[bytes] | None] = []
        for key, stored, (digest, names, whole) in zip(
            keys, self._index.listings(keys), glances, strict=True
        ):
            if stored is None or stored.digest != digest or not whole or self._must_compare(key):
                agreed.append(None)
                continue
            self.findings.ignored += stored.ignored
            self.findings.hard_links += stored.hard_links
            agreed.append(self._not_ignored(key, names))
        return agreed

    def directory(self, key: bytes, fd: int) -> Sequence[bytes]:
        """Compare one directory; the subdirectories to enter."""
        if self._setup.stopped():
            raise Stopped
        if not self._breathe(key, fd):
            return ()
        self._at, skip = key, None if key else _SKIPPED
        stored = self._index.listing(key)
        if stored is None and self._fresh is not None and self._is_unknown(key):
            return self._hand_over(self._fresh, key)
        try:
            seen = look(fd, skip, self._reader.xattrs)
            if stored is None and self._is_much(seen) and self._is_unknown(key):
                return self._hand_over(self._start_readers(), key)
            if (
                stored is not None
                and stored.digest == seen.digest
                and seen.whole
                and not self._must_compare(key)
            ):
                self.findings.ignored += stored.ignored
                self.findings.hard_links += stored.hard_links
                return self._not_ignored(key, seen.directories)
            here = OpenDirectory(key, fd, key and key + b"\0", seen.whole, 0, 0, [], [])
            self.findings.directories_compared += 1
            for name, status, row in beside(statuses(fd, seen, skip), self._index.directory(key)):
                self._entry(here, name, status, row)
            self._read_files(here)
            if here.clean and seen.stats is None:
                here.clean = look(fd, skip, self._reader.xattrs).digest == seen.digest
        except OSError as error:
            if not key:
                raise  # without its root nothing is known of the volume
            self._left_out(key, error)
            return ()
        self.findings.ignored += here.ignored
        self.findings.hard_links += here.hard_links
        listing = Listing(seen.digest, here.ignored, here.hard_links) if here.clean else None
        if listing != stored:
            self._recorder.listing(key, listing)
        return here.enter

    def closed(self, key: bytes, error: OSError) -> None:
        """A directory that was listed but could not be opened."""
        if error.errno == errno.ENOENT:
            row = self._index.row(key)
            if row is not None:
                self._remove(key, row)
        elif error.errno == errno.EXDEV:
            self.findings.report(key, "other_filesystem", "another filesystem is mounted here")
        elif error.errno not in (errno.ENOTDIR, errno.ELOOP):  # something else took its name: the next scan
            self._left_out(key, error)

    # --- what other processes read ---------------------------------------------------------------

    def _is_unknown(self, key: bytes) -> bool:
        """Whether the directory has no rows, and does not come back from the readers."""
        return key != self._left and next(self._index.directory(key, 1), None) is None

    def _is_much(self, seen: Look) -> bool:
        """Whether there is so much to read that other processes are worth starting.

        Never where extended attributes are tracked: the scan reads them itself.
        """
        if self._setup.readers is None or self._reader.xattrs:
            return False
        count = seen.entries_least + self.findings.hashed_files
        if self._setup.at_once or count >= READERS_FILES:
            return True
        if count >= STARTED_FILES and self._readers is None and not self._setup.listers:
            self._readers = self._setup.readers(self._root_fd)
            self._readers.start()  # they load while we go on
        sizes = (0 if isinstance(status, OSError) else status.st_size for _, status in seen.stats or ())
        return sum(sizes) + self.findings.hashed_bytes >= READERS_BYTES

    def _start_readers(self) -> Fresh:
        assert self._setup.readers is not None
        readers = self._readers = self._readers or self._setup.readers(self._root_fd)
        self._fresh = Fresh(readers, self._recorder, self.findings, self._setup.links)
        return self._fresh

    def _hand_over(self, fresh: Fresh, key: bytes) -> Sequence[bytes]:
        fresh.take(key)
        while fresh.is_full:
            self._pump(fresh)
        return ()

    def _pump(self, fresh: Fresh) -> None:
        if self._setup.stopped():
            raise Stopped
        fresh.pump()
        self._recorder.grow(fresh.frontier(self._at))
        self._breathe(b"", self._root_fd)

    def _finish_fresh(self) -> None:
        """Wait for the readers, and compare what they left."""
        while (fresh := self._fresh) is not None and (fresh.busy or fresh.left):
            if fresh.busy and not self._is_held_up(fresh):
                self._pump(fresh)
                continue
            if not fresh.drain(self._setup.stopped):
                raise Stopped
            while fresh.may_compare and not fresh.readers.busy:
                self._compare_left(heappop(fresh.left))
            self._left_due = self.findings.hashed_files + HELD_UP_FILES

    def _is_held_up(self, fresh: Fresh) -> bool:
        """Whether the tree has waited for some time for what the readers left: all before it has been read."""
        return self.findings.hashed_files >= self._left_due and fresh.is_held_up

    def _compare_left(self, key: bytes) -> None:
        """A directory that the readers left."""
        self._recorder.flush()
        self._left = self._at = key
        try:
            Walk(self._root_fd, self).run(key)
        except OSError as error:
            if not key:
                raise
            self.closed(key, error)
        self._at = None

    def _breathe(self, key: bytes, fd: int) -> bool:
        """Let looks through; False where `fd` is not the directory `key` any more.

        What a look moved or removed is recorded already; going on below the old name would record it there again.
        """
        if self._setup.breathe is None or self._recorder.stowing:
            return True
        if self._fresh is not None and self._fresh.readers.busy:
            # What is under way stands under the present names: it must be recorded before a look moves them.
            if time.monotonic() < self._breath_due:
                return True
            if not self._fresh.drain(self._setup.stopped):
                raise Stopped
            self._breath_due = time.monotonic() + BREATH_S
        self._recorder.flush_if_due()
        self._moved |= self._setup.breathe(self._has_recorded)
        if not self._moved or not key:
            return True
        try:
            there = beneath.open_directory(self._root_fd, path_of(key))
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(there), os.fstat(fd))
        finally:
            os.close(there)

    def _has_recorded(self) -> bool:
        """Everything that was found, so that a look may follow. Only for one: each commit waits for the disk."""
        self._recorder.flush()
        return not self._recorder.stowing

    def _must_compare(self, key: bytes) -> bool:
        return self._setup.full or self._setup.restat or key in self._forced

    def _not_ignored(self, key: bytes, names: Sequence[bytes]) -> Sequence[bytes]:
        if not self._ignore:
            return names
        prefix = key and key + b"\0"
        return [name for name in names if not self._ignore.matches(prefix + name, True)]

    def _left_out(self, key: bytes, error: OSError) -> None:
        why = "too_large" if isinstance(error, TooLarge) else "unreadable"
        self.findings.report(key, why, error.strerror or str(error))

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
            self.findings.report(key, "other_filesystem", "another filesystem is mounted here")
            if row is not None:
                self._remove(key, row)
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
        """How many bytes of a file are new: of a long one by its chunks; None: all of them."""
        chunk_bytes = self._reader.chunk_bytes
        if row is None or entry_kind(row.value) is not entry_kind(record.value):
            return None
        if self._is_content(row.value, record.value):
            return 0  # whoever changes a mode, an owner or a time has written nothing
        if record.chunks is None or entry_size(row.value) <= chunk_bytes:
            return None
        before = self._index.chunk_list(self._reader.digest_of(row.value))
        return None if before is None else changed_bytes(before, record.chunks)

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
        return self._careful(self._reader.read_file(key, fd, self._setup.stopped), fd)

    def _careful(self, reading: Reading, fd: int) -> Reading:
        """Nobody may tell of the end of what is being written or mapped: a pause in it is no rest."""
        if not self._setup.careful or not reading.steady or not is_open_to_write(fd):
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
        if not reading.steady:
            self._busy.append(reading)
            return False
        self._setup.busy_since.pop(reading.record.key, None)
        self._setup.lately.read(reading.record.key, reading.record.stat.ctime_ns, clock_ns())
        self._put(reading.record, row)
        return reading.record.settled

    def _settle_busy(self, root_fd: int) -> None:
        """Try busy files again; what never rests is recorded as read when it has been busy for long enough."""
        for _ in range(BUSY_RETRIES):
            again = [reading for reading in self._busy if reading.bytes <= BUSY_RETRY_MAX_BYTES]
            if not again:
                break
            self._busy = [reading for reading in self._busy if reading.bytes > BUSY_RETRY_MAX_BYTES]
            time.sleep(BUSY_PAUSE_S)
            for reading in again:
                self._read_again(root_fd, reading)
        now = time.monotonic()
        since = self._setup.busy_since
        busy: set[bytes] = set()
        for reading in self._busy:
            key = reading.record.key
            if len(since) < BUSY_TRACKED_MAX and now - since.setdefault(key, now) < BUSY_MAX_AGE_S:
                self.findings.report(key, "busy", "it changed while it was read")
                busy.add(key)
            else:
                self._put(reading.record, self._index.row(key))
        self.findings.busy = frozenset(busy)
        for key in [key for key in since if key not in {reading.record.key for reading in self._busy}]:
            del since[key]

    def _read_again(self, root_fd: int, before: Reading) -> None:
        if self._setup.stopped():
            raise Stopped
        key = before.record.key
        row = self._index.row(key)
        try:
            with beneath.spot(root_fd, key) as spot, opened_file(spot.name, spot.parent_fd) as fd:
                reading = self._reader.read_file(key, fd, self._setup.stopped)
                self._read(self._careful(reading, fd), row)
        except OSError as error:
            self._not_read(key, row, error)


def changed_bytes(before: bytes, now: bytes) -> int:
    """How many bytes lie in chunks of `now` that are others than the chunk at the same place before."""
    old, new = decode_chunk_list(before), decode_chunk_list(now)
    width, count = new.width, 0
    for at in range(0, len(new.digests), COMPARED_CHUNKS * width):
        mine = new.digests[at : at + COMPARED_CHUNKS * width]
        theirs = old.digests[at : at + COMPARED_CHUNKS * width]
        if mine != theirs:
            count += sum(mine[i : i + width] != theirs[i : i + width] for i in range(0, len(mine), width))
    return min(count * new.chunk_bytes, new.size)


def _kind_of_special(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "neither file, directory nor symlink"
