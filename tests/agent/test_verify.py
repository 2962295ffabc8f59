"""The proof: what was written is read from disk again, and an error is not a pass."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.disk.volume import Volume
from peers_in_process import CHUNK, Nodes, fill, nodes_in


async def repaired(nodes: Nodes, tmp_path: Path) -> None:
    fill(tmp_path / "n1", {"f": b"truth" * 1000, "large": os.urandom(3 * CHUNK), "d/g": b"g"})
    fill(tmp_path / "n2", {"f": b"damage"})
    await nodes.add("n1")
    await nodes.add("n2")
    assert (await nodes.converge("n2", "n1")).state == "done"


async def test_it_reads_again_all_that_every_converge_of_the_incident_wrote(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await repaired(nodes, tmp_path)
        (tmp_path / "n2/f").write_bytes(b"again")
        await nodes.scan("n2")
        await nodes.converge("n2", "n1")
        result = await nodes.verify("n2")
        assert (result.root, result.detail, result.probes_ok) == (nodes.root("n1"), "", True)
        assert (result.reread_files, result.reread_bytes) == (3, 5000 + 3 * CHUNK + 1)
        other = await nodes.verify("n2", incident="another")
        assert other.reread_files == 0


async def test_bytes_that_changed_behind_an_unchanged_stat_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        await repaired(nodes, tmp_path)
        path = tmp_path / "n2/f"
        status = os.stat(path)
        path.write_bytes(b"flips" * 1000)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        result = await nodes.verify("n2")
        assert result.root == nodes.root("n2") != nodes.root("n1")


async def test_what_can_not_be_read_again_gives_no_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        await repaired(nodes, tmp_path)
        inner = Volume.read_open

        def failing(self: Volume, key: bytes, *more: Any) -> object:
            if key == b"large":
                raise OSError(5, "Input/output error")
            return inner(self, key, *more)

        monkeypatch.setattr(Volume, "read_open", failing)
        result = await nodes.verify("n2")
        assert result.root is None
        assert result.detail == "1 paths could not be read again: large: Input/output error"


async def test_a_root_that_is_gone_gives_no_root_and_says_why(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await repaired(nodes, tmp_path)
        os.rename(tmp_path / "n2", tmp_path / "moved")
        result = await nodes.verify("n2")
        assert result.root is None
        assert result.detail
        converged = await nodes.converge("n2", "n1")
        assert converged.state == "failed"
        assert converged.problem is not None
        assert converged.problem.code == "not_mounted"
        assert not (tmp_path / "n2").exists()
