"""The reading processes: what they read, and that nothing is lost when they die."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.disk.packs import rows_of
from closeranks_agent.disk.records import pack_signature
from closeranks_agent.disk.signature import TICK_NS
from closeranks_agent.hotpath import cache, large
from closeranks_agent.hotpath import directory as directory_module
from closeranks_agent.hotpath import readers as readers_module
from closeranks_agent.hotpath.cache import is_absent, let_go
from closeranks_agent.hotpath.directory import FILE_FLAGS, DirectoryReader
from closeranks_agent.hotpath.large import MIB, WINDOW_BYTES, RangeReader
from closeranks_agent.hotpath.readers import Readers
from closeranks_agent.hotpath.wire import CLEAN, DIRECTORIES, FILES, FRESH, LEFT, RANGES, Part, ReadRow, Setup
from closeranks_agent.syscalls import stamped_here
from closeranks_proto.content import ChunkList, content_digest, decode_chunk_list
from closeranks_proto.digests import ALGORITHMS, BLAKE3, XXH3_128, DigestAlgorithm
from closeranks_proto.entries import decode_entry
from closeranks_proto.paths import key_of
from fleet.tmpfs import Tmpfs

CHUNK = 4096
Make = Callable[..., Readers]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Readers below `tmp_path`, or another directory."""
    opened: list[tuple[Readers, int]] = []

    def start(root: Path | None = None, count: int = 1, forked: bool = False, **changed: Any) -> Readers:
        root_fd = os.open(root or tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        fields: dict[str, Any] = {
            "algorithm": "xxh3-128", "chunk_bytes": CHUNK, "mode": True, "owner": False, "mtime": False,
            "ignore": (), "skip": ".closeranks", "device": os.fstat(root_fd).st_dev, "keep_cache": False,
            "idle": False,
        }  # fmt: skip
        readers = Readers(root_fd, Setup(**(fields | changed)), count, forked)
        opened.append((readers, root_fd))
        return readers

    yield start
    for readers, root_fd in opened:
        readers.close()
        os.close(root_fd)


def all_answers(readers: Readers, limit_s: float = 60.0) -> list[tuple[Any, Any]]:
    """(item, part) of everything that was asked."""
    found: list[tuple[Any, Any]] = []
    until = time.monotonic() + limit_s
    while readers.busy:
        assert time.monotonic() < until, "the readers did not answer"
        for question, parts in readers.answers(0.2):
            found += zip(question.items, parts or [None] * len(question.items), strict=True)
    return found


def rows_in(part: Part) -> list[ReadRow]:
    """As if nothing had been packed."""
    return [*part.rows, *((*row, None) for _, _, pack in part.packs for row in rows_of(pack))]


def read_directory(readers: Readers, key: bytes = b"") -> Part:
    readers.ask(DIRECTORIES, [key])
    [(_, answer)] = all_answers(readers)
    return Part(*answer)


def age(*paths: Path) -> None:
    """Let the clock move on from the stamps of what was just written."""
    time.sleep(0.05)


# --- directories ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", list(ALGORITHMS.values()), ids=list(ALGORITHMS))
@pytest.mark.parametrize("keep_cache", [False, True])
def test_sizes_around_the_boundaries(
    tmp_path: Path, make: Make, algorithm: DigestAlgorithm, keep_cache: bool
) -> None:
    rng = random.Random(5)
    sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 3 * CHUNK + 7, 300 * CHUNK + 1]
    data = {b"%d" % size: rng.randbytes(size) for size in sizes}
    for name, content in data.items():
        (tmp_path / os.fsdecode(name)).write_bytes(content)
    age()
    part = read_directory(make(algorithm=algorithm.name, keep_cache=keep_cache))
    assert (part.state, part.files, part.size) == (CLEAN, len(sizes), sum(sizes))
    lists = dict(part.lists)
    for name, value, signature, settled, content in rows_in(part):
        own = data[name]
        pieces = [own[at : at + CHUNK] for at in range(0, max(1, len(own)), CHUNK)]
        digests = b"".join(map(algorithm.of, pieces))
        entry = decode_entry(value, algorithm.width)
        assert (entry.size, entry.mode) == (len(own), 0o644)
        assert entry.digest == content_digest(algorithm, len(own), CHUNK, digests)
        assert settled
        assert signature == pack_signature((tmp_path / os.fsdecode(name)).stat())
        if len(own) > CHUNK:
            assert content == entry.digest
            chunks = ChunkList(len(own), CHUNK, algorithm.width, digests)
            assert decode_chunk_list(lists[entry.digest]) == chunks
        else:
            assert content is None


