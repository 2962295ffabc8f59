"""Disks that fail, fill or turn read-only under a daemon: said by name, never taken for a deletion, and healed."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from faults.power import PowerDisk
from faults.shim import Calls, Shim
from fleet import Fleet, LoopDisk, MakeFleet, Node, Tmpfs, VolumeSpec, replicated
from fleet.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(170)]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def problem(fleet: Fleet, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = fleet.api.node(node.name)["volumes"][0]["problem"] or {}
    return found


def wait_problem(fleet: Fleet, node: Node, *codes: str) -> dict[str, Any]:
    what = f"{node.name} has a problem of {codes}"
    return fleet.wait(what, lambda: problem(fleet, node), lambda seen: seen.get("code") in codes)


def heal_and_end(fleet: Fleet, accused: set[str]) -> None:
    fleet.wait_in_rank(timeout_s=60)
    fleet.assert_equal_trees()
    assert fleet.accused() == accused


def _damage(node: Node) -> None:
    with (node.path() / "large.bin").open("r+b") as file:
        file.write(b"damage in place")


def test_a_file_that_can_not_be_read_is_named_and_is_no_deletion(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim]
) -> None:
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    shim = load_shim(node.daemon)
    fleet.start()
    fleet.wait_in_rank()
    shim.fail(Calls.READ, "file-001.bin", errno.EIO)
    os.utime(node.path() / "dir-1" / "file-001.bin")  # a scan looks at it again
    seen = fleet.wait(
        "the file is unreadable",
        lambda: fleet.api.diff("photos", node.name),
        lambda found: [one["change"] for one in found] == ["unreadable"],
    )
    assert [one["path"] for one in seen] == ["dir-1/file-001.bin"]
    assert shim.failed
    assert not fleet.accused(), "an error is not a divergence"
    assert not fleet.api.fleet()["in_rank"], "and it is not a pass"
    shim.heal()
    heal_and_end(fleet, set())


@pytest.mark.parametrize("calls", [Calls.SYNC, Calls.WRITE], ids=["fsync", "write"])
def test_the_agents_state_that_can_not_be_written_is_a_problem_by_name(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], calls: Calls
) -> None:
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    shim = load_shim(node.daemon)
    fleet.start()
    fleet.wait_in_rank()
    shim.fail(calls, str(node.state_dir), errno.EIO)
    _damage(node)
    shim.wait_failed()
    wait_problem(fleet, node, "io_error")
    shim.heal()
    fleet.wait_incident(node=node.name, state="closed", timeout_s=60)
    heal_and_end(fleet, {node.name})


def test_an_install_that_can_not_be_synced_is_not_made(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim]
) -> None:
    """EIO of the volume's own disk while it is repaired: the damaged file stays whole, nothing is released."""
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    shim = load_shim(node.daemon)
    fleet.start()
    fleet.wait_in_rank()
    shim.fail(Calls.SYNC, str(node.path()), errno.EIO)
    _damage(node)
    shim.wait_failed()
    fleet.wait("it stays fenced", lambda: fleet.api.lb(node.name), lambda status: status == 503)
    with (node.path() / "large.bin").open("rb") as file:
        assert file.read(15) == b"damage in place"
    shim.heal()
    fleet.wait_incident(node=node.name, state="closed", timeout_s=60)
    heal_and_end(fleet, {node.name})


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["eio", "enospc"])
def test_the_coordinators_store_that_can_not_be_written(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], error: int
) -> None:
    """Said, nothing acknowledged meanwhile, everything told afterwards."""
    full = error == errno.ENOSPC  # then fences and incidents may still be stored, and it is ready for them
    fleet = make_fleet(nodes=3)
    shim = load_shim(fleet.coordinator)
    fleet.start()
    fleet.wait_in_rank()
    shim.fail(Calls.WRITE | Calls.SYNC, str(fleet.state_dir), error)
    _damage(fleet[1])
    shim.wait_failed()
    fleet.wait(
        "said",
        lambda: fleet.api.status("/-/ready") == 503 or (full and "can be stored" in fleet.coordinator.log()),
    )
    time.sleep(1)  # time for an accusation that must not come: nothing of it is on disk
    assert not fleet.accused()
    assert fleet.api.status("/-/healthy") == 200
    shim.heal()
    fleet.wait("ready again", lambda: fleet.api.status("/-/ready") == 200)
    fleet.wait_incident(node="node-02", state="closed", timeout_s=60)
    heal_and_end(fleet, {"node-02"})


