"""A volume with a watcher of its own, as an agent keeps it, and a way to wait until everything is committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from closeranks_agent.disk.records import ScanReport
from closeranks_agent.disk.volume import Volume
from closeranks_agent.hands.attribution import Attribution
from closeranks_agent.watch import storm
from closeranks_agent.watch.owner import WatchTally
from closeranks_agent.watch.source import Source, open_source
from closeranks_agent.watch.storm import BUDGET_S, BURST
from closeranks_agent.watch.watcher import Watcher
from closeranks_proto.messages import Hand

LIMIT_S = 30.0


def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@dataclass
class Notes:
    """A `Written` that remembers."""

    told: list[tuple[str, int, int, Hand | None]] = field(default_factory=list)
    most_pending: int = 0
    ahead_bytes: int = 0

    def note(self, volume: str, files: int, size_bytes: int, hand: Hand | None = None) -> None:
        self.told.append((volume, files, size_bytes, hand))

    def ahead(self, volume: str, size_bytes: int) -> None:
        self.ahead_bytes += size_bytes

    def pending(self, volume: str, paths: int) -> None:
        self.most_pending = max(self.most_pending, paths)

    def outside(self, pid: int, events: int) -> None:
        pass


class WatchedVolume:
    """Scanned and watched; scans that the watcher asks for are done at once. `close` gives the source back."""

    def __init__(self, volume: Volume, kind: str, source: Source | None = None) -> None:
        self.volume = volume
        self.tally = WatchTally()
        self.notes = Notes()
        self.wanted: list[str] = []
        self.ended: list[str] = []
        self.proofs = threading.Event()
        if source is None:
            source, detail = open_source(
                volume.path, volume.private, prefer=kind, ignored=volume.ignores_directory, own_pid=1
            )
            assert source is not None, detail
        assert source.kind == kind
        self.watcher = Watcher(volume, source, Attribution(), self.notes, self, self.tally)
        self.watcher.start()
        self.scan()

    def scan_needed(self, why: str) -> None:
        self.wanted.append(why)
        if not self.volume._worker.is_stopped():
            self.volume._worker._thread.submit(self._scan)

    def proven(self) -> None:
        self.proofs.set()

    def broken(self, watcher: object, why: str) -> None:
        self.ended.append(why)

    def _scan(self, full: bool = False) -> ScanReport:
        report = self.volume.scan(full)
        if report.complete:
            self.watcher.scanned(report.started_mono)
        return report

    def scan(self, full: bool = False) -> ScanReport:
        return self.volume._worker._thread.submit(self._scan, full).result()

    def prove(self) -> None:
        """Until everything written before is committed."""
        self.proofs.clear()
        asked = time.monotonic()

        def is_proven() -> bool:
            at_rest = not self.watcher._proof.is_under_way
            if (self.watcher.proven or 0.0) >= asked:
                return True
            if at_rest:
                self.watcher.prove()  # a gap ended the one that was under way; after its scan there is another
            return False

        until(is_proven)

    def settle(self) -> None:
        """Until everything is committed and nothing is to be looked at again."""
        self.prove()
        until(lambda: self.watcher.pending == 0)

    def close(self) -> None:
        self.watcher.close()


class Weather:
    """Storms at will, with short pauses in them: `rise` before one is wanted, `fall` when it is to end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        patch.setattr(storm, "SCAN_EVERY_MIN_S", 0.2)
        patch.setattr(storm, "SAMPLE_EVERY_S", 0.05)

    def rise(self, watched: WatchedVolume, tree_dir: Path) -> None:
        self._patch.setattr(storm, "BUDGET_S", 0.0)
        self._patch.setattr(storm, "BURST", 0.0)
        (tree_dir / ".rise").touch()
        until(lambda: watched.watcher._sampling.active)

    def fall(self, watched: WatchedVolume) -> None:
        self._patch.setattr(storm, "BUDGET_S", BUDGET_S)
        self._patch.setattr(storm, "BURST", BURST)
        until(lambda: not watched.watcher.stormy)
