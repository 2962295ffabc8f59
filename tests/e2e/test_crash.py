"""Whatever is killed, whenever: the fleet ends in rank, nobody else is accused, and no fence is forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fleet import Fleet, MakeFleet, Node, Rogue, wait_until

pytestmark = pytest.mark.e2e


def _damage(node: Node, log: str = "rogue.log") -> None:
    rogue = Rogue(node.path(), node.fleet.base / log, alter=5, add=3, delete=3)
    rogue.wait()


def _quick(fleet: Fleet, node: Node, what: str, accept: Callable[[Any], Any]) -> None:
    """Poll faster than phases pass."""
    deadline = time.monotonic() + 30
    while not accept(seen := fleet.api.node(node.name)):
        assert time.monotonic() < deadline, f"never saw {node.name} {what}: {seen}"
        time.sleep(0.01)


def _nothing(fleet: Fleet, node: Node) -> None:
    """In rank, nothing has happened."""


def _unconfirmed(fleet: Fleet, node: Node) -> None:
    _damage(node)
    _quick(fleet, node, "differ", lambda seen: seen["volumes"][0]["differing_paths"])


def _named(fleet: Fleet, node: Node) -> None:
    _damage(node)
    _quick(fleet, node, "named", lambda seen: seen["state"] not in ("in_rank", "lagging"))


def _quarantined(fleet: Fleet, node: Node) -> None:
    """The node's own hook holds it there for two seconds."""
    _damage(node)
    _quick(fleet, node, "quarantined", lambda seen: seen["state"] == "quarantined")
    wait_until("the agent was told", lambda: node.api.status("/-/ready") == 503, every_s=0.02)


def _resyncing(fleet: Fleet, node: Node) -> None:
    """Its sources are frozen, so that the resync stands."""
    _quarantined(fleet, node)
    sources = [other for other in fleet.nodes.values() if other is not node]
    for source in sources:
        source.daemon.pause()
    _quick(fleet, node, "resyncing", lambda seen: seen["state"] == "resyncing")
    time.sleep(0.3)


def _verifying(fleet: Fleet, node: Node) -> None:
    _damage(node)
    _quick(
        fleet, node, "verifying or back", lambda seen: seen["state"] == "verifying" or _closed(fleet, node)
    )


def _closed(fleet: Fleet, node: Node) -> bool:
    return bool(fleet.api.incidents(node=node.name, state="closed"))


PHASES = [_nothing, _unconfirmed, _named, _quarantined, _resyncing, _verifying]


def _fleet(make_fleet: MakeFleet) -> Fleet:
    fleet = make_fleet(nodes=4)
    fleet.volumes[0].settle_s = 1.0
    fleet[1].hooks = {"on_quarantine": ["/bin/sleep", "2"]}
    fleet.start()
    fleet.wait_in_rank()
    return fleet


def _end(fleet: Fleet, node: Node, damaged: bool = True) -> None:
    for other in fleet.nodes.values():
        other.daemon.resume()
    if damaged:
        fleet.wait(f"{node.name}'s incident is closed", lambda: _closed(fleet, node), timeout_s=60)
    fleet.wait_in_rank(timeout_s=60)
    fleet.assert_equal_trees()
    assert fleet.accused() == ({node.name} if damaged else set())


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__.strip("_"))
def test_the_coordinator_killed_and_restarted(
    make_fleet: MakeFleet, phase: Callable[[Fleet, Node], None]
) -> None:
    fleet = _fleet(make_fleet)
    node = fleet[1]
    phase(fleet, node)
    fleet.coordinator.kill()
    fleet.start_coordinator()
    if phase is _quarantined:
        assert fleet.api.lb(node.name) == 503, "the fence stands before any agent has come back"
    _end(fleet, node, damaged=phase is not _nothing)


@pytest.mark.parametrize(
    "phase", [_unconfirmed, _quarantined, _resyncing], ids=lambda p: p.__name__.strip("_")
)
def test_the_agent_killed_and_restarted(make_fleet: MakeFleet, phase: Callable[[Fleet, Node], None]) -> None:
    fleet = _fleet(make_fleet)
    node = fleet[1]
    phase(fleet, node)
    node.daemon.kill()
    for other in fleet.nodes.values():
        other.daemon.resume()
    node.start()
    _end(fleet, node)


def _not_ready(node: Node) -> str:
    """Why, as the agent itself says; "" where it is ready."""
    status, _, data = node.api.request("GET", "/-/ready")
    return "" if status == 200 else data.decode()


def test_a_fence_survives_the_restart_of_both_sides(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[2]
    fleet.api.quarantine(node.name, "by hand, for good")
    token = fleet.wait_state(node, "quarantined")["quarantine"]["fence_token"]
    fleet.wait("acknowledged", lambda: fleet.api.node(node.name)["quarantine"]["acknowledged"])
    node.daemon.kill()
    fleet.coordinator.kill()
    node.start()
    # Not only 503, which an agent before its first scan answers, too.
    fleet.wait(
        "the agent is fenced by itself", lambda: _not_ready(node), lambda why: "by hand, for good" in why
    )
    fleet.start_coordinator()
    assert fleet.api.lb(node.name) == 503
    seen = fleet.wait_state(node, "quarantined")
    assert seen["quarantine"]["fence_token"] == token
    assert seen["quarantine"]["reason"] == "by hand, for good"
    fleet.wait("released", lambda: fleet.api.release(node.name))
    fleet.wait_in_rank()


def test_a_coordinator_that_lost_its_state_keeps_the_fences_of_its_agents(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    fleet.api.quarantine("node-03", "by hand")
    token = fleet.wait_state("node-03", "quarantined")["quarantine"]["fence_token"]
    fleet.wait("acknowledged", lambda: fleet.api.node("node-03")["quarantine"]["acknowledged"])
    fleet.coordinator.kill()
    fleet.state_dir.rename(fleet.base / "lost")
    fleet.start_coordinator()
    seen = fleet.wait_state("node-03", "quarantined")
    assert seen["quarantine"]["fence_token"] == token
    fleet.wait("released", lambda: fleet.api.release("node-03"))
    fleet.wait_in_rank()
    fleet.api.quarantine("node-03", "again")
    assert fleet.wait_state("node-03", "quarantined")["quarantine"]["fence_token"] > token


def test_writes_while_the_coordinator_is_away_are_judged_when_it_is_back(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    fleet.coordinator.kill()
    _damage(fleet[0])
    assert fleet[0].api.status("/-/ready") == 200, "an agent is ready without its coordinator"
    fleet.start_coordinator()
    fleet.wait("the incident is closed", lambda: _closed(fleet, fleet[0]))
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == {"node-01"}


def test_an_agents_lost_index_is_made_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    node.daemon.kill()
    node.state_dir.rename(node.base / "lost")
    time.sleep(10.5)  # a fresh state_dir is accepted once the old session has been gone for 10 s
    node.start()
    fleet.wait("three compared", lambda: fleet.api.fleet()["coverage"], lambda c: c["compared"] == 3)
    fleet.wait_in_rank()
    assert fleet.accused() == set()
