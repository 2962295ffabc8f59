"""What watching adds to a process that writes much: the same agent with its watcher and without, in turns.

Compared are agents that differ in `watch` alone: with `rescan` nothing tells of changes, and no scan is due. Two
writers: one unpacks small files, the worst case, for each of them is five or six events that the kernel makes in the
writer's own time; one writes large files. Both are timed by themselves. The wall clock is what the bound is about;
the writer's own processor time says what of it is the kernel's work for the watcher and what is the agent's use of
the machine, and it is far steadier where the clock follows the disk.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fleet import Fleet, VolumeSpec, small_tree, wait_until
from frame.measured import Measured
from frame.registry import Bench

UNPACK = str(Path(__file__).with_name("unpack.py"))
BOUND_PERCENT = 3.0
STATES = ("rescan", "fanotify", "inotify")
Run = tuple[float, float]  # wall and processor seconds of the writer


def measure(bench: Bench) -> list[Measured]:
    volume = VolumeSpec(
        policy="writers", settle_s=2.0, scan_interval_s=3600.0, extra={"writers": ["node-01"]}
    )
    writers = {"files": bench.either(10_000, 3_000), "large": bench.either(60, 20)}
    results: list[Measured] = []
    with Fleet(bench.base, 1, [volume], tree=small_tree, guards={"enabled": False}) as fleet:
        fleet.lay_trees()
        fleet.start_coordinator()
        for shape, files in writers.items():
            results += rows(shape, files, turns(fleet, shape, files, bench.either(12, 3)))
    return results


def turns(fleet: Fleet, shape: str, files: int, pairs: int) -> dict[str, list[Run]]:
    rng = random.Random(3)
    taken: dict[str, list[Run]] = {state: [] for state in STATES}
    once(fleet, "rescan", shape, files)  # warms up the disk's cache and allocator
    for turn in range(pairs):
        for state in rng.sample(STATES, len(STATES)):
            taken[state].append(once(fleet, state, shape, files))
        told = " ".join(f"{s} {taken[s][-1][0]:.2f}/{taken[s][-1][1]:.2f}" for s in STATES)
        print(f"  {shape}, turn {turn + 1}: {told} s", file=sys.stderr)
    return taken


def once(fleet: Fleet, state: str, shape: str, files: int) -> Run:
    node = fleet[0]
    node.volume_extra["photos"] = {"watch": state}
    node.start()
    fleet.wait_state(node, "in_rank", timeout_s=60)
    time.sleep(0.5)
    place = node.path() / "written"
    os.sync()  # no run pays for what the one before left to be written
    done = subprocess.run(
        [sys.executable, "-I", UNPACK, shape, str(place), str(files)],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    node.daemon.stop(60)
    shutil.rmtree(place)
    wait_until("the directory is gone", lambda: not place.exists())
    took, used = map(float, done.stdout.split())
    return took, used


def rows(shape: str, files: int, taken: dict[str, list[Run]]) -> list[Measured]:
    plain = taken["rescan"]
    what = f"{files:,} files of 30 KB and a log" if shape == "files" else f"{files} files of 10 MB"
    wall = statistics.median(run[0] for run in plain)
    results = [
        Measured(
            f"writer of {what}, not watched", round(wall, 2), "s", None,
            f"{statistics.median(run[1] for run in plain):.2f} s of processor time; {len(plain)} runs",
        )
    ]  # fmt: skip
    for state in STATES[1:]:
        for at, name, bound in ((0, "time", BOUND_PERCENT), (1, "processor time", None)):
            more = [(mine[at] / base[at] - 1) * 100 for mine, base in zip(taken[state], plain, strict=True)]
            low, _, high = statistics.quantiles(more, n=4)
            results.append(
                Measured(
                    f"more of its {name}, {state}, {shape}", round(statistics.median(more), 2), "%", bound,
                    f"median of {len(more)} pairs; half of them {low:+.1f} to {high:+.1f}%",
                )
            )  # fmt: skip
    return results
