"""What this node writes now and how full its disks are: gathered all the time, told while there is news.

A report counts what was written since the one before it, of the last minute at most: who adds reports up counts
nothing twice, and what was written while nobody listened is not taken for one burst. One report a second at most;
trifles wait a little longer, and at rest there is none at all. What is seen of writes comes from the watcher (see
`written`), and from scans what it did not see.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.parts import OUTSIDE, Hand

from ..disk.records import ScanReport
from .attribution import Attribution
from .disks import EVERY_S, Disks
from .elsewhere import Elsewhere
from .ledger import MOVED_MAX, Ledger

log = logging.getLogger("closeranks.agent")

WINDOW_S = 60.0
HANDS_TOLD = 8
ANSWER_S = 0.05  # a healthy filesystem has answered by then; another one's answer is told a second later
TRIFLE_FILES, TRIFLE_BYTES = 16, 256 * 1024  # so little since the last report
TRIFLE_EVERY_S = 5.0
SOON_FULL_S = 3600.0
FILLING_SHARE_MIN = 0.01  # of a disk in a minute
FAULT_REST_S = 10.0
MINOR_SHARE = 0.05  # of the files and of the bytes: who wrote less is not the one


@dataclass(slots=True)
class _Volume:
    """What was written in one volume: by the second, over the window; and since the last report."""

    ledger: Ledger
    seconds: deque[list[int]] = field(
        default_factory=deque
    )  # [second, files, bytes], at most WINDOW_S of them
    files: int = 0
    size: int = 0
    fresh_files: int = 0
    fresh_bytes: int = 0
    pending: int = 0

    def add(self, now: float, files: int, size: int) -> None:
        second = int(now)
        if not self.seconds or self.seconds[-1][0] != second:
            self.seconds.append([second, 0, 0])
        self.seconds[-1][1] += files
        self.seconds[-1][2] += size
        self.files += files
        self.size += size
        self.fresh_files += files
        self.fresh_bytes += size

    def fresh(self) -> tuple[int, int]:
        """Files and bytes since the last report, within the window."""
        return min(self.fresh_files, self.files, MOVED_MAX), min(self.fresh_bytes, self.size, MOVED_MAX)

    def forget(self, now: float) -> None:
        while self.seconds and self.seconds[0][0] < now - WINDOW_S:
            _, files, size = self.seconds.popleft()
            self.files -= files
            self.size -= size


class Activity:
    """Implements `written.Written`. `run` is the agent's task."""

    def __init__(
        self,
        attribution: Attribution,
        disks: Disks,
        post: Callable[[wire.AgentMessage], None],
        connected: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.disks = disks
        self._attribution, self._post, self._connected = attribution, post, connected
        self._clock = clock
        self._lock = threading.Lock()
        self._volumes: dict[str, _Volume] = {}
        self._all = Ledger(clock)
        self._elsewhere = Elsewhere()
        self._fresh_files = self._fresh_bytes = 0  # since the last report
        self._fresh_since_s: float | None = None
        self._moved = False
        self._told: wire.Activity | None = None
        self._told_s = float("-inf")
        self._silent: tuple[str, ...] = ()

    # --- what is seen, from any thread ---------------------------------------------------------

    def note(self, volume: str, files: int, size_bytes: int, hand: Hand | None = None) -> None:
        """See `Written`."""
        files, size, now = max(0, files), max(0, size_bytes), self._clock()
        with self._lock:
            known = self._volume(volume)
            known.add(now, files, size)
            self._fresh_files += files
            self._fresh_bytes += size
            if self._fresh_since_s is None:
                self._fresh_since_s = now
        if hand is not None:
            known.ledger.note(hand, files, size)
            self._all.note(hand, files, size)

    def scanned(self, volume: str, report: ScanReport) -> None:
        """What a scan found that no watcher saw: where none watches, or events were lost. Not what we wrote.

        Files that were read and found the same were not written; of the rest, each counts with the mean size.
        """
        if report.changed:
            share = min(1.0, report.changed / max(1, report.hashed_files))
            self.note(volume, report.changed, int(report.hashed_bytes * share))

    def pending(self, volume: str, paths: int) -> None:
        """See `Written`."""
        with self._lock:
            known = self._volume(volume)
            if known.pending != paths:
                known.pending, self._moved = paths, True

    def ledger(self, volume: str) -> Ledger:
        """Who wrote in a volume lately."""
        with self._lock:
            return self._volume(volume).ledger

    def recent(self, volume: str, within_s: float) -> tuple[Hand, ...]:
        """Every process that wrote in a volume in the last `within_s` seconds, the most active program first.

        Without those of programs that wrote next to nothing of it.
        """
        return self.ledger(volume).recent(within_s, MINOR_SHARE)

    def started(self, hand: Hand) -> int | None:
        """See `Attribution.started`."""
        return self._attribution.started(hand)

    def top(self, count: int = HANDS_TOLD) -> tuple[Hand, ...]:
        """The most active on this node."""
        return self._all.top(count)

    # --- telling -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._tick()
            except Exception:
                log.exception("a fault of the agent: activity and disks are not told of for a while")
                await asyncio.sleep(FAULT_REST_S)
            await asyncio.sleep(EVERY_S - ANSWER_S)

    async def _tick(self) -> None:
        self.disks.sample()
        await asyncio.sleep(ANSWER_S)
        self._complain()
        if any(worrying(disk) for disk in self.disks.states()):
            await asyncio.to_thread(self.look_elsewhere)
        else:
            self._elsewhere.forget()
        if self._connected():
            report = self.report()
            if report is not None:
                self._post(report)

    def anew(self) -> None:
        """A session begins: its coordinator has been told nothing yet."""
        self._told = None

    def report(self) -> wire.Activity | None:
        """What there is to tell now; None while nothing is new. What it returns counts as told."""
        now = self._clock()
        disks = self.disks.states()
        with self._lock:
            volumes = self._active(now)
            if not self._is_news(now, volumes, disks, (self._moved, self._fresh_files, self._fresh_bytes)):
                return None
            since, self._fresh_since_s = self._fresh_since_s, None
            self._moved = False
            self._fresh_files = self._fresh_bytes = 0
            for volume in self._volumes.values():
                volume.fresh_files = volume.fresh_bytes = 0
        window_ms = int(min(WINDOW_S, max(1.0, 0.0 if since is None else now - since)) * 1000)
        report = wire.Activity(window_ms, volumes, disks, self._all.drain(HANDS_TOLD))
        self._told, self._told_s = report, now
        return report

    def _is_news(
        self,
        now: float,
        volumes: tuple[wire.VolumeActivity, ...],
        disks: tuple[wire.DiskState, ...],
        fresh: tuple[bool, int, int],
    ) -> bool:
        told = self._told
        if told is None:
            return bool(disks or volumes)
        moved, files, size = fresh
        if files > TRIFLE_FILES or size > TRIFLE_BYTES or disks_differ(told.disks, disks):
            return True
        if now - self._told_s < TRIFLE_EVERY_S:
            return False
        ended = not volumes and bool(told.volumes)
        return bool(moved or files or size or ended or any(worrying(disk) for disk in disks))

    def _active(self, now: float) -> tuple[wire.VolumeActivity, ...]:
        found: list[wire.VolumeActivity] = []
        for name, volume in sorted(self._volumes.items()):
            volume.forget(now)
            files, size = volume.fresh()
            if files or size or volume.pending:
                found.append(wire.VolumeActivity(name, files, size, volume.pending))
        return tuple(found)

    def look_elsewhere(self) -> None:
        """A disk fills: who writes so much, and in no volume? Not on the loop."""
        with self._lock:
            ledgers = [volume.ledger for volume in self._volumes.values()]
        known = {hand.pid for ledger in ledgers for hand in ledger.recent(WINDOW_S)}
        for pid, size in self._elsewhere.look():
            hand = self._attribution.of(pid) if pid not in known else None
            if hand is not None:
                detail = f"{OUTSIDE}, on some disk of this machine" + (
                    f"; {hand.detail}" if hand.detail else ""
                )
                self._all.note(msgspec.structs.replace(hand, detail=detail), 0, size)

    # --- gathering -----------------------------------------------------------------------------

    def _volume(self, name: str) -> _Volume:
        """Under the lock. Volumes are few and configured: nothing is ever dropped."""
        found = self._volumes.get(name)
        if found is None:
            found = self._volumes[name] = _Volume(Ledger(self._clock))
        return found

    def _complain(self) -> None:
        silent = self.disks.silent()
        if silent != self._silent:
            for path in sorted(set(silent) - set(self._silent)):
                log.warning(
                    "the filesystem with %s does not answer: how full it is is not known, and whatever needs it "
                    "waits. Is its server or its device there?",
                    path,
                )
            self._silent = silent


def disks_differ(told: tuple[wire.DiskState, ...], now: tuple[wire.DiskState, ...]) -> bool:
    """Whether a disk came or went, is fuller or emptier by 1%, or fills in a way that was not told."""
    before = {disk.path: disk for disk in told}
    if before.keys() != {disk.path for disk in now}:
        return True
    for disk in now:
        known = before[disk.path]
        if (known.volumes, known.holds_state, known.total_bytes) != (
            disk.volumes,
            disk.holds_state,
            disk.total_bytes,
        ):
            return True
        if abs(known.free_bytes - disk.free_bytes) * 100 > max(1, disk.total_bytes):
            return True
        if worrying(disk) != worrying(known):
            return True
        if disk.full_in_s is None or known.full_in_s is None or not worrying(disk):
            continue
        if abs(disk.full_in_s - known.full_in_s) * 10 > known.full_in_s:
            return True
    return False


def worrying(disk: wire.DiskState) -> bool:
    """It will be full soon, or loses a hundredth of itself in a minute. One that is full and steady is neither."""
    if disk.rate_bytes_s * 60 > disk.total_bytes * FILLING_SHARE_MIN:
        return True
    return disk.full_in_s is not None and 0 < disk.full_in_s < SOON_FULL_S
