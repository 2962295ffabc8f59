"""Commits of sixteen nodes in sync: how many edits/s the coordinator takes, and how soon it names a rogue meanwhile.

First all commit the same steps as fast as they are acknowledged. Then they do so at the promised rate, and one of
them, in a process of its own, changes now and then a file that nobody else changes: from its write until its
incident says `named`, both by this machine's clock.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from fleet import VolumeSpec
from frame.measured import Measured
from frame.registry import Bench
from scale.rig import Rig, latest

NODES = (8, 7, 1)
EDITS = 64  # of one commit
SETTLE_S = 0.5
RATE = 20_000
VERDICT_MAX_S = 1.0


def measure(bench: Bench) -> list[Measured]:
    volume = VolumeSpec(
        on_divergence="alert",
        settle_s=SETTLE_S,
        scan_interval_s=60.0,
        extra={"on_lag": "wait", "audit_interval_s": 0},
    )
    files, steps = bench.either(1_000_000, 100_000), bench.either(600, 200)
    with Rig(bench.base / "commits", NODES, files, volume) as rig:
        rig.all("connect")
        rig.wait_in_rank()
        results = [throughput(rig, 0, steps, False)]
        rig.wait_in_rank()
        results += _verdicts(rig, steps, bench.either(8, 3))
        rig.check()
    return results


def throughput(rig: Rig, first: int, steps: int, spread: bool) -> Measured:
    """Everybody commits as fast as it is acknowledged."""
    rig.all("prepare", steps=first + steps, edits=EDITS, spread=spread)
    cpu, began = rig.cpu_s, time.monotonic()
    rig.all("commit", first=first, steps=steps, edits=EDITS, rate=None, spread=spread)
    took, spent = time.monotonic() - began, rig.cpu_s - cpu
    nodes = sum(rig.shares)
    edits = steps * EDITS * nodes
    return Measured(
        f"{RATE:,} edits in commits of {nodes} nodes in sync, acknowledged", round(took / edits * RATE, 3), "s", 1,
        f"{edits / took:,.0f} edits/s, commits of {EDITS}{' scattered' if spread else ' in one place'}; "
        f"{edits / spent:,.0f} in a processor second of the coordinator",
    )  # fmt: skip


def _verdicts(rig: Rig, first: int, rounds: int) -> list[Measured]:
    """All at the promised rate; the rogue follows the others' steps and strays."""
    nodes = sum(rig.shares)
    each = RATE / nodes
    steps = int(rounds * 2.5 * each / EDITS) + 1
    rig.all("prepare", steps=first + steps, edits=EDITS, spread=False)
    wakes, cpu, began = rig.wakes(), rig.cpu_s, time.monotonic()
    regulars, rogue = rig.loads[:-1], rig.loads[-1]
    for load in regulars:
        load.tell("commit", first=first, steps=steps, edits=EDITS, rate=each, spread=False)
    rogue.do("commit", first=first, steps=steps, edits=EDITS, rate=each, spread=False, aside=True)
    taken: list[float] = []
    known: set[str] = set()
    for _ in range(rounds):
        time.sleep(0.3)
        at = float(rogue.do("stray", agent=0)["at"])
        taken.append(_named_at(rig, known) - at)
        rogue.do("heal", agent=0)
        _healed(rig)
    for load in regulars:
        load.hear()
    rogue.do("finish")
    took, spent = time.monotonic() - began, rig.cpu_s - cpu
    edits = steps * EDITS * nodes
    taken.sort()
    late = latest(wakes, rig.wakes())
    return [
        Measured(
            "a rogue's write -> named, under this load: most of all", round(taken[-1], 3), "s", VERDICT_MAX_S,
            f"{rounds} writes, median {taken[len(taken) // 2]:.2f} s, settle_s = {SETTLE_S:g}; meanwhile "
            f"{edits / took:,.0f} edits/s, {spent / took:.0%} of a core, the event loop late by {late:g} s at most",
        )
    ]  # fmt: skip


def _named_at(rig: Rig, known: set[str]) -> float:
    def look() -> list[Any]:
        fresh = [one for one in rig.fleet.api.incidents(kind="divergence") if one["id"] not in known]
        return [event for one in fresh for event in one["timeline"] if event["event"] == "named"]

    found = rig.fleet.wait("the rogue is named", look, timeout_s=60)
    known.update(one["id"] for one in rig.fleet.api.incidents())
    return datetime.fromisoformat(found[0]["at"]).timestamp()


def _healed(rig: Rig) -> None:
    rig.fleet.wait(
        "its difference is gone", lambda: rig.fleet.api.incidents(kind="divergence", state="open"),
        lambda found: not found, timeout_s=60,
    )  # fmt: skip
