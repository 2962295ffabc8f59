"""What a hold keeps back, and whether there is anything in it for a person to decide."""

from __future__ import annotations

from typing import Any

import pytest

from closeranks_coordinator.core import kept
from closeranks_coordinator.core.records import HoldRecord
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, volume_config

NAMES = ("node-01", "node-02", "node-03")
BYTES = 100  # of each file


@pytest.fixture
def world() -> FakeWorld:
    """node-02 has changed two files of docs and one of photos by itself, and is behind in one of photos."""
    settings: dict[str, Any] = {"on_divergence": "alert", "on_lag": "wait", "settle_s": 1.0}
    made = FakeWorld(
        NAMES, [volume_config("docs", **settings), volume_config("photos", **settings)]
    ).started()
    for path in ("c.txt", "a/one.jpg"):
        made["node-02"].write("docs", path, file_of("own"))
    made["node-02"].write("photos", "c.txt", file_of("own"))
    made.everywhere("new.txt", file_of("new"), volume="photos", but=["node-02"])
    made.until(lambda: made.volume("node-02", "photos").differing_paths == 2)
    made.until(lambda: made.volume("node-02", "docs").differing_paths == 2)
    return made


def hold(
    guard: str = "write_rate", node: str = "node-02", volume: str | None = None, **more: Any
) -> HoldRecord:
    return HoldRecord("h-000001", guard, node, volume, 0, "a reason", **more)


def test_what_waits_is_what_the_node_has_changed_by_itself_in_the_volumes_of_the_hold(
    world: FakeWorld,
) -> None:
    """Another writer's 6,000 new files, which it could not get while it was held, were said to be its doing."""
    core = world.fleet._world
    assert kept.waiting(core, hold(volume="docs")) == (2, 2 * BYTES)
    assert kept.waiting(core, hold(volume="photos")) == (1, BYTES)
    assert kept.waiting(core, hold(volume="docs", volumes=["docs", "photos"])) == (3, 3 * BYTES)
    assert kept.waiting(core, hold()) == (3, 3 * BYTES), "of the node as a whole"
    world.everywhere("c.txt", file_of("other"), volume="photos", but=["node-02"])
    world.everywhere("more.txt", file_of("more"), volume="photos", but=["node-02"])
    world.until(lambda: world.volume("node-02", "photos").differing_paths == 3)
    assert kept.waiting(core, hold(volume="photos")) == (1, BYTES)
    world["node-02"].write("photos", "new.txt", file_of("another"))
    world.until(lambda: world.volume("node-02", "photos").lagging_paths == 1)
    assert kept.waiting(core, hold(volume="photos")) == (2, 2 * BYTES)
    assert kept.waiting(core, hold(node="node-01")) == (0, 0)


@pytest.mark.parametrize("state", ["allowed", "rejected", "over"])
def test_what_waited_is_told_as_it_was_once_that_is_decided(world: FakeWorld, state: str) -> None:
    decided = hold(state=state, waiting_paths=7, waiting_bytes=70)
    assert kept.waiting(world.fleet._world, decided) == (7, 70)


def test_of_a_node_that_is_gone_what_was_seen_last_is_told(world: FakeWorld) -> None:
    gone = hold(node="node-09", waiting_paths=7, waiting_bytes=70)
    assert kept.waiting(world.fleet._world, gone) == (7, 70)
    assert kept.is_empty(world.fleet._world, gone)


def test_a_full_disk_asks_for_a_decision_only_where_a_change_of_the_nodes_own_is_kept_back(
    world: FakeWorld,
) -> None:
    core = world.fleet._world
    assert not kept.wants_room(core, hold("disk_full", volume="photos"))
    assert kept.wants_room(core, hold("disk_full", node="node-01", volume="photos"))
    world["node-02"].write("photos", "c.txt", file_of("c.txt"))
    world.until(lambda: world.volume("node-02", "photos").differing_paths == 1)
    assert kept.wants_room(core, hold("disk_full", volume="photos")), (
        "it is only behind: nothing of its own waits"
    )
    assert not kept.wants_room(core, hold("disk_full", volume="docs"))
    assert not kept.wants_room(core, hold("disk_full", volume="photos", volumes=["docs", "photos"]))


def test_the_disk_of_the_agents_own_state_asks_for_room_alone(world: FakeWorld) -> None:
    full = hold("disk_full", volume=None)
    assert kept.is_of_state(full)
    assert kept.wants_room(world.fleet._world, full), "whatever its volumes hold"
    assert not kept.is_of_state(hold("disk_full", volume="photos"))
    assert not kept.is_of_state(hold("write_rate", volume=None))


def test_what_was_written_too_fast_is_decided_by_a_person_also_when_nothing_waits(world: FakeWorld) -> None:
    assert not kept.wants_room(world.fleet._world, hold("write_rate", node="node-01"))


def test_a_file_that_still_grows_is_about_to_wait(world: FakeWorld) -> None:
    """No view says anything of it before it is committed."""
    core, full = world.fleet._world, hold("disk_full", node="node-01", volume="photos")
    assert kept.is_empty(core, full)
    for pending, empty in ((1, False), (0, True)):
        writing = wire.VolumeActivity("photos", 1, 1000, pending)
        world["node-01"]._say(wire.Activity(1000, (writing,), (), ()))
        assert kept.is_empty(core, full) == empty
