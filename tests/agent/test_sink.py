"""Chunks in a staged file are what came, however they had to be written, and zeros take no room."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from closeranks_agent import beneath
from closeranks_agent.converge.sink import BLOCK_BYTES, DIRECT_MIN_BYTES, HOLE_BLOCK_BYTES, Sink
from closeranks_proto.limits import MIB


def aligned(data: bytes) -> memoryview:
    view = memoryview(mmap.mmap(-1, max(len(data), mmap.PAGESIZE)))[: len(data)]
    view[:] = data
    return view


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "staged", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


LENGTHS = [1, DIRECT_MIN_BYTES - 1, DIRECT_MIN_BYTES, DIRECT_MIN_BYTES + 1, MIB, 2 * MIB + 4097]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("offset", [0, BLOCK_BYTES, 2 * MIB, 4097])
def test_what_is_written_is_what_is_read(fd: int, length: int, offset: int) -> None:
    sink = Sink()
    for data in (os.urandom(length), aligned(os.urandom(length))):
        sink.write(fd, data, offset)
        assert os.pread(fd, length + 1, offset) == bytes(data)
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT


def test_a_memoryview_that_is_not_aligned_is_written_all_the_same(fd: int) -> None:
    data = os.urandom(MIB + 8)
    sink = Sink()
    sink.write(fd, memoryview(data)[8:], 0)
    sink.write(fd, aligned(data[:MIB]), MIB)
    assert os.pread(fd, 2 * MIB, 0) == data[8:] + data[:MIB]


def test_runs_of_zeros_take_no_room_and_read_as_zeros(fd: int) -> None:
    data = os.urandom(HOLE_BLOCK_BYTES) + bytes(MIB) + os.urandom(100)
    os.ftruncate(fd, len(data))
    Sink().write(fd, data, 0)
    assert os.pread(fd, len(data), 0) == data
    assert os.fstat(fd).st_blocks * 512 <= 4 * HOLE_BLOCK_BYTES


def test_a_filesystem_that_takes_no_direct_writes_is_asked_once(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    inner = fcntl.fcntl

    def refusing(which: int, command: int, flags: int = 0) -> int:
        nonlocal asked
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            asked += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return inner(which, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    sink, data = Sink(), os.urandom(MIB)
    for at in range(3):
        sink.write(fd, data, at * MIB)
    assert os.pread(fd, 3 * MIB, 0) == data * 3
    assert asked == 1


def test_after_a_short_write_the_rest_is_written_too(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = os.pwrite
    short = iter([BLOCK_BYTES])

    def some(which: int, view: memoryview, offset: int) -> int:
        return inner(which, view[: next(short, len(view))], offset)

    monkeypatch.setattr(os, "pwrite", some)
    data = os.urandom(MIB)
    Sink().write(fd, aligned(data), 0)
    assert os.pread(fd, MIB, 0) == data


def test_a_full_disk_is_told(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(which: int, view: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        Sink().write(fd, aligned(os.urandom(MIB)), 0)


def test_names_in_a_directory_that_may_not_be_read_are_synced_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    synced: list[int] = []
    monkeypatch.setattr(beneath, "open_beneath", closed)
    monkeypatch.setattr("closeranks_agent.syscalls.sync_filesystem", synced.append)
    beneath.sync_directory(17, b"closed")
    assert synced == [17]
