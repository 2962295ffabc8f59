from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from closeranks_agent.disk import listing
from closeranks_agent.disk.listing import Look, beside, digest_of, look, state_of, statuses


@pytest.fixture
def fd(tree_dir: Path) -> Iterator[int]:
    (tree_dir / "d").mkdir()
    (tree_dir / "f").write_bytes(b"x")
    (tree_dir / "l").symlink_to("f")
    found = os.open(tree_dir, os.O_RDONLY | os.O_DIRECTORY)
    yield found
    os.close(found)


def seen(fd: int) -> Look:
    return look(fd, ".closeranks", with_ctime=False)


def test_two_looks_at_an_unchanged_directory_are_equal(fd: int) -> None:
    assert seen(fd).digest == seen(fd).digest


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new name": lambda tree: (tree / "new").touch(),
    "a name gone": lambda tree: (tree / "f").unlink(),
    "a name changed": lambda tree: (tree / "f").rename(tree / "g"),
    "other bytes": lambda tree: (tree / "f").write_bytes(b"yy"),
    "a file's mode": lambda tree: (tree / "f").chmod(0o600),
    "a directory's mode": lambda tree: (tree / "d").chmod(0o700),
    "another kind": lambda tree: ((tree / "d").rmdir(), (tree / "d").touch()),
    "another link": lambda tree: ((tree / "l").unlink(), (tree / "l").symlink_to("d")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_gives_another_digest(fd: int, tree_dir: Path, name: str) -> None:
    before = seen(fd).digest
    CHANGES[name](tree_dir)
    assert seen(fd).digest != before


def test_what_happens_inside_a_directory_is_not_its_parents_matter(fd: int, tree_dir: Path) -> None:
    before = seen(fd).digest
    (tree_dir / "d" / "x").touch()
    (tree_dir / ".closeranks").mkdir()
    assert seen(fd).digest == before
    assert look(fd, ".closeranks", with_ctime=True).digest != before


@pytest.mark.parametrize("block_entries", [1, 2, 3, 512])
def test_states_that_others_took_give_the_digest_of_a_look(
    fd: int, monkeypatch: pytest.MonkeyPatch, block_entries: int
) -> None:
    monkeypatch.setattr(listing, "BLOCK_ENTRIES", block_entries)
    with os.scandir(fd) as entries:
        states = [(entry.name, state_of(entry.stat(follow_symlinks=False))) for entry in entries]
    assert len(states) == 3
    assert digest_of(states) == seen(fd).digest


def test_names_come_ascending_with_their_status(fd: int, tree_dir: Path) -> None:
    (tree_dir / "a.b").touch()
    (tree_dir / os.fsdecode(b"\xff")).touch()
    found = seen(fd)
    assert found.directories == [b"d"]
    assert [name for name, _ in statuses(fd, found, ".closeranks")] == [b"a.b", b"d", b"f", b"l", b"\xff"]


def test_a_long_directory_is_listed_again_instead_of_kept(
    fd: int, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = list(statuses(fd, seen(fd), None))
    digest = seen(fd).digest
    monkeypatch.setattr(listing, "KEEP_ENTRIES", 0)
    monkeypatch.setattr(listing, "BLOCK_ENTRIES", 1)
    found = seen(fd)
    assert found.stats is None
    assert [name for name, _ in statuses(fd, found, None)] == [name for name, _ in short]
    monkeypatch.setattr(listing, "BLOCK_ENTRIES", 512)
    assert seen(fd).digest == digest


def test_names_and_rows_are_merged_in_order() -> None:
    from closeranks_agent.disk.rows import Row

    status = os.stat("/")
    rows = [Row(name, b"", b"", True) for name in (b"a", b"c", b"d", b"x")]
    found = beside(iter([(b"b", status), (b"c", status), (b"e", status)]), iter(rows))
    merged = [(name, here is not None, row is not None) for name, here, row in found]
    assert merged == [
        (b"a", False, True), (b"b", True, False), (b"c", True, True), (b"d", False, True), (b"e", True, False),
        (b"x", False, True),
    ]  # fmt: skip
