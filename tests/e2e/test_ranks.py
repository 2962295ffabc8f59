"""A healthy fleet: every node in rank, every question answered, nothing accused."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from fleet import MakeFleet, VolumeSpec, small_tree
from fleet.compare import manifest

pytestmark = pytest.mark.e2e


def test_equal_trees_come_to_one_root_and_nobody_is_accused(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=4)
    fleet.start()
    seen = fleet.wait_in_rank()
    assert seen["coverage"] == {"compared": 4, "expected": 4}
    roots = {volume["root"] for node in seen["nodes"] for volume in node["volumes"]}
    assert roots == {seen["volumes"][0]["truth_root"]}
    files = sum(1 for kind, *_ in manifest(fleet.pristine()).values() if kind == "file")
    fleet.wait(
        "every node's count of files",
        lambda: {volume["files"] for node in fleet.api.fleet()["nodes"] for volume in node["volumes"]},
        lambda counts: counts == {files},
    )
    assert fleet.api.incidents() == []
    assert [fleet.api.lb(name) for name in fleet.nodes] == [200] * 4
    assert fleet.api.lb("nobody") == 404
    for node in fleet.nodes.values():
        assert node.api.status("/-/healthy") == 200
        assert node.api.status("/-/ready") == 200
    status = fleet.run("status")
    assert status.returncode == 0, status.stdout + status.stderr
    asked = fleet.run("status", "--json")
    assert json.loads(asked.stdout)["in_rank"] is True
    fleet.assert_equal_trees()


def test_volumes_have_their_own_nodes_policies_and_truths(make_fleet: MakeFleet) -> None:
    volumes = [
        VolumeSpec("photos"),
        VolumeSpec("site", on_divergence="alert", nodes=["node-02", "node-03", "node-04"]),
    ]
    fleet = make_fleet(nodes=4, volumes=volumes, tree=lambda root: small_tree(root, seed=len(root.name)))
    fleet.start()
    seen = fleet.wait_in_rank()
    assert {volume["name"]: volume["in_rank_nodes"] for volume in seen["volumes"]} == {"photos": 4, "site": 3}
    assert len({volume["truth_root"] for volume in seen["volumes"]}) == 2
    changed = fleet[2].path("site") / "large.bin"
    changed.write_bytes(b"not what the others have")
    incident = fleet.wait_incident(kind="divergence", node="node-03")
    assert incident["volume"] == "site"
    fleet.wait_state("node-03", "suspect")
    assert fleet.compare("photos", ["node-03"]) == {"node-03": []}
    assert changed.read_bytes() == b"not what the others have", "alert changes nothing on disk"
    assert fleet.accused() == {"node-03"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_metrics_please_promtool(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    (fleet[1].path() / "large.bin").write_bytes(b"x")
    fleet.wait_incident(kind="divergence", state="closed")
    for name, api in [("coordinator", fleet.api), *((n.name, n.api) for n in fleet.nodes.values())]:
        text = api.text("/metrics")
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{name}: {checked.stdout}{checked.stderr}"
        assert not checked.stdout + checked.stderr, f"{name}: {checked.stdout}{checked.stderr}"
    assert "closeranks_divergence_detected_seconds_count" in fleet.api.text("/metrics")
