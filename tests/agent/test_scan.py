"""Scans against real trees. The independent reading in conftest is the oracle for roots."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from closeranks_agent.disk import hashing as hashing_module
from closeranks_agent.disk import listing as listing_module
from closeranks_agent.disk import recorder as recorder_module
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.findings import Findings
from closeranks_agent.disk.hashing import EntryReader, Reading
from closeranks_agent.disk.records import Record, StatSignature
from closeranks_agent.disk.scan import Scan
from closeranks_agent.disk.volume import Volume
from closeranks_proto.entries import Kind, decode_entry
from closeranks_proto.limits import MAX_PATH_BYTES, REPORT_MAX_UNREADABLE, SNAPSHOT_EDITS
from closeranks_proto.messages import Announce, Commit

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]


def settle(path: Path) -> None:
    """Wait until the clock has moved on from the stamps of the newest files."""
    time.sleep(0.03)


def scanned(volume: Volume) -> Volume:
    report = volume.scan()
    assert report.complete, report.problem
    return volume


def plant(tree_dir: Path) -> None:
    (tree_dir / "d" / "e").mkdir(parents=True)
    (tree_dir / "d" / "small").write_bytes(b"small")
    (tree_dir / "d" / "e" / "long").write_bytes(os.urandom(10_000))
    (tree_dir / "empty").write_bytes(b"")
    (tree_dir / "void").mkdir()
    (tree_dir / "link").symlink_to("d/small")
    (tree_dir / "dangling").symlink_to("/no/where")


# --- what is found -------------------------------------------------------------------------------


def test_the_root_is_that_of_what_lies_on_disk(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    assert volume.root == expected_root(volume)
    assert volume.summary is not None
    assert (volume.summary.entries, volume.summary.files, volume.summary.bytes) == (8, 3, 10_005)


def test_an_empty_tree_has_the_root_of_the_empty_page(make_volume: MakeVolume) -> None:
    volume = scanned(make_volume())
    assert volume.root == volume.tree.empty.root


@pytest.mark.parametrize("track", [(), ("mode",), ("mode", "owner"), ("mtime",), ("mode", "owner", "mtime")])
def test_what_is_tracked_is_in_the_root(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, track: tuple[str, ...]
) -> None:
    plant(tree_dir)
    (tree_dir / "empty").chmod(0o6755)
    volume = scanned(make_volume(track=track))
    assert volume.root == expected_root(volume)


def test_blake3_and_other_chunk_lengths(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume(digest="blake3", chunk_bytes=8192))
    assert volume.root == expected_root(volume)


def test_hostile_names(tree_dir: Path, make_volume: MakeVolume, expected_root: Expected) -> None:
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"esc\x1b[31m",
        b"n" * 255,
        "é".encode(),
        "e\u0301".encode(),
        b"Twin",
        b"twin",
        b" ",
    ]
    for name in names:
        (tree_dir / os.fsdecode(name)).write_bytes(name)
    volume = scanned(make_volume())
    assert volume.root == expected_root(volume)
    assert all(volume.record(name) is not None for name in names)


def test_paths_of_the_longest_length_below_a_long_root(tmp_path: Path, make_volume: MakeVolume) -> None:
    root = tmp_path / ("r" * 200) / ("s" * 200)
    root.mkdir(parents=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    parts = [b"p" * 255] * 15 + [b"q" * 253]  # 15 * 256 + 253 = 4093 and a name of one byte beneath: 4095
    for name in parts:
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(os.open(b"gg", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    volume = make_volume(path=root)
    report = volume.scan()
    longest = b"\0".join([*parts, b"f"])
    assert len(longest) == MAX_PATH_BYTES
    assert volume.record(longest) is not None
    assert [(found.why, len(found.key)) for found in report.unreadable] == [("unreadable", MAX_PATH_BYTES)]


def test_nothing_is_followed_out_of_the_volume(
    tree_dir: Path, tmp_path: Path, make_volume: MakeVolume
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"x")
    (tree_dir / "door").symlink_to(tmp_path / "outside")
    volume = scanned(make_volume())
    record = volume.record(b"door")
    assert record is not None
    assert decode_entry(record.value, 16).kind is Kind.SYMLINK
    assert volume.record(b"door\0secret") is None


def test_special_files_are_reported_and_left_alone(tree_dir: Path, make_volume: MakeVolume) -> None:
    os.mkfifo(tree_dir / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tree_dir)  # a socket's path is short
    listener.bind("socket")
    os.chdir(here)
    (tree_dir / "f").write_bytes(b"x")
    volume = make_volume()
    report = volume.scan()
    listener.close()
    assert [(found.key, found.why, found.detail) for found in report.unreadable] == [
        (b"pipe", "special", "a named pipe"), (b"socket", "special", "a socket"),
    ]  # fmt: skip
    assert (report.unreadable_count, report.entries) == (2, 1)
    assert volume.scan().unreadable_count == 2  # and again, though nothing changed


def test_the_private_directory_is_not_scanned_but_only_at_the_root(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    (tree_dir / "d" / ".closeranks").mkdir(parents=True)
    (tree_dir / "d" / ".closeranks" / "f").write_bytes(b"x")
    volume = scanned(make_volume())
    assert (tree_dir / ".closeranks" / "stage").is_dir()
    assert volume.record(b".closeranks") is None
    assert volume.record(b"d\0.closeranks\0f") is not None


def test_ignored_paths_are_counted_and_left_out(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    (tree_dir / "cache").mkdir()
    (tree_dir / "cache" / "x").write_bytes(b"x")
    (tree_dir / "d" / "a.tmp").write_bytes(b"x")
    os.mkfifo(tree_dir / "pipe.tmp")
    volume = make_volume(ignore=("*.tmp", "cache/"))
    settle(tree_dir)
    assert volume.scan().ignored == 3
    report = volume.scan()
    assert (report.ignored, report.directories_compared, report.unreadable_count) == (3, 0, 0)
    assert volume.record(b"cache") is None


def test_hard_links_are_counted(tree_dir: Path, make_volume: MakeVolume, expected_root: Expected) -> None:
    (tree_dir / "a").write_bytes(b"x")
    os.link(tree_dir / "a", tree_dir / "b")
    volume = make_volume()
    assert volume.scan().hard_links == 2
    settle(tree_dir)
    volume.scan()
    assert volume.scan().hard_links == 2
    assert volume.root == expected_root(volume)


def test_a_file_that_is_too_long_is_reported(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "huge").write_bytes(b"x" * 10_000)
    volume = make_volume()
    volume._observer.reader.max_file_bytes = 9_999
    report = volume.scan()
    assert [(found.key, found.why) for found in report.unreadable] == [(b"huge", "too_large")]
    assert volume.record(b"huge") is None


# --- what a rescan does --------------------------------------------------------------------------


def test_a_rescan_of_an_unchanged_tree_looks_into_nothing(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    settle(tree_dir)
    volume = scanned(make_volume())
    seq = volume.last_seq
    report = volume.scan()
    assert (report.directories_compared, report.hashed_files, report.changed) == (0, 0, 0)
    assert volume.last_seq == seq


def test_only_what_changed_is_hashed(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    settle(tree_dir)
    volume = scanned(make_volume())
    (tree_dir / "d" / "small").write_bytes(b"SMALL")
    report = volume.scan()
    assert (report.hashed_files, report.changed, report.directories_compared) == (1, 1, 1)
    assert volume.root == expected_root(volume)


def test_the_same_size_and_mtime_with_other_bytes_are_seen(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    path = tree_dir / "f"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    settle(tree_dir)
    volume = scanned(make_volume())
    path.write_bytes(b"two")
    os.utime(path, ns=(10**18, 10**18))
    assert volume.scan().changed == 1
    assert volume.root == expected_root(volume)


def test_a_file_read_within_the_tick_of_its_ctime_is_read_once_more(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "f").write_bytes(b"x")
    monkeypatch.setattr(hashing_module, "clock_ns", lambda: (tree_dir / "f").stat().st_ctime_ns)
    volume = scanned(make_volume())
    record = volume.record(b"f")
    assert record is not None
    assert not record.settled
    monkeypatch.undo()
    settle(tree_dir)
    assert volume.scan().hashed_files == 1
    assert volume.scan().hashed_files == 0


def test_a_change_that_leaves_the_stat_alone_is_seen_while_the_record_is_not_settled(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two writes fall into one tick of the kernel's clock."""
    path = tree_dir / "f"
    path.write_bytes(b"one")
    real = EntryReader.read_file

    def pretend(self: EntryReader, key: bytes, fd: int, stopped: object = None) -> Reading:
        reading = real(self, key, fd)
        value = self.file_value(os.fstat(fd), self.algorithm.of(b"old"), None)
        return Reading(Record(key, value, reading.record.stat, None, False), True, reading.bytes)

    volume = make_volume()
    monkeypatch.setattr(EntryReader, "read_file", pretend)
    scanned(volume)
    monkeypatch.undo()
    assert volume.scan().changed == 1
    assert volume.root == expected_root(volume)


