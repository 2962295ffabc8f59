"""Who fills a disk from outside the volumes: by what the kernel counts for every process, while it matters.

No watcher sees those writes as a change of a volume, and an incident about a full disk must not name whoever
happened to write a byte in one. So while a disk fills, all processes are asked once a second how much they gave
to disks, at a few milliseconds a look, and not at all otherwise. To which disk is not told, and
what goes to a tmpfs is not counted; whoever reads of it is told that it may have been another disk.

Rejected: the filesystem's fanotify mark, which does not tell outside from another volume, nor bytes.
"""

from __future__ import annotations

import os

from .processes import Gone, ProcessDirectory

PROCESSES_MAX = 8192
BYTES_MIN = 1024 * 1024  # in a second: less fills no disk soon
TOLD_MAX = 4


class Elsewhere:
    """`look` twice to learn what was written between."""

    def __init__(self) -> None:
        self._before: dict[int, int] = {}

    def forget(self) -> None:
        """The next look is a first one."""
        self._before = {}

    def look(self) -> list[tuple[int, int]]:
        """(pid, bytes written since the last look) of the most active, none at the first look. Not for the loop."""
        now: dict[int, int] = {}
        own = os.getpid()
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == own or len(now) >= PROCESSES_MAX:
                continue
            try:
                with ProcessDirectory(int(name)) as process:
                    written = process.written_bytes()
            except (Gone, OSError):
                continue
            if written is not None:
                now[int(name)] = written
        grown = [(pid, size - self._before[pid]) for pid, size in now.items() if pid in self._before]
        self._before = now
        return sorted((one for one in grown if one[1] >= BYTES_MIN), key=lambda one: -one[1])[:TOLD_MAX]
