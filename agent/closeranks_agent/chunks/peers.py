"""Which peer to ask next: only healthy members, the least loaded and fastest first, the failing ones later.

Invariant: nobody but a source of the order that the membership of this moment knows, with an address and
without a fence, is ever chosen, and never this node itself. A peer that fails rests for a growing while; one
that answers "busy" rests a little. Pure: `now` is passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from closeranks_proto.messages import Member

STREAMS_PER_PEER = 2
REST_MIN_S = 0.5
REST_MAX_S = 10.0
RATE_START = 32 * 1024 * 1024  # bytes/s, before anything is known
_RATE_WEIGHT = 0.3


@dataclass(slots=True)
class Peer:
    """What is known of one source in this run."""

    name: str
    address: str = ""
    streams: int = 0
    failures: int = 0
    rest_until: float = 0.0
    rate_bytes_s: float = RATE_START
    last_error: str = ""


class Peers:
    """The sources of one converge."""

    def __init__(
        self,
        sources: Sequence[str],
        self_name: str,
        members: Callable[[], Mapping[str, Member]],
        rng: random.Random,
    ) -> None:
        self._peers = {name: Peer(name) for name in dict.fromkeys(sources) if name != self_name}
        self._members = members
        self._rng = rng

    def usable(self) -> list[Peer]:
        """Those that may be asked at all, resting ones included."""
        members = self._members()
        found: list[Peer] = []
        for name, peer in self._peers.items():
            member = members.get(name)
            if member is not None and member.address and not member.fenced:
                peer.address = member.address
                found.append(peer)
        return found

    def ready(self, now: float) -> list[Peer]:
        """Those that can take a request now, best first."""
        free = [one for one in self.usable() if one.streams < STREAMS_PER_PEER and one.rest_until <= now]
        return sorted(free, key=lambda one: (one.streams, -one.rate_bytes_s, one.name))

    def wake_at(self) -> float | None:
        """When the next resting peer is worth another try."""
        return min((one.rest_until for one in self.usable() if one.streams < STREAMS_PER_PEER), default=None)

    def failed(self, peer: Peer, now: float, error: str) -> None:
        peer.failures += 1
        rest = min(REST_MAX_S, REST_MIN_S * 2.0 ** min(peer.failures - 1, 10))
        peer.rest_until = now + rest * self._rng.uniform(0.75, 1.25)
        peer.rate_bytes_s /= 2
        peer.last_error = error

    def busy(self, peer: Peer, now: float, seconds: float) -> None:
        peer.rest_until = now + seconds * self._rng.uniform(0.25, 1.25)
        peer.last_error = "busy"

    def served(self, peer: Peer, payload: int, seconds: float) -> None:
        peer.failures = 0
        if payload and seconds > 0:
            peer.rate_bytes_s += _RATE_WEIGHT * (payload / seconds - peer.rate_bytes_s)

    def story(self) -> str:
        """The last thing that went wrong with each peer, for an operator."""
        told = [f"{one.name}: {one.last_error}" for one in self._peers.values() if one.last_error]
        return "; ".join(told[:8])
