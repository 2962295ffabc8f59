"""A step of the core in parts, for a shell that can not stand still for a whole one.

What follows from an event is looked for on every node, so a step costs the fleet's size: with 1,000 nodes that take
different steps 60 ms; and a directory of 100,000 files that is renamed is 200,000 changes in one step: seconds. Between
its parts the shell serves others; what the step decides is seen by nobody before it is
whole, and no other step begins. The core itself holds in the middle only what its own loops need to go on.

Rejected: parts by time (the core has no clock), other events between the parts (every rule would have to hold in
the middle).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

from .model import Now, Step

T = TypeVar("T")
R = TypeVar("R")

PART_NODES = 32  # gone through without a pause: 2 ms where every one of them has taken a step
PART_KEYS = 2048  # of one change: 10 ms where each of them takes 5 us


class Stepping:
    """One step. `work` does it, and gives what makes its effects in the end."""

    def __init__(self, work: Generator[None, None, Callable[[Now], Step]]) -> None:
        self._work = work
        self._end: Callable[[Now], Step] | None = None

    def go_on(self) -> bool:
        """Do the next part; whether there may be another one."""
        try:
            next(self._work)
        except StopIteration as done:
            self._end = self._end or done.value
            return False
        return True

    def rest(self) -> None:
        """Do all that is left, but for the effects: they are for whoever began it."""
        while self.go_on():
            pass

    def end(self, now: Now) -> Step:
        """What the step asks for, when all of it is done, which is now. Once."""
        self.rest()
        assert self._end is not None, "a step that failed has no end"
        return self._end(now)


def parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """These in their order, PART_NODES at a time."""
    for first in range(0, len(items), PART_NODES):
        yield items[first : first + PART_NODES]


def key_parts(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    """The same, PART_KEYS at a time."""
    for first in range(0, len(keys), PART_KEYS):
        yield keys[first : first + PART_KEYS]


def whole(work: Generator[None, None, R]) -> R:
    """What it comes to, without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: R = done.value
            return found
