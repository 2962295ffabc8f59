"""Opening the trash: what a kill left in the stage comes home, what is damaged is said, and nothing stays open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

from closeranks_agent.converge import trash as module
from closeranks_agent.converge.items import Discard, Kept, discard_of
from closeranks_agent.converge.ledger import Ledger, LedgerDamaged
from closeranks_agent.converge.trash import Trash, TrashFull, recover
from closeranks_agent.converge.workroom import Workroom, open_workroom
from closeranks_agent.disk.volume import Volume
from closeranks_proto.entries import Entry, Kind, encode_entry

STAGED = b"staged"


@pytest.fixture
def volume(make_volume: Callable[..., Volume], tree_dir: Path) -> Volume:
    (tree_dir / "stays").write_bytes(b"stays")
    made = make_volume(trash_max_bytes=40_000)
    made.scan()
    return made


@pytest.fixture
def room(volume: Volume) -> Iterator[Workroom]:
    made = open_workroom(volume)
    yield made
    made.close()


def pending(room: Workroom, name: bytes, key: bytes = b"was") -> Kept:
    """The record of an exchange that was announced for the entry `name` of the stage."""
    status = os.stat(name, dir_fd=room.stage_fd, follow_symlinks=False)
    return Kept(7, 0, 0, "i1", discard_of(key, status, "replaced", b"", STAGED))


def put(room: Workroom, fd: int, name: bytes, content: bytes | None) -> None:
    if content is None:
        os.mkdir(name, dir_fd=fd)
        return
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=fd)
    os.write(file, content)
    os.close(file)


def test_an_old_file_that_a_kill_left_in_the_stage_becomes_a_durable_item(
    room: Workroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(room, room.stage_fd, STAGED, b"old")
    synced: list[tuple[int, list[str]]] = []
    monkeypatch.setattr(module.os, "fsync", lambda fd: synced.append((fd, os.listdir(room.items_fd))))
    kept = pending(room, STAGED)
    assert recover(room, kept)
    assert os.listdir(room.stage_fd) == []
    assert synced == [(room.items_fd, [kept.id])], "synced when it had its name"


def test_a_staged_file_whose_exchange_never_happened_stays_for_the_next_run(room: Workroom) -> None:
    put(room, room.stage_fd, STAGED, b"old")
    kept = pending(room, STAGED)
    os.unlink(STAGED, dir_fd=room.stage_fd)
    put(room, room.stage_fd, b"other", b"so that the inode is not given again")
    put(room, room.stage_fd, STAGED, b"new")
    if os.stat(STAGED, dir_fd=room.stage_fd).st_ino == kept.discard.inode:
        os.rename(STAGED, b"swap", src_dir_fd=room.stage_fd, dst_dir_fd=room.stage_fd)
        os.rename(b"other", STAGED, src_dir_fd=room.stage_fd, dst_dir_fd=room.stage_fd)
    assert not recover(room, kept)
    assert STAGED.decode() in os.listdir(room.stage_fd)
    assert os.listdir(room.items_fd) == []


def test_what_was_only_announced_is_no_item(room: Workroom) -> None:
    put(room, room.stage_fd, STAGED, b"old")
    kept = pending(room, STAGED)
    os.unlink(STAGED, dir_fd=room.stage_fd)
    assert not recover(room, kept)
    assert not recover(room, Kept(8, 0, 0, "i1", discard_of(b"k", os.stat("/"), "removed", b"", b"")))


def test_an_empty_directory_that_was_exchanged_out_needs_no_copy(room: Workroom) -> None:
    put(room, room.stage_fd, STAGED, None)
    assert not recover(room, pending(room, STAGED))
    assert (os.listdir(room.stage_fd), os.listdir(room.items_fd)) == ([], [])


def test_a_directory_that_was_exchanged_out_and_holds_something_goes_back_to_its_place(
    room: Workroom, tree_dir: Path
) -> None:
    put(room, room.stage_fd, STAGED, None)
    kept = pending(room, STAGED)
    inner = os.open(STAGED + b"/own", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=room.stage_fd)
    os.write(inner, b"own")
    os.close(inner)
    (tree_dir / "was").write_bytes(b"the new file")
    assert not recover(room, kept)
    assert (tree_dir / "was/own").read_bytes() == b"own"
    assert os.listdir(room.items_fd) == []


def test_what_was_recovered_counts_and_is_listed(volume: Volume, room: Workroom) -> None:
    put(room, room.stage_fd, STAGED, b"old" * 100)
    trash = Trash(volume)
    with trash.opened():
        trash.intend([pending(room, STAGED).discard], "i1")
    again = Trash(volume)
    assert again.usage() == {"i1": 300}
    (item,) = again.items("", 10, "")[0]
    assert (item.key, item.size_bytes, item.incident) == (b"was", 300, "i1")


def test_what_a_settled_batch_announced_is_not_recovered_again(volume: Volume, room: Workroom) -> None:
    """Its old file is an item, or was evicted: whatever has its place in the stage and its inode now is another one."""
    put(room, room.stage_fd, STAGED, b"new")
    trash = Trash(volume)
    with trash.opened():
        trash.intend([pending(room, STAGED).discard], "i1")
        trash.settle([], "i1")
    assert Trash(volume).items("", 10, "") == ((), None)
    assert os.listdir(room.stage_fd) == [STAGED.decode()]


def discard(charge: int) -> Discard:
    value = encode_entry(Entry(Kind.FILE, charge, b"d" * 16, 0o644))
    return Discard(b"k", Kind.FILE, charge, charge, 0o644, 0, 0, "removed", value)


def test_a_batch_that_does_not_fit_is_refused_as_a_whole(volume: Volume) -> None:
    trash = Trash(volume)
    with trash.opened():
        with pytest.raises(TrashFull) as caught:
            trash.intend([discard(30_000), discard(10_001)], "i1")
        assert (caught.value.needed, caught.value.free) == (40_001, 40_000)
        assert trash.intend([discard(30_000), discard(10_000)], "i1") == ["000000000001", "000000000002"]


def items(trash: Trash, count: int, charge: int = 10, ordinary: bool = True) -> None:
    """So many items, each of its own content, arrive."""
    with trash.opened() as room:
        for number in range(count):
            value = encode_entry(Entry(Kind.FILE, charge, bytes([number]) * 16, 0o644))
            one = Discard(b"k%d" % number, Kind.FILE, charge, charge, 0o644, 0, 0, "removed", value)
            (name,) = trash.intend([one], "", ordinary)
            put(room, room.items_fd, name.encode(), bytes([number]) * charge)
            trash.settle([(name, one)], "", ordinary)


def test_a_trash_with_as_many_items_as_it_may_have_is_full(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 4)
    trash = Trash(volume)
    with trash.opened():
        items(trash, 3, ordinary=False)
        assert trash.has_room(10, 1)
        assert not trash.has_room(10, 2)
        assert not trash.make_room(10, 2, ())
        with pytest.raises(TrashFull):
            trash.intend([discard(1), discard(1)], "i1")


def test_ordinary_items_give_way_to_number_as_well_as_to_size(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 4)
    trash = Trash(volume)
    with trash.opened():
        items(trash, 4)
        assert trash.make_room(10, 2, ())
        assert [kept.discard.key for kept in trash.kept()] == [b"k2", b"k3"]


def test_of_contents_that_can_be_found_the_oldest_is_forgotten_first(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTENTS_MAX", 2)
    trash = Trash(volume)
    with trash.opened():
        items(trash, 3)
        found = [trash.find(bytes([number]) * 16) for number in range(3)]
        assert found == [None, b"000000000002", b"000000000003"]


def test_an_evicted_directory_is_removed(volume: Volume, room: Workroom) -> None:
    trash = Trash(volume)
    with trash.opened():
        one = Discard(b"d", Kind.DIRECTORY, 0, 0, 0o755, 0, 0, "removed", b"")
        (name,) = trash.intend([one], "")
        put(room, room.items_fd, name.encode(), None)
        trash.settle([(name, one)], "")
    trash.evict((), now_ms=2**50)
    assert os.listdir(room.items_fd) == []


def test_the_number_of_an_item_that_is_gone_is_never_given_again(volume: Volume) -> None:
    """A person who restores by a number that was listed gets that item or none."""
    trash = Trash(volume)
    items(trash, 2)
    trash.evict((), now_ms=2**50)
    again = Trash(volume)
    with again.opened():
        assert again.intend([discard(1)], "") == ["000000000003"]


def test_what_an_incident_put_here_never_makes_room(volume: Volume, room: Workroom) -> None:
    """Also where it was ordinary for the truth: whoever reads the incident is to find it."""
    trash = Trash(volume)
    with trash.opened():
        one = discard(40_000)
        (name,) = trash.intend([one], "i1", ordinary=True)
        put(room, room.items_fd, name.encode(), bytes(40_000))
        trash.settle([(name, one)], "i1", ordinary=True)
        assert not trash.make_room(10, 1, ())
        assert [kept.id for kept in trash.kept()] == [name]


def test_what_somebody_put_among_the_items_by_hand_is_left_alone(volume: Volume, room: Workroom) -> None:
    put(room, room.items_fd, b"notes.txt", b"mine")
    trash = Trash(volume)
    assert trash.items("", 10, "") == ((), None)
    trash.evict((), now_ms=2**50)
    assert os.listdir(room.items_fd) == ["notes.txt"]


@pytest.mark.parametrize("name", [b"ledger", b"incidents"])
def test_records_that_nobody_understands_are_said_and_leave_nothing_open(
    volume: Volume, room: Workroom, name: bytes
) -> None:
    """A later version's, after somebody went back to this one: nothing of the trash may be taken for free room."""
    with Trash(volume).opened():
        pass
    ledger = Ledger(room.trash_fd, name)
    ledger.append([msgpack.packb(("a later version's", 1, 2))])
    ledger.sync()
    ledger.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LedgerDamaged):
        Trash(volume).items("", 10, "")
    assert len(os.listdir("/proc/self/fd")) == before
