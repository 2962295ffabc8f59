"""2,000 small files a second made on one writer for a minute, replicated to three nodes; and the peers on it.

Each of the contestants runs alone, one after another. At the end every tree is compared by the outside tool.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleet import Daemon, Fleet, compare_trees
from fleet.flood_process import Flood
from frame.measured import Measured, unmeasured
from frame.peers import NotInstalled
from frame.registry import Bench
from replication.latency import writers_volume
from replication.members import Peer, usage
from replication.rsync import RsyncLoop
from replication.syncthing import LEAST_DELAY_S, Syncthing

REPLICAS = 3
RATE, SECONDS, SIZE = 2000, 60, 4096
PATIENCE_S = 240.0
MB = 1_000_000
SAMPLE_S, SHOWN_EVERY = 2, 4


@dataclass(slots=True)
class Course:
    """What was seen of one run."""

    name: str
    made: int = 0
    took_s: float = 0.0
    behind_s: float | None = None  # from the last file made until every replica had all; None: never
    lost: int = 0
    cpu_s: float = 0.0
    samples: list[tuple[float, dict[str, int]]] = field(
        default_factory=list
    )  # since the start: resident bytes


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    results: list[Measured] = []
    with _ours(base / "ours") as (fleet, writer, replicas):
        course = run("closeranks", fleet.daemons, writer, replicas, base / "ours.log")
        fleet.wait_in_rank(timeout_s=120)
        incidents = [f"{i['kind']} {i['node']}" for i in fleet.api.incidents()]
        lost = {n: len(found) for n, found in compare_trees(writer, _named(replicas)).items() if found}
    results += [
        *rows(course),
        Measured(
            "closeranks: paths that differ at the end",
            sum(lost.values()),
            "paths",
            1,
            f"incidents: {incidents}",
        ),
        *_flat(course),
    ]
    for name, make in _peers(base).items():
        try:
            peer = make()
        except NotInstalled as missing:
            results.append(unmeasured(name, str(missing)))
            continue
        try:
            peer.start()
            results += rows(run(name, peer.daemons, peer.writer, peer.replicas, base / f"{name}.log"))
        finally:
            peer.stop()
    return results


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


def _peers(base: Path) -> dict[str, Callable[[], Peer]]:
    def syncthing() -> Peer:
        place = base / "syncthing"
        place.mkdir()
        return Syncthing(place, REPLICAS + 1, LEAST_DELAY_S)

    return {
        "rsync -a in a loop": lambda: RsyncLoop(base / "rsync", REPLICAS + 1),
        f"Syncthing (watcher delay {LEAST_DELAY_S} s)": syncthing,
    }


def run(name: str, daemons: list[Daemon], writer: Path, replicas: list[Path], log: Path) -> Course:
    course = Course(name)
    before = usage(daemons)[0]
    began = time.monotonic()
    flood = Flood(writer, log, "small", size=SIZE, rate=RATE, seconds=SECONDS)
    while flood.alive:
        time.sleep(SAMPLE_S)
        course.samples.append((time.monotonic() - began, {d.name: d.resident_bytes() for d in daemons}))
    flood.wait(1)
    last = flood.told()[-1]
    course.made, course.took_s = last["files"], last["at"] - began
    course.behind_s = _until_all(course, daemons, replicas, last["at"], began)
    course.lost = sum(course.made - counted(place) for place in replicas)
    course.cpu_s = usage(daemons)[0] - before
    return course


def _until_all(
    course: Course, daemons: list[Daemon], replicas: list[Path], end: float, began: float
) -> float | None:
    """Seconds until each replica has as many files; counting names is cheap, the comparison comes after."""
    waiting = list(replicas)
    while time.monotonic() - end < PATIENCE_S:
        waiting = [place for place in waiting if counted(place) < course.made]
        if not waiting:
            return time.monotonic() - end
        time.sleep(0.25)
        now = time.monotonic() - began
        if now - course.samples[-1][0] >= SAMPLE_S:
            course.samples.append((now, {d.name: d.resident_bytes() for d in daemons}))
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


def rows(course: Course) -> list[Measured]:
    made = f"{course.made:,} files of {SIZE} B in {course.took_s:.0f} s, {REPLICAS} replicas"
    behind = course.behind_s
    return [
        Measured(
            f"{course.name}: behind after the last file",
            round(behind if behind is not None else PATIENCE_S, 1), "s",
            PATIENCE_S if course.name == "closeranks" else None,
            f"{made}; {course.cpu_s:.0f} s of processor time"
            + f", {course.cpu_s / max(1, course.made) * 1000:.2f} ms a file"
            + ("" if behind is not None else f"; NOT there after it: {course.lost:,} files missing"),
        )
    ]  # fmt: skip


def _flat(course: Course) -> list[Measured]:
    """Resident memory of every process over the run: the most in its second half, and its way there."""
    early = [s for at, s in course.samples if SECONDS / 6 < at <= SECONDS / 2]
    late = [s for at, s in course.samples if at > SECONDS / 2]
    results = []
    for name in course.samples[0][1]:
        before, after = max(sample[name] for sample in early), max(sample[name] for sample in late)
        way = " ".join(f"{sample[name] / MB:.0f}" for _, sample in course.samples[::SHOWN_EVERY])
        results.append(
            Measured(
                f"closeranks, {name}: most memory, second half", round(after / MB, 1), "MB", None,
                f"{before / MB:.1f} MB in the first; {(after - before) / max(1, course.made) * 2:.0f} B for each "
                f"file made; every {SHOWN_EVERY * SAMPLE_S} s: {way}",
            )
        )  # fmt: skip
    return results
