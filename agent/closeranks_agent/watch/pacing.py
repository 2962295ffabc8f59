"""How often a watcher reads its queue and looks at paths: less often the more there is. Pure; times are monotonic."""

from __future__ import annotations

from typing import Final

# Between two reads, so that the kernel merges what repeats and whoever writes has the processor: a lone event is read
# on at once, a stream of them less and less often. A full queue is emptied without much of a rest.
PAUSE_MIN_S: Final = 0.001
PAUSE_MAX_S: Final = 0.01
STORM_PAUSE_MAX_S: Final = 0.05
STORM_EVENTS: Final = 256  # in one read
UNDRAINED_PAUSE_S: Final = 0.005
CALM_S: Final = 0.02  # nothing was heard for so long: the next event is a lone one
# After a look at many paths the next one waits and grows: each is a transaction that the disk must flush, and
# flushing twenty times a second slows down whoever writes. A single path hardly waits.
REST_A_PATH_S: Final = 0.001
REST_MAX_S: Final = 0.5
# The same where looks at single paths follow each other: each rest is twice the one before.
REST_MIN_S: Final = 0.002
REST_DOUBLINGS_MAX: Final = 5
REST_CALM_S: Final = 0.1


class Reads:
    """Of one source."""

    def __init__(self) -> None:
        self._pause_s, self._at = PAUSE_MIN_S, 0.0

    def pause(self, count: int, drained: bool, now: float) -> float:
        """Seconds until the next read, after one that gave so many events of this volume."""
        before, self._at = self._at, now
        if not drained:
            return UNDRAINED_PAUSE_S
        if now - before > self._pause_s + CALM_S:
            self._pause_s = PAUSE_MIN_S
        else:
            longest = STORM_PAUSE_MAX_S if count >= STORM_EVENTS else PAUSE_MAX_S
            self._pause_s = min(2 * self._pause_s, longest)
        return self._pause_s


class Looks:
    """Of one volume. `due`: no look begins before."""

    def __init__(self) -> None:
        self.due = 0.0
        self._ended_at, self._in_row, self._rest_s = 0.0, 0, 0.0

    def ended(self, size: int, now: float) -> None:
        """A look at so many paths has ended."""
        lone = now - self._ended_at > self._rest_s + REST_CALM_S
        self._ended_at = now
        self._in_row = 0 if lone else min(self._in_row + 1, REST_DOUBLINGS_MAX)
        in_row = 0.0 if lone else REST_MIN_S * 2**self._in_row
        self._rest_s = min(max(size * REST_A_PATH_S, in_row), REST_MAX_S)
        self.due = now + self._rest_s
