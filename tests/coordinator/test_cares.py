"""What is said of a node's disks, and of its roads to others, where nobody is held for them."""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView

import pytest

from closeranks_coordinator.core.meters import Gauge
from closeranks_coordinator.core.shapes import CareView
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, volume_config

GB = 10**9
NODES = ("n1", "n2", "n3")


class Replica:
    """n2 of a replicated volume, whose agent tells of its one disk of 10 GB what a test says."""

    def __init__(self) -> None:
        self.world = FakeWorld(
            NODES, [volume_config(policy="writers", writers=("n1",))], {"photos": {}}
        ).started()

    def says(
        self, free: int, full_in_s: float | None = None, taken: int = 0, trash: int = 0
    ) -> tuple[CareView, ...]:
        state = wire.DiskState("/srv", ("photos",), False, 10 * GB, free, 0.0, full_in_s, taken, trash)
        self.world["n2"]._say(wire.Activity(1000, (), (state,), ()))
        self.world.run(1.0)
        return self.view.cares

    @property
    def view(self):  # type: ignore[no-untyped-def]
        found = self.world.fleet.node_view(self.world.now(), "n2")
        assert found is not None
        return found


def test_a_replica_that_fills_by_what_the_others_have_says_so_until_there_is_room() -> None:
    replica = Replica()
    assert replica.says(5 * GB) == ()
    for step in range(1, 4):
        (*cares,) = replica.says(5 * GB - step * GB, 60.0, step * GB)
    (care,) = cares
    assert "n2's disk /srv (volume photos) fills with what closeranks puts there" in care.text
    assert "2.0 GB of 10 GB are free" in care.text
    assert care.next == "make room on /srv of n2, or give it a larger disk"
    assert not replica.view.holds
    assert replica.says(6 * GB, None, 3 * GB) == ()


def test_what_somebody_else_writes_there_is_not_said_to_be_the_others() -> None:
    replica = Replica()
    replica.says(5 * GB)
    assert all(replica.says(5 * GB - step * GB // 20, 590.0) == () for step in range(1, 4))


def test_a_disk_that_its_own_trash_fills_says_how_much_and_what_gives_way() -> None:
    replica = Replica()
    assert replica.says(GB, trash=3 * GB) == (), "a tenth is free"
    (care,) = replica.says(GB // 4, trash=3 * GB)
    assert "250 MB of 10 GB are free, and 3.0 GB are closeranks' own trash" in care.text
    assert "trash_keep_s" in care.text
    assert "closeranks trash restore" in care.next
    assert "trash_max_bytes" in care.next
    assert replica.says(GB // 4, trash=GB // 8) == (), "the trash is not what fills it"


def test_how_much_of_a_disk_is_trash_is_shown_with_it() -> None:
    replica = Replica()
    replica.says(5 * GB, trash=2 * GB)
    assert [one.trash_bytes for one in replica.view.disk] in ([2 * GB], [])
    stored = replica.world.fleet._world.nodes["n2"].volume("photos")
    stored.status = wire.VolumeStatus("photos", None, 5, 5, 0, (), 0, 10 * GB, 5 * GB, 5)
    assert [(one.volume, one.trash_bytes) for one in replica.view.disk] == [("photos", 2 * GB)]


REFUSED = wire.Unreached("n1", "10.0.0.1:7342", "connection refused")
SILENT = wire.Unreached("n3", "10.0.0.3:7342", "no answer within 5 s")


def says_of_roads(replica: Replica, *unreached: wire.Unreached) -> tuple[CareView, ...]:
    status = wire.VolumeStatus("photos", None, 5, 5, 0, (), 0, 10 * GB, 5 * GB, 5, unreached=unreached)
    replica.world["n2"]._say(status)
    return replica.view.cares


def test_a_node_that_reaches_nobody_says_whom_and_what_to_do_while_it_lacks_something() -> None:
    replica = Replica()
    world = replica.world
    assert says_of_roads(replica, REFUSED, SILENT) == (), "it lacks nothing"
    world["n2"].deaf = world["n2"].pushes_fail = True
    world["n1"].put("photos", "new", file_of("new", 1000))
    world.run(3.0)
    (care,) = says_of_roads(replica, REFUSED, SILENT)
    assert care.text == (
        "n2 can not reach n1 at 10.0.0.1:7342 (connection refused) and n3 at 10.0.0.3:7342 (no answer within 5 s), "
        "though the coordinator can. Contents of files travel between the nodes: nobody else has it, so n2 stays "
        "behind on photos."
    )
    assert "firewall of n1" in care.next
    assert "`advertise`" in care.next
    assert "curl http://10.0.0.1:7342/" in care.next
    (care,) = says_of_roads(replica, REFUSED)
    assert "where no other node can give it, n2 stays behind on photos" in care.text
    assert says_of_roads(replica) == ()


class Counted(dict[str, Gauge]):
    """The disks of one node: how often any of them was looked at."""

    looks = 0

    def items(self) -> ItemsView[str, Gauge]:
        Counted.looks += len(self)
        return super().items()

    def values(self) -> ValuesView[Gauge]:
        Counted.looks += len(self)
        return super().values()


@pytest.mark.parametrize("count", [4, 16, 64])
def test_whoever_looks_at_the_fleet_has_each_disk_looked_at_a_few_times(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node went through the disks of all: a million of them in a fleet of 1,000, at each `status`."""
    names = tuple(f"n{number:03d}" for number in range(count))
    world = FakeWorld(names, [volume_config(policy="writers", writers=("n000",))], {"photos": {}}).started()
    for name in names:
        state = wire.DiskState("/srv", ("photos",), False, 10 * GB, GB, 0.0, None, 0, 0)
        world[name]._say(wire.Activity(1000, (), (state,), ()))
    world.run(2.0)
    gauges = world.fleet._world.brake.gauges
    assert len(gauges) == count
    monkeypatch.setattr(
        world.fleet._world.brake, "gauges", {name: Counted(disks) for name, disks in gauges.items()}
    )
    monkeypatch.setattr(Counted, "looks", 0)
    assert len(world.fleet.fleet_view(world.now()).nodes) == count
    assert count <= Counted.looks <= 3 * count
