"""Peers that mean no good, roads that are bad, processes that are frozen, clocks that jump, limits that are low."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from faults.hostile import Deed, HostileSource, RoughRoad
from faults.shim import Shim
from fleet import Fleet, MakeFleet, Node, Rogue, replicated

# What the victim says of those that might fail by something else as well.
SAID = {Deed.FORGED: ("do not match",), Deed.STALL: ("Timeout",), Deed.DRIP: ("bytes in 1",)}
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(170)]


def _damage(node: Node, number: int = 1) -> None:
    Rogue(node.path(), node.fleet.base / f"{node.name}-{number}.rogue", alter=5, add=3, delete=3).wait()
    with (node.path() / "large.bin").open("r+b") as file:
        file.write(b"damage in place %d" % number)


def _end(fleet: Fleet, *accused: Node, incidents: int = 1) -> None:
    for node in accused:
        closed = partial(fleet.api.incidents, node=node.name, kind="divergence", state="closed")
        what = f"{incidents} incidents of {node.name} are closed"
        fleet.wait(what, closed, lambda found: len(found) == incidents, timeout_s=60)
    fleet.wait_in_rank(timeout_s=60)
    fleet.assert_equal_trees()
    assert fleet.accused() == {node.name for node in accused}


@pytest.mark.parametrize("deed", Deed, ids=lambda deed: deed.value)
def test_a_hostile_source_is_named_and_another_asked(make_fleet: MakeFleet, deed: Deed) -> None:
    """Two of the victim's four peers send everybody who wants chunks of them to somebody else."""
    quiet = {"auto_release_max": 100, "recurrence_max": 100}
    fleet = make_fleet(nodes=4, fleet=quiet)
    hostile = [HostileSource(deed, fleet.pristine(), seed) for seed in range(2)]
    for number, source in enumerate(hostile):
        fleet[number].agent_extra["advertise"] = f"127.0.0.1:{source.port}"
    victim = fleet[3]
    fleet.start()
    fleet.wait_in_rank()
    for number in range(
        1, 9
    ):  # whom to ask first is drawn: of eight times all but one in 6,000 meet a hostile one
        _damage(victim, number)
        _end(fleet, victim, incidents=number)
        if any(source.asked for source in hostile):
            break
    assert any(source.asked for source in hostile), "nobody asked the hostile ones: the test shows nothing"
    assert not any(source.followed for source in hostile), "it went where it was led"
    if deed in SAID:
        assert any(said in victim.daemon.log() for said in SAID[deed]), "it failed by something else"
    named = [line for line in victim.daemon.log().splitlines() if " failed: " in line and "source" in line]
    assert named
    assert all("node-01" in line or "node-02" in line for line in named), named
    incident = fleet.api.incidents(node=victim.name)[0]
    # Wrong bytes count as moved; what was needed is 1 MiB of large.bin and the rogue's small files.
    assert incident["bytes_moved"] < (16 << 20)
    for source in hostile:
        source.close()


def test_a_coordinator_behind_a_rough_road(make_fleet: MakeFleet) -> None:
    """Connections are delayed, cut after a moment and overtake each other; then the road is good again."""
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01")])
    roads = [RoughRoad(fleet.agents_port, seed) for seed in range(3)]
    for node, road in zip(fleet.nodes.values(), roads, strict=True):
        node.coordinator_port = road.port
        road.rough = False
    fleet.start()
    fleet.wait_in_rank()
    for road in roads:
        road.rough = True
    for node in fleet.nodes.values():
        node.restart()  # the sessions that stand were made on the good road
    written = 0
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        (fleet[0].path() / f"written-{written}").write_bytes(os.urandom(5000))
        written += 1
        time.sleep(0.05)  # a pace, not a wait
    for road in roads:
        road.rough = False
    fleet.wait_equal(fleet[0], timeout_s=90)
    assert sum(road.cuts for road in roads) >= 5
    assert fleet.accused() == set()
    for road in roads:
        road.close()


