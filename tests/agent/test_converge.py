"""Converge between real directories: the target is reached, nothing is lost, little is moved."""

from __future__ import annotations

import gc
import mmap
import os
import weakref
from pathlib import Path

import pytest

from closeranks_agent.chunks import inflow
from peers_in_process import CHUNK, contents_below, describe, fill, nodes_in


def blob(seed: int, size: int) -> bytes:
    return (seed.to_bytes(4, "big") * (size // 4 + 1))[:size]


async def test_a_rogue_nodes_damage_is_undone_and_kept_in_the_trash(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        tree = {
            "a/one": b"1" * 100,
            "a/two": os.urandom(3 * CHUNK),
            "b": b"",
            "c/d/e": b"deep",
            "empty": None,
        }
        for name in ("n1", "n2", "n3"):
            (tmp_path / name).mkdir()
            fill(tmp_path / name, tree)
        for name in ("n1", "n2", "n3"):
            await nodes.add(name)
        assert nodes.root("n1") == nodes.root("n2")
        rogue = tmp_path / "n3"
        damaged = bytearray(tree["a/two"])
        damaged[CHUNK + 5] ^= 255
        (rogue / "a/two").write_bytes(damaged)
        (rogue / "a/one").unlink()
        (rogue / "new/dir").mkdir(parents=True)
        (rogue / "new/dir/file").write_bytes(b"rogue")
        (rogue / "b").chmod(0o600)
        await nodes.scan("n3")
        nodes.fence("n3")
        assert nodes.root("n1") != nodes.root("n3")
        result = await nodes.converge("n3", "n1")
        assert (result.state, result.detail, result.problem) == ("done", "", None)
        assert result.root == nodes.root("n1") == nodes.root("n3")
        assert describe(rogue) == describe(tmp_path / "n1")
        assert result.bytes_moved == CHUNK + 100
        kept = contents_below(rogue / ".closeranks/trash/items")
        assert bytes(damaged) in kept
        assert b"rogue" in kept
        items, cursor = nodes.converger("n3").trash.items("", 100, "")
        assert cursor is None
        assert {(item.key, item.why, item.kind) for item in items} == {
            (b"a\0two", "replaced", "file"),
            (b"new\0dir\0file", "removed", "file"),
            (b"new\0dir", "removed", "directory"),
            (b"new", "removed", "directory"),
        }
        assert os.listdir(rogue / ".closeranks/stage") == []
        await nodes.scan("n3")
        assert nodes.root("n3") == nodes.root("n1")
        verified = await nodes.verify("n3")
        assert verified.root == nodes.root("n1")
        assert verified.reread_files == 3
        assert verified.detail == ""


async def test_a_dry_run_names_the_steps_and_changes_nothing(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        (tmp_path / "n1").mkdir()
        (tmp_path / "n2").mkdir()
        fill(tmp_path / "n1", {"same": b"s", "gone": b"g" * 10, "dir/x": b"x"})
        fill(tmp_path / "n2", {"same": b"s", "extra": b"e"})
        await nodes.add("n1")
        await nodes.add("n2")
        before = describe(tmp_path / "n2"), sorted(os.walk(tmp_path / "n2"))
        result = await nodes.converge("n2", "n1", dry_run=True)
        assert [(step.verb, step.key, step.fetch_bytes) for step in result.plan] == [
            ("remove", b"extra", 0),
            ("make_directory", b"dir", 0),
            ("fetch", b"dir\0x", 1),
            ("fetch", b"gone", 10),
        ]
        assert (result.plan_steps, result.plan_bytes) == (4, 11)
        assert (describe(tmp_path / "n2"), sorted(os.walk(tmp_path / "n2"))) == before


async def test_a_joining_node_gets_everything_from_several_peers(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        tree = {f"d{at % 7}/f{at}": blob(at, 40 + at * 37 % 9000) for at in range(600)}
        tree["large"] = os.urandom(20 * CHUNK + 17)
        for name in ("n1", "n2"):
            (tmp_path / name).mkdir()
            fill(tmp_path / name, tree)
            await nodes.add(name)
        await nodes.add("n3")
        result = await nodes.converge("n3", "n1", incident="")
        assert result.state == "done", result
        assert describe(tmp_path / "n3") == describe(tmp_path / "n1")
        total = sum(len(content) for content in tree.values())
        assert total <= result.bytes_moved <= 1.1 * total
        assert set(nodes.nodes["n1"].served) == set(nodes.nodes["n2"].served) == {"n3"}
        phases = [one.phase for one in nodes.progress]
        assert "fetch" in phases
        assert nodes.progress[-1].bytes_remaining == 0


async def test_the_memory_for_chunks_goes_with_its_converge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when Python next looks for circles: repairs one after the other took 4 MB each until then."""
    made: list[weakref.ref[mmap.mmap]] = []
    real = inflow.aligned

    def noted(length: int) -> memoryview:
        view = real(length)
        made.append(weakref.ref(view.obj))
        return view

    monkeypatch.setattr(inflow, "aligned", noted)
    async with nodes_in(tmp_path) as nodes:
        await nodes.add("n1")
        await nodes.add("n2")
        gc.collect()
        gc.disable()
        try:
            for name in ("first", "second"):
                fill(tmp_path / "n1", {name: os.urandom(3 << 20)})
                await nodes.scan("n1")
                assert (await nodes.converge("n2", "n1")).state == "done"
            assert made
            assert [one() for one in made] == [None] * len(made)
        finally:
            gc.enable()
