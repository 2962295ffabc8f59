"""An agent that watches 200,000 files in 4,000 directories and has nothing to do, by each way of watching.

The tree lies on a disk of its own where that can be had: fanotify watches a whole filesystem, and what others write
beside the volume would be measured too. That is a figure of its own: a process that makes 200 files a second beside
the volume, on the same disk. The two ways are measurements of their own, for each takes three minutes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from fleet import CountingProxy, Fleet, Flood, LoopDisk, VolumeSpec
from frame.measured import Measured
from frame.registry import Bench

FILES, PER_DIRECTORY = 200_000, 50
REST_S = 60.0
BOUND_PERCENT = 0.5


def tree(root: Path) -> None:
    root.mkdir(parents=True)
    for number in range(FILES // PER_DIRECTORY):
        place = root / f"{number // 100:02}" / f"{number:04}"
        place.mkdir(parents=True)
        for index in range(PER_DIRECTORY):
            with open(f"{place}/{index:03}.dat", "wb", buffering=0) as file:
                file.write(b"%08d %08d " % (number, index) * 5)


def fanotify(bench: Bench) -> list[Measured]:
    return one(bench.base, "fanotify")


def inotify(bench: Bench) -> list[Measured]:
    return one(bench.base, "inotify")


def one(base: Path, kind: str) -> list[Measured]:
    if os.geteuid() != 0:
        return _measured(base, base, kind)
    with LoopDisk(base / "disk", base / "disk.img", 4_000_000_000) as disk:
        return _measured(base, disk.path, kind)


def _measured(base: Path, disk: Path, kind: str) -> list[Measured]:
    volume = VolumeSpec(
        policy="writers", settle_s=2.0, scan_interval_s=3600.0, extra={"writers": ["node-01"]}
    )
    with Fleet(base / "fleet", 1, [volume]) as fleet:
        proxy = CountingProxy(fleet.agents_port)
        node = fleet[0]
        node.coordinator_port = proxy.port
        node.paths["photos"] = disk / "photos"
        tree(node.paths["photos"])
        node.volume_extra["photos"] = {"watch": kind}
        fleet.start()
        fleet.wait_in_rank(timeout_s=180)
        time.sleep(10)  # what follows the first scan is over
        share, coordinator, said = at_rest(fleet, node.name, proxy)
        resident = node.daemon.resident_bytes() / 1e6
        used = fleet.api.node(node.name)["volumes"][0].get("watch")
        beside = disk / "beside"
        beside.mkdir()
        flood = Flood(beside, base / "flood.log", "small", size=1000, rate=200, seconds=REST_S + 5)
        busy, _, _ = at_rest(fleet, node.name, proxy)
        flood.stop()
        proxy.close()
        fleet.stop()
    note = f"{FILES:,} files, {REST_S:.0f} s, no scan in them; watched by {used}; {resident:.0f} MB resident"
    return [
        Measured(f"agent at rest, {kind}", round(share, 3), "% of a core", BOUND_PERCENT, note),
        Measured(f"its coordinator meanwhile, {kind}", round(coordinator, 3), "% of a core", None),
        Measured(f"agent at rest on the wire, {kind}", round(said), "B/s", 200, "both directions"),
        Measured(
            f"agent while others write beside the volume, {kind}", round(busy, 3), "% of a core", None,
            "200 files/s on the same disk, outside the volume",
        ),
    ]  # fmt: skip


def at_rest(fleet: Fleet, node: str, proxy: CountingProxy) -> tuple[float, float, float]:
    """Shares of a core of the agent and the coordinator in percent, bytes a second on the wire."""
    daemons = (fleet.nodes[node].daemon, fleet.coordinator)
    proxy.reset()
    before, began = [d.cpu_s() for d in daemons], time.monotonic()
    time.sleep(REST_S)
    spent = time.monotonic() - began
    agent, coordinator = [(d.cpu_s() - b) / spent * 100 for d, b in zip(daemons, before, strict=True)]
    return agent, coordinator, proxy.total / spent
