"""Roots of real directories, beside a second implementation that shares nothing with ours: `second_opinion`."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import second_opinion
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.plain.snapshot import How, Snapshot
from closeranks_proto.digests import algorithm_named
from closeranks_proto.limits import MIB
from closeranks_proto.tree import Summary

pytestmark = pytest.mark.skipif(second_opinion.library() is None, reason="needs Debian's libxxhash0")


def odd_names(root: Path) -> None:
    names = [
        b"a",
        b"a.b",
        b"-x",
        b" ",
        b"\xff\xfe",
        b"new\nline",
        b"back\\slash",
        b"\x1b[m",
        b"x" * 255,
        "é".encode(),
    ]
    for number, name in enumerate(names):
        (root / os.fsdecode(name)).write_bytes(bytes([number]) * number)
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/sub/link").symlink_to("../../a")
    (root / "dir/dangling").symlink_to(os.fsdecode(b"no\xffwhere"))
    (root / "dir/sub").chmod(0o2711)
    os.mkfifo(root / "dir/fifo")


def chunk_edges(root: Path) -> None:
    rng = random.Random(3)
    for size in (0, 1, 4095, 4096, 4097, 8191, 8192, 8193, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB - 1):
        (root / f"{size}").write_bytes(rng.randbytes(size))


def many_items(root: Path) -> None:
    """Several levels, and directories whose pages only their length ends."""
    for number in range(5000):
        place = root / f"{number % 7}"
        place.mkdir(exist_ok=True)
        (place / f"{number:05}").write_bytes(b"%d" % number)
    deep = root / ("d" * 250) / ("e" * 250) / ("f" * 250)
    deep.mkdir(parents=True)
    for number in range(300):
        (deep / f"{number:0250}").touch()


def holes(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(70 * MIB)
        file.seek(33 * MIB + 12345)
        file.write(b"data")
        file.truncate(70 * MIB + 7)


def nothing(root: Path) -> None:
    """Not one entry."""


def found_by_us(root: Path, how: How) -> Summary:
    snapshot = Snapshot(os.fsencode(root), how)
    try:
        return snapshot.take()
    finally:
        snapshot.close()


@pytest.mark.parametrize("least", [0, 1 << 40])
@pytest.mark.parametrize("plant", [odd_names, chunk_edges, many_items, holes, nothing])
def test_roots_of_xxh3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None], least: int
) -> None:
    """With other processes that read, and without."""
    plant(tmp_path)
    time.sleep(0.05)
    monkeypatch.setattr(scan_module, "READERS_FILES", least)
    for chunk_bytes, track in ((MIB, ("mode",)), (4096, ())):
        found = found_by_us(tmp_path, How(algorithm_named("xxh3-128"), chunk_bytes, track))
        expected = second_opinion.root_of(os.fsencode(tmp_path), "xxh3-128", chunk_bytes, bool(track))
        assert (found.root.hex(), found.entries, found.files, found.bytes) == (
            expected.root, expected.entries, expected.files, expected.bytes,
        )  # fmt: skip


@pytest.mark.skipif(shutil.which("b3sum") is None, reason="needs b3sum")
def test_roots_of_blake3(tmp_path: Path) -> None:
    odd_names(tmp_path)
    chunk_edges(tmp_path)
    time.sleep(0.05)
    found = found_by_us(tmp_path, How(algorithm_named("blake3")))
    assert found.root.hex() == second_opinion.root_of(os.fsencode(tmp_path), "blake3").root
