"""The operator's own commands at quarantine and release: told what happens, never able to stop it."""

from __future__ import annotations

import pytest

from fleet import MakeFleet

pytestmark = pytest.mark.e2e


def test_hooks_are_told_and_a_failing_one_stops_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    told = fleet.base / "told"
    words = "$CLOSERANKS_NODE $CLOSERANKS_FENCE_TOKEN $CLOSERANKS_INCIDENT $CLOSERANKS_REASON"
    node = fleet[1]
    node.hooks = {
        "on_quarantine": ["/bin/sh", "-c", f'echo "fenced {words}" >> {told}; exit 7'],
        "on_release": ["/bin/sh", "-c", f'echo "released {words}" >> {told}'],
    }
    fleet.start()
    fleet.wait_in_rank()
    (node.path() / "large.bin").write_bytes(b"damage")
    incident = fleet.wait_incident(node=node.name, state="closed")
    fleet.wait_in_rank()
    lines = fleet.wait("both hooks ran", lambda: told.read_text().splitlines(), lambda lines: len(lines) == 2)
    fenced, released = (line.split(" ", 4) for line in lines)
    assert fenced[:4] == ["fenced", node.name, "1", incident["id"]]
    assert fenced[4], "the reason"
    assert released[:2] == ["released", node.name]

    texts = [event["text"] for event in fleet.api.incident(incident["id"])["timeline"]]
    assert any("hook" in text and "7" in text for text in texts), texts


def test_a_hook_that_hangs_is_ended(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    node = fleet[0]
    node.hooks = {"on_quarantine": ["/bin/sleep", "600"], "timeout_s": 1.0}
    fleet.start()
    fleet.wait_in_rank()
    (node.path() / "large.bin").write_bytes(b"damage")
    fleet.wait_incident(node=node.name, state="closed", timeout_s=40)
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
