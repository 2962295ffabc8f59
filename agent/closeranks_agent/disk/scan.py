"""One scan of a volume: every directory listed, every difference to the index read and recorded.

A directory whose names and stats give the digest that the index keeps (its *listing*) is done: nothing of
it is read. Otherwise names and rows are merged in order, and compared (`comparison`). A listing is stored only
when everything in the directory is settled, readable and was seen in one consistent state, so whatever was
left open is looked at again by the next scan.

Rejected: comparing by a directory's own mtime (a file that is rewritten in place does not change it).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from heapq import heappop
from typing import TYPE_CHECKING, Final

from closeranks_proto.limits import MIB
from closeranks_proto.paths import path_of

from .. import beneath
from ..hotpath.readers import Readers
from .comparison import Comparison, OpenDirectory, ScanSetup
from .fresh import Fresh
from .hashing import Reading, Stopped, opened_file
from .listing import Look, beside, look, statuses
from .private import PRIVATE_NAME
from .recorder import Recorder
from .rows import Listing
from .walk import Walk

if TYPE_CHECKING:
    from .lister import Glance

BUSY_MAX_AGE_S: Final = 2.0  # then a file that never rests is recorded as it was read
BUSY_RETRIES: Final = 2
BUSY_PAUSE_S: Final = 0.03
BUSY_RETRY_MAX_BYTES: Final = 64 * MIB  # a longer file is not read twice in one scan
READERS_FILES: Final = 1024  # to read, from which on other processes are worth starting
STARTED_FILES: Final = 256  # from which on they are started, which takes as long as reading the rest of those
HELD_UP_FILES: Final = 16_384  # read between two stops for odd directories: a hundredth of the time, at most
READERS_BYTES: Final = 128 * MIB
BREATH_S: Final = 0.25  # between looks while other processes read
_SKIPPED: Final = os.fsdecode(PRIVATE_NAME)


class Scan(Comparison):
    """Visits a volume once. Raises Stopped, StateUnavailable; what the tree's disk does is reported."""

    def __init__(self, setup: ScanSetup, recorder: Recorder) -> None:
        super().__init__(setup, recorder)
        self._moved = False  # directories went away while this scan was under way
        self._readers: Readers | None = None
        self._fresh: Fresh | None = None
        self._left: bytes | None = None  # a directory that comes back from the readers
        self._at: bytes | None = None  # where a walk is: it will come to greater keys only
        self._breath_due = 0.0
        # Files read, by when what was left is compared if the tree waits for it.
        self._left_due = HELD_UP_FILES

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
            self._mounted_over(key, self._index.row(key))
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
        self._fresh = Fresh(readers, self._recorder, self.findings, self._setup.links, self._setup.lately)
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

    # --- what changed while it was read ----------------------------------------------------------
    def _settle_busy(self, root_fd: int) -> None:
        """Try busy files again; what never rests is recorded as read when it has been busy for long enough."""
        for _ in range(BUSY_RETRIES):
            again = [reading for reading in self._unsteady if reading.bytes <= BUSY_RETRY_MAX_BYTES]
            if not again:
                break
            self._unsteady = [reading for reading in self._unsteady if reading.bytes > BUSY_RETRY_MAX_BYTES]
            time.sleep(BUSY_PAUSE_S)
            for reading in again:
                self._read_again(root_fd, reading)
        now = time.monotonic()
        busy: set[bytes] = set()
        for reading in self._unsteady:
            key = reading.record.key
            if self._setup.busy.is_young(key, now, BUSY_MAX_AGE_S):
                self.findings.report(key, "busy", "it changed while it was read")
                busy.add(key)
            else:
                self._put(reading.record, self._index.row(key))
        self.findings.busy = frozenset(busy)
        self._setup.busy.keep({reading.record.key for reading in self._unsteady})

    def _read_again(self, root_fd: int, before: Reading) -> None:
        if self._setup.stopped():
            raise Stopped
        key = before.record.key
        row = self._index.row(key)
        try:
            with beneath.spot(root_fd, key) as spot, opened_file(spot.name, spot.parent_fd) as fd:
                self._read(self._careful(key, fd), row)
        except OSError as error:
            self._not_read(key, row, error)
