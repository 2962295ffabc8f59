"""A process that writes at full disk speed on one writer: how soon it is stopped from spreading, and at how much.

The writer's tree lies on a disk of its own (ext4 in a file of 24 GB, so that a tenth of it is more than 2 GB).
"Held" is the moment from which nothing of it can be spread any more, as the incident says; "shown" the one when the
API says that the node is held or fenced, which it does when the hold is durable: on this machine the flood, the
coordinator and all agents have one disk, and a write waits for what the flood has written. What had been written by
either moment comes from the writing process itself. Afterwards no replica may hold a byte of it.

Memory that a virtual machine's host took back costs seconds a gigabyte when it is touched again, and the page cache
is then no faster than a disk. So as much as the flood may take is touched right before it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from fleet import Fleet, Waited, photo_tree, wait_until
from fleet.flood_process import Flood
from fleet.loop_disk import LoopDisk
from frame.measured import Measured, unmeasured
from frame.registry import Bench
from replication.latency import writers_volume

NODES = 4
DISK = 24_000_000_000
LIMIT = 12_000_000_000
AT_HAND = 5_000_000_000  # twice of what may be written
BOUND_S = 5.0
BOUND_BYTES = max(2_000_000_000, DISK // 10)
STOPPED = ("held", "quarantined")
SHAPES = ("grow", "large", "small")


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    if os.geteuid() != 0:
        return [unmeasured("runaway", "a disk of its own needs root")]
    results: list[Measured] = []
    for shape in SHAPES:
        results += one(base / shape, shape)
    return results


def one(base: Path, shape: str) -> list[Measured]:
    fleet = Fleet(base, NODES, [writers_volume("node-01")], tree=lambda root: photo_tree(root, 400, 2))
    writer = fleet[0]
    with LoopDisk(writer.base / "disk", base / "disk.img", DISK) as disk, fleet:
        writer.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        time.sleep(3)
        _touch(AT_HAND)
        began = time.monotonic()
        flood = Flood(writer.path(), base / "flood.log", shape, limit=LIMIT)
        shown_at = _shown(fleet, writer.name)
        flood.stop()
        incidents = fleet.api.incidents(kind="runaway")
        held_at = _moment(incidents[0]["opened_at"]) if incidents else shown_at
        written, written_shown = flood.written_by(held_at), flood.written_by(shown_at)
        rate = written / (held_at - began)
        time.sleep(5)  # time for a byte to reach a replica, which must not
        spread = [name for name, found in fleet.compare(nodes=list(fleet.nodes)[1:]).items() if found]
        texts = [i["timeline"][0]["text"] for i in incidents]
        fleet.stop()
    note = f"{rate / 1e6:,.0f} MB/s; {texts[0] if texts else 'no incident'}"
    return [
        Measured(f"runaway, {shape}: until held", round(held_at - began, 2), "s", BOUND_S, note),
        Measured(f"runaway, {shape}: written until held", written, "B", BOUND_BYTES, f"disk of {DISK:,} B"),
        Measured(
            f"runaway, {shape}: written until that is shown",
            written_shown,
            "B",
            None,
            f"after {shown_at - began:.2f} s",
        ),
        Measured(f"runaway, {shape}: replicas that got any of it", len(spread), "nodes", 1),
    ]


def _touch(size: int) -> None:
    """Have so much memory given to this machine, and free; in a process that ends."""
    code = f"import mmap; m = mmap.mmap(-1, {size}); [m.__setitem__(at, 1) for at in range(0, {size}, 4096)]"
    subprocess.run([sys.executable, "-c", code], check=True)


def _moment(told: str) -> float:
    """A time that the API told, on this machine's monotonic clock."""
    return datetime.fromisoformat(told).timestamp() - time.time() + time.monotonic()


def _shown(fleet: Fleet, node: str, timeout_s: float = 20.0) -> float:
    """The moment when the API first says so; now, if it did not within the limit."""

    def look() -> Any:
        return fleet.api.node(node)["state"]

    try:
        wait_until(f"{node} is held", look, lambda s: s in STOPPED, timeout_s, 0.01, fleet.check_alive)
    except Waited:
        pass  # the figure is then far beyond its bound, and is shown
    return time.monotonic()
