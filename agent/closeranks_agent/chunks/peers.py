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
LACKING_SHARE = 0.5  # of what was asked
LACKING_REST_S = 1.0
# What a small answer took tells of waiting, not of speed.
RATED_BYTES = 1024 * 1024
RATED_SECONDS = 0.5
KNOWN_MAX = 1024


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
        self._self_name = self_name
        self._members = members
        self._rng = rng
        self._known: dict[str, Peer] = {}
        self.choose(sources)

    def choose(self, sources: Sequence[str]) -> None:
        """Go by these sources from now on; what was learnt of a peer earlier counts again."""
        self._peers = {
            name: self._known.get(name) or Peer(name)
            for name in dict.fromkeys(sources)
            if name != self._self_name
        }
        if len(self._known) > KNOWN_MAX:
            self._known.clear()
        self._known.update(self._peers)

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
        # Rates of one magnitude are alike: of two good sources everybody would else take the same one.
        tied = {one.name: self._rng.random() for one in free}
        return sorted(free, key=lambda one: (one.streams, -_magnitude(one.rate_bytes_s), tied[one.name]))

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

    def denied(self, peer: Peer, now: float, share: float) -> None:
        """It did not have this share of what it was asked for."""
        if share > LACKING_SHARE:
            peer.rest_until = max(peer.rest_until, now + LACKING_REST_S * self._rng.uniform(0.5, 1.5))

    def served(self, peer: Peer, payload: int, seconds: float) -> None:
        peer.failures = 0
        peer.last_error = ""
        if payload and (payload >= RATED_BYTES or seconds >= RATED_SECONDS):
            peer.rate_bytes_s += _RATE_WEIGHT * (payload / seconds - peer.rate_bytes_s)

    def story(self) -> str:
        """The last thing that went wrong with each peer, for an operator."""
        told = [f"{one.name}: {one.last_error}" for one in self._peers.values() if one.last_error]
        return "; ".join(told[:8])


def _magnitude(rate_bytes_s: float) -> int:
    return int(max(rate_bytes_s, 1.0)).bit_length() // 2
