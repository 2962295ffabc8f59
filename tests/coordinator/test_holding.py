"""What a hold of a share tells while it lasts: it is told of what its node had, and of what it goes on to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from closeranks_coordinator.core import hands as told_hands
from closeranks_coordinator.core import whose, writers
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.shapes import HoldView
from closeranks_coordinator.core.writers import BEYOND
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config

NODES = ("n1", "n2", "n3")
TREE = {key_of(f"f{number:03}"): file_of(number) for number in range(400)}
GB = 10**9
WARM = GuardRules(warm_up_s=0.0)
RM = wire.Hand(4711, "/usr/bin/rm", "rm -r .", 33, None, "cron", (), 1, 0)


def writing(rules: GuardRules = WARM) -> FakeWorld:
    """n1 and n2 write, n3 follows."""
    volume = volume_config(policy="writers", writers=("n1", "n2"), guards=rules)
    world = FakeWorld(NODES, [volume], {"photos": TREE})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 5.0
    return world.started()


def hold(world: FakeWorld) -> HoldView:
    world.until(lambda: bool(world.fleet.hold_ids()), 10.0)
    (found,) = (world.fleet.hold_view(one) for one in world.fleet.hold_ids())
    assert found is not None
    assert found.state == "held"
    return found


def deleted(world: FakeWorld, count: int) -> None:
    """n1 has deleted so many."""
    disk = world["n1"].disk["photos"]
    for number in range(400):
        key = key_of(f"f{number:03}")
        if number < count:
            disk.pop(key, None)
        else:
            disk[key] = TREE[key]
    world["n1"]._stream("photos", "watch")


def altered(world: FakeWorld, count: int) -> None:
    """n1 has changed so many."""
    disk = world["n1"].disk["photos"]
    for number in range(count):
        disk[key_of(f"f{number:03}")] = file_of(f"other {number}")
    world["n1"]._stream("photos", "watch")


def others_write(world: FakeWorld, count: int) -> None:
    """And all that is theirs is let through, and has reached who is not held."""
    disk = world["n2"].disk["photos"]
    disk.update((key_of(f"new{number:04}"), file_of(f"new {number}")) for number in range(count))
    world["n2"]._stream("photos", "watch")
    world.until(lambda: len(world["n3"].disk["photos"]) == 400 + count)


@pytest.mark.parametrize(("do", "before", "after"), [(deleted, 160, 200), (altered, 240, 280)])
def test_what_others_write_meanwhile_makes_no_share_smaller(do: object, before: int, after: int) -> None:
    """35% of 1,515 paths were told as 20% of 3,518 some seconds later, which the guard would not have held."""
    assert callable(do)
    world = writing()
    do(world, before)
    first = hold(world)
    assert f"{before / 400:.0%} of the volume, {before} of 400 paths" in first.reason
    others_write(world, 500)
    world.run(10.0)
    assert hold(world).reason == first.reason
    do(world, after)
    world.run(10.0)
    later = hold(world)
    assert f"{after / 400:.0%} of the volume, {after} of 400 paths" in later.reason
    assert later.paths == after
    (incident,) = world.incidents("runaway")
    assert incident.summary == later.reason
    assert f"{before} of 400 paths" in incident.timeline[0].text, "what was said when it was held stays"


def test_what_was_undone_is_not_told_any_more() -> None:
    """A directory that gets another name looks like a deletion until its new paths have come."""
    world = writing()
    deleted(world, 200)
    assert "50% of the volume, 200 of 400 paths" in hold(world).reason
    others_write(world, 500)
    deleted(world, 120)
    world.run(10.0)
    assert "30% of the volume, 120 of 400 paths" in hold(world).reason


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_deleted_was_deleted_also_when_nobody_remembers_all_of_it(restart: bool) -> None:
    """The window of the guard passes while a person is asked; a coordinator that starts anew counts what waits."""
    world = writing()
    deleted(world, 60)
    world.run(5.0)
    assert len(world["n3"].disk["photos"]) == 340, "so many were let through"
    deleted(world, 200)
    first = hold(world)
    assert "200 of 400 paths" in first.reason
    if restart:
        world.restart()
    world.run(20.0 if restart else 1000.0)
    others_write_from(world, 340)
    world.run(10.0)
    assert (hold(world).paths, hold(world).reason) == (200, first.reason)


def others_write_from(world: FakeWorld, had: int) -> None:
    world["n2"].disk["photos"][key_of("one")] = file_of("one")
    world["n2"]._stream("photos", "watch")
    world.until(lambda: len(world["n3"].disk["photos"]) == had + 1)


def test_a_hold_of_more_paths_than_are_looked_at_says_how_many_more_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It said that a program had deleted 10,000 files, of which there were 25,000."""
    for module in (told_hands, whose):
        monkeypatch.setattr(module, "KEYS_MAX", 100)
    world = writing()
    for number in range(160):
        del world["n1"].disk["photos"][key_of(f"f{number:03}")]
        world["n1"].hands["photos", key_of(f"f{number:03}")] = RM
    world["n1"]._stream("photos", "watch")
    found = hold(world)
    assert [(one.exe, one.files, one.beyond) for one in found.writers] == [
        ("/usr/bin/rm", 100, False), ("", 60, True),
    ]  # fmt: skip
    assert found.reason.endswith("; by /usr/bin/rm, unit cron")
    (incident,) = world.incidents("runaway")
    assert incident.writers[-1] == f"unknown: {BEYOND}: 60 more files"


def test_a_full_disk_of_more_changes_than_are_looked_at_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "KEYS_MAX", 10)
    world = writing(replace(WARM, rate_min_bytes=100 * GB, observe_bytes_s=100 * GB))
    for number in range(30):
        world["n1"].write("photos", f"new{number}", file_of(f"new {number}", GB), RM)
    for free in (40, 30, 20):
        disk = wire.DiskState("/srv", ("photos",), False, 60 * GB, free * GB, 1.0, 20.0)
        written = wire.VolumeActivity("photos", 10, 10 * GB, 0)
        world["n1"]._say(wire.Activity(1000, (written,), (disk,), (RM,)))
        world.run(0.2)
    for _ in range(2):
        found = hold(world)
        assert found.guard == "disk_full"
        assert [(one.exe, one.beyond) for one in found.writers] == [("/usr/bin/rm", False), ("", True)]
        world.run(10.0)


def test_a_small_volume_that_was_emptied_stays_so_whatever_its_node_writes_meanwhile() -> None:
    """Twelve deleted paths were told as fifteen: what it had written since was counted with them."""
    tree = {key_of(f"f{number:03}"): file_of(number) for number in range(12)}
    volume = volume_config(policy="writers", writers=("n1", "n2"), guards=WARM)
    world = FakeWorld(NODES, [volume], {"photos": tree})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 5.0
    world.started()
    disk = world["n1"].disk["photos"]
    disk.clear()
    world["n1"]._stream("photos", "watch")
    first = hold(world)
    assert (first.guard, first.paths) == ("deleted_share", 12)
    assert "deleted everything of the volume, 12 of 12 paths" in first.reason
    disk.update((key_of(f"new{number}"), file_of(f"new {number}")) for number in range(3))
    world["n1"]._stream("photos", "watch")
    world.run(10.0)
    assert (hold(world).paths, hold(world).reason) == (12, first.reason)
    disk[key_of("f000")] = tree[key_of("f000")]
    world["n1"]._stream("photos", "watch")
    world.run(10.0)
    assert hold(world).paths == 11
