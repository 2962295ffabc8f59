"""Who may speak for a node: one agent for each listed name."""

from __future__ import annotations

import shutil
import time

import pytest

from fleet import MakeFleet, free_port

pytestmark = pytest.mark.e2e


def test_a_second_agent_with_the_same_name_is_refused(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    twin = fleet.add_node("node-01-twin")
    fleet.listed.remove("node-01-twin")
    twin.name = "node-01"
    (twin.path() / "large.bin").write_bytes(b"an impostor's")
    twin.start()
    incident = fleet.wait_incident(kind="duplicate_node")
    assert incident["node"] == "node-01"
    time.sleep(1)
    assert fleet.api.node("node-01")["state"] == "in_rank"
    assert fleet.accused() == set()
    twin.daemon.stop()
    del fleet.nodes["node-01-twin"]


def test_an_unknown_node_is_refused_until_it_is_listed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    stranger = fleet.add_node("node-09")
    stranger.start()
    fleet.wait("the refusal is logged", lambda: "refused this agent" in stranger.daemon.log())
    assert "node-09" not in fleet.api.nodes()
    fleet.reload()
    fleet.wait(
        "the reload says what changed",
        lambda: "changed: fleet.nodes: added node-09" in fleet.coordinator.log(),
    )
    fleet.wait("four compared", lambda: fleet.api.fleet()["coverage"], lambda c: c["compared"] == 4)
    fleet.wait_in_rank()


def test_a_retired_node_counts_no_longer(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=4)
    fleet.start()
    fleet.wait_in_rank()
    fleet[3].daemon.stop()
    fleet.wait_state("node-04", "unreachable")
    fleet.listed.remove("node-04")
    fleet.reload()
    seen = fleet.wait_in_rank()
    assert seen["coverage"] == {"compared": 3, "expected": 3}
    assert fleet.api.status("/api/v1/nodes/node-04") == 404


def test_a_copied_state_directory_does_not_blame_the_original(make_fleet: MakeFleet) -> None:
    """A cloned machine: same name, same agent id, another tree. The original's tree must not be judged by it."""
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    original = fleet[0]
    original.daemon.stop()
    clone = fleet.base / "clone-state"
    shutil.copytree(original.state_dir, clone)
    original.port = free_port()
    original.start()
    fleet.wait_in_rank()
    assert fleet.accused() == set()
