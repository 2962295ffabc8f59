"""Nothing is lost: what converge replaces or removes can be listed and taken back."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack

import pytest

from fleet import MakeFleet, Tmpfs, replicated

pytestmark = pytest.mark.e2e


def test_replaced_and_removed_files_are_listed_and_restored(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.start()
    fleet.wait_in_rank()
    node = fleet[1]
    (node.path() / "large.bin").write_bytes(b"the operator's own fix")
    (node.path() / "only here.txt").write_bytes(b"precious")
    incident = fleet.wait_incident(node=node.name, state="closed")
    assert incident["files_trashed"] == 2
    listed = fleet.run("trash", "list", node.name, "photos", "--incident", incident["id"], "--json")
    assert listed.returncode == 0, listed.stderr
    answer = json.loads(listed.stdout)
    items = {item["path"]: item for item in (answer["items"] if isinstance(answer, dict) else answer)}
    assert {path: item["why"] for path, item in items.items()} == {
        "large.bin": "replaced",
        "only here.txt": "removed",
    }
    target = fleet.base / "taken back"
    identities = [item["id"] for item in items.values()]
    restored = fleet.run("trash", "restore", node.name, "photos", *identities, "--to", str(target))
    assert restored.returncode == 0, restored.stdout + restored.stderr
    found = {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {"large.bin": b"the operator's own fix", "only here.txt": b"precious"}
    fleet.wait_in_rank()
    again = fleet.run("trash", "restore", node.name, "photos", *identities, "--to", str(target))
    assert again.returncode == 0, "one that was interrupted goes on"
    edited = next(target.rglob("only here.txt"))
    edited.write_bytes(b"worked on since")
    again = fleet.run("trash", "restore", node.name, "photos", *identities, "--to", str(target))
    assert again.returncode != 0, "a restore never overwrites"
    assert "only here.txt" in again.stdout + again.stderr
    assert edited.read_bytes() == b"worked on since"
    inside = fleet.run("trash", "restore", node.name, "photos", *identities, "--to", str(node.path() / "x"))
    assert inside.returncode != 0, "a restore never writes into a volume"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_deletion_of_more_than_the_trash_may_hold_reaches_sleepers_and_those_awake(
    make_fleet: MakeFleet,
) -> None:
    """The trash is a tenth of a small disk by default. What the writer deleted gives way in it, oldest first."""
    fleet = make_fleet(nodes=4, volumes=[replicated("node-01", guards={"enabled": False})])
    album = fleet.pristine() / "trip"
    album.mkdir()
    for number in range(45):
        (album / f"IMG_{number:04}.jpg").write_bytes(os.urandom(256 << 10))
    replicas = [fleet[1], fleet[2], fleet[3]]
    with ExitStack() as stack:
        for node in replicas:
            stack.enter_context(Tmpfs(node.base / "disk", 64 << 20))
            node.paths["photos"] = node.base / "disk" / "photos"
        fleet.start()
        fleet.wait_in_rank()
        fleet.wait_equal(fleet[0])
        asleep = fleet[2]
        asleep.daemon.kill()
        shutil.rmtree(fleet[0].path() / "trip")
        awake = (fleet[1], fleet[3])
        fleet.wait(
            "it is gone where all are awake",
            lambda: [n.path() / "trip" for n in awake if (n.path() / "trip").exists()],
            lambda left: not left,
        )
        asleep.start()
        fleet.wait_equal(fleet[0])
        fleet.wait_in_rank()
        assert fleet.accused() == set()
        said = fleet.coordinator.log()
        assert "trash has no room" not in said
        assert "The trash (" not in said, "no round of it failed"
        for node in replicas:
            items = node.path() / ".closeranks" / "trash" / "items"
            held = sum(one.stat().st_size for one in items.iterdir() if one.is_file())
            assert 0 < held <= (64 << 20) // 10
        fleet.stop()


def test_diff_prints_one_line_a_path(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3)
    fleet.volumes[0].on_divergence = "alert"
    fleet.start()
    fleet.wait_in_rank()
    same = fleet.run("diff", "photos", "node-02")
    assert same.returncode == 0, same.stdout + same.stderr
    node = fleet[1]
    with (node.path() / "large.bin").open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"third chunk")
    (node.path() / "new\nline").write_bytes(b"x")
    (node.path() / "executable.sh").unlink()
    fleet.wait_state(node, "suspect")
    told = fleet.run("diff", "photos", "node-02", "--chunks")
    assert told.returncode == 1, told.stderr
    assert told.stdout.splitlines()[:-1] == [
        "- executable.sh", "# chunks 0", "* large.bin", "# chunks 2", "+ new\\nline", "# chunks 0",
    ]  # fmt: skip
    plain = fleet.run("diff", "photos", "node-02").stdout.splitlines()
    assert plain[:-1] == ["- executable.sh", "* large.bin", "+ new\\nline"]
    assert plain[-1].startswith("#")
    rows = [json.loads(line) for line in fleet.run("diff", "photos", "node-02", "--json").stdout.splitlines()]
    assert {row["path"]: row["change"] for row in rows} == {
        "large.bin": "modified",
        "new\\nline": "added",
        "executable.sh": "missing",
    }
    assert next(row for row in rows if row["path"] == "large.bin")["chunks"] == [[2, 2]]
