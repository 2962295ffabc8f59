"""The same long files out of the page cache, against the best of several ways to read them from this device.

A disk of a virtual machine changes its rate by three within minutes. So turns are short (a half of the files each),
many, and in pairs that follow each other directly; and the best way is the one that did best in two passes, not the
one that was lucky in one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from frame.interleaved import Run, interleaved, seconds
from frame.measured import Measured, compared
from frame.registry import Bench
from hotpath.data import long_files
from hotpath.long import FILES, QUICK_SIZE, SIZE, ours, reading

COLD_DEPTHS = ((1, 0), (2, 0), (4, 0), (8, 0), (1, 16), (2, 8), (2, 32), (4, 16))  # processes, MiB ahead
PASSES = 2
ROUNDS, QUICK_ROUNDS = 9, 3


def measure(bench: Bench) -> list[Measured]:
    size = bench.either(SIZE, QUICK_SIZE)
    halves = [long_files(bench.base / half, FILES // 2, size) for half in ("one", "other")]
    return beside(bench, halves)


def beside(bench: Bench, halves: list[list[Path]]) -> list[Measured]:
    """One half in each turn, in turns: what the host kept of it is old when it comes again."""
    size = sum(path.stat().st_size for path in halves[0]) / 1e9
    spent = dict.fromkeys(COLD_DEPTHS, 0.0)
    for turn in range(PASSES):
        for way in COLD_DEPTHS:
            spent[way] += _cold(halves[turn], _reading(way, halves[turn]))
    best = min(spent, key=lambda way: spent[way])

    def alternating(make: Callable[[list[Path]], Run]) -> Run:
        turns = itertools.cycle(halves)

        def run() -> float:
            files = next(turns)
            return _cold(files, make(files))

        return run

    name = f"reading by {best[0]} processes, {best[1]} MiB ahead"
    taken = interleaved(
        {
            "ours": alternating(lambda files: ours(files[0].parent)),
            name: alternating(lambda files: _reading(best, files)),
        },
        bench.either(ROUNDS, QUICK_ROUNDS),
    )
    note = f"best of {len(COLD_DEPTHS)} ways in {PASSES} passes; {size:.1f} GB a turn"
    return [
        compared(
            "cold long files : the device's best", taken["ours"], name, taken[name], size, "GB/s", 0.9, note
        )
    ]


def _reading(way: tuple[int, int], files: list[Path]) -> Run:
    return reading(way[0], way[1], [os.fspath(path) for path in files])


def _cold(files: list[Path], run: Run) -> float:
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return seconds(run)
