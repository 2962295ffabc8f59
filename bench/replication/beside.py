"""Three nodes: closeranks, Syncthing, lsyncd + rsync. Write on one → readable on the two others.

All run at once and rest but for the one whose turn it is; one write of each in every round, so that a slow moment
of the machine meets all of them. A fleet of three agents has its coordinator besides: it is part of the price.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fleet import Fleet
from frame.measured import Measured, unmeasured
from frame.peers import NotInstalled, version
from frame.registry import Bench
from replication.contents import write_by_rename
from replication.latency import writers_volume
from replication.members import Peer
from replication.rsync import Lsyncd
from replication.seen import Late, Observer, percentile
from replication.syncthing import DEFAULT_DELAY_S, LEAST_DELAY_S, Syncthing

NODES = 3
ROUNDS = 30
DEFAULT_ROUNDS = 8
SEVERAL = 1 / 3  # of a peer's time: three times faster or more


@dataclass(slots=True)
class Runner:
    """One of those who are compared."""

    name: str
    writer: Path
    observer: Observer
    taken: list[float] = field(default_factory=list)
    late: int = 0


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    results: list[Measured] = []
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(_ours(base))]
        peers: dict[str, Peer] = {}
        for name, make in _peers(base).items():
            try:
                peer = make()
            except NotInstalled as missing:
                results.append(unmeasured(name, str(missing)))
                continue
            stack.callback(peer.stop)
            peer.start()
            peers[name] = peer
            runners.append(Runner(name, peer.writer, stack.enter_context(Observer(peer.replicas))))
        time.sleep(3)  # all at rest
        compare(runners, ROUNDS, first=1)
        results = rows(runners) + results
        syncthing = peers.get(f"Syncthing (watcher delay {LEAST_DELAY_S} s)")
        if isinstance(syncthing, Syncthing):
            results += _default_delay(runners, syncthing)
    return results


def _default_delay(runners: list[Runner], syncthing: Syncthing) -> list[Measured]:
    syncthing.delay(DEFAULT_DELAY_S)
    ours, theirs = runners[0], next(r for r in runners if r.name.startswith("Syncthing"))
    again = [
        Runner(ours.name, ours.writer, ours.observer),
        Runner(f"Syncthing (watcher delay {DEFAULT_DELAY_S} s, its default)", theirs.writer, theirs.observer),
    ]
    compare(again, DEFAULT_ROUNDS, first=10_001)
    return rows(again)[1:]


@contextlib.contextmanager
def _ours(base: Path) -> Iterator[Runner]:
    def empty(root: Path) -> None:
        root.mkdir()
        (root / "first").write_bytes(b"a tree has something in it")

    with Fleet(base / "ours", NODES, [writers_volume("node-01")], tree=empty) as fleet:
        fleet.start()
        fleet.wait_in_rank()
        writer, *replicas = [node.path() for node in fleet.nodes.values()]
        with Observer(replicas) as observer:
            yield Runner("closeranks", writer, observer)


def _peers(base: Path) -> dict[str, Callable[[], Peer]]:
    def syncthing() -> Peer:
        place = base / "syncthing"
        place.mkdir()
        return Syncthing(place, NODES, LEAST_DELAY_S)

    return {
        f"Syncthing (watcher delay {LEAST_DELAY_S} s)": syncthing,
        "lsyncd (delay 1) + rsync": lambda: Lsyncd(base / "lsyncd-1", NODES, 1),
        "lsyncd (delay 0) + rsync": lambda: Lsyncd(base / "lsyncd-0", NODES, 0),
    }


def compare(runners: list[Runner], rounds: int, first: int) -> None:
    rng = random.Random(first)
    for number in range(first, first + rounds):
        for runner in rng.sample(runners, len(runners)):
            time.sleep(rng.uniform(0.1, 0.4))
            try:
                taken = runner.observer.timed(
                    number,
                    partial(write_by_rename, runner.writer, number),
                )
            except Late as late:
                runner.late += 1
                print(f"{runner.name}: {late}", file=sys.stderr)
                continue
            runner.taken.append(max(taken))


def rows(runners: list[Runner]) -> list[Measured]:
    """Medians of each, then ours as a share of each peer's."""
    results, ours = [], runners[0]
    for runner in runners:
        spread = f"{min(runner.taken):.2f} to {max(runner.taken):.2f} s" if runner.taken else "none arrived"
        note = f"{len(runner.taken)} writes of 100 KB, {NODES} nodes; {spread}; {runner.late} late"
        if runner is not ours:
            note += f"; {_version(runner.name)}"
        results.append(
            Measured(
                f"{runner.name}, median", round(percentile(runner.taken or [0], 0.5), 3), "s", None, note
            )
        )
    for runner in runners[1:]:
        if runner.taken and ours.taken:
            share = percentile(ours.taken, 0.5) / percentile(runner.taken, 0.5)
            results.append(
                Measured(
                    f"closeranks : {runner.name}",
                    round(share, 3),
                    "of its time",
                    SEVERAL,
                    f"{1 / share:.1f} x faster",
                )
            )
    return results


def _version(name: str) -> str:
    return (
        version("syncthing") if name.startswith("Syncthing") else f"{version('lsyncd')}, {version('rsync')}"
    )
