"""Scans and watchers' proofs that an agent tells of, until what they found is stored.

A proof says that a tree was as the node's commits say, up to a number. The core hears of it once that commit is there;
told earlier, it would vouch for a root that the node has left.
"""

from __future__ import annotations

from collections.abc import Callable

from .core.model import Scanned, Watched

Proof = type[Scanned] | type[Watched]
PROOFS: tuple[Proof, ...] = (Scanned, Watched)


class Proofs:
    """Of one session. `feed` tells the core."""

    def __init__(self, node: str, feed: Callable[[Scanned | Watched], None]) -> None:
        self._node, self._feed = node, feed
        # The next to tell of, and the latest.
        self._waiting: dict[tuple[str, Proof], list[tuple[int, float]]] = {}

    def told(self, volume: str, proof: Proof, seq: int, at: float) -> None:
        """The tree was as of commit `seq` at that moment, of our clock."""
        waiting = self._waiting.setdefault((volume, proof), [])
        del waiting[1:]  # an agent that is always behind still gets the first one through
        waiting.append((seq, at))

    def release(self, volume: str, stored_seq: int) -> None:
        """Commits are stored up to this one."""
        for proof in PROOFS:
            waiting = self._waiting.get((volume, proof), [])
            while waiting and stored_seq >= waiting[0][0]:
                self._feed(proof(self._node, volume, waiting.pop(0)[1]))
