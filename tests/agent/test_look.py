"""Looks at some names: what they record is what a scan would have recorded, and nothing else is touched."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.disk import carrying as carrying_module
from closeranks_agent.disk import lately as lately_module
from closeranks_agent.disk import look as look_module
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.hashing import EntryReader
from closeranks_agent.disk.look import LookReport
from closeranks_agent.disk.records import Change
from closeranks_agent.disk.volume import Volume
from closeranks_proto.limits import SNAPSHOT_EDITS
from closeranks_proto.messages import Announce, Commit, Hand

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]
ANNA = Hand(7, "/usr/bin/anna", "anna", 1, 1, "", (), 0, 0)
BERT = Hand(8, "/usr/bin/bert", "bert", 1, 1, "", (), 0, 0)


def tick() -> None:
    """Past the tick of the kernel's clock: what is read now is settled."""
    time.sleep(0.03)


def plant(tree_dir: Path) -> None:
    (tree_dir / "d" / "e").mkdir(parents=True)
    (tree_dir / "d" / "f").write_bytes(b"small")
    (tree_dir / "d" / "e" / "long").write_bytes(os.urandom(10_000))
    (tree_dir / "x").write_bytes(b"")


@pytest.fixture
def volume(tree_dir: Path, make_volume: MakeVolume) -> Volume:
    """Scanned once, everything in it settled; its first announcement is acknowledged."""
    plant(tree_dir)
    tick()
    found = make_volume()
    assert found.scan().complete
    found.acknowledge(1)
    return found


def look(volume: Volume, *names: tuple[bytes, bytes], trees: tuple[bytes, ...] = ()) -> LookReport:
    """At names in directories, and below directories."""
    asked: dict[bytes, frozenset[bytes] | None] = {}
    for directory, name in names:
        asked[directory] = (asked.get(directory) or frozenset()) | {name}
    report = volume.look(asked | dict.fromkeys(trees), {})
    assert report.problem is None
    assert not report.scan
    return report


def the_commit(volume: Volume) -> Commit:
    (step,) = volume.pending(1, 10)
    assert isinstance(step, Commit)
    return step


