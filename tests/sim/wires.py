"""Connections as TCP gives them: in order, whole or not at all, as slow and as one-sided as a network can be.

Within one connection nothing is lost, doubled or overtaken. What a network does to it: it delays, it holds
messages back in one direction while it is parted, it ends in the middle so that a tail of either direction is
lost, and neither side knows before it has been silent for long. Doubles and late arrivals come from whoever
sends again over the next connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from closeranks_proto.limits import SILENT_AFTER_S

from .timeline import Timeline

COORDINATOR = ""
LATENCY_S = 0.005
FLIGHT_MAX = 20_000  # frames under way on one connection


class Network:
    """Who can reach whom, and how fast."""

    def __init__(self, time: Timeline, jitter: bool, slow: frozenset[str]) -> None:
        self.time = time
        self.rng = time.stream("network")
        self.jitter = jitter
        self.slow = slow
        self.parted: set[tuple[str, str]] = set()  # (from, to)
        self.wires: list[Wire] = []
        self.frames = 0

    def passes(self, source: str, target: str) -> bool:
        return (source, target) not in self.parted

    def reaches(self, one: str, other: str) -> bool:
        """Whether a question is heard and answered."""
        return self.passes(one, other) and self.passes(other, one)

    def delay(self, source: str, target: str) -> float:
        delay = LATENCY_S
        if self.jitter:
            delay = self.rng.choice((0.001, 0.005, 0.02, 0.1)) * self.rng.random()
        if source in self.slow or target in self.slow:
            delay += self.rng.random() * 2.0
        return delay

    def part(self, source: str, target: str) -> None:
        self.parted.add((source, target))

    def heal(self) -> None:
        self.parted.clear()
        self.kick()

    def kick(self) -> None:
        """What was held back arrives."""
        for wire in list(self.wires):
            wire.kick()


class Wire:
    """One connection of an agent with the coordinator; `ends` are told what arrives, and of its end."""

    def __init__(self, network: Network, agent: str) -> None:
        self.network = network
        self.agent = agent
        self.open = True
        self.takes: dict[str, Callable[[bytes], None]] = {}
        self.ended: dict[str, Callable[[], None]] = {}
        self._flight: dict[str, deque[tuple[float, bytes]]] = {COORDINATOR: deque(), agent: deque()}
        self._last: dict[str, float] = {COORDINATOR: 0.0, agent: 0.0}
        self._heard: dict[str, float] = {COORDINATOR: network.time.now, agent: network.time.now}
        network.wires.append(self)
        self._watch()

    def send(self, to: str, frame: bytes) -> None:
        """To one end. Lost when the connection is gone, whether or not the sender knows."""
        if not self.open:
            return
        source = self.agent if to == COORDINATOR else COORDINATOR
        flight = self._flight[to]
        assert len(flight) < FLIGHT_MAX, f"{len(flight)} frames are under way to {to or 'the coordinator'}"
        at = max(self._last[to], self.network.time.now + self.network.delay(source, to))
        self._last[to] = at
        flight.append((at, frame))
        self.network.time.later(at - self.network.time.now, lambda: self._arrive(to))

    def kick(self) -> None:
        for to in self._flight:
            self._arrive(to)

    def _arrive(self, to: str) -> None:
        source = self.agent if to == COORDINATOR else COORDINATOR
        flight = self._flight[to]
        while self.open and flight and flight[0][0] <= self.network.time.now + 1e-9:
            if not self.network.passes(source, to):
                return
            _, frame = flight.popleft()
            self._heard[to] = self.network.time.now
            self.network.frames += 1
            take = self.takes.get(to)
            if take is not None:
                take(frame)

    def cut(self) -> None:
        """It breaks: what is under way is lost, and each side learns of it a little later."""
        if not self.open:
            return
        self.open = False
        self.network.wires.remove(self)
        for to in (COORDINATOR, self.agent):
            ended = self.ended.get(to)
            if ended is not None:
                self.network.time.later(0.001 + 0.2 * self.network.rng.random(), ended)

    def drop(self, by: str) -> None:
        """One end has gone without a word, or closed; the other one hears of it, if it can be heard."""
        self.ended.pop(by, None)
        self.takes.pop(by, None)
        other = self.agent if by == COORDINATOR else COORDINATOR
        if self.network.passes(by, other):
            self.cut()

    def _watch(self) -> None:
        """Each end hears pings as long as the other can be heard; silence ends it."""
        if not self.open:
            return
        now = self.network.time.now
        for to, source in ((COORDINATOR, self.agent), (self.agent, COORDINATOR)):
            if source in self.takes and self.network.passes(source, to):
                self._heard[to] = now
            if now - self._heard[to] > SILENT_AFTER_S:
                self.cut()
                return
        self.network.time.later(5.0, self._watch)
