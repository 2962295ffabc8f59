"""4 files of 2 GiB, each read under ten names: chunk digests beside xxhsum, b3sum and reading alone; 300 GB; cold.

Ten names make 80 GiB of work of 8 GiB of data, so that what a process takes to start weighs as little on our side
as it does when there is much to hash.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from frame.interleaved import Run, interleaved, seconds
from frame.measured import Against, Measured, compared, unmeasured
from frame.peers import NotInstalled, command, shell, version
from frame.registry import Bench
from hotpath.data import MIB, long_files, other_names, warm
from hotpath.small import CLOSERANKS

NAMES, QUICK_NAMES = 10, 40
FILES = 4
HUGE_BYTES = 300_000_000_000
REST_S = 11.0  # holes of younger files are not believed
COLD_DEPTHS = ((1, 0), (2, 0), (4, 0), (8, 0), (1, 16), (2, 8), (2, 32), (4, 16))  # processes, MiB ahead


def measure(bench: Bench) -> list[Measured]:
    size = bench.either(2048 * MIB, 256 * MIB)
    files = long_files(bench.base / "files", FILES, size)
    tree = bench.base / "tree"
    times = bench.either(NAMES, QUICK_NAMES)
    other_names(files, tree, times)
    warm(bench.base / "files")
    names = sorted(os.fspath(path) for path in tree.iterdir())
    gb = times * FILES * size / 1e9
    rows = _warm(bench, tree, names, gb)
    rows += _huge(bench, files, tree, gb)
    return rows + _cold(bench, files)


def _ours(tree: Path, *options: str) -> Run:
    return command([*CLOSERANKS, "hash", tree, *options])


def _warm(bench: Bench, tree: Path, names: list[str], gb: float) -> list[Measured]:
    rounds = bench.either(5, 3)
    contests: list[tuple[str, list[str], str, float, str]] = [
        ("xxh3-128 of long files", [], "xargs -P2 xxhsum -H2", 1.2, "xxhsum"),
        ("xxh3-128 of long files", [], "reading alone, 2 processes", 0.8, ""),
        ("blake3 of long files", ["--digest", "blake3"], "b3sum --num-threads 2", 1.1, "b3sum"),
    ]
    rows: list[Measured] = []
    for work, options, peer, at_least, program in contests:
        try:
            runs = {"ours": _ours(tree, *options), peer: _peer(peer, tree, names)}
            told = f"{len(names)} names of {FILES} files, {gb:.0f} GB" + (
                f"; {version(program)}" if program else ""
            )
        except NotInstalled as missing:
            rows.append(unmeasured(f"{work} : {peer}", str(missing), at_least))
            continue
        taken = interleaved(runs, rounds)
        rows.append(
            compared(f"{work} : {peer}", taken["ours"], peer, taken[peer], gb, "GB/s", at_least, told)
        )
    return rows


def _peer(name: str, tree: Path, names: list[str]) -> Run:
    if name.startswith("xargs"):
        version("xxhsum")
        return shell('find "$1" -type f -print0 | xargs -0 -n1 -P2 xxhsum -H2', tree)
    if name.startswith("b3sum"):
        return command(["b3sum", "--num-threads", "2", *names])
    return reading(2, 0, names)


def reading(processes: int, depth: int, names: list[str]) -> Run:
    program = os.fspath(Path(__file__).with_name("reading.py"))
    words = [sys.executable, "-S", program, str(processes), str(depth), *names]
    return command(words)


# --- very much ------------------------------------------------------------------------------------


def _huge(bench: Bench, files: list[Path], tree: Path, gb: float) -> list[Measured]:
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


# --- cold -----------------------------------------------------------------------------------------


def _cold(bench: Bench, files: list[Path]) -> list[Measured]:
    """The same files out of the page cache, against the best of several ways to read them."""
    names = [os.fspath(path) for path in files]
    place = files[0].parent
    size = sum(path.stat().st_size for path in files) / 1e9
    best = min(COLD_DEPTHS, key=lambda way: _seconds_cold(files, reading(way[0], way[1], names)))

    def cold(run: Run) -> Run:
        return lambda: _seconds_cold(files, run)

    name = f"reading by {best[0]} processes, {best[1]} MiB ahead"
    taken = interleaved(
        {"ours": cold(_ours(place)), name: cold(reading(best[0], best[1], names))}, bench.either(3, 2)
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
