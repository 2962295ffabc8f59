"""Write by the rogue → node named, with watchers: settle_s = 0.5, no scan in the way, sixteen agents."""

from __future__ import annotations

from bounds.named import measure_named
from fleet import VolumeSpec
from frame.measured import Measured
from frame.registry import Bench

BOUND_S = 1.0


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    volume = VolumeSpec(on_divergence="alert", settle_s=0.5, scan_interval_s=300.0)
    return measure_named(base, volume, BOUND_S, "watched")
