"""Which peers do not answer this node when it has to fetch chunks from them.

The coordinator hears of every node over roads of its own, so it can not know that two of them do not reach each other:
a firewall between them, or an address that leads nowhere. Whoever tries to fetch does. A peer that answers, whatever
it says, is reached; one that was missed only once may just be starting.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from closeranks_proto.messages import Member, Unreached

MISSED_MIN: Final = 2  # in a row
MISSED_MIN_S: Final = 3.0  # from the first of them to the last
PEERS_MAX: Final = 1024


@dataclass(slots=True)
class _Missed:
    address: str
    why: str
    since: float
    at: float
    count: int = 1


class Reach:
    """Of one volume. On the loop."""

    def __init__(
        self, changed: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`changed` is called when `told` may be another one."""
        self._changed, self._clock = changed, clock
        self._missed: dict[str, _Missed] = {}

    def answered(self, peer: str) -> None:
        """Its server said something, be it a refusal."""
        if self._missed.pop(peer, None) is not None:
            self._changed()

    def missed(self, peer: str, address: str, why: str) -> None:
        """Nothing came from there."""
        now, known = self._clock(), self._missed.get(peer)
        if known is None or known.address != address:
            if len(self._missed) >= PEERS_MAX:
                self._missed.clear()
            self._missed[peer] = _Missed(address, why, now, now)
            return
        known.why, known.at, known.count = why, now, known.count + 1
        self._changed()

    def told(self, members: Mapping[str, Member]) -> tuple[Unreached, ...]:
        """Of those that could be asked by now."""
        found: list[Unreached] = []
        for peer, one in sorted(self._missed.items()):
            member = members.get(peer)
            is_long = one.count >= MISSED_MIN and one.at - one.since >= MISSED_MIN_S
            if is_long and member is not None and not member.fenced and member.address == one.address:
                found.append(Unreached(peer, one.address, one.why))
        return tuple(found)


def why_missed(error: BaseException, patience_s: float) -> str:
    """In an operator's words, why a peer could not be reached."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {patience_s:g} s"
    number = cause.errno if isinstance(cause, OSError) else None
    if number is not None and number in errno.errorcode:
        return os.strerror(number).lower()
    return str(cause) or type(cause).__name__
