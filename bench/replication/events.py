"""What the kernel takes of a writer's own time for each kind of event, apart from all that an agent does.

The writer is `tar`, which unpacks files of 30 KB into the page cache: one creation, four writes, three changes of
attributes and a close for each. Whoever is told throws all of it away (`hear`). In turns with a `tar` of which nobody
is told, and with one beside which another process merely runs for a fifth of the time: that is what any watcher
takes by being there.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from closeranks_agent.watch import calls
from frame.interval import CONFIDENCE, interval
from frame.measured import Measured, unmeasured
from frame.peers import NotInstalled, find
from frame.registry import Bench

from .overhead import archived

HEAR = str(Path(__file__).with_name("hear.py"))
NAMES = calls.FAN_REPORT_DFID_NAME
HANDLES = NAMES | calls.FAN_REPORT_FID
STRUCTURE = calls.CREATE | calls.DELETE | calls.MOVED_FROM | calls.MOVED_TO | calls.ON_DIRECTORY
EVERYTHING = calls.CHANGES | calls.ON_DIRECTORY


@dataclass(frozen=True, slots=True)
class Told:
    """What is told, and with which handles."""

    text: str
    flags: int
    mask: int


TOLD = (
    Told("another process runs, nothing is told", 0, 0),
    Told("all events", HANDLES, EVERYTHING),
    Told("all events, no handle of the file", NAMES, EVERYTHING),
    Told("without MODIFY", HANDLES, EVERYTHING & ~calls.MODIFY),
    Told("without MODIFY and ATTRIB", HANDLES, STRUCTURE | calls.CLOSE_WRITE),
    Told("the same, no handle of the file", NAMES, STRUCTURE | calls.CLOSE_WRITE),
    Told("made, moved, deleted alone", HANDLES, STRUCTURE),
    Told("CLOSE_WRITE alone", HANDLES, calls.CLOSE_WRITE),
)


@dataclass(frozen=True, slots=True)
class Run:
    used_s: float
    events: int = 0


def measure(bench: Bench) -> list[Measured]:
    count, turns = bench.either(10_000, 3_000), bench.either(15, 5)
    try:
        tar = find("tar")
    except NotInstalled as missing:
        return [unmeasured("tar", str(missing))]
    words = [tar, "-xf", str(archived(bench, tar, count)), "-C"]
    place = bench.base / "written"
    plain: list[Run] = []
    taken: dict[str, list[Run]] = {told.text: [] for told in TOLD}
    rng = random.Random(3)
    unpack(words, place)  # warms up the disk's cache and allocator
    shutil.rmtree(place)
    for _ in range(turns):
        for told in rng.sample([None, *TOLD], 1 + len(TOLD)):
            if told is None:
                plain.append(Run(unpack(words, place)))
            else:
                with heard(bench.base, told) as events:
                    used = unpack(words, place)
                taken[told.text].append(Run(used, events[0]))
            shutil.rmtree(place)
    return rows(count, plain, taken)


@contextmanager
def heard(place: Path, told: Told) -> Iterator[list[int]]:
    """While it lasts, `told` is; then the list holds how many events that were."""
    words = [sys.executable, HEAR, str(place), str(told.flags), str(told.mask)]
    events: list[int] = []
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{told.text}: fanotify can not be had here")
        yield events
        events.append(int(process.communicate(timeout=60)[0]))


def unpack(words: Sequence[str], place: Path) -> float:
    """The writer's processor time, seconds."""
    place.mkdir()
    os.sync()  # no run pays for what the one before left to be written
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*words, str(place)], check=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(count: int, plain: Sequence[Run], taken: Mapping[str, Sequence[Run]]) -> list[Measured]:
    base = statistics.median(run.used_s for run in plain)
    results = [
        Measured(
            "tar -x: processor time for a file",
            round(base / count * 1e6, 1),
            "us",
            None,
            f"{len(plain)} runs",
        )
    ]
    for text, runs in taken.items():
        more = [(mine.used_s / beside.used_s - 1) * 100 for mine, beside in zip(runs, plain, strict=True)]
        low, high = interval(more)
        events = statistics.median(run.events for run in runs) / count
        results.append(
            Measured(
                f"tar -x: more of it, {text}", round(statistics.median(more), 1), "%", None,
                f"{len(more)} pairs; {CONFIDENCE:.0%} {low:+.1f} to {high:+.1f}%; {events:.1f} events read a file",
            )
        )  # fmt: skip
    return results
