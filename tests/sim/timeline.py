"""Invented time, the story, and its digest.

Everything that happens is one callable in one heap, taken in the order of (time, number). Chance comes from
streams named by what they are for, so that a fault more in one place does not change the dice of another. What
happens is hashed as it happens: two runs of a seed are equal when their digests are.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable

STORY_MAX = 4000  # lines kept; a failure shows the last of them
EVENTS_MAX = 3_000_000  # of one seed: more is a loop


class Timeline:
    """`now` is in seconds of the simulated world."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 1000.0
        self.events = 0
        self.story: deque[str] = deque(maxlen=STORY_MAX)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def stream(self, name: str) -> random.Random:
        """Dice of their own. Seeded with text: Python hashes it alike in every process."""
        return random.Random(f"{self.seed}/{name}")

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + max(0.0, delay_s), self._number, what))

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Let so much time pass, or until `done`; whether it is."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            at, _, what = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            self.events += 1
            assert self.events < EVENTS_MAX, "the world runs in a circle"
            what()
            if done is not None and done():
                return True
        self.now = max(self.now, end)
        return done is not None and done()

    def mark(self, text: str | bytes) -> None:
        """What makes two runs equal or not."""
        self._hash.update(f"{self.now:.6f} ".encode() + (text.encode() if isinstance(text, str) else text))

    def tell(self, text: str) -> None:
        """A line of the story."""
        self.mark(text)
        self.story.append(f"{self.now - 1000.0:9.3f}  {text}")

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
