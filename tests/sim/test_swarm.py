"""Seeds: fixed ones, those that once found something, and others every time. See `make sim` for more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from closeranks_coordinator.core import layers, pace
from sim.fleet import World
from sim.invariants import INVARIANTS, Violation, hold, table
from sim.mutations import MUTATIONS, misplaced
from sim.regressions import FOUND, FOUND_AMONG, FOUND_LATER, FOUND_WITH
from sim.swarm import FAULTS, FIXED, plan

BATCH_S = 8.0
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _pace_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world sets it for its whole process: other tests in it must find it as it was."""
    for name in ("PROMPT_NODES", "PAUSE_S_A_NODE"):
        monkeypatch.setattr(pace, name, getattr(pace, name))
    for name in ("LAYER_MIN_KEYS", "LAYER_SHARE"):
        monkeypatch.setattr(layers, name, getattr(layers, name))


@pytest.mark.parametrize("seed", [*FIXED, *FOUND])
def test_a_seed_breaks_no_promise(seed: int) -> None:
    World(plan(seed)).play()


@pytest.mark.parametrize(("seed", "policy", "nodes"), [*FOUND_WITH, *FOUND_LATER])
def test_a_seed_that_found_something_in_another_fleet_breaks_no_promise(
    seed: int, policy: str, nodes: int
) -> None:
    World(plan(seed, policy, nodes)).play()


@pytest.mark.parametrize(("seed", "policy", "nodes", "faults"), FOUND_AMONG)
def test_a_seed_that_found_something_among_chosen_faults_breaks_no_promise(
    seed: int, policy: str, nodes: int, faults: str
) -> None:
    World(plan(seed, policy, nodes, frozenset(faults.split(",")))).play()


def test_forty_nodes() -> None:
    faults = frozenset({"cut", "crash", "coordinator_crash", "rogue"})
    World(replace(plan(7, "writers", 40, faults), safety_s=15.0)).play()


def test_other_seeds_every_time_break_no_promise() -> None:
    """For some seconds; a failure tells how to play its seed again."""
    first = random.SystemRandom().randrange(2**31)
    print(f"from seed {first}")
    end, seed = time.monotonic() + BATCH_S, first
    while time.monotonic() < end:
        World(plan(seed)).play()
        seed += 1


def test_a_fleet_without_faults_accuses_nobody() -> None:
    for policy, accused in (
        ("writers", 1),
        ("any-writer", 0),
    ):  # the corruption at the end, where it can be told
        assert World(plan(5, policy, 5, frozenset())).play().accused == accused


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_can_be_played_alone(fault: str) -> None:
    """And does something: a fault that changes nothing would prove nothing."""
    policy = "writers" if fault in ("mass", "filling", "flood", "short_journal") else "quorum"
    policy = "any-writer" if fault == "absence" else policy
    loud = World(replace(plan(3, policy, 3, frozenset({fault})), safety_s=30.0)).play()
    assert loud.digest != _quiet(policy)


@cache
def _quiet(policy: str) -> str:
    return World(replace(plan(3, policy, 3, frozenset()), safety_s=30.0)).play().digest


def test_a_seed_is_the_same_in_every_process() -> None:
    """Same seed, same trace: twice here, and in processes that hash text otherwise."""
    here = [World(plan(1003)).play().digest for _ in range(2)]
    code = "from sim.fleet import World; from sim.swarm import plan; print(World(plan(1003)).play().digest)"
    for hashing in ("0", "1", "4711"):
        environ = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hashing}
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
        )
        here.append(ran.stdout.strip())
    assert len(set(here)) == 1


def test_a_failure_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(plan(1))
    monkeypatch.setattr(world.people, "begin", lambda: hold("bounded", False, "too many"))
    with pytest.raises(AssertionError, match="make sim SEEDS=1-1") as failure:
        world.play()
    assert str(failure.value).startswith("bounded: too many\n")


def test_faults_that_were_chosen_are_said_with_how_to_play_it_again() -> None:
    faults = frozenset({"cut", "decay"})
    assert plan(1, "writers", 5, faults).command().endswith("--policy writers --nodes 5 --faults cut,decay'")
    assert "--faults" not in plan(1, "writers", 5).command()


def test_the_table_of_invariants_is_what_the_checks_use() -> None:
    used = "".join(
        one.read_text() for one in sorted((TESTS / "sim").rglob("*.py")) if one.name != "invariants.py"
    )
    assert [name for name in INVARIANTS if f'"{name}"' not in used] == []
    assert table().count("\n") == len(INVARIANTS) + 1
    with pytest.raises(Violation, match="token_grows"):
        hold("token_grows", False, "back")


def test_every_planted_bug_has_its_place() -> None:
    """The product moves on; what is planted nowhere is caught by nobody."""
    assert misplaced(MUTATIONS) == []
