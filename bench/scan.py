"""What scanning costs: first scan, rescans, memory; beside `find` and `rsync` on the same tree.

    .venv/bin/python bench/scan.py [files] [photos|flat|deep] [directory]

Makes a tree of that many files (20,000 by default) in a temporary directory, or below `directory`, scans it
in a process of its own and prints a table; the last line is the same as JSON. Everything is in the page
cache. Photos are 100 files a directory of 1 to 60 KB, flat is one directory of empty files, deep has ten
files on each level.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from closeranks_agent.disk.volume import Volume
from closeranks_proto.digests import XXH3_128
from closeranks_proto.messages import VolumeSettings

ROUNDS = 5
SETTLE_S = 0.05
SETTINGS = VolumeSettings("bench", 1 << 20, ("*.tmp", "cache/"), ("mode",), 60.0, False, None, 604800.0)


def place_of(shape: str, number: int) -> str:
    if shape == "flat":
        return f"img_{number:06}.jpg"
    if shape == "deep":
        return "/".join(["level"] * (number // 10 % 500) + [f"{number // 5000}_{number % 10}"])
    return f"{2000 + number // 50_000}/album-{number // 100:05}/img_{number % 100:05}.jpg"


def make_tree(root: Path, count: int, shape: str) -> int:
    """The bytes written."""
    rng = random.Random(1)
    block = rng.randbytes(60_000)
    total = 0
    made: set[Path] = set()
    for number in range(count):
        path = root / place_of(shape, number)
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        size = rng.randrange(1_000, 60_000) if shape == "photos" else 0
        path.write_bytes(block[:size])
        total += size
    return total


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds by the wall, seconds of processor)."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def scan_all(root: Path, state: Path, count: int, shape: str) -> dict[str, float]:
    """In a process of its own, so that memory is the scan's."""
    found: dict[str, float] = {"resident before, MB": resident_mb()}
    volume = Volume("bench", os.fsencode(root), state, SETTINGS, XXH3_128)
    found["first scan, s"], found["first scan, CPU s"] = measured(volume.scan)
    time.sleep(SETTLE_S)
    volume.scan()
    rounds = [measured(volume.scan) for _ in range(ROUNDS)]
    found["rescan unchanged, s"] = statistics.median(wall for wall, _ in rounds)
    found["rescan unchanged, CPU s"] = statistics.median(cpu for _, cpu in rounds)
    rounds = [measured(lambda: volume.scan(full=True)) for _ in range(3)]
    found["rescan, every entry compared, s"] = statistics.median(wall for wall, _ in rounds)
    rng = random.Random(2)
    rounds = []
    for _ in range(3):
        for number in rng.sample(range(count), max(1, count // 1000)):
            (root / place_of(shape, number)).write_bytes(b"changed")
        rounds.append(measured(volume.scan))
    found["rescan, 0.1% changed, s"] = statistics.median(wall for wall, _ in rounds)
    found["rescan, 0.1% changed, CPU s"] = statistics.median(cpu for _, cpu in rounds)
    volume.close()
    again: list[Volume] = []
    found["open a known volume, s"], _ = measured(
        lambda: again.append(Volume("bench", os.fsencode(root), state, SETTINGS, XXH3_128))
    )
    again[0].scan()
    found["resident, MB"] = resident_mb()
    found["resident at most, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    found["index on disk, MB"] = sum(path.stat().st_size for path in state.iterdir()) / 1e6
    again[0].close()
    return found


def others(root: Path) -> dict[str, float]:
    """The same tree, stats only, by other programs."""
    found: dict[str, float] = {}
    commands = {
        "find -printf, s": ["find", str(root), "-printf", "%p %s %T@ %C@ %i\n"],
        "rsync -an, s": ["rsync", "-an", "--delete", f"{root}/", f"{root}/"],
    }
    for name, command in commands.items():
        if shutil.which(command[0]):
            run = partial(subprocess.run, command, stdout=subprocess.DEVNULL, check=True)
            found[name] = statistics.median(measured(run)[0] for _ in range(3))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=int, nargs="?", default=20_000)
    parser.add_argument("shape", choices=["photos", "flat", "deep"], nargs="?", default="photos")
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(scan_all(given.child[0], given.child[1], given.files, given.shape)))
        return 0
    with tempfile.TemporaryDirectory(prefix="closeranks-scan-", dir=given.directory) as work:
        root, state = Path(work) / "tree", Path(work) / "state"
        root.mkdir()
        state.mkdir()
        size = make_tree(root, given.files, given.shape)
        time.sleep(SETTLE_S)
        print(f"{given.files:,} files, {size / 1e6:,.0f} MB, {given.shape}, in {work}")
        command = [sys.executable, __file__, str(given.files), given.shape, "--child", str(root), str(state)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        found = json.loads(answer) | others(root)
        subprocess.run(["rm", "-rf", str(root)], check=True)  # deeper than Python's own way can go
    for name, value in found.items():
        rate = (
            f"{given.files / value:>12,.0f} files/s"
            if name.endswith(" s") and value and "open" not in name
            else ""
        )
        print(f"  {name:<36}{value:>10.3f}{rate}")
    print(json.dumps({"files": given.files, "shape": given.shape} | found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
