"""What files grow is told while they are written, closed or not, once, and whatever else waits for a look."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from closeranks_agent.disk.look import LookReport
from closeranks_agent.disk.volume import Volume
from closeranks_agent.watch import growth as module
from closeranks_agent.watch.dirty import Batch, Dirty
from closeranks_agent.watch.growth import Growth
from closeranks_proto.parts import Hand
from watched_volume import Notes

MB = 1 << 20
PHP = Hand(7, "/usr/bin/php", "php x", 33, None, "apache2.service", (), 0, 0)


class Writer:
    """A volume of which a watcher has heard; `told` is what its growth said so far, files and bytes."""

    def __init__(self, volume: Volume, tree: Path) -> None:
        self.volume, self.tree = volume, tree
        self.dirty, self.notes, self.now, self.spent = Dirty(), Notes(), 100.0, 0.0
        self.growth = Growth(volume, self.notes, lambda: self.now, lambda: self.spent)

    def write(
        self, name: str, size: int, *, open: bool = False, made: bool = False, sparse: bool = False
    ) -> None:
        with (self.tree / name).open("ab") as file:
            file.truncate(size)
            if size and not sparse:
                os.posix_fallocate(file.fileno(), 0, size)
        self.now += 0.001
        self.dirty.note(name.encode(), self.now, PHP, open=open, made=made)

    def look(self) -> tuple[int, int]:
        """What this look tells."""
        before = self.told
        self.now += 0.05
        self.growth.look(self.dirty)
        return self.told[0] - before[0], self.told[1] - before[1]

    def commit(self, count: int = 1) -> tuple[int, int]:
        """The watcher takes what is due, and a look commits it."""
        before = self.told
        self.now += 2.0
        batch: Batch | None = self.dirty.take(self.now)
        assert batch is not None
        names = [name for found in batch.names.values() for name in found or ()]
        assert len(names) >= count
        lengths = {one: (self.tree / one.decode()).stat().st_size for one in names}
        report = LookReport(len(names), sizes=lengths, lengths=lengths)
        self.growth.committed(report, batch)
        return self.told[0] - before[0], self.told[1] - before[1]

    @property
    def told(self) -> tuple[int, int]:
        return sum(one[1] for one in self.notes.told), sum(one[2] for one in self.notes.told)


@pytest.fixture
def writer(make_volume: Callable[..., Volume], tree_dir: Path) -> Writer:
    volume = make_volume(chunk_bytes=MB)
    volume.scan()
    return Writer(volume, tree_dir)


def test_an_open_file_is_told_as_it_grows_and_committed_without_what_was_told(writer: Writer) -> None:
    writer.write("log", 3 * MB, open=True)
    assert writer.look() == (1, 3 * MB)
    writer.write("log", 5 * MB, open=True)
    assert writer.look() == (0, 2 * MB)
    assert writer.look() == (0, 0)
    assert writer.commit() == (0, 0)


def test_of_a_sparse_file_only_what_takes_room_was_written(writer: Writer) -> None:
    """A new disk of a virtual machine is long and holds nothing; a guard held its writer for 5 GB."""
    writer.write("vm.img", 500 * MB, made=True, sparse=True)
    assert writer.look()[1] <= 4096
    with (writer.tree / "vm.img").open("r+b") as file:
        file.seek(400 * MB)
        file.write(bytes(3 * MB))  # zeros that were written are no hole
    writer.dirty.note(b"vm.img", writer.now, PHP)
    assert 3 * MB - 8192 <= writer.look()[1] <= 3 * MB + 8192


def test_a_file_that_is_written_again_and_again_is_one_file(writer: Writer) -> None:
    """`83 files` was told of one file that was written 83 times."""
    for number in range(1, 84):
        writer.write("log", number * MB, open=number % 2 == 0)
        writer.look()
        writer.commit()
    assert writer.told[0] == 1
    assert writer.told[1] >= 83 * MB, "all that was written is told all the same"
    writer.write("other", MB)
    assert writer.look() == (1, MB)
    writer.commit()
    writer.now += module.COUNTED_S
    writer.write("log", 84 * MB)
    assert writer.look()[0] == 1, "of another hour it is one once more"


def test_what_is_remembered_of_counted_files_has_a_bound(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNTED_MAX", 5)
    for number in range(20):
        writer.write(f"f{number}", MB)
    assert writer.look() == (20, 20 * MB)
    assert len(writer.growth._counted) == 5


def test_a_file_whose_next_look_has_to_wait_is_told_meanwhile(writer: Writer) -> None:
    """One that takes long to read rests after each look, for a second and more: a runaway writes gigabytes then."""
    writer.write("log", MB, open=True)
    writer.dirty.cost({b"log": 0.1}, (), writer.now)
    writer.write("log", 3 * MB, open=True)
    assert writer.dirty.take(writer.now + 0.5) is None, "it rests"
    assert writer.look() == (1, 3 * MB)


def test_files_that_were_closed_are_told_before_their_look_and_asked_once(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        writer.write(f"f{number}", MB)
    assert writer.look() == (20, 20 * MB)
    asked: list[bytes] = []
    ask = writer.growth._ask

    def remembered(root_fd: int, key: bytes, hand: Hand | None, counts: module.Counts, made: bool) -> int:
        asked.append(key)
        return ask(root_fd, key, hand, counts, made)

    monkeypatch.setattr(writer.growth, "_ask", remembered)
    writer.write("f3", 2 * MB)
    assert (writer.look(), asked) == ((0, MB), [b"f3"])
    assert writer.commit(20) == (0, 0)


def test_of_many_that_were_closed_some_are_asked_and_the_commit_sets_it_right(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSED_A_LOOK", 10)
    for number in range(25):
        writer.write(f"f{number:02}", 1000 if number < 15 else 3000)
    assert writer.look() == (25, 10 * 3000 + 15 * 3000), "the latest ten stand for all"
    assert writer.commit(25) == (0, 0), "15,000 bytes less than was told: nothing is told twice"
    writer.write("g", 500)
    assert writer.commit() == (1, 0), "its bytes, too, were told ahead"
    writer.now += module.AHEAD_S
    writer.write("h", 700)
    assert writer.commit() == (1, 700), "until all of it was committed, or is gone"


def test_a_long_file_that_is_closed_counts_with_what_it_grew(writer: Writer) -> None:
    (writer.tree / "db").write_bytes(bytes(5 * MB))
    writer.volume.scan()
    writer.write("db", 6 * MB)
    assert writer.look() == (1, MB)


@contextmanager
def committing(volume: Volume) -> Iterator[None]:
    """Meanwhile the volume's thread waits for the disk with its index locked."""
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with volume.history.index.database.lock:
            locked.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_what_is_written_is_told_while_the_rows_of_a_look_wait_for_the_disk(writer: Writer) -> None:
    """On the disk that a runaway fills that takes a second, in which gigabytes come."""
    for name in ("log", "db"):
        (writer.tree / name).write_bytes(bytes(5 * MB))
    writer.volume.scan()
    writer.write("log", 6 * MB, open=True)
    assert writer.look() == (1, MB)
    writer.commit()
    with committing(writer.volume):
        writer.write("new", 5 * MB, made=True)
        assert writer.look() == (1, 5 * MB), "of a new file there is nothing to ask"
        writer.write("log", 9 * MB, open=True)
        assert writer.look() == (0, 3 * MB), "its length is known from its last commit"
        writer.write("db", 6 * MB, open=True)
        assert writer.look() == (0, 0)
    assert writer.look() == (1, MB), "it was put off"


