"""What this node writes now and how full its disks are: gathered all the time, told while there is news.

A report counts what was written since the one before it, of the last minute at most: who adds reports up counts
nothing twice, and what was written while nobody listened is not taken for one burst. One report a second, with the
disks; trifles wait a little longer, and at rest there is none at all. What is seen of writes comes from the watcher
(see `written`), and from scans what it did not see.

Between those a *hurried* report tells of writes alone. What a burst is watched for is told twice a second, so that a
burst that goes on never looks as if it had ended; and a runaway that the page cache takes at gigabytes a second as
soon as there is a step to tell of, twenty times a second at most. Rejected: to be woken by the room of its disk. XFS
gives a growing file up to twice what was written to it, and btrfs shows nothing before it writes: the sizes of files
are right on all of them, and say in which volume it is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf, isfinite, isinf

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
BURST_FILES, BURST_BYTES, BURST_S = 128, 4 << 20, 0.5  # half a second of what the brake takes for a burst
STEP_BYTES, STEP_S = 32 << 20, 0.05  # as much as a runaway writes between two looks at it
MINOR_SHARE = 0.05  # of the files and of the bytes: who wrote less is not the one


@dataclass(slots=True)
class _Volume:
    """What was written in one volume: by the second, over the window; and since the last report."""

    ledger: Ledger
    # [second, files, bytes], at most WINDOW_S of them.
    seconds: deque[list[int]] = field(default_factory=deque)
    files: int = 0
    size: int = 0
    fresh_files: int = 0
    fresh_bytes: int = 0
    pending: int = 0
    ahead: int = 0  # bytes that were told of and that a scan has still to find
    ahead_at: float = 0.0  # when the last of them were

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
        self._pressing = inf  # seconds after the last report in which the next one is due
        self._wake: Callable[[], None] | None = None
        self._moved = self._hurried = False  # since the last report; since the last one with disks
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
            pressing = _pressing_s(self._fresh_files, self._fresh_bytes)
            wake = self._wake if pressing < self._pressing else None  # it was to wait longer, so far
            self._pressing = min(self._pressing, pressing)
        if hand is not None:
            known.ledger.note(hand, files, size)
            self._all.note(hand, files, size)
        if wake is not None:
            wake()

    def scanned(self, volume: str, report: ScanReport) -> None:
        """What a scan found that no watcher saw: where none watches, or events were lost. Not what we wrote.

        Files that were read and found the same were not written; of the rest, each counts with the mean size.
        """
        with self._lock:
            known = self._volume(volume)
            ahead = known.ahead
            size = report.written_bytes
            known.ahead = 0 if report.started_mono >= known.ahead_at else max(0, ahead - size)
        if report.changed:
            self.note(volume, report.changed, size - ahead)

    def ahead(self, volume: str, size_bytes: int) -> None:
        """See `Written`."""
        with self._lock:
            known = self._volume(volume)
            known.ahead, known.ahead_at = known.ahead + size_bytes, self._clock()

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
        async with asyncio.TaskGroup() as group:
            group.create_task(self._for_ever(self._tick, "activity and disks are not told of"))
            group.create_task(self._for_ever(self._hurry, "bursts are told of late"))

    async def _for_ever(self, part: Callable[[], Awaitable[None]], outcome: str) -> None:
        while True:
            try:
                await part()
            except Exception:
                log.exception("a fault of the agent: %s for a while", outcome)
                await asyncio.sleep(FAULT_REST_S)

    async def _hurry(self) -> None:
        """One report that does not wait for the next second, once there is something to hurry for."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._wake = partial(_call_soon, loop, woken.set)
        while (left := self.due_s() - self._clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if isinf(left) else left):
                    await woken.wait()
            woken.clear()  # before the next look, which so sees all that was noted until now
        if self._connected():
            report = self.report(hurried=True)
            if report is not None:
                self._post(report)
        else:
            await asyncio.sleep(EVERY_S)

    def due_s(self) -> float:
        """When a hurried report is due; infinity while there is nothing to hurry for."""
        with self._lock:
            return self._told_s + self._pressing if isfinite(self._pressing) else inf

    async def _tick(self) -> None:
        began = self._clock()
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
        await asyncio.sleep(max(ANSWER_S, EVERY_S - (self._clock() - began)))

    def anew(self) -> None:
        """A session begins: its coordinator has been told nothing yet."""
        self._told = None

    def report(self, hurried: bool = False) -> wire.Activity | None:
        """What there is to tell now; None while nothing is new. What it returns counts as told.

        A hurried one is without disks, and there is none before all disks were told.
        """
        now, told = self._clock(), self._told
        disks = told.disks if hurried and told is not None else self.disks.states()
        with self._lock:
            self._pressing = inf
            volumes = self._active(now)
            fresh = (self._moved, self._fresh_files, self._fresh_bytes)
            if hurried and (told is None or not (volumes and any(fresh))):
                return None
            if not hurried and not self._hurried and not self._is_news(now, volumes, disks, fresh):
                return None
            self._hurried = hurried
            since, self._fresh_since_s = self._fresh_since_s, None
            self._moved = False
            self._fresh_files = self._fresh_bytes = 0
            for volume in self._volumes.values():
                volume.fresh_files = volume.fresh_bytes = 0
            self._told_s = now
        window_s = min(WINDOW_S, max(STEP_S, 0.0 if since is None else now - since))
        report = wire.Activity(int(window_s * 1000), volumes, disks, self._all.drain(HANDS_TOLD))
        self._told = report
        return msgspec.structs.replace(report, disks=()) if hurried else report

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


def _pressing_s(files: int, size: int) -> float:
    """How long after the report before so much may be told; infinity: with the next second's."""
    if size >= STEP_BYTES:
        return STEP_S
    return BURST_S if files >= BURST_FILES or size >= BURST_BYTES else inf


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(function)


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
