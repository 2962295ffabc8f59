"""The same small files beside those that take ten times as long. Each runs by itself beside our scan: some of them
leave the page cache unlike they found it.
"""

from __future__ import annotations

import time
from pathlib import Path

from fleet import wait_until
from frame.interleaved import Run
from frame.measured import Measured
from frame.peers import command, version
from frame.registry import Bench
from hotpath.data import small_files, warm
from hotpath.small import FILES, QUICK_FILES, Peer, beside
from replication.members import stop_all
from replication.syncthing import FOLDER, Device


def measure(bench: Bench) -> list[Measured]:
    count = bench.either(FILES, QUICK_FILES)
    tree = bench.base / "tree"
    size = small_files(tree, count)
    note = f"{count:,} files, {size / 1e9:.1f} GB"
    rows: list[Measured] = []
    for peer in peers(bench.base, tree, count):
        warm(tree)
        rows += beside(bench.base, tree, count, [peer], bench.either(2, 1), note)
    return rows


def peers(base: Path, tree: Path, count: int) -> list[Peer]:
    return [
        ("rclone hashsum MD5", 6, "rclone", lambda: command(["rclone", "hashsum", "MD5", tree])),
        ("hashdeep -r", 10, "hashdeep", lambda: command(["hashdeep", "-r", tree])),
        ("Syncthing's first scan", 10, "syncthing", lambda: _syncthing(base / "syncthing", tree, count)),
    ]


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
