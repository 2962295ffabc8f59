"""Who wrote most lately: a bounded account of hands, in buckets of time.

Processes of one program under one user in one service are one writer: a script that starts `cp` ten thousand
times is told as one line, with the latest of its processes. An interpreter's program is its script. The account
is bounded in writers and in processes; what is displaced is the smallest, so a runaway can not hide behind many
small ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from closeranks_proto import programs
from closeranks_proto.limits import HANDS_MAX
from closeranks_proto.parts import OUTSIDE, Hand

WINDOW_S = 600.0
BUCKET_S = 10.0
WRITERS_MAX = 256
PROCESSES_MAX = 64  # of one writer: the latest
MOVED_MAX = 2**50  # what a Hand can carry

Key = tuple[str, int | None, str, str]


@dataclass(slots=True)
class _Writer:
    hand: Hand
    seen_s: float
    fresh_files: int = 0  # since `drain`
    fresh_bytes: int = 0
    buckets: dict[int, list[int]] = field(default_factory=dict)  # number of the bucket -> [files, bytes]
    processes: dict[int, tuple[Hand, float]] = field(default_factory=dict)  # oldest first

    def total(self, since: int) -> tuple[int, int]:
        """Files and bytes from that bucket on."""
        files = size = 0
        for number, bucket in self.buckets.items():
            if number >= since:
                files += bucket[0]
                size += bucket[1]
        return files, size

    def forget(self, before: int) -> None:
        for old in [one for one in self.buckets if one < before]:
            del self.buckets[old]


class Ledger:
    """Thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        window_s: float = WINDOW_S,
        writers_max: int = WRITERS_MAX,
    ) -> None:
        self._clock, self._window_s, self._writers_max = clock, window_s, writers_max
        self._lock = threading.Lock()
        self._writers: dict[Key, _Writer] = {}

    def note(self, hand: Hand, files: int, size_bytes: int) -> None:
        """This hand changed so many files and wrote so many bytes just now."""
        now, key = self._clock(), key_of(hand)
        with self._lock:
            writer = self._writers.get(key)
            if writer is None:
                if len(self._writers) >= self._writers_max:
                    self._displace(now)
                writer = self._writers[key] = _Writer(hand, now)
            writer.hand, writer.seen_s = hand, now
            bucket = writer.buckets.setdefault(int(now // BUCKET_S), [0, 0])
            bucket[0] += max(0, files)
            bucket[1] += max(0, size_bytes)
            writer.fresh_files += max(0, files)
            writer.fresh_bytes += max(0, size_bytes)
            if len(writer.buckets) > self._window_s / BUCKET_S + 1:
                writer.forget(self._since(now, self._window_s))
            if hand.pid:
                writer.processes.pop(hand.pid, None)
                writer.processes[hand.pid] = (hand, now)
                while len(writer.processes) > PROCESSES_MAX:
                    del writer.processes[next(iter(writer.processes))]

    def top(self, count: int = HANDS_MAX, within_s: float | None = None) -> tuple[Hand, ...]:
        """The most active of the window, or of its last seconds, each with its files and bytes: by bytes.

        Who wrote most files has a place too, also where others wrote more bytes.
        """
        return _top(self._totals(self._window_s if within_s is None else within_s), count)

    def drain(self, count: int = HANDS_MAX) -> tuple[Hand, ...]:
        """The same, of what was noted since it was called last: who adds it up counts nothing twice."""
        with self._lock:
            found = [
                (one.hand, one.fresh_files, one.fresh_bytes)
                for one in self._writers.values()
                if one.fresh_files or one.fresh_bytes
            ]
            for writer in self._writers.values():
                writer.fresh_files = writer.fresh_bytes = 0
        return _top(found, count)

    def recent(self, within_s: float, share_min: float = 0.0) -> tuple[Hand, ...]:
        """Every process that wrote in the last `within_s` seconds, the most active program first.

        Without the programs that wrote less than `share_min` of the files and of the bytes.
        """
        now = self._clock()
        with self._lock:
            since = self._since(now, within_s)
            totals = [(*one.total(since), one) for one in self._writers.values()]
            files, size = sum(one[0] for one in totals), sum(one[1] for one in totals)
            totals.sort(key=lambda one: (one[1], one[0]), reverse=True)
            return tuple(
                hand
                for wrote, wrote_bytes, writer in totals
                if wrote >= files * share_min or wrote_bytes >= size * share_min
                for hand, seen_s in writer.processes.values()
                if now - seen_s <= within_s
            )

    def _totals(self, within_s: float) -> list[tuple[Hand, int, int]]:
        now = self._clock()
        with self._lock:
            self._forget(now)
            since = self._since(now, within_s)
            found = [(one.hand, *one.total(since)) for one in self._writers.values()]
        return [one for one in found if one[1] or one[2]]

    @staticmethod
    def _since(now: float, within_s: float) -> int:
        """The first bucket that lies, at least in part, within."""
        return int((now - within_s) // BUCKET_S)

    def _forget(self, now: float) -> None:
        for key in [key for key, one in self._writers.items() if now - one.seen_s > self._window_s]:
            del self._writers[key]

    def _displace(self, now: float) -> None:
        """Make room for one more."""
        self._forget(now)
        if len(self._writers) >= self._writers_max:
            since = self._since(now, self._window_s)
            least = min(
                self._writers,
                key=lambda key: (self._writers[key].total(since)[::-1], self._writers[key].seen_s),
            )
            del self._writers[least]


def _top(totals: list[tuple[Hand, int, int]], count: int) -> tuple[Hand, ...]:
    by_bytes = sorted(totals, key=lambda one: (-one[2], -one[1], one[0].exe, one[0].pid))
    chosen = by_bytes[:count]
    busiest = max(by_bytes, key=lambda one: one[1], default=None)
    if busiest is not None and busiest not in chosen:
        chosen[-1:] = [busiest]
    return tuple(
        msgspec.structs.replace(hand, files=min(files, MOVED_MAX), bytes=min(size, MOVED_MAX))
        for hand, files, size in chosen
    )


def key_of(hand: Hand) -> Key:
    """What makes two hands one writer."""
    if not hand.pid:
        return ("", None, hand.exe, hand.detail)
    runs = programs.key_of(hand.exe, hand.command)
    program = hand.exe if runs is None else f"{hand.exe} {runs}"
    return (program, hand.uid, hand.unit, OUTSIDE if hand.outside else "")
