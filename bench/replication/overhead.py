"""What watching adds to the time of a process that writes much: paired runs, with the agent's watcher and without.

The process makes 4,000 files of 64 KB, reads nothing, and ends; its wall-clock time is taken. In each pair the order
is drawn. Three states: no agent at all, an agent that only scans (and has no scan due), an agent that watches. The
second is there so that it can be seen what is the watching and what is the hashing of what was written.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import time
from pathlib import Path

from fleet import Fleet, VolumeSpec, small_tree, wait_until
from fleet.flood_process import Flood
from frame.measured import Measured
from frame.registry import Bench

PAIRS = 12
FILES, SIZE = 8000, 64 * 1024
BOUND_PERCENT = 3.0
STATES = ("none", "rescan", "fanotify", "inotify")


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    volume = VolumeSpec(
        policy="writers", settle_s=2.0, scan_interval_s=3600.0, extra={"writers": ["node-01"]}
    )
    taken: dict[str, list[float]] = {state: [] for state in STATES}
    rng = random.Random(3)
    with Fleet(base, 1, [volume], tree=small_tree, guards={"enabled": False}) as fleet:
        fleet.lay_trees()
        fleet.start_coordinator()
        once(fleet, "none", base)  # warms up the disk's cache and allocator
        for turn in range(PAIRS):
            for state in rng.sample(STATES, len(STATES)):
                taken[state].append(once(fleet, state, base))
            print(f"pair {turn + 1}: {[round(taken[s][-1], 2) for s in STATES]}", file=sys.stderr)
    return rows(taken)


def once(fleet: Fleet, state: str, base: Path) -> float:
    node = fleet[0]
    if state != "none":
        node.volume_extra["photos"] = {"watch": state}
        node.start()
        fleet.wait_state(node, "in_rank", timeout_s=60)
        time.sleep(0.5)
    place = node.path() / "written"
    place.mkdir()
    os.sync()  # no run pays for what the one before left to be written
    began = time.monotonic()
    flood = Flood(place, base / "flood.log", "small", size=SIZE, limit=FILES * SIZE)
    flood.wait(300)
    took = flood.told()[-1]["at"] - began
    if state != "none":
        node.daemon.stop(60)
    shutil.rmtree(place)
    wait_until("the directory is gone", lambda: not place.exists())
    return float(took)


def rows(taken: dict[str, list[float]]) -> list[Measured]:
    plain = taken["none"]
    results = [
        Measured(
            "write-heavy process, no agent", round(statistics.median(plain), 2), "s", None,
            f"{FILES:,} files of {SIZE // 1024} KB; {min(plain):.2f} to {max(plain):.2f} s in {len(plain)} runs",
        )
    ]  # fmt: skip
    for state in STATES[1:]:
        ratios = [(b / a - 1) * 100 for a, b in zip(plain, taken[state], strict=True)]
        low, high = statistics.quantiles(ratios, n=4)[0], statistics.quantiles(ratios, n=4)[2]
        bound = None if state == "rescan" else BOUND_PERCENT
        results.append(
            Measured(
                f"more with an agent, {state}", round(statistics.median(ratios), 2), "%", bound,
                f"median of {len(ratios)} pairs; half of them {low:+.1f} to {high:+.1f}%",
            )
        )  # fmt: skip
    return results
