"""Runs: what a writer puts on a disk that would soon be full of it waits until it has paid for that in time.

*Intuition.* A program that fills a disk in ten minutes can be told from one that copies a few files only by going on.
So what it adds is a debt, and time pays it, as fast as would fill the free room in `disk_full_in_s`: the *calm* pace.
Below that pace nobody is ever in debt. Above it nothing is spread while the writer owes something, however often it
pauses: a pause counts for as much as it lasts. Either the writer ends, and what it wrote goes to everybody; or the
disk does fill, and a guard holds all of it.

*Rest.* A copy that is over shall not wait for minutes: after `observe_s` without another write it is let through on
credit. Who begins again before the former debt would have been paid has to rest twice as long, then four times.

*An end.* Whoever has been in debt for `disk_full_in_s`, and the disk is not full, does not fill it: what is written is
shared with other files, is compressed, or somebody makes room as fast. It is let through, and a new run begins.

*What counts* is by how much the writer's own files have grown, as its commits say, and what its agent has seen of them
since: the first megabyte of a file that fills the disk would be paid before the next look at it has ended. A database
that is rewritten in place owes nothing, nor does who removes as much as he adds, and what others put on the disk is not
the writer's.

Rejected: the share of a disk in one burst (a pause of a second ended the burst: 70 MB of a disk of 400 MB were spread
in four), judging by program (watched by inotify none is known, and whoever fills a disk can start a new one for each
file), and waiting below the calm pace (a slow upload would wait for minutes; `tripping.trickle` judges the sum).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf

ALLOWED_S = 0.25  # so much of the calm pace goes through at once: a page, not a photo
CREDITS_MAX = 4  # a rest is doubled so often


@dataclass(slots=True)
class Run:
    """Of one node's volume. `base`: by how much its files had grown in all when the run began."""

    began: float = -1e9
    base: int = 0
    grown: int = 0  # the same when somebody asked last
    credits: int = 0
    until: float = -1e9  # when what was let through on credit would have been paid

    def due(
        self,
        now: float,
        grown: int,
        calm_bytes_s: float,
        changed_at: float,
        observe_s: float,
        full_in_s: float,
    ) -> float | None:
        """When to ask again whether what has grown may be spread; None: now."""
        if isinf(calm_bytes_s):
            self.began, self.base, self.grown = now, grown, grown
            return None
        if self.grown - self.base <= calm_bytes_s * (now - self.began):
            self.began, self.base = now, self.grown  # it was paid: what has come since is another run
        self.grown = grown
        if now >= self.until:
            self.credits = 0
        owed = grown - self.base - calm_bytes_s * (now - self.began + ALLOWED_S)
        if owed <= 0:
            return None
        paid_at = now + owed / calm_bytes_s if calm_bytes_s > 0 else inf
        rested_at = changed_at + observe_s * (1 << self.credits)
        ends_at = self.began + full_in_s
        if now >= rested_at:
            self.credits, self.until = min(CREDITS_MAX, self.credits + 1), paid_at
            self.began, self.base = now, grown
            return None
        if now >= ends_at:
            self.began, self.base = now, grown
            return None
        return min(paid_at, rested_at, ends_at)
