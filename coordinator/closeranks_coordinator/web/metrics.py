"""What Prometheus reads. Counters and histograms are fed by the core's `Observe` effects; everything else is
read from the fleet's views, the store and the event log at the moment of the scrape. A step that goes on for seconds
(200,000 changes are merged) has no such moment: then the last scrape's is shown, and `state_age_seconds` says how old
that is. It is written down on a thread: the event loop goes on.

Labels are nodes, volumes, states, kinds: never a path, never a process. The registry is our own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from ..core.model import Observe
from ..core.shapes import FleetView, NodeView
from ..core.states import State
from ..core.tripping import GUARDS as TRIPPING
from ..storage.store import StoreCounts

if TYPE_CHECKING:
    from .call import Core

log = logging.getLogger("closeranks.metrics")

PREFIX = "closeranks_"
VERSION = version("closeranks")  # read once: each look at it reads files and leaves dead cycles behind
DETECTED_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
ANSWER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
STEP_MAX_S = 0.25  # a scrape waits so long for a step's end, besides what everybody waits for the disk
SHOWN_MAX_S = 60.0  # an older moment is not shown: a first scrape in an hour waits for a new one
INCIDENT_KINDS = (
    "divergence", "regression", "outage", "undetermined", "many_suspects", "runaway", "recurrence",
    "conflict", "duplicate_node", "audit", "put_back",
)  # fmt: skip


GUARDS = ("max_quarantined", "many_suspects", "quorum_would_be_lost", *TRIPPING)


class Metrics:
    """The registry. Call `attach` once the coordinator stands; until then only what was observed shows."""

    def __init__(self) -> None:
        # Else every counter has a gauge beside it that says when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._core: Core | None = None
        self._last: _Moment | None = None  # that was shown
        self.registry = CollectorRegistry()
        detected = Histogram(
            PREFIX + "divergence_detected_seconds",
            "From the moment a write was seen on a node to the moment the node was named.",
            buckets=DETECTED_BUCKETS,
            registry=self.registry,
        )
        incidents = Counter(
            PREFIX + "incidents_total", "Incidents that were opened.", ["kind"], registry=self.registry
        )
        for kind in INCIDENT_KINDS:
            incidents.labels(kind=kind)
        holds = Counter(
            PREFIX + "guard_holds_total",
            "Times that a guard held a node's changes, or a bound kept a suspect from being fenced.",
            ["guard"],
            registry=self.registry,
        )
        for guard in GUARDS:
            holds.labels(guard=guard)
        self._observed: dict[str, Histogram | Counter] = {
            "divergence_detected_seconds": detected,
            "incidents_total": incidents,
            "resync_bytes_total": Counter(
                PREFIX + "resync_bytes_total",
                "Chunk payload that nodes received from peers to come back in rank, retries included.",
                ["node", "volume"],
                registry=self.registry,
            ),
            "pushes_total": Counter(
                PREFIX + "pushes_total",
                "Pushes of the truth's newest steps that were sent to nodes of replicated volumes.",
                ["node", "volume"],
                registry=self.registry,
            ),
            "push_bytes_total": Counter(
                PREFIX + "push_bytes_total",
                "Chunk payload that nodes received from peers for pushes, retries included.",
                ["node", "volume"],
                registry=self.registry,
            ),
            "guard_holds_total": holds,
            "audits_total": Counter(
                PREFIX + "audits_total",
                "Answers to audits by what they proved; an audit without a majority counts once as undetermined.",
                ["volume", "result"],
                registry=self.registry,
            ),
            "commits_total": Counter(
                PREFIX + "commits_total",
                "Commits and announcements of nodes that were accepted.",
                ["node", "volume"],
                registry=self.registry,
            ),
        }
        self._unknown: set[str] = set()
        self._answers = Histogram(
            PREFIX + "api_request_seconds",
            "Time that answers of the HTTP API took.",
            ["route"],
            buckets=ANSWER_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            PREFIX + "api_requests_total",
            "Requests to the HTTP API.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._loop_lag = Gauge(
            PREFIX + "event_loop_lag_seconds",
            "How late the event loop was when it last woke by itself.",
            registry=self.registry,
        )
        self._loop_lags = Histogram(
            PREFIX + "event_loop_wake_delay_seconds",
            "How late the event loop was each time it woke by itself.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )

    def attach(self, core: Core) -> None:
        """Show the coordinator's present state at every scrape from now on."""
        self._core = core

    def observe(self, effect: Observe) -> None:
        """One observation of the core. A name that is not known is logged once and dropped."""
        name = effect.metric.removeprefix(PREFIX)
        metric = self._observed.get(name) or self._observed.get(name + "_total")
        labels = dict(effect.labels)
        if metric is None or set(labels) != set(metric._labelnames):
            if name not in self._unknown:
                self._unknown.add(name)
                log.error(
                    "the core observes %s with labels %s, which is no metric", effect.metric, sorted(labels)
                )
            return
        bound = metric.labels(**labels) if labels else metric
        if isinstance(bound, Histogram):
            bound.observe(max(0.0, effect.value))
        else:
            bound.inc(max(0.0, effect.value))

    def forget(self, **labels: str) -> None:
        """Drop what was counted of something that the configuration no longer has."""
        for metric in self._observed.values():
            if set(labels) <= set(metric._labelnames):
                metric.remove_by_labels(labels)

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.set(max(0.0, seconds))
        self._loop_lags.observe(max(0.0, seconds))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answer of the API. Streams count when they end, and not in the time."""
        shown = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH") else "other"
        self._requests.labels(route=route, method=shown, code=str(status)).inc()
        if route != "/api/v1/events":
            self._answers.labels(route=route).observe(seconds)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the scraper asks for.

        The moment is taken here; a thread writes it down, which is most of a second for a thousand nodes.
        """
        encode, content_type = choose_encoder(accept)
        core, moment, age_s = self._core, None, 0.0
        if core is not None:
            moment, age_s = await self._shown(core)
        return await asyncio.to_thread(encode, _Scrape(self.registry, moment, age_s)), content_type

    async def _shown(self, core: Core) -> tuple[_Moment, float]:
        """(this moment, or the last one that was shown while a step goes on for long; its age)."""
        if not await core.settled(STEP_MAX_S):
            last = self._last
            if last is not None and (age_s := core.now().mono - last.mono) <= SHOWN_MAX_S:
                return last, age_s
            await core.settled()
        now = core.now()
        self._last = _Moment(
            now.mono, now.wall_ms, core.fleet.fleet_view(now), core.config.fleet.digest, core.store.counts(),
            core.problem is not None, core.events.listeners,
        )  # fmt: skip
        return self._last, 0.0


