"""What a node has proven counts for the session in which it did."""

from __future__ import annotations

from dataclasses import replace

import pytest

from closeranks_coordinator.core import persistence
from closeranks_coordinator.core.model import (
    Connected,
    FromAgent,
    QuarantineAsked,
    ReleaseAsked,
    RootStored,
    Scanned,
    Watched,
)
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config

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


def test_a_scan_that_began_under_other_settings_does_not_count_for_these() -> None:
    world = fleet()
    (volume,) = world.config.volumes
    world.configure(replace(world.config, volumes=(replace(volume, ignore=("*.tmp",)),)))
    connected_at = world.fleet._world.nodes[NODE].connected_at
    world.event(Scanned(NODE, "photos", connected_at - 1.0))
    assert not compared(world)
    world.event(Scanned(NODE, "photos", world.mono))
    assert compared(world)


def test_who_joins_has_no_vote_yet() -> None:
    """Whose tree is another one is not asked for the truth before it has had it."""
    old = ("node-01", NODE, "node-03")
    world = FakeWorld([*old, "node-04", "node-05"], [volume_config(on_lag="wait")])
    world.start(*old)
    world.until(lambda: world.state("node-03") == "in_rank")
    for name in ("node-04", "node-05"):
        world[name].disk["photos"][key_of("c.txt")] = file_of("other")
    world.start("node-04", "node-05")
    world.run(3)
    assert (world.state("node-04"), world.fleet._world.volumes["photos"].voters) == ("joining", old)


@pytest.mark.parametrize("policy", ["quorum", "any-writer"])
def test_who_waits_to_found_a_truth_waits_anew_when_there_were_too_few_meanwhile(policy: str) -> None:
    """The rest may be as late as the one who was away: what only they have is to be in the first truth."""
    names = tuple(f"node-{number:02d}" for number in range(1, 6))
    writers = names if policy == "any-writer" else ()
    world = FakeWorld(names, [volume_config(policy=policy, writers=writers, settle_s=1.0)])
    for name in names:
        world[name].disk["photos"][key_of("local.txt")] = file_of(name)
    world.start(*names[:3])
    world.run(3)
    world["node-03"].stop()
    world.run(20)
    world.start("node-03")
    world.run(3)
    (volume,) = world.fleet._world.volumes.values()
    assert volume.truth is None
    world.start(*names[3:])
    world.until(lambda: volume.truth is not None, 1)
    assert volume.voters == names


def test_an_answer_about_an_older_fence_or_release_is_none_about_the_present_one() -> None:
    world = fleet()
    record = world.fleet._world.nodes[NODE].record
    for _ in range(2):
        world.ask(QuarantineAsked(NODE, "a person looks at it"))
        world.run(1)
        world[NODE].fence = None  # its agent hears nothing of the next words
        world[NODE].disconnect()
        dial(world)
        fence = record.fence
        assert fence is not None
        heard = [fence.acknowledged]
        for token in (fence.token - 1, fence.token):
            world.event(FromAgent(NODE, wire.FenceAnswer(token, True, "", True)))
            heard.append(fence.acknowledged)
        assert heard == [False, False, True]
        world.event(Scanned(NODE, "photos", world.mono))
        assert not isinstance(world.ask(ReleaseAsked(NODE)), str)
        world.event(FromAgent(NODE, wire.FenceAnswer(fence.token - 1, False, "", True)))
        assert record.unfence == fence.token
        world.run(1)


def test_what_a_node_is_to_become_follows_what_can_not_be_judged() -> None:
    """Its own entries stay where nobody has a majority any more, though nothing else has changed."""
    world = FakeWorld(["node-01", NODE, "node-03"], [volume_config(on_divergence="alert")]).started()
    world[NODE].write("photos", "c.txt", file_of("its own"))
    world.until(lambda: bool(world.incidents("divergence")))
    core = world.fleet._world
    node, volume = core.nodes[NODE], core.volumes["photos"]
    assert core.target(node, volume, "divergence") == volume.truth
    volume.undetermined = frozenset({key_of("c.txt")})
    assert core.target(node, volume, "divergence") == node.volume("photos").root


def test_a_record_of_a_volume_does_not_wait_for_a_node_of_the_same_name() -> None:
    """A node that was not judged yet is written by a later step; the truth that others were told of is not."""
    world = FakeWorld(["node-01", NODE, "photos"]).started()
    core = world.fleet._world
    core.touch("node", "photos")
    core.touch("volume", "photos")
    found = persistence.persist(core, frozenset({"photos"}))
    assert found is not None
    assert [(kind, key) for kind, key, _ in found.records] == [("volume", "photos")]
    later = persistence.persist(core)
    assert later is not None
    assert [(kind, key) for kind, key, _ in later.records] == [("node", "photos")]
