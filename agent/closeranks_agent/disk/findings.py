"""What one scan counted, and the paths that it left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from closeranks_proto.limits import REPORT_MAX_UNREADABLE
from closeranks_proto.messages import Problem, Unreadable
from closeranks_proto.tree import Summary

from .records import ScanReport


@dataclass(slots=True)
class Findings:
    """Grows while a scan goes on. Of the paths left out the first REPORT_MAX_UNREADABLE are named."""

    directories_compared: int = 0
    hashed_files: int = 0
    hashed_bytes: int = 0
    ignored: int = 0
    hard_links: int = 0
    left_out: list[Unreadable] = field(default_factory=list)
    left_out_count: int = 0
    busy: frozenset[bytes] = frozenset()

    def report(self, key: bytes, why: str, detail: str) -> None:
        self.left_out_count += 1
        if len(self.left_out) < REPORT_MAX_UNREADABLE:
            self.left_out.append(Unreadable(key, why, detail))

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
            tuple(self.left_out),
            self.left_out_count,
            self.busy,
            problem,
        )
