"""Swaps that somebody interferes with: no version is thrown away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from closeranks_agent import beneath
from closeranks_agent.converge import swap
from closeranks_agent.converge.items import Discard
from closeranks_agent.converge.swap import Spot, Surprise, Taken, move_within, swap_in
from closeranks_agent.converge.workroom import Workroom
from closeranks_agent.disk import taken
from closeranks_proto.entries import Kind


class Scene:
    """A tree with the file `name`, a staged entry `staged`, and a trash."""

    def __init__(self, base: Path) -> None:
        self.tree, self.stage, self.trash, self.items = (
            base / n for n in ("tree", "stage", "trash", "items")
        )
        for place in (self.tree, self.stage, self.trash, self.items):
            place.mkdir()
        (self.tree / "name").write_bytes(b"old")
        fds = [os.open(p, os.O_RDONLY) for p in (self.tree, self.stage, self.trash, self.items)]
        self.room = Workroom(*fds, taken.Taken())
        self.where = Spot(fds[0], b"name")

    def taken(self) -> Taken:
        status = os.stat(self.tree / "name")
        return Taken(
            b"item",
            Discard(
                b"name",
                Kind.FILE,
                status.st_size,
                4096,
                0o644,
                status.st_mtime_ns,
                status.st_ino,
                "replaced",
                b"",
            ),
        )

    def versions(self) -> set[bytes]:
        """Every content that is in the tree or in the trash."""
        return {
            path.read_bytes()
            for place in (self.tree, self.items)
            for path in place.iterdir()
            if path.is_file()
        }


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.room.close()


def test_a_newer_version_renamed_in_the_middle_stays_and_nothing_is_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene.stage / "staged").write_bytes(b"ours")
    taken = scene.taken()
    (scene.tree / "name").write_bytes(b"changed in place")
    real, calls = beneath.exchange, []

    def exchange(one: bytes, one_fd: int, other: bytes, other_fd: int) -> bool:
        if len(calls) == 1:  # before the swap back
            (scene.tree / "theirs").write_bytes(b"newest")
            os.rename(scene.tree / "theirs", scene.tree / "name")
        calls.append(one)
        return real(one, one_fd, other, other_fd)

    monkeypatch.setattr(swap.beneath, "exchange", exchange)
    with pytest.raises(Surprise):
        swap_in(b"staged", scene.room, scene.where, taken)
    assert (scene.tree / "name").read_bytes() == b"newest"
    assert scene.versions() == {b"newest", b"changed in place"}


def test_without_exchange_a_failed_rename_does_not_drop_the_last_link(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene.stage / "staged").mkdir()
    monkeypatch.setattr(swap.beneath, "exchange", lambda *_: False)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(swap.os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        swap_in(b"staged", scene.room, scene.where, scene.taken())
    assert scene.versions() == {b"old"}


def test_a_move_takes_the_file_that_was_seen_to_its_new_name(scene: Scene) -> None:
    seen = os.stat(scene.tree / "name")
    move_within(scene.where, Spot(scene.where.parent_fd, b"new"), seen)
    assert sorted(os.listdir(scene.tree)) == ["new"]


def test_a_move_never_replaces_and_leaves_everything_in_place(scene: Scene) -> None:
    (scene.tree / "new").write_bytes(b"somebody's")
    with pytest.raises(Surprise):
        move_within(scene.where, Spot(scene.where.parent_fd, b"new"), os.stat(scene.tree / "name"))
    assert scene.versions() == {b"old", b"somebody's"}
    assert (scene.tree / "name").read_bytes() == b"old"


def test_what_was_slipped_under_the_old_name_goes_back_there(scene: Scene) -> None:
    seen = os.stat(scene.tree / "name")
    (scene.tree / "other").write_bytes(b"newer")
    os.rename(scene.tree / "other", scene.tree / "name")
    with pytest.raises(Surprise):
        move_within(scene.where, Spot(scene.where.parent_fd, b"new"), seen)
    assert os.listdir(scene.tree) == ["name"]
    assert (scene.tree / "name").read_bytes() == b"newer"
