"""What no sane writer does is held before a replica has any of it, and waits for allow or reject."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fleet import Fleet, Flood, LoopDisk, MakeFleet, Tmpfs, replicated, small_tree
from rights import lacking

pytestmark = pytest.mark.e2e

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def _many(root: Path) -> None:
    small_tree(root, files=300)


def _very_many(root: Path) -> None:
    """So many that removing them is more than the agent listens to."""
    _many(root)
    for number in range(300):
        directory = root / "very" / f"{number:03}"
        directory.mkdir(parents=True)
        for name in range(100):
            (directory / f"{name:02}").touch()


def _guarded(make_fleet: MakeFleet, nodes: int = 3, **guards: Any) -> Fleet:
    fleet = make_fleet(nodes=nodes, volumes=[replicated("node-01", guards=guards)], tree=_many)
    fleet.start()
    fleet.wait_in_rank()
    return fleet


def _hold(fleet: Fleet) -> Any:
    return fleet.wait("something is held", lambda: fleet.api.held(state="held"))[0]


def _delete_share(tree: Path, of: int, deleted: int) -> None:
    """By rm, as the usual accident does: `deleted` of every `of` files."""
    files = sorted(path for path in tree.rglob("*.bin"))
    victims = [str(path) for number, path in enumerate(files) if number % of < deleted]
    subprocess.run(["rm", "-f", *victims], check=True)


def _replicas_untouched(fleet: Fleet) -> None:
    fleet.assert_equal_trees(nodes=list(fleet.nodes)[1:])


def test_a_mass_delete_is_held_and_an_operator_lets_it_through(make_fleet: MakeFleet) -> None:
    fleet = _guarded(make_fleet)
    _delete_share(fleet[0].path(), of=5, deleted=2)
    hold = _hold(fleet)
    time.sleep(2)  # time for a delete to reach a replica, which must not
    _replicas_untouched(fleet)
    fleet.wait_state(fleet[0], "held")
    incident = fleet.api.incident(hold["incident"])
    assert incident["kind"] == "runaway"
    assert incident["state"] == "open"
    assert any(character.isdigit() for character in hold["reason"]), hold["reason"]
    assert fleet.api.lb("node-01") == 200, "held is in rank for load balancers"
    assert fleet.run("status").returncode == 1
    listed = fleet.run("held", "--json")
    assert hold["id"] in listed.stdout
    assert json.loads(listed.stdout)["items"][0]["node"] == "node-01"
    allowed = fleet.run("allow", hold["id"])
    assert allowed.returncode == 0, allowed.stderr
    fleet.wait_equal(fleet[0])
    assert fleet.compare(nodes=["node-02"])["node-02"] != [], "the delete is the truth now"
    fleet.wait("the incident closes", lambda: fleet.api.incident(hold["incident"])["state"] == "closed")
    (fleet[0].path() / "ordinary work.txt").write_bytes(b"goes on")
    fleet.wait_equal(fleet[0])


def test_a_mass_delete_of_very_many_at_once_is_held_whole(make_fleet: MakeFleet) -> None:
    """What is told of it before the agent stops listening must not run ahead of the rest."""
    fleet = make_fleet(nodes=2, volumes=[replicated("node-01")], tree=_very_many)
    fleet.start()
    fleet.wait_in_rank()
    subprocess.run(["rm", "-r", str(fleet[0].path() / "very")], check=True)
    hold = _hold(fleet)
    assert hold["guard"] == "deleted_share"
    fleet.wait(
        "all of it waits", lambda: fleet.api.held(id=hold["id"])[0]["waiting_paths"], lambda n: n == 30_301
    )
    _replicas_untouched(fleet)
    fleet.api.reject(hold["id"])
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


def test_a_mass_delete_is_rejected_and_the_writer_is_brought_back(make_fleet: MakeFleet) -> None:
    fleet = _guarded(make_fleet)
    _delete_share(fleet[0].path(), of=5, deleted=2)
    hold = _hold(fleet)
    rejected = fleet.run("reject", hold["id"])
    assert rejected.returncode == 0, rejected.stderr
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    (fleet[0].path() / "after.txt").write_bytes(b"it may write again")
    fleet.wait_equal(fleet[0])


def test_a_hold_survives_the_coordinator(make_fleet: MakeFleet) -> None:
    fleet = _guarded(make_fleet)
    _delete_share(fleet[0].path(), of=5, deleted=2)
    hold = _hold(fleet)
    fleet.coordinator.kill()
    fleet.start_coordinator()
    fleet.wait_state(fleet[0], "held")
    time.sleep(2)  # time for what was held to slip through, which it must not
    _replicas_untouched(fleet)
    assert [h["id"] for h in fleet.api.held(state="held")] == [hold["id"]]
    fleet.api.reject(hold["id"])
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


def test_a_delete_in_slices_is_held_too(make_fleet: MakeFleet) -> None:
    """No single commit is unusual; the window's sum is."""
    fleet = _guarded(make_fleet)
    for path in sorted(fleet[0].path().rglob("*.bin"))[::2]:
        path.unlink()
        time.sleep(0.02)
    _hold(fleet)
    time.sleep(1)  # time for the rest to slip through, which must not
    found = fleet.compare(nodes=["node-02", "node-03"])
    assert max(len(each) for each in found.values()) < 100, "a fifth of the volume at most"


