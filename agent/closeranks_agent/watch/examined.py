"""The doctor's questions about watching: what this machine permits for a volume, and what it would miss.

The tree is walked for a moment only (SECONDS_MAX): a doctor who takes an hour is not asked again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from closeranks_proto.findings import Finding, ok, warn
from closeranks_proto.lines import printable

from ..disk.private import PRIVATE_NAME
from .source import permitted

SECONDS_MAX: Final = 3.0
WATCHES_SHARE: Final = 0.8  # of the kernel's limit: other programs have watches, too
_LIMIT: Final = "/proc/sys/fs/inotify/max_user_watches"


@dataclass(slots=True)
class Counted:
    """What was seen of a tree in the time given."""

    directories: int = 0
    hard_links: int = 0
    example: str = ""
    whole: bool = True


def examine_watching(subject: str, path: str, wanted: str) -> Iterator[Finding]:
    """How the volume would be watched, and what stands in the way of better."""
    kind = None
    if wanted == "rescan":
        yield ok(subject, 'not watched: watch = "rescan"; changes are seen by scans')
    else:
        sources = [one for one in permitted(os.fsencode(path)) if wanted in ("auto", one[0])]
        kind = next((kind for kind, works, _ in sources if works), None)
        yield _chosen(subject, kind, [(name, why) for name, works, why in sources if not works])
    counted = count(path)
    if kind == "inotify":
        yield from _watches(subject, counted, _limit())
    if counted.hard_links:
        yield warn(
            subject,
            f"{counted.hard_links} names belong to files that have several (hard links), such as "
            f"{printable(counted.example)}",
            "each name is compared and replicated as a file of its own: the other nodes hold separate copies",
            "nothing is lost by it; where the room matters, use symbolic links",
        )


def _chosen(subject: str, kind: str | None, missing: list[tuple[str, str]]) -> Finding:
    reasons = "; ".join(f"{name}: {why}" for name, why in missing)
    if kind is None:
        return warn(
            subject,
            f"can not be watched ({reasons})",
            "changes are seen by scans only, and nobody can tell who made them",
            "run the agent as root for fanotify, or shorten scan_interval_s",
        )
    if kind == "inotify":
        return warn(
            subject,
            "watched by inotify" + (f" ({reasons})" if reasons else ""),
            "changes are seen at once, but not whose hand it was; each directory takes a watch of the kernel",
            "run the agent as root (CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH) for fanotify",
        )
    return ok(subject, "watched by fanotify: changes are seen at once, and who made them")


def _watches(subject: str, counted: Counted, limit: int | None) -> Iterator[Finding]:
    if limit is None or counted.directories <= limit * WATCHES_SHARE:
        return
    number = f"{counted.directories} directories" + ("" if counted.whole else " and more")
    yield warn(
        subject,
        f"{number}, and the kernel allows {limit} watches for each user",
        "directories without a watch are seen by scans only",
        f"sysctl fs.inotify.max_user_watches={max(2 * counted.directories, 524288)}",
    )


def _limit() -> int | None:
    try:
        with open(_LIMIT, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def count(path: str, seconds: float = SECONDS_MAX) -> Counted:
    """Directories, and names of files that have several, below `path`; unreadable ones are said elsewhere."""
    found = Counted()
    deadline = time.monotonic() + seconds
    for directory, names, files in os.walk(path):
        found.directories += 1
        if directory == path and os.fsdecode(PRIVATE_NAME) in names:
            names.remove(os.fsdecode(PRIVATE_NAME))
        for name in files:
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError:
                continue  # gone meanwhile
            if status.st_nlink > 1:
                found.hard_links += 1
                found.example = found.example or os.path.relpath(os.path.join(directory, name), path)
        if time.monotonic() > deadline:
            found.whole = False
            break
    return found
