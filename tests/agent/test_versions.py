"""Longer files that never rest: what they held when they were committed can be had for a moment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.disk import versions as module
from closeranks_agent.disk.volume import Volume
from closeranks_proto.content import decode_chunk_list

MakeVolume = Callable[..., Volume]
MIB = 1 << 20
NAME = b"hot.bin"
LOOK = {b"": frozenset([NAME])}


@pytest.fixture
def volume(tree_dir: Path, make_volume: MakeVolume) -> Volume:
    (tree_dir / "hot.bin").write_bytes(bytes(2 * MIB))
    time.sleep(0.03)  # past the tick of the kernel's clock
    found = make_volume(chunk_bytes=MIB)
    assert found.scan().complete
    found.versions.read(NAME, 0, MIB, lambda data: False)  # a peer fetches from here
    return found


def _replace(tree: Path, content: bytes) -> None:
    aside = tree / ".hot.new"
    aside.write_bytes(content)
    aside.rename(tree / "hot.bin")


def _rewrite(tree: Path, content: bytes) -> None:
    with (tree / "hot.bin").open("r+b", buffering=0) as file:
        assert file.write(content) == len(content)


def _committed(volume: Volume) -> list[bytes]:
    """The digests of the chunks that the volume has told of last."""
    record = volume.record(NAME)
    assert record is not None
    assert record.chunks is not None
    digests, width = decode_chunk_list(record.chunks).digests, volume.algorithm.width
    return [digests[at : at + width] for at in range(0, len(digests), width)]


def _kept(volume: Volume, chunks: list[bytes]) -> bytes | None:
    """The whole version with those chunks; None where it is not kept."""
    found = [
        volume.versions.read(
            NAME, index, MIB, lambda data, digest=digest: volume.algorithm.of(data) == digest
        )  # type: ignore[misc]
        for index, digest in enumerate(chunks)
    ]
    return None if None in found else b"".join(one or b"" for one in found)


@pytest.mark.parametrize("write", [_replace, _rewrite])
def test_a_version_that_the_disk_has_no_more_is_kept_for_whoever_fetches_it(
    volume: Volume, tree_dir: Path, write: Callable[[Path, bytes], None]
) -> None:
    contents = [os.urandom(2 * MIB + 17) for _ in range(4)]
    told = []
    for content in contents:
        write(tree_dir, content)
        volume.look(LOOK, {})
        told.append(_committed(volume))
    write(tree_dir, os.urandom(2 * MIB + 17))
    assert _kept(volume, told[0]) is None, "nobody knew yet that it would come again"
    assert [_kept(volume, chunks) for chunks in told[1:]] == contents[1:]


def test_what_nobody_asks_for_is_let_go_and_what_is_asked_for_stays(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for _ in range(3):
        _replace(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
        told.append(_committed(volume))
    clock, passed = time.monotonic, [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock() + passed[0])
    passed[0] = module.KEEP_S - 1
    assert _kept(volume, told[1]) is not None
    passed[0] = module.KEEP_S + 0.5
    volume.versions.forget()
    assert _kept(volume, told[2]) is None
    assert _kept(volume, told[1]) is not None


def test_where_nothing_watches_any_more_a_scan_lets_go(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept open keeps its room, and its filesystem from being unmounted."""
    for _ in range(2):
        _replace(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
    chunks = _committed(volume)
    _replace(tree_dir, os.urandom(2 * MIB))
    assert _kept(volume, chunks) is not None
    monkeypatch.setattr(module, "KEEP_S", 0.0)
    volume.scan()
    assert _kept(volume, chunks) is None


def test_bytes_and_descriptors_are_bounded_and_given_back(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALL_MAX_BYTES", 5 * MIB)
    before = len(os.listdir("/proc/self/fd"))
    told = []
    for number in range(8):
        (_replace if number % 2 else _rewrite)(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
        told.append(_committed(volume))
    assert [_kept(volume, chunks) is not None for chunks in told] == [False] * 6 + [True] * 2
    volume.versions.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_room_is_short_nothing_is_kept_and_it_is_committed_all_the_same(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_TIMES", 1 << 60)
    for write in (_replace, _rewrite, _rewrite):
        content = os.urandom(2 * MIB)
        write(tree_dir, content)
        volume.look(LOOK, {})
        assert _committed(volume)[0] == volume.algorithm.of(content[:MIB])
        assert _kept(volume, _committed(volume)) is None


@contextmanager
def _written_again_and_again(path: Path, rest_s: float) -> Iterator[None]:
    """By one long write each time, of one byte value each: a mixed version would show."""
    stop = threading.Event()

    def write() -> None:
        fd = os.open(path, os.O_RDWR)
        try:
            for number in count(1):
                if stop.is_set():
                    return
                os.pwrite(fd, bytes([number % 256]) * (16 * MIB), 0)
                time.sleep(rest_s)
        finally:
            os.close(fd)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_what_is_kept_of_a_file_that_is_rewritten_in_place_is_never_half_of_a_write(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel stamps a write when it begins, so for as long as it takes the file looks as if it rested."""
    (tree_dir / "hot.bin").write_bytes(bytes(16 * MIB))
    made: list[bytes] = []
    copy = module.Versions._copy
    monkeypatch.setattr(
        module.Versions, "_copy", lambda self, content: made.append(bytes(content)) or copy(self, content)
    )
    with _written_again_and_again(tree_dir / "hot.bin", rest_s=0.03):
        deadline = time.monotonic() + 20
        while len({one[0] for one in made}) < 5 and time.monotonic() < deadline:
            volume.look(LOOK, {})
    assert len(made) >= 5
    assert [one for one in made if one.count(one[0]) != len(one)] == []


def test_a_file_that_never_rests_is_committed_though_no_version_of_it_can_be_kept(
    volume: Volume, tree_dir: Path
) -> None:
    (tree_dir / "hot.bin").write_bytes(bytes(16 * MIB))
    before = volume.record(NAME)
    with _written_again_and_again(tree_dir / "hot.bin", rest_s=0.0):
        deadline = time.monotonic() + 20
        while volume.record(NAME) == before and time.monotonic() < deadline:
            volume.look(LOOK, {})
    assert volume.record(NAME) != before


def _touch(path: Path) -> None:
    """Somebody writes to it, and its mtime says so however short the kernel's clock ticks."""
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"written while it was read")
    os.utime(path, ns=(before, before + 10**9))


def test_a_replaced_file_that_is_written_while_it_is_read_did_not_rest(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        _replace(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
    told, read = _committed(volume), module.EntryReader._read_chunks

    def written(self: Any, *args: Any) -> Any:
        found = read(self, *args)
        _touch(tree_dir / "hot.bin")
        return found

    monkeypatch.setattr(module.EntryReader, "_read_chunks", written)
    _replace(tree_dir, os.urandom(2 * MIB))
    volume.look(LOOK, {})
    assert _committed(volume) == told


def test_a_copy_is_made_anew_where_the_file_was_written_while_it_was_copied(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        _rewrite(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
    read, calls = module.beneath.pread_into, list[int]()

    def written(*args: Any) -> int:
        found = read(*args)
        calls.append(found)
        if len(calls) == 1:
            _touch(tree_dir / "hot.bin")
        return found

    monkeypatch.setattr(module.beneath, "pread_into", written)
    monkeypatch.setattr(module, "_at_rest", os.fstat)
    _rewrite(tree_dir, os.urandom(2 * MIB))
    volume.look(LOOK, {})
    assert len(calls) > 1
    assert _kept(volume, _committed(volume)) == (tree_dir / "hot.bin").read_bytes()


def test_whoever_never_rests_is_not_made_to_wait_for_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes thousands of times a second, and each look whether it rests took the lock that each write takes."""
    asked: list[int] = []
    monkeypatch.setattr(module.os, "lseek", lambda fd, *_: asked.append(fd))
    with (tmp_path / "file").open("wb") as file:
        os.utime(file.fileno())
        assert module._at_rest(file.fileno()) is None
        assert asked == []
        os.utime(file.fileno(), (1e9, 1e9))
        assert module._at_rest(file.fileno()) is not None
        assert asked == [file.fileno()]


def test_no_copy_is_made_where_nobody_fetches(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was half of what it costs to commit a database once a second."""
    volume.versions._asked -= module.WANTED_S
    for _ in range(3):
        _rewrite(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
    assert not volume.versions._kept
    before = _committed(volume)
    content = os.urandom(2 * MIB)
    _rewrite(tree_dir, content)
    volume.look(LOOK, {})
    assert _committed(volume) != before
    assert _kept(volume, _committed(volume)) is None, "it was asked for"
    volume.look(LOOK, {})
    _rewrite(tree_dir, content[::-1])
    volume.look(LOOK, {})
    told = _committed(volume)
    _rewrite(tree_dir, content)
    assert _kept(volume, told) == content[::-1]


def test_whoever_did_not_rest_is_not_waited_for_each_time(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "_at_rest", lambda fd: asked.append(fd))
    for _ in range(3):
        _rewrite(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
    assert asked
    count = len(asked)
    _rewrite(tree_dir, os.urandom(2 * MIB))
    volume.look(LOOK, {})
    assert len(asked) == count
    monkeypatch.setattr(module, "RESTLESS_S", 0.0)
    volume.versions._restless.clear()
    volume.look(LOOK, {})
    _rewrite(tree_dir, os.urandom(2 * MIB))
    volume.look(LOOK, {})
    assert len(asked) > count


def test_memory_for_copies_is_kept_while_it_is_used(
    volume: Volume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making it ready took a third of what it costs to commit a database once a second."""
    made: list[int] = []
    inner = module.mmap.mmap

    def counted(fd: int, size: int, **more: Any) -> Any:
        made.append(size)
        return inner(fd, size, **more)

    monkeypatch.setattr(module.mmap, "mmap", counted)
    for size in (2, 2, 2, 2, 3):
        _rewrite(tree_dir, os.urandom(size * MIB - 1))
        volume.look(LOOK, {})
    assert made == [2 * MIB, 4 * MIB]
    assert _kept(volume, _committed(volume)) == (tree_dir / "hot.bin").read_bytes()
    volume.versions.forget()
    assert volume.versions._scratch._memory is not None
    monkeypatch.setattr(module.time, "monotonic", lambda: 1e12)
    volume.versions.forget()
    assert volume.versions._scratch._memory is None


def test_a_version_that_comes_again_is_kept_once(volume: Volume, tree_dir: Path) -> None:
    """Its descriptor before is closed: what is not counted is let go of by nobody."""
    content = os.urandom(2 * MIB)
    _replace(tree_dir, os.urandom(2 * MIB))
    volume.look(LOOK, {})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        _replace(tree_dir, content)
        volume.look(LOOK, {})
    assert _kept(volume, _committed(volume)) == content
    volume.versions.clear()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("write", [_replace, _rewrite])
def test_one_that_rests_comes_again_no_more(
    volume: Volume, tree_dir: Path, write: Callable[[Path, bytes], None]
) -> None:
    """It was copied and read each second until the next scan, and the watcher had always one path to go."""
    for _ in range(3):
        write(tree_dir, os.urandom(2 * MIB))
        volume.look(LOOK, {})
    time.sleep(0.03)  # past the tick of the kernel's clock
    assert volume.look(LOOK, {}).changed == 0
    report = volume.look(LOOK, {})
    assert not report.again
    row = volume.history.index.row(NAME)
    assert row is not None
    assert row.settled
