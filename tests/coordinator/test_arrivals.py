"""What a node has proven counts for the session in which it did."""

from __future__ import annotations

from closeranks_coordinator.core.model import Connected, RootStored, Scanned, Watched
from fakeworld import FakeWorld

NODE = "node-02"


def compared(world: FakeWorld) -> bool:
    core = world.fleet._world
    return core.compared(core.nodes[NODE], core.volumes["photos"])


def dial(world: FakeWorld) -> None:
    """Another session, which tells of nothing but the root that is known."""
    agent = world[NODE]
    agent.session = world.new_session()
    world.event(Connected(NODE, agent.session, agent.agent_id, f"{NODE}:7342", 0, None, ("photos",)))
    world.event(RootStored(NODE, "photos", world.node_roots[NODE, "photos"], "known", world.mono))


def fleet() -> FakeWorld:
    world = FakeWorld(["node-01", NODE, "node-03"]).started()
    assert compared(world)
    return world


def test_a_session_that_takes_the_place_of_another_begins_with_nothing_proven() -> None:
    world = fleet()
    dial(world)
    assert not compared(world)
    world.event(Scanned(NODE, "photos", world.mono))
    assert compared(world)


def test_a_watchers_word_is_none_before_a_scan() -> None:
    """It tells what changed since it began: what was written while nobody watched only a scan finds."""
    world = fleet()
    world[NODE].disconnect()
    dial(world)
    world.event(Watched(NODE, "photos", world.mono))
    assert not compared(world)
    world.event(Scanned(NODE, "photos", world.mono))
    assert compared(world)


def test_what_was_scanned_before_its_root_went_away_says_nothing_afterwards() -> None:
    world = fleet()
    world[NODE].problem("photos", "not_mounted")
    assert not compared(world)
    world[NODE].problem("photos", None)
    world.event(Watched(NODE, "photos", world.mono))
    assert not compared(world)
    world.event(Scanned(NODE, "photos", world.mono))
    assert compared(world)
