"""Whose tree is fetched now: of each volume one at a time.

The nodes of a volume have nearly the same tree. When a fleet starts, all of them announce it in the same second;
fetched side by side, every node would send all of it, for what the first one sends is not stored yet when the
others are asked. One after the other, the second finds all that the first has sent.

A node that is slow does not hold up the others for long: who makes no progress for STALLED_S, or has fetched for
TURN_MAX_S, keeps on, and the next one begins beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

STALLED_S = 2.0
TURN_MAX_S = 20.0
LOOK_EVERY_S = 0.5

Begin = Callable[[], None]


@dataclass(slots=True)
class _Turn:
    began: float
    progress: float


class Turns:
    """The turns of one volume, by session id. Belongs to one event loop; `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turns: dict[str, _Turn] = {}
        self._waiting: dict[str, Begin] = {}
        self._look: asyncio.TimerHandle | None = None

    def take(self, session: str, begin: Begin) -> None:
        """Call `begin` when it is this session's turn: now, if it has it already. What it waited for is replaced."""
        if session in self._turns:
            begin()
            return
        self._waiting[session] = begin
        self._give()

    def progress(self, session: str) -> None:
        turn = self._turns.get(session)
        if turn is not None:
            turn.progress = self._clock()

    def done(self, session: str) -> None:
        """It has fetched its tree, or needs it no more."""
        self._waiting.pop(session, None)
        if self._turns.pop(session, None) is not None:
            self._give()

    def _give(self) -> None:
        """Let whoever is next begin, while nobody fetches briskly."""
        while self._waiting and not any(map(self._is_brisk, self._turns.values())):
            session = next(iter(self._waiting))
            begin, now = self._waiting.pop(session), self._clock()
            self._turns[session] = _Turn(now, now)
            begin()
        if self._waiting and self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._give()

    def _is_brisk(self, turn: _Turn) -> bool:
        now = self._clock()
        return now - turn.progress < STALLED_S and now - turn.began < TURN_MAX_S