def test_a_mode_change_is_seen(tree_dir: Path, make_volume: MakeVolume, expected_root: Expected) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    (tree_dir / "d" / "small").chmod(0o600)
    (tree_dir / "void").chmod(0o1777)
    assert volume.scan().changed == 2
    assert volume.root == expected_root(volume)


def test_kinds_that_change_take_what_was_beneath_along(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    subprocess.run(["rm", "-r", str(tree_dir / "d")], check=True)
    (tree_dir / "d").write_bytes(b"a file now")
    (tree_dir / "empty").unlink()
    (tree_dir / "empty").mkdir()
    (tree_dir / "empty" / "x").write_bytes(b"x")
    (tree_dir / "link").unlink()
    os.mkfifo(tree_dir / "link")
    scanned(volume)
    assert volume.root == expected_root(volume)
    assert [key for key, _ in volume.history.index.items()] == [
        b"d",
        b"dangling",
        b"empty",
        b"empty\0x",
        b"void",
    ]


def test_children_are_removed_before_their_directory(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every root between two commits is a tree without orphans."""
    for number in range(30):
        (tree_dir / "d" / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        (tree_dir / "d" / f"{number % 3}" / f"{number}").write_bytes(b"x")
    (tree_dir / "stays").write_bytes(b"x")
    volume = scanned(make_volume())
    monkeypatch.setattr(recorder_module, "COMMIT_MAX_EDITS", 4)
    subprocess.run(["rm", "-r", str(tree_dir / "d")], check=True)
    scanned(volume)
    steps = [step for step in volume.pending(1, 99) if isinstance(step, Commit)]
    assert len(steps) > 3
    for step in steps:
        keys = {key for key, _ in volume.tree.walk(step.root)}
        assert all(key.rpartition(b"\0")[0] in keys for key in keys if b"\0" in key)


def test_keys_to_reread_are_read_whatever_their_stat_says(tree_dir: Path, make_volume: MakeVolume) -> None:
    plant(tree_dir)
    settle(tree_dir)
    volume = scanned(make_volume())
    report = volume.scan(reread=[b"d\0small", b"not\0there"])
    assert (report.hashed_files, report.hashed_bytes, report.changed) == (1, 5, 0)


def test_a_full_scan_looks_into_every_directory_and_reads_no_content(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    plant(tree_dir)
    settle(tree_dir)
    volume = scanned(make_volume())
    report = volume.scan(full=True)
    assert (report.directories_compared, report.hashed_files) == (4, 0)


def test_a_directory_of_many_entries_is_compared_in_blocks(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "KEEP_ENTRIES", 20)
    monkeypatch.setattr(listing_module, "BLOCK_ENTRIES", 8)
    for number in range(100):
        (tree_dir / f"{number}").write_bytes(b"x")
    settle(tree_dir)
    volume = scanned(make_volume())
    assert volume.scan().directories_compared == 0
    (tree_dir / "50").unlink()
    (tree_dir / "5x").write_bytes(b"y")
    assert volume.scan().changed == 2
    assert volume.root == expected_root(volume)


# --- errors are no deletions ---------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, number: int, name: bytes) -> None:
    """Opening `name` gives that error; root may read everything, so permissions do not."""
    real = os.open

    def fail(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if path == name:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize(("number", "text"), [(13, "Permission denied"), (5, "Input/output error")])
def test_an_unreadable_file_keeps_its_entry_and_is_reported(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    root = volume.root
    (tree_dir / "empty").write_bytes(b"changed")
    failing(monkeypatch, number, b"empty")
    report = volume.scan()
    assert report.complete
    assert [(found.key, found.why, found.detail) for found in report.unreadable] == [
        (b"empty", "unreadable", text)
    ]
    assert volume.root == root
    monkeypatch.undo()
    assert volume.scan().changed == 1
    assert volume.condition.unreadable == ()


def test_an_error_is_named_however_much_is_left_out_by_rule() -> None:
    """A directory full of sockets must not hide a file that could not be read: an error is not a pass."""
    findings = Findings()
    for number in range(REPORT_MAX_UNREADABLE + 5):
        findings.report(b"socket %d" % number, "special", "a socket")
    findings.report(b"photo", "unreadable", "Input/output error")
    assert findings.left_out[0].key == b"photo"
    assert len(findings.left_out) == REPORT_MAX_UNREADABLE
    assert findings.left_out_count == REPORT_MAX_UNREADABLE + 6


def test_an_unreadable_directory_keeps_everything_beneath(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    root = volume.root
    failing(monkeypatch, 13, b"d")
    report = volume.scan()
    assert [(found.key, found.why) for found in report.unreadable] == [(b"d", "unreadable")]
    assert volume.root == root


def test_a_directory_whose_listing_fails_keeps_everything_beneath(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    root = volume.root
    real = os.scandir

    def fail(fd: int) -> object:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/d"):
            raise OSError(5, "Input/output error")
        return real(fd)

    monkeypatch.setattr(os, "scandir", fail)
    assert volume.scan().unreadable_count == 1
    assert volume.root == root


def test_a_file_that_is_gone_when_it_is_opened_is_simply_gone(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    (tree_dir / "empty").write_bytes(b"changed")
    failing(monkeypatch, 2, b"empty")
    report = volume.scan()
    assert report.unreadable == ()
    assert volume.record(b"empty") is None


def test_a_root_that_can_not_be_listed_is_a_problem(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    volume = scanned(make_volume())
    root, calls, real = volume.root, [0], os.scandir

    def fail(fd: int) -> object:
        calls[0] += 1
        if calls[0] > 1 and os.readlink(f"/proc/self/fd/{fd}") == str(tree_dir):
            raise OSError(5, "Input/output error")
        return real(fd)

    monkeypatch.setattr(os, "scandir", fail)
    report = volume.scan()
    assert not report.complete
    assert report.problem is not None
    assert report.problem.code == "io_error"
    assert volume.root == root


@pytest.mark.parametrize("mtime_ns", [-(10**18), 2**63, 14 * 10**18])
def test_mtimes_far_from_now_do_no_harm(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, mtime_ns: int
) -> None:
    (tree_dir / "f").write_bytes(b"x")
    (tree_dir / "l").symlink_to("x")
    for name in ("f", "l"):
        os.utime(tree_dir / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    settle(tree_dir)
    volume = scanned(make_volume(track=("mode", "mtime")))
    assert volume.scan().changed == 0
    record = volume.record(b"f")
    assert record is not None
    status = (tree_dir / "f").lstat()
    assert decode_entry(record.value, 16).mtime_ns == min(status.st_mtime_ns, 2**63 - 1)
    assert record.stat == StatSignature.of(status)


# --- busy files ----------------------------------------------------------------------------------


@pytest.fixture
def rewriting(tree_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that changes whenever it is read."""
    path = tree_dir / "busy"
    path.write_bytes(b"0")
    real = EntryReader._read_small
    count = [0]

    def meddle(self: EntryReader, fd: int, size: int) -> tuple[bytes, None, int]:
        found = real(self, fd, size)
        if os.readlink(f"/proc/self/fd/{fd}") == str(path):
            count[0] += 1
            path.write_bytes(b"%d" % count[0])
        return found

    monkeypatch.setattr(EntryReader, "_read_small", meddle)
    return path


def test_a_busy_file_keeps_its_old_entry_for_a_while(
    tree_dir: Path, make_volume: MakeVolume, rewriting: Path
) -> None:
    volume = make_volume()
    report = volume.scan()
    assert report.busy == {b"busy"} == volume.condition.busy
    assert [(found.key, found.why) for found in report.unreadable] == [(b"busy", "busy")]
    assert report.hashed_files == 1 + scan_module.BUSY_RETRIES
    assert volume.record(b"busy") is None


def test_a_file_that_never_rests_is_recorded_as_read_after_its_time(
    tree_dir: Path, make_volume: MakeVolume, rewriting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "BUSY_MAX_AGE_S", 0.2)
    volume = scanned(make_volume())
    assert volume.record(b"busy") is None
    time.sleep(0.2)
    roots = {scanned(volume).root for _ in range(3)}
    assert len(roots) == 3  # each scan sees it differ
    assert volume.condition.busy == frozenset()
    record = volume.record(b"busy")
    assert record is not None
    assert not record.settled


def test_a_busy_file_that_comes_to_rest_is_read(
    tree_dir: Path,
    make_volume: MakeVolume,
    rewriting: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_root: Expected,
) -> None:
    volume = scanned(make_volume())
    monkeypatch.undo()
    scanned(volume)
    assert volume.condition.busy == frozenset()
    assert volume.root == expected_root(volume)


def test_a_file_written_by_another_thread_all_the_time_does_not_stall_a_scan(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    path = tree_dir / "growing"
    path.write_bytes(b"x" * 100_000)
    stop = threading.Event()

    def grow() -> None:
        with open(path, "ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"y" * 1000)
                time.sleep(0.0005)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        report = make_volume().scan()
    finally:
        stop.set()
        writer.join()
    assert report.complete
    assert report.duration_s < 10


# --- masses --------------------------------------------------------------------------------------


def test_a_mass_change_is_announced_once(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "SNAPSHOT_EDITS", 64)
    monkeypatch.setattr(recorder_module, "COMMIT_MAX_EDITS", 16)
    (tree_dir / "f").write_bytes(b"x")
    volume = scanned(make_volume())
    for number in range(300):
        (tree_dir / f"{number}").write_bytes(b"%d" % number)
    scanned(volume)
    steps = volume.pending(0, 999)
    assert [type(step) for step in steps] == [Announce]
    assert steps[0].root == volume.root == expected_root(volume)


def test_many_edits_below_the_mass_are_commits_that_follow_each_other(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "COMMIT_MAX_EDITS", 16)
    volume = scanned(make_volume())
    for number in range(100):
        (tree_dir / f"{number}").write_bytes(b"%d" % number)
    scanned(volume)
    announce, *commits = volume.pending(0, 999)
    assert isinstance(announce, Announce)
    base = announce.root
    for step in commits:
        assert isinstance(step, Commit)
        assert step.base_root == base
        assert [edit.key for edit in step.edits] == sorted(edit.key for edit in step.edits)
        base = volume.tree.edit(base, [(edit.key, edit.value) for edit in step.edits]).root
        assert base == step.root
    assert base == volume.root
    assert SNAPSHOT_EDITS > 100


def test_an_edit_brings_its_chunk_list(
    tree_dir: Path, make_volume: MakeVolume, chunk_list_of: Callable[[Volume, bytes], bytes]
) -> None:
    volume = scanned(make_volume())
    data = os.urandom(10_000)
    (tree_dir / "long").write_bytes(data)
    scanned(volume)
    step = volume.pending(1, 9)[0]
    assert isinstance(step, Commit)
    assert step.edits[0].chunks == chunk_list_of(volume, data)
    digest = decode_entry(step.edits[0].value or b"", 16).digest
    assert volume.object(digest) == volume.chunk_list(digest) == step.edits[0].chunks


@pytest.mark.root
def test_another_filesystem_below_the_root_is_reported_and_left_alone(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    from fleet.tmpfs import Tmpfs

    (tree_dir / "f").write_bytes(b"x")
    with Tmpfs(tree_dir / "mounted", 1 << 20):
        (tree_dir / "mounted" / "inner").write_bytes(b"x")
        volume = make_volume()
        report = volume.scan()
        assert [(found.key, found.why) for found in report.unreadable] == [(b"mounted", "other_filesystem")]
        assert report.entries == 1


@pytest.mark.root
@pytest.mark.parametrize("by", ["scan", "scan of all", "look"])
def test_what_a_filesystem_is_mounted_over_is_no_deletion(
    tree_dir: Path, make_volume: MakeVolume, by: str
) -> None:
    """It is there again once that is gone; until then nobody can read it, and that is said."""
    from fleet.tmpfs import Tmpfs

    (tree_dir / "covered" / "deep").mkdir(parents=True)
    (tree_dir / "covered" / "deep" / "f").write_bytes(b"x")
    volume = make_volume()
    volume.scan()
    before = volume.root
    with Tmpfs(tree_dir / "covered", 1 << 20):
        if by == "look":
            volume.look({b"": {b"covered"}, b"covered": None, b"covered\0deep": {b"f"}}, {})
            assert volume.root == before
        (tree_dir / "beside").write_bytes(b"x")
        report = volume.scan(full=by == "scan of all")
        assert [(found.key, found.why) for found in report.unreadable] == [(b"covered", "unreadable")]
        assert "another filesystem is mounted over it" in report.unreadable[0].detail
        (tree_dir / "beside").unlink()
        volume.scan()
        assert volume.root == before
    report = volume.scan(full=True)
    assert (volume.root, report.unreadable) == (before, ())


def test_changes_that_a_scan_finds_are_one_step_where_nobody_waits(
    tree_dir: Path, make_volume: MakeVolume
) -> None:
    """Each commit waits for the disk: a change in each of a thousand directories was a thousand of them."""
    for number in range(20):
        (tree_dir / f"d{number:02}").mkdir()
        (tree_dir / f"d{number:02}" / "f").write_bytes(b"before")
    volume = make_volume()
    volume.scan()
    before = volume.last_seq
    for number in range(20):
        (tree_dir / f"d{number:02}" / "f").write_bytes(b"after it")
    report = volume.scan()
    assert (report.changed, volume.last_seq - before) == (20, 1)


def test_a_look_that_comes_while_a_scan_has_found_changes_comes_behind_them(
    tree_dir: Path, make_volume: MakeVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tree_dir / f"d{number:02}").mkdir()
    volume = make_volume()
    volume.scan()
    before = volume.last_seq
    for number in range(20):
        (tree_dir / f"d{number:02}" / "f").write_bytes(b"new")
    steps: list[int] = []
    opened = 0
    inner = Scan.directory

    def directory(self: Scan, key: bytes, fd: int) -> Sequence[bytes]:
        nonlocal opened
        opened += 1
        if opened == 10:
            volume.call_soon(lambda: steps.append(volume.last_seq - before))
        return inner(self, key, fd)

    monkeypatch.setattr(Scan, "directory", directory)
    assert volume.call_soon(volume.scan).result(30).complete  # on the volume's thread
    assert steps == [1]
    assert volume.last_seq - before == 2
