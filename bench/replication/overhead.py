"""What watching adds to a process that writes much: the same agent with its watcher and without, in turns.

Compared are agents that differ in `watch` alone: with `rescan` nothing tells of changes, and no scan is due. Nobody
syncs but SQLite, as its settings have it, and the agent its index, on the same filesystem: what is measured is the page
cache's speed, where an event weighs most. The coordinator's files lie in memory, as it is another machine's disk that
they are on: what it syncs would be waited for by the writer.

Three writers, each for two seconds or so: `tar` unpacks files of 30 KB (each of them is nine events); `cat`
writes one file of 1 GiB over and over, 128 KB a write, from one that is in memory to one that is; a database in WAL
mode takes small transactions, in the volume or beside it on the same filesystem.

The bound is about the wall clock. The writer's own processor time is shown beside it: it says what of the rest is the
kernel's work for the watcher, done in the writer's time; the difference is the agent's use of the machine's other core
and its caches. The interval is the median's.

Ten pairs of a database, which waits for a disk, do not tell 3% from nothing: there are as many as make the interval
narrow enough to, or as there is time for. That looks at how wide it is, and not at where it lies.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fleet import Fleet, VolumeSpec, small_tree, wait_until
from frame.interval import CONFIDENCE, interval
from frame.measured import Measured, unmeasured
from frame.peers import NotInstalled, find
from frame.registry import Bench

UNPACK = str(Path(__file__).with_name("unpack.py"))
BOUND_PERCENT = 3.0
STATES = ("rescan", "fanotify", "inotify")
PAIRS = 10
LONG_PAIRS = 20  # a few that lie close together by chance are no narrow interval
NARROW_PERCENT = 1.25  # half of an interval's width, of all watched states
NARROWED_S = 1300.0
Run = tuple[float, float]  # wall and processor seconds of the writer


@dataclass(frozen=True, slots=True)
class Writer:
    """`words`: the command, without its place, which comes last. `text`: what it does. `beside`: not in the volume."""

    name: str
    text: str
    words: Sequence[str]
    beside: bool = False
    long: bool = False  # turns go on until the intervals are narrow


def files(bench: Bench) -> list[Measured]:
    count = bench.either(40_000, 4_000)
    try:
        tar = find("tar")
    except NotInstalled as missing:
        return [unmeasured("tar", str(missing), bound=BOUND_PERCENT)]
    archive = archived(bench, tar, count)
    return _measure(bench, Writer("tar -x", f"{count:,} files of 30 KB", [tar, "-xf", str(archive), "-C"]))


def many(bench: Bench) -> list[Measured]:
    """The same for five seconds and more: what a storm costs, and not its beginning alone."""
    count = bench.either(160_000, 16_000)
    try:
        tar = find("tar")
    except NotInstalled as missing:
        return [unmeasured("tar", str(missing), bound=BOUND_PERCENT)]
    archive = archived(bench, tar, count, 8_000)
    words = [tar, "-xf", str(archive), "-C"]
    return _measure(bench, Writer("tar -x, long", f"{count:,} files of 8 KB", words))


def archived(bench: Bench, tar: str, count: int, size: int = 30_000) -> Path:
    """An archive of so many files of so many bytes."""
    source, archive = bench.base / "source", bench.base / "archive.tar"
    subprocess.run(
        [sys.executable, "-I", UNPACK, "files", str(count), str(source), str(size)],
        check=True,
        capture_output=True,
    )
    subprocess.run([tar, "-cf", str(archive), "-C", str(source), "."], check=True)
    shutil.rmtree(source)
    return archive


def large(bench: Bench) -> list[Measured]:
    times, source = bench.either(10, 3), bench.base / "source"
    with source.open("wb") as file:
        for _ in range(1024):
            file.write(os.urandom(1 << 20))
    line = 'for _ in $(seq "$1"); do cat "$2" 1<>"$3/long"; done'
    words = ["bash", "-c", line, "bench", str(times), str(source)]
    return _measure(bench, Writer("long file", f"1 GiB written {times} times over by cat", words))


def database(bench: Bench) -> list[Measured]:
    count = bench.either(100_000, 15_000)
    words = [sys.executable, "-I", UNPACK, "database", str(count)]
    return _measure(
        bench, Writer("SQLite", f"{count:,} transactions, WAL, synchronous NORMAL", words, long=True)
    )


def lasting(bench: Bench) -> list[Measured]:
    """The same database for ten seconds: the half second until a hush begins weighs a third of what it does there."""
    count = bench.either(300_000, 30_000)
    words = [sys.executable, "-I", UNPACK, "database", str(count)]
    text = f"{count:,} transactions, WAL, synchronous NORMAL"
    return _measure(bench, Writer("SQLite, long", text, words, long=True))


def beside(bench: Bench) -> list[Measured]:
    """The same database on the volume's filesystem, but not in the volume: nothing of it concerns the agent."""
    count = bench.either(100_000, 15_000)
    words = [sys.executable, "-I", UNPACK, "database", str(count)]
    text = f"{count:,} transactions beside the volume on its filesystem"
    return _measure(bench, Writer("SQLite beside", text, words, beside=True, long=True))


