"""What is at hand is taken without copying where blocks can be shared, and only if it is what it was taken for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from closeranks_agent.converge.local import Local
from closeranks_agent.converge.plan import Copy, FileNeed, Place, Step, Verb
from closeranks_agent.converge.stage import Stage, stage_name
from closeranks_agent.converge.workroom import Workroom
from closeranks_agent.disk.taken import Taken
from closeranks_proto.digests import XXH3_128
from fleet import LoopDisk
from peers_in_process import CHUNK, Nodes, describe, nodes_in

COUNT = 512  # chunks of the long file: 32 MiB
MIB = 1 << 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a filesystem needs root")


async def two_versions(nodes: Nodes, tmp_path: Path, root: Path) -> bytes:
    """n2 holds a long file with one chunk changed in its middle; n1 holds the right one, which is given back."""
    right = os.urandom(COUNT * CHUNK + 100)
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1/long").write_bytes(right)
    root.mkdir()
    at = COUNT // 2 * CHUNK
    (root / "long").write_bytes(right[:at] + b"changed" + right[at + 7 :])
    await nodes.add("n1")
    await nodes.add("n2", root, trash_max_bytes=1 << 40)
    return right


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
async def test_a_changed_chunk_of_a_long_file_takes_room_for_itself_only(tmp_path: Path, kind: str) -> None:
    with LoopDisk(tmp_path / "disk", tmp_path / "image", 400 * MIB, kind) as disk:
        async with nodes_in(tmp_path) as nodes:
            right = await two_versions(nodes, tmp_path, disk.path / "n2")
            os.sync()
            before = disk.used_bytes()
            result = await nodes.converge("n2", "n1")
            os.sync()
            assert (result.state, result.bytes_moved) == ("done", CHUNK)
            assert (disk.path / "n2/long").read_bytes() == right
            assert disk.used_bytes() - before < COUNT * CHUNK // 4
            assert (await nodes.verify("n2")).root == nodes.root("n1")


@pytest.mark.parametrize("changed", ["before", "after"])
async def test_what_changed_since_the_plan_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """A filesystem that shares blocks, in all but the saving: shared is what the source held at that moment."""

    def shared(from_fd: int, from_offset: int, length: int, to_fd: int, to_offset: int) -> bool:
        if changed == "before":
            spoil(tmp_path / "n2/long")
        os.pwrite(to_fd, os.pread(from_fd, length, from_offset), to_offset)
        if changed == "after":
            spoil(tmp_path / "n2/long")
        return True

    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            file.write(b"rogue")

    monkeypatch.setattr("closeranks_agent.syscalls.clone_range", shared)
    async with nodes_in(tmp_path) as nodes:
        await two_versions(nodes, tmp_path, tmp_path / "n2")
        result = await nodes.converge("n2", "n1")
        assert result.state == "done", result.detail
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert CHUNK <= result.bytes_moved <= 2 * CHUNK + 200


def workroom(base: Path) -> Workroom:
    made = [base / name for name in ("tree", "stage", "trash", "items")]
    for path in made:
        path.mkdir()
    tree, stage, trash, items = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in made)
    return Workroom(tree, stage, trash, items, Taken())


def test_of_a_file_whose_name_is_a_directory_now_the_trash_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = workroom(tmp_path)
    (tmp_path / "tree/long").mkdir()
    (tmp_path / "items/id").write_bytes(bytes(2 * CHUNK))
    shared: list[int] = []

    def cloned(from_fd: int, from_offset: int, length: int, to_fd: int, to_offset: int) -> bool:
        shared.append(os.fstat(from_fd).st_ino)
        return True

    monkeypatch.setattr("closeranks_agent.syscalls.clone_range", cloned)
    chunks = XXH3_128.of(bytes(CHUNK)), XXH3_128.of(bytes(CHUNK))
    need = FileNeed(2 * CHUNK, CHUNK, b"d", chunks, (), (Copy(0, 2, Place(False, b"long"), 0),))  # type: ignore[arg-type]
    assert Local(room, XXH3_128, {b"long": b"id"}.get).share(-1, need) == [0, 1]
    assert shared == [os.stat(tmp_path / "items/id").st_ino]
    room.close()


def test_what_an_earlier_run_staged_is_asked_of_the_disk_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that could not be written read well until they are dropped: only writing them out tells."""
    room = workroom(tmp_path)
    name = stage_name(b"f", b"d")
    (tmp_path / "stage" / os.fsdecode(name)).write_bytes(b"staged")
    stage = Stage(room, XXH3_128, False, {b"": b""}.get, lambda: False)

    def refused(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("closeranks_agent.syscalls.write_out", refused)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Input/output"):
        stage._open_old(name, 6)
    assert len(os.listdir("/proc/self/fd")) == before
    room.close()


def test_of_what_an_earlier_run_staged_only_the_chunks_that_are_right_count(tmp_path: Path) -> None:
    """A file of the right length says nothing: it was allocated before its bytes came, and the power may have gone."""
    room = workroom(tmp_path)
    parts = [b"a" * CHUNK, b"b" * CHUNK, b"c" * 10]
    chunks = tuple(XXH3_128.of(one) for one in parts)
    need = FileNeed(2 * CHUNK + 10, CHUNK, b"d", chunks, (0, 1, 2), ())  # type: ignore[arg-type]
    left = tmp_path / "stage" / os.fsdecode(stage_name(b"f", b"d"))
    left.write_bytes(parts[0] + bytes(CHUNK) + parts[2])
    staged = Stage(room, XXH3_128, False, {b"": b""}.get, lambda: False).begin(
        Step(Verb.FETCH, b"f", None, b"", None, need)
    )
    assert staged.missing == [1]
    room.close()
