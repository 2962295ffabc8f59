"""Each way of noticing writes, what happens when it loses some, and whose hand it names. Scans are a minute apart."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from fleet import Fleet, MakeFleet, Node, Reader, Rogue, VolumeSpec, replicated
from fleet.reader import versioned
from fleet.scribes import SCRIBES

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")
KINDS = [pytest.param("fanotify", marks=[pytest.mark.root, needs_root]), "inotify"]


def _watched(make_fleet: MakeFleet, kind: str, nodes: int = 3, **settings: Any) -> Fleet:
    fleet = make_fleet(nodes=nodes, volumes=[replicated("node-01", **settings)])
    for node in fleet.nodes.values():
        node.volume_extra["photos"] = {"watch": kind}
    fleet.start()
    fleet.wait_in_rank()
    return fleet


def _volume(fleet: Fleet, node: Node) -> Any:
    return fleet.api.node(node.name)["volumes"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_source_sees_every_kind_of_writer(make_fleet: MakeFleet, kind: str) -> None:
    fleet = _watched(make_fleet, kind)
    fleet.wait(
        "all are watched",
        lambda: [_volume(fleet, node)["watch"] for node in fleet.nodes.values()] == [kind] * 3,
    )
    rng = random.Random(7)
    for scribe in rng.sample(SCRIBES, len(SCRIBES)):
        scribe(fleet[0].path(), rng)
    fleet.wait_equal(fleet[0])
    assert fleet.api.incidents() == []


def test_where_nothing_watches_a_scan_finds_it(make_fleet: MakeFleet) -> None:
    fleet = _watched(make_fleet, "rescan", scan_interval_s=1.0)
    fleet.wait("it says how it sees", lambda: _volume(fleet, fleet[0])["watch"] == "rescan")
    rng = random.Random(8)
    for scribe in SCRIBES:
        scribe(fleet[0].path(), rng)
    fleet.wait_equal(fleet[0])
    assert fleet.accused() == set()


def test_mixed_ways_of_watching_make_one_fleet(make_fleet: MakeFleet) -> None:
    """The best that the kernel permits, inotify, and none: a rogue is named on each."""
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(scan_interval_s=1.0, settle_s=0.5)])
    fleet[1].volume_extra["photos"] = {"watch": "inotify"}
    fleet[2].volume_extra["photos"] = {"watch": "rescan"}
    fleet.start()
    fleet.wait_in_rank()
    for node in fleet.nodes.values():
        (node.path() / "large.bin").write_bytes(b"by a rogue")
        fleet.wait_incident(kind="divergence", node=node.name, state="closed")
        fleet.wait_in_rank()
    fleet.assert_equal_trees()


@pytest.mark.parametrize("kind", KINDS)
def test_own_writes_do_not_echo(make_fleet: MakeFleet, kind: str) -> None:
    """What a push wrote is known already: when all is quiet, nobody commits, nobody pushes."""
    fleet = _watched(make_fleet, kind)
    rng = random.Random(9)
    for number in range(50):
        (fleet[0].path() / f"{number}.bin").write_bytes(rng.randbytes(9000))
    fleet.wait_equal(fleet[0])

    def commits() -> float:
        text = fleet.api.text("/metrics")
        lines = [line for line in text.splitlines() if line.startswith("closeranks_commits_total")]
        return sum(float(line.split()[-1]) for line in lines)

    counts: list[float] = []

    def look() -> list[float]:
        counts.append(commits())
        return counts[-10:]

    fleet.wait("commits come to an end", look, lambda last: len(last) == 10 and len(set(last)) == 1)
    before = commits()
    time.sleep(3)  # time for an echo, which must not come
    assert commits() == before


@pytest.mark.parametrize("kind", KINDS)
def test_events_beyond_the_kernels_queue_are_counted_and_answered(make_fleet: MakeFleet, kind: str) -> None:
    """The agent sleeps while more happens than the queue of inotify holds; fanotify's holds all of it."""
    fleet = _watched(make_fleet, kind, nodes=2)
    fleet[0].daemon.pause()
    place = fleet[0].path() / "dir-1"
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(min(queue, 32768) // 3 + 500):  # a creation, a write and a close each
        (place / f"{number}.bin").write_bytes(b"%d" % number)
    for number in range(0, 1000, 2):
        (place / f"{number}.bin").rename(place / f"{number}.renamed")
    fleet[0].daemon.resume()
    fleet.wait_equal(fleet[0], timeout_s=60)
    lost = 1 if kind == "inotify" else 0
    assert _volume(fleet, fleet[0])["watch_dropped"] >= lost
    assert fleet[0].metric("closeranks_agent_watch_events_dropped_total") >= lost


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_never_rests_is_committed_all_the_same(make_fleet: MakeFleet, kind: str) -> None:
    fleet = _watched(make_fleet, kind, nodes=2)
    path, copy = fleet[0].path() / "restless.bin", fleet[1].path() / "restless.bin"
    path.write_bytes(versioned(1, b"first"))
    fleet.wait("the first version", copy.exists)
    with Reader(copy) as reader:
        rogue = _restless(path, fleet.base / "restless.log")
        time.sleep(8)  # it writes all the time
        seen = reader.stop()
        rogue.stop()
    assert seen["versions"] >= 2, f"its bounded age has passed several times: {seen}"
    assert (seen["torn"], seen["back"], seen["missing"]) == (0, 0, 0), seen
    fleet.wait_equal(fleet[0])


def _restless(path: Path, log: Path) -> Rogue:
    """A process that replaces one file a hundred times a second."""
    script = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from fleet.reader import versioned\n"
        f"path = {str(path)!r}\n"
        "for number in range(2, 100000):\n"
        "    with open(path + '.part', 'wb') as file: file.write(versioned(number, os.urandom(2000)))\n"
        "    os.rename(path + '.part', path)\n"
        "    time.sleep(0.01)\n"
    )
    return Rogue.running(script, log)


