"""Measure all bounds, or those named, and exit 1 where one does not hold."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bounds import memory, named, transfer, wire
from bounds.table import Measured, save, show

MEASUREMENTS: dict[str, Callable[[Path], list[Measured]]] = {
    "transfer": transfer.measure,
    "named": named.measure,
    "wire": wire.measure,
    "memory": memory.measure,
}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    results: list[Measured] = []
    for name in names or list(MEASUREMENTS):
        base = Path(tempfile.mkdtemp(prefix=f"closeranks-{name}-"))
        started = time.monotonic()
        try:
            found = MEASUREMENTS[name](base)
        finally:
            shutil.rmtree(base, ignore_errors=True)
        print(f"{name}: measured in {time.monotonic() - started:.0f} s", file=sys.stderr)
        save(found, RESULTS / f"{name}.json")
        results += found
    show(results)
    broken = [m.work for m in results if not m.holds]
    if broken:
        print(f"{len(broken)} bounds do not hold: {'; '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
