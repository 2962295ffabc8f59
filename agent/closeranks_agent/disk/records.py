"""What the disk side of the agent hands around: records of paths, reports of scans, and their errors.

A record is an entry (see `closeranks_proto.entries`) together with the stat signature (see `signature`) under
which it was read. As long as a path's signature stays the same, its content is taken as unchanged.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from closeranks_proto.errors import CloseranksError
from closeranks_proto.messages import Problem, Unreadable

from .signature import StatSignature, clock_ns, is_settled, pack_signature

__all__ = [
    "BusyFile", "Change", "Record", "ScanReport", "StatSignature", "StateUnavailable", "VolumeGone", "clock_ns",
    "is_settled", "pack_signature", "problem_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """One path as it was read: canonical value, stat signature, encoded chunk list of a long file.

    `settled` False makes the next scan read the content once more.
    """

    key: bytes
    value: bytes
    stat: StatSignature
    chunks: bytes | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a key: its new record, or None where the path is gone."""

    key: bytes
    record: Record | None


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What one scan saw. `complete` is False when it was stopped or could not begin (`problem` says why)."""

    started_mono: float
    duration_s: float
    complete: bool
    entries: int = 0
    files: int = 0
    directories_compared: int = 0  # those that were looked into entry by entry; the rest had not changed
    changed: int = 0
    hashed_files: int = 0
    hashed_bytes: int = 0
    ignored: int = 0
    hard_links: int = 0  # names of files that have more than one
    unreadable: tuple[Unreadable, ...] = ()  # the first REPORT_MAX_UNREADABLE
    unreadable_count: int = 0
    busy: frozenset[bytes] = field(default_factory=frozenset)
    problem: Problem | None = None
    same_files: int = 0  # of the hashed ones: they held what they had held
    same_bytes: int = 0

    @property
    def written_bytes(self) -> int:
        """About as much as was written: each file that changed counts with the mean size of those that hold others."""
        share = min(1.0, self.changed / max(1, self.hashed_files - self.same_files))
        return int((self.hashed_bytes - self.same_bytes) * share)


class VolumeGone(CloseranksError):
    """The volume's root is not what the index was made from, or can not be opened: touch nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class StateUnavailable(CloseranksError):
    """The state directory can not be written (full, read-only, failing): nothing was promised or changed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class BusyFile(CloseranksError):
    """A file changed while it was read."""


def problem_of(error: OSError, what: str) -> Problem:
    """The problem that an operating-system error means for a volume; `what` names what was attempted."""
    text = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Problem("no_space", f"{what}: {text}. Free some room; the agent tries again by itself.")
        case errno.EROFS:
            return Problem("read_only", f"{what}: {text}. Mount the filesystem read-write.")
        case errno.EACCES | errno.EPERM:
            return Problem("unreadable", f"{what}: {text}. Let the agent's user read it.")
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            return Problem("not_mounted", f"{what}: {text}. Mount it or correct `path`.")
        case _:
            return Problem("io_error", f"{what}: {text}. Look at the kernel's log; the disk may be failing.")