@pytest.mark.root
@needs_root
def test_the_incident_names_the_rogues_process(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(scan_interval_s=60.0, on_divergence="alert")])
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    rogue = Rogue(node.path(), fleet.base / "rogue.log", alter=2, add=2, rewrite=True)
    incident = fleet.wait(
        "the incident names a writer",
        lambda: [i for i in fleet.api.incidents(kind="divergence", node=node.name) if i["writers"]],
    )[0]
    named = " ".join(incident["writers"])
    assert str(rogue.process.pid) in named, named
    assert os.path.realpath("/proc/self/exe") in named, named
    assert "rogue.py" in named, named
    told = fleet.run("nodes", node.name, "--json")
    top = json.loads(told.stdout)["writers"]
    assert any(hand["pid"] == rogue.process.pid for hand in top), top
    assert "rogue.py" in fleet.run("nodes", node.name).stdout
    for form in ("md", "html", "json"):
        assert "rogue.py" in fleet.api.report(incident["id"], form)
    rogue.stop()


def test_an_unknown_hand_says_why(make_fleet: MakeFleet) -> None:
    """inotify does not tell who wrote."""
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(scan_interval_s=60.0, on_divergence="alert")])
    fleet[1].volume_extra["photos"] = {"watch": "inotify"}
    fleet.start()
    fleet.wait_in_rank()
    (fleet[1].path() / "large.bin").write_bytes(b"by somebody")
    incident = fleet.wait(
        "the incident says something of the writer",
        lambda: [i for i in fleet.api.incidents(kind="divergence", node="node-02") if i["writers"]],
    )[0]
    assert "unknown" in " ".join(incident["writers"]).lower(), incident["writers"]
    assert "inotify" in " ".join(incident["writers"]).lower(), incident["writers"]


def test_a_rogue_is_named_without_a_scan(make_fleet: MakeFleet) -> None:
    """settle_s is half a second, scans are a minute apart: the voters prove by their watchers that they are current."""
    fleet = make_fleet(nodes=5, volumes=[VolumeSpec(scan_interval_s=60.0)])
    fleet.start()
    fleet.wait_in_rank()
    for number in (2, 4):
        (fleet[number].path() / "large.bin").write_bytes(b"by a rogue")
        fleet.wait_incident(kind="divergence", node=fleet[number].name, timeout_s=15)
        fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == {"node-03", "node-05"}
