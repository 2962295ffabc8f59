"""How a volume is: what is wrong with it, and what its last scan and a scrub left out or found amiss.

What goes wrong is told when it comes and when it has passed; a log line is made of it only where its kind has changed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from closeranks_proto.limits import REPORT_MAX_UNREADABLE
from closeranks_proto.messages import Problem, Unreadable, VolumeStatus
from closeranks_proto.tree import Summary

from .findings import Findings
from .links import Links

log = logging.getLogger("closeranks.volume")

HARD_LINKS_TOLD: Final = 20
HARD_LINK: Final = "it has several names; each is compared and replicated as a file of its own"


class Condition:
    """Of one volume. It changes on the volume's thread and is read on any."""

    def __init__(self, name: str, path: bytes, tell: Callable[[], None]) -> None:
        self._name, self._path, self._tell = name, path, tell
        self.problem: Problem | None = None
        # With the private directory alone: nothing can be repaired.
        self.private_problem: Problem | None = None
        self.unreadable: tuple[Unreadable, ...] = ()
        self.unreadable_count = 0
        self.busy: frozenset[bytes] = frozenset()
        self.scrubbed: tuple[Unreadable, ...] = ()  # what a scrub found amiss
        self.last_scan_started: float | None = None  # of the last complete one, monotonic
        self._last_duration_s: float | None = None
        self._hard_links = 0

    def trouble(self, problem: Problem | None) -> None:
        """This is wrong now, or nothing is."""
        before, self.problem = self.problem, problem
        if problem == before:
            return
        if problem is None:
            log.info("%s: in order again", self._name)
        elif before is None or problem.code != before.code:
            log.warning("%s: %s", self._name, problem.message)
        self._tell()

    def scanned(self, findings: Findings, links: Links, started: float, duration_s: float) -> None:
        """A scan is complete, which began then (monotonic)."""
        self.last_scan_started, self._last_duration_s = started, duration_s
        linked = [Unreadable(key, "hard_link", HARD_LINK) for key in links.first(HARD_LINKS_TOLD)]
        self.unreadable = (*findings.left_out, *linked)[:REPORT_MAX_UNREADABLE]
        self.unreadable_count = findings.left_out_count
        self.busy = findings.busy
        self._hard_links = findings.hard_links
        self._tell()

    def status(self, summary: Summary | None) -> VolumeStatus:
        """For the coordinator; `summary` is of the tree."""
        total = free = 0
        try:
            found = os.statvfs(self._path)
            total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        except OSError as error:
            log.debug("%s: no figures of its filesystem: %s", self._name, error)
        return VolumeStatus(
            self._name,
            self.problem or self.private_problem,
            None if summary is None else summary.entries,
            None if summary is None else summary.files,
            None if summary is None else summary.bytes,
            (*self.scrubbed, *self.unreadable)[:REPORT_MAX_UNREADABLE],
            self.unreadable_count + sum(one.why == "unreadable" for one in self.scrubbed),
            total,
            free,
            None if self._last_duration_s is None else int(self._last_duration_s * 1000),
            hard_links=self._hard_links,
        )
