"""300 GB: names of 8 GB of long files, and a sparse file, against the rate of the 8 GB; the memory that it takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from frame.measured import Against, Measured
from frame.registry import Bench
from hotpath.data import other_names
from hotpath.long import QUICK_NAMES, prepared
from hotpath.small import CLOSERANKS

HUGE_BYTES = 300_000_000_000
REST_S = 11.0  # holes of younger files are not believed


def measure(bench: Bench) -> list[Measured]:
    return beside(bench, *prepared(bench))


def beside(bench: Bench, files: list[Path], tree: Path, gb: float) -> list[Measured]:
    """300 GB of names of the same files, and a sparse file of 300 GB, against the tree's own rate."""
    much = bench.base / "much"
    turns = max(1, round(HUGE_BYTES / sum(path.stat().st_size for path in files)))
    turns = turns if not bench.quick else QUICK_NAMES * 4
    other_names(files, much, turns)
    total = turns * sum(path.stat().st_size for path in files) / 1e9
    sparse = bench.base / "sparse"
    sparse.mkdir()
    with (sparse / "file").open("wb") as file:
        file.truncate(HUGE_BYTES)
    time.sleep(REST_S)
    rates: dict[str, list[float]] = {"tree": [], "much": [], "sparse": []}
    peak = {"tree": 0.0, "much": 0.0, "sparse": 0.0}
    for _ in range(bench.either(3, 2)):
        for name, place, size in (
            ("tree", tree, gb),
            ("much", much, total),
            ("sparse", sparse, HUGE_BYTES / 1e9),
        ):
            spent, most = _peak(place)
            rates[name].append(size / spent)
            peak[name] = max(peak[name], most)
    base = statistics.median(rates["tree"])
    rows: list[Measured] = []
    for name, work in (("much", f"{total:.0f} GB of long files"), ("sparse", "a sparse file of 300 GB")):
        rate = statistics.median(rates[name])
        against = Against(f"{gb:.0f} GB of them", base, rate / base)
        rows.append(Measured(f"{work} : the rate of {gb:.0f} GB", rate, "GB/s", None, "", against, 0.95))
        grown = peak[name] - peak["tree"]
        rows.append(
            Measured(
                f"{work}: memory above that",
                round(grown, 1),
                "MB",
                25,
                f"{peak['tree']:.0f} MB with {gb:.0f} GB",
            )
        )
    return rows


def _peak(place: Path) -> tuple[float, float]:
    """(seconds, most resident MB) of hashing it. A sparse file's chunk list alone is 5 MB."""
    began = time.perf_counter()
    process = subprocess.Popen([*CLOSERANKS, "hash", place], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise OSError(f"closeranks hash ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1e3
