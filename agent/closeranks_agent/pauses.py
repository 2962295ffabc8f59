"""How long an agent waits before it dials again. Pure.

A pause grows by a try that brought no session, from RECONNECT_MIN_S to RECONNECT_MAX_S, with decorrelated jitter. A
session that was welcomed ends the growth: its coordinator is there, or was a moment ago and is being started again,
perhaps twice in a row after a change of its file. But a coordinator may also take each session and drop it, or
break by what the agents send. So only SHORT_MAX sessions in a row that did not last end the growth. After them it goes
on until one lasts: a thousand agents are then some 120 dials a second, as with a coordinator that is not there.

Rejected: growth by every session that did not last (after two restarts within 15 s nodes were away for up to 15 s);
no growth at all after a welcome (a coordinator that drops each session would be dialled five times a second by each).
"""

from __future__ import annotations

import random
from typing import Final

from closeranks_proto import limits

SHORT_MAX: Final = 3


class Pauses:
    """Of one link."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._grown_s = limits.RECONNECT_MIN_S
        self._short = 0

    def after(self, lived_s: float | None) -> float:
        """Seconds until the next dial, after a session that lived so long; None: a try without a welcome."""
        if lived_s is not None and lived_s > limits.RECONNECT_MAX_S:
            self._short = 0
            self._grown_s = limits.RECONNECT_MIN_S
        elif lived_s is not None and self._short < SHORT_MAX:
            self._short += 1
            self._grown_s = limits.RECONNECT_MIN_S
        self._grown_s = min(
            limits.RECONNECT_MAX_S, self._rng.uniform(limits.RECONNECT_MIN_S, self._grown_s * 3)
        )
        return self._grown_s
