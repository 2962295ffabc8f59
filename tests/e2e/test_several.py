"""More than one node out of rank: places for the fenced are few, and a split fleet accuses nobody."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fleet import Fleet, MakeFleet, Rogue

pytestmark = pytest.mark.e2e


def _fenced(fleet: Fleet) -> list[str]:
    return [name for name, node in fleet.api.nodes().items() if node["quarantine"] is not None]


@pytest.mark.parametrize("places", [1, 2])
def test_two_rogues_are_fenced_as_places_are_free(make_fleet: MakeFleet, places: int) -> None:
    fleet = make_fleet(nodes=6, fleet={"max_quarantined": places})
    fleet.volumes[0].settle_s = 1.0
    fleet.start()
    fleet.wait_in_rank()
    two = (fleet[1], fleet[4])
    rogues = [
        Rogue(
            node.path(), fleet.base / f"rogue-{node.name}.log", seed=n, rewrite=True, alter=3, add=2, delete=2
        )
        for n, node in enumerate(two)
    ]
    most = 0

    def both_named() -> bool:
        nonlocal most
        most = max(most, len(_fenced(fleet)))
        return fleet.accused() == {node.name for node in two}

    fleet.wait("both rogues' nodes accused", both_named)
    if places == 1:
        waiting = [n for n in fleet.api.nodes().values() if n["state"] == "suspect"]
        assert [n["blocked_by"] for n in waiting] == ["max_quarantined"]
    else:
        fleet.wait("both fenced", lambda: len(_fenced(fleet)) == 2)
    for rogue in rogues:
        rogue.stop()

    def in_rank() -> bool:
        nonlocal most
        most = max(most, len(_fenced(fleet)))
        return bool(fleet.api.fleet()["in_rank"])

    fleet.wait("all in rank", in_rank, timeout_s=60)
    assert most <= places
    fleet.assert_equal_trees()
    assert fleet.accused() == {node.name for node in two}


def test_an_even_split_accuses_nobody(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=4)
    fleet.start()
    fleet.wait_in_rank()
    for node in (fleet[0], fleet[1]):
        (node.path() / "large.bin").write_bytes(b"one half says this")
    incident = fleet.wait_incident(kind="undetermined")
    assert incident["node"] is None
    time.sleep(3)  # several settles and scans, in which nobody may be accused
    seen = fleet.api.fleet()
    assert not seen["in_rank"]
    assert seen["volumes"][0]["undetermined"] == 1
    assert fleet.accused() == set()
    assert {node["quarantine"] for node in seen["nodes"]} == {None}
    for node in (fleet[0], fleet[1]):
        assert (node.path() / "large.bin").read_bytes() == b"one half says this"
    assert fleet.run("status").returncode == 1
    (fleet[0].path() / "large.bin").write_bytes((fleet.pristine() / "large.bin").read_bytes())
    fleet.wait_incident(node="node-02", state="closed")  # three of four: the last one is named and repaired
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == {"node-02"}


def test_many_suspects_at_once_are_fenced_by_nobody(make_fleet: MakeFleet) -> None:
    """Seven nodes, three rogues, one place: rather the judge than three of seven is wrong."""
    fleet = make_fleet(nodes=7)
    fleet.volumes[0].settle_s = 2.0
    fleet.start()
    fleet.wait_in_rank()
    for number in range(3):
        (fleet[number].path() / "large.bin").write_bytes(b"each its own %d" % number)
    fleet.wait_incident(kind="many_suspects")
    assert _fenced(fleet) == []
    states: dict[str, Any] = {name: node["state"] for name, node in fleet.api.nodes().items()}
    assert [states[f"node-0{n}"] for n in (1, 2, 3)] == ["suspect"] * 3
    original = (fleet.pristine() / "large.bin").read_bytes()
    for number in range(2):
        (fleet[number].path() / "large.bin").write_bytes(original)
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


def test_a_change_that_reaches_a_majority_becomes_the_truth(make_fleet: MakeFleet) -> None:
    """The site's own replication, node after node: nobody is accused on the way."""
    fleet = make_fleet(nodes=5)
    fleet.volumes[0].settle_s = 3.0
    fleet.start()
    fleet.wait_in_rank()
    for node in fleet.nodes.values():
        (node.path() / "deployed.txt").write_bytes(b"version 2")
        time.sleep(0.7)  # the site's replication is slower than a scan; faster than settle_s
    (fleet.pristine() / "deployed.txt").write_bytes(b"version 2")
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == set()
