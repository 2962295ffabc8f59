"""Writers on several nodes at once, while agents and the coordinator are killed, frozen and cut off.

In the first story each writer has an area of its own, so whatever happens there is one right end: every node holds
each area as its writer left it. In the second all write the same few paths: then every version is still there
in the end, under its name or a conflict's, except those that somebody replaced who had seen them. Nobody is accused.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleet import CountingProxy, Fleet, MakeFleet, compare_trees, replicated
from fleet.compare import Entry, manifest
from fleet.local import Node
from fleet.process import Daemon
from fleet.scribes import SCRIBES
from fleet.trees import small_tree

WRITERS = ("node-01", "node-02")
ROUNDS = 3
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
SHARED = [f"shared-{number}.txt" for number in range(6)]
SEEDS = [int(one) for one in os.environ.get("CLOSERANKS_TEST_SEEDS", "1 2").split()]

Trouble = Callable[[random.Random, Fleet, CountingProxy], None]


def _areas(root: Path) -> None:
    for name in WRITERS:
        for turn in range(ROUNDS):
            small_tree(root / name / str(turn), seed=turn)


def _kill(rng: random.Random, fleet: Fleet, proxy: CountingProxy) -> None:
    node = rng.choice(list(fleet.nodes.values()))
    node.daemon.kill()
    time.sleep(rng.uniform(0, 2))
    node.start()


def _kill_coordinator(rng: random.Random, fleet: Fleet, proxy: CountingProxy) -> None:
    fleet.coordinator.kill()
    time.sleep(rng.uniform(0, 2))
    fleet.start_coordinator()


def _freeze(rng: random.Random, fleet: Fleet, proxy: CountingProxy) -> None:
    """Long enough, at times, to be taken for dead."""
    frozen: Daemon = rng.choice([node.daemon for node in fleet.nodes.values()] + [fleet.coordinator])
    frozen.pause()
    time.sleep(rng.choice((0.2, 2, 7)))
    frozen.resume()


def _cut(rng: random.Random, fleet: Fleet, proxy: CountingProxy) -> None:
    """Both writers lose the coordinator; what they serve to others goes on."""
    proxy.block()
    time.sleep(rng.choice((0.5, 4)))
    proxy.unblock()


def _nothing(rng: random.Random, fleet: Fleet, proxy: CountingProxy) -> None:
    time.sleep(0.5)


TROUBLES: tuple[Trouble, ...] = (_kill, _kill, _kill_coordinator, _freeze, _freeze, _cut, _nothing)


class _Writer:
    """Some scribes in one area, one after another, in a thread of their own."""

    def __init__(self, area: Path, rng: random.Random) -> None:
        self._area, self._rng = area, rng
        self.left: dict[bytes, Entry] = {}
        self.fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for scribe in self._rng.sample(SCRIBES, self._rng.randint(2, 6)):
                scribe(self._area, self._rng)
                time.sleep(self._rng.uniform(0, 0.5))
            self.left = manifest(self._area)
        except BaseException as error:
            self.fault = error
            raise

    def ended(self) -> dict[bytes, Entry]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.fault is None
        return self.left


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
def test_what_writers_leave_is_everywhere_whatever_happened_meanwhile(
    make_fleet: MakeFleet, seed: int
) -> None:
    rng = random.Random(seed)
    policy = rng.choice((WRITERS, ()))
    fleet = make_fleet(nodes=4, tree=_areas, volumes=[replicated(*policy)])
    proxy = CountingProxy(fleet.agents_port)
    for node in (fleet[0], fleet[1]):
        node.coordinator_port = proxy.port
    fleet.start()
    fleet.wait_in_rank()
    left: dict[str, dict[bytes, Entry]] = {}
    for turn in range(ROUNDS):
        writers = {
            f"{name}/{turn}": _Writer(
                fleet.nodes[name].path() / name / str(turn), random.Random(f"{seed} {turn} {name}")
            )
            for name in WRITERS
        }
        troubles = [rng.choice(TROUBLES) for _ in range(rng.randint(1, 3))]
        for trouble in troubles:
            trouble(rng, fleet, proxy)
            time.sleep(rng.uniform(0, 1))
        left |= {name: writer.ended() for name, writer in writers.items()}
        story = f"round {turn}, {'writers' if policy else 'any-writer'}, {[one.__name__ for one in troubles]}"
        _wait_for(fleet, left, story)
    kinds = [f"{i['kind']} {i['node']}: {i['timeline'][0]['text']}" for i in fleet.api.incidents()]
    assert [one for one in kinds if not one.startswith("outage")] == []
    proxy.close()


@dataclass(frozen=True, slots=True)
class _Write:
    """`content` was put at `path`, where `seen` was just before; None: nothing."""

    path: str
    content: bytes
    seen: bytes | None


class _Rival:
    """Replaces shared files by rename, each path at most once, in a thread of its own."""

    def __init__(self, node: Node, turn: int, rng: random.Random) -> None:
        self._node, self._turn, self._rng = node, turn, rng
        self._writes: list[_Write] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for path in self._rng.sample(SHARED, 4):
            content = f"{path} by {self._node.name} in round {self._turn} ".encode() * self._rng.choice(
                (1, 900, 40_000)
            )
            place = self._node.path() / path
            aside = self._node.base / "aside"
            aside.write_bytes(content)
            seen = _put(aside, place)
            self._writes.append(_Write(path, content, seen))
            time.sleep(self._rng.uniform(0, 1.0))

    def ended(self) -> list[_Write]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._writes


def _put(aside: Path, place: Path) -> bytes | None:
    """Give a file its name, and tell exactly what lay there at that moment."""
    for flag in itertools.cycle((RENAME_EXCHANGE, RENAME_NOREPLACE)):
        if LIBC.renameat2(AT_FDCWD, os.fsencode(aside), AT_FDCWD, os.fsencode(place), flag) == 0:
            return aside.read_bytes() if flag == RENAME_EXCHANGE else None
        if ctypes.get_errno() not in (errno.ENOENT, errno.EEXIST):
            raise OSError(ctypes.get_errno(), "renameat2", str(place))
    raise AssertionError


@pytest.mark.e2e
@pytest.mark.parametrize("seed", SEEDS)
def test_no_version_is_lost_where_all_write_the_same_paths(make_fleet: MakeFleet, seed: int) -> None:
    rng = random.Random(seed)
    policy = rng.choice((("node-01", "node-02", "node-03"), ()))
    fleet = make_fleet(nodes=4, volumes=[replicated(*policy)])
    proxy = CountingProxy(fleet.agents_port)
    for node in (fleet[0], fleet[1]):
        node.coordinator_port = proxy.port
    fleet.start()
    fleet.wait_in_rank()
    writes: list[_Write] = []
    for turn in range(ROUNDS):
        rivals = [
            _Rival(fleet.nodes[name], turn, random.Random(f"{seed} {turn} {name}"))
            for name in policy or fleet.nodes
        ]
        troubles = [rng.choice(TROUBLES) for _ in range(rng.randint(1, 3))]
        for trouble in troubles:
            trouble(rng, fleet, proxy)
            time.sleep(rng.uniform(0, 1))
        writes += [write for rival in rivals for write in rival.ended()]
        fleet.wait_equal(fleet[0], timeout_s=60)
        _nothing_lost(fleet, writes, f"round {turn}, {[one.__name__ for one in troubles]}")
    kinds = [f"{i['kind']} {i['node']}: {i['timeline'][0]['text']}" for i in fleet.api.incidents()]
    assert [one for one in kinds if not one.startswith(("outage", "conflict"))] == []
    proxy.close()


def _nothing_lost(fleet: Fleet, writes: list[_Write], story: str) -> None:
    there = {one.read_bytes() for one in fleet[3].path().iterdir() if one.is_file() and not one.is_symlink()}
    replaced = {(one.path, one.seen) for one in writes}
    lost = [one for one in writes if one.content not in there and (one.path, one.content) not in replaced]
    assert [one.content[:40] for one in lost] == [], story


def _wait_for(fleet: Fleet, left: dict[str, dict[bytes, Entry]], story: str) -> None:
    def look() -> tuple[bool, dict[str, Any]]:
        wrong: dict[str, Any] = {}
        for name, expected in left.items():
            areas = {node.name: str(node.path() / name) for node in fleet.nodes.values()}
            found = compare_trees(expected, areas)
            wrong |= {f"{n}: {name}": [str(one) for one in each[:5]] for n, each in found.items() if each}
        return fleet.api.fleet()["in_rank"], wrong

    fleet.wait(f"{story}: all in rank with what the writers left", look, lambda seen: seen == (True, {}), 60)
