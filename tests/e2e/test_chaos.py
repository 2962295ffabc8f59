"""Damage, kills and restarts at random, from a seed: nobody else is accused, nothing is lost, all end equal."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet import Fleet, MakeFleet

NAMES = (
    b"plain.txt", b"new\nline", b"caf\xe9", b"\xff\xfe", b"--help", b" ", b"a\\b", "\u202eright".encode(), b"x" * 255,
)  # fmt: skip
ROUNDS = 3


def damage(rng: random.Random, tree: Path) -> None:
    """One to six changes of any kind, hostile names among them."""
    root = os.fsencode(tree)
    for _ in range(rng.randint(1, 6)):
        rng.choice(DEEDS)(rng, root)


def _files(root: bytes) -> list[bytes]:
    return sorted(
        os.path.join(place, name)
        for place, places, names in os.walk(root)
        if b".closeranks" not in place
        for name in names
        if not os.path.islink(os.path.join(place, name))
    )


def _alter(rng: random.Random, root: bytes) -> None:
    files = [path for path in _files(root) if os.path.getsize(path)]
    path = rng.choice(files)
    with open(path, "r+b") as file:
        file.seek(rng.randrange(os.path.getsize(path)))
        file.write(rng.randbytes(3))


def _add(rng: random.Random, root: bytes) -> None:
    name = rng.choice(NAMES)
    path = os.path.join(root, name)
    if not os.path.lexists(path):
        with open(path, "wb") as file:
            file.write(rng.randbytes(rng.choice((0, 1, 5000, 1_200_000))))


def _delete(rng: random.Random, root: bytes) -> None:
    os.unlink(rng.choice(_files(root)))


def _empty_directory(rng: random.Random, root: bytes) -> None:
    os.makedirs(os.path.join(root, b"empty-%d" % rng.randrange(100), b"below"), exist_ok=True)


def _file_to_directory(rng: random.Random, root: bytes) -> None:
    path = rng.choice(_files(root))
    os.unlink(path)
    os.mkdir(path)
    with open(os.path.join(path, b"inside"), "wb") as file:
        file.write(b"x")


def _file_to_symlink(rng: random.Random, root: bytes) -> None:
    path = rng.choice(_files(root))
    os.unlink(path)
    os.symlink(b"/etc/passwd", path)


def _remove_tree(rng: random.Random, root: bytes) -> None:
    places = sorted(
        entry.path
        for entry in os.scandir(root)
        if entry.is_dir(follow_symlinks=False) and entry.name != b".closeranks"
    )
    if len(places) > 1:
        shutil.rmtree(rng.choice(places))


def _mode(rng: random.Random, root: bytes) -> None:
    os.chmod(rng.choice(_files(root)), 0o600 if rng.random() < 0.5 else 0o755)


DEEDS: tuple[Callable[[random.Random, bytes], None], ...] = (
    _alter, _alter, _add, _add, _delete, _empty_directory, _file_to_directory, _file_to_symlink, _remove_tree, _mode,
)  # fmt: skip


def kill_something(rng: random.Random, fleet: Fleet) -> None:
    """kill -9 of the coordinator or of an agent, and start it again after a moment."""
    if rng.random() < 0.4:
        fleet.coordinator.kill()
        time.sleep(rng.uniform(0, 1.5))
        fleet.start_coordinator()
    else:
        node = rng.choice(list(fleet.nodes.values()))
        node.daemon.kill()
        time.sleep(rng.uniform(0, 1.5))
        node.start()


@pytest.mark.e2e
@pytest.mark.parametrize(("seed", "digest"), [(1, "xxh3-128"), (2, "blake3"), (3, "xxh3-128")])
def test_whatever_happens_the_fleet_ends_in_rank(make_fleet: MakeFleet, seed: int, digest: str) -> None:
    rng = random.Random(seed)
    fleet = make_fleet(nodes=4, fleet={"digest": digest, "auto_release_max": 100, "recurrence_max": 1000})
    fleet.start()
    fleet.wait_in_rank()
    accused: set[str] = set()
    for _ in range(ROUNDS):
        victim = rng.choice(list(fleet.nodes.values()))
        accused.add(victim.name)
        damage(rng, victim.path())
        time.sleep(rng.uniform(0, 2.5))
        kill_something(rng, fleet)
        time.sleep(rng.uniform(0, 1.0))
        fleet.wait(
            "equal trees and all in rank",
            lambda: (
                fleet.api.fleet()["in_rank"],
                {n: len(found) for n, found in fleet.compare().items() if found},
            ),
            lambda seen: seen == (True, {}),
            timeout_s=60,
        )
    assert fleet.accused() <= accused
