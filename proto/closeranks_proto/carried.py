"""Contents of small files that travel with the commits and pushes that name them, so that nobody has to ask.

A writer's agent keeps what it has just read until the commit is sent, and sends it along; the coordinator keeps
it until the push is sent. Both keep little, for a moment, and promise nothing: what is not at hand any more is
fetched from peers, as ever. Whoever receives a body takes its digest; a body that nobody named is of no use to
anybody. So no more is believed than of a peer. Where there is no room, the new one is not kept: commits and pushes
leave in the order in which they came, so what came first is used first. Rejected: giving up the oldest, which
under a lag keeps megabytes of what will be too old when its turn comes, and nothing of what is sent next.

How much travels like this is bounded in bytes/s on either side (`Allowance`): in bulk the wire of one
coordinator would be the narrow place of a fleet, and replicas feed each other. Pure: times are the caller's.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# What a body takes besides its own bytes: their header (33), the digest (49), the record (72), its places (60 to 90).
# A flood of tiny files is most of all this.
KEPT_BYTES = 240


@dataclass(slots=True)
class _Kept:
    body: bytes
    since: float
    uses: int


class Carried:
    """Bodies by their digest, within bounds of memory and age. Not thread-safe.

    `bytes`: what they take, KEPT_BYTES for each of them included.
    """

    def __init__(self, max_bytes: int, keep_s: float) -> None:
        self.bytes = 0
        self._max_bytes, self._keep_s = max_bytes, keep_s
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, digest: bytes, body: bytes, now: float, uses: int = 1) -> None:
        """Keep it until it was used so often or is too old; where there is no room it is not kept."""
        self._drop(digest)
        self.expire(now)
        if self.bytes + KEPT_BYTES + len(body) > self._max_bytes:
            return
        self._kept[digest] = _Kept(body, now, uses)
        self.bytes += KEPT_BYTES + len(body)

    def expire(self, now: float) -> None:
        """Give up what is too old."""
        while self._kept:
            oldest = next(iter(self._kept))
            if now - self._kept[oldest].since <= self._keep_s:
                break
            self._drop(oldest)

    def find(self, digest: bytes) -> bytes | None:
        found = self._kept.get(digest)
        return None if found is None else found.body

    def used(self, digest: bytes) -> None:
        """One of its uses has been made."""
        found = self._kept.get(digest)
        if found is not None:
            found.uses -= 1
            if found.uses <= 0:
                self._drop(digest)

    def clear(self) -> None:
        self._kept = OrderedDict()
        self.bytes = 0

    def _drop(self, digest: bytes) -> None:
        dropped = self._kept.pop(digest, None)
        if dropped is not None:
            self.bytes -= KEPT_BYTES + len(dropped.body)
            if not self._kept:
                self._kept = OrderedDict()  # an empty one keeps the places that it has had


class Allowance:
    """How many bytes may still travel: so many a second, and no more than `burst` at once."""

    def __init__(self, rate_bytes_s: float, burst: float) -> None:
        self._rate, self._burst = rate_bytes_s, burst
        self._level, self._at = burst, float("-inf")

    def take(self, size: int, now: float) -> bool:
        """Whether so many may go now; if they may, they count as gone."""
        if now > self._at:
            self._level = min(self._burst, self._level + (now - max(self._at, now - 3600.0)) * self._rate)
            self._at = now
        if size > self._level:
            return False
        self._level -= size
        return True
