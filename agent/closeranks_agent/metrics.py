"""What Prometheus scrapes from an agent. Labels are volumes and peers, never paths."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from .disk.records import ScanReport
    from .runtime import Agent

SCAN_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
FORECAST_SAMPLES = 60
FORECAST_EVERY_S = 1.0


class Forecast:
    """When a disk is full if it goes on filling as in the last minute of samples."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=FORECAST_SAMPLES)

    def add(self, mono: float, free_bytes: int) -> None:
        if not self._samples or mono - self._samples[-1][0] >= FORECAST_EVERY_S:
            self._samples.append((mono, free_bytes))

    def full_in_s(self) -> float:
        """Seconds until nothing is free; infinity while it does not fill."""
        if len(self._samples) < 2:
            return float("inf")
        (start, before), (end, now) = self._samples[0], self._samples[-1]
        rate_bytes_s = (before - now) / (end - start)
        return now / rate_bytes_s if rate_bytes_s > 0 else float("inf")


class AgentMetrics(Collector):
    """One registry for each agent, so that several can live in one process."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.registry = CollectorRegistry()
        self._forecasts: dict[str, Forecast] = {}
        self.hashed = Counter(
            "closeranks_agent_hashed_bytes", "File bytes read and hashed.", ["volume"], registry=self.registry
        )
        self.served = Counter(
            "closeranks_agent_served_bytes", "Chunk bytes sent to peers.", ["peer"], registry=self.registry
        )
        self.scan_time = Histogram(
            "closeranks_agent_scan_seconds",
            "How long a complete scan took.",
            ["volume"],
            buckets=SCAN_BUCKETS,
            registry=self.registry,
        )
        self.dropped = Counter(
            "closeranks_agent_watch_events_dropped",
            "File events lost before they were read. This version scans and does not watch: it loses none.",
            registry=self.registry,
        )
        self.registry.register(self)

    def scanned(self, volume: str, report: ScanReport) -> None:
        self.hashed.labels(volume).inc(report.hashed_bytes)
        self.scan_time.labels(volume).observe(report.duration_s)
        disk = self._agent.disk(volume)
        if disk is not None:
            self._forecasts.setdefault(volume, Forecast()).add(time.monotonic(), disk[1])

    def collect(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "closeranks_agent_scan_age_seconds",
            "Age of the start of the last complete scan.",
            labels=["volume"],
        )
        free = GaugeMetricFamily(
            "closeranks_agent_disk_free_bytes", "Free bytes where the volume lies.", labels=["volume"]
        )
        full = GaugeMetricFamily(
            "closeranks_agent_disk_full_in_seconds",
            "Forecast: seconds until that disk is full at its present rate.",
            labels=["volume"],
        )
        files = GaugeMetricFamily("closeranks_agent_files", "Files in the volume.", labels=["volume"])
        unreadable = GaugeMetricFamily(
            "closeranks_agent_unreadable_paths", "Paths that the last scan left out.", labels=["volume"]
        )
        unacknowledged = GaugeMetricFamily(
            "closeranks_agent_unacknowledged_commits",
            "Commits that the coordinator has not confirmed.",
            labels=["volume"],
        )
        now = time.monotonic()
        for name, volume in sorted(self._agent.volumes.items()):
            started = volume.last_scan_started()
            if started is not None:
                age.add_metric([name], now - started)
            disk = self._agent.disk(name)
            if disk is not None:
                free.add_metric([name], disk[1])
                full.add_metric([name], self._forecasts.setdefault(name, Forecast()).full_in_s())
            if volume.summary is not None:
                files.add_metric([name], volume.summary.files)
            unreadable.add_metric([name], volume.unreadable_count)
            unacknowledged.add_metric([name], volume.last_seq - volume.first_seq + 1)
        fenced = GaugeMetricFamily("closeranks_agent_fenced", "1 while this node is quarantined.")
        fenced.add_metric([], 1.0 if self._agent.state.fence is not None else 0.0)
        connected = GaugeMetricFamily(
            "closeranks_agent_connected", "1 while the session with the coordinator stands."
        )
        connected.add_metric([], 1.0 if self._agent.link.connected else 0.0)
        yield from (age, free, full, files, unreadable, unacknowledged, fenced, connected)


def disk_of(path: bytes) -> tuple[int, int] | None:
    """(total, free) bytes of the filesystem at `path`; None where it can not be asked."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
