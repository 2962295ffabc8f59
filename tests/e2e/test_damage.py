"""Every kind of damage that a rogue can do to one node is named, fenced, repaired and proved.

One fleet serves all cases of this file: each begins and ends in rank.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from fleet import Fleet, finish

pytestmark = pytest.mark.e2e

Damage = Callable[[Path], set[bytes]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Generator[Fleet]:
    fleet = Fleet(
        tmp_path_factory.mktemp("damage"), nodes=3, fleet={"auto_release_max": 1000, "recurrence_max": 1000}
    )
    try:
        fleet.start()
        fleet.wait_in_rank()
        yield fleet
    finally:
        finish(fleet, failed=request.session.testsfailed > 0)


def modify(tree: Path) -> set[bytes]:
    with (tree / "large.bin").open("r+b") as file:
        file.seek(2_500_000)
        file.write(b"other bytes, same length")
    (tree / "dir-1" / "file-001.bin").write_bytes(b"shorter")
    return {b"large.bin", b"dir-1/file-001.bin"}


def modify_unseen_by_mtime(tree: Path) -> set[bytes]:
    """Same size, same mtime, new bytes: ctime tells."""
    path = tree / "large.bin"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"\xff\x00\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return {b"large.bin"}


def add(tree: Path) -> set[bytes]:
    (tree / "new directory" / "below").mkdir(parents=True)
    (tree / "new directory" / "below" / "file").write_bytes(b"nobody else has it")
    (tree / "zero").write_bytes(b"")
    return {b"new directory", b"new directory/below", b"new directory/below/file", b"zero"}


def delete(tree: Path) -> set[bytes]:
    names = {b"large.bin", b"empty directory", b"link to nowhere", b"not utf-8 \xff\xfe.txt"}
    (tree / "large.bin").unlink()
    (tree / "empty directory").rmdir()
    (tree / "link to nowhere").unlink()
    os.unlink(os.fsencode(tree) + b"/not utf-8 \xff\xfe.txt")
    shutil.rmtree(tree / "dir-0")
    return names | {b"dir-0"}


def change_modes(tree: Path) -> set[bytes]:
    (tree / "executable.sh").chmod(0o644)
    (tree / "dir-2").chmod(0o700)
    return {b"executable.sh", b"dir-2"}


def change_types(tree: Path) -> set[bytes]:
    """File to directory, directory to file, link to file, file to link, directory to link."""
    (tree / "large.bin").unlink()
    (tree / "large.bin").mkdir()
    (tree / "large.bin" / "inside").write_bytes(b"x")
    shutil.rmtree(tree / "dir-3")
    (tree / "dir-3").write_bytes(b"a file now")
    (tree / "link to a file").unlink()
    (tree / "link to a file").write_bytes(b"a file now")
    (tree / "empty file").unlink()
    (tree / "empty file").symlink_to("dir-1")
    (tree / "empty directory").rmdir()
    (tree / "empty directory").symlink_to("/tmp")
    return {b"large.bin", b"large.bin/inside", b"dir-3", b"link to a file", b"empty file", b"empty directory"}


def redirect_links(tree: Path) -> set[bytes]:
    (tree / "link to a file").unlink()
    (tree / "link to a file").symlink_to("dir-1/file-001.bin")
    return {b"link to a file"}


def plant_link(tree: Path) -> set[bytes]:
    """A directory replaced by a link to a directory outside: repair must not write through it."""
    outside = tree.parent / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    shutil.copytree(tree / "dir-4", outside, symlinks=True)
    for path in outside.rglob("*.bin"):
        path.write_bytes(b"must stay as it is")
    shutil.rmtree(tree / "dir-4")
    (tree / "dir-4").symlink_to(outside)
    return {b"dir-4"}


def hostile_names(tree: Path) -> set[bytes]:
    names = [
        b"-rf", b" ", b"line\nbreak", b"tab\there", b"\x1b[31mred\x1b[0m", b"\xff\xfe\xfd", b"'\"$(id)`", b"\\x41",
        b"n" * 255, b"...", b"caf\xc3\xa9", b"cafe\xcc\x81", b"CASE", b"case", b"*", b"\xe2\x80\xaeltr", b"a\\nb",
        b".closeranks-not", b"%00", b"<script>",
    ]  # fmt: skip
    top = os.fsencode(tree)
    for name in names:
        with open(top + b"/" + name, "wb") as file:
            file.write(b"contents of " + name)
    return set(names)


def long_paths(tree: Path) -> set[bytes]:
    """Relative paths of 4,095 bytes: longer than any absolute path may be."""
    named = set()
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    prefix = b""
    while len(prefix) + 256 < 4095 - 1:
        name = b"d" * 255
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        named.add(prefix + name)
        prefix += name + b"/"
    last = b"f" * (4095 - len(prefix))
    with open(os.open(last, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=descriptor), "wb") as file:
        file.write(b"deep")
    os.close(descriptor)
    return named | {prefix + last}


def many_files(tree: Path) -> set[bytes]:
    """More than fits one commit."""
    place = tree / "flood"
    place.mkdir()
    for number in range(1200):
        (place / f"{number:04}").write_bytes(b"%d" % number)
    return {b"flood", b"flood/0000"}


def sparse_file(tree: Path) -> set[bytes]:
    with (tree / "large.bin").open("r+b") as file:
        file.truncate(1000)
        file.truncate(5 << 20)
    return {b"large.bin"}


def read_only_directory(tree: Path) -> set[bytes]:
    (tree / "dir-1" / "file-001.bin").write_bytes(b"changed")
    (tree / "dir-1").chmod(0o555)
    return {b"dir-1", b"dir-1/file-001.bin"}


CASES: list[Damage] = [
    modify, modify_unseen_by_mtime, add, delete, change_modes, change_types, redirect_links, plant_link,
    hostile_names, long_paths, many_files, sparse_file, read_only_directory,
]  # fmt: skip


@pytest.mark.parametrize("damage", CASES, ids=lambda case: case.__name__)
def test_damage_is_named_fenced_and_undone(fleet: Fleet, damage: Damage) -> None:
    node = fleet[CASES.index(damage) % len(fleet.nodes)]
    before = {incident["id"] for incident in fleet.api.incidents()}
    expected = damage(node.path())

    def closed() -> list[dict[str, object]]:
        found = [i for i in fleet.api.incidents() if i["id"] not in before and i["node"] == node.name]
        return [i for i in found if i["kind"] in ("divergence", "regression") and i["state"] == "closed"]

    incident = fleet.wait(f"an incident about {node.name}, opened and closed", closed)[0]
    paths = incident["paths"]
    assert isinstance(paths, list)
    named = {base64.b64decode(path["path_b64"]) for path in paths}
    assert expected - named == set()
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    fresh = [i for i in fleet.api.incidents() if i["id"] not in before]
    assert {i["node"] for i in fresh} == {node.name}, "nobody else is accused"
    outside = node.path().parent / "outside"
    for path in outside.rglob("*.bin"):
        assert path.read_bytes() == b"must stay as it is", "nothing outside the volume is touched"
