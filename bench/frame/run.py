"""Running measurements by name: each in a directory of its own, a JSON for each, one table and one JSON of all."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .machine import describe
from .measured import Measured, save, show
from .registry import Bench, Entry

RESULTS = Path(__file__).resolve().parents[1] / "results"


def run(
    entries: Mapping[str, Entry], names: Sequence[str], quick: bool = False, place: Path | None = None
) -> int:
    """0 where all bounds hold, 1 where one is broken or was not measured, 2 for a name that is not known."""
    unknown = [name for name in names if name not in entries]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(entries)}", file=sys.stderr)
        return 2
    if place is not None and not place.is_dir():
        print(f"--dir {place}: there is no such directory; make it, or name another one", file=sys.stderr)
        return 2
    chosen = list(names) or [name for name, entry in entries.items() if entry.quick or not quick]
    results: list[Measured] = []
    machine = describe(Path(tempfile.gettempdir()) if place is None else place)
    for name in chosen:
        base = Path(tempfile.mkdtemp(prefix=f"closeranks-{name}-", dir=place))
        started = time.monotonic()
        print(f"{name}: {entries[name].text}", file=sys.stderr)
        try:
            found = entries[name].load()(Bench(base, quick))
        finally:
            shutil.rmtree(base, ignore_errors=True)
        print(f"{name}: measured in {time.monotonic() - started:.0f} s", file=sys.stderr)
        save(found, machine, RESULTS / f"{name}{'-quick' if quick else ''}.json")
        results += found
    show(results, machine)
    save(results, machine, RESULTS / f"bench{'-quick' if quick else ''}.json")
    broken = [m.work for m in results if not m.holds]
    if broken:
        print(f"{len(broken)} bounds do not hold: {'; '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0
