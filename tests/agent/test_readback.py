"""Long files are read back from the disk while they come, and that counts at the proof while nothing touches them."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from closeranks_agent.converge import lease
from closeranks_agent.converge.readback import Readback
from closeranks_agent.converge.sink import Sink
from closeranks_agent.disk.hashing import EntryReader
from closeranks_agent.disk.records import Change
from closeranks_proto.content import decode_chunk_list, encode_chunk_list
from closeranks_proto.digests import XXH3_128
from closeranks_proto.limits import MIB
from fleet import LoopDisk
from peers_in_process import CHUNK, Nodes, nodes_in

SIZE = 4 * MIB + 100

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a filesystem needs root")


@pytest.fixture(autouse=True)
def shorter_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("closeranks_agent.converge.readback.MIN_BYTES", MIB)


@pytest.fixture
def direct(tmp_path: Path) -> None:
    """What these tests are about needs a filesystem with direct reads and leases."""
    place = tmp_path / "asked"
    place.write_bytes(bytes(4096))
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("the filesystem below takes no direct reads")
    try:
        if not lease.take(fd):
            pytest.skip("the filesystem below has no leases")
    finally:
        os.close(fd)


async def begin(nodes: Nodes, tmp_path: Path, root: Path | None = None) -> Path:
    """n1 holds a long file, n2 nothing; where it will lie."""
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1/long").write_bytes(os.urandom(SIZE))
    await nodes.add("n1")
    await nodes.add("n2", root)
    return (root or tmp_path / "n2") / "long"


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the long files that are read from here on."""
    read: list[int] = []
    inner = EntryReader._read_chunks

    def counting(
        self: EntryReader, fd: int, size: int, stopped: Callable[[], bool] | None
    ) -> tuple[bytes, bytes | None, int]:
        read.append(size)
        return inner(self, fd, size, stopped)

    monkeypatch.setattr(EntryReader, "_read_chunks", counting)
    return read


def write_unseen(path: Path) -> None:
    """Other bytes, and the mtime as it was."""
    before = path.stat()
    with path.open("r+b", buffering=0) as file:
        file.seek(CHUNK)
        file.write(b"somebody else")
        os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("direct")
async def test_what_was_read_back_is_proved_without_another_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        path = await begin(nodes, tmp_path)
        read = count_reads(monkeypatch)
        assert (await nodes.converge("n2", "n1")).state == "done"
        result = await nodes.verify("n2")
        assert (result.root, result.detail, result.reread_bytes) == (nodes.root("n1"), "", SIZE)
        assert read == []
        assert path.read_bytes() == (tmp_path / "n1/long").read_bytes()


@pytest.mark.usefixtures("direct")
async def test_an_agent_that_started_anew_reads_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        await begin(nodes, tmp_path)
        assert (await nodes.converge("n2", "n1")).state == "done"
        del nodes.convergers["n2"]
        read = count_reads(monkeypatch)
        assert (await nodes.verify("n2")).root == nodes.root("n1")
        assert set(read) == {SIZE}


@pytest.mark.usefixtures("direct")
async def test_a_write_after_the_reading_back_is_found_by_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        path = await begin(nodes, tmp_path)
        assert (await nodes.converge("n2", "n1")).state == "done"
        write_unseen(path)
        read = count_reads(monkeypatch)
        result = await nodes.verify("n2")
        assert result.root == nodes.root("n2") != nodes.root("n1")
        assert SIZE in read


