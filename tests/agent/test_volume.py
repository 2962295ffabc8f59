"""A volume as the rest of the agent uses it: journal, apply, root that is gone, settings, full disks."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.disk import history as history_module
from closeranks_agent.disk import journal as journal_module
from closeranks_agent.disk import recorder as recorder_module
from closeranks_agent.disk import volume as volume_module
from closeranks_agent.disk.hashing import EntryReader
from closeranks_agent.disk.records import Change, Record, StateUnavailable, StatSignature, VolumeGone
from closeranks_agent.disk.rows import Delta
from closeranks_agent.disk.volume import Volume
from closeranks_agent.disk.witness import Witness
from closeranks_proto.digests import BLAKE3, XXH3_128
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from closeranks_proto.errors import MissingObject, UserError
from closeranks_proto.messages import MADE_ANEW, PUT_BACK, Announce, Commit, Problem

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]
STAT = StatSignature(1, 2, 3, 4, 5)


def plant(tree_dir: Path) -> None:
    (tree_dir / "d" / "e").mkdir(parents=True)
    (tree_dir / "d" / "f").write_bytes(b"small")
    (tree_dir / "d" / "e" / "long").write_bytes(os.urandom(10_000))
    (tree_dir / "x").write_bytes(b"")


@pytest.fixture
def volume(tree_dir: Path, make_volume: MakeVolume) -> Volume:
    """Scanned once; its first announcement is acknowledged."""
    plant(tree_dir)
    found = make_volume()
    assert found.scan().complete
    found.acknowledge(1)
    return found


def a_file(key: bytes, size: int = 3) -> Record:
    return Record(key, encode_entry(Entry(Kind.FILE, size, b"d" * 16, 0o644)), STAT, None, True)


def fails_at_the_end(volume: Volume, patch: pytest.MonkeyPatch) -> None:
    """Each transaction of this volume's index is taken back when all of it was written."""
    database = volume.history.index.database
    real = database.transaction

    @contextmanager
    def failing(durable: bool = True) -> Iterator[None]:
        with real(durable):
            yield
            raise StateUnavailable(Problem("no_space", "no room"))

    patch.setattr(database, "transaction", failing)


def apply(volume: Volume, *changes: Change) -> None:
    volume.apply(changes, "converge", time.monotonic())


# --- journal -------------------------------------------------------------------------------------


def test_before_the_first_scan_there_is_no_root(make_volume: MakeVolume) -> None:
    volume = make_volume()
    assert (volume.root, volume.summary, volume.first_seq, volume.last_seq, volume.base_root) == (
        None,
        None,
        1,
        0,
        None,
    )
    assert not volume.follows(0, None)


