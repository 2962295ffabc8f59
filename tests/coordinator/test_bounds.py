"""What the core holds does not grow with the number of commits, however long a replica sleeps."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable

import pytest

from closeranks_coordinator.core import history, lateness, truth
from closeranks_coordinator.core.history import HISTORY_MAX_BYTES, HISTORY_MAX_ROOTS, TruthHistory
from closeranks_coordinator.core.judge import Analysis
from closeranks_coordinator.core.lateness import Lateness
from closeranks_coordinator.core.truth import Differ
from closeranks_coordinator.core.windows import GENERATIONS, REMEMBERED_MAX, Shares
from closeranks_proto.digests import XXH3_128
from closeranks_proto.limits import MIB
from closeranks_proto.tree import Tree
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.reach import items_held
from fakeworld.trees import tree

NODES = ("node-01", "node-02", "node-03")
PATHS = [f"d{number % 7}/{number:03}" for number in range(70)]


def commit(world: FakeWorld, rng: random.Random, number: int) -> None:
    """A writer's commit: some files rewritten, one removed or back."""
    agent = world["node-01"]
    changes: dict[bytes, bytes | None] = {
        key_of(path): file_of(f"{number} {path}") for path in rng.sample(PATHS, 4)
    }
    gone = key_of(rng.choice(PATHS))
    changes[gone] = None if gone in agent.disk["photos"] else file_of(number)
    before = world.node_roots["node-01", "photos"]
    edited = world.tree.edit(before, sorted(changes.items()))
    world.objects.update(edited.pages)
    agent.disk["photos"] = dict(world.tree.walk(edited.root))
    agent._commit("photos", edited.root, "watch")


def test_what_is_held_for_a_sleeping_replica_is_bounded_by_the_tree_and_not_by_the_commits() -> None:
    config = volume_config(policy="writers", nodes=NODES, writers=("node-01",), settle_s=1.0)
    world = FakeWorld(NODES, [config], {"photos": tree(*PATHS)})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 1e9
    world.started()
    world["node-03"].disconnect()
    rng = random.Random(1)
    held = []
    for number in range(4000):
        commit(world, rng, number)
        world.run(0.5)
        world.observed.clear()
        world.told.clear()
        if number in (2499, 3999):
            held.append(items_held(world.fleet._world))
    world.until(lambda: world["node-02"].disk["photos"] == world["node-01"].disk["photos"])
    earlier, later = held
    grown = {
        path: (earlier[path], count) for path, count in later.items() if count > 1.1 * earlier[path] + 50
    }
    assert grown == {}
    late = world.fleet._world.nodes["node-03"].view("photos").late
    assert len(late.steps) <= lateness.STEPS_MAX
    assert len(world.fleet._world.volumes["photos"].history.roots) <= HISTORY_MAX_ROOTS
    world["node-03"].connect()
    world.until(lambda: world["node-03"].disk["photos"] == world["node-01"].disk["photos"])


def test_a_difference_that_was_followed_makes_room_for_the_next_one() -> None:
    """Of a node far behind one difference is kept, not one for each step of the truth."""
    pages: dict[bytes, bytes] = {}
    forest = Tree(XXH3_128, pages.__getitem__)
    built = forest.build([(b"%05d" % number, file_of(number)) for number in range(5000)])
    asleep = forest.build([(b"%05d" % number, file_of("old")) for number in range(5000)])
    pages |= built.pages | asleep.pages
    differ = Differ(forest)
    root = built.root
    known = differ.diff(asleep.root, root)
    for number in range(40):
        edited = forest.edit(root, [(b"%05d" % number, file_of(f"new {number}"))])
        pages |= edited.pages
        known, touched = differ.follow(known, (asleep.root, root), (asleep.root, edited.root))
        assert touched == (b"%05d" % number,)
        root = edited.root
    assert len(known) == 5000
    assert dict(known) == {one.key: (one.ours, one.theirs) for one in forest.diff(asleep.root, root)}
    assert sum(len(found) for found in differ._memo.values()) <= 5000 + 40
    assert differ._keys == sum(len(found) + 1 for found in differ._memo.values())
    assert differ._keys <= truth.MEMO_MAX_KEYS


def test_a_file_that_is_rewritten_for_ever_takes_one_place_in_the_window() -> None:
    shares = Shares(600.0)
    for number in range(1000):
        shares.lose(1.0, number)
        shares.gain(1.0, number + 1)
    assert shares.lost(1.0) == 1, "what it held at first"
    assert sum(len(one.balance) for one in shares._generations) == 2


