"""How many files and names become durable: each by itself, or the whole filesystem, and none is left out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from closeranks_agent.converge import durable
from closeranks_agent.converge.durable import sync_directories, sync_files, sync_names


class Disk:
    """What was asked of the kernel, by inode; "all" is the filesystem."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = base
        self.asked: list[str] = []
        self.backlog_kib = 0
        self.fds = [os.open(base, os.O_RDONLY | os.O_DIRECTORY)]
        monkeypatch.setattr(durable.os, "fsync", lambda fd: self.asked.append(self.name_of(fd)))
        monkeypatch.setattr(durable.syscalls, "sync_filesystem", lambda fd: self.asked.append("all"))
        monkeypatch.setattr(durable, "_backlog_kib", lambda: self.backlog_kib)

    @staticmethod
    def name_of(fd: int) -> str:
        return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))

    def make(self, count: int) -> list[bytes]:
        names = [b"f%d" % number for number in range(count)]
        for name in names:
            (self.base / os.fsdecode(name)).write_bytes(name)
        return names

    def opened(self, count: int) -> list[int]:
        found = [os.open(self.base / os.fsdecode(name), os.O_RDONLY) for name in self.make(count)]
        self.fds += found
        return found


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    base = tmp_path / "base"
    base.mkdir()
    made = Disk(base, monkeypatch)
    yield made
    for fd in made.fds:
        os.close(fd)


def test_a_few_files_are_synced_one_by_one(disk: Disk) -> None:
    sync_files(disk.opened(durable.FEW), disk.fds[0])
    assert disk.asked == ["f0", "f1", "f2"]


def test_more_files_are_synced_with_their_filesystem_at_once(disk: Disk) -> None:
    sync_files(disk.opened(durable.FEW + 1), disk.fds[0])
    assert disk.asked == ["all"]


def test_where_others_have_much_unwritten_each_file_is_synced_alone(disk: Disk) -> None:
    """A sync of all of it would write theirs first."""
    disk.backlog_kib = durable.BACKLOG_MAX_KIB + 1
    sync_files(disk.opened(durable.FEW + 1), disk.fds[0])
    assert disk.asked == ["f0", "f1", "f2", "f3"]


def test_names_beyond_what_is_opened_at_once_are_all_synced(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "OPEN_MAX", 2)
    disk.backlog_kib = durable.BACKLOG_MAX_KIB + 1
    before = len(os.listdir("/proc/self/fd"))
    sync_names([*disk.make(5), b"gone meanwhile"], disk.fds[0])
    assert disk.asked == ["f0", "f1", "f2", "f3", "f4"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_that_may_not_be_opened_is_synced_with_its_filesystem(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its final mode, which may forbid reading."""
    names, really = disk.make(2), os.open

    def refused(name: bytes, *more: object, **where: object) -> int:
        if name == b"f1":
            raise PermissionError(13, "Permission denied")
        return really(name, *more, **where)  # type: ignore[arg-type]

    monkeypatch.setattr(durable.os, "open", refused)
    sync_names(names, disk.fds[0])
    assert disk.asked[-1] == "all"


def test_directories_are_synced_with_the_others_or_all_at_once(disk: Disk) -> None:
    for name in ("a", "b", "c"):
        (disk.base / name).mkdir()
    other = disk.opened(1)
    sync_directories(disk.fds[0], {b"a", b"b"}, other)
    assert disk.asked == ["a", "b", "f0"]
    disk.asked.clear()
    sync_directories(disk.fds[0], {b"a", b"b", b"c"}, other)
    assert disk.asked == ["all"]
    disk.asked.clear()
    sync_directories(disk.fds[0], {b"gone meanwhile", b""}, ())
    assert disk.asked == ["base"]


def test_what_is_dirty_and_what_is_on_its_way_counts_as_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    told = b"MemTotal: 1000 kB\nDirty: 5 kB\nWriteback: 7 kB\nWritebackTmp: 100 kB\n"
    monkeypatch.setattr(durable, "open", lambda *_: io.BytesIO(told), raising=False)
    assert durable._backlog_kib() == 12


def test_a_machine_that_does_not_say_has_nothing_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(durable, "open", refused, raising=False)
    assert durable._backlog_kib() == 0
