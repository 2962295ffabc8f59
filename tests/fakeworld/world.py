"""Invented time, the coordinator's core, its durable dicts, and the wires to the fake agents."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import (
    Configured,
    Event,
    FleetConfig,
    Log,
    Now,
    Observe,
    Persist,
    Refusal,
    Send,
    Step,
    Tick,
    VolumeConfig,
    WakeAt,
)
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import MissingObject
from closeranks_proto.tree import Tree

from .agents import FakeAgent, Files

WALL_MS = 1_700_000_000_000
LATENCY_S = 0.01
STEPS_MAX = 200_000  # of one run: more is a loop


def key_of(path: str) -> bytes:
    return path.encode().replace(b"/", b"\0")


def file_of(content: str | int, size: int = 100, mode: int = 0o644) -> bytes:
    """The entry of a file; equal contents give equal entries."""
    return encode_entry(Entry(Kind.FILE, size, XXH3_128.of(f"{content}/{size}".encode()), mode))


def volume_config(name: str = "photos", nodes: Iterable[str] = (), **changes: object) -> VolumeConfig:
    base = VolumeConfig(
        name=name, policy="quorum", nodes=tuple(sorted(nodes)), on_divergence="resync", settle_s=2.0,
        settle_max_s=600.0, scan_interval_s=1.0, on_lag="resync", lag_grace_s=3.0, chunk_bytes=1 << 20, ignore=(),
        track=("mode",), special_bits=False, trash_max_bytes=None, trash_keep_s=86400.0,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


class FakeWorld:
    """A fleet of `names` with the given volumes. `log` is the story as it happened: see `tell`."""

    def __init__(
        self,
        names: Iterable[str],
        volumes: Iterable[VolumeConfig] | None = None,
        files: Mapping[str, Files] | None = None,
        **config: object,
    ) -> None:
        self.mono = 1000.0
        self.skew_ms = 0  # how far the coordinator's wall clock has been set ahead, or back
        self.tree = Tree(XXH3_128, self._object, cache_pages=64)
        self.objects: dict[bytes, bytes] = dict(self.tree.empty.pages)
        self.records: dict[tuple[str, str], bytes] = {}
        self.node_roots: dict[tuple[str, str], bytes] = {}
        self.told: list[str] = []
        self.logs: list[str] = []
        self.observed: list[Observe] = []
        self.steps: list[Step] = []
        self.keep_steps = False
        self.after_step: list[Callable[[Event, Step], None]] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._sessions = 0
        self._states: dict[str, str] = {}
        self._timelines: dict[str, int] = {}
        self._wake = 0.0
        names = tuple(sorted(names))
        placed = tuple(
            one if one.nodes else replace(one, nodes=names) for one in (volumes or (volume_config(),))
        )
        base = FleetConfig(
            digest="xxh3-128", nodes=names, max_quarantined=1, auto_release_max=3, auto_release_window_s=3600.0,
            lb_max_lag_s=300.0, lb_unreachable_grace_s=30.0, volumes=tuple(sorted(placed, key=lambda one: one.name)),
            history_keep_s=7 * 86400.0,
        )  # fmt: skip
        self.config = replace(base, **config)  # type: ignore[arg-type]
        self.agents: dict[str, FakeAgent] = {}
        for name in names:
            held = [volume for volume in self.config.volumes if name in volume.nodes]
            disk = {volume.name: dict((files or {}).get(volume.name, SOME_FILES)) for volume in held}
            self.agents[name] = FakeAgent(self, name, disk)
        self.fleet = self._new_fleet()
        self._tick()

    def __getitem__(self, name: str) -> FakeAgent:
        return self.agents[name]

    # --- the coordinator -----------------------------------------------------------------------

    def _new_fleet(self) -> Fleet:
        records = [(kind, key, blob) for (kind, key), blob in self.records.items()]
        return Fleet(self.config, XXH3_128, self._object, records, self.now(), random.Random(1))

    def restart(self, down_s: float = 1.0) -> None:
        """Kill the coordinator, start another from what was durable; the agents dial again."""
        connected = [agent for agent in self.agents.values() if agent.session is not None]
        for agent in connected:
            agent.session = None
        self.mono += down_s
        self.fleet = self._new_fleet()
        self.told.append("coordinator restarts")
        for agent in connected:
            agent.redial(0.1)

    def configure(self, config: FleetConfig) -> None:
        self.config = config
        self.event(Configured(config))

    def event(self, event: Event) -> Step:
        """One step of the core, and its effects."""
        step = self.fleet.step(self.now(), event)
        if self.keep_steps:
            self.steps.append(step)
        for position, effect in enumerate(step.effects):
            match effect:
                case Persist():
                    assert not position, "what must be durable stands in front of everything"
                    self.objects.update(effect.objects)
                    for kind, key, blob in effect.records:
                        if blob is None:
                            self.records.pop((kind, key), None)
                        else:
                            self.records[(kind, key)] = blob
                case Send():
                    self._deliver(effect)
                case WakeAt():
                    self._wake_at(effect.mono)
                case Log():
                    self.logs.append(f"{effect.level}: {effect.text}")
                case Observe():
                    self.observed.append(effect)
                case _:
                    pass
        self._watch()
        for check in self.after_step:
            check(event, step)
        return step

    def ask(self, event: Event) -> object:
        """An operator's request: the answer, as a word if it is refused."""
        answer = self.event(event).answer
        return f"{answer.status} {answer.code}" if isinstance(answer, Refusal) else answer

    def _deliver(self, send: Send) -> None:
        agent = self.agents.get(send.node)
        session = None if agent is None else agent.session

        def arrive() -> None:
            if agent is not None and session is not None and agent.session == session:
                agent.take(send.message)

        self.later(LATENCY_S, arrive)

    # --- time ----------------------------------------------------------------------------------

    def now(self) -> Now:
        return Now(self.mono, WALL_MS + int(self.mono * 1000) + self.skew_ms)

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.mono + delay_s, self._number, what))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self._run(self.mono + seconds, None)

    def until(self, done: Callable[[], bool], limit_s: float = 60.0) -> float:
        """Let time pass until `done`: how long it took. Fails after `limit_s`."""
        start = self.mono
        assert self._run(start + limit_s, done), f"not within {limit_s} s; the story: {self.told}"
        return self.mono - start

    def until_state(self, node: str, state: str, limit_s: float = 60.0) -> float:
        return self.until(lambda: self.state(node) == state, limit_s)

    def _run(self, end: float, done: Callable[[], bool] | None) -> bool:
        for _ in range(STEPS_MAX):
            if done is not None and done():
                return True
            if not self._heap or self._heap[0][0] > end:
                self.mono = max(self.mono, end)
                return done is not None and done()
            at, _number, what = heapq.heappop(self._heap)
            self.mono = max(self.mono, at)
            what()
        raise AssertionError("the world runs in a circle")

    def _tick(self) -> None:
        self.later(1.0, self._tick)
        self.event(Tick())

    def _wake_at(self, mono: float) -> None:
        assert mono > self.mono - 1e-6, "the core asks to be woken in the past: it would never sleep"
        mono = max(mono, self.mono + 0.001)
        if not self.mono < self._wake <= mono:
            self._wake = mono
            self.later(mono - self.mono, lambda: self._woken(mono))

    def _woken(self, mono: float) -> None:
        if self._wake == mono:
            self._wake = 0.0
            self.event(Tick())

    # --- objects -------------------------------------------------------------------------------

    def _object(self, digest: bytes) -> bytes:
        if digest not in self.objects:
            raise MissingObject(digest)
        return self.objects[digest]

    def plant(self, files: Files) -> bytes:
        """The root of these files, its pages stored as a session stores them."""
        edited = self.tree.build(sorted(files.items()))
        self.objects.update(edited.pages)
        return edited.root

    def new_session(self) -> str:
        self._sessions += 1
        return f"s-{self._sessions}"

    # --- agents --------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start these agents, or all."""
        for name in names or tuple(self.agents):
            self.agents[name].start()

    def started(self) -> FakeWorld:
        """All agents run and are in rank; the story begins now."""
        self.start()
        self.until(lambda: self.fleet.fleet_view(self.now()).in_rank)
        self.told.clear()
        return self

    def add(self, name: str, files: Files) -> None:
        """Another node on every volume: configured and started."""
        nodes = tuple(sorted((*self.config.nodes, name)))
        volumes = tuple(replace(volume, nodes=nodes) for volume in self.config.volumes)
        self.agents[name] = FakeAgent(self, name, {volume.name: dict(files) for volume in volumes})
        self.configure(replace(self.config, nodes=nodes, volumes=volumes))
        self.start(name)

    def everywhere(
        self, path: str, value: bytes | None, *, volume: str = "photos", but: Iterable[str] = ()
    ) -> None:
        """Write on all nodes at once, as the site's own replication does."""
        for agent in self.agents.values():
            if agent.name not in but and volume in agent.disk:
                agent.write(volume, path, value)

    # --- the story -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Tell what has changed: states of nodes, and what incidents' timelines say."""
        for incident in sorted(self.fleet.incident_ids()):
            view = self.fleet.incident_view(incident)
            assert view is not None
            seen = self._timelines.get(incident, 0)
            if not seen and view.timeline:
                self.told.append(f"{incident} {view.kind} {view.node or '-'}")
            self.told += [f"{incident} {one.event}" for one in view.timeline[seen:]]
            self._timelines[incident] = len(view.timeline)
            if view.state == "closed" and self._timelines.get(f"{incident}/closed") is None:
                self._timelines[f"{incident}/closed"] = 1
                self.told.append(f"{incident} closed")
        for name in self.fleet.node_names():
            state = self.state(name)
            if self._states.get(name) != state:
                self._states[name] = state
                self.told.append(f"{name} {state}")

    def state(self, node: str) -> str:
        return self.view(node).state

    def view(self, node: str):  # type: ignore[no-untyped-def]
        found = self.fleet.node_view(self.now(), node)
        assert found is not None
        return found

    def volume(self, node: str, volume: str = "photos"):  # type: ignore[no-untyped-def]
        return next(one for one in self.view(node).volumes if one.name == volume)

    def incidents(self, kind: str | None = None, state: str | None = None):  # type: ignore[no-untyped-def]
        found = [self.fleet.incident_view(one) for one in sorted(self.fleet.incident_ids())]
        return [one for one in found if one and kind in (None, one.kind) and state in (None, one.state)]

    def states(self) -> set[str]:
        return {self.state(name) for name in self.fleet.node_names()}

    def in_rank(self) -> bool:
        return self.fleet.fleet_view(self.now()).in_rank

    def sent(self, node: str, kind: type[wire.Message]) -> list[wire.Message]:
        return [one for one in self.agents[node].got if isinstance(one, kind)]


SOME_FILES: Files = {
    key_of(path): file_of(path) for path in ("a/one.jpg", "a/two.jpg", "b/three.jpg", "c.txt", "d/e/f.bin")
}