@pytest.mark.parametrize(
    ("program", "name"), [(["xxhsum", "-H2"], "xxh3-128"), (["b3sum"], "blake3")], ids=["xxhsum", "b3sum"]
)
def test_chunk_digests_are_those_of_another_program(
    tmp_path: Path, make: Make, program: list[str], name: str
) -> None:
    """On the chunks cut out by `split`."""
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(random.Random(6).randbytes(5 * MIB + 12_345))
    subprocess.run(["split", "-b", str(MIB), tmp_path / "tree/f", tmp_path / "piece-"], check=True)
    pieces = sorted(tmp_path.glob("piece-*"))
    said = subprocess.run([*program, *pieces], stdout=subprocess.PIPE, check=True, text=True).stdout
    age()
    [(_, blob)] = read_directory(make(tmp_path / "tree", algorithm=name, chunk_bytes=MIB)).lists
    assert [digest.hex() for digest in decode_chunk_list(blob)] == [
        line.split()[0] for line in said.splitlines()
    ]


def test_xxh3_128_is_the_published_algorithm() -> None:
    """Digests that xxHash's own tests publish would not change; these are of xxhsum 0.8.1."""
    assert XXH3_128.of(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert XXH3_128.of(b"abc").hex() == "06b05ab6733a618578af5f94892f3950"


def test_names_that_are_not_text_and_everything_that_is_no_file(tmp_path: Path, make: Make) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    (tmp_path / ".closeranks").mkdir()
    age()
    part = read_directory(make())
    assert part.state == CLEAN
    assert sorted(row[0] for row in rows_in(part)) == [b"d", b"l", b"\xff\xfe"]
    assert part.directories == [b"d"]
    os.mkfifo(tmp_path / "pipe")
    part = read_directory(make())
    assert part.state == LEFT
    assert len(rows_in(part)) == 3


def test_what_was_written_just_now_is_not_settled(tmp_path: Path, make: Make) -> None:
    readers = make()
    read_directory(readers)  # it has started
    (tmp_path / "f").write_bytes(b"x")
    readers.ask(FILES, [(b"", [b"f"])])
    [(_, answer)] = all_answers(readers)
    part = Part(*answer)
    assert (part.state, rows_in(part)[0][3]) in (
        (FRESH, 0),
        (CLEAN, 1),
    )  # a slow machine lets the clock move on
    at_once = rows_in(part)[0][2] == pack_signature((tmp_path / "f").stat())
    assert at_once


def test_several_names_of_a_file_are_told(tmp_path: Path, make: Make) -> None:
    (tmp_path / "a").write_bytes(b"x")
    for name in "bcd":
        os.link(tmp_path / "a", tmp_path / name)
    status = (tmp_path / "a").stat()
    age()
    part = read_directory(make())
    assert sorted(part.links) == [(name.encode(), status.st_dev, status.st_ino, 4) for name in "abcd"]
    assert len({row[1] for row in rows_in(part)}) == 1


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_file_whose_stat_fails_is_left_and_no_other_is_told_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Each file is asked before and after it is read, where another machine may stamp it."""
    monkeypatch.setattr(directory_module, "stamped_here", lambda _: False)
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    age()
    asked: list[int] = []
    fstat = os.fstat

    def fail(fd: int) -> os.stat_result:
        asked.append(fd)
        if len(asked) == failing:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(fd)

    root_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        setup = Setup(
            "xxh3-128", CHUNK, True, False, False, (), ".closeranks", fstat(root_fd).st_dev, False, False
        )
        reader = DirectoryReader(setup, root_fd)
        monkeypatch.setattr(os, "fstat", fail)
        part = reader.directory(b"")
    finally:
        monkeypatch.undo()
        os.close(root_fd)
    names = [row[0] for row in rows_in(part)]
    assert len(set(names)) == len(names)
    assert (part.files, part.size) == (len(names), len(names))
    if failing % 2:  # before: nothing is known of it
        assert (part.state, len(names)) == (LEFT, 1)
    else:  # afterwards: it is read once more
        assert (part.state, len(names)) == (CLEAN, 2)


@pytest.fixture
def rested(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file rests sooner: after what `age` waits for."""
    monkeypatch.setattr(directory_module, "stamped_here", lambda _: True)
    monkeypatch.setattr(directory_module, "COARSE_TICK_NS", 2 * TICK_NS)


def read_here(root: Path, device: int | None = None) -> Part:
    """By a reader in this process. `device`: as which that of the root is taken."""
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        device = os.fstat(root_fd).st_dev if device is None else device
        setup = Setup("xxh3-128", CHUNK, True, False, False, (), ".closeranks", device, False, False)
        return DirectoryReader(setup, root_fd).directory(b"")
    finally:
        os.close(root_fd)


def digests_in(part: Part) -> dict[bytes, bytes]:
    return {name: decode_entry(value, 16).digest for name, value, *_ in rows_in(part)}


@pytest.mark.usefixtures("rested")
def test_a_file_that_rests_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {b"%d" % at: b"%d" % at * at for at in (0, 1, 50, CHUNK - 3, CHUNK)}
    for name, content in contents.items():
        (tmp_path / os.fsdecode(name)).write_bytes(content[:CHUNK])
    time.sleep(0.1)
    looked: list[int] = []
    fstat = os.fstat

    def counting(fd: int) -> os.stat_result:
        looked.append(fd)
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", counting)
    part = read_here(tmp_path)
    assert part.state == CLEAN
    assert digests_in(part) == {name: XXH3_128.of(content[:CHUNK]) for name, content in contents.items()}
    assert len(looked) == len(contents) + 1  # and the root


@pytest.mark.usefixtures("rested")
@pytest.mark.parametrize("late", [b"other bytes", b"same size!!", b""])
def test_a_file_that_is_written_behind_its_reading_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bytes
) -> None:
    (tmp_path / "f").write_bytes(b"before that")
    time.sleep(0.1)
    preadv = os.preadv
    turns = 0

    def overtaken(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        nonlocal turns
        turns += 1
        count = preadv(fd, buffers, offset, flags)
        if turns == 1:
            (tmp_path / "f").write_bytes(late)
        return count

    monkeypatch.setattr(os, "preadv", overtaken)
    part = read_here(tmp_path)
    assert digests_in(part) == {b"f": XXH3_128.of(late)}
    assert (part.state, rows_in(part)[0][3]) == (FRESH, 0)


@pytest.mark.usefixtures("rested")
def test_where_the_clock_was_set_back_meanwhile_nothing_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    time.sleep(0.1)
    drifts = iter([0, -3_000_000_000])
    monkeypatch.setattr(directory_module, "drift_ns", lambda: next(drifts))
    part = read_here(tmp_path)
    assert (part.state, [row[3] for row in rows_in(part)]) == (FRESH, [0])


@pytest.mark.usefixtures("rested")
def test_a_clock_that_is_set_back_while_a_directory_is_listed_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    time.sleep(0.1)
    drift, few = 0, directory_module._few

    def listing(fd: int, skip: str | None) -> list[os.DirEntry[str]] | None:
        nonlocal drift
        drift = -3_000_000_000
        return few(fd, skip)

    monkeypatch.setattr(directory_module, "_few", listing)
    monkeypatch.setattr(directory_module, "drift_ns", lambda: drift)
    part = read_here(tmp_path)
    assert (part.state, [row[3] for row in rows_in(part)]) == (FRESH, [0])


@pytest.mark.usefixtures("rested")
def test_a_file_that_is_mounted_alone_is_looked_at_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may stamp it, whatever filesystem its directory is on."""
    (tmp_path / "f").write_bytes(b"x")
    time.sleep(0.1)
    looked: list[int] = []
    fstat = os.fstat

    def counting(fd: int) -> os.stat_result:
        looked.append(fd)
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", counting)
    part = read_here(tmp_path, device=1)
    assert digests_in(part) == {b"f": XXH3_128.of(b"x")}
    assert len(looked) == 2


def test_who_stamps_the_files_is_known_of_a_filesystem(tmp_path: Path) -> None:
    kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    proc = os.open("/proc", os.O_RDONLY)
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not stamped_here(proc)
        above = max((at for at in kinds if tmp_path.is_relative_to(at)), key=len)
        assert stamped_here(here) == (
            kinds[above] in {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs"}
        )
    finally:
        os.close(proc)
        os.close(here)


def test_a_directory_that_is_not_there_is_an_error_of_its_own(tmp_path: Path, make: Make) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    readers = make()
    readers.ask(DIRECTORIES, [b"d", b"none", b"l"])
    answers = [part if isinstance(part, int) else Part(*part).state for _, part in all_answers(readers)]
    assert answers[0] == CLEAN
    assert all(isinstance(answer, int) and answer > 0 for answer in answers[1:])


def test_what_is_ignored_is_not_read(tmp_path: Path, make: Make) -> None:
    for name in ("keep", "drop.tmp"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "cache").mkdir()
    age()
    part = read_directory(make(ignore=("*.tmp", "cache/")))
    assert ([row[0] for row in rows_in(part)], part.ignored, part.directories) == ([b"keep"], 2, [])


# --- long files ----------------------------------------------------------------------------------


def ask_range(readers: Readers, path: Path, first: int, count: int, mapped: bool = True) -> None:
    status = path.stat()
    key = key_of(os.fsencode(path.name))
    item = key, pack_signature(status), status.st_size, first, count, mapped
    readers.ask(RANGES, [item])


@pytest.mark.parametrize("chunk_bytes", [CHUNK, MIB, 3 * MIB, 16 * MIB])
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("keep_cache", [True, False])
def test_ranges_of_a_file_join_to_its_chunks(
    tmp_path: Path, chunk_bytes: int, mapped: bool, keep_cache: bool
) -> None:
    rng = random.Random(chunk_bytes)
    reader = RangeReader(BLAKE3, chunk_bytes, keep_cache)
    for size in (
        chunk_bytes - 1,
        chunk_bytes,
        2 * chunk_bytes + 1,
        WINDOW_BYTES,
        WINDOW_BYTES + chunk_bytes + 5,
    ):
        data = rng.randbytes(size)
        path = tmp_path / "f"
        path.write_bytes(data)
        expected = b"".join(BLAKE3.of(data[at : at + chunk_bytes]) for at in range(0, size, chunk_bytes))
        fd = os.open(path, os.O_RDONLY)
        try:
            cut = max(1, size // chunk_bytes // 2) * chunk_bytes
            found = reader.digests(fd, 0, min(cut, size), mapped, False)
            if cut < size:
                found += reader.digests(fd, cut, size, mapped, False)
        finally:
            os.close(fd)
        assert found == expected, size


@pytest.mark.parametrize("chunk_bytes", [CHUNK, MIB, 3 * MIB])
def test_every_way_of_reading_gives_the_same_digests_and_is_tried_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(large, "AGAIN", 4)
    reader = RangeReader(XXH3_128, chunk_bytes, False)
    taken: list[int] = []
    monkeypatch.setattr(
        reader, "_way", lambda may_map, way=reader._way: taken.append(way(may_map)) or taken[-1]
    )
    data = random.Random(5).randbytes(16 * WINDOW_BYTES)
    path = tmp_path / "f"
    path.write_bytes(data)
    expected = b"".join(XXH3_128.of(data[at : at + chunk_bytes]) for at in range(0, len(data), chunk_bytes))
    fd = os.open(path, os.O_RDONLY)
    try:
        for mapped in (True, True, False):
            assert reader.digests(fd, 0, len(data), mapped, False) == expected
    finally:
        os.close(fd)
    counts = Counter(taken)
    assert set(counts) == {large.MAPPED, *(min(piece, chunk_bytes) for piece in large.PIECES)}
    assert all(count >= large.TRIES for count in counts.values())
    assert large.MAPPED not in taken[-15:], "what must not be mapped was"


def test_a_file_that_shrank_gives_what_is_there(tmp_path: Path) -> None:
    """Each way ends with the chunks, or the part of one, that it could read."""
    data = random.Random(6).randbytes(3 * MIB + 300_000)
    path = tmp_path / "f"
    path.write_bytes(data)
    expected = b"".join(XXH3_128.of(data[at : at + MIB]) for at in range(0, len(data), MIB))
    fd = os.open(path, os.O_RDONLY)
    try:
        reader = RangeReader(XXH3_128, MIB, False)
        for piece in large.PIECES:
            assert reader._read(fd, 0, WINDOW_BYTES, piece) == (expected, len(data))
            assert reader._read(fd, 4 * MIB, WINDOW_BYTES, piece) == (b"", 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("kernel_ahead", "keep_cache", "size", "asked"),
    [
        (8 * MIB, False, 5 * WINDOW_BYTES + 7, False),
        (8 * MIB, False, 2 * WINDOW_BYTES + 7, True),  # too short for the kernel to get going
        (8 * MIB, True, 5 * WINDOW_BYTES + 7, True),  # what the kernel would bring in was not looked at
        (128 * 1024, False, 5 * WINDOW_BYTES + 7, True),
    ],
)
def test_what_is_not_in_memory_is_asked_for_where_the_kernel_reads_little_ahead(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kernel_ahead: int,
    keep_cache: bool,
    size: int,
    asked: bool,
) -> None:
    data = random.Random(8).randbytes(size)
    path = tmp_path / "f"
    path.write_bytes(data)
    fetched: list[tuple[int, int]] = []
    monkeypatch.setattr(large, "read_ahead_bytes", lambda fd: kernel_ahead)
    monkeypatch.setattr(large, "_is_cached", lambda fd, at: False)
    monkeypatch.setattr(large, "_fetch", lambda fd, at, length: fetched.append((at, length)))
    fd = os.open(path, os.O_RDONLY)
    try:
        found = RangeReader(XXH3_128, MIB, keep_cache).digests(fd, 0, size, True, False)
    finally:
        os.close(fd)
    assert found == b"".join(XXH3_128.of(data[at : at + MIB]) for at in range(0, size, MIB))
    whole = [(at, min(WINDOW_BYTES, size - at)) for at in range(0, size, WINDOW_BYTES)]
    assert fetched == (whole if asked else [])


def test_what_two_threads_read_is_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that ends before its second half or in it, in whole chunks and not, with /proc and without."""
    reader = RangeReader(XXH3_128, MIB, False)
    for size in (7 * WINDOW_BYTES, 4 * WINDOW_BYTES + 3, WINDOW_BYTES + MIB, 5):
        data = random.Random(size).randbytes(size)
        path = tmp_path / "f"
        path.write_bytes(data)
        expected = b"".join(XXH3_128.of(data[at : at + MIB]) for at in range(0, size, MIB))
        fd = os.open(path, FILE_FLAGS | os.O_NOATIME)
        read: set[int] = set()
        try:
            with monkeypatch.context() as patched:
                patched.setattr(large.os, "preadv", partial(_noted, os.preadv, read))
                assert reader._by_two(fd, 0, 7 * WINDOW_BYTES) == expected, size
                assert len(read) == 2, "each thread has the file opened for itself"
            with monkeypatch.context() as patched:
                patched.setattr(large.os, "open", _refused)
                assert reader._by_two(fd, 0, 7 * WINDOW_BYTES) == expected, size
        finally:
            os.close(fd)


def test_an_error_of_the_second_thread_is_the_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(6 * WINDOW_BYTES))
    fd, preadv = os.open(path, os.O_RDONLY), os.preadv

    def decayed(one: int, buffers: list[memoryview], at: int, *flags: int) -> int:
        if at >= 5 * WINDOW_BYTES:
            raise OSError(errno.EIO, "decayed")
        return preadv(one, buffers, at, *flags)

    monkeypatch.setattr(large.os, "preadv", decayed)
    try:
        with pytest.raises(OSError, match="decayed"):
            RangeReader(XXH3_128, MIB, False)._by_two(fd, 0, 6 * WINDOW_BYTES)
    finally:
        os.close(fd)


