"""Write on a node → that node named: settle_s = 1, a scan each second, sixteen agents on this machine.

Both ends are read from this machine's clock: just before the write, and the incident's `named` event.
Writes fall at random moments of the scan interval, on random nodes and files.
"""

from __future__ import annotations

import random
import time
from datetime import datetime
from pathlib import Path

from fleet import Fleet, VolumeSpec, photo_tree
from frame.measured import Measured
from frame.registry import Bench

NODES = 16
ROUNDS = 30
BOUND_S = 4.0


def tree(root: Path) -> None:
    photo_tree(root, files=1000, videos=2)


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    volume = VolumeSpec(on_divergence="alert", settle_s=1.0, scan_interval_s=1.0)
    return measure_named(base, volume, BOUND_S, "")


def measure_named(base: Path, volume: VolumeSpec, bound_s: float, how: str) -> list[Measured]:
    """The same rounds for any volume; `how` marks the rows."""
    rng = random.Random(5)
    taken: list[float] = []
    with Fleet(base / "named", NODES, [volume], tree=tree) as fleet:
        fleet.start()
        fleet.wait_in_rank(timeout_s=120)
        files = sorted(path for path in fleet.pristine().rglob("*.jpg") if not path.is_symlink())
        for _ in range(ROUNDS):
            node = rng.choice(list(fleet.nodes.values()))
            original = rng.choice(files)
            victim = node.path() / original.relative_to(fleet.pristine())
            time.sleep(rng.random())  # any moment of the scan interval is as likely
            known = {incident["id"] for incident in fleet.api.incidents()}
            at = time.time()
            with victim.open("r+b") as file:
                file.write(b"altered")
            taken.append(_named_at(fleet, node.name, known) - at)
            victim.write_bytes(original.read_bytes())
            fleet.wait_in_rank()
        assert len(fleet.accused()) <= NODES
    taken.sort()
    p95 = taken[min(len(taken) - 1, round(0.95 * len(taken)) - 1)]
    median = taken[len(taken) // 2]
    note = (
        f"{ROUNDS} writes, {NODES} agents, settle_s = {volume.settle_s:g}, "
        f"scan_interval_s = {volume.scan_interval_s:g}; most {taken[-1]:.2f} s"
    )
    work = f"write to named{', ' + how if how else ''}"
    return [
        Measured(f"{work}, p95", round(p95, 3), "s", bound_s, note),
        Measured(f"{work}, median", round(median, 3), "s", None),
    ]


def _named_at(fleet: Fleet, node: str, known: set[str]) -> float:
    def look() -> list[float]:
        fresh = [i for i in fleet.api.incidents() if i["id"] not in known]
        wrong = [i["node"] for i in fresh if i["node"] != node]
        assert not wrong, f"accused {wrong}, written on {node}"
        events = [event for i in fresh for event in i["timeline"] if event["event"] == "named"]
        return [datetime.fromisoformat(event["at"]).timestamp() for event in events]

    return fleet.wait(f"{node} is named", look)[0]