def test_the_coordinators_store_that_can_not_be_read(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim]
) -> None:
    fleet = make_fleet(nodes=3)
    shim = load_shim(fleet.coordinator)
    fleet.start()
    fleet.wait_in_rank()
    fleet.coordinator.stop()  # what is in memory is not read
    shim.fail(Calls.READ, "coordinator.sqlite", errno.EIO, every=2)
    fleet.coordinator.start()
    shim.wait_failed()
    fleet.coordinator.expected_to_live = False  # it may end, with words; it may also get through
    shim.heal()
    fleet.wait("it runs, or has ended", lambda: not fleet.coordinator.alive or fleet.api.status("/-/ready"))
    if not fleet.coordinator.alive:
        fleet.start_coordinator()
    fleet.coordinator.expected_to_live = True
    _damage(fleet[1])
    fleet.wait_incident(node="node-02", state="closed", timeout_s=60)
    heal_and_end(fleet, {"node-02"})


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("place", ["state", "trash"])
def test_a_full_disk_of_the_agent(make_fleet: MakeFleet, place: str) -> None:
    """The disk with its state; the volume's disk with no room in the trash. (The volume: `e2e/test_disk.py`.)"""
    trash = 2 << 20 if place == "trash" else 8 << 20  # less than large.bin, which a repair replaces
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(extra={"trash_max_bytes": trash})])
    node = fleet[1]
    with Tmpfs(node.base / "disk", 24 << 20) as disk:
        if place == "state":
            node.state_dir = disk.path / "state"
        else:
            node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        if place == "state":
            ballast = disk.fill(leave_bytes=0)
            for number in range(400):  # more than the room that is reserved
                (node.path() / f"many-{number:03} {'x' * 200}").write_bytes(b"%d" % number * 40)
            fleet.wait(
                "no_space, or repaired all the same",
                lambda: (problem(fleet, node).get("code"), fleet.api.incidents(node=node.name)),
                lambda seen: seen[0] == "no_space" or any(i["state"] == "closed" for i in seen[1]),
            )
            ballast.unlink()
        else:
            _damage(node)
            wait_problem(fleet, node, "trash_full")
            with (node.path() / "large.bin").open("rb") as file:
                assert file.read(15) == b"damage in place", "what can not be set aside is not replaced"
            fleet.volumes[0].extra["trash_max_bytes"] = 8 << 20
            fleet.reload()
        fleet.wait_incident(node=node.name, state="closed", timeout_s=60)
        heal_and_end(fleet, {node.name})
        fleet.stop()


@pytest.mark.root
@needs_root
def test_a_full_disk_of_the_coordinator(make_fleet: MakeFleet) -> None:
    """Fences first: with the room that is set aside a node is still named and fenced."""
    fleet = make_fleet(nodes=3)
    with Tmpfs(fleet.state_dir, 40 << 20) as disk:
        fleet.start()
        fleet.wait_in_rank()
        ballast = disk.fill(leave_bytes=64 << 10)
        _damage(fleet[1])
        fleet.wait_incident(node="node-02", timeout_s=40)
        ballast.unlink()
        fleet.wait_incident(node="node-02", state="closed", timeout_s=60)
        heal_and_end(fleet, {"node-02"})
        fleet.stop()


@pytest.mark.root
@needs_root
def test_a_coordinator_that_can_store_no_trees_says_so_and_goes_on_when_there_is_room(
    make_fleet: MakeFleet,
) -> None:
    """Its disk holds hardly more than the room set aside: single records still get through, writers' trees do not."""
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01")])
    with Tmpfs(fleet.state_dir, 16 << 20) as disk:
        fleet.start()
        fleet.wait_in_rank()
        ballast = disk.fill(leave_bytes=0)
        for number in range(300):
            (fleet[0].path() / f"new {number}.bin").write_bytes(b"%d" % number * 1000)
        fleet.wait("it is not ready", lambda: fleet.api.status("/-/ready"), lambda status: status == 503)
        seen = fleet.wait("the fleet is not proven", fleet.api.fleet, lambda found: not found["in_rank"])
        assert "must be free" in seen["problem"]
        told = fleet.run("status")
        assert told.returncode == 1
        assert "shows what it knew before" in told.stdout
        ballast.unlink()
        fleet.wait_equal(fleet[0], timeout_s=60)
        assert fleet.api.status("/-/ready") == 200
        assert fleet.accused() == set()
        fleet.stop()


