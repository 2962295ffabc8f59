"""How a volume's tree is seen: by the settings in force, and by what scans and looks remember for the next ones.

What is remembered saves reading; it is lost with the process, and a scan that knows nothing finds the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.messages import VolumeSettings

from ..hotpath.readers import Readers
from .attributed import HandOf
from .busy import Busy
from .carrying import Carrying
from .comparison import ScanSetup
from .findings import Findings
from .fresh import reading_setup
from .hashing import EntryReader, Stopped
from .history import History
from .ignore import IgnoreRules
from .lately import Lately
from .links import Links
from .listers import Lister, Listers
from .look import Look, LookReport, Moved, Names
from .recent import Recent
from .recorder import Recorder
from .scan import Scan
from .versions import Versions
from .worker import Worker

LISTED_ENTRIES_MIN: Final = 20_000  # a smaller volume is listed sooner than a process is asked


class Observer:
    """Of one volume, on its thread. `tell` is called when a step was recorded."""

    def __init__(self, private: bytes, worker: Worker, tell: Callable[[], None]) -> None:
        self._worker, self._tell = worker, tell
        self.links, self._moved, self._busy = Links(), Moved(), Busy()
        self._lately = Lately()
        # Very much is written, of which a watcher hears next to nothing. Set on any thread.
        self.careful = False
        self.recent, self.carrying, self.versions = Recent(), Carrying(), Versions(private)

    def configure(self, settings: VolumeSettings, algorithm: DigestAlgorithm) -> None:
        """Go by these settings. Raises UserError for an `ignore` that can not be understood, and changes nothing."""
        self.ignore = IgnoreRules(settings.ignore)
        self.reader = EntryReader(algorithm, settings.chunk_bytes, settings.track)
        self._settings, self._algorithm = settings, algorithm

    def scan(
        self, history: History, root_fd: int, findings: Findings, full: bool, reread: Collection[bytes],
        listers: Listers | None, hand_of: HandOf,
    ) -> int:  # fmt: skip
        """Look at the whole tree and record what changed; how many edits. Raises Stopped, StateUnavailable, OSError."""
        recorder = Recorder(
            history, "scan", history.rederive, self._tell, None if history.root is None else hand_of
        )
        with self._helped(history, root_fd, full, listers) as lent:
            careful = self.careful
            if careful:  # those of before may have been closed since, and nobody has heard of it
                reread = {*reread, *self._lately}
            setup = ScanSetup(
                history.index, self.reader, self.ignore, self._busy, self._worker.is_stopped, findings,
                full, history.rederive, reread, self.links, lent, None if careful else self._read_by,
                breathe=self._worker.breathe, careful=careful, lately=self._lately,
            )  # fmt: skip
            try:
                Scan(setup, recorder).run(root_fd)
            except Stopped:
                recorder.flush()
                history.rest()
                raise
        recorder.finish()
        return recorder.changed

    def look(
        self, history: History, root_fd: int, names: Names, hand_of: HandOf, seen_mono: float, report: LookReport,
        cause: str, reread: Collection[bytes],
    ) -> None:  # fmt: skip
        """Look at these names and record what changed. Raises what `scan` raises."""
        findings = Findings()
        setup = ScanSetup(
            history.index, self.reader, self.ignore, self._busy, self._worker.is_stopped, findings,
            reread=reread, links=self.links, lately=self._lately,
        )  # fmt: skip
        recorder = Recorder(history, cause, False, self._tell, hand_of, seen_mono)
        self._moved.fresh()
        try:
            kept = (self._moved, self.recent, self.carrying, self.versions)
            Look(setup, recorder, *kept, report).look(root_fd, names)
        except Stopped:
            recorder.flush()
            raise
        recorder.finish()
        report.changed, report.hands = recorder.changed, recorder.tally.hands()
        report.hashed_files, report.hashed_bytes = findings.hashed_files, findings.hashed_bytes

    def _helped(
        self, history: History, root_fd: int, full: bool, listers: Listers | None
    ) -> AbstractContextManager[Sequence[Lister]]:
        """Processes that list directories for a scan, where there is much to list and little to compare."""
        summary = history.summary
        known = 0 if summary is None or full or history.rederive else summary.entries
        if listers is None or self.careful or known < LISTED_ENTRIES_MIN:
            return nullcontext(())
        return listers.lent(root_fd)

    def _read_by(self, root_fd: int) -> Readers:
        """Processes that read below the root by this volume's settings. They start when they are asked."""
        return Readers(root_fd, reading_setup(self._settings, self._algorithm, os.fstat(root_fd).st_dev))
