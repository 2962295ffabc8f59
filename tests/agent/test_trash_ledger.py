"""The trash's list of records: whole or unchanged, whatever the kernel writes of what it was given."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from closeranks_agent.converge.ledger import Ledger
from closeranks_agent.converge.written import Written

RECORDS = [msgspec.msgpack.encode((number, "x" * 50)) for number in range(20)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    made = Ledger(fd, b"ledger")
    yield made
    made.close()
    os.close(fd)


def test_replacing_survives_writes_that_end_early(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last write does on a disk that fills: a part is written, and the rest is asked for again."""
    ledger.append(RECORDS)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[: max(1, len(data) // 2)], at))
    ledger.replace(RECORDS[5:])
    assert list(ledger.read()) == [(number, "x" * 50) for number in range(5, 20)]


def test_a_replacement_that_does_not_fit_leaves_the_ledger_as_it_was(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append(RECORDS)
    before = list(ledger.read())

    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        ledger.replace(RECORDS[5:])
    assert list(ledger.read()) == before
    assert os.listdir(tmp_path) == ["ledger"]


def test_after_a_replacement_whose_name_could_not_be_synced_records_go_to_the_file_that_has_the_name(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They went to the former file, which nobody would ever open again."""
    ledger.append(RECORDS[:3])
    whole = os.fsync

    def fails(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(5, "Input/output error")
        whole(fd)

    with monkeypatch.context() as during:
        during.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="Input/output"):
            ledger.replace(RECORDS[1:3])
    ledger.append(RECORDS[3:4])
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    again = Ledger(fd, b"ledger")
    assert [number for number, _ in again.read()] == [1, 2, 3]  # type: ignore[misc]
    again.close()
    os.close(fd)


class Order:
    """What is asked of the kernel, in its order; files by the name that they have at that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        for name in ("pwrite", "fsync", "fdatasync"):
            inner = getattr(os, name)

            def noted(fd: int, *more: Any, name: str = name, inner: Callable[..., Any] = inner) -> Any:
                self.asked.append(f"{name} {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
                return inner(fd, *more)

            monkeypatch.setattr(os, name, noted)
        rename = os.rename

        def renamed(old: bytes, new: bytes, **more: int) -> None:
            self.asked.append(f"rename {os.fsdecode(old)} {os.fsdecode(new)}")
            rename(old, new, **more)

        monkeypatch.setattr(os, "rename", renamed)


def test_a_replacement_is_on_disk_before_it_has_the_name_and_the_name_before_it_counts(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in between would leave the name on a file without its records."""
    order = Order(monkeypatch)
    ledger.replace(RECORDS[:1])
    assert order.asked == [
        "pwrite ledger.new", "fsync ledger.new", "rename ledger.new ledger", f"fsync {tmp_path.name}"
    ]  # fmt: skip


def test_what_converge_is_about_to_write_is_on_the_list_of_its_proof_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that a power cut takes from the list is never read again."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    written = Written(fd, "i-1")
    order = Order(monkeypatch)
    written.add([b"a", b"b"])
    (name,) = os.listdir(tmp_path)
    assert order.asked == [f"pwrite {name}", f"fdatasync {name}"]
    assert written.read() == ([b"a", b"b"], {})
    written.close()
    os.close(fd)