def test_changing_most_of_a_volume_is_held(make_fleet: MakeFleet) -> None:
    """As ransomware does: every file keeps its name and gets other bytes."""
    fleet = _guarded(make_fleet)
    for path in sorted(fleet[0].path().rglob("*.bin")):
        path.write_bytes(os.urandom(max(1, path.stat().st_size)))
    _hold(fleet)
    time.sleep(1)  # time for the rest to slip through, which must not
    found = fleet.compare(nodes=["node-02", "node-03"])
    assert max(len(each) for each in found.values()) <= 9, "one, and a handful that looked like an end"


def test_making_links_of_files_is_held(make_fleet: MakeFleet) -> None:
    fleet = _guarded(make_fleet)
    for path in sorted(fleet[0].path().rglob("*.bin"))[:60]:
        path.unlink()
        path.symlink_to("/dev/null")
    _hold(fleet)
    time.sleep(1)  # time for the rest to slip through, which must not
    found = fleet.compare(nodes=["node-02", "node-03"])
    assert not any(found.values())


def test_an_emptied_root_is_not_a_delete(make_fleet: MakeFleet) -> None:
    fleet = _guarded(make_fleet)
    for entry in list(fleet[0].path().iterdir()):
        if entry.name == ".closeranks":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    fleet.wait(
        "held, or reported as not mounted",
        lambda: fleet.api.held(state="held") or fleet.api.node("node-01")["volumes"][0]["problem"],
    )
    time.sleep(2)  # time for a delete to reach a replica, which must not
    found = fleet.compare(nodes=["node-02", "node-03"])
    assert max(len(each) for each in found.values()) < 80, found
    # What doctor and status say of an emptied root: with a file in it it is a deletion, which an operator may allow.
    (fleet[0].path() / "one.txt").write_text("one")
    fleet.run("allow", _hold(fleet)["id"])
    fleet.wait_equal(fleet[0])


def test_a_runaway_writer_is_held_before_a_replica_has_any_of_it(make_fleet: MakeFleet) -> None:
    """A burst is observed before it is spread: also its first file stays where it is.

    On a busy machine the directory that it is to lie in may be spread: then nobody writes fast yet.
    """
    fleet = _guarded(make_fleet, rate_min_bytes=64 * MIB, rate_window_s=10.0)
    flood = Flood(fleet[0].path(), fleet.base / "flood.log", "large", limit=600 * MIB)
    hold = _hold(fleet)
    flood.stop()
    time.sleep(2)  # time for a byte to reach a replica, which must not
    for name, found in fleet.compare(nodes=list(fleet.nodes)[1:]).items():
        assert {str(one) for one in found} <= {"added 'flood-00000'"}, (name, found)
    assert not list(fleet[1].path().rglob("*.dat")) + list(fleet[2].path().rglob("*.dat"))
    assert hold["node"] == "node-01"
    assert "GB" in hold["reason"] or "MB" in hold["reason"], hold["reason"]
    if not lacking():
        told = json.dumps(hold["writers"])
        assert str(flood.pid) in told, told
        assert "flood.py" in hold["reason"], "it names the script: python is nobody's name"
        by = [line for line in fleet.run("held").stdout.splitlines() if line.startswith("  by ")]
        assert any("(script " in line and "flood.py" in line for line in by), by
    fleet.api.reject(hold["id"])
    fleet.wait_in_rank()
    left = {str(one) for found in fleet.compare().values() for one in found}
    assert left <= {"added 'flood-00000'"}, left
    assert len({node.path().joinpath("flood-00000").exists() for node in fleet.nodes.values()}) == 1
    assert not [one for node in fleet.nodes.values() for one in node.path().rglob("*.dat")]


