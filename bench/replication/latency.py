"""Write on a writer → readable on all fifteen replicas; sixteen agents and their coordinator on this machine.

The clock starts before the writer's open() and stops when the last replica has been read in full with the right
bytes. Two ways of writing: a new file by rename, and one file again and again in place.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fleet import Fleet, VolumeSpec, photo_tree
from frame.measured import Measured
from frame.registry import Bench
from replication.contents import write_by_rename, write_in_place
from replication.seen import Observer, percentile

NODES = 16
WRITES = 100
P50_S, P99_S = 0.3, 1.0
INBOX = "inbox"


def tree(root: Path) -> None:
    photo_tree(root, files=1000, videos=2)
    (root / INBOX).mkdir()


def writers_volume(*writers: str, scan_interval_s: float = 60.0) -> VolumeSpec:
    return VolumeSpec(
        policy="writers", settle_s=2.0, scan_interval_s=scan_interval_s, extra={"writers": list(writers)}
    )


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    results: list[Measured] = []
    with Fleet(base / "latency", NODES, [writers_volume("node-01")], tree=tree) as fleet:
        fleet.start()
        fleet.wait_in_rank(timeout_s=120)
        time.sleep(3)  # the machine is at rest when the clock starts
        writer, *replicas = [node.path() / INBOX for node in fleet.nodes.values()]
        for name, write, first in (
            ("by rename", write_by_rename, 1),
            ("in place", write_in_place, 100_001),
        ):
            with Observer(replicas) as observer:
                taken = series(observer, write, writer, range(first, first + WRITES))
            results += rows(f"100 KB {name}", taken)
        fleet.wait_in_rank()
        assert fleet.api.incidents() == [], "ordinary writes are nobody's fault"
        worst = fleet.coordinator.cpu_s()
        results.append(
            Measured("coordinator, processor time", round(worst, 1), "s", None, "all of the above")
        )
    return results


def series(
    observer: Observer, write: Callable[[Path, int], None], place: Path, numbers: range
) -> list[list[float]]:
    """For each write the seconds until each replica had it; pauses of random length between."""
    rng = random.Random(numbers.start)
    taken = []
    for number in numbers:
        taken.append(observer.timed(number, partial(write, place, number)))
        time.sleep(rng.uniform(0.1, 0.5))
    print(f"each replica, median: {percentile([s for t in taken for s in t], 0.5):.3f} s", file=sys.stderr)
    return taken


def rows(work: str, taken: list[list[float]]) -> list[Measured]:
    last = [max(each) for each in taken]
    note = f"{len(taken)} writes, {NODES} agents; until the last of {NODES - 1} replicas"
    return [
        Measured(f"{work}, p50", round(percentile(last, 0.5), 3), "s", P50_S, note),
        Measured(f"{work}, p95", round(percentile(last, 0.95), 3), "s", None),
        Measured(f"{work}, p99", round(percentile(last, 0.99), 3), "s", P99_S),
        Measured(f"{work}, most", round(max(last), 3), "s", None),
    ]
