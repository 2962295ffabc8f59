"""An empty node is made equal to one peer: plain HTTP over loopback, synced, and proved by reading from the disk.

The clock is this machine's: from the coordinator's order (the node is *resyncing*) to its proof (*in rank*). Against
`rsync -a --fsync` from rsync's own daemon, from start to end of the process; rsync proves nothing. Both write to
the same filesystem. Before each turn everything is synced, and what the one before wrote is removed if it was one file:
ext4 looks for new inodes past the ones that were deleted lately, which costs more processor time than all else.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet import Daemon, EventReader, Fleet, Node, free_port, replicated, wait_until
from fleet.config import Value
from frame.interleaved import interleaved
from frame.measured import Measured, compared, unmeasured
from frame.peers import NotInstalled, command, find
from frame.registry import Bench

AT_LEAST = 1.2
MIB = 1 << 20
FILE_BYTES = 30_000
PER_DIRECTORY = 100
PATIENCE_S = 200.0
NO_GUARDS: dict[str, Value] = {"enabled": False}  # all nodes share one disk, which fills fast here


def measure(bench: Bench) -> list[Measured]:
    large_mib, files = bench.either(2048, 512), bench.either(10_000, 2000)
    rounds = bench.either(5, 3)
    large = f"{large_mib} MiB in one file"
    small = f"{files:,} files of 30 KB"
    return [
        _compared(
            bench.base / "large",
            large,
            lambda root: one_file(root, large_mib),
            large_mib * MIB / 1e6,
            "MB/s",
            rounds,
            shutil.rmtree,
        ),
        _compared(
            bench.base / "small",
            small,
            lambda root: many_files(root, files),
            files,
            "files/s",
            rounds,
            lambda place: None,
        ),
    ]


def one_file(root: Path, mib: int) -> None:
    root.mkdir()
    block = os.urandom(MIB)
    with (root / "large.bin").open("wb", buffering=0) as file:
        for number in range(mib):
            file.write(number.to_bytes(16, "big") + block[16:])


def many_files(root: Path, files: int) -> None:
    rng, block = random.Random(7), os.urandom(4 * MIB)
    for number in range(files):
        place = root / f"{number // PER_DIRECTORY:04}"
        if number % PER_DIRECTORY == 0:
            place.mkdir(parents=True)
        size = rng.randrange(FILE_BYTES - 5000, FILE_BYTES + 5000)
        at = rng.randrange(len(block) - size)
        (place / f"{number:06}.dat").write_bytes(number.to_bytes(16, "big") + block[at + 16 : at + size])


class Joiner:
    """A fleet of one writer, and in each turn a new, empty node that joins it."""

    def __init__(self, fleet: Fleet, clear: Callable[[Path], None]) -> None:
        self.fleet, self._clear = fleet, clear
        self.turns = 0
        self.proofs_s: list[float] = []
        self.cpu_s: list[tuple[float, float]] = []  # of the source, of the joiner

    def run(self) -> float:
        self.turns += 1
        node = self.fleet.add_node(f"joiner-{self.turns:02}", tree=False)
        self.fleet.reload()
        os.sync()
        events = EventReader(self.fleet.api)
        source = self.fleet[0].daemon
        before = source.cpu_s()
        node.start()
        try:
            at = self._states(events, node)
        finally:
            events.close()
        self.cpu_s.append((source.cpu_s() - before, node.daemon.cpu_s()))
        self.proofs_s.append(at["in_rank"] - at.get("verifying", at["in_rank"]))  # too short to be told
        self.fleet.assert_equal_trees(nodes=[node.name])
        node.daemon.stop()
        self._clear(node.base)
        return at["in_rank"] - at["resyncing"]

    def _states(self, events: EventReader, node: Node) -> dict[str, float]:
        """When each state was first heard of."""
        at: dict[str, float] = {}
        deadline = time.monotonic() + PATIENCE_S
        while "in_rank" not in at:
            found = events.take(0.5)
            now = time.monotonic()
            if found is not None and found[0] == "node" and found[1]["node"] == node.name:
                at.setdefault(found[1]["state"], now)
            self.fleet.check_alive()
            if now > deadline:
                raise TimeoutError(f"{node.name} is not in rank after {PATIENCE_S} s: {at}")
        return at

    def note(self) -> str:
        proof = statistics.median(self.proofs_s)
        source, joiner = (statistics.median(one) for one in zip(*self.cpu_s, strict=True))
        return (
            f"of it {proof:.2f} s proof from the disk; processor time {source:.1f} s on the source and {joiner:.1f} s "
            "on the joiner, its start included; rsync proves nothing"
        )


def _compared(
    base: Path, what: str, make: Callable[[Path], None], amount: float, unit: str, rounds: int,
    clear: Callable[[Path], None],
) -> Measured:  # fmt: skip
    """`clear` a turn's copy behind it."""
    work = f"converge of an empty node from one peer, {what}"
    with Fleet(base, ["source"], [replicated("source")], tree=make, guards=NO_GUARDS) as fleet:
        fleet.start()
        fleet.wait_in_rank(timeout_s=60)
        joiner = Joiner(fleet, clear)
        try:
            with _rsync(base, fleet[0].path(), clear) as pull:
                taken = interleaved({"ours": joiner.run, "rsync": pull}, rounds)
        except NotInstalled as missing:
            return unmeasured(work, str(missing), AT_LEAST)
    return compared(
        work, taken["ours"], "rsync -a --fsync", taken["rsync"], amount, unit, AT_LEAST, joiner.note()
    )


@contextmanager
def _rsync(base: Path, source: Path, clear: Callable[[Path], None]) -> Iterator[Callable[[], float]]:
    """rsync's daemon on the source's tree; the runs pull all of it into an empty directory."""
    port, config, turns = free_port(), base / "rsyncd.conf", itertools.count()
    identity = f"uid = {os.geteuid()}\ngid = {os.getegid()}\n"
    config.write_text(f"use chroot = no\n{identity}[tree]\npath = {source}\nexclude = /.closeranks\n")
    argv = [find("rsync"), "--daemon", "--no-detach", f"--config={config}", f"--port={port}"]
    daemon = Daemon("rsyncd", [*argv, "--address=127.0.0.1"], base / "rsyncd.out")

    def listens() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    def run() -> float:
        target = base / f"pulled-{next(turns)}"
        pull = command(["rsync", "-a", "--fsync", f"rsync://127.0.0.1:{port}/tree/", f"{target}/"])
        os.sync()
        began = time.monotonic()
        pull()
        took = time.monotonic() - began
        clear(target)
        return took

    daemon.start()
    try:
        wait_until("rsync's daemon listens", listens, guard=daemon.check_alive)
        yield run
    finally:
        daemon.kill()
