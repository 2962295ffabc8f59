"""How much of the time somebody waited for a disk or a processor, as the kernel tells (PSI, since 4.20).

What a scrub itself waited for the disk is taken off: with nobody else there it would slow itself down. It is a lower
bound of the others' waiting, which may fall in the same moments.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_TOTAL: Final = re.compile(r"^some .*\btotal=(\d+)", re.MULTILINE)
PLACE: Final = Path("/proc/pressure")


class Pressure:
    """Shares since the last look."""

    def __init__(self, place: Path = PLACE, now: Callable[[], float] = time.monotonic) -> None:
        self._place, self._now = place, now
        self._totals: dict[str, float] = {}
        self._at = now()
        for what in ("io", "cpu"):
            self._share(what, 1.0, 0.0)

    def look(self, own_wait_s: float) -> tuple[float | None, float | None]:
        """(io, cpu), each None where the kernel does not tell."""
        now = self._now()
        passed, self._at = max(now - self._at, 1e-3), now
        return self._share("io", passed, own_wait_s), self._share("cpu", passed, 0.0)

    def _share(self, what: str, passed_s: float, own_s: float) -> float | None:
        try:
            found = _TOTAL.search((self._place / what).read_text())
        except OSError:
            return None
        if found is None:
            return None
        total = int(found[1]) / 1e6
        before, self._totals[what] = self._totals.get(what, total), total
        return min(1.0, max(0.0, total - before - own_s) / passed_s)
