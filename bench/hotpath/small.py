"""200,000 small files: our first scan with its index written, beside xxhsum and rsync.

"Two copies" for rsync are hard links: it reads both names of each file, and the page cache holds them once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from frame.interleaved import Run, interleaved
from frame.measured import Measured, compared, unmeasured
from frame.peers import NotInstalled, command, shell, version
from frame.registry import Bench
from hotpath.data import small_files, warm

XARGS = 'find "$1" -type f -print0 | xargs -0 -P2 xxhsum -H2'
CLOSERANKS = [str(Path(sys.executable).with_name("closeranks"))]
FILES, QUICK_FILES = 200_000, 20_000
Peer = tuple[str, float, str, Callable[[], Run]]  # name, bound, program, what makes its run


def measure(bench: Bench) -> list[Measured]:
    count = bench.either(FILES, QUICK_FILES)
    tree, copy = bench.base / "tree", bench.base / "copy"
    size = small_files(tree, count)
    subprocess.run(["cp", "-al", tree, copy], check=True)
    warm(tree)
    peers: list[Peer] = [
        ("xargs -P2 xxhsum -H2", 1.1, "xxhsum", lambda: shell(XARGS, tree)),
        ("rsync -rcn", 2.5, "rsync", lambda: command(["rsync", "-rcn", f"{tree}/", f"{copy}/"])),
    ]
    return beside(bench.base, tree, count, peers, bench.either(5, 3), f"{count:,} files, {size / 1e9:.1f} GB")


def beside(
    base: Path, tree: Path, count: int, peers: list[Peer], rounds: int, note: str,
    warmed: Callable[[Run], Run] | None = None,
) -> list[Measured]:  # fmt: skip
    """Our scan and these, in turns. `warmed` reads everything before a run; else a first turn warms up."""

    def scan() -> float:
        return first_scan(base / "state", tree)

    runs: dict[str, Run] = {"ours": scan if warmed is None else warmed(scan)}
    rows: list[Measured] = []
    if peers[0][2] == "xxhsum":
        runs["closeranks hash"] = command([*CLOSERANKS, "hash", tree])
    for name, at_least, _, make in peers:
        try:
            runs[name] = make() if warmed is None else warmed(make())
        except NotInstalled as missing:
            rows.append(unmeasured(f"first scan of small files : {name}", str(missing), at_least))
    taken = interleaved(runs, rounds, warm_up=rounds > 1 and warmed is None)
    for name, at_least, program, _ in peers:
        if name in taken:
            work = f"first scan of small files : {name}"
            told = f"{note}; index written; {version(program)}"
            rows.append(compared(work, taken["ours"], name, taken[name], count, "files/s", at_least, told))
    if "closeranks hash" in taken and peers[0][0] in taken:
        rows.append(
            compared(
                "closeranks hash, whole process", taken["closeranks hash"], peers[0][0], taken[peers[0][0]], count,
                "files/s", None, note,
            )
        )  # fmt: skip
    return rows


def first_scan(state: Path, tree: Path) -> float:
    """An agent's first scan, its index made anew."""
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    words = [sys.executable, "-m", "hotpath.first_scan", os.fspath(tree), os.fspath(state)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    return float(done.stdout)
