"""kill -9 at every step that changes something on disk, of agent and coordinator: the next start goes on from there.

CI takes a seeded sample of the points. `make faults` takes each, or each k-th.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from faults.persistence import installed, unsynced
from faults.rounds import FULL, QUIET, SEED, Rounds, check_databases, impatient, sweep, volume
from faults.shim import How, Point, Shim
from fleet import MakeFleet, wait_until

AGENT_POINTS, COORDINATOR_POINTS, STARTS = 6, 4, 4
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(6 * 3600 if FULL else 170)]


@pytest.mark.repeats(AGENT_POINTS)
def test_the_agent_killed_at_its_points(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], share: int
) -> None:
    fleet = make_fleet(nodes=3, fleet=QUIET, volumes=[volume()])
    fleet.lay_trees()
    victim = fleet[1]
    shim = load_shim(victim.daemon, [victim.state_dir, victim.path()])
    fleet.start()
    fleet.wait_in_rank()
    died = partial(check_databases, victim.state_dir)
    rounds = Rounds(fleet, victim)
    done = sweep(rounds, shim, victim.start, AGENT_POINTS, "agent", died, share)
    assert done.points > 100
    rounds.damage_one()
    rounds.finish()
    tree = str(victim.path())
    assert len(installed(shim.traced(), tree)) >= 3 * done.killed, "the trace shows what was installed"
    assert unsynced(shim.traced(), tree) == []


@pytest.mark.repeats(COORDINATOR_POINTS)
def test_the_coordinator_killed_at_its_points(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], share: int
) -> None:
    fleet = make_fleet(nodes=3, fleet=QUIET, volumes=[volume()])
    impatient(fleet)
    shim = load_shim(fleet.coordinator, [fleet.state_dir])
    fleet.start()
    fleet.wait_in_rank()
    died = partial(check_databases, fleet.state_dir)
    rounds = Rounds(fleet, fleet[1])
    done = sweep(rounds, shim, fleet.start_coordinator, COORDINATOR_POINTS, "coordinator", died, share)
    assert done.points > 30


@pytest.mark.repeats(STARTS)
@pytest.mark.parametrize("who", ["agent", "coordinator"])
def test_a_first_start_that_is_killed_again_and_again(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], who: str
) -> None:
    """Each start finds what the one before left in the middle of making its state; the last one gets through."""
    rng = random.Random(f"{SEED} {who}")
    fleet = make_fleet(nodes=3)
    fleet.lay_trees()
    node = fleet[1]
    daemon = node.daemon if who == "agent" else fleet.coordinator
    watch = [node.state_dir, node.path()] if who == "agent" else [fleet.state_dir]
    shim = load_shim(daemon, watch)
    if who == "agent":
        fleet.start(nodes=["node-01", "node-03"])
        node.write_config()
    else:
        fleet.write_coordinator_config()
    for _ in range(STARTS):
        shim.arm_start(rng.randint(1, 25), rng.choice(list(How)))
        daemon.start()
        daemon.expected_to_live = False
        wait_until("it died at its point", lambda: shim.killed, timeout_s=30)
        shim.disarm()
        check_databases(watch[0])
    if who == "agent":
        node.start()
    else:
        fleet.start()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == set()


def test_the_strict_reading_finds_a_rename_that_nothing_made_durable() -> None:
    """The rule itself: written and renamed; written, synced, renamed; written again after the sync; all at once."""

    def story(*calls: tuple[str, str]) -> list[str]:
        points = [Point(n, call, name, "/t/.closeranks/stage/a") for n, (call, name) in enumerate(calls)]
        return [point.path for point in unsynced(points, "/t")]

    staged = "/t/.closeranks/stage/a"
    assert story(("pwrite", staged), ("rename", "/t/x")) == ["/t/x"]
    assert story(("pwrite", staged), ("fsync", staged), ("rename", "/t/x")) == []
    assert story(("fsync", staged), ("pwrite", staged), ("exchange", "/t/x")) == ["/t/x"]
    assert story(("pwrite", staged), ("syncfs", "/t"), ("rename", "/t/x")) == []
    assert story(("pwrite", staged), ("rename", "/t/.closeranks/trash/x")) == []
