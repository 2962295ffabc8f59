"""Sprees: files that get another content, or become something else, wait until it is known that not most of them will.

*Intuition.* A program that replaces every file of a volume begins with one. So each changed path is a debt, and time
pays it, as slowly as could never trip its guard: the share that a guard of shares allows, over its whole window. Below
that pace nobody owes anything. Above it nothing is spread until the writer rests or what he owes is paid; if he goes
on, a guard holds all of it.

*A lone change* is spread at once: the first path is free, while nothing was spread on credit lately. *Rest.* What
is followed by nothing for a while is let through on credit: HANDFUL_REST_S where it is a handful, as when three files
are saved together; else REST_S, for an agent rests as long between its looks. Who begins again before that would have
been paid has to rest twice REST_S, then four times, `observe_s` at most: a program that does one file after another,
each after a pause that looked like an end, has spread a handful.

*An end.* Whoever owes something for a whole window, and no guard has tripped, is let through: it was undone meanwhile.

New files are no spree (a burst of them is observed, see `guards`), nor are files that were made within the window,
under this very name, and are written again. A path counts once in a window, however often it changes: a database
never waits.

Rejected: a number of changes that is free in each second (at 20 files/s most of a volume had gone by when its half was
reached), and a tenth of a second for all (a busy machine commits a burst in pieces that are further apart).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

HANDFUL = 8
HANDFUL_REST_S = 0.1
REST_S = 0.5
DOUBLINGS_MAX = 10


@dataclass(slots=True)
class Spree:
    """Of one node's volume and one guard. `base`: how many paths had changed in all when this one began."""

    free: int = 1  # paths that never wait
    began: float = -1e9
    base: int = 0
    count: int = 0  # the same when somebody asked last
    credits: int = 0
    until: float = -1e9  # when what was let through on credit would have been paid

    def due(
        self, now: float, count: int, pace: float, changed_at: float, rest_max_s: float, window_s: float,
        rests: Callable[[], bool] = lambda: True,
    ) -> float | None:  # fmt: skip
        """When to ask again whether these changes may be spread; None: now. `pace` in paths a second.

        `rests` says of a silence that was long enough whether it is a rest, and not a node that tells late.
        """
        if self.count - self.base <= pace * (now - self.began):
            # Nothing was owed: what came since is another one.
            self.began, self.base = (
                now,
                min(count, self.count),
            )
            if now >= self.until:
                self.credits = 0
        self.count = count
        owed = count - self.base - pace * (now - self.began)
        if owed <= (0 if self.credits else self.free):
            return None
        paid_at = now + owed / pace if pace > 0 else inf
        is_handful = not self.credits and count - self.base <= HANDFUL * self.free
        rest_s = HANDFUL_REST_S if is_handful else REST_S * (1 << self.credits)
        rested_at = changed_at + min(rest_max_s, rest_s)
        ends_at = self.began + window_s
        if now >= ends_at or (now >= rested_at and rests()):
            self.credits = min(DOUBLINGS_MAX, self.credits + 1)
            self.until = min(now + window_s, max(self.until, now) + (paid_at - now))
            self.began, self.base = now, count
            return None
        return min(paid_at, rested_at if now < rested_at else changed_at + rest_max_s, ends_at)
