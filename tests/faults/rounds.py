"""A fleet through round after round: one node is damaged, and what follows may be cut anywhere.

One fleet serves a whole sweep, since founding one costs more than a round. Every round damages the same
node in every way there is (content, new file, removal, mode, a file that becomes a link, a directory that
becomes a file), so that converge takes each of its steps.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from faults.persistence import TORN
from faults.shim import How, Point, Shim
from faults.survival import (
    contents,
    damaged_databases,
    highest_token,
    shape,
    strangers,
    sync_filesystem,
)  # fmt: skip
from fleet import Fleet, Node, VolumeSpec, wait_until

QUIET: dict[str, Any] = {  # each round is like the first
    "auto_release_max": 1000,
    "auto_release_window_s": 60.0,
    "recurrence_max": 1000,
}


def volume() -> VolumeSpec:
    """A trash that holds many rounds, and lets the oldest go, so that a long sweep does not fill the disk.

    How fast that disk fills is not asked: others write to it too, and what they do would hold these nodes.
    """
    keep: dict[str, Any] = {"trash_max_bytes": 600 << 20, "trash_keep_s": 240.0}
    return VolumeSpec(extra=keep, guards={"disk_full_in_s": 0})


# Which points: each n-th of a round (`make faults` sets it); unset, a sample. All of them take hours, so a run
# may take one part of them: "3/40" is the third of forty, and forty runs take each point in each way once. A part is
# shared by so many fleets, each in a test of its own: most of a round is waiting, so they fit side by side.
FULL = int(os.environ.get("FAULT_STRIDE", "0"))
PART, PARTS = (int(text) for text in os.environ.get("FAULT_PART", "1/1").split("/"))
FLEETS = int(os.environ.get("FAULT_FLEETS", "1")) if FULL == 1 else 1
SEED = int(os.environ.get("FAULT_SEED", "20261126"))

IMPATIENT = str(Path(__file__).with_name("impatient.py"))
CLOCKS_APART_NS = 1_000_000_000  # of time.time and of what a filesystem stamps; far more than they are


def impatient(fleet: Fleet) -> None:
    """For a coordinator that is ended again and again: its agents come back soon (`impatient.py`)."""
    for node in fleet.nodes.values():
        node.daemon.argv = [sys.executable, IMPATIENT, *node.daemon.argv]


class Rounds:
    """The fleet, its victim, and what must hold from one round to the next."""

    def __init__(self, fleet: Fleet, victim: Node) -> None:
        self.fleet, self.victim = fleet, victim
        self.number = 0
        self.began_ns = 0  # when this round's damage was done, as files' times tell it
        self.kept: set[str] = set()  # contents of this round that must be in the victim's tree or trash
        self.pristine = shape(fleet.pristine())
        self.damaged: dict[str, str] = {}

    def damage(self) -> None:
        """Every kind of difference, on disk when it returns.

        The agent stands still until all of it is done and written down: on a slow machine it had begun to
        repair the first half before the second was there.
        """
        self._begin()
        root = self.victim.path()
        with (root / "large.bin").open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"damage %d" % self.number)
        (root / "extra" / "deep").mkdir(parents=True)
        (root / "extra" / "deep" / "file").write_bytes(b"rogue %d" % self.number)
        (root / "dir-0" / "file-005.bin").write_bytes(b"other %d" % self.number)
        (root / "dir-1" / "file-001.bin").unlink()
        (root / "executable.sh").chmod(0o644)
        (root / "empty file").unlink()
        (root / "empty file").symlink_to(f"nowhere {self.number}")
        shutil.rmtree(root / "dir-3")
        (root / "dir-3").write_bytes(b"a file now %d" % self.number)
        self._damaged(root)

    def damage_one(self) -> None:
        """A single small file: few are made durable in another way than many."""
        self._begin()
        root = self.victim.path()
        (root / "dir-0" / "file-005.bin").write_bytes(b"alone %d" % self.number)
        self._damaged(root)

    def _begin(self) -> None:
        self.number += 1
        self.began_ns = time.time_ns() - CLOCKS_APART_NS
        self.victim.daemon.pause()

    def _damaged(self, root: Path) -> None:
        sync_filesystem(root)
        self.kept = contents(root)
        self.damaged = shape(root)
        self.victim.daemon.resume()

    def check_disk(self) -> None:
        """At any moment: nothing lost, and every path old or new as a whole.

        An agent that lives stands still meanwhile: what it moves from the tree to the trash is in neither for a
        walk that has been in the one and not yet in the other. What this round sets aside was moved in this round: what
        lies in the trash from rounds before is not read again.
        """
        self.victim.daemon.pause()
        try:
            lost = self.kept - contents(self.victim.path(), aside_since_ns=self.began_ns)
            wrong = strangers(self.victim.path(), self.pristine, self.damaged)
        finally:
            self.victim.daemon.resume()
        assert not lost, f"neither in the tree nor in the trash: {lost}"
        assert not wrong, f"neither old nor new: {wrong}"

    def over(self) -> bool:
        incidents = self.fleet.api.incidents(node=self.victim.name, kind="divergence", state="closed")
        return len(incidents) >= self.number and self.fleet.api.fleet()["in_rank"]

    def finish(self) -> None:
        """The round's end: released, equal, nothing lost, nobody else accused."""
        self.fleet.wait(f"round {self.number} is over", self.over, timeout_s=60)
        self.fleet.assert_equal_trees()
        self.check_disk()
        accused = self.fleet.accused()
        assert accused == {self.victim.name}, f"accused: {accused}"
        token = highest_token(self.victim.state_dir)
        assert token >= self.number, f"fence token {token} after {self.number} quarantines"

    def measure(self, shim: Shim) -> list[Point]:
        """One round with nobody killed: its fault points, numbered from 1."""
        start = shim.points
        self.damage()
        self.finish()
        end = shim.points
        found = [point for point in shim.traced() if start < point.number <= end]
        return [replace(point, number=point.number - start) for point in found]