def test_many_names_cost_the_index_few_questions(
    volume: Volume, tree_dir: Path, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many files are moved by a loop of `mv`, one after the other."""
    names = [b"n%04d" % number for number in range(1000)]
    for name in names:
        (tree_dir / os.fsdecode(name)).write_bytes(name)
    tick()
    volume.scan()
    (tree_dir / "to").mkdir()
    for name in names:
        os.rename(tree_dir / os.fsdecode(name), tree_dir / "to" / os.fsdecode(name))
    tick()
    asked: list[str] = []
    database = volume.history.index.database
    rows = database.rows

    def counted(statement: str, bindings: Any = ()) -> Any:
        asked.append(statement)
        return rows(statement, bindings)

    monkeypatch.setattr(database, "rows", counted)
    look(volume, *((b"", name) for name in names), (b"", b"to"), *((b"to", name) for name in names))
    assert volume.root == expected_root(volume)
    assert len(asked) < len(names) / 8


class Reads:
    """Counts the files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[bytes] = []
        inner = EntryReader.read_file

        def read_file(reader: EntryReader, key: bytes, *rest: object) -> object:
            self.keys.append(key)
            return inner(reader, key, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(EntryReader, "read_file", read_file)


# --- what is found -------------------------------------------------------------------------------


def test_a_name_that_changed_is_committed_alone(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "d" / "f").write_bytes(b"changed")
    (tree_dir / "x").write_bytes(b"changed, too")
    report = look(volume, (b"d", b"f"))
    commit = the_commit(volume)
    assert (commit.cause, [edit.key for edit in commit.edits]) == ("watch", [b"d\0f"])
    assert report.changed == 1


@pytest.mark.parametrize(
    "change",
    [
        "write",
        "create",
        "remove",
        "mode",
        "symlink",
        "file to directory",
        "directory to file",
        "remove tree",
        "socket",
    ],
)
def test_a_look_at_what_changed_gives_the_root_of_the_disk(
    tree_dir: Path, volume: Volume, expected_root: Expected, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree_dir)
    match change:
        case "write":
            Path("d/f").write_bytes(b"other")
        case "create":
            Path("d/new").write_bytes(b"new")
        case "remove":
            Path("d/f").unlink()
        case "mode":
            Path("d/f").chmod(0o600)
            Path("d").chmod(0o711)
        case "symlink":
            Path("d/new").symlink_to("f")
        case "file to directory":
            Path("d/f").unlink()
            Path("d/f").mkdir()
            Path("d/f/g").write_bytes(b"g")
        case "directory to file":
            Path("d/e/long").unlink()
            Path("d/e").rmdir()
            Path("d/e").write_bytes(b"file")
        case "remove tree":
            Path("d/e/long").unlink()
            Path("d/e").rmdir()
        case "socket":
            Path("d/f").unlink()
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("d/f")
    tick()
    look(volume, (b"d", b"f"), (b"d", b"new"), (b"d", b"e"), (b"", b"d"))
    assert volume.root == expected_root(volume)


def test_a_new_directory_is_looked_at_with_all_that_is_below(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    (tree_dir / "n" / "m" / "o").mkdir(parents=True)
    (tree_dir / "n" / "m" / "o" / "file").write_bytes(b"deep")
    tick()
    look(volume, (b"", b"n"))
    assert volume.root == expected_root(volume)


def test_nothing_is_recorded_below_a_directory_that_is_not_known(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    (tree_dir / "n" / "m").mkdir(parents=True)
    (tree_dir / "n" / "m" / "file").write_bytes(b"deep")
    tick()
    look(volume, (b"n\0m", b"file"))
    assert volume.root == expected_root(volume)


def test_a_directory_that_is_gone_takes_everything_below_with_it(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    (tree_dir / "d").rename(tree_dir.parent / "away")
    look(volume, (b"d\0e", b"long"))
    assert volume.root == expected_root(volume)
    assert [(edit.key, edit.value) for edit in the_commit(volume).edits] == [
        (b"d", None), (b"d\0e", None), (b"d\0e\0long", None), (b"d\0f", None)
    ]  # fmt: skip


def test_a_tree_is_compared_as_a_scan_compares(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    (tree_dir / "d" / "f").unlink()
    (tree_dir / "d" / "e" / "more").write_bytes(b"more")
    tick()
    look(volume, trees=(b"d",))
    assert volume.root == expected_root(volume)


def test_a_look_that_finds_nothing_commits_nothing(volume: Volume) -> None:
    assert look(volume, (b"d", b"f"), (b"d", b"nothing"), (b"no\0where", b"x"), trees=(b"d\0e",)).changed == 0
    assert volume.pending(1, 10) == []


def test_what_is_ignored_or_private_is_left_alone(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    volume = make_volume(ignore=("cache/", "*.tmp"))
    assert volume.scan().complete
    (tree_dir / "cache" / "in").mkdir(parents=True)
    (tree_dir / "cache" / "in" / "f").write_bytes(b"x")
    (tree_dir / "d" / "a.tmp").write_bytes(b"x")
    look(
        volume,
        (b"cache\0in", b"f"),
        (b"cache", b"in"),
        (b"d", b"a.tmp"),
        (b".closeranks", b"x"),
        trees=(b"cache",),
    )
    look(volume, (b"", b".closeranks"))
    assert volume.pending(1, 10) == []


def test_a_converged_path_is_not_committed_again(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "d" / "f").write_bytes(b"converged")
    root_fd = volume.open_root()
    record = volume.read_entry(root_fd, b"d\0f")
    os.close(root_fd)
    volume.apply([Change(b"d\0f", record)], "converge", time.monotonic())
    before = volume.last_seq
    look(volume, (b"d", b"f"))
    assert volume.last_seq == before


def test_names_are_not_followed_out_of_the_volume(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    outside = tree_dir.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tree_dir / "d").rename(tree_dir.parent / "away")
    (tree_dir / "d").symlink_to(outside)
    look(volume, (b"d", b"secret"), (b"d", b"f"), trees=(b"d",))
    assert volume.root == expected_root(volume)


# --- moves ---------------------------------------------------------------------------------------


def test_the_files_of_a_moved_directory_are_not_read_again(
    tree_dir: Path, volume: Volume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "d").rename(tree_dir / "moved")
    reads = Reads(monkeypatch)
    look(volume, (b"", b"d"), (b"", b"moved"))
    assert reads.keys == []
    assert volume.root == expected_root(volume)
    assert volume.record(b"moved\0e\0long") is not None


def test_a_file_that_was_renamed_itself_is_read_for_its_ctime_is_another(
    tree_dir: Path, volume: Volume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "d" / "f").rename(tree_dir / "g")
    reads = Reads(monkeypatch)
    look(volume, (b"d", b"f"), (b"", b"g"))
    assert reads.keys == [b"g"]
    assert volume.root == expected_root(volume)


def test_moves_across_two_looks_are_remembered_for_a_moment(
    tree_dir: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "d").rename(tree_dir / "moved")
    reads = Reads(monkeypatch)
    look(volume, (b"", b"d"))
    look(volume, (b"", b"moved"))
    assert reads.keys == []


def test_a_directory_that_moved_away_and_back_is_whole_again(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    (tree_dir / "d" / "e").rename(tree_dir / "away")
    look(volume, (b"d", b"e"))
    (tree_dir / "away").rename(tree_dir / "d" / "e")
    assert volume.scan().complete
    assert volume.root == expected_root(volume)


# --- hands ---------------------------------------------------------------------------------------


def test_each_edit_has_its_hand_and_each_hand_what_it_did(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "d" / "f").write_bytes(b"12345")
    (tree_dir / "new").mkdir()
    (tree_dir / "new" / "g").write_bytes(b"123")
    (tree_dir / "x").write_bytes(b"nobody knows")
    tick()
    names = {b"d": frozenset([b"f"]), b"": frozenset([b"new", b"x"])}
    volume.look(names, {b"d\0f": ANNA, b"new": BERT})
    commit = the_commit(volume)
    numbered = zip(commit.edits, commit.by, strict=True)
    by = {edit.key: commit.hands[number - 1].exe if number else "" for edit, number in numbered}
    assert by == {b"d\0f": ANNA.exe, b"new": BERT.exe, b"new\0g": BERT.exe, b"x": ""}
    assert {(hand.exe, hand.files, hand.bytes) for hand in commit.hands} == {
        (ANNA.exe, 1, 5),
        (BERT.exe, 2, 3),
    }


def test_of_a_long_file_only_the_chunks_that_changed_count(tree_dir: Path, volume: Volume) -> None:
    with (tree_dir / "d" / "e" / "long").open("r+b") as file:
        file.write(b"changed")
    volume.look({b"d\0e": frozenset([b"long"])}, {b"d\0e\0long": ANNA})
    (hand,) = the_commit(volume).hands
    assert hand.bytes == volume.chunk_bytes


def test_of_a_sparse_file_the_holes_do_not_count(tree_dir: Path, volume: Volume) -> None:
    with (tree_dir / "d" / "disk").open("wb") as file:
        file.truncate(max(20 * volume.chunk_bytes, 2 << 20))
        file.seek(7 * volume.chunk_bytes)
        file.write(b"data")
    tick()
    volume.look({b"d": frozenset([b"disk"])}, {b"d\0disk": ANNA})
    (hand,) = the_commit(volume).hands
    assert hand.bytes == volume.chunk_bytes


def test_what_a_scan_finds_is_of_an_unknown_hand_with_the_reason(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "d" / "f").write_bytes(b"12345")
    assert volume.scan().changed == 1
    commit = the_commit(volume)
    assert [(hand.pid, hand.files, hand.bytes) for hand in commit.hands] == [(0, 1, 5)]
    assert "scan" in commit.hands[0].detail


def test_a_mass_change_is_announced_with_its_hands(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    (tree_dir / "many").mkdir()
    for number in range(SNAPSHOT_EDITS + 600):
        (tree_dir / "many" / str(number)).touch()
    tick()
    volume.look({b"": frozenset([b"many"])}, {b"many": ANNA})
    announce = volume.pending(1, 100)[-1]
    assert isinstance(announce, Announce)
    assert [(hand.exe, hand.files) for hand in announce.hands] == [(ANNA.exe, SNAPSHOT_EDITS + 601)]
    assert volume.root == expected_root(volume)


def test_when_commits_give_way_to_an_announcement_their_hands_stay(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "d" / "f").write_bytes(b"12345")
    volume.look({b"d": frozenset([b"f"])}, {b"d\0f": ANNA})
    volume.announce()
    (announce,) = volume.pending(0, 10)
    assert [(hand.exe, hand.files, hand.bytes) for hand in announce.hands] == [(ANNA.exe, 1, 5)]


# --- what comes again ----------------------------------------------------------------------------


def test_what_was_read_within_the_clocks_tick_is_to_be_looked_at_again(
    tree_dir: Path, volume: Volume
) -> None:
    (tree_dir / "d" / "f").write_bytes(b"just now")
    assert look(volume, (b"d", b"f")).again == [b"d\0f"]
    tick()
    assert look(volume, (b"d", b"f")).again == []
    record = volume.record(b"d\0f")
    assert record is not None
    assert record.settled


def test_a_file_that_changes_while_it_is_read_is_recorded_when_it_never_rests(
    tree_dir: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "d" / "f").write_bytes(b"changed")
    tick()
    inner = EntryReader._read_small

    def disturbed(reader: EntryReader, fd: int, size: int) -> object:
        with (tree_dir / "d" / "f").open("ab") as file:
            file.write(b"+")
        return inner(reader, fd, size)

    monkeypatch.setattr(EntryReader, "_read_small", disturbed)
    monkeypatch.setattr(look_module, "BUSY_LOOK_MAX_AGE_S", 0.1)
    assert look(volume, (b"d", b"f")).again == [b"d\0f"]
    assert volume.pending(1, 10) == []
    time.sleep(0.15)  # beyond the age at which it is recorded whatever it does
    look(volume, (b"d", b"f"))
    assert [edit.key for edit in the_commit(volume).edits] == [b"d\0f"]


# --- hard links ----------------------------------------------------------------------------------


def test_a_write_through_one_name_is_seen_under_the_others(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    os.link(tree_dir / "d" / "f", tree_dir / "twin")
    tick()
    volume = make_volume()
    assert volume.scan().hard_links == 2
    (tree_dir / "twin").write_bytes(b"through the twin")
    tick()
    assert look(volume, (b"", b"twin")).scan == ""
    assert volume.root == expected_root(volume)


@pytest.mark.parametrize("then", ["removed", "another file's", "another link"])
def test_a_write_through_a_name_that_has_left_is_seen_under_the_others(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, then: str
) -> None:
    """The name is gone, or another file's, before anybody looks: no event tells of the others."""
    plant(tree_dir)
    for name in ("second", "third"):
        os.link(tree_dir / "d" / "f", tree_dir / name)
    other = tree_dir / "other"
    other.write_bytes(b"another file")
    os.link(other, tree_dir / "twin")
    tick()
    volume = make_volume()
    assert volume.scan().hard_links == 5
    third = tree_dir / "third"
    third.write_bytes(b"through the third")
    third.unlink()
    if then == "another file's":
        third.write_bytes(b"new")
    elif then == "another link":
        os.link(other, third)
    tick()
    assert look(volume, (b"", b"third")).scan == ""
    assert volume.root == expected_root(volume)


def test_a_write_through_a_name_that_came_and_went_unseen_is_seen_under_the_others(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    os.link(tree_dir / "d" / "f", tree_dir / "twin")
    tick()
    volume = make_volume()
    volume.scan()
    third = tree_dir / "third"
    os.link(tree_dir / "twin", third)
    third.write_bytes(b"through the third")
    third.unlink()
    tick()
    assert look(volume, (b"", b"third")).scan == ""
    assert volume.root == expected_root(volume)


def test_a_name_that_left_its_file_does_not_count_as_known(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    for name in ("second", "third"):
        os.link(tree_dir / "d" / "f", tree_dir / name)
    tick()
    volume = make_volume()
    volume.scan()
    (tree_dir / "third").unlink()
    look(volume, (b"", b"third"))
    os.link(tree_dir / "second", tree_dir / "d" / "unheard of")
    (tree_dir / "second").write_bytes(b"through the second")
    tick()
    assert "several names" in volume.look({b"": frozenset([b"second"])}, {}).scan


def test_where_not_all_names_are_known_a_scan_is_asked_for(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    os.link(tree_dir / "d" / "f", tree_dir / "twin")
    os.link(tree_dir / "d" / "f", tree_dir / "third")
    report = volume.look({b"": frozenset([b"twin"])}, {})
    assert "several names" in report.scan
    assert volume.scan().complete
    assert volume.root == expected_root(volume)


def test_hard_links_are_told(tree_dir: Path, volume: Volume) -> None:
    os.link(tree_dir / "d" / "f", tree_dir / "twin")
    assert volume.scan().hard_links == 2
    status = volume.status()
    assert status.hard_links == 2
    assert {(one.key, one.why) for one in status.unreadable} == {
        (b"d\0f", "hard_link"),
        (b"twin", "hard_link"),
    }
    assert status.unreadable_count == 0


# --- together with scans, and trouble ------------------------------------------------------------


def test_a_look_before_the_first_scan_asks_for_it(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    report = make_volume().look({b"d": frozenset([b"f"])}, {})
    assert report.scan
    assert report.changed == 0


def test_nothing_is_written_while_the_root_is_another(tree_dir: Path, volume: Volume) -> None:
    root = volume.root
    tree_dir.rename(tree_dir.parent / "away")
    tree_dir.mkdir()
    (tree_dir / "x").write_bytes(b"other")
    report = volume.look({b"": frozenset([b"x"]), b"d": frozenset([b"f"])}, {})
    assert report.problem is not None
    assert report.problem.code == "not_mounted"
    assert (volume.root, volume.pending(1, 10)) == (root, [])


@pytest.mark.parametrize("fresh", [False, True])
def test_a_scan_lets_looks_through_and_survives_what_they_find(
    tree_dir: Path,
    make_volume: MakeVolume,
    expected_root: Expected,
    monkeypatch: pytest.MonkeyPatch,
    fresh: bool,
) -> None:
    """A directory that the scan is inside of is moved, and a look records it, before the scan goes on.

    Files that are `fresh` (written within the clock's tick) are given back, and looked at by name then.
    """
    for number in range(20):
        (tree_dir / "m" / f"s{number:02}").mkdir(parents=True)
        (tree_dir / "m" / f"s{number:02}" / "f").write_bytes(b"%d" % number)
    (tree_dir / "stays").touch()
    tick()
    volume = make_volume()
    assert volume.scan().complete
    if fresh:
        monkeypatch.setattr(look_module, "is_settled", lambda *_: False)
    inner = volume._worker.breathe
    turns = iter(range(1000))
    again: list[bytes] = []

    def breathe(is_ready: Callable[[], bool]) -> bool:
        if next(turns) == 5:
            assert is_ready()
            (tree_dir / "m").rename(tree_dir / "n")
            again.extend(look(volume, (b"", b"m"), (b"", b"n")).again)
            return True
        return inner(is_ready)

    volume._worker.breathe = breathe  # type: ignore[method-assign, assignment]
    assert volume.scan(full=True).complete
    assert len(again) == (20 if fresh else 0)
    if fresh:
        assert volume.root != expected_root(volume)
        look(volume, *((key.rpartition(b"\0")[0], b"f") for key in again))
    assert volume.root == expected_root(volume)


def test_a_look_that_waits_is_done_in_the_middle_of_a_scan(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "x").write_bytes(b"changed")
    asked = volume.look_soon({b"": frozenset([b"x"])}, {}, time.monotonic())
    done = threading.Event()
    asked.add_done_callback(lambda _: done.set())
    assert done.wait(10)
    assert asked.result().changed == 1


# --- contents that travel with the commit ----------------------------------------------------------


def carried(volume: Volume) -> tuple[bytes, ...]:
    return volume.carrying.take(the_commit(volume).edits, volume.algorithm.width)


def test_what_small_files_hold_is_kept_for_their_commit_and_given_once(
    tree_dir: Path, volume: Volume
) -> None:
    volume.carrying.set(True)
    (tree_dir / "new").write_bytes(b"new")
    (tree_dir / "x").write_bytes(b"changed")
    (tree_dir / "empty").write_bytes(b"")
    look(volume, (b"", b"new"), (b"", b"x"), (b"", b"empty"))
    assert sorted(carried(volume)) == [b"changed", b"new"]
    assert carried(volume) == ()


def test_nothing_is_kept_where_nobody_wants_it(tree_dir: Path, volume: Volume) -> None:
    (tree_dir / "new").write_bytes(b"new")
    look(volume, (b"", b"new"))
    assert carried(volume) == ()
    volume.carrying.set(True)
    (tree_dir / "x").write_bytes(b"changed")
    look(volume, (b"", b"x"))
    volume.carrying.set(False)
    assert volume.carrying.take(volume.pending(2, 9)[0].edits, volume.algorithm.width) == ()


def test_longer_files_and_files_of_several_chunks_do_not_travel(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    volume = make_volume(chunk_bytes=8192)
    assert volume.scan().complete
    volume.acknowledge(1)
    volume.carrying.set(True)
    (tree_dir / "chunk").write_bytes(b"c" * 8192)
    (tree_dir / "chunks").write_bytes(b"d" * 8193)
    look(volume, (b"", b"chunk"), (b"", b"chunks"))
    assert carried(volume) == (b"c" * 8192,)


def test_a_file_that_was_only_renamed_does_not_travel(tree_dir: Path, volume: Volume) -> None:
    volume.carrying.set(True)
    (tree_dir / "d" / "f").rename(tree_dir / "g")
    look(volume, (b"d", b"f"), (b"", b"g"))
    assert carried(volume) == ()


def test_a_commit_travels_with_no_more_than_its_bound(
    tree_dir: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying_module, "CARRY_MAX_BYTES", 1000)
    volume.carrying.set(True)
    for number in range(5):
        (tree_dir / f"n{number}").write_bytes(b"%d" % number * 400)
    look(volume, *((b"", b"n%d" % number) for number in range(5)))
    assert len(carried(volume)) == 2


def test_what_can_not_be_read_asks_for_a_scan(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a scan's report names what was left out: a look that kept quiet would be an error taken for a pass."""
    (tree_dir / "d" / "f").write_bytes(b"changed")

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    report = volume.look({b"d": frozenset({b"f"})}, {})
    assert report.scan
    assert report.changed == 0


def stored_unseen(tree_dir: Path, look_at: Callable[[], object]) -> None:
    """`mapped` has what was stored into a page that was dirty already when it was looked at: its stat is as it was."""
    with open(tree_dir / "mapped", "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), 0) as pages:
            pages[0] = 1
            tick()
            look_at()
            before = os.stat(tree_dir / "mapped")
            pages[0] = 2
    after = os.stat(tree_dir / "mapped")
    assert (after.st_size, after.st_ctime_ns) == (before.st_size, before.st_ctime_ns)


@pytest.mark.parametrize("seen_by", ["a look", "a scan"])
def test_what_a_map_stored_after_a_reading_is_seen_when_the_close_is_heard_of(
    tree_dir: Path, volume: Volume, expected_root: Expected, seen_by: str
) -> None:
    """It reached no replica, and a scrub took it for decay: the program's bytes gave way to those of before."""
    stored_unseen(tree_dir, lambda: look(volume, (b"", b"mapped")) if seen_by == "a look" else volume.scan())
    assert look(volume, (b"", b"mapped")).changed == 1
    assert volume.root == expected_root(volume)


def test_what_a_map_stored_after_a_first_scan_by_other_processes_is_seen_as_well(
    tree_dir: Path, volume: Volume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "READERS_FILES", 0)
    (tree_dir / "new").mkdir()
    stored_unseen(tree_dir / "new", volume.scan)
    assert look(volume, (b"new", b"mapped")).changed == 1
    assert volume.root == expected_root(volume)


def test_what_a_map_stored_before_a_storm_took_the_mark_away_is_found_by_its_scans(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    """Of a close in a storm nobody hears, and the stat is the one under which the file was read before it."""
    stored_unseen(tree_dir, lambda: look(volume, (b"", b"mapped")))
    volume.storms(True)
    assert volume.scan().changed == 1
    assert volume.root == expected_root(volume)


def test_what_a_storms_scan_reads_once_more_is_not_said_to_be_written(tree_dir: Path, volume: Volume) -> None:
    """A long file beside many short ones that are new made each of them as long, for the brake."""
    (tree_dir / "long").write_bytes(bytes(1_000_000))
    tick()
    look(volume, (b"", b"long"))
    (tree_dir / "short").write_bytes(b"short")
    tick()
    volume.storms(True)
    report = volume.scan()
    assert report.changed == 1
    assert report.hashed_bytes > 1_000_000
    assert report.written_bytes == len(b"short")


def test_what_a_map_stores_behind_a_storms_reading_and_closes_at_once_is_no_rest(
    tree_dir: Path, volume: Volume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the end of the reading of a long file nobody has it open any more, and its stat has not changed."""
    volume.storms(True)
    with ExitStack() as stack:
        file = stack.enter_context(open(tree_dir / "mapped", "w+b"))
        file.truncate(mmap.PAGESIZE)
        pages = stack.enter_context(mmap.mmap(file.fileno(), 0))
        pages[0] = 1
        tick()
        stack.callback(lambda: pages.__setitem__(0, 2))
        read = os.preadv

        def read_and_close(*asked: Any) -> int:
            count = read(*asked)
            if count == mmap.PAGESIZE:
                stack.close()
            return count

        monkeypatch.setattr(os, "preadv", read_and_close)
        volume.scan()
    assert volume.root == expected_root(volume)


def test_what_rests_for_long_is_not_read_at_each_close(
    tree_dir: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database is closed by each of its readers."""
    (tree_dir / "x").write_bytes(b"a database")
    tick()
    assert look(volume, (b"", b"x")).hashed_files == 1
    assert look(volume, (b"", b"x")).hashed_files == 1
    monkeypatch.setattr(lately_module, "WRITEBACK_NS", 0)
    assert look(volume, (b"", b"x")).hashed_files == 1
    assert look(volume, (b"", b"x")).hashed_files == 0


def test_of_files_that_were_read_lately_the_last_are_remembered() -> None:
    lately = lately_module.Lately()
    for number in range(lately_module.KEPT_MAX + 1):
        lately.read(b"%d" % number, 0, 0)
    assert b"0" not in lately
    assert b"1" in lately


def test_whoever_changes_only_a_mode_has_written_nothing(
    tree_dir: Path, volume: Volume, expected_root: Expected
) -> None:
    """`chmod -R` was said to have written every byte of the tree."""
    (tree_dir / "d" / "f").chmod(0o600)
    (tree_dir / "x").write_bytes(b"12345")
    report = volume.look({b"d": frozenset({b"f"}), b"": frozenset({b"x"})}, {b"d\0f": ANNA, b"x": BERT})
    assert volume.root == expected_root(volume)
    assert {hand.exe: (hand.files, hand.bytes) for hand in report.hands} == {
        ANNA.exe: (1, 0),
        BERT.exe: (1, 5),
    }
