"""Disks that fill and roots that go away: reported, fenced where due, and never taken for a deletion."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from fleet import MakeFleet, Tmpfs, VolumeSpec

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.mark.root
@needs_root
def test_a_full_disk_is_reported_and_fenced_and_heals_when_there_is_room(make_fleet: MakeFleet) -> None:
    # By default the trash may take a tenth of the filesystem: less than the file, on a disk this small.
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(extra={"trash_max_bytes": 8 << 20})])
    node = fleet[1]
    with Tmpfs(node.base / "disk", 24 << 20) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        ballast = disk.fill(leave_bytes=256 * 1024)
        with (node.path() / "large.bin").open("r+b") as file:
            file.write(b"damage in place")
        seen = fleet.wait(
            "no_space is reported",
            lambda: fleet.api.node(node.name),
            lambda node: (node["volumes"][0]["problem"] or {}).get("code") == "no_space",
        )
        problem = seen["volumes"][0]["problem"]
        assert problem["needed_bytes"] > problem["free_bytes"]
        said = fleet.run("doctor", "--config", str(node.config)).stdout
        assert "volume photos: The volume's filesystem has" in said, "a converge waits for it"
        assert "it stays behind, or fenced if it was" in said
        said = fleet.run("status").stdout
        assert "about to be brought back" not in said, "it waits"
        assert seen["quarantine"] is not None
        assert fleet.api.lb(node.name) == 503
        with (node.path() / "large.bin").open("rb") as file:
            assert file.read(15) == b"damage in place", "what can not be replaced whole is not touched"
        ballast.unlink()
        fleet.wait_in_rank(timeout_s=40)
        fleet.assert_equal_trees()
        assert fleet.accused() == {node.name}
        fleet.stop()


def test_a_root_that_was_replaced_is_not_a_deletion(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[2]
    aside = node.base / "aside"
    node.path().rename(aside)
    node.path().mkdir()
    seen = fleet.wait(
        "not_mounted is reported",
        lambda: fleet.api.node(node.name),
        lambda node: (node["volumes"][0]["problem"] or {}).get("code") == "not_mounted",
    )
    assert seen["state"] == "unreachable"
    time.sleep(2)  # time for an accusation or a write that must not come
    assert fleet.accused() == set()
    assert os.listdir(node.path()) == [], "nothing is written into the impostor"
    node.path().rmdir()
    aside.rename(node.path())
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


@pytest.mark.root
@needs_root
def test_an_unmounted_root_is_not_a_deletion(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    node = fleet[0]
    fleet.lay_trees()
    real = node.base / "real"
    node.path().rename(real)
    node.path().mkdir()
    bind = ["mount", "--bind", str(real), str(node.path())]
    subprocess.run(bind, check=True)
    try:
        fleet.start()
        fleet.wait_in_rank()
        subprocess.run(["umount", "--lazy", str(node.path())], check=True)
        fleet.wait(
            "not_mounted is reported",
            lambda: fleet.api.node(node.name),
            lambda node: (node["volumes"][0]["problem"] or {}).get("code") == "not_mounted",
        )
        node.restart()  # and a restart must not make it a fresh, empty volume
        fleet.wait("the agent is back", lambda: node.api.status("/-/healthy") == 200)
        fleet.wait_state(node, "unreachable")
        time.sleep(2)  # time for an accusation that must not come
        assert fleet.accused() == set()
        assert fleet.api.node(node.name)["state"] == "unreachable"
        subprocess.run(bind, check=True)
        fleet.wait_in_rank()
        assert fleet.accused() == set()
        fleet.assert_equal_trees()
    finally:
        fleet.kill()
        subprocess.run(["umount", "--lazy", str(node.path())], check=False, capture_output=True)


def test_ignored_paths_are_nobodys_business(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(ignore=["*.tmp", "cache/"])])
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[0]
    (node.path() / "scratch.tmp").write_bytes(b"ignored")
    (node.path() / "cache").mkdir()
    (node.path() / "cache" / "object").write_bytes(b"ignored")
    (node.path() / "seen").write_bytes(b"not ignored")
    incident = fleet.wait_incident(node=node.name, state="closed")
    assert [path["path"] for path in incident["paths"]] == ["seen"]
    assert (node.path() / "scratch.tmp").exists()
    assert (node.path() / "cache" / "object").exists()
    fleet.wait_in_rank()
    fleet.volumes[0].ignore.append("dir-1/")
    fleet.reload()
    fleet.wait_in_rank()
    assert fleet.accused() == {node.name}, "a change of ignore is a new truth, not a divergence"
