"""A directory as an agent would know it, without an agent: scanned once into an index that nobody keeps.

It is the scan of the agent itself, with the same settings and the same index, so the root is the one that an
agent has for the same tree. The index is one of SQLite's own temporary databases: in memory as long as it is
small, then in a file without a name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.limits import CHUNK_BYTES
from closeranks_proto.messages import Edit, Hand, Unreadable, VolumeSettings
from closeranks_proto.tree import Summary, Tree

from ..disk.attributed import HandOf
from ..disk.busy import Busy
from ..disk.comparison import ScanSetup
from ..disk.findings import NEVER_COMPARED, Findings
from ..disk.fresh import reading_setup
from ..disk.growth import Growth
from ..disk.hashing import EntryReader
from ..disk.ignore import IgnoreRules
from ..disk.index import Index
from ..disk.recorder import Recorder
from ..disk.rows import Delta
from ..disk.scan import Scan
from ..hotpath.readers import Readers

BUSY_TRIES = 3  # a file that is being written is tried in so many scans


@dataclass(frozen=True, slots=True)
class How:
    """By what settings. Equal ones give equal roots for equal trees."""

    algorithm: DigestAlgorithm
    chunk_bytes: int = CHUNK_BYTES
    track: tuple[str, ...] = ("mode",)
    ignore: tuple[str, ...] = ()

    def settings(self) -> VolumeSettings:
        return VolumeSettings("", self.chunk_bytes, self.ignore, self.track, 0.0, False, None, 0.0)


class _Rows:
    """What a recorder writes to: rows, and the tree of them at the end."""

    root: bytes | None = None
    unfinished = False

    def __init__(self, how: How) -> None:
        self.index = Index(None)
        self.summary: Summary | None = None
        self._how = how
        self._tree = Tree(how.algorithm, no_source)
        self._growth: Growth | None = Growth(self.index, self._tree)

    def stow(self, delta: Delta) -> None:
        if self._growth is not None:
            self._growth.writing(delta)
        with self.index.database.transaction(durable=False):
            self.index.write(delta, self._how.chunk_bytes, self._how.algorithm.width)

    def commit(
        self, delta: Delta, edits: Mapping[bytes, Edit], cause: str, seen_mono: float,
        hand_of: HandOf | None = None, sizes: Mapping[bytes, int] | None = None,
    ) -> None:  # fmt: skip
        raise AssertionError("a snapshot has no root to commit to before its end")

    def found(self, cause: str, seen_mono: float, force: bool = False, hands: Sequence[Hand] = ()) -> None:
        growth = self._growth
        if growth is None or growth.stunted:
            growth = Growth(self.index, self._tree)
        self.summary = growth.finish().summary

    def grow(self, frontier: bytes) -> None:
        if self._growth is not None:
            self._growth.grow(frontier)

    def again(self) -> None:
        """Another scan begins, which may find anything anywhere."""
        self._growth = None


def no_source(digest: bytes) -> bytes:
    """For a tree that is built and never read."""
    raise AssertionError(f"page {digest.hex()} of a tree that is only built")


@dataclass(slots=True)
class Snapshot:
    """One directory, scanned. `left_out` are the paths that are not in the root, and why; a sample when many."""

    path: bytes
    how: How
    findings: Findings = field(default_factory=Findings)
    stopped: bool = False
    _rows: _Rows | None = None
    _root_fd: int = -1
    _readers: Readers | None = None

    def open(self) -> None:
        """Open it, and fork those who read for it, as long as this process has one thread.

        Raises OSError where the directory can not be opened.
        """
        self._root_fd = os.open(self.path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        setup = reading_setup(self.how.settings(), self.how.algorithm, os.fstat(self._root_fd).st_dev)
        self._readers = Readers(self._root_fd, setup, forked=True)
        if "xattrs" not in self.how.track:  # else the scan reads everything itself
            self._readers.start()

    def take(self) -> Summary:
        """Scan it. Raises OSError where the directory itself can not be read, Stopped after `stop`."""
        if self._readers is None:
            self.open()
        rows = self._rows = _Rows(self.how)
        reader = EntryReader(self.how.algorithm, self.how.chunk_bytes, self.how.track)
        readers = self._readers
        assert readers is not None
        try:
            busy = Busy()
            recorder = Recorder(rows, "scan", False, _nobody)
            for turn in range(BUSY_TRIES):
                if turn:
                    self.findings.forget()
                    rows.again()
                scan = ScanSetup(
                    rows.index, reader, IgnoreRules(self.how.ignore), busy, lambda: self.stopped, self.findings,
                    readers=lambda fd: readers, at_once=bool(readers.pids),
                )  # fmt: skip
                Scan(scan, recorder).run(self._root_fd)
                recorder.flush()
                if not self.findings.busy:
                    break
            recorder.finish()
        finally:
            self._end()
        assert rows.summary is not None
        return rows.summary

    def stop(self) -> None:
        """End `take` soon. Any thread."""
        self.stopped = True

    @property
    def left_out(self) -> list[Unreadable]:
        """Those that make the root one of less than is there; special files are no part of any root."""
        return [one for one in self.findings.left_out if one.why not in NEVER_COMPARED]

    @property
    def left_out_count(self) -> int:
        """How many there are, with those that are not named."""
        return self.findings.left_out_count - self.findings.never_compared

    @property
    def never_compared(self) -> list[Unreadable]:
        """Special files and other filesystems, a sample when many; `findings` counts them."""
        return [one for one in self.findings.left_out if one.why in NEVER_COMPARED]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), keys ascending. After `take`."""
        assert self._rows is not None
        return self._rows.index.items()

    def chunk_list(self, digest: bytes) -> bytes | None:
        """The chunk list of a long file, by content digest. After `take`."""
        assert self._rows is not None
        return self._rows.index.chunk_list(digest)

    def _end(self) -> None:
        """Of reading."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def close(self) -> None:
        self._end()
        if self._rows is not None:
            self._rows.index.database.close()


def _nobody() -> None:
    """Nobody waits for what a snapshot finds."""
