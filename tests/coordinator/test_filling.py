"""Since when a disk fills, from how much room, and what of it counts: report by report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from closeranks_coordinator.core import filling
from closeranks_coordinator.core.meters import DISK_QUIET_S, Gauge
from closeranks_coordinator.core.model import Now
from closeranks_coordinator.core.nodes import Node
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.world import World
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, volume_config

NODES = ("node-01", "node-02", "node-03")
FULL_IN_S = 600.0


class Disk:
    """One node's disk in a fleet that stands still: reports come when a test says so."""

    def __init__(self) -> None:
        volumes = [
            volume_config(name, policy="writers", writers=NODES, guards=GuardRules(disk_full_in_s=full_in_s))
            for name, full_in_s in (("docs", 60.0), ("photos", FULL_IN_S))
        ]
        fleet = FakeWorld(NODES, volumes).started()
        self.core: World = fleet.fleet._world
        self.node: Node = self.core.nodes["node-01"]
        self.core.now = Now(self.node.connected_at + 100.0, self.core.now.wall_ms)

    def report(self, free: int, full_in_s: float | None, after_s: float = 1.0, path: str = "/srv") -> Gauge:
        self.core.now = replace(self.core.now, mono=self.core.now.mono + after_s)
        state = wire.DiskState(path, ("photos",), False, 1000, free, 0.0, full_in_s)
        filling.gauge(self.core, self.node, state)
        return self.core.brake.gauges[self.node.name][path]

    def since(self, gauge: Gauge) -> float:
        return self.core.now.mono - gauge.began


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_a_forecast_that_is_near_enough_goes_on_with_the_burst(disk: Disk) -> None:
    disk.report(900, None)
    began = disk.report(800, 5 * FULL_IN_S)
    on = disk.report(700, 5 * FULL_IN_S)
    assert (on.began, on.start_free, on.filled) == (began.began, 900, 200)
    calm = disk.report(600, filling.DISK_CALM * FULL_IN_S)
    assert (calm.start_free, calm.filled) == (700, 100), "what is so far off is a burst of its own"


def test_after_a_long_silence_it_is_another_burst(disk: Disk) -> None:
    disk.report(900, 60.0)
    assert disk.report(800, 60.0, DISK_QUIET_S).start_free == 900
    assert disk.report(700, 60.0, DISK_QUIET_S + 1.0).start_free == 800


def test_room_that_was_made_ends_what_came_before(disk: Disk) -> None:
    disk.report(900, 60.0)
    disk.report(500, 60.0)
    assert disk.report(950, 60.0).filled == 0
    assert disk.report(940, 60.0).filled == 10


def test_reports_that_foresee_a_full_disk_count_in_a_row(disk: Disk) -> None:
    alarms = [disk.report(900 - number, 60.0).alarms for number in range(3)]
    later = [disk.report(free, full_in_s).alarms for free, full_in_s in ((890, 5 * FULL_IN_S), (880, 60.0))]
    assert [*alarms, *later] == [1, 2, 3, 0, 1]


def test_disks_of_others_leave_a_node_its_own(disk: Disk) -> None:
    """The bound is one node's."""
    for number in range(filling.GAUGES_MAX):
        disk.core.brake.gauges.setdefault("node-02", {})[f"/d{number}"] = disk.report(900, None)
    disk.core.brake.gauges.pop("node-01")
    assert disk.report(800, None).start_free == 800


def test_the_room_at_connect_counts_for_a_moment_and_only_what_nobody_brought(disk: Disk) -> None:
    stored, at = disk.node.volume("photos"), disk.core.now
    assert stored.status is not None
    for after_s, excused, start in ((1.0, False, 950), (1.0, True, 700), (filling.REPORT_S, False, 700)):
        disk.core.now, disk.node.connected_at = at, at.mono
        stored.status = wire.VolumeStatus("photos", None, 5, 5, 0, (), 0, 1000, 950, 5)
        meter = disk.core.brake.meters["node-01", "photos"]
        meter.excused_at = at.mono + 0.5 if excused else -1e9
        found = disk.report(700, 60.0, after_s, path=f"/{after_s}/{excused}")
        assert found.start_free == start


def test_a_disk_goes_by_the_rules_of_what_lies_on_it(disk: Disk) -> None:
    state = wire.DiskState("/srv", ("photos",), False, 1000, 900, 0.0, None)
    assert filling.rules_of(disk.core, disk.node, state).disk_full_in_s == FULL_IN_S
    elsewhere = wire.DiskState("/", (), True, 1000, 900, 0.0, None)
    assert filling.rules_of(disk.core, disk.node, elsewhere).disk_full_in_s == 60.0


def test_what_a_disk_bears_goes_by_its_own_room(disk: Disk) -> None:
    """By the last report; before that by what its node said of the volume; disks of other nodes say nothing."""
    core, volume, stored = disk.core, disk.core.volumes["photos"], disk.node.volume("photos")
    stored.status = wire.VolumeStatus("photos", None, 5, 5, 0, (), 0, 1000, 600, 5)
    core.brake.gauges["node-02"] = {"/srv": disk.report(6, None)}
    core.brake.gauges.pop("node-01")
    assert filling.calm_bytes_s(core, volume, disk.node) == 600 / FULL_IN_S
    disk.report(300, None)
    assert filling.calm_bytes_s(core, volume, disk.node) == 300 / FULL_IN_S
    core.brake.gauges.clear()
    stored.status = None
    assert filling.calm_bytes_s(core, volume, disk.node) == float("inf")
    disk.node.connected_at = core.now.mono
    assert filling.calm_bytes_s(core, volume, disk.node) is None, "it is known in a moment"
