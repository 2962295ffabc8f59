from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from closeranks_agent.disk.hashing import (
    EntryReader,
    NotRegular,
    Reading,
    Stopped,
    TooLarge,
    opened_file,
    read_entry,
)
from closeranks_agent.disk.records import is_settled
from closeranks_proto.content import chunk_count, decode_chunk_list
from closeranks_proto.digests import BLAKE3, XXH3_128
from closeranks_proto.entries import Kind, decode_entry
from closeranks_proto.limits import MIB

TICK = 20_000_000


def reader(chunk_bytes: int = 4096, *track: str) -> EntryReader:
    return EntryReader(XXH3_128, chunk_bytes, track or ("mode",))


def read(path: Path, by: EntryReader) -> Reading:
    parent = os.open(path.parent, os.O_PATH)
    try:
        with opened_file(os.fsencode(path.name), parent) as fd:
            return by.read_file(os.fsencode(path.name), fd)
    finally:
        os.close(parent)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096])
def test_a_file_of_one_chunk_has_its_chunks_digest(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    record = read(tmp_path / "f", reader()).record
    assert decode_entry(record.value, 16).digest == XXH3_128.of(b"x" * size)
    assert record.chunks is None


@pytest.mark.parametrize("chunk_bytes", [4096, MIB, 3 * MIB])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_longer_file_has_a_list_of_its_chunks(tmp_path: Path, chunk_bytes: int, extra: int) -> None:
    data = os.urandom(2 * chunk_bytes + extra)
    (tmp_path / "f").write_bytes(data)
    record = read(tmp_path / "f", reader(chunk_bytes)).record
    assert record.chunks is not None
    chunks = decode_chunk_list(record.chunks)
    pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    assert list(chunks) == [XXH3_128.of(piece) for piece in pieces]
    assert chunks.count == chunk_count(len(data), chunk_bytes)
    assert decode_entry(record.value, 16).digest == XXH3_128.of(record.chunks)


def test_a_chunk_longer_than_the_buffer_is_hashed_whole(tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 17)
    (tmp_path / "f").write_bytes(data)
    for algorithm in (XXH3_128, BLAKE3):
        record = read(tmp_path / "f", EntryReader(algorithm, 4 * MIB, ())).record
        assert decode_entry(record.value, algorithm.width).digest == algorithm.of(data)


def test_a_sparse_file_reads_as_zeros(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(3 * MIB)
    record = read(tmp_path / "f", reader(MIB)).record
    assert record.chunks is not None
    assert set(decode_chunk_list(record.chunks)) == {XXH3_128.of(bytes(MIB))}


class Restless(EntryReader):
    """Something happens to the file while it is read."""

    def __init__(self, meddle: Callable[[], None], chunk_bytes: int = 4096) -> None:
        super().__init__(XXH3_128, chunk_bytes, ())
        self.meddle = meddle

    def _read_small(self, fd: int, size: int) -> tuple[bytes, None, int]:
        found = super()._read_small(fd, size)
        self.meddle()
        return found

    def _read_chunk(self, fd: int, offset: int, length: int) -> tuple[bytes, int]:
        found = super()._read_chunk(fd, offset, length)
        self.meddle()
        return found


def test_a_file_that_changes_while_it_is_read_is_not_steady(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    assert not read(path, Restless(lambda: path.write_bytes(b"y" * 100))).steady


def test_the_same_bytes_written_again_with_the_same_mtime_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    status = path.stat()

    def rewrite() -> None:
        path.write_bytes(b"z" * 100)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert not read(path, Restless(rewrite)).steady


def test_of_a_file_that_grows_without_end_only_the_size_at_opening_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10_000)

    def grow() -> None:
        with open(path, "ab") as file:
            file.write(b"y" * 10_000)

    reading = read(path, Restless(grow))
    assert not reading.steady
    assert reading.bytes == 10_000


@pytest.mark.parametrize("left", [0, 100, 4096, 5000])
def test_a_file_that_shrinks_while_it_is_read_gives_a_well_formed_record(tmp_path: Path, left: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 20_000)
    reading = read(path, Restless(lambda: os.truncate(path, left)))
    assert not reading.steady
    entry = decode_entry(reading.record.value, 16)
    assert entry.size == reading.bytes
    if entry.size > 4096:
        assert reading.record.chunks is not None
        assert decode_chunk_list(reading.record.chunks).size == entry.size
    else:
        assert reading.record.chunks is None


def test_a_fifo_does_not_block_and_is_not_regular(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(NotRegular):
        read(tmp_path / "f", reader())


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links") as caught:
        read(tmp_path / "f", reader())
    assert caught.value.errno == errno.ELOOP


def test_a_file_beyond_the_longest_chunk_list_is_too_large(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(4096 * 1024 * 1024 + 4096 * 8)
    with pytest.raises(TooLarge):
        read(tmp_path / "f", reader())


def test_a_long_reading_stops_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 20_000)
    with open(tmp_path / "f", "rb") as file, pytest.raises(Stopped):
        reader().read_file(b"f", file.fileno(), lambda: True)


def test_only_tracked_attributes_are_in_the_value(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    path.chmod(0o4751)
    status = path.stat()
    entry = decode_entry(read(path, reader(4096, "mode")).record.value, 16)
    assert (entry.mode, entry.owner, entry.mtime_ns, entry.xattrs) == (0o4751, None, None, None)
    entry = decode_entry(read(path, reader(4096, "owner", "mtime")).record.value, 16)
    assert entry.mode is None
    assert entry.owner == (status.st_uid, status.st_gid)
    assert entry.mtime_ns == status.st_mtime_ns


def test_user_attributes_are_tracked_sorted(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    try:
        os.setxattr(path, "user.b", b"2")
        os.setxattr(path, "user.a", b"1")
    except OSError:
        pytest.skip("this filesystem has no user attributes")
    entry = decode_entry(read(path, reader(4096, "xattrs")).record.value, 16)
    assert entry.xattrs == ((b"user.a", b"1"), (b"user.b", b"2"))


def test_a_ctime_within_a_tick_of_the_reading_is_not_settled() -> None:
    at = 1_000_000_000_123_456_789
    assert not is_settled(at, at)
    assert not is_settled(at - TICK, at)
    assert is_settled(at - TICK - 1, at)


def test_a_ctime_far_in_the_future_is_settled() -> None:
    at = 1_000_000_000_123_456_789
    assert is_settled(at + 3_600_000_000_000, at)


def test_whole_second_stamps_settle_after_two_seconds() -> None:
    at = 1_000_000_000_000_000_000
    assert not is_settled(at, at + 1_900_000_000)
    assert is_settled(at, at + 2_100_000_000)


@pytest.fixture
def root_fd(tree_dir: Path) -> int:
    return os.open(tree_dir, os.O_RDONLY | os.O_DIRECTORY)


def test_one_path_is_read_by_its_key(tree_dir: Path, root_fd: int) -> None:
    (tree_dir / "d").mkdir()
    (tree_dir / "d" / "f").write_bytes(b"x")
    (tree_dir / "d" / "l").symlink_to("nowhere")
    by = reader()
    found = {key: read_entry(by, root_fd, key) for key in (b"d", b"d\0f", b"d\0l", b"d\0gone", b"no\0where")}
    kinds = {
        key: None if record is None else decode_entry(record.value, 16).kind for key, record in found.items()
    }
    assert kinds == {
        b"d": Kind.DIRECTORY, b"d\0f": Kind.FILE, b"d\0l": Kind.SYMLINK, b"d\0gone": None, b"no\0where": None,
    }  # fmt: skip
    os.close(root_fd)


def test_a_path_below_a_symlink_is_absent(tree_dir: Path, root_fd: int) -> None:
    (tree_dir / "l").symlink_to("/etc")
    assert read_entry(reader(), root_fd, b"l\0passwd") is None
    os.close(root_fd)
