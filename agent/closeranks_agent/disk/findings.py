"""What one scan counted, and the paths that it left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from closeranks_proto.limits import REPORT_MAX_UNREADABLE
from closeranks_proto.messages import Problem, Unreadable
from closeranks_proto.tree import Summary

from .records import ScanReport

ERRORS = ("unreadable", "too_large")  # as the coordinator has it: these keep a fleet from being proven
NEVER_COMPARED = frozenset({"special", "other_filesystem"})  # why; they are no part of any root


@dataclass(slots=True)
class Findings:
    """Grows while a scan goes on. Of the paths left out REPORT_MAX_UNREADABLE are named.

    Those that could not be read come first: many sockets, which are left out by rule, must not hide an error.
    """

    directories_compared: int = 0
    hashed_files: int = 0
    hashed_bytes: int = 0
    same_files: int = 0  # of those: they held what they had held
    same_bytes: int = 0
    ignored: int = 0
    hard_links: int = 0
    errors: list[Unreadable] = field(default_factory=list)
    by_rule: list[Unreadable] = field(default_factory=list)
    left_out_count: int = 0
    never_compared: int = 0  # of them
    busy: frozenset[bytes] = frozenset()

    def report(self, key: bytes, why: str, detail: str) -> None:
        self.left_out_count += 1
        self.never_compared += why in NEVER_COMPARED
        named = self.errors if why in ERRORS else self.by_rule
        if len(named) < REPORT_MAX_UNREADABLE:
            named.append(Unreadable(key, why, detail))

    @property
    def left_out(self) -> tuple[Unreadable, ...]:
        return (*self.errors, *self.by_rule)[:REPORT_MAX_UNREADABLE]

    def forget(self) -> None:
        """The tree is read once more."""
        self.errors, self.by_rule, self.left_out_count, self.never_compared = [], [], 0, 0

    def conclude(
        self, started_mono: float, duration_s: float, complete: bool, changed: int, summary: Summary | None,
        problem: Problem | None,
    ) -> ScanReport:  # fmt: skip
        """The scan's report; `summary` is of the tree that it left."""
        return ScanReport(
            started_mono,
            duration_s,
            complete,
            0 if summary is None else summary.entries,
            0 if summary is None else summary.files,
            self.directories_compared,
            changed,
            self.hashed_files,
            self.hashed_bytes,
            self.ignored,
            self.hard_links,
            self.left_out,
            self.left_out_count,
            self.busy,
            problem,
            self.same_files,
            self.same_bytes,
        )