@pytest.mark.root
@needs_root
def test_a_volume_that_turns_read_only_in_the_middle(make_fleet: MakeFleet, tmp_path: Any) -> None:
    """As ext4 does after an error. It is still read, judged and fenced; the repair waits until it can write."""
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    with PowerDisk("ext4", node.base / "disk", tmp_path / "images") as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        remount = ["mount", "-o", "remount,ro", str(disk.path)]

        def damaged_and_read_only() -> bool:
            """The agent stands still meanwhile: on a slow machine it had repaired all before the disk was read-only."""
            node.daemon.pause()
            _damage(node)
            done = subprocess.run(remount, capture_output=True, check=False)
            node.daemon.resume()
            return not done.returncode

        # Busy while anybody has a file open for writing, if only the agent's canary for a moment.
        wait_until("remounted", damaged_and_read_only, timeout_s=10, every_s=0.02)
        seen = wait_problem(fleet, node, "read_only")
        assert seen["message"]
        assert fleet.api.lb(node.name) == 503
        subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True)
        fleet.wait_incident(node=node.name, state="closed", timeout_s=60)
        heal_and_end(fleet, {node.name})
        fleet.stop()


@pytest.mark.root
@needs_root
def test_a_coordinator_whose_disk_stands_still_answers_all_the_same(make_fleet: MakeFleet) -> None:
    """It promises nothing meanwhile, but load balancers and people are answered, and it goes on by itself."""
    fleet = make_fleet(nodes=2, volumes=[replicated("node-01", scan_interval_s=5.0)])
    with LoopDisk(fleet.base / "disk", fleet.base / "image", 300 << 20) as disk:
        fleet.state_dir = disk.path / "coordinator"
        fleet.start()
        fleet.wait_in_rank()
        written = 0

        def write() -> None:
            nonlocal written
            written += 1
            (fleet[0].path() / f"written-{written:03}").write_bytes(os.urandom(5000))
            time.sleep(0.02)  # more than one commit: each has a root that must be stored

        for _ in range(20):
            write()
        with disk.frozen():
            for _ in range(3):
                for _ in range(20):
                    write()
                assert fleet.api.status("/-/healthy") == 200
                assert fleet.api.lb("node-02") == 200
                assert fleet.api.text("/metrics")
                assert [node["node"] for node in fleet.api.fleet()["nodes"]] == ["node-01", "node-02"]
                fleet.api.diff("photos", "node-02")
        fleet.wait_equal(fleet[0], timeout_s=60)
        assert not fleet.accused()
        fleet.stop()


@pytest.mark.root
@needs_root
def test_a_node_whose_data_disk_stands_still_is_not_silent(make_fleet: MakeFleet) -> None:
    """What it has seen there is told when the disk moves again; that it lives is told all the time."""
    fleet = make_fleet(nodes=2, volumes=[replicated("node-01", scan_interval_s=5.0)])
    node = fleet[0]
    with LoopDisk(node.base / "disk", fleet.base / "image", 300 << 20) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        node.daemon.pause()
        (node.path() / "written").write_bytes(os.urandom(300))
        with disk.frozen():
            node.daemon.resume()
            end = time.monotonic() + 20.0  # silence is 15 s: it must not come to that
            while time.monotonic() < end:
                assert fleet.api.node(node.name)["state"] != "unreachable"
                time.sleep(0.5)
        fleet.wait_equal(node, timeout_s=60)
        assert not fleet.accused()
        fleet.stop()


@pytest.mark.root
@needs_root
def test_nodes_on_ext4_xfs_and_btrfs_keep_one_tree(make_fleet: MakeFleet, tmp_path: Any) -> None:
    fleet = make_fleet(nodes=3)
    kinds = ["ext4", "xfs", "btrfs"]
    disks = [
        PowerDisk(kind, node.base / "disk", tmp_path / "images")
        for kind, node in zip(kinds, fleet.nodes.values(), strict=True)
    ]
    with disks[0], disks[1], disks[2]:
        for disk, node in zip(disks, fleet.nodes.values(), strict=True):
            node.paths["photos"] = disk.path / "photos"
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(disks[2].path / "other")], check=True)
        fleet.start()
        fleet.wait_in_rank()
        for round_, node in enumerate(fleet.nodes.values()):
            (node.path() / "extra").mkdir()
            (node.path() / "extra" / "file").write_bytes(b"%d" % round_ * 5000)
            (node.path() / "dir-1" / "file-001.bin").unlink()
            _damage(node)
            fleet.wait_incident(node=node.name, state="closed", timeout_s=60)
        heal_and_end(fleet, set(fleet.nodes))
        # A subvolume below the root is another filesystem: reported, and left alone.
        inner = disks[2].path / "photos" / "inner"
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(inner)], check=True)
        (inner / "kept").write_bytes(b"mine")
        fleet[2].restart()
        fleet.wait_in_rank()
        assert (inner / "kept").read_bytes() == b"mine"
        assert not [one for one in fleet.api.diff("photos", fleet[2].name) if "kept" in one["path"]]
        fleet.stop()
