"""Scans that have other processes read what is new: the same roots, rows and reports as without."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from closeranks_agent.disk import fresh as fresh_module
from closeranks_agent.disk import recorder as recorder_module
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.database import CHECKPOINT_PAGES
from closeranks_agent.disk.packs import rows_of
from closeranks_agent.disk.volume import Volume
from closeranks_agent.hotpath.readers import Question, Readers
from closeranks_proto.entries import decode_entry
from closeranks_proto.limits import MIB

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to read, other processes read it."""
    monkeypatch.setattr(scan_module, "READERS_FILES", 0)
    monkeypatch.setattr(recorder_module, "GROW_ROWS", 1)


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every reader that was started."""
    seen: list[int] = []
    start = Readers._start

    def starting(self: Readers) -> object:
        reader = start(self)
        seen.append(reader.process.pid)
        return reader

    monkeypatch.setattr(Readers, "_start", starting)
    return seen


def plant(root: Path, seed: int = 1, files: int = 60) -> None:
    """Directories, files of all sizes, links, names that are no text."""
    rng = random.Random(seed)
    for number in range(files):
        place = root / f"d{number % 7}" / ("e/f" if number % 3 else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}").write_bytes(rng.randbytes(rng.choice([0, 10, 4096, 4097, 20_000])))
    (root / "void").mkdir()
    (root / "link").symlink_to("d1/1")
    (root / os.fsdecode(b"d1/\xff\x01")).write_bytes(b"no text")
    (root / "mode").write_bytes(b"x")
    (root / "mode").chmod(0o6751)
    time.sleep(0.05)  # the clock moves on from the newest stamp


@pytest.mark.parametrize("track", [(), ("mode",), ("mode", "owner", "mtime"), ("mode", "xattrs")])
@pytest.mark.parametrize("digest", ["xxh3-128", "blake3"])
def test_the_root_is_that_of_what_lies_on_disk(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, pids: list[int], track: tuple[str, ...],
    digest: str,
) -> None:  # fmt: skip
    plant(tree_dir)
    volume = make_volume(track=track, digest=digest)
    report = volume.scan()
    assert report.complete
    assert report.hashed_files == report.files == 62
    assert bool(pids) is ("xattrs" not in track)
    if "xattrs" not in track:
        assert volume.root == expected_root(volume)
    again = volume.scan()
    assert (again.directories_compared, again.hashed_files, again.changed) == (0, 0, 0)


def test_a_long_file_counts_once_and_its_bytes_as_they_are_read(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a tree of few long files shows no progress, and more files than it has."""
    with (tree_dir / "long").open("wb") as file:
        file.truncate(70 * MIB + 1)
    (tree_dir / "short").write_bytes(b"x")
    time.sleep(0.05)
    monkeypatch.setattr(fresh_module, "RANGE_BYTES", 16 * MIB)
    seen: list[tuple[int, int]] = []
    answered = fresh_module.Fresh._answered

    def watched(self: fresh_module.Fresh, question: Question, parts: Sequence[Any] | None) -> None:
        answered(self, question, parts)
        seen.append((self.findings.hashed_files, self.findings.hashed_bytes))

    monkeypatch.setattr(fresh_module.Fresh, "_answered", watched)
    report = make_volume(chunk_bytes=MIB).scan()
    assert (report.hashed_files, report.hashed_bytes) == (2, 70 * MIB + 2)
    assert seen[0] == (1, 1)
    assert len({size for _, size in seen}) == 6


