"""200,000 small files: our first scan with its index written, beside what others take to hash them.

"Two copies" for rsync are hard links: it reads both names of each file, and the page cache holds them once. The
slow ones run less often and last: some of them leave the page cache unlike they found it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fleet import wait_until
from frame.interleaved import Run, interleaved
from frame.measured import Measured, compared, unmeasured
from frame.peers import NotInstalled, command, shell, version
from frame.registry import Bench
from hotpath.data import small_files, warm
from replication.members import stop_all
from replication.syncthing import FOLDER, Device

XARGS = 'find "$1" -type f -print0 | xargs -0 -P2 xxhsum -H2'
SYNCTHING_MAX_S = 240.0
CLOSERANKS = [str(Path(sys.executable).with_name("closeranks"))]


def measure(bench: Bench) -> list[Measured]:
    count = bench.either(200_000, 20_000)
    tree, copy = bench.base / "tree", bench.base / "copy"
    size = small_files(tree, count)
    subprocess.run(["cp", "-al", tree, copy], check=True)
    warm(tree)
    note = f"{count:,} files, {size / 1e9:.1f} GB"
    fast: list[Peer] = [
        ("xargs -P2 xxhsum -H2", 1.1, "xxhsum", lambda: shell(XARGS, tree)),
        ("rsync -rcn", 2.5, "rsync", lambda: command(["rsync", "-rcn", f"{tree}/", f"{copy}/"])),
    ]
    slow: list[Peer] = [
        ("rclone hashsum MD5", 6, "rclone", lambda: command(["rclone", "hashsum", "MD5", tree])),
        ("hashdeep -r", 10, "hashdeep", lambda: command(["hashdeep", "-r", tree])),
        (
            "Syncthing's first scan",
            10,
            "syncthing",
            lambda: _syncthing(bench.base / "syncthing", tree, count),
        ),
    ]
    rows = _beside(bench.base, tree, count, fast, bench.either(5, 3), note)
    for peer in slow:
        rows += _beside(bench.base, tree, count, [peer], bench.either(2, 1), note)
    return rows


Peer = tuple[str, float, str, Callable[[], Run]]


def _beside(base: Path, tree: Path, count: int, peers: list[Peer], rounds: int, note: str) -> list[Measured]:
    """Our scan and these, in turns."""
    runs: dict[str, Run] = {"ours": lambda: first_scan(base / "state", tree)}
    rows: list[Measured] = []
    if peers[0][2] == "xxhsum":
        runs["closeranks hash"] = command([*CLOSERANKS, "hash", tree])
    for name, at_least, _, make in peers:
        try:
            runs[name] = make()
        except NotInstalled as missing:
            rows.append(unmeasured(f"first scan of small files : {name}", str(missing), at_least))
    taken = interleaved(runs, rounds, warm_up=rounds > 1)
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


def _syncthing(base: Path, tree: Path, count: int) -> Run:
    """From the first answer of a fresh Syncthing until its folder is idle and has every file."""
    number = 0
    version("syncthing")

    def run() -> float:
        nonlocal number
        number += 1
        place = base / f"{number}"
        place.mkdir(parents=True)
        device = Device(place, 0)
        device.path = tree
        device.configure([device], 1)
        (tree / ".stfolder").mkdir(exist_ok=True)
        device.daemon.start()
        try:
            wait_until("Syncthing answers", lambda: _state(device) is not None, timeout_s=60)
            began = time.perf_counter()
            wait_until(
                "Syncthing has scanned",
                lambda: _state(device) == ("idle", count),
                timeout_s=600,
                every_s=0.05,
            )
            return time.perf_counter() - began
        finally:
            stop_all([device.daemon])
            (tree / ".stfolder").rmdir()

    return run


def _state(device: Device) -> tuple[str, int] | None:
    """(state, files known) of its folder; None while it does not answer."""
    try:
        found = device.ask(f"/rest/db/status?folder={FOLDER}")
    except (OSError, ValueError):
        return None
    return found["state"], found["localFiles"]