def _measure(bench: Bench, writer: Writer) -> list[Measured]:
    volume = VolumeSpec(
        policy="writers", settle_s=2.0, scan_interval_s=3600.0, extra={"writers": ["node-01"]}
    )
    with (
        TemporaryDirectory(dir="/dev/shm") as elsewhere,
        Fleet(bench.base / "fleet", 1, [volume], tree=small_tree, guards={"enabled": False}) as fleet,
    ):
        fleet.state_dir = Path(elsewhere)
        fleet.lay_trees()
        fleet.start_coordinator()
        pairs = bench.either(LONG_PAIRS if writer.long else PAIRS, 6)
        return rows(
            writer, turns(fleet, writer, pairs, NARROWED_S if writer.long and not bench.quick else 0.0)
        )


def turns(fleet: Fleet, writer: Writer, pairs: int, limit_s: float) -> dict[str, list[Run]]:
    """So many turns, and more until the intervals are narrow, but only for so long."""
    rng = random.Random(3)
    taken: dict[str, list[Run]] = {state: [] for state in STATES}
    once(fleet, "rescan", writer)  # warms up the disk's cache and allocator
    began = time.monotonic()
    turn = 0
    while turn < pairs or (time.monotonic() - began < limit_s and not is_narrow(taken)):
        turn += 1
        for state in rng.sample(STATES, len(STATES)):
            taken[state].append(once(fleet, state, writer))
        told = " ".join(f"{s} {taken[s][-1][0]:.2f}/{taken[s][-1][1]:.2f}" for s in STATES)
        print(f"  {writer.name}, turn {turn}: {told} s", file=sys.stderr)
    return taken


def is_narrow(taken: dict[str, list[Run]]) -> bool:
    """Whether the intervals of the watched states' wall clock are narrow enough to tell 3% from nothing."""
    return all(
        high - low < 2 * NARROW_PERCENT for low, high in (interval(more(taken, s, 0)) for s in STATES[1:])
    )


def more(taken: dict[str, list[Run]], state: str, at: int) -> list[float]:
    """Of each pair, by how many percent a watched run took longer (`at` 0) or more of the processor (1)."""
    return [
        (mine[at] / base[at] - 1) * 100 for mine, base in zip(taken[state], taken[STATES[0]], strict=True)
    ]


def once(fleet: Fleet, state: str, writer: Writer) -> Run:
    node = fleet[0]
    node.volume_extra["photos"] = {"watch": state}
    node.start()
    fleet.wait_state(node, "in_rank", timeout_s=60)
    time.sleep(0.3)
    place = (fleet.base if writer.beside else node.path()) / "written"
    place.mkdir()
    os.sync()  # no run pays for what the one before left to be written
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*writer.words, str(place)], check=True, capture_output=True, timeout=300)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    node.daemon.kill()  # what it has still to read is nobody's time; its state is made anew by the next
    shutil.rmtree(place)
    wait_until("the directory is gone", lambda: not place.exists())
    return took, used


def rows(writer: Writer, taken: dict[str, list[Run]]) -> list[Measured]:
    plain = taken["rescan"]
    wall = statistics.median(run[0] for run in plain)
    results = [
        Measured(
            f"{writer.name}: {writer.text}, not watched", round(wall, 2), "s", None,
            f"{statistics.median(run[1] for run in plain):.2f} s of processor time; {len(plain)} runs",
        )
    ]  # fmt: skip
    for state in STATES[1:]:
        for at, name, bound in ((0, "time", BOUND_PERCENT), (1, "processor time", None)):
            pairs = more(taken, state, at)
            low, high = interval(pairs)
            results.append(
                Measured(
                    f"{writer.name}: more of its {name}, {state}", round(statistics.median(pairs), 2), "%", bound,
                    f"median of {len(pairs)} pairs; {CONFIDENCE:.0%} interval {low:+.1f} to {high:+.1f}%",
                )
            )  # fmt: skip
    return results
