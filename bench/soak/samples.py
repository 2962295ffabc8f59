"""What is sampled of each daemon, from outside: /proc and the metrics that it serves."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleet import Api, Daemon, Fleet

MIB: Final = 1024 * 1024
FULL: Final = 0.98  # of the cache's bound: what does not fit any more pushes out more than itself
COORDINATOR: Final = ("event_loop_lag_seconds", "store_queued_bytes", "event_streams", "sessions")
AGENT: Final = (
    "agent_loop_lag_seconds", "agent_unacknowledged_commits", "agent_watch_pending_paths", "agent_paused_processes",
)  # fmt: skip
# How much a series may rise between its first and its last third and still not count as growing.
ALLOWED: Final = {
    "memory_bytes": 8.0
    * MIB,  # allocators keep arenas; a leak of one small object a write passes this in minutes
    "descriptors": 8.0,
    "threads": 4.0,
    "event_loop_lag_seconds": 0.25,
    "agent_loop_lag_seconds": 0.25,
    "store_queued_bytes": 1.0 * MIB,
    "event_streams": 1.0,
    "sessions": 1.0,
    "agent_unacknowledged_commits": 16.0,
    "agent_watch_pending_paths": 256.0,
    "agent_paused_processes": 1.0,
}


@dataclass(slots=True)
class Series:
    """One figure of one daemon: (seconds since the start, value)."""

    daemon: str
    name: str
    points: list[tuple[float, float]] = field(default_factory=list)


class Sampler:
    """Samples the daemons that are never restarted; those that are would hide what grows."""

    def __init__(self, fleet: Fleet, steady: Iterable[str]) -> None:
        self._fleet, self._steady = fleet, tuple(steady)
        self._started = 0.0
        self.series: dict[tuple[str, str], Series] = {}

    def begin(self) -> None:
        """From now on seconds count."""
        self._started = time.monotonic()

    def sample(self) -> None:
        at = time.monotonic() - self._started
        self._one(at, "coordinator", self._fleet.coordinator, self._fleet.api, COORDINATOR)
        for name in self._steady:
            node = self._fleet.nodes[name]
            self._one(at, name, node.daemon, node.api, AGENT)

    def _one(self, at: float, who: str, daemon: Daemon, api: Api, metrics: tuple[str, ...]) -> None:
        self._note(at, who, "memory_bytes", daemon.resident_bytes())
        pids = daemon.family()
        self._note(at, who, "descriptors", sum(_count(pid, "fd") for pid in pids))
        self._note(at, who, "threads", sum(_count(pid, "task") for pid in pids))
        text = api.text("/metrics")
        for metric in metrics:
            found = re.findall(rf"^closeranks_{metric}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
            if found:
                self._note(at, who, metric, max(map(float, found)))

    def _note(self, at: float, who: str, name: str, value: float) -> None:
        self.series.setdefault((who, name), Series(who, name)).points.append((at, value))


def is_full(metrics: str) -> bool:
    """Whether the coordinator's cache has reached its bound, by what its `/metrics` says."""
    kept, most = (
        sum(map(float, re.findall(rf"^closeranks_store_cache_{name} (\S+)$", metrics, re.MULTILINE)))
        for name in ("bytes", "max_bytes")
    )
    return kept >= FULL * most > 0


def _count(pid: int, what: str) -> int:
    """Entries of /proc/PID/fd or task; 0 where the process has just ended."""
    try:
        return len(os.listdir(Path("/proc") / str(pid) / what))
    except FileNotFoundError:
        return 0
