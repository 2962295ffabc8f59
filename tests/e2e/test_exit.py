"""How the daemons begin and end: exit codes, time to stop, messages instead of tracebacks."""

from __future__ import annotations

import socket
import time

import pytest

from fleet import Fleet, MakeFleet
from fleet.process import Daemon, program, run_program

pytestmark = pytest.mark.e2e


def test_sigterm_ends_both_with_0_within_10_s(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    started = time.monotonic()
    assert fleet[0].daemon.stop() == 0
    assert fleet.coordinator.stop() == 0
    assert fleet[1].daemon.stop() == 0, "also without its coordinator"
    assert time.monotonic() - started < 10


def test_sigterm_during_a_resync(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    node.path("photos").joinpath("large.bin").write_bytes(b"damage")
    fleet.wait_state(node, "quarantined", "resyncing", "verifying")
    assert node.daemon.stop() == 0
    node.start()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


def test_a_port_in_use_is_3(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=1)
    fleet.lay_trees()
    with socket.create_server(("127.0.0.1", fleet.api.port)):
        fleet.write_coordinator_config()
        asked = run_program("coordinator", "--config", str(fleet.config))
        assert asked.returncode == 3, asked.stderr
        assert str(fleet.api.port) in asked.stderr
    node = fleet[0]
    node.write_config()
    with socket.create_server(("127.0.0.1", node.port)):
        asked = run_program("agent", "--config", str(node.config))
        assert asked.returncode == 3, asked.stderr
        assert str(node.port) in asked.stderr


def test_a_locked_state_directory_is_4(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=1)
    fleet.start()
    fleet.wait("the agent is ready", lambda: fleet[0].api.status("/-/ready") == 200)
    first = fleet.config.read_text()
    second = first.replace(str(fleet.agents_port), "0").replace(str(fleet.api.port), "0")
    fleet.config.with_name("second.toml").write_text(second)
    asked = run_program("coordinator", "--config", str(fleet.config.with_name("second.toml")))
    assert asked.returncode == 4, asked.stderr
    node = fleet[0]
    other = node.config.with_name("second-agent.toml")
    other.write_text(node.config.read_text().replace(f":{node.port}", ":0"))
    asked = run_program("agent", "--config", str(other))
    assert asked.returncode == 4, asked.stderr
    assert "Traceback" not in asked.stderr


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('on_divergence = "resync"\n', "", "on_divergence"),
        ('on_divergence = "resync"', 'on_divergence = "repair"', "repair"),
        ("settle_s = 0.5", 'settle_s = "soon"', "settle_s"),
        ("settle_s = 0.5", "settle_z = 0.5", "settle_z"),
        ('name = "photos"', 'name = "Photos and more"', "name"),
        ("[fleet]", "[fleet", "coordinator.toml"),
    ],
)
def test_wrong_configurations_are_2_and_name_the_key(
    make_fleet: MakeFleet, old: str, new: str, named: str
) -> None:
    fleet = make_fleet(nodes=3)
    fleet.write_coordinator_config()
    text = fleet.config.read_text()
    assert old in text
    fleet.config.write_text(text.replace(old, new))
    for command in (["check-config", str(fleet.config)], ["coordinator", "--config", str(fleet.config)]):
        asked = run_program(*command)
        assert asked.returncode == 2, (command, asked.stdout, asked.stderr)
        assert named in asked.stdout + asked.stderr
        assert "Traceback" not in asked.stderr


def test_an_agent_without_its_tree_or_coordinator_runs_and_reports(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start(nodes=["node-01", "node-02"])
    node = fleet[2]
    node.path().rename(node.base / "elsewhere")
    node.start()
    seen = fleet.wait(
        "the missing path is reported",
        lambda: fleet.api.node(node.name)["volumes"][0]["problem"],
    )
    assert seen["message"]
    assert fleet.accused() == set()
    (node.base / "elsewhere").rename(node.path())
    fleet.wait_in_rank()


def test_port_0_is_chosen_and_printed(make_fleet: MakeFleet) -> None:
    fleet: Fleet = make_fleet(nodes=3)
    fleet.write_coordinator_config()
    text = fleet.config.read_text()
    fleet.config.write_text(text.replace(str(fleet.agents_port), "0").replace(str(fleet.api.port), "0"))
    daemon = Daemon(
        "any-port", [program(), "coordinator", "--config", str(fleet.config)], fleet.logs / "any.log"
    )
    daemon.start()
    fleet.wait("both ports are printed", lambda: daemon.log().count("port ") >= 2)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()
