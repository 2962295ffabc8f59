"""A new version of a whole volume rolls over a fleet, node after node: how long the core's longest step takes.

The core is driven directly, as its task drives it: one event, one step. While a step runs the coordinator answers
nobody, so its longest one is what a health check, a load balancer and every other agent may have to wait.
"""

from __future__ import annotations

import gc
import random
import statistics
import time

from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import (
    Connected,
    Event,
    FleetConfig,
    Now,
    Persist,
    RootStored,
    Scanned,
    Tick,
    VolumeConfig,
)
from closeranks_proto.digests import XXH3_128
from closeranks_proto.tree import Tree
from frame.measured import Measured
from frame.registry import Bench
from scale.generated import items
from scale.load import node_name

NODES = 16
APART_S = 2.0  # between one node and the next
SETTLE_S = 30.0
BLOCK_MAX_S = 0.1


class Driven:
    """A core on invented time; `taken` are the seconds of its steps, with the event of each."""

    def __init__(self, names: tuple[str, ...], objects: dict[bytes, bytes]) -> None:
        self.mono, self.objects = 1000.0, objects
        self.taken: list[tuple[float, str]] = []
        volume = VolumeConfig(
            name="photos", policy="quorum", nodes=names, on_divergence="alert", settle_s=SETTLE_S, settle_max_s=600.0,
            scan_interval_s=60.0, on_lag="wait", lag_grace_s=10.0, chunk_bytes=1 << 20, ignore=(), track=("mode",),
            special_bits=False, trash_max_bytes=None, trash_keep_s=86400.0,
        )  # fmt: skip
        config = FleetConfig(
            digest="xxh3-128", nodes=names, max_quarantined=1, auto_release_max=3, auto_release_window_s=3600.0,
            lb_max_lag_s=300.0, lb_unreachable_grace_s=30.0, volumes=(volume,), history_keep_s=7 * 86400.0,
        )  # fmt: skip
        self.fleet = Fleet(config, XXH3_128, objects.__getitem__, (), self._now(), random.Random(1))

    def _now(self) -> Now:
        return Now(self.mono, int(self.mono * 1000))

    def step(self, event: Event) -> None:
        began = time.perf_counter()
        step = self.fleet.step(self._now(), event)
        self.taken.append((time.perf_counter() - began, type(event).__name__))
        for effect in step.effects:
            if isinstance(effect, Persist):
                self.objects.update(effect.objects)

    def foreseen(self, root: bytes) -> list[float]:
        """What a session has done ahead of the step, in slices between which others have their turn: their seconds."""
        taken: list[float] = []
        began = time.perf_counter()
        for _ in self.fleet.foresee("photos", root):
            taken.append(time.perf_counter() - began)
            began = time.perf_counter()
        return [*taken, time.perf_counter() - began]

    def run(self, seconds: float) -> None:
        """Ticks, as often as the coordinator's."""
        for _ in range(round(seconds)):
            self.mono += 1.0
            self.step(Tick())


def measure(bench: Bench) -> list[Measured]:
    files = bench.either(100_000, 20_000)
    objects: dict[bytes, bytes] = {}
    tree = Tree(XXH3_128, objects.__getitem__)
    roots: list[bytes] = []
    for salt in (b"", b"new"):
        made = tree.build(items(files, salt))
        objects.update(made.pages)
        roots.append(made.root)
    names = tuple(node_name(number) for number in range(NODES))
    driven = Driven(names, objects)
    for name in names:
        driven.step(Connected(name, f"s-{name}", f"id-{name}", "127.0.0.1:9", 0, None, ("photos",)))
        driven.step(RootStored(name, "photos", roots[0], "scan", driven.mono))
        driven.step(Scanned(name, "photos", driven.mono))
    driven.run(3)
    assert {driven.fleet.state(driven._now(), name) for name in names} == {"in_rank"}
    driven.taken.clear()
    gc.collect()
    slices = [0.0]
    for name in names:
        slices += driven.foreseen(roots[1])
        driven.step(RootStored(name, "photos", roots[1], "scan", driven.mono))
        driven.step(Scanned(name, "photos", driven.mono))
        driven.run(APART_S)
    driven.run(SETTLE_S + 5)
    view = driven.fleet.fleet_view(driven._now())
    assert view.in_rank, "the new version is the truth, and nobody was accused"
    assert not driven.fleet.incident_ids()
    longest, event = max(driven.taken)
    share = statistics.median(taken for taken, _ in driven.taken)
    work = f"{files:,} changed files roll over {NODES} nodes"
    return [
        Measured(
            f"{work}: the core's longest step", round(longest, 3), "s", BLOCK_MAX_S,
            f"at a {event}; {len(driven.taken)} steps, {sum(one for one, _ in driven.taken):.2f} s in all, median "
            f"{share * 1000:.2f} ms; before them {sum(slices):.2f} s in slices of {max(slices):.3f} s at most",
        )
    ]  # fmt: skip