class Growing:
    """A truth to which files are added, `step` at a time, as a writer of small files does."""

    def __init__(self, step: int) -> None:
        self.pages: dict[bytes, bytes] = {}
        self.tree = Tree(XXH3_128, self.pages.__getitem__)
        self.differ = Differ(self.tree)
        first = self.tree.build([(b"first", file_of("first"))])
        self.pages |= first.pages
        self.root, self.step, self.made = first.root, step, 0
        self.history = TruthHistory(self.differ, [], 0.0)
        self.history.move(self.root, 0.0)

    def grow(self) -> None:
        numbers = range(self.made, self.made + self.step)
        edits = [(b"flood-%05d\x00%09d.dat" % (at // 500, at), file_of(at)) for at in numbers]
        edited = self.tree.edit(self.root, edits)
        self.pages |= edited.pages
        self.root, self.made = edited.root, numbers.stop
        self.history.move(self.root, 0.0)


def test_the_truths_past_is_bounded_in_bytes_of_memory_and_counts_them_as_they_are() -> None:
    """45,000 new files or four times as many: the index takes what it says that it takes, and no more."""
    growing = Growing(2000)
    tracemalloc.start(1)
    try:
        most = 0
        for _ in range(90):
            growing.grow()
            growing.differ._memo.clear()
            most = max(most, growing.history.bytes)
            assert growing.history.bytes <= HISTORY_MAX_BYTES
        gc.collect()
        taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, history.__file__)])
        keys = sum(len(key) + 33 for step in growing.history._steps.values() for key in step)
        values = sum(
            len(one) + 33 for known in growing.history._index().values() for one in known[3::2] if one
        )
        held = sum(one.size for one in taken.statistics("filename")) + keys + values
    finally:
        tracemalloc.stop()
    assert most > 0.8 * HISTORY_MAX_BYTES, "it was filled"
    assert held <= 1.25 * growing.history.bytes


def test_a_lag_longer_than_the_truths_past_is_looked_through_once_for_what_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds of forgotten steps, each with ten thousands of paths: it kept the coordinator busy for half a minute."""
    monkeypatch.setattr(history, "HISTORY_MAX_BYTES", MIB)
    growing = Growing(100)
    behind, late = growing.root, Lateness()
    before: Analysis | None = None
    asked = 0
    latest: Callable[[bytes, bytes | None], int | None] = growing.history.latest_order

    def counted(key: bytes, value: bytes | None) -> int | None:
        nonlocal asked
        asked += 1
        return latest(key, value)

    monkeypatch.setattr(growing.history, "latest_order", counted)

    def look(root: bytes, now: float) -> float | None:
        nonlocal before
        raw = growing.differ.diff(root, growing.root)
        after = Analysis(root, growing.root, root, (), raw, raw, raw, raw.keys(), frozenset())
        since = late.follow(growing.history, before, after, now)
        before = after
        return since

    for number in range(200):
        growing.grow()
        assert look(behind, float(number)) == 0.0, "the first step is what it lacks"
    lagging = growing.made
    asked = 0
    missing = sorted(growing.differ.diff(behind, growing.root).items())
    for at in range(0, len(missing), 500):
        edited = growing.tree.edit(behind, [(key, values[1]) for key, values in missing[at : at + 500]])
        growing.pages |= edited.pages
        behind = edited.root
        since = look(behind, 300.0)
        assert (since is None) == (behind == growing.root)
    assert not late.steps
    assert asked < 3 * lagging


def test_what_a_guard_remembers_of_ten_minutes_at_full_speed_stays_below_20_mb() -> None:
    shares = Shares(600.0)
    rng = random.Random(2)
    for number in range(600_000):
        shares.gain(number / 1000, rng.getrandbits(64))
    assert len(shares._generations) == GENERATIONS - 1
    assert all(len(one.balance) + 25_000 >= REMEMBERED_MAX for one in shares._generations)
    assert sum(one.balance.bytes for one in shares._generations) < 20 * MIB


def test_a_lag_is_as_old_as_what_is_still_lacking_when_another_path_takes_a_step() -> None:
    """The path that was looked at has moved on, and is still behind: another one may lack what is older."""
    growing, late = Growing(1), Lateness()
    tree, history, behind = growing.tree, growing.history, growing.root
    before = Analysis(behind, behind, behind, (), {}, {}, {}, {}.keys(), frozenset())
    late.follow(history, None, before, 0.0)

    def edit(root: bytes, **values: str) -> bytes:
        edited = tree.edit(root, [(key.encode(), file_of(value)) for key, value in values.items()])
        growing.pages |= edited.pages
        return edited.root

    def look(now: float) -> float | None:
        nonlocal before
        raw = growing.differ.diff(behind, growing.root)
        after = Analysis(behind, growing.root, behind, (), raw, raw, raw, raw.keys(), frozenset())
        since = late.follow(history, before, after, now)
        before = after
        return since

    for now, values in enumerate(({"a": "1", "b": "1"}, {"b": "2"}, {"b": "3"}), 1):
        growing.root = edit(growing.root, **values)
        history.move(growing.root, float(now))
        assert look(float(now)) == 1.0
    history.forget(history.roots[-2][0])
    assert look(4.0) == 1.0
    behind = edit(behind, b="2")
    assert look(5.0) == 1.0, "the first step of a is lacking"
    behind = edit(behind, a="1")
    assert look(6.0) == 3.0
    behind = edit(behind, b="3")
    assert look(7.0) is None
