"""Paths that go and come back: files that are altered by whatever steps are altered, and what is put back is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from braked import (
    FILES,
    KEYS,
    LINK,
    NODES,
    TREE,
    Writer,
    a_world,
    commit,
    guards_that_hold,
    some,
    truth,
    without,
)
from closeranks_coordinator.core import windows
from closeranks_coordinator.core.sprees import HANDFUL
from closeranks_coordinator.core.windows import Shares
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from fakeworld import FakeWorld, file_of, key_of

Disk = dict[bytes, bytes]
Step = Callable[[Disk, list[bytes]], None]  # what is done to these files, and committed


def beside(suffix: bytes) -> tuple[Step, Step]:
    """To another name, and back from there."""

    def away(disk: Disk, keys: list[bytes]) -> None:
        for key in keys:
            disk[key + suffix] = disk.pop(key)

    def back(disk: Disk, keys: list[bytes]) -> None:
        for key in keys:
            disk[key] = disk.pop(key + suffix)

    return away, back


def write(disk: Disk, keys: list[bytes]) -> None:
    for key in keys:
        disk[key] = file_of(f"other {key!r}")


def write_beside(disk: Disk, keys: list[bytes]) -> None:
    write(disk, [key + b".bak" for key in keys])


def shut_beside(disk: Disk, keys: list[bytes]) -> None:
    for key in keys:
        disk[key + b".bak"] = encode_entry(replace(decode_entry(disk[key + b".bak"], 16), mode=0))


def copy(disk: Disk, keys: list[bytes]) -> None:
    for key in keys:
        disk[key + b".bak"] = disk[key]


def copy_back(disk: Disk, keys: list[bytes]) -> None:
    for key in keys:
        disk[key] = disk[key + b".bak"]


def link(disk: Disk, keys: list[bytes]) -> None:
    for key in keys:
        disk[key] = LINK


def move_to_neighbour(disk: Disk, keys: list[bytes]) -> None:
    """The first has gone: each takes the place of the one before."""
    for key, after in pairwise(keys):
        disk[key] = disk.pop(after)


def take_the_last_place(disk: Disk, keys: list[bytes]) -> None:
    disk[keys[-1]] = disk.pop(keys[0] + b".bak")


def away_first(disk: Disk, keys: list[bytes]) -> None:
    disk[keys[0] + b".bak"] = disk.pop(keys[0])


def remove(disk: Disk, keys: list[bytes]) -> None:
    for key in keys:
        del disk[key]


AWAY, BACK = beside(b".bak")
# steps of a rewriter, each a commit; the guard that holds it, most files that may be damaged elsewhere by then
REWRITERS: dict[str, tuple[tuple[Step, ...], str, int]] = {
    "mv f f.bak; a new f": ((AWAY, write), "changed_share", HANDFUL),
    "mv f f.bak; cp f.bak f; f is written": ((AWAY, copy_back, write), "changed_share", HANDFUL),
    "cp f f.bak; f is written": ((copy, write), "changed_share", HANDFUL),
    "mv f f.bak; f.bak is written; mv f.bak f": ((AWAY, write_beside, BACK), "changed_share", HANDFUL),
    "mv f f.bak; chmod 0 f.bak; mv f.bak f": ((AWAY, shut_beside, BACK), "changed_share", HANDFUL),
    "mv f f.bak; ln -s f": ((AWAY, link), "type_changes", HANDFUL),
    "five contents change places": (
        (away_first, move_to_neighbour, take_the_last_place),
        "changed_share",
        HANDFUL,
    ),
    "a copy f.bak is written; rm f": ((write_beside, remove), "deleted_share", 0),
}


def damaged(world: FakeWorld) -> int:
    """Files that another node has with other content, or not at all."""
    count = 0
    for disk in (world[node].disk["photos"] for node in NODES[1:]):
        count = max(count, sum(disk.get(key) not in (None, TREE[key]) for key in KEYS))
        kept = set(disk.values())
        count = max(count, sum(key not in disk and TREE[key] not in kept for key in KEYS))
    return count


@pytest.mark.parametrize("name", list(REWRITERS))
def test_who_rewrites_files_by_steps_is_held_and_spreads_a_handful(name: str) -> None:
    """Five at a time: each commit is a rename, or makes new files, and 300 of 300 files had gone to everybody."""
    steps, guard, most = REWRITERS[name]
    world = a_world()
    disk = world["n1"].disk["photos"]
    for start in range(0, len(KEYS), 5):
        for step in steps:
            step(disk, KEYS[start : start + 5])
            commit(world)
            world.run(0.2)
        if guards_that_hold(world):
            break
    world.run(20.0)
    assert guards_that_hold(world) == [guard]
    assert damaged(world) <= most
    assert guard != "changed_share" or len(KEYS) / 2 <= start < len(KEYS) * 0.52, (
        "at the half, copies left out"
    )


def test_what_goes_away_and_comes_back_as_it_was_flows() -> None:
    """All of it into a directory and out again."""
    world = a_world()
    disk = world["n1"].disk["photos"]
    disk[key_of("aside")] = TREE[key_of("d0")]
    for step in beside(b"-aside"):
        for start in range(0, len(KEYS), 100):
            step(disk, KEYS[start : start + 100])
            commit(world)
            world.run(0.2)
        world.run(10.0)
        assert not guards_that_hold(world)
        assert truth(world) == disk


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_logs_that_are_rotated_and_a_file_saved_by_rename_flow(pause_s: float) -> None:
    """Forty logs, each moved away and begun anew; an editor that keeps f~: each a lone change, or a few at once."""
    world = a_world()
    disk = world["n1"].disk["photos"]
    for key in KEYS[:40]:
        AWAY(disk, [key])
        commit(world)
        world.run(pause_s)
        disk[key] = file_of("", size=0)
        commit(world)
        world.run(pause_s)
    world.run(1.5)
    assert not guards_that_hold(world)
    assert truth(world) == disk
    world.run(60.0)
    AWAY(disk, KEYS[100:101])
    write(disk, KEYS[100:101])
    commit(world)
    assert truth(world) == disk, "a file that is saved is spread in the step of its commit"


# --- what a meter makes of it ---------------------------------------------------------------------


def test_a_path_that_comes_back_with_other_content_is_altered_once() -> None:
    writer = Writer()
    keys = some(writer.truth, 30)
    away = without(writer.truth, keys) | {key + b".bak": writer.truth[key] for key in keys}
    writer.commit(away)
    assert (writer.lost, writer.altered) == (0, 0)
    for version in range(3):
        writer.commit(away | {key: file_of(f"{version} {key!r}") for key in keys})
        assert (writer.lost, writer.altered) == (0, 30)
        assert len(writer.truth) == FILES + 30
        assert writer.meter.shares.others(writer.now) == FILES, "by their copies it is no larger"
    writer.commit(away)
    assert (writer.lost, writer.altered) == (0, 0), "what is gone is not changed"


def test_a_path_that_comes_back_as_it_was_is_not_altered_and_not_new() -> None:
    writer = Writer()
    old, keys = dict(writer.truth), some(writer.truth, 30)
    copies = {key + b".bak": old[key] for key in keys}
    writer.commit(without(old, keys) | copies)
    writer.commit(old | copies)
    assert writer.altered == 0
    writer.commit(old | copies | {key: file_of(f"other {key!r}") for key in keys})
    assert (writer.altered, writer.meter.altering.count) == (30, 30), "nobody made these files lately"


def test_what_came_back_and_went_before_it_was_let_through_is_undone() -> None:
    writer = Writer()
    keys = some(writer.truth, 30)
    away = without(writer.truth, keys) | {key + b".bak": writer.truth[key] for key in keys}
    writer.commit(away)
    writer.commit(away | dict.fromkeys(keys, LINK), let_through=False)
    assert (writer.altered, writer.meter.shares.retyped(writer.now)) == (30, 30)
    assert writer.meter.retyping.waiting == 30
    writer.commit(away, let_through=False)
    assert (writer.lost, writer.altered, writer.meter.shares.retyped(writer.now)) == (0, 0, 0)
    assert (writer.meter.altering.count, writer.meter.retyping.waiting) == (0, 0)


def test_a_removal_that_was_undone_leaves_nothing_to_come_back_to() -> None:
    writer = Writer()
    old, keys = dict(writer.truth), some(writer.truth, 30)
    writer.commit(without(old, keys), let_through=False)
    writer.commit(old, let_through=False)
    assert [writer.meter.shares.former(key) for key in keys] == [0] * 30


def test_a_file_that_was_made_lately_comes_and_goes_as_it_likes() -> None:
    writer = Writer()
    old = dict(writer.truth)
    for version in range(3):
        writer.commit(old | {b"made-%02d" % number: file_of(f"{version} {number}") for number in range(60)})
        writer.commit(old)
    assert (writer.lost, writer.altered) == (0, 0)


def test_a_path_that_went_is_forgotten_with_its_window_and_beyond_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = Shares(600.0)
    value = encode_entry(Entry(Kind.FILE, 3, b"d" * 16, 0o644))
    assert shares.leave(0.0, b"f", value)
    assert not shares.leave(1.0, b"f", LINK), "what it was first stands"
    assert windows.kind_in(shares.former(b"f")) is Kind.FILE
    shares.reach(700.0, 5)
    assert shares.former(b"f") != 0
    shares.reach(721.0, 5)
    assert shares.former(b"f") == 0
    monkeypatch.setattr(windows, "REMEMBERED_MAX", 2)
    assert [shares.leave(722.0, b"%d" % number, value) for number in range(3)] == [True, True, False]
    assert [shares.alter(722.0, b"%d" % number) for number in range(3)] == [True] * 3
    assert shares.altered(722.0) == 3
