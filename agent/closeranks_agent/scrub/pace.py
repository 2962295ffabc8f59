"""How fast a scrub may go: bytes and files per second, and less while the machine has other work.

`Pace` is a debt: what was read is owed, and worked off at the rates in force at each moment, so that a new rate
counts at once. `Backoff` halves the rates while others wait for the disk or the processor, as the kernel's pressure
figures tell (or, where it has none, while reads take several times what they took at best), and lets
them grow again when that is over. Both are pure but for the clock they are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SCALE_MIN: Final = 1 / 16
GROWTH: Final = 1.25
IO_PRESSURE: Final = 0.15  # share of the time in which somebody else waited for a disk
CPU_PRESSURE: Final = 0.5
LATENCY_FACTOR: Final = 4.0
LATENCY_FORGET: Final = 1.01  # by which the best is forgotten with each look: disks and loads change
# What no limit counts as while others wait: about what one reader gets.
NOMINAL_BYTES_S: Final = 1e9
NOMINAL_FILES_S: Final = 20_000.0


@dataclass(slots=True)
class Pace:
    """Rates of None have no limit. `scale` is what a backoff leaves of them."""

    bytes_s: float | None = None
    files_s: float | None = None
    scale: float = 1.0
    _owed_bytes: float = 0.0
    _owed_files: float = 0.0
    _at: float = 0.0

    def spend(self, now: float, size_bytes: int, files: int) -> None:
        self._work_off(now)
        self._owed_bytes += size_bytes
        self._owed_files += files

    def due_s(self, now: float) -> float:
        """How long to wait before the next."""
        self._work_off(now)
        return max(
            self._owed_bytes / self._rate(self.bytes_s, NOMINAL_BYTES_S),
            self._owed_files / self._rate(self.files_s, NOMINAL_FILES_S),
        )

    def _work_off(self, now: float) -> None:
        passed, self._at = max(0.0, now - self._at), now
        if passed:
            self._owed_bytes = max(0.0, self._owed_bytes - passed * self._rate(self.bytes_s, NOMINAL_BYTES_S))
            self._owed_files = max(0.0, self._owed_files - passed * self._rate(self.files_s, NOMINAL_FILES_S))

    def _rate(self, limit: float | None, nominal: float) -> float:
        if limit is not None:
            return limit * self.scale
        return nominal * self.scale if self.scale < 1 else float("inf")


@dataclass(slots=True)
class Backoff:
    """The scale of a pace, brought up to date about once a second."""

    scale: float = 1.0
    _best_s: float | None = field(default=None)  # for a MiB that was not in memory

    def look(self, io: float | None, cpu: float | None, latency_s: float | None) -> float:
        """`io`, `cpu`: shares of the time in which others waited, None where the kernel does not tell;
        `latency_s`: what a MiB took lately, None where none was read from disk. The new scale."""
        slow = False
        if latency_s is not None:
            best = latency_s if self._best_s is None else min(self._best_s * LATENCY_FORGET, latency_s)
            slow, self._best_s = latency_s > best * LATENCY_FACTOR, best
        pressed = (io is not None and io > IO_PRESSURE) or (cpu is not None and cpu > CPU_PRESSURE)
        if pressed or (io is None and slow):
            self.scale = max(SCALE_MIN, self.scale / 2)
        else:
            self.scale = min(1.0, self.scale * GROWTH)
        return self.scale
