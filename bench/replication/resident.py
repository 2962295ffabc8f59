"""Resident memory of daemons over a run, second by second, and whether it is flat.

Only the daemons themselves: processes that they start for a moment (listers of a rescan, readers) end by themselves
and are counted apart. Flat means: from WARM_S on, when queues, caches and the allocator have seen the load, until the
last file is made, no five seconds hold more than GROWTH_MAX_PERCENT more than the five seconds at its beginning, apart
from the tree: an agent keeps the pages of its tree in memory, TREE_BYTES an entry, and more entries are more pages.
What is left when the machine has rested is shown besides, for each file made.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fleet import Daemon
from frame.measured import Measured

WARM_S, SPAN_S = 12.5, 5.0
GROWTH_MAX_PERCENT = 15.0
TREE_BYTES = 75
REST_S = 25.0  # two rounds in which the allocator gives back what is free
MB = 1e6


@dataclass(slots=True)
class Resident:
    """(seconds since the start, bytes of each daemon by name), once a second. `rate`: files made a second."""

    rate: float
    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)

    def median(self, name: str, first: float, last: float) -> float:
        """Without the tree of what had been made by then."""
        found = ((at, sample[name]) for at, sample in self.samples if first <= at < last)
        return statistics.median(held - TREE_BYTES * self.rate * at for at, held in found)

    def growth_percent(self, name: str, end: float) -> float:
        """The most of any five seconds until `end`, against the five from WARM_S on."""
        base = self.median(name, WARM_S, WARM_S + SPAN_S)
        starts = [at for at, _ in self.samples if WARM_S + SPAN_S <= at <= end - SPAN_S]
        return (max(self.median(name, at, at + SPAN_S) for at in starts) / base - 1) * 100


@contextmanager
def watched(daemons: list[Daemon], rate: float) -> Iterator[Resident]:
    """Samples once a second until the end of the block."""
    found, stop, began = Resident(rate), threading.Event(), time.monotonic()

    def run() -> None:
        while not stop.wait(max(0.0, began + len(found.samples) - time.monotonic())):
            found.samples.append((time.monotonic() - began, {d.name: own_bytes(d) for d in daemons}))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def own_bytes(daemon: Daemon) -> int:
    """Of the daemon's own process."""
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
    return pages * 4096


def rows(load: str, found: Resident, end: float, made: int, bound: float | None) -> list[Measured]:
    """One row for each daemon. `end`: when the last file was made, `made` how many."""
    results = []
    for name in found.samples[0][1]:
        most = max(sample[name] for _, sample in found.samples)
        before, rest = found.samples[0][1][name], found.samples[-1][1][name]
        way = " ".join(f"{sample[name] / MB:.0f}" for _, sample in found.samples[::5])
        results.append(
            Measured(
                f"{load}, {name}: memory from second {WARM_S:.0f} on", round(found.growth_percent(name, end), 1),
                "% more", bound,
                f"the tree's {TREE_BYTES} B a file apart; {before / MB:.0f} MB before, {most / MB:.0f} at most, "
                f"{rest / MB:.0f} at rest afterwards: {(rest - before) / made:.0f} B for each file; every 5 s: {way}",
            )
        )  # fmt: skip
    return results