@pytest.mark.usefixtures("direct")
async def test_other_bytes_that_a_scrub_read_under_the_same_stat_are_found_by_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record says now what lay on the disk then; what was read back earlier says nothing of that."""
    async with nodes_in(tmp_path) as nodes:
        await begin(nodes, tmp_path)
        assert (await nodes.converge("n2", "n1")).state == "done"
        volume = nodes.nodes["n2"].volume
        known = volume.record(b"long")
        assert known is not None
        assert known.chunks is not None
        listed = decode_chunk_list(known.chunks)
        decayed = encode_chunk_list(dataclasses.replace(listed, digests=bytes(16) + listed.digests[16:]))
        value = known.value.replace(XXH3_128.of(known.chunks), XXH3_128.of(decayed))
        found = dataclasses.replace(known, value=value, chunks=decayed)
        await volume.run(volume.apply, [Change(b"long", found)], "scan", time.monotonic())
        assert volume.root != nodes.root("n1")
        read = count_reads(monkeypatch)
        result = await nodes.verify("n2")
        assert SIZE in read
        assert result.root == volume.root == nodes.root("n1")  # the disk holds what came


@pytest.mark.usefixtures("direct")
async def test_a_write_in_the_tick_in_which_the_file_came_is_found_by_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens it then waits for the lease; that somebody did is why nothing counts as read back."""
    path: Path | None = None
    writers: list[threading.Thread] = []
    inner = Readback.keep

    def keep(self: Readback, *args: object) -> None:
        assert path is not None
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        writers.append(threading.Thread(target=write_unseen, args=(path,)))
        writers[0].start()
        inner(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Readback, "keep", keep)
    async with nodes_in(tmp_path) as nodes:
        path = await begin(nodes, tmp_path)
        assert (await nodes.converge("n2", "n1")).state == "done"
        writers[0].join(20)
        assert not writers[0].is_alive()
        read = count_reads(monkeypatch)
        result = await nodes.verify("n2")
        assert result.root == nodes.root("n2") != nodes.root("n1")
        assert SIZE in read


@pytest.mark.parametrize("why", ["no direct writes", "no leases"])
async def test_where_it_can_not_be_done_the_proof_reads_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no leases":
        monkeypatch.setattr(lease, "take", lambda fd: False)
    else:
        monkeypatch.setattr(Sink, "_write_direct", staticmethod(lambda *args: False))
        monkeypatch.setattr("closeranks_agent.converge.sink._pwritev_direct", lambda *args: 0)
    async with nodes_in(tmp_path) as nodes:
        await begin(nodes, tmp_path)
        assert (await nodes.converge("n2", "n1")).state == "done"
        read = count_reads(monkeypatch)
        assert (await nodes.verify("n2")).root == nodes.root("n1")
        assert set(read) == {SIZE}


@pytest.mark.root
@needs_root
async def test_a_bit_that_flips_on_the_disk_ends_the_converge_and_the_next_one_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotten: list[Path] = []
    inner = Readback._read_run
    with LoopDisk(tmp_path / "disk", tmp_path / "image", 64 * MIB) as disk:

        def after_rot(self: Readback, first: int, count: int, buffer: memoryview) -> None:
            if not rotten and first == 0:
                (staged,) = (disk.path / "n2/.closeranks/stage").iterdir()
                rotten.append(staged)
                disk.rot(staged)
                with staged.open("rb") as file:  # what `rot` has read to see its work
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            inner(self, first, count, buffer)

        monkeypatch.setattr(Readback, "_read_run", after_rot)
        async with nodes_in(tmp_path) as nodes:
            path = await begin(nodes, tmp_path, disk.path / "n2")
            result = await nodes.converge("n2", "n1")
            assert rotten
            assert (result.state, result.problem is not None) == ("failed", True)
            assert not path.exists()
            again = await nodes.converge("n2", "n1")
            assert (again.state, again.bytes_moved) == ("done", CHUNK)
            assert path.read_bytes() == (tmp_path / "n1/long").read_bytes()
            assert (await nodes.verify("n2")).root == nodes.root("n1")


@pytest.mark.usefixtures("direct")
async def test_a_disk_that_fails_while_it_is_read_back_leaves_it_to_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Readback, "_read_full", staticmethod(failing))
    async with nodes_in(tmp_path) as nodes:
        await begin(nodes, tmp_path)
        assert (await nodes.converge("n2", "n1")).state == "done"
        read = count_reads(monkeypatch)
        assert (await nodes.verify("n2")).root == nodes.root("n1")
        assert set(read) == {SIZE}
