"""Bit rot on a real disk: bytes changed below the file system, which no stat tells. Found, named, brought back."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from fleet import Fleet, LoopDisk, MakeFleet, Node, VolumeSpec, replicated

pytestmark = pytest.mark.e2e

READ_AGAIN = "closeranks_agent_scrub_files_total"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def scrub_of(fleet: Fleet, node: Node) -> dict[str, Any]:
    found = fleet.api.node(node.name)["volumes"][0]["scrub"]
    return {} if found is None else dict(found)


@pytest.mark.root
@needs_root
def test_bit_rot_is_named_and_healed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    with LoopDisk(node.base / "disk", node.base / "image", 64 << 20) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        stat = (node.path() / "large.bin").stat()
        good = disk.rot(node.path() / "large.bin")
        after = (node.path() / "large.bin").stat()
        assert (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) == (
            after.st_mtime_ns, after.st_ctime_ns, after.st_ino
        )  # fmt: skip
        assert fleet.run("scrub", node.name, "--now").returncode == 0
        incident = fleet.wait_incident(node=node.name, kind="divergence", state="closed")
        assert [one["path"] for one in incident["paths"]] == ["large.bin"]
        assert "found by a scrub" in json.dumps(incident["writers"])
        fleet.wait_in_rank()
        assert (node.path() / "large.bin").read_bytes() == good
        fleet.assert_equal_trees()
        assert fleet.accused() == {node.name}
        assert node.metric("closeranks_agent_scrub_decayed_files_total") == 1
        fleet.wait(
            "the scrub has ended", lambda: scrub_of(fleet, node), lambda one: one.get("ended") is not None
        )
        assert "1 file decayed" in fleet.run("nodes", node.name).stdout
        fleet.stop()


@pytest.mark.root
@needs_root
def test_a_writers_bit_rot_is_not_spread_but_healed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01")])
    node = fleet[0]
    with LoopDisk(node.base / "disk", node.base / "image", 64 << 20) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        good = disk.rot(node.path() / "large.bin")
        assert fleet.run("scrub", node.name, "--now").returncode == 0
        fleet.wait("it is found", lambda: scrub_of(fleet, node), lambda one: one.get("decayed") == 1)
        fleet.wait(
            "it is healed", lambda: (node.path() / "large.bin").read_bytes() == good, lambda healed: healed
        )
        fleet.wait_in_rank()
        assert all((one.path() / "large.bin").read_bytes() == good for one in fleet.nodes.values())
        assert fleet.accused() == set()
        fleet.stop()


def test_a_tour_is_throttled_goes_faster_when_it_is_told_and_survives_a_kill(make_fleet: MakeFleet) -> None:
    volume = VolumeSpec(extra={"scrub_bytes_s": 150_000, "scrub_files_s": 20})
    fleet = make_fleet(nodes=3, volumes=[volume])
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    total = fleet.api.node(node.name)["volumes"][0]["bytes"]
    assert fleet.run("scrub", node.name, "--now").returncode == 0
    # A busy machine slows a scrub down, to a sixteenth at most: no time is asserted, and little is asked for.
    fleet.wait(
        "some files are read", lambda: node.metric(READ_AGAIN), lambda count: count >= 10, timeout_s=60
    )
    seen = fleet.wait(
        "it is told of", lambda: scrub_of(fleet, node), lambda one: one.get("started") is not None
    )
    assert (seen["state"], seen["bytes_s"], seen["files_s"]) == ("running", 150_000, 20)
    assert seen["bytes"] < total
    done = fleet.run("scrub", node.name, "--faster")
    assert done.returncode == 0, done.stderr
    fleet.wait(
        "the new limit holds",
        lambda: scrub_of(fleet, node),
        lambda one: (one["bytes_s"], one["files_s"]) == (300_000, 40),
    )
    node.daemon.kill()
    node.start()
    again = fleet.wait(
        "it goes on",
        lambda: scrub_of(fleet, node),
        lambda one: one.get("state") == "running" and one["bytes"] > 0,
    )
    assert again["started"][:19] == seen["started"][:19], "the same tour"
    assert fleet.run("scrub", "--bytes-per-second", "none").returncode == 0
    done = fleet.wait("it ends", lambda: scrub_of(fleet, node), lambda one: one.get("ended") is not None)
    files = fleet.api.node(node.name)["volumes"][0]["files"]
    assert (done["files"], done["bytes"], done["decayed"]) == (files, total, 0)
    assert node.metric(READ_AGAIN) <= files - 5, "not everything was read again"
    assert fleet.api.node(node.name)["volumes"][0]["last_scrub"] is not None