def test_rows_are_the_same_as_without_other_processes(
    tree_dir: Path, tmp_path: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    found = []
    for name in ("state", "other"):
        volume = make_volume(state=tmp_path / name)
        volume.scan()
        database = volume.history.index.database
        rows = database.rows("SELECT * FROM entries")
        packs = database.rows("SELECT dir, rows FROM packs")
        rows += [(place, *row, None) for place, pack in packs for row in rows_of(cast(bytes, pack))]
        assert bool(packs) == (name == "state")
        found.append([*sorted(rows), *database.rows("SELECT * FROM listings ORDER BY dir")])
        monkeypatch.setattr(scan_module, "READERS_FILES", 1 << 40)
    assert len(found[0]) > 62
    assert found[0] == found[1]


def test_a_directory_of_very_many_names_is_shared(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    for number in range(5000):
        (tree_dir / f"{number:05}").write_bytes(b"%d" % number)
    (tree_dir / "sub").mkdir()
    (tree_dir / "sub/f").write_bytes(b"below")
    time.sleep(0.05)
    volume = make_volume()
    assert volume.scan().hashed_files == 5001
    assert volume.root == expected_root(volume)
    assert volume.scan().directories_compared == 0


def test_long_files_are_read_in_ranges(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch,
    pids: list[int],
) -> None:  # fmt: skip
    monkeypatch.setattr(fresh_module, "RANGE_BYTES", 4 * MIB)
    data = random.Random(3).randbytes(40 * MIB + 4321)
    (tree_dir / "long").write_bytes(data)
    (tree_dir / "other").write_bytes(data[: 33 * MIB])
    with (tree_dir / "sparse").open("wb") as file:
        file.truncate(50 * MIB)
    time.sleep(0.05)
    volume = make_volume(chunk_bytes=MIB)
    report = volume.scan()
    assert report.hashed_bytes == 123 * MIB + 4321
    assert len(pids) <= len(os.sched_getaffinity(0)), "no reader ended"
    assert volume.root == expected_root(volume)
    assert volume.scan().directories_compared == 0
    record = volume.record(b"long")
    assert record is not None
    assert record.chunks is not None


def test_a_tree_of_a_thousand_levels(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tree_dir, os.O_RDONLY)
    for _ in range(1000):
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    time.sleep(0.05)
    volume = make_volume()
    assert volume.scan().entries == 2000
    monkeypatch.setattr(scan_module, "READERS_FILES", 1 << 40)
    again = volume.scan(full=True)
    assert (again.changed, again.entries) == (0, 2000)
    subprocess.run(["rm", "-rf", tree_dir / "d"], check=True)  # deeper than Python's own way can go


def test_paths_beyond_the_longest_are_reported(tree_dir: Path, make_volume: MakeVolume) -> None:
    fd = os.open(tree_dir, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("p" * 250, dir_fd=fd)
        deeper = os.open("p" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    volume = make_volume()
    report = volume.scan()
    assert report.complete
    assert report.entries == 16
    assert [(one.why, len(one.key) > 4000) for one in report.unreadable] == [("unreadable", True)]


def test_several_names_of_one_file(tree_dir: Path, make_volume: MakeVolume, expected_root: Expected) -> None:
    plant(tree_dir, files=20)
    (tree_dir / "copy").mkdir()
    for path in [path for path in tree_dir.rglob("*") if path.is_file() and not path.is_symlink()]:
        os.link(path, tree_dir / "copy" / str(path.stat().st_ino))
    time.sleep(0.05)
    volume = make_volume()
    report = volume.scan()
    assert report.hard_links == 44
    assert volume.root == expected_root(volume)
    assert volume.scan().hard_links == 44


def test_what_is_odd_is_reported_once_and_the_rest_is_kept(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    os.mkfifo(tree_dir / "d1/pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(tree_dir / "d2/e/socket"))
    volume = make_volume()
    report = volume.scan()
    assert sorted((one.key, one.why) for one in report.unreadable) == [
        (b"d1\0pipe", "special"), (b"d2\0e\0socket", "special"),
    ]  # fmt: skip
    assert report.hashed_files == 62, "what was recorded is not read again"
    assert volume.root == expected_root(volume)


@pytest.mark.root
def test_what_can_not_be_read_is_an_error_and_no_deletion(tmp_path: Path) -> None:
    plant(tmp_path / "tree")
    for name in ("d0/0", "d3"):
        os.chown(tmp_path / "tree" / name, 65534, 65534)
        (tmp_path / "tree" / name).chmod(0)
    program = (
        "import json, os, sys\n"
        "from closeranks_agent.disk import scan\n"
        "from closeranks_agent.disk.volume import Volume\n"
        "from closeranks_proto.digests import XXH3_128\n"
        "from closeranks_proto.messages import VolumeSettings\n"
        "scan.READERS_FILES = int(sys.argv[2])\n"
        "settings = VolumeSettings('v', 4096, (), ('mode',), 60.0, False, None, 604800.0)\n"
        "volume = Volume('v', os.fsencode(sys.argv[1] + '/tree'), sys.argv[1], settings, XXH3_128)\n"
        "report = volume.scan()\n"
        "print(json.dumps([volume.root.hex(), report.complete, report.files,"
        " sorted((os.fsdecode(one.key), one.why) for one in report.unreadable)]))\n"
        "volume.close()\n"
    )
    said = []
    for least in ("0", "1000000"):
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c", program]
        done = subprocess.run([*words, tmp_path, least], stdout=subprocess.PIPE, check=True)
        said.append(json.loads(done.stdout))
        (tmp_path / "volume-v.sqlite").unlink()
    assert said[0] == said[1]
    assert said[0][1] is True
    assert said[0][3] == [["d0\0" + "0", "unreadable"], ["d3", "unreadable"]]


def test_a_file_that_never_rests_is_right_in_the_end(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir, files=20)
    (tree_dir / "d1/busy").write_bytes(bytes(300_000))
    stop = threading.Event()

    def rewrite() -> None:
        with (tree_dir / "d1/busy").open("r+b", buffering=0) as file:
            while not stop.is_set():
                file.seek(0)
                file.write(os.urandom(64))

    writer = threading.Thread(target=rewrite)
    writer.start()
    volume = make_volume(chunk_bytes=MIB)
    try:
        report = volume.scan()
    finally:
        stop.set()
        writer.join()
    assert report.complete
    time.sleep(0.05)
    while volume.scan().busy:
        time.sleep(0.05)
    assert volume.root == expected_root(volume)


def test_files_that_come_go_shrink_and_grow_meanwhile(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir, files=400)
    stop = threading.Event()
    rng = random.Random(4)

    def meddle() -> None:
        while not stop.is_set():
            path = tree_dir / f"d{rng.randrange(7)}" / rng.choice("vwxyz")
            match rng.randrange(4):
                case 0:
                    path.unlink(missing_ok=True)
                case 1:
                    path.write_bytes(rng.randbytes(rng.randrange(30_000)))
                case 2 if path.exists():
                    os.truncate(path, rng.randrange(60_000))
                case _:
                    path.with_name("moved").unlink(missing_ok=True)
                    if path.exists():
                        path.rename(path.with_name("moved"))

    writer = threading.Thread(target=meddle)
    writer.start()
    volume = make_volume()
    try:
        assert volume.scan().complete
    finally:
        stop.set()
        writer.join()
    time.sleep(0.05)
    while (report := volume.scan()).busy or report.changed:
        assert report.complete
    assert volume.root == expected_root(volume)


def test_readers_that_are_killed_in_the_middle_lose_nothing(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, pids: list[int]
) -> None:
    plant(tree_dir, files=300)
    for number in range(3000):
        place = tree_dir / "many" / f"{number // 10}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}").write_bytes(b"%d" % number)
    time.sleep(0.05)
    volume = make_volume()
    done = threading.Event()

    def kill() -> None:
        killed: set[int] = set()
        while not done.is_set() and len(killed) < 5:
            for pid in [pid for pid in list(pids) if pid not in killed]:
                time.sleep(0.1)  # it has begun
                killed.add(pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # the scan was sooner
            done.wait(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = volume.scan()
    finally:
        done.set()
        killer.join()
    assert report.complete
    assert volume.root == expected_root(volume)


def test_without_any_process_everything_is_read_here(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)

    def fail(self: Readers) -> object:
        raise OSError(11, "no more processes")

    monkeypatch.setattr(Readers, "_start", fail)
    volume = make_volume()
    report = volume.scan()
    assert (report.complete, report.hashed_files) == (True, 62)
    assert volume.root == expected_root(volume)


def test_a_scan_that_is_stopped_goes_on_where_it_was(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir, files=200)
    volume = make_volume()
    answered = fresh_module.Fresh._answered
    count = 0

    def answering(self: fresh_module.Fresh, *given: object) -> None:
        nonlocal count
        count += 1
        answered(self, *given)  # type: ignore[arg-type]
        if count == 3:
            volume.stop()

    monkeypatch.setattr(fresh_module, "BATCH_DIRECTORIES", 1)
    monkeypatch.setattr(fresh_module.Fresh, "_answered", answering)
    first = volume.scan()
    assert not first.complete
    limit = volume.history.index.database.row("PRAGMA wal_autocheckpoint")
    assert limit == (CHECKPOINT_PAGES,)  # not that of a mass change: nothing may come for long
    volume._worker._stop.clear()
    second = volume.scan()
    assert second.complete
    assert volume.root == expected_root(volume)
    assert first.hashed_files > 0
    assert second.hashed_files < 202


def test_a_scan_is_stopped_also_while_its_readers_are_held_up(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal, or by a disk that does not answer: with a look that waits for what is under way."""
    plant(tree_dir)
    volume = make_volume()
    volume.scan()
    plant(tree_dir / "new", seed=2, files=300)
    monkeypatch.setattr(scan_module, "BREATH_S", 0.0)
    monkeypatch.setattr(fresh_module, "BATCH_DIRECTORIES", 1)
    monkeypatch.setattr(volume._worker, "breathe", lambda is_ready: False)
    answers, held = Readers.answers, threading.Event()

    def answering(self: Readers, wait_s: float) -> object:
        if len(self.pids) == 2 and not held.is_set():
            for pid in self.pids:
                os.kill(pid, signal.SIGSTOP)
            held.set()
        return answers(self, wait_s)

    monkeypatch.setattr(Readers, "answers", answering)
    found: list[bool] = []
    scan = threading.Thread(target=lambda: found.append(volume.scan().complete), daemon=True)
    scan.start()
    assert held.wait(30)
    time.sleep(2 * fresh_module.WAIT_S)  # so that it has begun to wait
    volume.stop()
    scan.join(30)
    assert found == [False]


def test_whoever_waits_is_let_through_while_a_new_tree_is_read(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look moves away a directory in the middle of it; nothing is recorded below its old name."""
    plant(tree_dir, files=20)
    volume = make_volume()
    volume.scan()
    plant(tree_dir / "new", seed=2, files=300)
    monkeypatch.setattr(scan_module, "BREATH_S", 0.0)
    monkeypatch.setattr(fresh_module, "BATCH_DIRECTORIES", 1)
    moved = []

    def move(is_ready: Callable[[], bool]) -> bool:
        if is_ready() and (tree_dir / "new/d1").exists() and volume.history.index.row(b"new\0d1") is not None:
            (tree_dir / "new/d1").rename(tree_dir / "elsewhere")
            volume.look({b"": frozenset([b"elsewhere"]), b"new": frozenset([b"d1"])}, {})
            moved.append(True)
            return True
        return False

    monkeypatch.setattr(volume._worker, "breathe", move)
    assert volume.scan().complete
    assert moved
    assert volume.root == expected_root(volume)
    assert volume.history.index.row(b"new\0d1") is None
    assert not list(volume.history.index.rows(b"new\0d1"))


def test_a_new_tree_in_a_known_volume_becomes_steps(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, pids: list[int]
) -> None:
    plant(tree_dir, files=20)
    volume = make_volume()
    volume.scan()
    volume.acknowledge(volume.last_seq)
    del pids[:]
    plant(tree_dir / "new", seed=2, files=100)
    (tree_dir / "new/long").write_bytes(bytes(10_000))
    time.sleep(0.05)
    report = volume.scan()
    assert pids
    assert report.changed == report.entries - 45
    assert volume.root == expected_root(volume)
    edits = [edit for commit in volume.pending(volume.first_seq - 1, 1000) for edit in commit.edits]  # type: ignore[union-attr]
    assert len(edits) == report.changed
    [long] = [edit for edit in edits if edit.key == b"new\0long"]
    assert long.chunks is not None
    assert decode_entry(long.value or b"", 16).size == 10_000


def test_a_tree_that_goes_away_in_the_middle(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir, files=200)
    answered = fresh_module.Fresh._answered
    gone = False

    def answering(self: fresh_module.Fresh, *given: object) -> None:
        nonlocal gone
        answered(self, *given)  # type: ignore[arg-type]
        if not gone:
            gone = True
            for name in ("d1", "d2", "d3"):
                shutil.rmtree(tree_dir / name)

    monkeypatch.setattr(fresh_module, "BATCH_DIRECTORIES", 1)
    monkeypatch.setattr(fresh_module.Fresh, "_answered", answering)
    volume = make_volume()
    report = volume.scan()
    assert report.complete
    time.sleep(0.05)
    volume.scan()
    assert [key for key, _ in volume.history.index.rows() if key[:2] in (b"d1", b"d2", b"d3")] == []
