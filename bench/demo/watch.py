"""Following the fleet from outside: the event stream wakes us, the API is asked, news are handed out once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fleet import Api, ApiError, EventReader

POLL_S = 0.4  # events come at once; this is for a stream that broke


@dataclass(frozen=True, slots=True)
class StateChange:
    node: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    incident: str
    kind: str  # of the incident
    node: str | None
    at: str
    event: str
    text: str


News = StateChange | TimelineEvent


@dataclass(slots=True)
class Watch:
    """`turn()` waits a little, refreshes what is known, and yields what is new."""

    api: Api
    reader: EventReader
    states: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    incidents: dict[str, Any] = field(default_factory=dict)
    fleet: Any = None
    seen_events: int = 0
    _told: dict[str, int] = field(default_factory=dict)  # timeline events handed out, by incident
    _last_poll: float = 0.0

    def turn(self, wait_s: float = 0.2) -> Iterator[News]:
        woken = self.reader.take(wait_s)
        while woken is not None:
            kind, data = woken
            self.seen_events += 1
            if kind == "node":
                yield from self._node(data)
            elif kind == "incident":
                yield from self._incident(data)
            woken = self.reader.take(0)
        if time.monotonic() - self._last_poll >= POLL_S:
            self._last_poll = time.monotonic()
            yield from self._poll()

    def _poll(self) -> Iterator[News]:
        try:
            self.fleet = self.api.fleet()
            incidents = self.api.incidents()
        except (OSError, ApiError):
            return  # the caller's deadline says when silence is too long
        for node in self.fleet["nodes"]:
            yield from self._node(node)
        for incident in incidents:
            yield from self._incident(incident)

    def _node(self, node: Any) -> Iterator[News]:
        name, state = node["node"], node["state"]
        before = self.states.get(name, "")
        self.nodes[name], self.states[name] = node, state
        if state != before:
            yield StateChange(name, before, state)

    def _incident(self, incident: Any) -> Iterator[News]:
        identity = incident["id"]
        self.incidents[identity] = incident
        told = self._told.get(identity, 0)
        for item in incident["timeline"][told:]:
            yield TimelineEvent(
                identity, incident["kind"], incident["node"], item["at"], item["event"], item["text"]
            )
        self._told[identity] = max(told, len(incident["timeline"]))
