"""Pushes of the truth's steps: whose doing they are, which answer counts, who is sent none, and in which order."""

from __future__ import annotations

import pytest

from closeranks_coordinator.core import pushing
from closeranks_coordinator.core.model import FromAgent
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree

NAMES = ("node-01", "node-02", "node-03")
FILES = tree("a/one.jpg", "c.txt")


def fleet(*more: str) -> FakeWorld:
    """All nodes write; `more` are files besides."""
    config = volume_config(policy="any-writer", nodes=NAMES, writers=NAMES, settle_s=1.0, scan_interval_s=1.0)
    world = FakeWorld(NAMES, [config], {"photos": {**FILES, **tree(*more)}})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def same(world: FakeWorld) -> bool:
    disks = [agent.disk["photos"] for agent in world.agents.values()]
    return all(disk == disks[0] for disk in disks)


def pushes(world: FakeWorld, node: str) -> list[wire.Push]:
    return [one for one in world[node].got if isinstance(one, wire.Push)]


def test_what_a_push_made_is_no_change_though_the_node_tells_of_it_after_it_was_away() -> None:
    """The truth went on to a value and came back. Who was pushed that value, and was cut off, has written nothing."""
    world, key = fleet(), key_of("c.txt")
    node = world["node-03"]
    node.deaf = True
    world["node-01"].put("photos", "c.txt", file_of("pushed"))
    world.until(lambda: bool(pushes(world, "node-03")))
    node.disk["photos"][key] = file_of("pushed")  # made, and the connection broke before it was told
    node.disconnect()
    world["node-01"].put("photos", "c.txt", FILES[key])
    world.run(1)
    node.deaf = False
    node.connect()
    world.until(lambda: same(world) and world.in_rank())
    assert node.disk["photos"][key] == FILES[key]


def test_the_answer_to_an_older_push_does_not_end_the_one_under_way() -> None:
    world = fleet()
    world["node-03"].deaf = True
    world["node-01"].put("photos", "c.txt", file_of("new"))
    world.until(lambda: bool(pushes(world, "node-03")))
    (push,) = pushes(world, "node-03")
    late = wire.PushResult("photos", push.push - 1, 1, 0, 0, 0, 0, "", None)
    world.event(FromAgent("node-03", late))
    world.run(2)
    assert pushes(world, "node-03") == [push]


def test_who_is_converged_is_pushed_nothing_meanwhile() -> None:
    world = fleet()
    node = world["node-03"]
    node.pushes_fail, node.order_s = True, 5.0
    world["node-01"].put("photos", "c.txt", file_of("new"))
    world.until_state("node-03", "resyncing")
    before = len(pushes(world, "node-03"))
    world["node-01"].put("photos", "other.txt", file_of("other"))
    world.run(3)
    assert world.state("node-03") == "resyncing"
    assert len(pushes(world, "node-03")) == before
    node.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank())


@pytest.mark.parametrize("becomes_a_file", [False, True])
def test_a_directory_goes_behind_all_that_it_holds(
    becomes_a_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large removal takes several pushes: a directory whose files come in a later one could not be removed."""
    monkeypatch.setattr(pushing, "PUSH_MAX_EDITS", 3)
    paths = [f"x/{place}/{number}" for place in "pqr" for number in range(3)]
    world, removed = fleet(*paths), tree(*paths)
    world["node-01"].remove("photos", "x")
    if becomes_a_file:
        world["node-01"].write("photos", "x", file_of("a file now"))
    world.until(lambda: same(world) and world.in_rank())
    sent, gone = pushes(world, "node-03"), set[bytes]()
    assert len(sent) > 3
    for push in sent:
        gone |= {edit.key for edit in push.edits}
        for key in sorted(gone):
            left = [one for one in removed if one.startswith(key + b"\0") and one not in gone]
            assert not left, f"{key!r} goes before {left}"
