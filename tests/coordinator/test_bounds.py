"""What the core holds does not grow with the number of commits, however long a replica sleeps."""

from __future__ import annotations

import random

from closeranks_coordinator.core import lateness, truth
from closeranks_coordinator.core.history import HISTORY_MAX_ROOTS
from closeranks_coordinator.core.truth import Differ
from closeranks_coordinator.core.windows import Shares
from closeranks_proto.digests import XXH3_128
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
    for number in range(3000):
        commit(world, rng, number)
        world.run(0.5)
        world.observed.clear()
        world.told.clear()
        if number in (1499, 2999):
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
