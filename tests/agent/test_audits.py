"""Answers to audits over real files: what is proven, and what can not be.

Decay is made as it looks to the agent: other bytes under the stat that the index has (see `decayed`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_agent.scrub import audits as audits_module
from closeranks_agent.scrub import reading
from closeranks_agent.scrub.audits import Audits, prove
from closeranks_agent.scrub.residence import absent
from closeranks_agent.scrub.scrubber import Scrubber
from closeranks_proto.audits import seeded_digest
from closeranks_proto.messages import Audit, AuditAnswer, Commit, Scrub
from decayed import decay

MakeVolume = Callable[..., Volume]
CHUNK = 4096
SEED = b"sixteen bytes...."[:16]


def question(volume: Volume, key: bytes, data: bytes, chunk: int = 0) -> Audit:
    """About the chunk as `data` has it."""
    own = data[chunk * CHUNK : (chunk + 1) * CHUNK]
    return Audit("photos", 7, key, chunk, volume.algorithm.of(own), SEED)


async def answers(volume: Volume, *asked: Audit, scrubber: Scrubber | None = None) -> list[AuditAnswer]:
    """What an agent with this volume answers."""
    found: list[AuditAnswer] = []
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[None, None, None]) -> None:
        tasks.append(asyncio.create_task(work))

    scrubbers = {} if scrubber is None else {"photos": scrubber}
    audits = Audits(lambda: {"photos": volume}, lambda: scrubbers, found.append, spawn)
    for one in asked:
        audits.take(one)
    await asyncio.gather(*tasks)
    return found


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 17])
def test_each_chunk_is_proven_by_its_own_bytes_and_the_seed(
    tree_dir: Path, scanned: Callable[[], Volume], size: int
) -> None:
    data = os.urandom(size)
    (tree_dir / "file").write_bytes(data)
    volume = scanned()
    for chunk in range(-(-size // CHUNK)):
        own = data[chunk * CHUNK : (chunk + 1) * CHUNK]
        answer = prove(volume, question(volume, b"file", data, chunk))
        assert answer == AuditAnswer("photos", 7, seeded_digest(volume.algorithm, SEED, own), "", "")
        other = prove(volume, msgspec.structs.replace(question(volume, b"file", data, chunk), seed=bytes(16)))
        assert other.proof not in (None, answer.proof), "the seed counts"


def test_the_bytes_are_read_from_the_disk_and_not_from_the_index(
    tree_dir: Path, scanned: Callable[[], Volume]
) -> None:
    data = bytearray(os.urandom(3 * CHUNK))
    (tree_dir / "file").write_bytes(data)
    volume = scanned()
    before = bytes(data)
    data[CHUNK + 5] ^= 1
    decay(volume, tree_dir / "file", bytes(data))
    assert volume.scan().changed == 0, "no scan sees it"
    assert prove(volume, question(volume, b"file", before, 0)).why == ""
    found = prove(volume, question(volume, b"file", before, 1))
    assert (found.proof, found.why) == (None, "decayed")
    assert prove(volume, question(volume, b"file", before, 2)).why == ""
    volume.storms(True)
    assert prove(volume, question(volume, b"file", before, 1)).why == "moved", (
        "a map may have stored it unheard"
    )


def test_what_is_gone_or_another_version_or_no_file_is_not_read(
    tree_dir: Path, scanned: Callable[[], Volume]
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    (tree_dir / "link").symlink_to("file")
    (tree_dir / "directory").mkdir()
    volume = scanned()
    for key, data, chunk in (
        (b"file", b"other bytes", 0), (b"file", b"bytes", 1), (b"gone", b"", 0), (b"link", b"bytes", 0),
        (b"directory", b"", 0),
    ):  # fmt: skip
        found = prove(volume, Audit("photos", 7, key, chunk, volume.algorithm.of(data), SEED))
        assert (found.proof, found.why) == (None, "moved"), key
    (tree_dir / "file").unlink()
    (tree_dir / "file").symlink_to("/etc/passwd")
    assert prove(volume, question(volume, b"file", b"bytes")).why == "moved", "no symlink is followed"


async def test_a_file_that_was_only_touched_is_looked_at_and_proven(
    tree_dir: Path, scanned: Callable[[], Volume]
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()
    os.utime(tree_dir / "file", (1, 1))
    (found,) = await answers(volume, question(volume, b"file", b"bytes"))
    assert found.proof == seeded_digest(volume.algorithm, SEED, b"bytes")


async def test_a_file_that_changed_is_committed_and_not_proven(
    tree_dir: Path, scanned: Callable[[], Volume]
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()
    (tree_dir / "file").write_bytes(b"newer bytes")
    (found,) = await answers(volume, question(volume, b"file", b"bytes"))
    assert (found.proof, found.why) == (None, "moved")
    commit = volume.pending(0, 10)[-1]
    assert isinstance(commit, Commit)
    assert [edit.key for edit in commit.edits] == [b"file"]


async def test_what_can_not_be_read_is_told_in_words(
    tree_dir: Path, scanned: Callable[[], Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()
    monkeypatch.setattr(audits_module, "read_chunk", lambda *_: 5)
    (found,) = await answers(volume, question(volume, b"file", b"bytes"))
    assert (found.proof, found.why) == (None, "failed")
    assert "Input/output error" in found.detail
    (found,) = await answers(volume, msgspec.structs.replace(question(volume, b"file", b"x"), volume="other"))
    assert "no volume other" in found.detail


async def test_one_audit_of_a_volume_at_a_time(tree_dir: Path, scanned: Callable[[], Volume]) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()
    asked = question(volume, b"file", b"bytes")
    found = await answers(volume, asked, msgspec.structs.replace(asked, audit=8))
    assert [(one.audit, one.why) for one in found] == [(8, "failed"), (7, "")]


async def test_a_disk_that_does_not_answer_keeps_no_thread_that_others_share(
    tree_dir: Path, scanned: Callable[[], Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()
    shared, dead = ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(shared)
    read = audits_module.read_chunk

    def hang(*place: Any) -> bytes | int:
        assert dead.wait(20)
        return read(*place)

    monkeypatch.setattr(audits_module, "read_chunk", hang)
    asked = asyncio.create_task(answers(volume, question(volume, b"file", b"bytes")))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            assert await asyncio.to_thread(lambda: "others") == "others"
        assert not asked.done()
    finally:
        dead.set()
    assert [one.why for one in await asked] == [""]


@pytest.mark.parametrize(
    "key", [b"../outside", b"..\0outside", b"/etc/passwd", b"", b"a\0\0b", b"a\0.", b"x" * 256]
)
async def test_a_key_that_leads_out_of_the_volume_is_refused_before_anybody_looks(
    tree_dir: Path, scanned: Callable[[], Volume], key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()

    def look(*_: object) -> None:
        pytest.fail("somebody looked")

    monkeypatch.setattr(audits_module, "prove", look)
    monkeypatch.setattr(volume, "look_soon", look)
    asked = question(volume, b"file", b"bytes")
    found = await answers(volume, msgspec.structs.replace(asked, key=key))
    assert [(one.audit, one.proof, one.why) for one in found] == [(7, None, "failed")]
    monkeypatch.undo()
    assert [one.why for one in await answers(volume, asked)] == [""], "the next one is answered"


async def test_decay_is_looked_into_at_once_and_becomes_a_commit(
    tree_dir: Path, scanned: Callable[[], Volume], expected_root: Callable[[Volume], bytes]
) -> None:
    data = bytearray(os.urandom(3 * CHUNK))
    (tree_dir / "file").write_bytes(data)
    volume = scanned()
    volume.acknowledge(volume.last_seq)
    before = bytes(data)
    data[CHUNK + 5] ^= 1
    decay(volume, tree_dir / "file", bytes(data))
    scrubber = Scrubber(volume, volume.settings, lambda: None)
    scrubber.start()
    try:
        (found,) = await answers(volume, question(volume, b"file", before, 1), scrubber=scrubber)
        assert found.why == "decayed"
        deadline = time.monotonic() + 20
        while not scrubber.totals.found:
            assert time.monotonic() < deadline, "the scrub has not looked"
            await asyncio.sleep(0.01)
    finally:
        await asyncio.to_thread(scrubber.stop)
    assert volume.root == expected_root(volume)
    commit: Any = volume.pending(0, 10)[-1]
    assert (commit.cause, [edit.key for edit in commit.edits]) == ("scrub", [b"file"])
    assert [(one.key, one.why) for one in volume.status().unreadable] == [(b"file", "decayed")]
    assert not scrubber._progress or not scrubber._progress.under_way, "no tour was begun for it"


def test_a_doubt_is_looked_into_in_the_middle_of_a_tour_that_then_goes_on(
    tree_dir: Path, scanned: Callable[[], Volume]
) -> None:
    for number in range(300):
        (tree_dir / f"f{number:03}").write_bytes(os.urandom(50))
    volume = scanned()
    decay(volume, tree_dir / "f299", b"x" * 50)
    scrubber = Scrubber(volume, volume.settings, lambda: None)
    scrubber.start()
    try:
        scrubber.order(Scrub(True, False, 500))
        deadline = time.monotonic() + 20
        while not scrubber.totals.files:
            assert time.monotonic() < deadline, "the tour has not begun"
            time.sleep(0.01)
        scrubber.doubt(b"f299", 0)
        while not scrubber.totals.found:
            assert time.monotonic() < deadline, "the doubt waits for the tour"
            time.sleep(0.01)
        assert scrubber._progress is not None
        assert scrubber._progress.under_way
        assert scrubber._progress.key < b"f299"
    finally:
        scrubber.stop()


def test_a_doubt_that_comes_while_the_scrub_takes_one_does_not_end_it(
    tree_dir: Path, scanned: Callable[[], Volume]
) -> None:
    (tree_dir / "file").write_bytes(b"bytes")
    volume = scanned()
    scrubber = Scrubber(volume, volume.settings, lambda: None)

    class Taken(dict[tuple[bytes, int], None]):
        """Another doubt comes between beginning to go through them and the first one."""

        def __iter__(self) -> Iterator[tuple[bytes, int]]:
            found = super().__iter__()
            if not comes:
                comes.append(threading.Thread(target=scrubber.doubt, args=(b"other", 0)))
                comes[0].start()
                comes[0].join(0.2)
            return found

    comes: list[threading.Thread] = []
    scrubber._doubts = Taken()
    scrubber.doubt(b"file", 0)
    scrubber.start()
    try:
        assert_soon(lambda: comes and not comes[0].is_alive() and not scrubber._doubts)
        assert scrubber._thread.is_alive()
    finally:
        scrubber.stop()


@pytest.mark.parametrize("warm", [True, False])
def test_the_disk_is_read_and_the_page_cache_left_as_it_was(
    tree_dir: Path, make_volume: MakeVolume, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel keeps pages in pieces that are larger than what is asked for, and drops only whole ones."""
    chunk_bytes, data = 64 * 1024, os.urandom(8 << 20)
    path = tree_dir / "file"
    path.write_bytes(data)
    volume = make_volume(chunk_bytes=chunk_bytes)
    assert volume.scan().complete
    with path.open("rb") as file:
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if not absent(file.fileno(), 0, len(data), status):
            pytest.skip("this file system keeps everything in memory")
        if warm:
            os.pread(file.fileno(), len(data), 0)
        seen: list[reading.Runs] = []
        read = reading.pread_into

        def spied(fd: int, view: memoryview, offset: int) -> int:
            seen.append(absent(fd, offset, len(view), status))
            return read(fd, view, offset)

        monkeypatch.setattr(reading, "pread_into", spied)
        for chunk in (0, 1, 37, 127):
            own = data[chunk * chunk_bytes : (chunk + 1) * chunk_bytes]
            asked = Audit("photos", 7, b"file", chunk, volume.algorithm.of(own), SEED)
            assert prove(volume, asked).why == ""
            assert seen.pop() == [(chunk * chunk_bytes, chunk_bytes)], "nothing of it was in memory"
            left = absent(file.fileno(), 0, len(data), status)
            assert left == ([] if warm else [(0, len(data))]), "as it was, and at once"


def assert_soon(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
