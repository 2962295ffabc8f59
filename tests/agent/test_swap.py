"""Swaps that somebody interferes with: no version is thrown away."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from closeranks_agent import beneath
from closeranks_agent.converge import swap
from closeranks_agent.converge.items import Discard, discard_of
from closeranks_agent.converge.swap import (
    NoExchange,
    NotEmpty,
    Spot,
    Surprise,
    Taken,
    move_within,
    swap_in,
    take_out,
)
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


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a filesystem that can not exchange two names."""
    monkeypatch.setattr(swap.beneath, "exchange", lambda *_: False)


def between(monkeypatch: pytest.MonkeyPatch, where: Path, content: bytes) -> None:
    """Somebody takes the name in the moment in which it is free: before it is given back."""
    real, calls = beneath.move_new, []

    def move_new(old: bytes, old_fd: int, new: bytes, new_fd: int) -> None:
        calls.append(old)
        if len(calls) == 2:
            where.write_bytes(content)
        real(old, old_fd, new, new_fd)

    monkeypatch.setattr(swap.beneath, "move_new", move_new)


def test_what_was_taken_out_and_is_not_what_was_seen_goes_back(scene: Scene) -> None:
    seen = scene.taken()
    (scene.tree / "name").write_bytes(b"changed in place")
    with pytest.raises(Surprise):
        take_out(scene.room, scene.where, seen)
    assert (scene.tree / "name").read_bytes() == b"changed in place"
    assert os.listdir(scene.items) == []