def _noted(preadv: Callable[..., int], read: set[int], one: int, *given: Any) -> int:
    read.add(one)
    return preadv(one, *given)


def _refused(path: str, flags: int) -> int:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def test_how_far_the_kernel_reads_ahead_is_what_it_says_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a disk, of the one that a partition is on, of a filesystem without a disk; 0 where it says nothing."""
    number = f"{os.major(tmp_path.stat().st_dev)}:{os.minor(tmp_path.stat().st_dev)}"
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for place in ("dev/block/queue", "dev/block/disk/queue", "class/bdi"):
            sys_dir = tmp_path / place.replace("/", "-")
            monkeypatch.setattr(cache, "SYS", os.fspath(sys_dir))
            assert cache.read_ahead_bytes(fd) == 0
            here = sys_dir / {"class/bdi": f"class/bdi/{number}"}.get(place, f"dev/block/{number}/queue")
            if place == "dev/block/disk/queue":
                (sys_dir / "devices/disk/part").mkdir(parents=True)
                (sys_dir / "dev/block").mkdir(parents=True)
                (sys_dir / "dev/block" / number).symlink_to(sys_dir / "devices/disk/part")
                here = sys_dir / "devices/disk/queue"
            here.mkdir(parents=True)
            (here / "read_ahead_kb").write_text("8192\n")
            assert cache.read_ahead_bytes(fd) == 8 * MIB
    finally:
        os.close(fd)


@pytest.mark.parametrize("holes", [True, False])
def test_a_hole_has_the_digests_of_zeros(tmp_path: Path, holes: bool) -> None:
    path = tmp_path / "sparse"
    size = 5 * WINDOW_BYTES + 12_345
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(2 * WINDOW_BYTES + 77)
        file.write(b"data between holes")
    data = path.read_bytes()
    expected = b"".join(XXH3_128.of(data[at : at + MIB]) for at in range(0, size, MIB))
    fd = os.open(path, os.O_RDONLY)
    try:
        assert RangeReader(XXH3_128, MIB, False).digests(fd, 0, size, True, holes) == expected
    finally:
        os.close(fd)


def test_a_file_that_is_not_what_it_was_has_no_digests(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(3 * CHUNK))
    readers = make()
    ask_range(readers, path, 0, 3)
    [(_, digests)] = all_answers(readers)
    assert digests == XXH3_128.of(bytes(CHUNK)) * 3
    item = b"f", pack_signature(path.stat()), 3 * CHUNK, 0, 3, True
    for change in (lambda: os.truncate(path, CHUNK), lambda: path.write_bytes(b"y" * 5 * CHUNK), path.unlink):
        change()
        readers.ask(RANGES, [item])
        [(_, answer)] = all_answers(readers)
        assert answer == b"" or isinstance(answer, int)


def test_a_mapped_file_that_shrinks_ends_its_reader_and_is_read_without_mapping(
    tmp_path: Path, make: Make
) -> None:
    """SIGBUS. The file is cut while it is hashed, again and again until that has happened."""
    path, size = tmp_path / "f", 96 * MIB
    readers = make(algorithm="blake3", chunk_bytes=MIB)
    path.write_bytes(bytes(MIB))
    ask_range(readers, path, 0, 1)
    all_answers(readers)
    [first] = readers.pids
    for turn in range(200):
        path.write_bytes(bytes(size))
        ask_range(readers, path, 0, size // MIB)
        time.sleep(0.001 * (turn % 20))
        os.truncate(path, 0)
        [(_, answer)] = all_answers(readers)
        assert answer in (b"", BLAKE3.of(bytes(MIB)) * (size // MIB))
        if readers.pids != [first]:
            break
    else:
        pytest.fail("no reader was ended by a file that shrank below its mapping")


@pytest.mark.root
def test_holes_of_a_filesystem_in_memory_take_no_memory(tmp_path: Path, make: Make) -> None:
    with Tmpfs(tmp_path / "small", 2 * MIB) as disk:
        path = disk.path / "sparse"
        with path.open("wb") as file:
            file.truncate(256 * MIB)
        readers = make(disk.path, chunk_bytes=MIB)
        ask_range(readers, path, 0, 256)
        [(_, digests)] = all_answers(readers)
        assert digests == XXH3_128.of(bytes(MIB)) * 256
        assert path.stat().st_blocks == 0
        readers.close()


def test_a_file_that_shrinks_and_grows_all_the_time_ends_nothing(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(64 * MIB))
    readers = make(chunk_bytes=MIB, count=2)
    for turn in range(30):
        ask_range(readers, path, 0, 32)
        ask_range(readers, path, 32, 32)
        os.truncate(path, (turn % 7) * MIB + 1)
        os.truncate(path, 64 * MIB)
        answers = [answer for _, answer in all_answers(readers)]
        assert len(answers) == 2
        for answer in answers:
            assert answer in (None, b"", XXH3_128.of(bytes(MIB)) * 32) or isinstance(answer, int)


# --- death ---------------------------------------------------------------------------------------


def test_a_reader_that_is_killed_loses_nothing(tmp_path: Path, make: Make) -> None:
    """What two of the deaths hit comes back unanswered, by itself, for whoever asked to see to."""
    keys = [b"d%03d" % number for number in range(200)]
    for key in keys:
        (tmp_path / os.fsdecode(key)).mkdir()
        (tmp_path / os.fsdecode(key) / "f").write_bytes(key)
    age()
    readers = make(count=2)
    todo, found = list(keys), dict[bytes, Part]()
    deaths, unanswered = 0, 0
    until = time.monotonic() + 60
    while (todo or readers.busy) and time.monotonic() < until:
        while todo and readers.has_room:
            readers.ask(DIRECTORIES, [todo.pop() for _ in range(min(5, len(todo)))])
        if deaths < 6 and len(found) > 20 * deaths:
            os.kill(readers.pids[-1], signal.SIGKILL)
            deaths += 1
        for question, parts in readers.answers(0.2):
            if parts is None:
                assert len(question.items) == 1
                unanswered += 1
                todo += question.items
                continue
            found.update(zip(question.items, (Part(*part) for part in parts), strict=True))
    assert deaths == 6
    assert unanswered <= deaths // 2
    assert sorted(found) == keys
    assert all(decode_entry(rows_in(found[key])[0][1], 16).digest == XXH3_128.of(key) for key in keys)


def test_a_question_that_no_reader_survives_comes_back(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that can not even start end on every question; the asker hears of each, and of no more processes."""
    monkeypatch.setattr(readers_module.sys, "executable", "/bin/false")
    readers = make(count=2)
    for number in range(8):
        readers.ask(DIRECTORIES, [b"d%d" % number, b"e%d" % number])
    answers = all_answers(readers)
    assert sorted(item for item, _ in answers) == sorted(
        [b"d%d" % number for number in range(8)] + [b"e%d" % number for number in range(8)]
    )
    assert all(part is None for _, part in answers)
    assert readers.pids == []


