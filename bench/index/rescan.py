"""A tree of 200,000 files of which nothing changed, or one file in a thousand: ours, rsync's and find's look at it.

All from a warm cache. rsync compares with itself, which is what two equal copies cost it at best.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from frame.interleaved import Run, interleaved
from frame.measured import Measured, compared, unmeasured
from frame.peers import NotInstalled, command
from frame.registry import Bench

from .process import VolumeProcess
from .trees import many

SETTLE_S = 0.1  # then a file's ctime tells of every later write
UNCHANGED = "rescan, nothing changed"
BOUNDS = {"rsync -an": 2.2, "find -printf": 1.0}


def measure(bench: Bench) -> list[Measured]:
    files, rounds = bench.either(200_000, 40_000), bench.either(7, 3)
    tree = bench.base / "tree"
    many(tree, files)
    time.sleep(SETTLE_S)
    rows: list[Measured] = []
    with VolumeProcess(tree, bench.base / "state") as volume:
        volume.ask("open")
        volume.ask("scan")
        runs: dict[str, Run] = {"ours": lambda: _quiet(volume)}
        for name, words in (
            ("rsync -an", ["rsync", "-an", f"{tree}/", f"{tree}/"]),
            ("find -printf", ["find", tree, "-printf", "%T@ %s\n"]),
        ):
            try:
                runs[name] = command(words)
            except NotInstalled as missing:
                rows.append(unmeasured(UNCHANGED, str(missing), BOUNDS[name]))
        taken = interleaved(runs, rounds)
        rows += [
            compared(UNCHANGED, taken["ours"], name, taken[name], files, "files/s", bound)
            for name, bound in BOUNDS.items()
            if name in taken
        ]
        changing = _changer(tree, files)
        if "rsync -an" in runs:
            taken = interleaved({"ours": lambda: changing(volume), "rsync -an": runs["rsync -an"]}, rounds)
            rows.append(
                compared(
                    "rescan, 0.1% of the files changed and read", taken["ours"], "rsync -an", taken["rsync -an"],
                    files, "files/s", None, "rsync finds nothing to do here",
                )
            )  # fmt: skip
    return rows


def _quiet(volume: VolumeProcess) -> float:
    found = volume.ask("scan")
    assert (found["changed"], found["hashed"]) == (0, 0), "nothing changed"
    return float(found["seconds"])


def _changer(tree: Path, files: int) -> Callable[[VolumeProcess], float]:
    """A run that first changes one file in a thousand, which is not measured."""
    rng, paths = random.Random(1), sorted(tree.glob("*/*/*"))

    def run(volume: VolumeProcess) -> float:
        chosen = rng.sample(paths, files // 1000)
        for path in chosen:
            path.write_bytes(rng.randbytes(8))
        time.sleep(SETTLE_S)
        found = volume.ask("scan")
        assert found["changed"] == len(chosen), "each of them is seen"
        return float(found["seconds"])

    return run
