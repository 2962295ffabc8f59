"""4 files of 2 GiB, each read under ten names: chunk digests beside xxhsum, b3sum and reading alone.

Ten names make 80 GiB of work of 8 GiB of data, so that what a process takes to start weighs as little on our side
as it does when there is much to hash.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from frame.interleaved import Run, interleaved
from frame.measured import Measured, compared, unmeasured
from frame.peers import NotInstalled, command, shell, version
from frame.registry import Bench
from hotpath.data import MIB, long_files, other_names, warm
from hotpath.small import CLOSERANKS

NAMES, QUICK_NAMES = 10, 40
FILES = 4
SIZE, QUICK_SIZE = 2048 * MIB, 256 * MIB


def measure(bench: Bench) -> list[Measured]:
    _, tree, gb = prepared(bench)
    names = sorted(os.fspath(path) for path in tree.iterdir())
    return beside(bench, tree, names, gb)


def prepared(bench: Bench) -> tuple[list[Path], Path, float]:
    """(warm long files, a tree of many names for them, GB that reading the tree takes)."""
    size = bench.either(SIZE, QUICK_SIZE)
    files = long_files(bench.base / "files", FILES, size)
    tree = bench.base / "tree"
    times = bench.either(NAMES, QUICK_NAMES)
    other_names(files, tree, times)
    warm(bench.base / "files")
    return files, tree, times * FILES * size / 1e9


def ours(tree: Path, *options: str) -> Run:
    return command([*CLOSERANKS, "hash", tree, *options])


def beside(bench: Bench, tree: Path, names: list[str], gb: float) -> list[Measured]:
    """Each contest by itself."""
    rounds = 3
    contests: list[tuple[str, list[str], str, float, str]] = [
        ("xxh3-128 of long files", [], "xargs -P2 xxhsum -H2", 1.2, "xxhsum"),
        ("xxh3-128 of long files", [], "reading alone, 2 processes", 0.8, ""),
        ("blake3 of long files", ["--digest", "blake3"], "b3sum --num-threads 2", 1.1, "b3sum"),
    ]
    rows: list[Measured] = []
    for work, options, peer, at_least, program in contests:
        try:
            runs = {"ours": ours(tree, *options), peer: _peer(peer, tree, names)}
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
