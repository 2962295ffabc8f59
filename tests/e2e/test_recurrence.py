"""A rogue that does not stop: what was repaired comes back, is named as a recurrence, and ends with it."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from fleet import MakeFleet, Rogue

pytestmark = pytest.mark.e2e


def test_a_file_that_comes_back_is_a_recurrence_until_the_rogue_is_stopped(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=4)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[2]
    rogue = Rogue(node.path(), fleet.base / "rogue.log", rewrite=True, alter=2, add=2, delete=2)
    incident = fleet.wait(
        "a recurrence",
        lambda: [i for i in fleet.api.incidents(node=node.name) if i["recurrences"] >= 1],
        timeout_s=40,
    )[0]
    assert incident["state"] == "open"
    assert any(event["event"] == "recurrence" for event in incident["timeline"])
    assert fleet.api.lb(node.name) == 503, "it stays fenced while the rogue writes"
    assert rogue.stop() == 0
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    closed = fleet.api.incident(incident["id"])
    assert closed["state"] == "closed"
    order = [event["event"] for event in closed["timeline"]]
    assert "recurrence" in order
    way = ("detected", "named", "fenced", "resync_started", "resynced", "released")
    for earlier, later in pairwise(way):
        assert order.index(earlier) < order.index(later), order
    named = {path["path"] for path in closed["paths"]}
    assert set(rogue.paths()) - named == set()
    assert fleet.accused() == {node.name}
    for form, word in (("md", node.name), ("html", "<html"), ("json", '"timeline"')):
        assert word in fleet.api.report(incident["id"], form)


def test_a_file_rewritten_for_ever_is_named(make_fleet: MakeFleet) -> None:
    """Writing again must not restart the clock of the difference."""
    fleet = make_fleet(nodes=3)
    fleet.volumes[0].settle_s = 1.5
    fleet.start()
    fleet.wait_in_rank()
    started = time.monotonic()
    rogue = Rogue(fleet[0].path(), fleet.base / "rogue.log", rewrite=True, every_s=0.1)
    fleet.wait_incident(kind="divergence", node="node-01", timeout_s=20)
    assert time.monotonic() - started < 15
    rogue.stop()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()


def test_repeat_offenders_stay_fenced_until_a_person_releases(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, fleet={"auto_release_max": 1})
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    (node.path() / "large.bin").write_bytes(b"first time")
    fleet.wait_incident(node=node.name, state="closed")
    fleet.wait_in_rank()
    (node.path() / "large.bin").write_bytes(b"second time")

    def converged() -> bool:
        fence = fleet.api.node(node.name)["quarantine"]
        return fence is not None and fence["release"] == "by_hand" and fence["verified"]

    fleet.wait("converged, verified, and still fenced", converged)
    fleet.assert_equal_trees()
    time.sleep(2)  # long enough for an automatic release that must not come
    assert fleet.api.node(node.name)["state"] == "quarantined"
    fleet.api.release(node.name)
    fleet.wait_in_rank()
