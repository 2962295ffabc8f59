"""The same small files beside those that take ten times as long. Each is a row of its own, so that it fits a quiet
window, and runs by itself beside our scan: some of them leave the page cache unlike they found it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fleet import wait_until
from frame.interleaved import Run, seconds
from frame.measured import Measured
from frame.peers import command, version
from frame.registry import Bench
from hotpath.data import small_files, warm
from hotpath.small import FILES, QUICK_FILES, Peer, beside
from replication.members import stop_all
from replication.syncthing import FOLDER, Device


def rclone(bench: Bench) -> list[Measured]:
    return _alone(
        bench, ("rclone hashsum MD5", 6, "rclone", lambda tree: command(["rclone", "hashsum", "MD5", tree]))
    )


def hashdeep(bench: Bench) -> list[Measured]:
    return _alone(bench, ("hashdeep -r", 10, "hashdeep", lambda tree: command(["hashdeep", "-r", tree])))


def syncthing(bench: Bench) -> list[Measured]:
    count = bench.either(FILES, QUICK_FILES)
    place = bench.base / "syncthing"
    return _alone(
        bench, ("Syncthing's first scan", 10, "syncthing", lambda tree: _syncthing(place, tree, count))
    )


def _alone(bench: Bench, peer: tuple[str, float, str, Callable[[Path], Run]]) -> list[Measured]:
    count = bench.either(FILES, QUICK_FILES)
    tree = bench.base / "tree"
    size = small_files(tree, count)
    name, at_least, program, make = peer
    note = f"{count:,} files, {size / 1e9:.1f} GB"
    one: Peer = (name, at_least, program, lambda: make(tree))
    return beside(bench.base, tree, count, [one], bench.either(2, 1), note, lambda run: _warmed(tree, run))


def _warmed(tree: Path, run: Run) -> Run:
    """The page cache has everything when it begins: what was not touched for half a minute may have left."""

    def warmed() -> float:
        warm(tree)
        return seconds(run)

    return warmed


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
                lambda: _has_all(_state(device), count),
                timeout_s=600,
                every_s=0.05,
            )
            return time.perf_counter() - began
        finally:
            stop_all([device.daemon])
            (tree / ".stfolder").rmdir()

    return run


def _has_all(state: tuple[str, int] | None, count: int) -> bool:
    """Our scan has left a file of its own in the tree, which Syncthing counts too."""
    return state is not None and state[0] == "idle" and state[1] >= count


def _state(device: Device) -> tuple[str, int] | None:
    """(state, files known) of its folder; None while it does not answer."""
    try:
        found = device.ask(f"/rest/db/status?folder={FOLDER}")
    except (OSError, ValueError):
        return None
    return found["state"], found["localFiles"]
