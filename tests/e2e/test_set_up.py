"""What a doctor can tell of a set-up that is wrong: wrong port, wrong name, wrong directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fleet import Fleet, MakeFleet
from fleet.local import Node

pytestmark = pytest.mark.e2e


def examined(fleet: Fleet, of: Node, **changed: object) -> tuple[int, str]:
    """Exit code and words of the doctor for this node's file, with lines of it changed."""
    lines = of.config.read_text().splitlines()
    for key, value in changed.items():
        lines = [f'{key} = "{value}"' if line.split(" = ")[0] == key else line for line in lines]
    file = Path(fleet.base) / "examined.toml"
    file.write_text("\n".join(lines) + "\n")
    done = fleet.run("doctor", "--config", str(file))
    return done.returncode, done.stdout


def test_a_doctor_asks_the_coordinator_and_the_running_agent(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[0]
    code, said = examined(fleet, node)
    assert code == 0, said
    assert f"ok    coordinator: http://127.0.0.1:{fleet.agents_port} answers, and knows node-01" in said
    assert "ok    session: the running agent is connected" in said
    assert node.api.request("GET", "/-/problems")[0] == 200
    for header in ("X-Forwarded-For", "Forwarded"):  # a proxy on this machine asks for somebody else
        assert node.api.request("GET", "/-/problems", headers={header: "for=203.0.113.7"})[0] == 403

    code, said = examined(fleet, node, node="node-77")
    assert code == 1, said
    assert 'the coordinator has no node "node-77"' in said
    assert "is that of node-01, not of node-77" in said

    code, said = examined(fleet, node, coordinator=fleet.api.url)
    assert code == 1, said
    assert "is the coordinator's listen_api, for operators" in said
    assert "write the port of its listen_agents (by default 7340) as coordinator in agent.toml" in said

    code, said = examined(fleet, node, coordinator=f"http://127.0.0.1:{node.port}")
    assert code == 1, said
    assert "is no coordinator of this version: it answers with HTTP status 404" in said

    done = fleet.run("status", "--url", f"http://127.0.0.1:{fleet.agents_port}")
    assert done.returncode == 2
    assert "is the coordinator's listen_agents, where agents dial in. Name its listen_api" in done.stderr
    assert fleet.accused() == set()
    fleet.wait_in_rank()


def test_an_agent_that_dials_the_api_says_so(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    node = fleet[0]
    node.coordinator_port = fleet.api.port
    fleet.start()
    fleet.wait(
        "the agent says what is wrong", lambda: "that is the coordinator's listen_api" in node.daemon.log()
    )
    code, said = examined(fleet, node)
    assert code == 1
    assert "fail  session: no session with the coordinator" in said
    node.coordinator_port = None
    node.restart()
    fleet.wait_in_rank()


def test_a_doctor_sees_a_root_that_was_replaced_or_emptied(make_fleet: MakeFleet) -> None:
    """While the agent runs it is asked; while it does not, its index tells."""
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[2]
    aside = node.base / "aside"
    node.path().rename(aside)
    shutil.copytree(aside, node.path(), symlinks=True, ignore=shutil.ignore_patterns(".closeranks"))
    fleet.wait(
        "its agent has seen it",
        lambda: fleet.api.node(node.name)["volumes"][0]["problem"] or {},
        lambda problem: "is not the directory" in problem.get("message", ""),
    )
    code, said = examined(fleet, node)
    assert code == 1, said
    assert "is not the directory that volume photos was read from" in said
    assert "Nothing is broken" not in said
    node.daemon.stop()
    code, said = examined(fleet, node)
    assert code == 1, said
    assert "is not the directory that volume photos was read from" in said
    shutil.rmtree(node.path())
    aside.rename(node.path())
    code, said = examined(fleet, node)
    assert code == 0, said
    assert "its directory is the one that it was" in said
    kept = node.base / "kept"
    kept.mkdir()
    for entry in sorted(node.path().iterdir()):
        if entry.name != ".closeranks":
            entry.rename(kept / entry.name)
    code, said = examined(fleet, node)
    assert code == 1, said
    assert "is empty, but volume photos had files when it was last read" in said
    for entry in sorted(kept.iterdir()):
        entry.rename(node.path() / entry.name)
    node.start()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
