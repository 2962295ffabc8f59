"""Wires cut between network namespaces while both sides write: merged path by path when they are mended."""

from __future__ import annotations

import os
import random

import pytest

from fleet import MakeFleet, replicated
from fleet.namespaces import Network

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.mark.parametrize("seed", [1, 2])
def test_both_sides_of_a_cut_write_and_are_merged(make_fleet: MakeFleet, seed: int) -> None:
    """One writer is cut off alone; a replica too. Nothing that either wrote is missing anywhere at the end."""
    rng = random.Random(seed)
    fleet = make_fleet(nodes=4, volumes=[replicated("node-01", "node-02")])
    with Network(fleet) as network:
        fleet.start()
        fleet.wait_in_rank()
        cut = [fleet[1], fleet[3]] if seed % 2 else [fleet[1]]
        for node in cut:
            network.cut(node)
        written: dict[str, list[bytes]] = {}
        for turn in range(60):
            side = rng.randrange(2)
            name = f"by both {rng.randrange(8)}.bin" if rng.random() < 0.3 else f"by {side} {turn}.bin"
            body = b"side %d, turn %d\n" % (side, turn) * rng.randrange(1, 400)
            (fleet[side].path() / name).write_bytes(body)
            versions = written.setdefault(name, [b"", b""])
            versions[side] = body
        for node in cut:
            fleet.wait_state(node, "unreachable", timeout_s=40)
        fleet.wait(
            "the first side's last write is on the replica it reaches",
            lambda: (
                {n for n, v in written.items() if v[0] and (fleet[2].path() / n).read_bytes() != v[0]}
                == set()
            ),
        )
        for node in cut:
            network.mend(node)
        fleet.wait_equal(fleet[0], timeout_s=60)
        held = {
            path.read_bytes() for path in fleet[3].path().iterdir() if path.is_file() and "by" in path.name
        }
        assert {body for versions in written.values() for body in versions if body} - held == set()
        both = {name for name, versions in written.items() if all(versions)}
        for name in both:
            assert (fleet[3].path() / name).read_bytes() == written[name][0], (
                "the first to arrive keeps the name"
            )
        assert {conflict["path"] for conflict in fleet.api.conflicts("photos")} == both
        assert fleet.accused() == set()
        fleet.stop()


def test_a_wire_that_comes_and_goes_loses_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01")])
    with Network(fleet) as network:
        fleet.start()
        fleet.wait_in_rank()
        rng = random.Random(5)
        for turn in range(5):
            node = fleet[rng.randrange(3)]
            network.cut(node)
            for number in range(20):
                (fleet[0].path() / f"{turn}-{number}.bin").write_bytes(rng.randbytes(rng.randrange(60_000)))
            network.mend(node)
            (fleet[0].path() / f"{turn}-0.bin").unlink()
        fleet.wait_equal(fleet[0], timeout_s=60)
        assert fleet.accused() == set()
        fleet.stop()


def test_a_node_that_reaches_only_the_coordinator_says_whom_it_can_not_reach(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01")])
    with Network(fleet) as network:
        fleet.start()
        fleet.wait_in_rank()
        network.part(fleet[2], [fleet[0], fleet[1]])
        (fleet[0].path() / "video.bin").write_bytes(os.urandom(3_000_000))
        text = fleet.wait(
            "node-03 says that it reaches nobody",
            lambda: next(iter(fleet.api.node("node-03")["cares"]), {"text": ""})["text"],
            lambda text: "node-01 at" in text and "node-02 at" in text,
            timeout_s=60,
        )
        assert "node-03 can not reach node-01 at" in text
        assert "no route to host" in text
        assert fleet.api.node("node-02")["cares"] == []
        network.part(fleet[2], [fleet[0], fleet[1]], mended=True)
        fleet.wait_equal(fleet[0], timeout_s=60)
        assert fleet.api.node("node-03")["cares"] == []
        assert fleet.accused() == set()
        fleet.stop()
