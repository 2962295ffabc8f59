"""Running measurements by name: each in a directory of its own, a JSON for each, one table of all."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bounds.table import Measured, save, show

RESULTS = Path(__file__).resolve().parents[1] / "results"


def run(
    measurements: Mapping[str, Callable[[Path], list[Measured]]], names: list[str], prefix: str = ""
) -> int:
    """0 where all hold, 1 where a bound is broken, 2 for a name that is not known."""
    unknown = [name for name in names if name not in measurements]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(measurements)}", file=sys.stderr)
        return 2
    results: list[Measured] = []
    for name in names or list(measurements):
        base = Path(tempfile.mkdtemp(prefix=f"closeranks-{name}-"))
        started = time.monotonic()
        try:
            found = measurements[name](base)
        finally:
            shutil.rmtree(base, ignore_errors=True)
        print(f"{name}: measured in {time.monotonic() - started:.0f} s", file=sys.stderr)
        save(found, RESULTS / f"{prefix}{name}.json")
        results += found
    show(results)
    broken = [m.work for m in results if not m.holds]
    if broken:
        print(f"{len(broken)} bounds do not hold: {'; '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0