def test_what_was_told_of_a_growing_file_beyond_its_commit_is_told_once(writer: Writer) -> None:
    writer.write("log", 3 * MB, open=True)
    writer.look()
    batch = writer.dirty.take(writer.now + 2.0)
    assert batch is not None
    writer.write("log", 8 * MB, open=True)
    assert writer.look() == (0, 5 * MB)
    report = LookReport(1, sizes={b"log": 3 * MB}, lengths={b"log": 3 * MB})
    writer.growth.committed(report, batch)
    assert writer.told == (1, 8 * MB)
    writer.write("log", 9 * MB, open=True)
    assert writer.look() == (0, MB)
    report = LookReport(1, sizes={b"log": 6 * MB}, lengths={b"log": 9 * MB})
    writer.growth.committed(report, batch)
    assert writer.told == (1, 9 * MB)


def test_a_file_that_was_cut_is_told_as_it_grows_anew(writer: Writer) -> None:
    """A log that is rotated by copying and cutting it, and flooded then."""
    writer.write("log", 9 * MB, open=True)
    writer.look()
    writer.write("log", 2 * MB, open=True)
    assert writer.look() == (0, 0)
    writer.write("log", 7 * MB, open=True)
    assert writer.look() == (0, 5 * MB)
    writer.commit()
    writer.write("log", 3 * MB, open=True)
    writer.look()
    writer.write("log", 5 * MB, open=True)
    assert writer.look() == (0, 2 * MB)


def test_another_name_of_a_file_is_not_taken_for_a_new_one(writer: Writer) -> None:
    (writer.tree / "db").write_bytes(bytes(5 * MB))
    (writer.tree / "name").write_bytes(bytes(5 * MB))
    writer.volume.scan()
    (writer.tree / "name").unlink()
    (writer.tree / "name").hardlink_to(writer.tree / "db")
    writer.dirty.note(b"name", writer.now, PHP, made=True)
    assert writer.look() == (0, 0)


def test_whoever_changes_only_attributes_has_written_nothing(writer: Writer) -> None:
    file = writer.tree / "old"
    file.write_bytes(bytes(1000))
    os.utime(file, (1e9, 1e9))
    writer.volume.scan()
    file.chmod(0o600)
    writer.dirty.note(b"old", writer.now, PHP)
    assert writer.look() == (0, 0)
    copied = writer.tree / "copied"
    copied.write_bytes(bytes(1000))
    os.utime(copied, (1e9, 1e9))  # as rsync does
    writer.now += 0.001
    writer.dirty.note(b"copied", writer.now, PHP)
    assert writer.look() == (1, 1000)


def test_what_is_no_file_has_no_size(writer: Writer) -> None:
    (writer.tree / "d").mkdir()
    writer.dirty.note(b"d", writer.now, PHP)
    assert writer.look() == (0, 0)


def test_a_look_that_took_long_is_followed_by_a_rest(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = writer.growth._ask

    def slow(*given: object) -> int:
        writer.spent += 0.1
        return ask(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(writer.growth, "_ask", slow)
    writer.write("log", MB, open=True)
    assert writer.look() == (1, MB)
    writer.write("log", 2 * MB, open=True)
    assert writer.look() == (0, 0), "it keeps the processor for a tenth of the time at most"
    writer.now += module.REST_SHARE * 0.1
    assert writer.look() == (0, MB)