@pytest.mark.parametrize("forked", [False, True])
def test_readers_end_with_whoever_started_them(tmp_path: Path, forked: bool) -> None:
    program = (
        "import os, sys, time\n"
        "from closeranks_agent.hotpath.readers import Readers\n"
        "from closeranks_agent.hotpath.wire import *\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "setup = Setup('xxh3-128', 4096, True, False, False, (), '', os.fstat(fd).st_dev, False, True)\n"
        "readers = Readers(fd, setup, 2, sys.argv[2] == 'True')\n"
        "readers.ask(DIRECTORIES, [b'']); readers.ask(DIRECTORIES, [b''])\n"
        "while readers.busy: list(readers.answers(1))\n"
        "print(*readers.pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, "-c", program, tmp_path, str(forked)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    assert [b".hotpath.reader\0" in _command(pid) for pid in pids] == [not forked] * 2
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < until, "a reader outlived whoever started it"
        time.sleep(0.02)


def test_a_program_of_several_threads_does_not_fork_its_readers(tmp_path: Path, make: Make) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        readers = make(forked=True)
        read_directory(readers)
        [pid] = readers.pids
        assert b".hotpath.reader\0" in _command(pid)
    finally:
        ended.set()
        thread.join()


def test_a_forked_reader_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """In a process of its own: this one has threads."""
    (tmp_path / "f").write_bytes(b"x")
    program = (
        "import os, signal, sys\n"
        "from closeranks_agent.hotpath.readers import Readers\n"
        "from closeranks_agent.hotpath.wire import *\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "setup = Setup('xxh3-128', 4096, True, False, False, (), '', os.fstat(fd).st_dev, False, False)\n"
        "with Readers(fd, setup, 2, True) as readers:\n"
        "    readers.start()\n"
        "    first = readers.pids\n"
        "    os.kill(first[0], signal.SIGKILL)\n"
        "    for _ in range(4): readers.ask(DIRECTORIES, [b''])\n"
        "    found = []\n"
        "    while readers.busy: found += [len(parts) for _, parts in readers.answers(1)]\n"
        "    assert found == [1] * 4, found\n"
        "    assert first[0] not in readers.pids and first[1] in readers.pids\n"
        "try: os.waitpid(-1, 0)\n"
        "except ChildProcessError: print('none left')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "none left\n"


@pytest.mark.parametrize("forked", [False, True])
def test_a_fault_of_a_reader_is_told_in_words(tmp_path: Path, forked: bool) -> None:
    """In a process of its own: this one has threads. What is asked there is nothing that a reader knows."""
    program = (
        "import logging, os, sys\n"
        "from closeranks_agent.hotpath.readers import Readers\n"
        "from closeranks_agent.hotpath.wire import *\n"
        "logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "setup = Setup('xxh3-128', 4096, True, False, False, (), '', os.fstat(fd).st_dev, False, False)\n"
        "with Readers(fd, setup, 1, sys.argv[2] == 'True') as readers:\n"
        "    readers.ask(FILES, [(b'', 7)])\n"
        "    found = []\n"
        "    while readers.busy: found += [parts for _, parts in readers.answers(1)]\n"
        "print(found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, str(forked)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[None]\n"
    told = r"ended \(TypeError: 'int' object is not iterable \(directory\.py, line [0-9]+\)\)"
    assert len(re.findall(told, done.stderr)) == 2  # it is asked twice, and then given back


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_nothing_is_left_after_close(tmp_path: Path, make: Make) -> None:
    readers = make(count=2)
    readers.ask(DIRECTORIES, [b""])
    readers.ask(DIRECTORIES, [b""])
    pids = readers.pids
    assert len(pids) == 2
    readers.close()
    assert not any(_alive(pid) for pid in pids)
    assert not readers.busy


# --- the page cache ------------------------------------------------------------------------------


def on_disk(path: Path, data: bytes) -> int:
    """A descriptor of a file that is on disk and not in the page cache; skips where it can not be put out."""
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    let_go(fd, 0, len(data))
    if not is_absent(fd, 0, len(data)):
        os.close(fd)
        pytest.skip("this filesystem lives in the page cache")
    return fd


def test_a_scrub_leaves_the_page_cache_as_it_was(tmp_path: Path, make: Make) -> None:
    data = random.Random(1).randbytes(24 * MIB)
    tree = tmp_path / "tree"
    tree.mkdir()
    fds = [on_disk(tree / name, data[:size]) for name, size in (("cold", 30_000), ("long", 24 * MIB))]
    try:
        (tree / "warm").write_bytes(data[:30_000])
        warm = os.open(tree / "warm", os.O_RDONLY)
        fds.append(warm)
        os.fsync(warm)
        age()
        part = read_directory(make(tree, chunk_bytes=MIB, keep_cache=True))
        assert (part.state, len(rows_in(part))) == (CLEAN, 3)
        assert is_absent(fds[0], 0, 30_000)
        assert is_absent(fds[1], 0, 24 * MIB)
        assert not is_absent(warm, 0, 30_000)
        part = read_directory(make(tree, chunk_bytes=MIB))
        assert not is_absent(fds[0], 0, 30_000), "an ordinary reader does not care"
    finally:
        for fd in fds:
            os.close(fd)


def test_older_kernels_are_asked_by_mincore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from closeranks_agent.hotpath import cache

    fd = on_disk(tmp_path / "f", bytes(100_000))
    try:
        monkeypatch.setattr(cache, "_cachestat_works", False)
        assert is_absent(fd, 0, 100_000)
        os.pread(fd, 10, 0)
        assert not is_absent(fd, 0, 100_000)
    finally:
        os.close(fd)


def test_cold_files_are_read_as_warm_ones_are(tmp_path: Path, make: Make) -> None:
    rng = random.Random(2)
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [b"f%03d" % number for number in range(150)]
    for name in names:
        os.close(on_disk(tree / os.fsdecode(name), name + rng.randbytes(5_000)))
    age()
    readers = make(tree, chunk_bytes=MIB)
    cold, warm = read_directory(readers), read_directory(readers)
    assert (cold.state, len(rows_in(cold))) == (CLEAN, 150)
    assert sorted(rows_in(cold)) == sorted(rows_in(warm))
    assert cold.digest == warm.digest
    for name in names[3::40]:  # few of them: the others are read beside those that have to be waited for
        fd = os.open(tree / os.fsdecode(name), os.O_RDONLY)
        let_go(fd, 0, 0)
        assert is_absent(fd, 0, 4_000)
        os.close(fd)
    mixed = read_directory(readers)
    assert (mixed.state, mixed.files, mixed.size) == (CLEAN, 150, warm.size)
    assert (sorted(rows_in(mixed)), mixed.digest) == (sorted(rows_in(warm)), warm.digest)
