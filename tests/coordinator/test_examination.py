"""What doctor says of a store, without touching it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import apsw
import pytest

from closeranks_coordinator.storage import examination
from closeranks_coordinator.storage.examination import examine_store
from closeranks_coordinator.storage.sqlite import open_store
from closeranks_coordinator.storage.store import Batch, StateLock

DIGEST = "xxh3-128"


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


async def filled(directory: Path, records: int = 2000) -> None:
    store = open_store(directory, DIGEST)
    await store.write(
        Batch(records=[("incident", f"inc-{number:06d}", b"x" * 500) for number in range(records)])
    )
    await store.close()


def test_without_a_store_there_is_nothing_wrong_and_none_is_made(tmp_path: Path) -> None:
    assert examine_store(tmp_path, DIGEST).verdict == "sound"
    assert os.listdir(tmp_path) == []


async def test_a_sound_store_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    await filled(tmp_path)
    connection = apsw.Connection(str(tmp_path / "coordinator.sqlite"))  # a crash leaves a log behind
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute("INSERT INTO meta VALUES ('of', 'the log')")
    connection.close()
    before = bytes_of(tmp_path)
    assert before["coordinator.sqlite-wal"]
    found = examine_store(tmp_path, DIGEST)
    assert (found.verdict, "can be read, and has 0 trees of nodes" in found.text) == ("sound", True)
    assert bytes_of(tmp_path) == before


async def test_a_running_coordinator_is_not_disturbed(tmp_path: Path) -> None:
    store = open_store(tmp_path, DIGEST)
    await store.write(Batch(meta={"a": b"1"}))
    before = bytes_of(tmp_path)
    assert f"in use by a running coordinator (process {os.getpid()})" in examine_store(tmp_path, DIGEST).text
    assert bytes_of(tmp_path) == before
    await store.write(Batch(meta={"a": b"2"}))
    assert store.meta("a") == b"2"
    await store.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 99", "has format 99; this program reads format 1"),
        ("PRAGMA application_id = 7", "is not a database of the closeranks coordinator"),
        (
            "UPDATE meta SET value = CAST('blake3' AS BLOB) WHERE name = 'digest'",
            "made with the digest blake3",
        ),
    ],
)
async def test_what_keeps_a_coordinator_from_starting_is_said(
    tmp_path: Path, statement: str, said: str
) -> None:
    await filled(tmp_path, 1)
    connection = apsw.Connection(str(tmp_path / "coordinator.sqlite"))
    connection.execute(statement)
    connection.close()
    found = examine_store(tmp_path, DIGEST)
    assert (found.verdict, said in found.text) == ("broken", True), found


async def test_rubbish_is_a_damaged_store(tmp_path: Path) -> None:
    (tmp_path / "coordinator.sqlite").write_bytes(b"rubbish" * 1000)
    found = examine_store(tmp_path, DIGEST)
    assert found.verdict == "broken"
    assert "is damaged" in found.text
    assert "Restore it from a backup" in found.text


async def test_a_page_that_no_start_reads_is_found(tmp_path: Path) -> None:
    """A coordinator starts with it, and fails when it comes by."""
    await filled(tmp_path)
    file = tmp_path / "coordinator.sqlite"
    content = bytearray(file.read_bytes())
    at = content.index(b"inc-001500")
    page = at - at % 4096
    content[page : page + 64] = b"\xff" * 64
    file.write_bytes(content)
    found = examine_store(tmp_path, DIGEST)
    assert (found.verdict, "is damaged" in found.text) == ("broken", True), found


async def test_a_store_too_large_to_be_gone_through_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path)
    monkeypatch.setattr(examination, "CHECK_S", 0.0)
    monkeypatch.setattr(examination, "OPCODES", 1)
    found = examine_store(tmp_path, DIGEST)
    assert (found.verdict, "not all of it was read" in found.text) == ("sound", True), found


def test_whoever_may_not_look_is_told_so(tmp_path: Path) -> None:
    closed = tmp_path / "s"
    closed.mkdir(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        assert examine_store(closed, DIGEST).verdict == "unknown"
    finally:
        os.seteuid(user)


def test_a_coordinator_that_starts_in_the_moment_of_a_look_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(asking, fcntl.LOCK_SH)
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        os.close(asking)

    monkeypatch.setattr(time, "sleep", rest)
    StateLock(tmp_path).release()
    assert len(rests) == 1
