"""What Prometheus scrapes from an agent. Labels are volumes and peers, never paths."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .watching import KINDS

if TYPE_CHECKING:
    from .disk.records import ScanReport
    from .runtime import Agent

SCAN_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)


class AgentMetrics(Collector):
    """One registry for each agent, so that several can live in one process."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.registry = CollectorRegistry()
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
        self._peers: set[str] = set()  # of whom something was counted
        self._volumes: set[str] = set()  # likewise
        self.registry.register(self)

    def sent(self, peer: str, payload: int) -> None:
        self._peers.add(peer)
        self.served.labels(peer).inc(payload)

    def keep_peers(self, members: Container[str]) -> None:
        """Who is no node of the fleet any more is not shown for ever."""
        for peer in [one for one in self._peers if one not in members]:
            self._peers.discard(peer)
            self.served.remove(peer)

    def keep_volumes(self, names: Container[str]) -> None:
        """What was counted of a volume that this node does not have any more is not shown for ever."""
        for name in [one for one in self._volumes if one not in names]:
            self._volumes.discard(name)
            self.hashed.remove(name)
            self.scan_time.remove(name)

    def scanned(self, volume: str, report: ScanReport) -> None:
        if all(one.name != volume for one in self._agent.config.volumes):
            return  # it was taken out while it was scanned
        self._volumes.add(volume)
        self.hashed.labels(volume).inc(report.hashed_bytes)
        self.scan_time.labels(volume).observe(report.duration_s)

    def collect(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "closeranks_agent_scan_age_seconds",
            "Age of the start of the last complete scan.",
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
            started = volume.condition.last_scan_started
            if started is not None:
                age.add_metric([name], now - started)
            if volume.summary is not None:
                files.add_metric([name], volume.summary.files)
            unreadable.add_metric([name], volume.condition.unreadable_count)
            unacknowledged.add_metric([name], volume.last_seq - volume.first_seq + 1)
        fenced = GaugeMetricFamily("closeranks_agent_fenced", "1 while this node is quarantined.")
        fenced.add_metric([], 1.0 if self._agent.state.fence is not None else 0.0)
        connected = GaugeMetricFamily(
            "closeranks_agent_connected", "1 while the session with the coordinator stands."
        )
        connected.add_metric([], 1.0 if self._agent.link.connected else 0.0)
        yield from (age, files, unreadable, unacknowledged, fenced, connected)
        yield from self._disks()
        yield from self._hands()
        yield from self._watching()
        yield from self._scrubs()

    def _scrubs(self) -> Iterator[Metric]:
        """The re-reading of contents: how far, how late, what it found."""
        counted = [
            CounterMetricFamily(f"closeranks_agent_scrub_{name}", text, labels=["volume"])
            for name, text in (
                ("bytes", "Bytes read again."),
                ("files", "Files read again."),
                ("decayed_files", "Files found with other bytes under an unchanged stat."),
                ("unreadable_files", "Files that could not be read again."),
            )
        ]
        age, debt, left, running, rate = gauges = [
            GaugeMetricFamily(f"closeranks_agent_scrub_{name}", text, labels=["volume"])
            for name, text in (
                ("age_seconds", "No content was last verified longer ago than this."),
                ("debt_bytes", "Bytes that should have been read again by now, and were not."),
                ("remaining_bytes", "Bytes that are left of the tour under way."),
                ("running", "1 while a tour is under way."),
                ("slowdown_ratio", "What is left of the limits while the machine is busy: 1 is all."),
            )
        ]
        for name, scrubber in sorted(self._agent.scrubbers().items()):
            totals = scrubber.totals
            for family, value in zip(
                counted, (totals.bytes, totals.files, totals.found, totals.unreadable), strict=True
            ):
                family.add_metric([name], value)
            rate.add_metric([name], scrubber.scale)
            state = scrubber.state()
            if state is None:
                continue
            if state.oldest_age_ms is not None:
                age.add_metric([name], state.oldest_age_ms / 1000)
            debt.add_metric([name], state.debt_bytes)
            under_way = state.started_age_ms is not None
            left.add_metric([name], max(0, state.bytes_total - state.bytes) if under_way else 0)
            running.add_metric([name], 1.0 if state.state == "running" else 0.0)
        yield from (*counted, *gauges)

    def _disks(self) -> Iterator[Metric]:
        """As sampled lately; a filesystem that does not answer has no figures."""
        free = GaugeMetricFamily(
            "closeranks_agent_disk_free_bytes",
            "Free bytes where the volume (kind volume) or the agent's state (kind state) lies.",
            labels=["volume", "kind"],
        )
        full = GaugeMetricFamily(
            "closeranks_agent_disk_full_in_seconds",
            "Forecast: seconds until that disk is full at its present rate; infinite while it does not fill.",
            labels=["volume", "kind"],
        )
        disks = self._agent.activity.disks
        for name in ("", *(volume.name for volume in self._agent.config.volumes)):
            disk, kind = disks.of(name), "volume" if name else "state"
            if disk is not None:
                forecast = disks.full_in_s(name)
                free.add_metric([name, kind], disk[1])
                full.add_metric([name, kind], float("inf") if forecast is None else forecast)
        silent = GaugeMetricFamily(
            "closeranks_agent_disks_silent", "Places whose filesystem was asked and does not answer."
        )
        silent.add_metric([], len(disks.silent()))
        yield from (free, full, silent)

    def _hands(self) -> Iterator[Metric]:
        looked = CounterMetricFamily(
            "closeranks_agent_writers_looked_up",
            "Writing processes that were looked up in /proc, by what came of it.",
            labels=["kind"],
        )
        looked.add_metric(["named"], self._agent.attribution.named)
        looked.add_metric(["unknown"], self._agent.attribution.unnamed)
        paused = GaugeMetricFamily("closeranks_agent_paused_processes", "Processes stopped for a hold.")
        frozen = GaugeMetricFamily("closeranks_agent_frozen_volumes", "Volumes made read-only for a hold.")
        holds = self._agent.state.holds
        paused.add_metric([], len({(one.pid, one.started) for hold in holds for one in hold.paused}))
        frozen.add_metric([], len({hold.frozen for hold in holds if hold.frozen}))
        yield from (looked, paused, frozen)

    def _watching(self) -> Iterator[Metric]:
        """How volumes are watched, and what came of it since the agent started."""
        kinds = GaugeMetricFamily(
            "closeranks_agent_watch", "1 for what tells of the volume's changes.", labels=["volume", "kind"]
        )
        events, looks, dropped, missed, storms, hushes = (
            CounterMetricFamily(f"closeranks_agent_{name}", text, labels=["volume"])
            for name, text in (
                ("watch_events", "File events read."),
                ("looks", "Looks at changed paths."),
                ("watch_events_dropped", "Times that file events were lost; each was answered by a scan."),
                ("watch_canary_misses", "Times that the canary file's event did not arrive."),
                ("watch_storms", "Times that so much was written that the agent only listened in samples."),
                ("watch_hushes", "Times that so much was written into open files that no write was told."),
            )
        )
        pending = GaugeMetricFamily(
            "closeranks_agent_watch_pending_paths",
            "Changed paths that are not committed yet.",
            labels=["volume"],
        )
        proven = GaugeMetricFamily(
            "closeranks_agent_watch_proven_age_seconds",
            "Age of the moment up to which everything is seen and committed.",
            labels=["volume"],
        )
        stormy = GaugeMetricFamily(
            "closeranks_agent_watch_storm",
            "1 while so much is written, or was a moment ago, that scans find most of it.",
            labels=["volume"],
        )
        now = time.monotonic()
        for name, watching in sorted(self._agent.watching().items()):
            for kind in KINDS:
                kinds.add_metric([name, kind], 1.0 if watching.kind == kind else 0.0)
            tally = watching.tally
            events.add_metric([name], tally.events)
            looks.add_metric([name], tally.looks)
            dropped.add_metric([name], tally.dropped)
            missed.add_metric([name], tally.canary_misses)
            storms.add_metric([name], tally.storms)
            hushes.add_metric([name], tally.hushes)
            stormy.add_metric([name], float(watching.stormy))
            pending.add_metric([name], watching.pending)
            if watching.proven is not None:
                proven.add_metric([name], now - watching.proven)
        lag = GaugeMetricFamily(
            "closeranks_agent_loop_lag_seconds",
            "The longest that the event loop was late in the last minute.",
        )
        lag.add_metric([], self._agent.lag.worst_s())
        yield from (kinds, events, looks, dropped, missed, storms, hushes, stormy, pending, proven, lag)
