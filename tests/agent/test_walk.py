from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from closeranks_agent.disk import walk
from closeranks_agent.disk.walk import Walk
from closeranks_proto.paths import path_of


class Recording:
    """Enters every directory and remembers the order; `at` is called in each."""

    def __init__(self, at: Callable[[bytes], None] = lambda key: None) -> None:
        self.keys: list[bytes] = []
        self.failed: dict[bytes, OSError] = {}
        self._at = at

    def directory(self, key: bytes, fd: int) -> Sequence[bytes]:
        self.keys.append(key)
        with os.scandir(fd) as entries:
            names = sorted(
                os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)
            )
        self._at(key)
        return names

    def closed(self, key: bytes, error: OSError) -> None:
        self.failed[key] = error


@pytest.fixture
def root_fd(tree_dir: Path) -> Iterator[int]:
    fd = os.open(tree_dir, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_directories_come_in_the_order_of_keys(tree_dir: Path, root_fd: int) -> None:
    for name in ("b", "a.b/c", "a/x", "a/b/c"):
        (tree_dir / name).mkdir(parents=True)
    seen = Recording()
    Walk(root_fd, seen).run()
    assert seen.keys == [b"", b"a", b"a\0b", b"a\0b\0c", b"a\0x", b"a.b", b"a.b\0c", b"b"]
    assert seen.keys == sorted(seen.keys)


def test_a_directory_that_became_a_symlink_is_not_entered(tree_dir: Path, root_fd: int) -> None:
    (tree_dir / "a").mkdir()
    (tree_dir / "b").mkdir()

    def plant(key: bytes) -> None:
        if key == b"a":
            (tree_dir / "b").rmdir()
            (tree_dir / "b").symlink_to("/etc")

    seen = Recording(plant)
    Walk(root_fd, seen).run()
    assert seen.keys == [b"", b"a"]
    assert list(seen.failed) == [b"b"]


def test_all_descriptors_are_closed_even_after_an_exception(tree_dir: Path, root_fd: int) -> None:
    (tree_dir / "a" / "b" / "c").mkdir(parents=True)

    def fail(key: bytes) -> None:
        if key == b"a\0b\0c":
            raise RuntimeError("enough")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError, match="enough"):
        Walk(root_fd, Recording(fail)).run()
    assert len(os.listdir("/proc/self/fd")) == before


def make_chain(root_fd: int, depth: int, *, leaves: Sequence[bytes]) -> None:
    """`depth` directories of one letter in each other, each with the given subdirectories besides."""
    here = os.dup(root_fd)
    for _ in range(depth):
        for name in (b"m", *leaves):
            os.mkdir(name, dir_fd=here)
        deeper = os.open(b"m", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


def test_two_thousand_levels_need_few_descriptors(tree_dir: Path, root_fd: int) -> None:
    depth = 2047
    make_chain(root_fd, depth, leaves=[b"z"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + walk.OPEN_MAX + 16, hard))
    seen = Recording()
    try:
        Walk(root_fd, seen).run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        subprocess.run(
            ["rm", "-rf", str(tree_dir / "m")], check=True
        )  # too deep for Python's and pytest's own
    assert not seen.failed
    assert len(seen.keys) == 1 + 2 * depth
    assert max(len(path_of(key)) for key in seen.keys) == 2 * depth - 1


def test_a_directory_moved_away_during_the_walk_leads_nowhere_else(
    tree_dir: Path, root_fd: int, tmp_path: Path
) -> None:
    make_chain(root_fd, 60, leaves=[b"z"])
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "z").mkdir()
    moved = b"\0".join([b"m"] * 10)

    def move(key: bytes) -> None:
        if len(key) == 2 * 60 - 1 and key.endswith(
            b"m"
        ):  # the innermost: its ancestors' descriptors are closed
            os.rename(os.fsdecode(os.fsencode(tree_dir) + b"/" + path_of(moved)), outside / "taken")

    seen = Recording(move)
    Walk(root_fd, seen).run()
    # What was closed and moved can not be found again; above it the walk goes on.
    assert b"z" in seen.keys
    assert all(not key.endswith(b"taken") for key in seen.keys)


@pytest.mark.root
def test_another_filesystem_is_not_entered(tree_dir: Path, root_fd: int) -> None:
    from fleet.tmpfs import Tmpfs

    with Tmpfs(tree_dir / "mounted", 1 << 20):
        (tree_dir / "mounted" / "inner").mkdir()
        seen = Recording()
        Walk(root_fd, seen).run()
    assert seen.keys == [b""]
    assert list(seen.failed) == [b"mounted"]