def test_the_first_scan_is_one_announcement(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    volume = make_volume()
    volume.scan()
    (only,) = volume.pending(0, 9)
    assert isinstance(only, Announce)
    assert (only.seq, only.root, only.cause) == (1, volume.root, MADE_ANEW)
    assert volume.base_root is None
    assert volume.follows(0, None)


def test_an_index_that_was_set_aside_as_damaged_tells_what_its_tree_says(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    """The tree is the one that it was: what it holds is this node's word, as before."""
    plant(tree_dir)
    volume = make_volume()
    volume.scan()
    volume.close()
    volume.index_path.write_bytes(b"no database" * 1000)
    again = make_volume()
    again.scan()
    (only,) = again.pending(0, 9)
    assert isinstance(only, Announce)
    assert only.cause == "scan"


def test_an_acknowledged_journal_is_empty_and_starts_at_the_present_root(volume: Volume) -> None:
    assert (volume.first_seq, volume.last_seq) == (2, 1)
    assert volume.base_root == volume.root
    assert volume.pending(0, 9) == []
    assert volume.follows(1, volume.root)
    assert not volume.follows(0, volume.root)
    assert not volume.follows(1, b"other")
    assert not volume.follows(1, None)


def test_a_change_is_a_commit_from_the_old_root_to_the_new(volume: Volume, tree_dir: Path) -> None:
    base = volume.root
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    (step,) = volume.pending(1, 9)
    assert isinstance(step, Commit)
    assert (step.seq, step.base_root, step.root, [edit.key for edit in step.edits]) == (
        2,
        base,
        volume.root,
        [b"x"],
    )
    assert volume.base_root == base
    assert volume.follows(1, base)
    assert not volume.follows(0, base), "a root of ours under a number that it never had"
    assert volume.follows(2, volume.root), "acknowledged, and a disk that fails could not forget it yet"
    assert not volume.follows(2, base)
    assert not volume.follows(3, volume.root)


def test_a_state_that_was_put_back_is_told_from_one_that_was_made_anew(
    volume: Volume, tree_dir: Path, make_volume: MakeVolume
) -> None:
    assert not volume.went_back(1, volume.root)
    assert volume.went_back(1, b"another root under a number of ours")
    assert volume.went_back(2, volume.root), "a number that was never given"
    assert not volume.went_back(0, volume.root), "a coordinator that was put back is not us"
    base = volume.root
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    assert not volume.went_back(1, base)
    assert not volume.went_back(1, None), "it has not caught up"
    assert not volume.went_back(2, volume.root)
    assert volume.went_back(2, base)


def test_an_index_that_was_made_anew_was_not_put_back(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    volume = make_volume()
    assert not volume.went_back(7, b"root")
    volume.scan()
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    assert not volume.went_back(7, b"root"), "its numbers begin again, with an announcement"


def put_back(state: Path, kept: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(kept, state)


@pytest.fixture
def snapshot(volume: Volume, tree_dir: Path, tmp_path: Path) -> Path:
    """The state directory as of step 2; the volume has gone on to step 4 and is closed."""
    (tree_dir / "x").write_bytes(b"second")
    volume.scan()
    volume.acknowledge(2)
    shutil.copytree(tmp_path / "state", tmp_path / "kept")
    for content in (b"third", b"fourth"):
        (tree_dir / "x").write_bytes(content)
        volume.scan()
    assert volume.last_seq == 4
    volume.close()
    return tmp_path / "kept"


def test_a_state_directory_that_alone_was_put_back_announces_what_the_files_have_come_to(
    snapshot: Path, tmp_path: Path, tree_dir: Path, make_volume: MakeVolume
) -> None:
    """The files are as new as what was told, or newer: what they hold is this node's own word."""
    put_back(tmp_path / "state", snapshot)
    (tree_dir / "own").write_bytes(b"not told yet")
    again = make_volume()
    assert again.is_comparing, "the old root is not that of the files"
    assert again.last_seq == 4, "no number is given twice"
    assert again.scan().complete
    assert not again.is_comparing
    assert not again.went_back(4, b"what was told as the fourth")
    assert not again.follows(4, b"what was told as the fourth")
    again.announce(4)
    (only,) = again.pending(4, 9)
    assert isinstance(only, Announce)
    assert (only.root, only.cause) == (again.root, "scan")
    again.close()
    assert not make_volume().is_comparing


def test_it_is_known_also_after_a_restart_before_anybody_heard_it(
    snapshot: Path, tmp_path: Path, make_volume: MakeVolume
) -> None:
    put_back(tmp_path / "state", snapshot)
    again = make_volume()
    again.scan()
    again.close()
    again = make_volume()
    assert again.is_comparing
    again.scan()
    assert not again.went_back(4, b"another")
    assert again.went_back(5, b"another"), "told by somebody who had a later state than the files"


def test_a_machine_that_was_put_back_with_its_volume_is_told_from_its_state_directory_alone(
    volume: Volume, tree_dir: Path, tmp_path: Path, make_volume: MakeVolume
) -> None:
    for place in ("state", "tree"):
        shutil.copytree(tmp_path / place, tmp_path / "kept" / place)
    (tree_dir / "x").write_bytes(b"second")
    volume.scan()
    told = volume.root
    volume.close()
    put_back(tmp_path / "state", tmp_path / "kept" / "state")
    for one in tree_dir.iterdir():  # the volume's root stays what it is
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    shutil.copytree(tmp_path / "kept" / "tree", tree_dir, dirs_exist_ok=True)
    again = make_volume()
    assert not again.is_comparing
    again.scan()
    assert again.went_back(2, told)
    (tree_dir / "x").write_bytes(b"another second")
    again.scan()
    assert again.went_back(2, told), "its own number since then stands for another root"


def test_a_disk_that_stands_still_holds_up_who_writes_and_nobody_who_asks(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the beats would stop, and the node look silent. What is not beside the files yet is told to nobody."""
    stands, goes_on, tell = threading.Event(), threading.Event(), Witness.tell

    def stalled(self: Witness, seq: int) -> None:
        stands.set()
        assert goes_on.wait(20)
        tell(self, seq)

    monkeypatch.setattr(Witness, "tell", stalled)
    before, root = volume.last_seq, volume.root
    heard = threading.Event()
    volume.listener = heard.set
    (tree_dir / "x").write_bytes(b"while the disk stands still")
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(volume.scan)
        try:
            assert stands.wait(20)
            asked = threads.submit(
                lambda: (volume.last_seq, volume.base_root, volume.follows(before, root), volume.record(b"x"))
            )
            last_seq, _, follows, record = asked.result(20)
            assert (last_seq, follows, volume.root != root) == (before + 1, True, True)
            assert record is not None
            volume.announce(before + 5)
            assert volume.last_seq == before + 6
            assert (volume.pending(0, 9), volume.fresh(before, 9)) == ([], [])
            heard.clear()
        finally:
            goes_on.set()
        assert writing.result(20).complete
    assert heard.wait(20)
    wait_for(lambda: [step.seq for step in volume.pending(0, 9)] == [before + 6])
    assert (tree_dir / ".closeranks" / "WITNESS").read_bytes().endswith(b" %020d\n" % (before + 6))


def wait_for(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_the_files_of_another_index_say_nothing(
    snapshot: Path, tmp_path: Path, tree_dir: Path, make_volume: MakeVolume
) -> None:
    """A tree that was copied here with its private directory, or an index that was removed and made anew."""
    shutil.rmtree(tmp_path / "state")
    again = make_volume()
    assert again.last_seq == 0
    assert not again.is_comparing
    again.scan()
    assert [one.cause for one in again.pending(0, 9)] == [MADE_ANEW]


def test_a_number_that_no_index_can_count_to_is_damage(
    volume: Volume, tree_dir: Path, make_volume: MakeVolume
) -> None:
    witness = tree_dir / ".closeranks" / "WITNESS"
    index_id, _, _ = witness.read_bytes().partition(b" ")
    last = volume.last_seq
    volume.close()
    witness.write_bytes(b"%s %020d\n" % (index_id, 10**20 - 1))
    again = make_volume()
    again.scan()
    assert (again.last_seq, again.is_comparing) == (last, False)
    assert witness.read_bytes() == b"%s %020d\n" % (index_id, last), "it says the index's own number again"


def test_what_lies_where_the_number_belongs_gives_way_to_it(
    volume: Volume, tree_dir: Path, make_volume: MakeVolume
) -> None:
    witness = tree_dir / ".closeranks" / "WITNESS"
    line = witness.read_bytes()
    volume.close()
    witness.write_bytes(b"of somebody else, and longer than any number is. " * 4)
    make_volume()
    assert witness.read_bytes() == line


def test_a_step_that_could_not_be_written_has_no_number_beside_the_files(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that the index does not know would say that the index was put back."""
    witness = tree_dir / ".closeranks" / "WITNESS"
    before = witness.read_bytes()
    with monkeypatch.context() as patch:
        fails_at_the_end(volume, patch)
        with pytest.raises(StateUnavailable):
            apply(volume, Change(b"n", a_file(b"n")))
    assert witness.read_bytes() == before
    apply(volume, Change(b"n", a_file(b"n")))
    assert witness.read_bytes().split() == [before.split()[0], b"%020d" % volume.last_seq]


def test_steps_that_could_not_be_written_are_not_sent_with_the_next_one(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "COMMIT_MAX_EDITS", 1)
    seq, changes = volume.last_seq, [Change(key, a_file(key)) for key in (b"m", b"n")]
    with monkeypatch.context() as patch:
        fails_at_the_end(volume, patch)
        with pytest.raises(StateUnavailable):
            apply(volume, *changes)
    assert (volume.last_seq, volume.fresh(seq, 9)) == (seq, [])
    apply(volume, changes[0])
    (only,) = volume.fresh(seq, 9)
    assert (only.seq, [edit.key for edit in only.edits]) == (seq + 1, [b"m"])


def test_a_root_that_was_replaced_gets_no_number(
    volume: Volume, tree_dir: Path, tmp_path: Path, make_volume: MakeVolume
) -> None:
    """Nothing is written below a directory that is not the one that the index was made from."""
    tree_dir.rename(tmp_path / "away")
    tree_dir.mkdir()
    (tree_dir / ".closeranks").mkdir(mode=0o700)
    (tree_dir / ".closeranks" / "WITNESS").write_bytes(b"of somebody else")
    volume.announce(7)
    assert (tree_dir / ".closeranks" / "WITNESS").read_bytes() == b"of somebody else"
    assert volume.last_seq == 8


def test_an_announcement_under_way_does_not_hide_that_a_machine_was_put_back(
    volume: Volume, tree_dir: Path
) -> None:
    """Its numbers have been acknowledged before: one beyond them was given later than all that it knows."""
    volume.announce()
    assert not volume.went_back(1, volume.root)
    assert volume.went_back(9, b"a later root")


def test_that_a_machine_was_put_back_is_told_until_it_is_heard(volume: Volume, tree_dir: Path) -> None:
    volume.announce(9, PUT_BACK)
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    volume.announce()  # the tree has changed while it was fetched
    (only,) = volume.pending(9, 9)
    assert (only.root, only.cause) == (volume.root, PUT_BACK)
    volume.acknowledge(volume.last_seq)
    volume.announce()
    assert volume.pending(9, 9)[0].cause == "scan"


def test_what_was_acknowledged_twice_or_too_high_does_no_harm(volume: Volume, tree_dir: Path) -> None:
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    volume.acknowledge(1)
    assert len(volume.pending(0, 9)) == 1
    volume.acknowledge(99)
    assert (volume.first_seq, volume.last_seq) == (3, 2)
    (tree_dir / "x").write_bytes(b"then")
    volume.scan()
    assert volume.last_seq == 3


def test_announcing_replaces_the_journal(volume: Volume, tree_dir: Path) -> None:
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    volume.announce(after_seq=40)
    (only,) = volume.pending(0, 9)
    assert isinstance(only, Announce)
    assert (only.seq, only.root) == (41, volume.root)


def test_the_listener_hears_of_every_new_step(volume: Volume, tree_dir: Path) -> None:
    heard: list[int] = []
    volume.listener = lambda: heard.append(volume.last_seq)
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    volume.announce()
    assert 2 in heard
    assert heard[-1] == 3


def test_everything_is_there_after_reopening(volume: Volume, tree_dir: Path, make_volume: MakeVolume) -> None:
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    before = (volume.root, volume.summary, volume.first_seq, volume.last_seq, volume.base_root)
    steps = [(step.seq, step.root) for step in volume.pending(0, 9)]
    volume.close()
    again = make_volume()
    assert (again.root, again.summary, again.first_seq, again.last_seq, again.base_root) == before
    assert [(step.seq, step.root) for step in again.pending(0, 9)] == steps
    time.sleep(0.03)
    again.scan()
    report = again.scan()
    assert (report.changed, report.hashed_files, again.root) == (0, 0, before[0])


def test_an_announced_root_that_is_past_is_announced_anew_after_a_restart(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    """Its pages were in memory only."""
    plant(tree_dir)
    volume = make_volume()
    volume.scan()
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    assert [type(step) for step in volume.pending(0, 9)] == [Announce, Commit]
    volume.close()
    again = make_volume()
    (only,) = again.pending(0, 9)
    assert isinstance(only, Announce)
    assert (only.seq, only.root) == (3, again.root)


def test_a_damaged_index_is_set_aside_and_the_volume_read_anew(
    volume: Volume, make_volume: MakeVolume
) -> None:
    root = volume.root
    volume.close()
    volume.index_path.write_bytes(b"garbage" * 5000)
    again = make_volume()
    assert again.root is None
    again.scan()
    assert (again.root, again.last_seq) == (root, 1)
    assert volume.index_path.with_name("volume-photos.sqlite.damaged").exists()


def test_rows_that_do_not_give_the_recorded_root_are_announced_and_compared_again(
    volume: Volume, make_volume: MakeVolume
) -> None:
    root = volume.root
    with volume.history.index.database.transaction():
        volume.history.index.database.execute("DELETE FROM entries WHERE name = CAST('x' AS BLOB)")
    volume.close()
    again = make_volume()
    assert again.root != root
    assert [type(step) for step in again.pending(0, 9)] == [Announce]
    seq = again.last_seq
    again.close()
    again = make_volume()
    assert again.last_seq == seq, "they give the root that was recorded with the announcement"
    again.scan()
    assert again.root == root


def test_a_mass_change_that_was_cut_off_is_announced_as_far_as_it_came(
    volume: Volume, make_volume: MakeVolume, expected_root: Expected
) -> None:
    root, seq = volume.root, volume.last_seq
    volume.history.stow(Delta({b"x": None}))
    assert (volume.root, volume.last_seq) == (root, seq)  # nothing of it is visible yet
    volume.close()
    again = make_volume()
    (only,) = again.pending(0, 9)
    assert isinstance(only, Announce)
    assert (only.seq, only.root) == (seq + 1, again.root)
    assert again.root != root
    again.scan(full=True)
    assert again.root == expected_root(again)


def test_a_first_scan_behind_which_somebody_writes_is_announced_as_all_that_there_is(
    make_volume: MakeVolume,
) -> None:
    """What was built behind it already is of no use then."""
    volume = make_volume()
    volume.history.stow(Delta({b"m": a_file(b"m")}))
    volume.history.grow(b"n")
    volume.history.stow(Delta({b"a": a_file(b"a")}))
    volume.history.found("scan", time.monotonic())
    assert volume.summary is not None
    assert volume.summary.files == 2
    root = volume.root
    volume.close()
    assert make_volume().root == root


# --- apply ---------------------------------------------------------------------------------------


def test_applied_records_are_in_index_tree_and_journal(volume: Volume) -> None:
    record = a_file(b"new")
    apply(volume, Change(b"new", record), Change(b"x", None))
    assert volume.record(b"new") == record
    assert volume.record(b"x") is None
    assert volume.tree.lookup(volume.root or b"", b"new") == record.value
    (step,) = volume.pending(1, 9)
    assert isinstance(step, Commit)
    assert (step.cause, [edit.key for edit in step.edits]) == ("converge", [b"new", b"x"])


def test_applying_what_is_known_makes_no_step(volume: Volume) -> None:
    known = volume.record(b"d\0f")
    apply(volume, Change(b"d\0f", known), Change(b"never", None))
    assert volume.pending(1, 9) == []


def test_a_removed_directory_takes_what_is_beneath_along(volume: Volume) -> None:
    apply(volume, Change(b"d", None))
    assert [key for key, _ in volume.history.index.items()] == [b"x"]
    assert [key for key, _ in volume.tree.walk(volume.root or b"")] == [b"x"]


def test_the_next_scan_looks_where_something_was_applied(volume: Volume, expected_root: Expected) -> None:
    time.sleep(0.03)
    volume.scan()
    apply(volume, Change(b"d\0f", None), Change(b"new", a_file(b"new")))
    volume.scan()
    assert volume.root == expected_root(volume)


def test_more_than_a_snapshot_of_edits_is_announced(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "SNAPSHOT_EDITS", 10)
    apply(volume, *(Change(b"n%d" % number, a_file(b"n%d" % number)) for number in range(11)))
    assert [type(step) for step in volume.pending(0, 9)] == [Announce]
    assert volume.summary is not None
    assert volume.summary.files == 3 + 11


@pytest.mark.parametrize("way", ["commit", "stow"])
def test_what_was_announced_is_known_as_what_it_was_after_reopening(
    way: str, volume: Volume, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and root are recorded together: what reads the rows again announces nothing and compares nothing."""
    monkeypatch.setattr(history_module, "SNAPSHOT_EDITS", 10)
    if way == "commit":
        apply(volume, *(Change(b"n%d" % number, a_file(b"n%d" % number)) for number in range(11)))
    else:
        volume.history.stow(Delta({b"n": a_file(b"n")}))
        volume.history.found("scan", time.monotonic())
    root, seq = volume.root, volume.last_seq
    assert [type(step) for step in volume.pending(0, 9)] == [Announce]
    volume.close()
    again = make_volume()
    assert (again.root, again.last_seq) == (root, seq)


def test_a_chunk_list_that_no_frame_could_carry_is_announced(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "EDIT_MAX_BYTES", 1000)
    value = encode_entry(Entry(Kind.FILE, 10**6, XXH3_128.of(b"c" * 2000), 0o644))
    apply(volume, Change(b"big", Record(b"big", value, STAT, b"c" * 2000, True)))
    assert [type(step) for step in volume.pending(0, 9)] == [Announce]


# --- pages ---------------------------------------------------------------------------------------


def test_staged_objects_are_at_hand_until_they_are_dropped(volume: Volume) -> None:
    volume.stage_objects({b"digest": b"page"})
    assert volume.object(b"digest") == b"page" == volume.tree.source(b"digest")
    volume.drop_staged()
    assert volume.object(b"digest") is None
    with pytest.raises(MissingObject):
        volume.tree.source(b"digest")


def test_pages_that_nobody_needs_are_swept_and_pinned_ones_stay(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_agent.disk.objects.SWEEP_SLACK_BYTES", 0)
    pinned, roots = volume.root or b"", []
    volume.history.objects.pin(pinned)
    for number in range(20):
        apply(volume, Change(b"x", a_file(b"x", number + 10)))
        roots.append(volume.root or b"")
    assert volume.object(pinned) is not None
    assert volume.object(roots[-1]) is not None
    assert volume.object(roots[0]) is None
    volume.history.objects.unpin(pinned)
    for number in range(5):
        apply(volume, Change(b"x", a_file(b"x", number + 100)))
    assert volume.object(pinned) is None


def test_an_announced_root_stays_at_hand_until_it_is_acknowledged(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_agent.disk.objects.SWEEP_SLACK_BYTES", 0)
    volume.announce()
    announced = volume.root or b""
    for number in range(20):
        apply(volume, Change(b"x", a_file(b"x", number + 10)))
    assert volume.object(announced) is not None
    volume.acknowledge(volume.last_seq)
    for number in range(5):
        apply(volume, Change(b"x", a_file(b"x", number + 100)))
    assert volume.object(announced) is None


def test_chunk_lists_stay_for_a_coordinator_that_may_ask_until_all_is_acknowledged(
    volume: Volume, tree_dir: Path
) -> None:
    record = volume.record(b"d\0e\0long")
    assert record is not None
    digest = decode_entry(record.value, 16).digest
    (tree_dir / "d" / "e" / "long").unlink()
    volume.scan()
    assert volume.object(digest) == record.chunks
    volume.acknowledge(volume.last_seq)
    assert volume.object(digest) is None


# --- a root that is gone -------------------------------------------------------------------------


def assert_untouched(volume: Volume, root: bytes | None, seq: int, code: str = "not_mounted") -> None:
    report = volume.scan()
    assert not report.complete
    assert report.problem is not None
    assert report.problem.code == code
    assert volume.condition.problem == report.problem
    assert (volume.root, volume.last_seq) == (root, seq)


def test_an_emptied_root_is_a_problem_and_no_deletion(volume: Volume, tree_dir: Path) -> None:
    root, seq = volume.root, volume.last_seq
    moved = tree_dir.parent / "aside"
    moved.mkdir()
    for name in ("d", "x"):
        (tree_dir / name).rename(moved / name)
    assert_untouched(volume, root, seq)
    with pytest.raises(VolumeGone, match="is empty"):
        volume.open_root()
    for name in ("d", "x"):
        (moved / name).rename(tree_dir / name)
    assert volume.scan().complete
    assert volume.condition.problem is None
    assert volume.root == root


def test_a_replaced_root_is_a_problem(volume: Volume, tree_dir: Path) -> None:
    root, seq = volume.root, volume.last_seq
    tree_dir.rename(tree_dir.parent / "aside")
    tree_dir.mkdir()
    (tree_dir / "other").write_bytes(b"x")
    assert_untouched(volume, root, seq)
    assert volume.condition.problem is not None
    assert str(volume.index_path) in volume.condition.problem.message
    assert not (tree_dir / ".closeranks").exists()


def test_a_missing_root_is_a_problem_until_it_is_back(volume: Volume, tree_dir: Path) -> None:
    root, seq = volume.root, volume.last_seq
    tree_dir.rename(tree_dir.parent / "aside")
    assert_untouched(volume, root, seq)
    (tree_dir.parent / "aside").rename(tree_dir)
    assert volume.scan().complete


def test_a_root_missing_at_the_start_is_picked_up_when_it_appears(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    tree_dir.rmdir()
    volume = make_volume()
    assert volume.condition.problem is not None
    assert volume.condition.problem.code == "not_mounted"
    assert not volume.scan().complete
    plant(tree_dir)
    assert volume.scan().complete
    assert (volume.condition.problem, volume.summary and volume.summary.files) == (None, 3)
    assert (tree_dir / ".closeranks" / "trash").is_dir()


def test_a_root_that_is_a_symlink_is_a_problem(
    tmp_path: Path, tree_dir: Path, make_volume: MakeVolume
) -> None:
    (tmp_path / "link").symlink_to(tree_dir)
    volume = make_volume(path=tmp_path / "link")
    assert volume.condition.problem is not None
    assert "symbolic links" in volume.condition.problem.message


def test_the_last_file_may_go_while_the_index_is_empty(tree_dir: Path, make_volume: MakeVolume) -> None:
    volume = make_volume()
    assert volume.scan().complete
    tree_dir.rename(tree_dir.parent / "aside")
    tree_dir.mkdir()
    assert volume.scan().complete  # nothing was known: any directory will do


@pytest.mark.root
def test_a_filesystem_mounted_over_the_root_is_a_problem(volume: Volume, tree_dir: Path) -> None:
    from fleet.tmpfs import Tmpfs

    root, seq = volume.root, volume.last_seq
    with Tmpfs(tree_dir, 1 << 20):
        (tree_dir / "x").write_bytes(b"")
        assert_untouched(volume, root, seq)
    assert volume.scan().complete


@pytest.mark.root
def test_another_tmpfs_at_the_same_place_is_not_the_volume(tmp_path: Path, make_volume: MakeVolume) -> None:
    """It has the same inode and often the same device number."""
    from fleet.tmpfs import Tmpfs

    place = tmp_path / "mount"
    with Tmpfs(place, 1 << 20):
        (place / "x").write_bytes(b"x")
        volume = make_volume(path=place)
        assert volume.scan().complete
        root, seq = volume.root, volume.last_seq
    with Tmpfs(place, 1 << 20):
        (place / "y").write_bytes(b"y")
        assert_untouched(volume, root, seq)


# --- settings ------------------------------------------------------------------------------------


CHANGES: list[dict[str, Any]] = [
    {"ignore": ("*.long", "f")},
    {"track": ("mode", "owner", "mtime")},
    {"track": ()},
    {"chunk_bytes": 8192},
    {"digest": "blake3"},
]


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.parametrize("while_down", [False, True])
def test_changed_settings_are_derived_and_announced_once(
    volume: Volume, tree_dir: Path, make_volume: MakeVolume, settings_of: Callable[..., Any],
    changed: dict[str, Any], while_down: bool,
) -> None:  # fmt: skip
    time.sleep(0.03)
    volume.scan()
    seq = volume.last_seq
    if while_down:
        volume.close()
        volume = make_volume(**changed)
    else:
        fields = {name: value for name, value in changed.items() if name != "digest"}
        volume.configure(settings_of(**fields), BLAKE3 if "digest" in changed else XXH3_128)
    report = volume.scan()
    assert report.complete
    fresh = make_volume(state=tree_dir.parent / "fresh", **changed)
    fresh.scan()
    assert volume.root == fresh.root
    (only,) = volume.pending(0, 9)
    assert isinstance(only, Announce)
    assert (only.seq, only.root) == (seq + 1, volume.root)
    assert only.cause == "scan", "nobody made the index anew"
    rehashed = "digest" in changed or "chunk_bytes" in changed
    assert report.hashed_files == (3 if rehashed else 0)
    assert volume.scan().changed == 0
    assert volume.last_seq == seq + 1


def test_patterns_that_let_a_path_in_again_bring_it_back(
    volume: Volume, expected_root: Expected, settings_of: Callable[..., Any]
) -> None:
    volume.configure(settings_of(ignore=("d",)), XXH3_128)
    volume.scan()
    assert volume.record(b"d\0f") is None
    volume.configure(settings_of(), XXH3_128)
    volume.scan()
    assert volume.root == expected_root(volume)


def test_an_ignore_that_is_none_is_refused_and_changes_nothing(
    volume: Volume, settings_of: Callable[..., Any]
) -> None:
    before = volume.settings
    with pytest.raises(UserError):
        volume.configure(settings_of(ignore=("!",)), XXH3_128)
    assert volume.settings == before
    assert volume.scan().complete


def test_settings_that_go_back_and_forth_around_a_stopped_scan_leave_no_mixture(
    volume: Volume, settings_of: Callable[..., Any], expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "ROWS_MAX", 1)
    volume.configure(settings_of(track=("mtime",)), XXH3_128)
    stops = iter([False, False])  # at the scan's start, in the root directory, and then
    monkeypatch.setattr(volume._worker, "is_stopped", lambda: next(stops, True))
    volume.scan()
    monkeypatch.undo()
    volume.configure(settings_of(), XXH3_128)
    assert volume.scan().complete
    assert volume.root == expected_root(volume)


def test_a_scan_interrupted_while_settings_are_derived_begins_again(
    volume: Volume, make_volume: MakeVolume, settings_of: Callable[..., Any], expected_root: Expected
) -> None:
    volume.configure(settings_of(track=("mtime",)), XXH3_128)
    volume.close()  # before any scan
    again = make_volume(track=("mtime",))
    again.scan()
    assert again.root == expected_root(again)


# --- threads and stopping ------------------------------------------------------------------------


async def test_calls_run_one_after_the_other_on_the_volumes_thread(volume: Volume) -> None:
    threads: list[str] = []
    busy = threading.Lock()

    def work() -> int:
        assert busy.acquire(blocking=False)
        threads.append(threading.current_thread().name)
        time.sleep(0.01)
        busy.release()
        return 7

    assert await asyncio.gather(*(volume.run(work) for _ in range(5))) == [7] * 5
    assert len(set(threads)) == 1


async def test_closing_ends_a_running_scan_and_keeps_what_it_read(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        (tree_dir / f"{number // 10}").mkdir(exist_ok=True)
        (tree_dir / f"{number // 10}" / f"{number}").write_bytes(b"x")
    volume = make_volume()
    real, entered = EntryReader.read_file, threading.Event()

    def slow(self: EntryReader, key: bytes, fd: int, stopped: object = None) -> Any:
        entered.set()
        time.sleep(0.005)
        return real(self, key, fd)

    monkeypatch.setattr(EntryReader, "read_file", slow)
    scan = asyncio.create_task(volume.run(volume.scan))
    await asyncio.to_thread(entered.wait, 10)
    await volume.run(volume.close)
    assert not (await scan).complete
    monkeypatch.undo()
    await asyncio.sleep(0.03)
    again = make_volume()
    assert again.root is None
    report = again.scan()
    assert report.complete
    assert report.hashed_files < 200  # the settled ones among those read before were kept
    assert again.last_seq == 1


# --- a state directory that is full --------------------------------------------------------------


@pytest.mark.root
def test_a_full_state_directory_is_a_problem_that_passes(
    tree_dir: Path,
    tmp_path: Path,
    make_volume: MakeVolume,
    monkeypatch: pytest.MonkeyPatch,
    expected_root: Expected,
) -> None:
    from fleet.tmpfs import Tmpfs

    monkeypatch.setattr(volume_module, "PROBLEM_RETRY_S", 0.0)
    plant(tree_dir)
    with Tmpfs(tmp_path / "state", 1 << 20) as disk:
        volume = make_volume(state=tmp_path / "state")
        assert volume.scan().complete
        root, seq = volume.root, volume.last_seq
        ballast = disk.fill(0)
        for number in range(2000):
            (tree_dir / f"n{number:04}").write_bytes(b"%d" % number)
        report = volume.scan()
        assert not report.complete
        assert report.problem is not None
        assert report.problem.code == "no_space"
        assert volume.status().problem == report.problem
        # What was not recorded was not promised either: root and journal go as far as the disk took them.
        assert volume.pending(0, 99)[-1].root == volume.root
        many = [Change(b"a%d" % number, a_file(b"a%d" % number)) for number in range(2000)]
        with pytest.raises(StateUnavailable, match="full"):
            apply(volume, *many)
        volume.acknowledge(seq)
        ballast.unlink()
        disk.resize(16 << 20)
        report = volume.scan()
        assert report.complete
        assert volume.condition.problem is None
        volume.scan(full=True)
        assert volume.root == expected_root(volume)
        assert root != volume.root
        volume.close()


@pytest.mark.root
def test_an_agent_starts_on_a_full_state_directory(
    tree_dir: Path, tmp_path: Path, make_volume: MakeVolume
) -> None:
    from fleet.tmpfs import Tmpfs

    plant(tree_dir)
    with Tmpfs(tmp_path / "state", 1 << 20) as disk:
        volume = make_volume(state=tmp_path / "state")
        volume.scan()
        root = volume.root
        volume.close()
        ballast = disk.fill(0)
        again = make_volume(state=tmp_path / "state")
        assert again.root in (root, None)
        again.scan()
        assert again.status() is not None
        ballast.unlink()
        again._retry_after = 0.0
        assert again.scan().complete
        assert again.root == root
        again.close()


def test_a_failing_state_directory_is_tried_again_only_after_a_while(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from closeranks_proto.messages import Problem

    tries = []

    def fail(*args: object) -> None:
        tries.append(args)
        raise StateUnavailable(Problem("no_space", "full"))

    monkeypatch.setattr(volume.history, "commit", fail)
    (tree_dir / "x").write_bytes(b"now")
    for _ in range(3):
        report = volume.scan()
        assert report.problem is not None
        assert not report.complete
    assert len(tries) == 1
    assert volume_module.PROBLEM_RETRY_S <= 10


def test_an_interim_announcement_keeps_a_long_mass_change_visible(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch, expected_root: Expected
) -> None:
    monkeypatch.setattr(recorder_module, "SNAPSHOT_EDITS", 32)
    monkeypatch.setattr(recorder_module, "COMMIT_MAX_EDITS", 16)
    monkeypatch.setattr(recorder_module, "ROWS_MAX", 16)
    monkeypatch.setattr(recorder_module, "INTERIM_S", 0.0)
    seen: list[bytes | None] = []
    volume.listener = lambda: seen.append(volume.root)
    for number in range(200):
        (tree_dir / f"{number}").write_bytes(b"x")
    volume.scan()
    assert len(set(seen)) > 3
    assert volume.root == expected_root(volume)
    assert [type(step) for step in volume.pending(0, 9)] == [Announce]


# --- what the rest of the agent is told ----------------------------------------------------------


def test_the_status_has_the_figures_of_tree_and_disk(volume: Volume) -> None:
    status = volume.status()
    assert (status.volume, status.entries, status.files, status.bytes) == ("photos", 5, 3, 10_005)
    assert status.disk_total_bytes >= status.disk_free_bytes > 0
    assert status.scan_duration_ms is not None
    assert volume.condition.last_scan_started is not None


def test_read_entry_gives_what_a_scan_would(volume: Volume) -> None:
    fd = volume.open_root()
    try:
        fresh = volume.read_entry(fd, b"d\0e\0long")
        known = volume.record(b"d\0e\0long")
    finally:
        os.close(fd)
    assert fresh is not None
    assert known is not None
    assert (fresh.value, fresh.chunks, fresh.stat) == (known.value, known.chunks, known.stat)


def test_a_private_directory_that_was_removed_is_made_again(volume: Volume, tree_dir: Path) -> None:
    subprocess.run(["rm", "-rf", str(tree_dir / ".closeranks")], check=True)
    volume.scan()
    assert (tree_dir / ".closeranks" / "stage").is_dir()


# --- history -------------------------------------------------------------------------------------


def test_what_is_forgotten_is_told_to_nobody_and_its_numbers_are_not_given_again(
    volume: Volume, tree_dir: Path, make_volume: MakeVolume
) -> None:
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    history = volume.history
    assert [one.seq for one in history.fresh(1, 9)] == [2]
    with history.index.database.transaction():
        history.index.set_meta("unfinished", True)
    history.forget()
    assert (history.pending(0, 9), history.fresh(1, 9), history.journal.empty) == ([], [], True)
    volume.close()
    again = make_volume()
    assert (again.root, again.last_seq, again.history.unfinished) == (None, 2, False)


def test_who_heard_what_the_files_had_come_to_goes_on_from_there(
    snapshot: Path, tmp_path: Path, make_volume: MakeVolume
) -> None:
    """It is announced once, and not with each session for ever."""
    put_back(tmp_path / "state", snapshot)
    again = make_volume()
    again.scan()
    again.announce(4)
    again.acknowledge(again.last_seq)
    assert again.follows(again.last_seq, again.root)
    again.close()
    again = make_volume()
    assert again.follows(again.last_seq, again.root)


def test_a_number_below_ours_does_not_say_that_we_were_heard(tree_dir: Path, make_volume: MakeVolume) -> None:
    """It was given by the index before: what this one begins with is no sign of an older state."""
    plant(tree_dir)
    volume = make_volume()
    volume.scan()
    volume.acknowledge(0)
    assert not volume.went_back(7, b"root")
    volume.acknowledge(1)
    assert volume.went_back(7, b"root")


def test_a_chunk_list_stays_while_a_step_is_not_acknowledged_or_somebody_reads_a_root(
    volume: Volume, tree_dir: Path
) -> None:
    history = volume.history
    for content in (b"n" * 10_000, b"m" * 10_000):
        (tree_dir / "d" / "e" / "long").write_bytes(content)
        volume.scan()
    lists = history.index.orphan_bytes()
    assert lists > 0
    volume.acknowledge(2)
    assert history.index.orphan_bytes() == lists, "a coordinator may still ask for it"
    assert volume.root is not None
    root = volume.root
    history.objects.pin(root)
    volume.acknowledge(3)
    assert history.index.orphan_bytes() == lists
    history.objects.unpin(root)
    (tree_dir / "x").write_bytes(b"now")
    volume.scan()
    volume.acknowledge(4)
    assert history.index.orphan_bytes() == 0


def test_rows_that_were_stowed_before_a_kill_are_no_damage(
    volume: Volume, make_volume: MakeVolume, caplog: pytest.LogCaptureFixture
) -> None:
    before = volume.root
    volume.history.stow(Delta(rows={b"new": a_file(b"new")}))
    volume.close()
    again = make_volume()
    assert again.root not in (None, before)
    assert [type(one) for one in again.history.journal.pending(1, 9)] == [Announce]
    assert "do not give the root" not in caplog.text
    assert not again.history.unfinished


def test_a_root_is_announced_again_where_that_is_asked_for(volume: Volume) -> None:
    root = volume.root
    volume.history.found("scan", time.monotonic())
    assert volume.last_seq == 1, "it is the same"
    volume.history.found("scan", time.monotonic(), force=True)
    (only,) = volume.history.pending(1, 9)
    assert (type(only), only.root) == (Announce, root)
