"""The same long files out of the page cache, against the best of several ways to read them from this device."""

from __future__ import annotations

import os
from pathlib import Path

from frame.interleaved import Run, interleaved, seconds
from frame.measured import Measured, compared
from frame.registry import Bench
from hotpath.data import long_files
from hotpath.long import FILES, QUICK_SIZE, SIZE, ours, reading

COLD_DEPTHS = ((1, 0), (2, 0), (4, 0), (8, 0), (1, 16), (2, 8), (2, 32), (4, 16))  # processes, MiB ahead


def measure(bench: Bench) -> list[Measured]:
    return beside(bench, long_files(bench.base / "files", FILES, bench.either(SIZE, QUICK_SIZE)))


def beside(bench: Bench, files: list[Path]) -> list[Measured]:
    names = [os.fspath(path) for path in files]
    place = files[0].parent
    size = sum(path.stat().st_size for path in files) / 1e9
    best = min(COLD_DEPTHS, key=lambda way: _seconds_cold(files, reading(way[0], way[1], names)))

    def cold(run: Run) -> Run:
        return lambda: _seconds_cold(files, run)

    name = f"reading by {best[0]} processes, {best[1]} MiB ahead"
    taken = interleaved(
        {"ours": cold(ours(place)), name: cold(reading(best[0], best[1], names))}, bench.either(3, 2)
    )
    note = f"best of {len(COLD_DEPTHS)} ways; {size:.1f} GB"
    return [
        compared(
            "cold long files : the device's best", taken["ours"], name, taken[name], size, "GB/s", 0.9, note
        )
    ]


def _seconds_cold(files: list[Path], run: Run) -> float:
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return seconds(run)