@pytest.mark.parametrize("who", ["agent", "coordinator"])
def test_a_process_that_is_frozen_for_longer_than_every_timeout(make_fleet: MakeFleet, who: str) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    daemon = fleet[1].daemon if who == "agent" else fleet.coordinator
    daemon.pause()
    if who == "agent":
        fleet.wait_state(fleet[1], "unreachable", timeout_s=60)
        with (fleet[1].path() / "large.bin").open("r+b") as file:
            file.write(b"written while it was frozen")
    else:
        # Sessions end after three missed beats, requests after less: nothing to be asked, so time itself is waited for.
        lost = "no session with the coordinator"
        fleet.wait("an agent gives the session up", lambda: lost in fleet[0].daemon.log(), timeout_s=100)
        _damage(fleet[1])
    assert fleet.accused() == set() if who == "agent" else True
    daemon.resume()
    _end(fleet, fleet[1])


@pytest.mark.parametrize("step_s", [-7 * 86400.0, 400 * 86400.0], ids=["back", "ahead"])
@pytest.mark.parametrize("who", ["agent", "coordinator"])
def test_a_wall_clock_that_jumps(
    make_fleet: MakeFleet, load_shim: Callable[..., Shim], who: str, step_s: float
) -> None:
    """Of one process, while it runs: truth, fences and trash go by order and by the monotonic clock."""
    fleet = make_fleet(nodes=3, fleet={"auto_release_max": 100, "recurrence_max": 100})
    node = fleet[1]
    shim = load_shim(node.daemon if who == "agent" else fleet.coordinator)
    fleet.start()
    fleet.wait_in_rank()
    _damage(node, 1)
    _end(fleet, node)
    shim.step_clock(step_s)
    _damage(node, 2)
    _end(fleet, node, incidents=2)
    paths = [item["path"] for item in fleet.api.get(f"/api/v1/nodes/{node.name}/trash?limit=1000")["items"]]
    assert paths.count("large.bin") == 2, "what lay in the trash before the clock was set is still there"
    told = [line for line in shim.daemon.log().splitlines() if _days_off(line, step_s)]
    assert told, "the daemon's own clock did not jump: the test shows nothing"
    shim.step_clock(0.0)
    with (node.path() / "large.bin").open("r+b") as file:
        file.write(b"once more")
    _end(fleet, node, incidents=3)


def _days_off(line: str, step_s: float) -> bool:
    """Whether the line was logged at a time that is about so far from now."""
    try:
        at = datetime.datetime.fromisoformat(line.split()[0])
    except (ValueError, IndexError):
        return False
    now = datetime.datetime.now(at.tzinfo)
    return abs((at - now).total_seconds() - step_s) < 86400


def test_few_open_files(make_fleet: MakeFleet) -> None:
    """RLIMIT_NOFILE of 64 for the agent: slower at most, and whatever it can not open is a problem, not a crash."""
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    prefix = [sys.executable, "-I", "-S", str(Path(__file__).with_name("limited.py")), "64"]
    node.daemon.argv = [*prefix, *node.daemon.argv]
    fleet.start()
    fleet.wait_in_rank()
    assert re.search(r"Max open files +64 ", Path(f"/proc/{node.daemon.pid}/limits").read_text())
    _damage(node)
    _end(fleet, node)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a user namespace of its own needs root here")
def test_few_inotify_watches(make_fleet: MakeFleet) -> None:
    """A namespace with room for three watches: said in the log and the metrics, answered by scans, nothing missed."""
    fleet = make_fleet(nodes=3)
    node = fleet[1]
    script = 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"'
    node.daemon.argv = ["/usr/bin/unshare", "-U", "-r", "bash", "-c", script, "limited", *node.daemon.argv]
    if subprocess.run(["unshare", "-U", "-r", "bash", "-c", script, "x", "true"], check=False).returncode:
        pytest.skip("no user namespaces on this machine")
    fleet.lay_trees()
    fleet.start()
    fleet.wait_in_rank()
    assert "max_user_watches" in node.daemon.log()
    assert node.metric("closeranks_agent_watch_events_dropped_total")
    (node.path() / "dir-4" / "deep").mkdir(exist_ok=True)
    (node.path() / "dir-4" / "deep" / "added").write_bytes(b"not watched")
    _end(fleet, node)
