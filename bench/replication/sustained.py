"""2,000 small files a second made on one writer for a minute, replicated to three nodes; and the peers on it.

Each of the contestants runs alone, and is a measurement of its own: a machine that is shared need not be kept for
ten minutes. At the end every tree is compared by the outside tool. `long` is ours for two minutes and a half, `late`
ours with replicas that are stopped seven eighths of the time until the last file is made: half a minute behind and
more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fleet import Daemon, Fleet, compare_trees
from fleet.flood_process import Flood
from frame.measured import Measured, unmeasured
from frame.peers import NotInstalled
from frame.registry import Bench
from replication.latency import writers_volume
from replication.members import Peer, usage
from replication.resident import GROWTH_MAX_PERCENT, REST_S, watched
from replication.resident import rows as resident_rows
from replication.rsync import RsyncLoop
from replication.syncthing import LEAST_DELAY_S, Syncthing

REPLICAS = 3
RATE, SECONDS, SIZE = 2000, 60, 4096
PATIENCE_S, PEERS_PATIENCE_S = 240.0, 120.0
SLOW_TURN_S = 1.0


@dataclass(slots=True)
class Course:
    """What was seen of one run."""

    name: str
    made: int = 0
    took_s: float = 0.0
    behind_s: float | None = None  # from the last file made until every replica had all; None: never
    lost: int = 0
    cpu_s: float = 0.0
    resident: int = 0  # bytes of all daemons at the end


def measure(bench: Bench) -> list[Measured]:
    return _carried(bench, "closeranks", SECONDS)


def long(bench: Bench) -> list[Measured]:
    return _carried(bench, "closeranks, 150 s", bench.either(150, SECONDS))


def late(bench: Bench) -> list[Measured]:
    return _carried(bench, "closeranks, slow replicas", bench.either(40, 20), slowed=True)


def rsync(bench: Bench) -> list[Measured]:
    return _beside("rsync -a in a loop", lambda: RsyncLoop(bench.base / "rsync", REPLICAS + 1), bench)


def syncthing(bench: Bench) -> list[Measured]:
    place = bench.base / "syncthing"
    place.mkdir()
    name = f"Syncthing (watcher delay {LEAST_DELAY_S} s)"
    return _beside(name, lambda: Syncthing(place, REPLICAS + 1, LEAST_DELAY_S), bench)


def _carried(bench: Bench, name: str, seconds: int, slowed: bool = False) -> list[Measured]:
    with _ours(bench.base / "ours") as (fleet, writer, replicas), watched(fleet.daemons, RATE) as memory:
        with _slowed(fleet.daemons[2:] if slowed else [], seconds):
            course = run(name, fleet.daemons, writer, replicas, bench.base / "ours.log", seconds)
        fleet.wait_in_rank(timeout_s=120)
        time.sleep(REST_S)
        incidents = [f"{i['kind']} {i['node']}" for i in fleet.api.incidents()]
        lost = {n: len(found) for n, found in compare_trees(writer, _named(replicas)).items() if found}
    # A path that a replica lacks is known to the coordinator until it is there: with a lag it can not be flat.
    flat = resident_rows(name, memory, course.took_s, course.made, GROWTH_MAX_PERCENT)
    if slowed:
        flat = [replace(row, bound=None) if "coordinator" in row.work else row for row in flat]
    return [
        *rows(course, PATIENCE_S, PATIENCE_S),
        Measured(
            f"{name}: paths that differ at the end", sum(lost.values()), "paths", 1, f"incidents: {incidents}"
        ),
        *flat,
    ]


def _beside(name: str, make: Callable[[], Peer], bench: Bench) -> list[Measured]:
    try:
        peer = make()
    except NotInstalled as missing:
        return [unmeasured(name, str(missing))]
    try:
        peer.start()
        course = run(
            name, peer.daemons, peer.writer, peer.replicas, bench.base / "peer.log", SECONDS, PEERS_PATIENCE_S
        )
        return rows(course, PEERS_PATIENCE_S, None)
    finally:
        peer.stop()


@contextlib.contextmanager
def _slowed(daemons: list[Daemon], seconds: float) -> Iterator[None]:
    """These daemons run an eighth of the time for so long."""
    stop = threading.Event()

    def turn() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop.is_set():
            for daemon in daemons:
                daemon.pause()
            stop.wait(SLOW_TURN_S * 7 / 8)
            for daemon in daemons:
                daemon.resume()
            stop.wait(SLOW_TURN_S / 8)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _ours(base: Path) -> Iterator[tuple[Fleet, Path, list[Path]]]:
    def empty(root: Path) -> None:
        root.mkdir()
        (root / "first").write_bytes(b"a tree has something in it")

    # Four copies of half a gigabyte in a minute on one small disk: its guard would rightly hold that.
    volume = replace(writers_volume("node-01"), guards={"disk_full_in_s": 1.0})
    with Fleet(base, REPLICAS + 1, [volume], tree=empty) as fleet:
        fleet.start()
        fleet.wait_in_rank()
        time.sleep(2)
        writer, *replicas = [node.path() for node in fleet.nodes.values()]
        yield fleet, writer, replicas


def run(
    name: str, daemons: list[Daemon], writer: Path, replicas: list[Path], log: Path, seconds: float,
    patience_s: float = PATIENCE_S,
) -> Course:  # fmt: skip
    course = Course(name)
    before = usage(daemons)[0]
    began = time.monotonic()
    flood = Flood(writer, log, "small", size=SIZE, rate=RATE, seconds=seconds)
    flood.wait(seconds + 60)
    last = flood.told()[-1]
    course.made, course.took_s = last["files"], last["at"] - began
    course.behind_s = _until_all(course, replicas, last["at"], patience_s)
    course.lost = sum(course.made - counted(place) for place in replicas)
    course.cpu_s, course.resident = usage(daemons)[0] - before, usage(daemons)[1]
    return course


def _until_all(course: Course, replicas: list[Path], end: float, patience_s: float) -> float | None:
    """Seconds until each replica has as many files; counting names is cheap, the comparison comes after."""
    waiting = list(replicas)
    while time.monotonic() - end < patience_s:
        waiting = [place for place in waiting if counted(place) < course.made]
        if not waiting:
            return time.monotonic() - end
        time.sleep(0.25)
    return None


def counted(place: Path) -> int:
    """Files of the flood that are there under their names."""
    return sum(
        sum(1 for name in os.listdir(entry.path) if name.endswith(".dat") and not name.startswith("."))
        for entry in os.scandir(place)
        if entry.name.startswith("flood-")
    )


def _named(replicas: list[Path]) -> dict[str, str]:
    return {str(place): str(place) for place in replicas}


def rows(course: Course, patience_s: float, bound: float | None) -> list[Measured]:
    made = f"{course.made:,} files of {SIZE} B in {course.took_s:.0f} s, {REPLICAS} replicas"
    behind = course.behind_s
    return [
        Measured(
            f"{course.name}: behind after the last file",
            round(behind if behind is not None else patience_s, 1), "s", bound,
            f"{made}; {course.cpu_s:.0f} s of processor time"
            + f", {course.cpu_s / max(1, course.made) * 1000:.2f} ms a file; {course.resident / 1e6:.0f} MB resident"
            + ("" if behind is not None else f"; NOT there after it: {course.lost:,} files missing"),
        )
    ]  # fmt: skip