class _Scrape(CollectorRegistry):
    """What was observed so far, and one moment beside it."""

    def __init__(self, observed: CollectorRegistry, moment: _Moment | None, age_s: float) -> None:
        super().__init__()
        self._observed = observed
        self._moment = moment
        self._age_s = age_s

    def collect(self) -> Iterator[Metric]:
        yield from self._observed.collect()
        if self._moment is not None:
            yield from self._moment.collect()
            yield _gauge("state_age_seconds", "How old the fleet's state in this answer is.", self._age_s)


@dataclass(frozen=True, slots=True)
class _Moment:
    """Gauges of one moment."""

    mono: float
    wall_ms: int
    fleet: FleetView
    digest: str
    counts: StoreCounts
    full: bool
    listeners: int

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily(PREFIX + "build", "What this coordinator is.")
        build.add_metric([], {"version": VERSION, "digest": self.digest})
        yield build
        yield from _fleet(self.fleet)
        yield from _node_states(self.fleet.nodes)
        yield from _node_volumes(self.fleet.nodes, self.wall_ms)
        yield from _disks(self.fleet.nodes)
        yield from self._store()
        yield _gauge("event_streams", "Clients that follow the event stream.", self.listeners)

    def _store(self) -> Iterator[Metric]:
        counts = self.counts
        yield _gauge(
            "store_objects", "Tree pages and chunk lists that are stored, each once.", counts.objects
        )
        yield _gauge("store_object_bytes", "Bytes of the stored objects.", counts.object_bytes)
        yield _gauge("store_database_bytes", "Size of the database files.", counts.database_bytes)
        yield _gauge("store_history_roots", "Earlier roots of nodes that are kept.", counts.history)
        yield _gauge("store_queued_bytes", "What waits to be written.", counts.queued_bytes)
        yield _gauge(
            "store_cache_bytes", "Memory that stored objects take in the cache.", counts.cached_bytes
        )
        yield _gauge("store_cache_max_bytes", "The most that the cache may take.", counts.cache_max_bytes)
        yield _counter("store_transactions_total", "Transactions of the store.", counts.commits)
        yield _counter("store_batches_total", "Writes that these transactions carried.", counts.batches)
        yield _gauge("store_blocked", "1 while nothing can be made durable.", int(self.full))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _family(
    name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float | None]]
) -> GaugeMetricFamily:
    """A gauge with labels; what is not known has no sample: an unknown is not a zero."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, found in rows:
        if found is not None:
            family.add_metric(values, found)
    return family


def _fleet(fleet: FleetView) -> Iterator[Metric]:
    yield _gauge(
        "fleet_in_rank", "1 when every node is in rank and everything was compared.", int(fleet.in_rank)
    )
    yield _gauge("fleet_compared_nodes", "Nodes whose trees could be compared.", fleet.coverage.compared)
    yield _gauge("fleet_expected_nodes", "Nodes that should be compared.", fleet.coverage.expected)
    volumes = fleet.volumes
    wanted: list[tuple[str, str, Callable[..., float | None]]] = [
        ("volume_in_rank_nodes", "Nodes of the volume that are in rank.", lambda v: v.in_rank_nodes),
        ("volume_nodes", "Nodes that the volume is assigned to.", lambda v: len(v.nodes)),
        ("volume_voters", "Nodes that have a vote.", lambda v: v.voters),
        ("volume_quorum_nodes", "Equal votes that make a truth.", lambda v: v.quorum),
        ("volume_undetermined_paths", "Paths of which no quorum holds one entry.", lambda v: v.undetermined),
        ("volume_truth_files", "Files of the truth.", lambda v: v.files),
        ("volume_truth_bytes", "Bytes of the truth's files.", lambda v: v.bytes),
    ]
    yield _family(
        "conflicts_open", "Paths that two writers changed and nobody has decided yet.", ["volume"],
        (([volume.name], volume.conflicts) for volume in volumes),
    )  # fmt: skip
    for name, text, read in wanted:
        rows = (([volume.name, volume.policy], read(volume)) for volume in volumes)
        yield _family(name, text, ["volume", "policy"], rows)


def _node_states(nodes: Iterable[NodeView]) -> Iterator[Metric]:
    listed = list(nodes)
    yield _family(
        "node_state",
        "1 for the state that the node is in, 0 for every other.",
        ["node", "state"],
        (([node.node, state], int(node.state == state)) for node in listed for state in get_args(State)),
    )
    yield _family(
        "node_connected", "1 while the node's agent has a session.", ["node"],
        (([node.node], int(node.connected)) for node in listed),
    )  # fmt: skip
    yield _family(
        "node_fenced", "1 while the node is fenced.", ["node"],
        (([node.node], int(node.quarantine is not None)) for node in listed),
    )  # fmt: skip
    sessions = sum(node.connected for node in listed)
    yield _gauge("sessions", "Agents that have a session.", sessions)


def _node_volumes(nodes: Iterable[NodeView], wall_ms: int) -> Iterator[Metric]:
    pairs = [(node.node, volume) for node in nodes for volume in node.volumes]
    wanted: list[tuple[str, str, Callable[..., float | None]]] = [
        (
            "node_differing_paths",
            "Paths in which the node differs from the truth.",
            lambda v: v.differing_paths,
        ),
        (
            "node_unconfirmed_paths",
            "Differing paths that have not lasted long enough to be judged.",
            lambda v: v.unconfirmed_paths,
        ),
        ("node_differing_bytes", "Bytes of the chunks that differ.", lambda v: v.differing_bytes),
        ("node_lagging_paths", "Paths in which the node is only behind.", lambda v: v.lagging_paths),
        ("node_lag_seconds", "For how long the node has been behind the truth.", lambda v: v.lag_s),
        ("node_files", "Files of the node's tree.", lambda v: v.files),
        ("node_bytes", "Bytes of the node's files.", lambda v: v.bytes),
        (
            "node_watch_losses",
            "Times that the node's watcher lost events, each answered by a scan.",
            lambda v: v.watch_dropped,
        ),
        ("node_unreadable_paths", "Paths that the node could not read or compare.", lambda v: v.unreadable),
        (
            "node_problem",
            "1 while something keeps the volume from working.",
            lambda v: int(v.problem is not None),
        ),
        ("resync_remaining_bytes", "Chunk payload that a resync under way still has to fetch.", _remaining),
        (
            "node_scan_age_seconds",
            "Age of the last complete scan's start.",
            lambda v: _age(v.last_full_scan, wall_ms),
        ),
    ]
    for name, text, read in wanted:
        rows = (([node, volume.name], read(volume)) for node, volume in pairs)
        yield _family(name, text, ["node", "volume"], rows)


def _remaining(volume: object) -> float:
    progress = getattr(volume, "progress", None) or {}
    return float(progress.get("bytes_remaining", 0))


def _age(moment: str | None, wall_ms: int) -> float | None:
    if moment is None:
        return None
    return max(0.0, wall_ms / 1000 - datetime.fromisoformat(moment).timestamp())


def _disks(nodes: Iterable[NodeView]) -> Iterator[Metric]:
    disks = [(node.node, disk) for node in nodes for disk in node.disk]
    yield _family(
        "node_disk_free_bytes", "Free room of the volume's filesystem.", ["node", "volume"],
        (([node, disk.volume], disk.free_bytes) for node, disk in disks),
    )  # fmt: skip
    yield _family(
        "node_disk_size_bytes", "Size of the volume's filesystem.", ["node", "volume"],
        (([node, disk.volume], disk.total_bytes) for node, disk in disks),
    )  # fmt: skip
