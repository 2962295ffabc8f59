"""Nothing is lost: what converge replaces or removes can be listed and taken back."""

from __future__ import annotations

import json

import pytest

from fleet import MakeFleet

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
    assert again.returncode != 0, "a restore never overwrites"
    inside = fleet.run("trash", "restore", node.name, "photos", *identities, "--to", str(node.path() / "x"))
    assert inside.returncode != 0, "a restore never writes into a volume"


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
