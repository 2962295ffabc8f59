"""Scans with the help of processes that list directories, against the same tree read by other means."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from closeranks_agent.disk import observer as observer_module
from closeranks_agent.disk.listers import Lister, Listers
from closeranks_agent.disk.volume import Volume

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]


@pytest.fixture
def listers() -> Iterator[Listers]:
    found = Listers(2)
    yield found
    found.close()


@pytest.fixture
def helped(
    make_volume: MakeVolume, listers: Listers, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Volume]:
    """A scanned volume whose next scans are helped, however small it is."""
    monkeypatch.setattr(observer_module, "LISTED_ENTRIES_MIN", 0)

    def make(**changed: object) -> Volume:
        volume = make_volume(**changed)
        volume.listers = listers
        time.sleep(0.03)  # the clock moves on from the stamps of the newest files
        for _ in range(2):
            assert volume.scan().complete
        return volume

    return make


def plant(tree: Path, directories: int = 12) -> None:
    for number in range(directories):
        place = tree / f"d{number}" / "inner" / "deep"
        place.mkdir(parents=True)
        for name in ("a", "b"):
            (place / name).write_bytes(os.urandom(50))
            (place.parent / name).write_bytes(os.urandom(50))


def mutate(tree: Path, rng: random.Random) -> None:
    """Some of everything that may happen to a tree."""
    places = [Path(place) for place, _, _ in os.walk(tree) if ".closeranks" not in place]
    files = [file for place in places for file in place.iterdir() if file.is_file()]
    for file in rng.sample(files, min(3, len(files))):
        file.write_bytes(rng.randbytes(40))
    (rng.choice(places) / f"new{rng.random()}").write_bytes(b"new")
    shutil.rmtree(rng.choice([place for place in places if place != tree]))
    fresh = rng.choice([place for place in places if place.exists()]) / f"made{rng.random()}" / "below"
    fresh.mkdir(parents=True)
    (fresh / "file").write_bytes(b"fresh")


def test_an_unchanged_tree_is_listed_by_others_and_compared_by_nobody(
    tree_dir: Path, helped: Callable[..., Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = helped()
    asked: list[int] = []
    ask = Lister.ask
    monkeypatch.setattr(Lister, "ask", lambda self, *rest: (asked.append(len(rest[2])), ask(self, *rest)))
    report = volume.scan()
    assert report.complete
    assert (report.changed, report.hashed_files, report.directories_compared) == (0, 0, 0)
    assert sum(asked) == 1 + 3 * 12


@pytest.mark.parametrize("seed", range(6))
def test_whatever_changes_is_found(
    tree_dir: Path, helped: Callable[..., Volume], expected_root: Expected, seed: int
) -> None:
    rng = random.Random(seed)
    plant(tree_dir)
    volume = helped()
    for _ in range(3):
        mutate(tree_dir, rng)
        assert volume.scan().complete
        assert volume.root == expected_root(volume)


def test_ignored_directories_are_not_entered(tree_dir: Path, helped: Callable[..., Volume]) -> None:
    plant(tree_dir)
    volume = helped(ignore=("inner/",))
    (tree_dir / "d3" / "inner" / "new").write_bytes(b"ignored")
    report = volume.scan()
    assert (report.complete, report.changed, report.ignored) == (True, 0, 12)
    assert volume.summary is not None
    assert volume.summary.entries == 12


def test_a_directory_that_became_a_link_is_not_followed(
    tree_dir: Path, tmp_path: Path, helped: Callable[..., Volume], expected_root: Expected
) -> None:
    plant(tree_dir)
    volume = helped()
    outside = tmp_path / "outside"
    (tree_dir / "d5" / "inner").rename(outside)
    (tree_dir / "d5" / "inner").symlink_to(outside)
    assert volume.scan().complete
    assert volume.root == expected_root(volume)
    assert volume.record(b"d5\0inner\0a") is None


def test_a_tree_of_a_thousand_levels_is_swept(tree_dir: Path, helped: Callable[..., Volume]) -> None:
    place = os.open(tree_dir, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=place)
        deeper = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = deeper
    os.close(place)
    try:
        report = helped().scan()
        assert (report.complete, report.changed, report.entries) == (True, 0, 1000)
    finally:
        subprocess.run(["rm", "-rf", str(tree_dir / "d")], check=True)  # deeper than Python's own way can go


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_process_that_dies_costs_nothing_but_its_help(
    tree_dir: Path, helped: Callable[..., Volume], expected_root: Expected, listers: Listers,
    monkeypatch: pytest.MonkeyPatch, when: str,
) -> None:  # fmt: skip
    plant(tree_dir, 40)
    volume = helped()
    (tree_dir / "d7" / "inner" / "a").write_bytes(b"changed")
    answer = Lister.answer

    def dying(self: Lister) -> object:
        self._process.kill()
        self._process.wait()
        return answer(self)

    if when == "during":
        monkeypatch.setattr(Lister, "answer", dying)
        assert volume.scan().complete
        monkeypatch.undo()
    else:
        for lister in listers._listers:
            lister._process.kill()
            lister._process.wait()
        assert volume.scan().complete
    assert volume.root == expected_root(volume)
    monkeypatch.setattr(observer_module, "LISTED_ENTRIES_MIN", 0)
    assert volume.scan().complete
    assert all(lister.alive for lister in listers._listers)


def test_a_scan_that_is_stopped_leaves_no_answers_for_the_next(
    tree_dir: Path, helped: Callable[..., Volume], expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = helped()
    take = Lister.answer

    def stopping(self: Lister) -> object:
        volume.stop()
        return take(self)

    monkeypatch.setattr(Lister, "answer", stopping)
    assert not volume.scan().complete
    monkeypatch.setattr(Lister, "answer", take)
    volume._worker._stop.clear()
    (tree_dir / "d1" / "inner" / "b").write_bytes(b"changed")
    assert volume.scan().complete
    assert volume.root == expected_root(volume)


def test_a_look_in_the_middle_that_removes_directories_is_not_undone(
    tree_dir: Path, helped: Callable[..., Volume], expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = helped()
    take, done = Lister.answer, []

    def meanwhile(self: Lister) -> object:
        found = take(self)
        if not done:  # what was just listed is moved before it is believed
            (tree_dir / "d2").rename(tree_dir / "e2")
            (tree_dir / "d3" / "inner" / "a").write_bytes(b"changed")
            done.append(volume.look_soon({b"": frozenset({b"d2", b"e2"})}, {}, time.monotonic()))
        return found

    monkeypatch.setattr(Lister, "answer", meanwhile)
    assert volume.scan().complete
    assert done[0].result(timeout=10).changed > 0
    assert volume.root == expected_root(volume)


def test_only_one_scan_at_a_time_is_helped(tmp_path: Path, listers: Listers) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with listers.lent(fd) as first, listers.lent(fd) as second:
            assert len(first) == 2
            assert not second
        with listers.lent(fd) as third:
            assert [lister.pid for lister in third] == [lister.pid for lister in first]
    finally:
        os.close(fd)


def test_a_root_that_is_gone_is_no_deletion(
    tree_dir: Path, helped: Callable[..., Volume], tmp_path: Path
) -> None:
    plant(tree_dir)
    volume = helped()
    before = volume.root
    tree_dir.rename(tmp_path / "elsewhere")
    tree_dir.mkdir()
    report = volume.scan()
    assert not report.complete
    assert volume.root == before