def chosen(points: list[Point], sample: int, name: str, share: int = 0) -> list[tuple[int, How]]:
    """The points of a sweep and how to die there: each FAULT_STRIDE-th, else a seeded sample.

    With a stride of 1 that is this share of this part of every point in every way that differs. The sample goes
    round the kinds of points (a call on a kind of file), for most of them are writes to one log.
    """
    rng = random.Random(f"{SEED} {name}")
    if FULL == 1:
        every = [(at.number, how) for at in points for how in How if how is not How.TORN or at.call in TORN]
        return every[PART - 1 + PARTS * share :: PARTS * FLEETS]
    if FULL:
        return [(point.number, rng.choice(list(How))) for point in points[rng.randrange(FULL) :: FULL]]
    kinds: dict[tuple[str, str], list[int]] = {}
    for point in points:
        kinds.setdefault((point.call, _place(point.path)), []).append(point.number)
    order = sorted(kinds)
    rng.shuffle(order)
    turns = [order[turn % len(order)] for turn in range(sample)]
    return [(rng.choice(kinds[kind]), rng.choice(list(How))) for kind in turns]


def _place(path: str) -> str:
    """The kind of file that a point is about."""
    for part in ("/stage", "/trash", "sqlite-wal", "sqlite-shm", ".sqlite"):
        if part in path:
            return part
    return "tree"


@dataclass(slots=True)
class Sweep:
    """What a sweep did: printed for the reader."""

    name: str
    points: int
    asked: int
    killed: int = 0
    steps: dict[str, int] = field(default_factory=dict)

    def note(self, step: Point) -> None:
        kind = f"{step.call} {_place(step.path).strip('/.')}"
        self.killed += 1
        self.steps[kind] = self.steps.get(kind, 0) + 1

    def __str__(self) -> str:
        return f"{self.name}: killed {self.killed} of {self.asked} times, {self.points} points a round; {self.steps}"


def sweep(
    rounds: Rounds,
    shim: Shim,
    restart: Callable[[], None],
    sample: int,
    name: str,
    died: Callable[[], None] | None = None,
    share: int = 0,
) -> Sweep:
    """Kill the shim's daemon at one point after the other, each in a round of its own.

    `died` runs when it is dead: it may cut the power, and checks what is its own to check. A round may have fewer
    points than the one that was measured, but most of those asked for must have been met.
    """
    shim.trace()
    points = rounds.measure(shim)
    deaths = chosen(points, sample, name, share)
    done = Sweep(name, len(points), len(deaths))
    for ahead, how in deaths:
        shim.arm(ahead, how)
        rounds.damage()
        wait_until(f"{name} killed at {ahead}", lambda: shim.killed or _over(rounds), timeout_s=60)
        where = f"{name}, killed {how.name} point {ahead}"
        try:
            if shim.disarm():
                where += f" ({shim.traced()[-1]})"
                done.note(shim.traced()[-1])
                if died is not None:
                    died()
                rounds.check_disk()
                restart()
            else:  # this round had fewer points than the measured one
                shim.daemon.expected_to_live = True
            rounds.finish()
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
    print(done)
    assert done.killed >= 3 * done.asked // 4, str(done)
    return done


def _over(rounds: Rounds) -> bool:
    """Whether the round ended although somebody was to die; nobody answers while the coordinator is dead."""
    try:
        return rounds.over()
    except OSError:
        return False


def check_databases(state_dir: Path) -> None:
    damaged = damaged_databases(state_dir)
    assert not damaged, f"damaged: {damaged}"
