"""Whom a hold names on a node with two volumes: who wrote in the one that is held, and nobody else."""

from __future__ import annotations

import msgspec

from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.shapes import HoldView
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config

GB = 10**9
NODES = ("n1", "n2", "n3")
TREE = {key_of(f"f{n:03}"): file_of(n) for n in range(400)}
PHP = wire.Hand(4711, "/usr/bin/php", "php index.php", 33, None, "apache2", (), 5, 12 * GB)
TAR = wire.Hand(99, "/bin/tar", "tar x", 0, None, "backup", (), 5, GB // 5)


def a_world() -> FakeWorld:
    rules = GuardRules(warm_up_s=0.0)
    volumes = [
        volume_config(name=name, policy="writers", writers=("n1",), guards=rules)
        for name in ("photos", "mail")
    ]
    world = FakeWorld(NODES, volumes, {"photos": TREE, "mail": TREE})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 5.0
    return world.started()


def hold_of(world: FakeWorld, volume: str) -> HoldView:
    world.until(lambda: bool(world.fleet.hold_ids()), 10.0)
    (hold,) = (world.fleet.hold_view(one) for one in world.fleet.hold_ids())
    assert hold is not None
    assert (hold.volume, hold.guard) == (volume, "write_rate")
    return hold


def report(world: FakeWorld, hands: tuple[wire.Hand, ...], **sizes: int) -> None:
    volumes = tuple(wire.VolumeActivity(name, 5, size, 5) for name, size in sizes.items())
    world["n1"]._say(wire.Activity(1000, volumes, (), hands))


def named(hold: HoldView) -> list[str]:
    return [hand.exe for hand in hold.writers]


def test_the_writer_of_another_volume_is_not_named() -> None:
    world = a_world()
    world["n1"].write("mail", "f001", file_of("new", 100), TAR)
    world.run(2)
    report(world, (TAR, PHP), photos=12 * GB, mail=GB // 4)
    hold = hold_of(world, "photos")
    assert named(hold) == ["/usr/bin/php"]
    assert "by /usr/bin/php" in hold.reason


def test_who_wrote_more_than_all_other_volumes_got_is_named_though_nothing_of_it_is_committed() -> None:
    world = a_world()
    report(world, (PHP,), photos=12 * GB, mail=1_000)
    assert named(hold_of(world, "photos")) == ["/usr/bin/php"]


def test_where_nobody_can_tell_nobody_is_named_and_the_reason_is() -> None:
    world = a_world()
    halves = tuple(msgspec.structs.replace(one, files=4, bytes=GB // 5) for one in (PHP, TAR))
    report(world, halves, photos=6 * GB, mail=GB // 4)
    hold = hold_of(world, "photos")
    assert named(hold) == [""]
    assert "which program wrote is not known (n1 has written in several volumes at once" in hold.reason


def test_who_committed_in_the_volume_is_named() -> None:
    world = a_world()
    world["n1"].write("photos", "f001", file_of("new", 100), PHP)
    world.run(2)
    halves = tuple(msgspec.structs.replace(one, files=4, bytes=GB // 5) for one in (PHP, TAR))
    report(world, halves, photos=6 * GB, mail=GB // 4)
    assert named(hold_of(world, "photos")) == ["/usr/bin/php"]
