"""Nodes that are only behind are converged without suspicion: joiners, stragglers, those that were away."""

from __future__ import annotations

import base64
import signal

import pytest

from fleet import Fleet, MakeFleet, VolumeSpec

pytestmark = pytest.mark.e2e


def _truth(fleet: Fleet) -> str:
    root: str = fleet.api.fleet()["volumes"][0]["truth_root"]
    return root


def _await_new_truth(fleet: Fleet, before: str, nodes: int) -> None:
    """The truth has moved, and that many nodes hold it in full."""
    fleet.wait(
        f"a new truth on {nodes} nodes",
        lambda: (
            fleet.api.fleet()["volumes"][0],
            [n["volumes"][0]["root"] for n in fleet.api.fleet()["nodes"]],
        ),
        lambda seen: (
            seen[0]["truth_root"] != before
            and seen[0]["undetermined"] == 0
            and seen[1].count(seen[0]["truth_root"]) == nodes
        ),
    )


def test_a_node_added_by_reload_joins_with_an_empty_tree(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    newcomer = fleet.add_node("node-04", tree=False)
    fleet.reload()
    newcomer.start()
    fleet.wait("four nodes compared", lambda: fleet.api.fleet()["coverage"], lambda c: c["compared"] == 4)
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == set()
    assert fleet.api.incidents(kind="divergence") == []


def _await_volumes(fleet: Fleet, names: list[str]) -> None:
    """Every node has told of its trees of exactly these volumes."""
    fleet.wait(
        f"trees of {names}",
        lambda: [
            [one["name"] for one in node["volumes"] if one["root"]] for node in fleet.api.fleet()["nodes"]
        ],
        lambda seen: seen == [names] * len(fleet.nodes),
    )


def test_a_volume_added_by_reloads_is_in_rank_without_a_restart(make_fleet: MakeFleet) -> None:
    """First the coordinator's file, then each agent's; who has no such volume yet is told so. It can go again, too."""
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    before = {node.name: node.daemon.pid for node in fleet.nodes.values()}
    for node in fleet.nodes.values():
        node.paths["music"] = node.base / "music"
        node.path("music").mkdir()
        (node.path("music") / "song").write_bytes(b"the same everywhere")
    fleet.volumes.append(VolumeSpec("music"))
    fleet.reload()
    fleet.wait(
        "status says what to do", lambda: fleet.run("status").stdout, lambda said: "agent.toml" in said
    )
    for node in fleet.nodes.values():
        node.write_config()
        node.daemon.signal(signal.SIGHUP)
    _await_volumes(fleet, ["music", "photos"])
    fleet.wait_in_rank()
    (fleet[1].path("music") / "song").write_bytes(b"damage")
    fleet.wait_incident(node="node-02", state="closed")
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    fleet.volumes.pop()
    fleet.reload()
    for node in fleet.nodes.values():
        del node.paths["music"]
        node.write_config()
        node.daemon.signal(signal.SIGHUP)
    _await_volumes(fleet, ["photos"])
    fleet.wait_in_rank()
    assert {node.name: node.daemon.pid for node in fleet.nodes.values()} == before


def test_a_joiners_own_files_go_to_its_trash(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    newcomer = fleet.add_node("node-04")
    (newcomer.path() / "its own.txt").write_bytes(b"written before it joined")
    (newcomer.path() / "large.bin").write_bytes(b"an older idea")
    fleet.reload()
    newcomer.start()
    fleet.wait("four nodes compared", lambda: fleet.api.fleet()["coverage"], lambda c: c["compared"] == 4)
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == set()
    listed = fleet.run("trash", "list", "node-04", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "its own.txt" in listed.stdout


def test_a_node_that_was_away_while_the_majority_moved_is_lagging(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=4, volumes=[VolumeSpec(extra={"lag_grace_s": 0.5})])
    fleet.start()
    fleet.wait_in_rank()
    before = _truth(fleet)
    away = fleet[3]
    away.daemon.stop()
    fleet.wait_state(away, "unreachable")
    for node in [*fleet.nodes.values()][:3]:
        (node.path() / "dir-1" / "file-001.bin").write_bytes(b"moved on")
        (node.path() / "new.bin").write_bytes(b"new")
        (node.path() / "large.bin").unlink()
    pristine = fleet.pristine()
    (pristine / "dir-1" / "file-001.bin").write_bytes(b"moved on")
    (pristine / "new.bin").write_bytes(b"new")
    (pristine / "large.bin").unlink()
    _await_new_truth(fleet, before, 3)
    fleet.assert_equal_trees(nodes=["node-01", "node-02", "node-03"])
    away.start()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == set()


def test_a_node_that_returns_does_not_revive_what_was_deleted(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(extra={"lag_grace_s": 0.5})])
    fleet.start()
    fleet.wait_in_rank()
    before = _truth(fleet)
    away = fleet[0]
    away.daemon.kill()
    for node in (fleet[1], fleet[2]):
        (node.path() / "large.bin").unlink()
    (fleet.pristine() / "large.bin").unlink()
    _await_new_truth(fleet, before, 2)
    away.start()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert not (away.path() / "large.bin").exists()
    assert fleet.accused() == set()


def test_a_stopped_node_is_unreachable_and_the_rest_goes_on(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=5, fleet={"lb_unreachable_grace_s": 1.0})
    fleet.start()
    fleet.wait_in_rank()
    fleet[1].daemon.kill()
    fleet.wait_state("node-02", "unreachable")
    fleet.wait("/lb after the grace", lambda: fleet.api.lb("node-02"), lambda status: status == 503)
    seen = fleet.api.fleet()
    assert not seen["in_rank"]
    assert seen["coverage"] == {"compared": 4, "expected": 5}
    assert fleet.run("status").returncode == 1
    (fleet[2].path() / "large.bin").write_bytes(b"damage while one is away")
    fleet.wait_incident(node="node-03", state="closed")
    assert fleet.accused() == {"node-03"}
    fleet[1].start()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    named = fleet.api.incidents(node="node-03")[0]["paths"]
    assert [base64.b64decode(path["path_b64"]) for path in named] == [b"large.bin"]


def test_a_frozen_agent_is_unreachable_until_it_thaws(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    fleet[0].daemon.pause()
    fleet.wait_state("node-01", "unreachable", timeout_s=40)
    fleet[0].daemon.resume()
    fleet.wait_in_rank()
    assert fleet.accused() == set()
