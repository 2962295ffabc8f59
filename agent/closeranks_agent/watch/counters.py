"""How often processes have asked the kernel to write, as /proc/PID/io counts it (`syscw`).

An upper bound of the writes into files that they have: what goes to sockets and pipes counts, too. Asynchronous writes
(io_uring, libaio) do not, nor do stores into a map. A process that may not be looked at, or has ended, counts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection

_MAX_BYTES = 512
_FIELD = b"syscw: "


class Counters:
    """What each has done since it was asked last."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def since(self, pids: Collection[int]) -> dict[int, int]:
        """Calls by process, nothing for one that was not among those of the time before. Forgets all others."""
        last, self._last = self._last, {}
        found: dict[int, int] = {}
        for pid in pids:
            count = writes_of(pid)
            if count is not None:
                self._last[pid] = count
                found[pid] = max(0, count - last.get(pid, count))  # less than before: another process by now
        return found


def writes_of(pid: int) -> int | None:
    """None where nothing can be told of it."""
    try:
        fd = os.open(f"/proc/{pid}/io", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _MAX_BYTES)
        finally:
            os.close(fd)
    except OSError:
        return None
    number = text.partition(_FIELD)[2].partition(b"\n")[0]
    return int(number) if number.isdigit() else None
