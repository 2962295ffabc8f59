"""Whole programs on invented time: a few seeds, and that a seed is the same each time. `make sim-shells` plays more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.mutations import MUTATIONS, ROOT, Mutation
from sim.mutations import play as play_planted
from sim.regressions import FOUND_BY_SHELLS

TESTS = Path(__file__).parents[1]


def played(seed: int, hashing: str = "0") -> dict[str, object]:
    environ = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hashing}
    command = [sys.executable, "-m", "sim.shells", "--one", str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("seed", [1, 2, 5, 13, *FOUND_BY_SHELLS])
def test_a_seed_of_whole_programs_breaks_no_promise(seed: int) -> None:
    played(seed)


@pytest.mark.parametrize(
    ("planted", "invariant"),
    [
        ("store: nothing waits for the disk any more", "acknowledged_survives"),
        ("session: a step is acknowledged before it is stored", "acknowledged_survives"),
        ("index: nothing waits for the disk any more", "number_once"),
        ("state: a token is kept in memory alone", "token_grows"),
    ],
)
def test_a_power_cut_finds_what_was_promised_too_early(planted: str, invariant: str) -> None:
    """A sample of `make sim-mutations`: the simulated disks lose what was not synced."""
    (mutation,) = [one for one in MUTATIONS if one.name == planted]
    caught = play_planted(mutation, "1-20")
    assert caught is not None
    assert caught[0] == invariant


@pytest.mark.parametrize("planted", MUTATIONS, ids=lambda one: one.name)
def test_each_planted_bug_still_has_its_place(planted: Mutation) -> None:
    assert (ROOT / planted.file).read_text().count(planted.old) == 1


def test_the_room_that_others_take_on_the_disk_below_is_not_the_simulated_ones() -> None:
    """With 512 MB more or less in /dev/shm an agent told of its disk once more, and seed 64 was another one."""
    code = (
        "import os\nfrom sim.shells import kernel\nfrom sim.shells.loop import Loop\n"
        "before = os.statvfs('/dev/shm').f_fsid\nkernel.install(Loop(1), 1, {})\nfound = os.statvfs('/dev/shm')\n"
        "print(found.f_blocks * found.f_frsize, 9 * found.f_blocks // 10 - found.f_bavail, found.f_fsid == before)"
    )
    environ = {**os.environ, "PYTHONPATH": str(TESTS)}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert ran.stdout.split() == [str(10**12), "0", "True"]


def test_a_seed_of_whole_programs_is_the_same_each_time() -> None:
    assert played(64, "0")["digest"] == played(64, "1")["digest"]
