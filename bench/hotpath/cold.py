"""The same long files out of the page cache, against the best of several ways to read them from this device.

A disk of a virtual machine changes its rate by five within minutes. So all ways take part in every turn, one after
another in random order, each on the set of files that was read longest ago. The best
way is the one with the least median, not one that was lucky; a turn's ratio is that way's time by ours, and beside
the median of these ratios stands its 95% interval. An interval that has the bound in it says that the disk decided.

The data must lie on the disk itself (`--dir`): a loop device is read through the page cache of its file.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from frame.interleaved import Run, seconds
from frame.interval import CONFIDENCE, interval
from frame.measured import Measured, compared
from frame.registry import Bench
from hotpath.data import MIB, long_files
from hotpath.long import ours, reading

WAYS = (
    (1, 16),
    (2, 0),
    (4, 0),
    (8, 0),
    (2, 32),
    (4, 16),
)  # processes, MiB asked for ahead (0: the kernel's own)
SETS, FILES = 3, 4
SIZE, QUICK_SIZE = 1024 * MIB, 256 * MIB
ROUNDS, QUICK_ROUNDS = 11, 5
AT_LEAST = 0.9
OURS = "ours"


def measure(bench: Bench) -> list[Measured]:
    size = bench.either(SIZE, QUICK_SIZE)
    sets = [long_files(bench.base / f"{number}", FILES, size) for number in range(SETS)]
    taken, asked = in_turns(sets, bench.either(ROUNDS, QUICK_ROUNDS))
    return [row(taken, asked, FILES * size / 1e9)]


def in_turns(sets: list[list[Path]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each contestant in each turn, and the mean of requests that were under way meanwhile."""
    taken: dict[str, list[float]] = {name: [] for name in (OURS, *map(_name, WAYS))}
    depths: dict[str, list[float]] = {name: [] for name in taken}
    rng = random.Random(7)
    after = _endless(sets)
    for _ in range(rounds):
        contestants: list[tuple[int, int] | None] = [None, *WAYS]
        rng.shuffle(contestants)
        for way in contestants:
            files = next(after)
            run = ours(files[0].parent) if way is None else _reading(way, files)
            name = OURS if way is None else _name(way)
            _drop(files)
            before = _waited_s(files[0])
            spent = seconds(run)
            taken[name].append(spent)
            depths[name].append((_waited_s(files[0]) - before) / spent)
    return taken, depths


def row(taken: dict[str, list[float]], depths: dict[str, list[float]], gb: float) -> Measured:
    """Ours beside the way with the least median."""
    best = min((name for name in taken if name != OURS), key=lambda name: statistics.median(taken[name]))
    low, high = interval([theirs / mine for mine, theirs in zip(taken[OURS], taken[best], strict=True)])
    others = (f"{name} {gb / statistics.median(spent):.2f}" for name, spent in taken.items() if name != OURS)
    under_way, theirs = (statistics.median(depths[name]) for name in (OURS, best))
    note = (
        f"median of {len(taken[OURS])} turns of {gb:.1f} GB; {CONFIDENCE:.0%} interval {low:.2f} to {high:.2f}; "
        f"requests under way {under_way:.1f}, theirs {theirs:.1f}; GB/s: {', '.join(others)}"
    )
    return compared(
        "cold long files : the device's best", taken[OURS], best, taken[best], gb, "GB/s", AT_LEAST, note
    )


def _name(way: tuple[int, int]) -> str:
    processes, ahead = way
    return f"reading by {processes}" + (f", {ahead} MiB ahead" if ahead else "")


def _endless(sets: Sequence[list[Path]]) -> Iterator[list[Path]]:
    while True:
        yield from sets


def _reading(way: tuple[int, int], files: list[Path]) -> Run:
    return reading(way[0], way[1], [os.fspath(path) for path in files])


def _drop(files: list[Path]) -> None:
    """Out of the page cache."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # they are at rest: nothing of them is dirty
        os.close(fd)


def _waited_s(path: Path) -> float:
    """Seconds that requests have spent on the disk below this file, all together; 0 where that is not told."""
    device = path.stat().st_dev
    here = [str(os.major(device)), str(os.minor(device))]
    for line in Path("/proc/diskstats").read_text().splitlines():
        words = line.split()
        if words[:2] == here:
            return int(words[6]) / 1000  # of reads
    return 0.0