def test_what_can_not_go_back_to_its_name_stays_an_item(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scene.taken()
    (scene.tree / "name").write_bytes(b"changed in place")
    between(monkeypatch, scene.tree / "name", b"newest")
    with pytest.raises(Surprise):
        take_out(scene.room, scene.where, seen)
    assert scene.versions() == {b"changed in place", b"newest"}
    assert (scene.tree / "name").read_bytes() == b"newest"


def test_what_moved_and_can_go_neither_way_stays_for_a_scan_to_find(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = os.stat(scene.tree / "name")
    (scene.tree / "other").write_bytes(b"newer")
    os.rename(scene.tree / "other", scene.tree / "name")
    between(monkeypatch, scene.tree / "name", b"newest")
    with pytest.raises(Surprise):
        move_within(scene.where, Spot(scene.where.parent_fd, b"new"), seen)
    assert scene.versions() == {b"newer", b"newest"}


@pytest.mark.parametrize("taken_again", [False, True])
def test_a_new_entry_that_somebody_removes_at_once_gives_the_old_one_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, taken_again: bool
) -> None:
    """The old one returns to its name; where somebody has that by then, it is kept as an item."""
    (scene.stage / "staged").write_bytes(b"ours")
    seen = scene.taken()
    (scene.tree / "name").write_bytes(b"changed in place")
    real, calls = beneath.exchange, []

    def exchange(*names: object) -> bool:
        calls.append(names)
        if len(calls) == 1:
            return real(*names)  # type: ignore[arg-type]
        os.unlink(scene.tree / "name")
        if taken_again:
            move = beneath.move_new

            def late(*to: object) -> None:
                if not (scene.tree / "name").exists():
                    (scene.tree / "name").write_bytes(b"newest")
                move(*to)  # type: ignore[arg-type]

            monkeypatch.setattr(swap.beneath, "move_new", late)
        raise FileNotFoundError

    monkeypatch.setattr(swap.beneath, "exchange", exchange)
    with pytest.raises(Surprise):
        swap_in(b"staged", scene.room, scene.where, seen)
    assert scene.versions() == {b"changed in place"} | ({b"newest"} if taken_again else set())
    assert os.listdir(scene.stage) == []


def test_a_directory_that_became_a_file_is_a_surprise_and_leaves_no_item(scene: Scene) -> None:
    seen = scene.taken()
    directory = Taken(seen.item, replace(seen.discard, kind=Kind.DIRECTORY))
    with pytest.raises(Surprise):
        take_out(scene.room, scene.where, directory)
    assert scene.versions() == {b"old"}
    assert os.listdir(scene.items) == []


def test_a_directory_that_holds_something_stays(scene: Scene) -> None:
    os.mkdir(scene.tree / "d")
    (scene.tree / "d/own").write_bytes(b"own")
    seen = scene.taken()
    with pytest.raises(NotEmpty):
        take_out(
            scene.room,
            Spot(scene.where.parent_fd, b"d"),
            Taken(seen.item, replace(seen.discard, kind=Kind.DIRECTORY)),
        )
    assert (scene.tree / "d/own").read_bytes() == b"own"
    assert os.listdir(scene.items) == []


def test_without_exchange_the_old_file_is_an_item_when_the_new_one_has_its_name(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    (scene.stage / "staged").write_bytes(b"ours")
    swap_in(b"staged", scene.room, scene.where, scene.taken())
    assert (scene.tree / "name").read_bytes() == b"ours"
    assert (scene.items / "item").read_bytes() == b"old"


def test_without_exchange_and_links_nothing_is_replaced(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(swap.os, "link", link)
    (scene.stage / "staged").write_bytes(b"ours")
    with pytest.raises(NoExchange):
        swap_in(b"staged", scene.room, scene.where, scene.taken())
    assert (scene.tree / "name").read_bytes() == b"old"


def test_without_exchange_what_was_changed_meanwhile_stays_and_is_no_item(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    (scene.stage / "staged").write_bytes(b"ours")
    seen = scene.taken()
    (scene.tree / "name").write_bytes(b"changed in place")
    with pytest.raises(Surprise):
        swap_in(b"staged", scene.room, scene.where, seen)
    assert (scene.tree / "name").read_bytes() == b"changed in place"
    assert os.listdir(scene.items) == []


@pytest.mark.parametrize("somebodys", [False, True])
def test_without_exchange_a_rename_that_fails_leaves_no_second_link(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, somebodys: bool
) -> None:
    """Where somebody has replaced the name meanwhile, the item is the last link: it stays."""
    refuse(monkeypatch)
    (scene.stage / "staged").write_bytes(b"ours")
    rename = os.rename

    def full(*_: object, **__: object) -> None:
        if somebodys:
            (scene.tree / "theirs").write_bytes(b"newest")
            rename(scene.tree / "theirs", scene.tree / "name")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(swap.os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        swap_in(b"staged", scene.room, scene.where, scene.taken())
    assert scene.versions() == ({b"old", b"newest"} if somebodys else {b"old"})
    assert os.listdir(scene.items) == (["item"] if somebodys else [])
    assert os.stat(scene.items / "item" if somebodys else scene.tree / "name").st_nlink == 1


@pytest.mark.parametrize("other", ["inode", "size", "time", "kind"])
def test_what_was_taken_out_is_known_by_all_that_a_rename_leaves_alone(scene: Scene, other: str) -> None:
    seen, status = scene.taken().discard, os.stat(scene.tree / "name")
    assert swap.is_what_was_seen(status, seen)
    changed = {
        "inode": replace(seen, inode=seen.inode + 1),
        "size": replace(seen, size=seen.size + 1),
        "time": replace(seen, mtime_ns=seen.mtime_ns + 1),
        "kind": replace(seen, kind=Kind.DIRECTORY),
    }
    assert not swap.is_what_was_seen(status, changed[other])


def test_without_exchange_an_empty_directory_gives_way_to_the_file_that_is_staged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    os.mkdir(scene.tree / "d")
    (scene.stage / "staged").write_bytes(b"ours")
    seen = discard_of(b"d", os.stat(scene.tree / "d"), "replaced", b"", b"staged")
    swap_in(b"staged", scene.room, Spot(scene.where.parent_fd, b"d"), Taken(b"item", seen))
    assert (scene.tree / "d").read_bytes() == b"ours"
    assert (os.listdir(scene.stage), os.path.isdir(scene.items / "item")) == ([], True)
