"""Audits on real disks and real agents: decay is found before any scrub comes by, and an index that lies is named."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import struct
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fleet import LoopDisk, MakeFleet, Node, VolumeSpec, replicated

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
OFTEN = {"audit_interval_s": 0.1}


@pytest.mark.root
@needs_root
def test_decay_is_found_by_an_audit_named_and_healed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(extra={**OFTEN, "scrub_interval_s": 0})])
    node = fleet[1]
    with LoopDisk(node.base / "disk", node.base / "image", 64 << 20) as disk:
        node.paths["photos"] = disk.path / "photos"
        fleet.start()
        fleet.wait_in_rank()
        good = disk.rot(node.path() / "large.bin")
        incident = fleet.wait_incident(node=node.name, kind="divergence", state="closed")
        assert [one["path"] for one in incident["paths"]] == ["large.bin"]
        assert "found by a scrub" in json.dumps(incident["writers"])
        fleet.wait_in_rank()
        assert (node.path() / "large.bin").read_bytes() == good
        fleet.assert_equal_trees()
        assert fleet.accused() == {node.name}
        fleet.stop()


def lie(node: Node, name: str) -> bytes:
    """While its agent is down, give a file other bytes and have the index vouch for them; what it held."""
    path, word = node.path() / name, 2**64 - 1
    good = path.read_bytes()
    path.write_bytes(bytes(reversed(good)))
    stat = path.stat()
    seen = (stat.st_size, stat.st_mtime_ns & word, stat.st_ctime_ns & word, stat.st_ino, stat.st_dev)
    with closing(sqlite3.connect(node.state_dir / "volume-photos.sqlite")) as index, index:
        done = index.execute(
            "update entries set stat = ?, settled = 1 where name = ?",
            (struct.pack("<5Q", *seen), os.fsencode(name)),
        )
        assert done.rowcount == 1
    return good


def test_a_stale_index_is_found_out_by_the_bytes_on_disk(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(extra={**OFTEN, "scrub_interval_s": 0})])
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    node.daemon.stop()
    good = lie(node, "large.bin")
    node.start()
    incident = fleet.wait_incident(node=node.name, kind="divergence", state="closed")
    assert [one["path"] for one in incident["paths"]] == ["large.bin"]
    fleet.wait_in_rank()
    assert (node.path() / "large.bin").read_bytes() == good
    fleet.assert_equal_trees()
    assert fleet.accused() == {node.name}


def test_an_agent_that_lies_is_named_fenced_and_not_released_on_its_own_word(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[VolumeSpec(extra={**OFTEN, "scrub_interval_s": 0})])
    fleet.start()
    fleet.wait_in_rank()
    node, honest = fleet[1], fleet[1].daemon.argv
    node.daemon.stop()
    good = lie(node, "large.bin")
    node.daemon.argv = [sys.executable, str(Path(__file__).with_name("tampered.py")), *honest[1:]]
    node.start()
    incident = fleet.wait_incident(node=node.name, kind="audit", state="open")
    fleet.wait_state(node.name, "quarantined")
    assert "failed an audit" in incident["summary"]
    assert fleet.api.node(node.name)["quarantine"]["release"] == "by_hand"
    assert fleet.run("incident", incident["id"]).returncode == 0
    assert fleet.api.node(node.name)["volumes"][0]["differing_paths"] == 0, "it says that all is well"

    node.daemon.argv = honest  # and now as the incident advises
    node.daemon.stop()
    for file in node.state_dir.glob("volume-photos.sqlite*"):
        file.unlink()
    node.start()
    fleet.wait(
        "the truth about it comes out", lambda: fleet.api.node(node.name)["volumes"][0],
        lambda seen: seen["differing_paths"] != 0, timeout_s=40,
    )  # fmt: skip
    assert fleet.run("resync", node.name, "--wait=60", timeout_s=70).returncode == 0
    assert (node.path() / "large.bin").read_bytes() == good
    assert fleet.run("release", node.name).returncode == 0
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == {node.name}
    seen = fleet.api.node(node.name)["volumes"][0]["last_audit"]
    fleet.wait(
        "it is audited again", lambda: fleet.api.node(node.name)["volumes"][0]["last_audit"],
        lambda at: at not in (None, seen),
    )  # fmt: skip
    assert fleet.api.incidents(state="open") == []


def test_an_honest_fleet_is_audited_while_it_is_written_to_and_nobody_is_accused(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01", extra={"audit_interval_s": 0.02})])
    fleet.start()
    fleet.wait_in_rank()
    rng = random.Random(4)
    names = [f"hot-{number}.bin" for number in range(12)]

    def proven() -> float:
        found = re.search(
            r'^closeranks_audits_total{result="proven",volume="photos"} (\S+)$',
            fleet.api.text("/metrics"),
            re.M,
        )
        return 0.0 if found is None else float(found[1])

    def write_and_count() -> float:
        (fleet[0].path() / rng.choice(names)).write_bytes(rng.randbytes(rng.choice((10, 5_000, 200_000))))
        return proven()

    fleet.wait("many proofs, while files change", write_and_count, lambda count: count > 300, timeout_s=90)
    fleet.wait_equal(fleet[0])
    assert fleet.accused() == set()
    assert fleet.api.incidents(state="open") == []
