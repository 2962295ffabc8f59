"""A million files of one byte: the first scan's memory, the index on disk, the start with it, a rescan.

Memory is that of the volume's process and of all processes that help it, at the worst tenth of a second, pages
shared with others counted by their share (PSS).
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

from frame.measured import Measured
from frame.registry import Bench

from .process import VolumeProcess
from .trees import deep, flat, many

MB = 1_000_000


def measure(bench: Bench) -> list[Measured]:
    files = bench.either(1_000_000, 100_000)
    tree, state = bench.base / "million", bench.base / "state"
    length = many(tree, files)
    time.sleep(0.1)
    with VolumeProcess(tree, state) as volume:
        volume.ask("open")
        first = volume.ask("scan")
        peak, base = volume.peak_bytes, volume.base_bytes
        rescan = volume.ask("scan")
        assert rescan["changed"] == 0, "nothing changed"
        few = _change(tree, files // 1000)
        time.sleep(0.1)  # then their ctimes tell of every later write
        changed = volume.ask("scan")
        assert changed["changed"] == few, "each of them is seen"
    entries = first["entries"]
    with VolumeProcess(tree, state) as volume:
        opened = volume.ask("open")
        at_rest = volume.peak_bytes
    what = f"{entries:,} entries"
    return [
        Measured(f"first scan of {what}", first["seconds"], "s", None, f"{files / first['seconds']:,.0f} files/s"),
        Measured(
            "  memory, all processes, above the base", round((peak - base) / entries, 1), "B/entry",
            None if bench.quick else 256,  # with fewer entries the processes that help weigh more
        ),
        Measured("  memory, all processes, in all", round(peak / MB, 1), "MB", 200),
        Measured(
            "  index on disk, above the paths' own length", round((volume.index.stat().st_size - length) / entries, 1),
            "B/entry", 160,
        ),
        Measured("  rescan, nothing changed", rescan["seconds"], "s", None),
        Measured("  rescan, 0.1% of the files changed and read", changed["seconds"], "s", None, f"{few:,} files"),
        Measured("  start with that index, until its root is known", opened["seconds"], "s", None),
        Measured("  memory with that index, at rest", round(at_rest / MB, 1), "MB", None),
        *_shapes(bench),
    ]  # fmt: skip


def _change(tree: Path, count: int) -> int:
    """So many files are written anew, one in each of as many directories; how many there were."""
    places = sorted(tree.glob("[0-9]*/*"))  # not in what is ours
    chosen = random.Random(1).sample(places, min(count, len(places)))
    for place in chosen:
        (place / "img_00007.jpg").write_bytes(b"other")
    return len(chosen)


def _shapes(bench: Bench) -> list[Measured]:
    """What is large in one direction."""
    wide, levels = bench.either(500_000, 50_000), 1_000
    flat(bench.base / "flat", wide)
    deep(bench.base / "deep", levels, 10)
    time.sleep(0.1)
    rows: list[Measured] = []
    for name, what in (
        ("flat", f"{wide:,} files in one directory"),
        ("deep", f"{levels:,} levels of 10 files"),
    ):
        with VolumeProcess(bench.base / name, bench.base / f"{name}-state") as volume:
            volume.ask("open")
            first, again = volume.ask("scan"), volume.ask("scan")
            assert again["changed"] == 0, "nothing changed"
            held = round(volume.peak_bytes / MB, 1)
        note = f"rescan {again['seconds']:.2f} s, at most {held:.0f} MB"
        rows.append(Measured(f"first scan, {what}", first["seconds"], "s", None, note))
        rows.append(Measured("  memory, all processes, in all", held, "MB", 200))
    subprocess.run(["rm", "-rf", bench.base / "deep"], check=True)  # deeper than Python's own way can go
    return rows