@pytest.mark.root
@needs_root
def test_a_disk_that_fills_holds_its_writer(make_fleet: MakeFleet) -> None:
    """The writes fall outside the volume, but on its disk."""
    asked = {"disk_full_in_s": 600.0}
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01", on_divergence="alert", guards=asked)])
    node = fleet[0]
    with Tmpfs(node.base / "disk", 600 * MIB) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        elsewhere = disk.path / "elsewhere"
        elsewhere.mkdir()
        flood = Flood(elsewhere, fleet.base / "flood.log", "large", size=MIB, rate=4, seconds=12)
        incident = fleet.wait_incident(kind="runaway", node=node.name)
        flood.stop()
        told = incident["timeline"][0]["text"] + incident["summary"]
        assert "disk" in told.lower(), told
        fleet.stop()


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ("large", {}),
        ("grow", {}),
        ("small", {"size": MIB, "rate": 6, "seconds": 30}),
        (
            "small",
            {"size": 4 * MIB, "rate": 0.7, "seconds": 90},
        ),  # it pauses for more than a second each time
    ],
)
def test_a_runaway_on_a_small_disk_is_held_before_a_replica_has_any_of_it(
    make_fleet: MakeFleet, shape: str, options: dict[str, Any]
) -> None:
    """At full speed, where it is full before it was foreseen, so slowly that it is no burst elsewhere, in pieces."""
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01", guards={"disk_full_in_s": 600.0})])
    node = fleet[0]
    with Tmpfs(node.base / "disk", 400 * MIB) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        with Flood(node.path(), fleet.base / "flood.log", shape, **options):
            # Others fill the disk that the rest of this fleet shares: a hold of another node's disk says nothing here.
            fleet.wait(
                "the writer is held",
                lambda: [one for one in fleet.api.held(state="held") if one["node"] == node.name],
            )
        time.sleep(2)  # time for a byte to reach a replica, which must not
        trees = [fleet[one].path() for one in (1, 2)]
        spread = [str(one) for tree in trees for one in [*tree.rglob("*.dat"), *tree.rglob("runaway.log")]]
        fleet.stop()
    assert spread == []


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_what_is_copied_into_a_writer_holds_no_replica_whose_disk_it_fills(
    make_fleet: MakeFleet, kind: str
) -> None:
    """More than half of a small disk, most of it in chunks that lie there already: nobody sends their bytes."""
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01", guards={"disk_full_in_s": 600.0})])
    replica = fleet[1]
    size = 400 * MIB
    disk = (
        Tmpfs(replica.base / "disk", size)
        if kind == "tmpfs"
        else LoopDisk(replica.base / "disk", replica.base / "image", size)
    )
    with disk:
        replica.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        flood = Flood(fleet[0].path(), fleet.base / "flood.log", "small", size=3 * MIB, rate=2, seconds=30)
        flood.wait(60)
        fleet.wait_equal(fleet[0])
        found = [one for one in fleet.api.held() if one["node"] == replica.name]
        shutil.rmtree(fleet[0].path() / "flood-00000")
        fleet.wait_equal(fleet[0])
        fleet.stop()
    assert found == []


@pytest.mark.root
def test_a_paused_writer_is_shown_and_goes_on(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(
        nodes=2,
        volumes=[
            replicated(
                "node-01", guards={"pause_writer": True, "rate_min_bytes": 64 * MIB, "rate_window_s": 10.0}
            )
        ],
        tree=_many,
    )
    fleet[0].reactions["allow_pause"] = True
    fleet.start()
    fleet.wait_in_rank()
    # It writes for as long as nobody pauses it, in the same 1,000 MiB over and over.
    with Flood(fleet[0].path(), fleet.base / "flood.log", "large", names=100) as flood:

        def state() -> str:
            return Path(f"/proc/{flood.pid}/stat").read_text().rpartition(")")[2].split()[0]

        hold = _hold(fleet)
        fleet.wait("the writer is stopped", state, lambda s: s in "Tt")
        shown = fleet.wait("the hold shows it", lambda: fleet.api.held(id=hold["id"])[0]["reactions"])
        assert str(flood.pid) in " ".join(shown), shown
        fleet.api.reject(hold["id"])
        fleet.wait("the writer goes on", state, lambda s: s not in "Tt")


def test_a_large_ordinary_change_is_not_held(make_fleet: MakeFleet) -> None:
    """A directory renamed, a few hundred files added, one large file: day one, with every guard on."""
    fleet = _guarded(make_fleet, nodes=2)
    tree = fleet[0].path()
    (tree / "dir-2").rename(tree / "renamed")
    flood = Flood(tree, fleet.base / "flood.log", "small", size=2000, limit=250 * 2000)
    flood.wait(30)
    (tree / "video.bin").write_bytes(os.urandom(30 * MIB))
    fleet.wait_equal(fleet[0])
    assert fleet.api.held() == []
    assert fleet.api.incidents() == []
