"""Nodes that are only behind are converged without suspicion: joiners, stragglers, those that were away."""

from __future__ import annotations

import base64
import signal

import pytest

from fleet import Fleet, MakeFleet, Node, VolumeSpec

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


def _add_to_agents(nodes: list[Node], name: str) -> None:
    for node in nodes:
        node.paths[name] = node.base / name
        node.path(name).mkdir()
        (node.path(name) / "song").write_bytes(b"the same everywhere")
        node.write_config()
        node.daemon.signal(signal.SIGHUP)


def test_a_node_that_waits_for_a_new_volume_is_said_to_be_out_of_service(make_fleet: MakeFleet) -> None:
    """The coordinator's file first, and two of four agents: those that join are no more than half, and do not serve."""
    fleet = make_fleet(nodes=4)
    fleet.start()
    fleet.wait_in_rank()
    nodes = list(fleet.nodes.values())
    music = VolumeSpec("music", policy="writers", extra={"writers": ["node-01"]})
    fleet.volumes.append(music)
    fleet.reload()
    _add_to_agents(nodes[:2], "music")
    said = fleet.wait(
        "nodes 3 and 4 are out of service",
        lambda: fleet.run("status").stdout,
        lambda text: (
            "/lb/node-03 answers 503" in text
            and "node-03 has no volume music: add it to its agent.toml and reload its agent" in text
            and "and 1 more node for the same reason: node-04" in text
        ),
    )
    assert said.startswith("JOINING: 2 of 4 nodes are not in rank yet; nobody is accused.")
    assert "node-03 and node-04  out of service: /lb/NODE answers 503" in fleet.run("nodes").stdout
    _add_to_agents(nodes[2:], "music")
    fleet.wait_in_rank()
    assert fleet.run("status").returncode == 0


def test_a_volume_that_the_agents_have_first_joins_with_one_reload_of_the_coordinator(
    make_fleet: MakeFleet,
) -> None:
    """The order that the README advises."""
    fleet = make_fleet(nodes=4)
    fleet.start()
    fleet.wait_in_rank()
    _add_to_agents(list(fleet.nodes.values()), "music")
    fleet.wait_in_rank()
    fleet.volumes.append(VolumeSpec("music"))
    fleet.reload()
    _await_volumes(fleet, ["music", "photos"])
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == set()


def test_a_volume_that_one_agent_has_lost_is_told_with_its_node(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec("photos"), VolumeSpec("music")])
    fleet.start()
    fleet.wait_in_rank()
    node = fleet.nodes["node-03"]
    kept = node.paths.pop("music")
    node.write_config()
    node.daemon.signal(signal.SIGHUP)
    word = "node-03 music: not compared: node-03 has no volume music: add it to its agent.toml"
    told = fleet.wait("status names node-03", lambda: fleet.run("status"), lambda seen: word in seen.stdout)
    assert told.returncode == 1
    assert {one["name"]: one["in_rank_nodes"] for one in fleet.api.fleet()["volumes"]} == {
        "music": 2,
        "photos": 3,
    }
    node.paths["music"] = kept
    node.write_config()
    node.daemon.signal(signal.SIGHUP)
    fleet.wait_in_rank()


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
