"""What a volume's policy and on_divergence say is what happens; the rest is done by hand."""

from __future__ import annotations

import time

import pytest

from fleet import ApiError, Fleet, MakeFleet, Node, VolumeSpec

pytestmark = pytest.mark.e2e


def _damage(node: Node) -> None:
    (node.path() / "large.bin").write_bytes(b"damaged")
    (node.path() / "extra").write_bytes(b"extra")


def _in_rank(make_fleet: MakeFleet, on_divergence: str, nodes: int = 3) -> Fleet:
    fleet = make_fleet(nodes=nodes, volumes=[VolumeSpec(on_divergence=on_divergence)])
    fleet.start()
    fleet.wait_in_rank()
    return fleet


def test_alert_touches_nothing_and_closes_when_the_difference_is_gone(make_fleet: MakeFleet) -> None:
    fleet = _in_rank(make_fleet, "alert")
    node = fleet[1]
    _damage(node)
    fleet.wait_state(node, "suspect")
    incident = fleet.wait_incident(kind="divergence", node=node.name)
    time.sleep(2)  # time for a fence or a repair that must not come
    assert fleet.api.node(node.name)["state"] == "suspect"
    assert fleet.api.lb(node.name) == 200
    assert (node.path() / "large.bin").read_bytes() == b"damaged"
    assert fleet.run("status").returncode == 1
    (node.path() / "large.bin").write_bytes((fleet.pristine() / "large.bin").read_bytes())
    (node.path() / "extra").unlink()
    fleet.wait_in_rank()
    assert fleet.api.incident(incident["id"])["state"] == "closed"


def test_a_suspect_is_resynced_by_hand_and_released_after_proof(make_fleet: MakeFleet) -> None:
    fleet = _in_rank(make_fleet, "alert")
    node = fleet[2]
    _damage(node)
    fleet.wait_state(node, "suspect")
    plan = fleet.wait_action(fleet.api.resync(node.name, dry_run=True)["action"])
    assert {step["path"] for step in plan["plan"]} >= {"large.bin", "extra"}
    assert (node.path() / "large.bin").read_bytes() == b"damaged", "a dry run changes nothing"
    asked = fleet.run("resync", node.name, "--wait=30", timeout_s=40)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


def test_quarantine_waits_for_a_person_at_each_step(make_fleet: MakeFleet) -> None:
    fleet = _in_rank(make_fleet, "quarantine")
    node = fleet[0]
    _damage(node)
    fleet.wait_state(node, "quarantined")
    assert fleet.api.lb(node.name) == 503
    fleet.wait("the agent is not ready", lambda: node.api.status("/-/ready"), lambda status: status == 503)
    with pytest.raises(ApiError) as refused:
        fleet.api.release(node.name)
    assert (refused.value.status, refused.value.code) == (409, "not_verified")
    time.sleep(1.5)  # time for a converge that must not come
    assert (node.path() / "large.bin").read_bytes() == b"damaged"
    fleet.wait_action(fleet.api.resync(node.name)["action"])
    fence = fleet.wait(
        "quarantined and verified",
        lambda: fleet.api.node(node.name)["quarantine"],
        lambda seen: seen is not None and seen["verified"],
    )
    assert fence["fence_token"] >= 1
    assert fleet.api.node(node.name)["state"] == "quarantined"
    fleet.assert_equal_trees()
    fleet.api.release(node.name)
    fleet.wait_in_rank()
    assert fleet.api.lb(node.name) == 200
    fleet.wait("the agent is ready", lambda: node.api.status("/-/ready"), lambda status: status == 200)


def test_by_hand_a_quorum_is_never_lost(make_fleet: MakeFleet) -> None:
    fleet = _in_rank(make_fleet, "resync")
    fleet.api.quarantine("node-01", "maintenance")
    state = fleet.wait_state("node-01", "quarantined")
    assert state["quarantine"]["reason"] == "maintenance"
    assert state["quarantine"]["by_hand"] is True
    with pytest.raises(ApiError) as refused:
        fleet.api.quarantine("node-02", "one too many")
    assert (refused.value.status, refused.value.code) == (409, "quorum_would_be_lost")
    time.sleep(1.5)
    assert fleet.api.node("node-01")["state"] == "quarantined", "nothing releases it by itself"
    asked = fleet.run("release", "node-01")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    fleet.wait_in_rank()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/v1/nodes/nobody/release", {}, 404),
        ("/api/v1/nodes/node-01/quarantine", {}, 400),
        ("/api/v1/nodes/node-01/quarantine", {"reason": "x" * 501}, 400),
        ("/api/v1/nodes/node-01/quarantine", {"reason": "x", "more": 1}, 400),
        ("/api/v1/nodes/node-01/release", {}, 409),
    ],
)
def test_wrong_requests_are_refused(
    lone_coordinator: Fleet, path: str, body: dict[str, object], status: int
) -> None:
    with pytest.raises(ApiError) as refused:
        lone_coordinator.api.post(path, body)
    wrong = {400, 422} if status == 400 else {status}
    assert refused.value.status in wrong
    assert refused.value.code != "not_the_promised_error"


def test_a_pinned_baseline_is_the_truth(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(policy="quorum", on_divergence="resync")])
    fleet.start()
    fleet.wait_in_rank()
    made = fleet.run("baseline", "create", "good", "--volume", "photos")
    assert made.returncode == 0, made.stdout + made.stderr
    fleet.volumes[0].policy = "baseline"
    fleet.reload()
    fleet.wait("undetermined without a pin", lambda: not fleet.api.fleet()["in_rank"])
    pinned = fleet.run("baseline", "pin", "photos", "good")
    assert pinned.returncode == 0, pinned.stdout + pinned.stderr
    fleet.wait_in_rank()
    node = fleet[0]
    _damage(node)
    fleet.wait_incident(node=node.name, state="closed")
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    refused = fleet.run("baseline", "delete", "good")
    assert refused.returncode != 0, "a pinned baseline is not deleted"
