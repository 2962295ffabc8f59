"""Pushes between real directories: what is as they take it becomes what they say, the rest stays as it is."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from itertools import chain, count, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from closeranks_agent import syscalls
from closeranks_agent.chunks import serve
from closeranks_agent.chunks.fetch import Fetcher
from closeranks_agent.converge import attributes, parts, pushed, workbench
from closeranks_agent.converge import push as pushing
from closeranks_agent.converge.install import Installer
from closeranks_agent.converge.work import Result
from closeranks_agent.disk.volume import Volume
from closeranks_agent.speed import Bucket
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.limits import PUSH_GOOD_S
from closeranks_proto.messages import Announce, Commit, PushEdit
from peers_in_process import CHUNK, KIB, Nodes, contents_below, describe, fill, nodes_in, sparse

Files = dict[str, bytes | None]


async def pair(nodes: Nodes, base: Path, ours: Files, theirs: Files) -> None:
    for name, tree in (("n1", theirs), ("n2", ours)):
        (base / name).mkdir()
        fill(base / name, tree)
        await nodes.add(name)


async def test_a_push_makes_new_changed_and_removed_paths_as_they_are_at_the_source(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        big = os.urandom(3 * CHUNK + 5)
        await pair(
            nodes,
            tmp_path,
            {"same": b"s", "a/changed": b"old", "gone/deep/x": b"x", "dir-to-file/was": b"w", "to-dir": b"f"},
            {
                "same": b"s",
                "a/changed": b"new",
                "a/big": big,
                "dir-to-file": b"f",
                "to-dir/in": b"i",
                "e": b"",
            },
        )
        os.symlink("somewhere", tmp_path / "n1/link")
        (tmp_path / "n1/same").chmod(0o600)
        await nodes.scan("n1")
        edits = nodes.edits("n2", "n1")
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.skipped, result.failed, result.detail) == (len(edits), 0, 0, "")
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert nodes.root("n2") == nodes.root("n1")
        await nodes.scan("n2")
        assert nodes.root("n2") == nodes.root("n1")
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert {b"old", b"x", b"w", b"f"} <= set(kept)


async def test_what_a_push_made_is_named_where_all_is_told_anew(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"1", "b": b"1"}, {"a": b"2", "c": b"2"})
        await nodes.push("n2", "n1")
        (tmp_path / "n2/c").write_bytes(b"mine")
        await nodes.scan("n2")
        volume = nodes.nodes["n2"].volume
        volume.announce()
        (step,) = volume.pending(0, 9)
        assert isinstance(step, Announce)
        assert step.brought == (b"a", b"b")


async def test_a_path_that_is_not_as_the_push_took_it_is_left_alone(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"1", "b": b"1"}, {"a": b"2", "b": b"2"})
        edits = nodes.edits("n2", "n1")
        (tmp_path / "n2/a").write_bytes(b"mine")
        result = await nodes.push("n2", "n1", edits)
        assert (result.applied, result.skipped, result.failed) == (1, 1, 0)
        assert (tmp_path / "n2/a").read_bytes() == b"mine"
        assert (tmp_path / "n2/b").read_bytes() == b"2"


async def test_what_somebody_wrote_meanwhile_is_told_as_a_change_of_its_own(tmp_path: Path) -> None:
    """Told as ours, a writer's change would be taken for a step of the truth, and lost."""
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"1", "b": b"1"}, {"a": b"2", "b": b"2"})
        volume = nodes.nodes["n2"].volume
        told = volume.last_seq
        edits = nodes.edits("n2", "n1")
        (tmp_path / "n2/a").write_bytes(b"mine")
        await nodes.push("n2", "n1", edits)
        steps = [one for one in volume.pending(told, 9) if isinstance(one, Commit)]
        assert {edit.key: one.cause for one in steps for edit in one.edits} == {
            b"a": "scan",
            b"b": "converge",
        }


async def test_a_directory_renamed_with_a_thousand_files_moves_no_byte_and_trashes_none(
    tmp_path: Path,
) -> None:
    async with nodes_in(tmp_path) as nodes:
        tree: Files = {
            f"old/{at}/{name}": b"%d/%d" % (at, name) * 9 for at in range(10) for name in range(100)
        }
        await pair(nodes, tmp_path, tree, tree)
        os.rename(tmp_path / "n1/old", tmp_path / "n1/new")
        await nodes.scan("n1")
        result = await nodes.push("n2", "n1")
        assert (result.skipped, result.failed, result.bytes_moved) == (0, 0, 0)
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert contents_below(tmp_path / "n2/.closeranks/trash/items") == []


async def test_a_renamed_file_costs_the_index_no_question_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asked for itself, and read a pack for it: 50,000 files that got another directory took a minute."""
    async with nodes_in(tmp_path) as nodes:
        count = 1500
        tree: Files = {f"old/{name:04}": b"%d" % name * 9 for name in range(count)}
        await pair(nodes, tmp_path, tree, tree)
        os.rename(tmp_path / "n1/old", tmp_path / "n1/new")
        await nodes.scan("n1")
        asked: list[str] = []
        database = nodes.nodes["n2"].volume.history.index.database
        rows = database.rows

        def counted(statement: str, bindings: Any = ()) -> Any:
            asked.append(statement)
            return rows(statement, bindings)

        monkeypatch.setattr(database, "rows", counted)
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.bytes_moved) == (2 * count + 2, 0)
        assert nodes.root("n2") == nodes.root("n1")
        assert len(asked) < count / 8


async def test_a_file_whose_new_name_can_not_be_made_keeps_its_old_one(tmp_path: Path) -> None:
    """Its removal went well, so where that is so on all nodes its bytes lay in trashes alone."""
    async with nodes_in(tmp_path) as nodes:
        content = os.urandom(2 * CHUNK)
        tree: Files = {"old": content, "small": b"small", "other": b"o"}
        await pair(nodes, tmp_path, tree, tree)
        for name in ("old", "small"):
            os.rename(tmp_path / f"n1/{name}", tmp_path / f"n1/{name}-new")
            os.mkfifo(tmp_path / f"n2/{name}-new")
        (tmp_path / "n1/other").unlink()
        await nodes.scan("n1")
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.skipped, result.failed) == (1, 0, 4)
        assert "old: it stays, since old-new, which is to have its content, is not there" in result.detail
        assert (tmp_path / "n2/old").read_bytes() == content
        assert (tmp_path / "n2/small").read_bytes() == b"small"
        assert contents_below(tmp_path / "n2/.closeranks/trash/items") == [b"o"]
        for name in ("old", "small"):
            os.unlink(tmp_path / f"n2/{name}-new")
        await nodes.scan("n2")
        result = await nodes.push("n2", "n1")
        assert (result.skipped, result.failed) == (0, 0)
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


async def test_a_copy_moves_no_byte(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        tree: Files = {"a/one": os.urandom(5 * CHUNK), "a/two": b"small"}
        await pair(nodes, tmp_path, tree, tree)
        fill(tmp_path / "n1", {f"copy/{name}": content for name, content in tree.items()})
        await nodes.scan("n1")
        result = await nodes.push("n2", "n1")
        assert (result.failed, result.bytes_moved) == (0, 0)
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


async def test_a_path_already_there_counts_as_applied(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"2"})
        edits = nodes.edits("n2", "n1")
        assert (await nodes.push("n2", "n1", edits)).applied == 1
        again = await nodes.push("n2", "n1", edits)
        assert (again.applied, again.skipped, again.bytes_moved) == (1, 0, 0)


async def test_what_no_source_has_fails_in_words_and_holds_up_nothing_else(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"2", "b": b"3"})
        edits = nodes.edits("n2", "n1")
        (tmp_path / "n1/a").unlink()
        result = await nodes.push("n2", "n1", edits)
        assert (result.applied, result.skipped, result.failed) == (1, 0, 1)
        assert "a: no healthy peer gave its bytes" in result.detail


@pytest.mark.parametrize("large", [False, True])
async def test_bytes_of_a_peer_that_are_not_what_was_asked_for_are_asked_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """A peer with bad memory gives as many bytes as it should, and other ones."""
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"old"}, {"a": b"right"})
        fill(tmp_path / "n3", {"a": b"right"})
        await nodes.add("n3")
        bad, inner = nodes.nodes["n1"].volume, serve._read_now

        def damaged(volume: Volume, *more: Any) -> Any:
            data = inner(volume, *more)
            return b"wrong" if volume is bad and data is not None else data

        monkeypatch.setattr(serve, "_read_now", damaged)
        if large:
            monkeypatch.setattr(pushing, "LARGE_BYTES", 0)
        result = await nodes.push("n2", "n1", sources=("n1",))
        assert (result.applied, result.failed) == (0, 1)
        assert (tmp_path / "n2/a").read_bytes() == b"old"
        result = await nodes.push("n2", "n1", sources=("n1", "n3"))
        assert (result.applied, result.failed) == (1, 0)
        assert (tmp_path / "n2/a").read_bytes() == b"right"


async def test_a_push_that_names_a_path_outside_is_refused_as_a_whole(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"1"}, {"a": b"2"})
        (edit,) = nodes.edits("n2", "n1")
        result = await nodes.push("n2", "n1", (edit, PushEdit(b"..\0x", None, edit.after)))
        assert (result.applied, result.skipped) == (0, 2)
        assert "not well formed" in result.detail


async def test_other_names_of_a_hard_linked_file_keep_the_old_content(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"old"}, {"a": b"old"})
        for name in ("n1", "n2"):
            os.link(tmp_path / name / "a", tmp_path / name / "b")
        await nodes.scan()
        (tmp_path / "n1/a").unlink()
        (tmp_path / "n1/a").write_bytes(b"new")
        await nodes.scan("n1")
        await nodes.push("n2", "n1")
        assert (tmp_path / "n2/a").read_bytes() == b"new"
        assert (tmp_path / "n2/b").read_bytes() == b"old"


async def test_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {})
        sparse(tmp_path / "n1/disk", 64 << 20, at=(5 << 20) + 40_000, data=b"some data")
        await nodes.scan("n1")
        await nodes.push("n2", "n1")
        assert (tmp_path / "n2/disk").read_bytes() == (tmp_path / "n1/disk").read_bytes()
        assert (tmp_path / "n2/disk").stat().st_blocks * 512 <= 64 * KIB


async def test_a_directory_with_more_in_it_waits_for_a_later_push(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"d/a": b"1", "d/b": b"2", "x": b"3"}, {})
        edits = {edit.key: edit for edit in nodes.edits("n2", "n1")}
        first = await nodes.push("n2", "n1", (edits[b"d"], edits[b"d\0a"], edits[b"x"]))
        assert (first.applied, first.skipped, first.failed) == (2, 1, 0)
        rest = await nodes.push("n2", "n1", (edits[b"d"], edits[b"d\0b"]))
        assert (rest.applied, rest.skipped, rest.failed) == (2, 0, 0)
        assert describe(tmp_path / "n2") == {}


async def test_a_directory_with_ignored_content_stays_and_is_named(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, ignore=("*.tmp",)) as nodes:
        await pair(nodes, tmp_path, {"d/a": b"1", "d/keep.tmp": b"2", "x": b"3"}, {})
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.skipped, result.failed) == (2, 0, 1)
        assert "d: the directory holds 1 ignored or special entries (keep.tmp)" in result.detail
        assert (
            "so it stays: remove them on this node, or have the directory again on a writer" in result.detail
        )
        assert (tmp_path / "n2/d/keep.tmp").read_bytes() == b"2"


async def test_a_chunk_list_left_out_is_asked_of_the_coordinator(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"big": os.urandom(3 * CHUNK)})
        (edit,) = nodes.edits("n2", "n1")
        assert edit.chunks is not None
        result = await nodes.push("n2", "n1", (PushEdit(edit.key, None, edit.after),))
        assert (result.applied, result.failed) == (1, 0)
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


async def test_attributes_that_are_tracked_come_along(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, track=("mode", "mtime", "xattrs", "owner")) as nodes:
        await pair(nodes, tmp_path, {"f": b"1", "g": b"1"}, {"f": b"2", "g": b"1", "h": b"3"})
        (tmp_path / "n1/d").mkdir()
        os.symlink("f", tmp_path / "n1/l")
        os.setxattr(tmp_path / "n1/f", "user.color", b"red")
        os.setxattr(tmp_path / "n1/g", "user.color", b"blue")
        os.utime(tmp_path / "n1/h", ns=(5, 1_000_000_007))
        os.utime(tmp_path / "n1/l", ns=(5, 2_000_000_007), follow_symlinks=False)
        await nodes.scan("n1")
        result = await nodes.push("n2", "n1")
        assert (result.skipped, result.failed) == (0, 0)
        await nodes.scan("n2")
        assert nodes.root("n2") == nodes.root("n1")
        assert (tmp_path / "n2/l").lstat().st_mtime_ns == 2_000_000_007


async def test_a_full_trash_lets_the_oldest_of_earlier_pushes_go(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=40 * KIB) as nodes:
        await pair(nodes, tmp_path, {}, {})
        for version in range(8):
            (tmp_path / "n1/f").write_bytes(bytes([version]) * 12 * KIB)
            await nodes.scan("n1")
            result = await nodes.push("n2", "n1")
            assert (result.applied, result.problem) == (1, None)
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert bytes([6]) * 12 * KIB in kept
        assert bytes([0]) * 12 * KIB not in kept
        assert sum(map(len, kept)) <= 40 * KIB


async def test_nothing_younger_than_an_open_incident_goes_for_a_push(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=40 * KIB) as nodes:
        nodes.incidents = ("i7",)
        await pair(nodes, tmp_path, {}, {})
        results = []
        for version in range(6):
            (tmp_path / "n1/f").write_bytes(bytes([version]) * 12 * KIB)
            await nodes.scan("n1")
            results.append(await nodes.push("n2", "n1"))
        assert [one.applied for one in results] == [1, 1, 1, 1, 0, 0]
        assert results[-1].problem is not None
        assert results[-1].problem.code == "trash_full"
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert sorted(one[0] for one in kept) == [0, 1, 2]


async def test_what_is_larger_than_the_whole_trash_is_told_with_what_alone_helps(tmp_path: Path) -> None:
    """An empty trash would not help, and nothing goes from it for a file that can never have room there."""
    async with nodes_in(tmp_path, trash_max_bytes=40 * KIB) as nodes:
        await pair(nodes, tmp_path, {}, {})
        for size in (12, 50, 60):
            (tmp_path / "n1/f").write_bytes(bytes([size]) * size * KIB)
            await nodes.scan("n1")
            result = await nodes.push("n2", "n1")
        assert (result.applied, result.failed) == (0, 1)
        assert result.problem is not None
        assert (result.problem.code, result.problem.needed_bytes) == ("trash_full", 50 * KIB)
        assert nodes.converger("n2").waits_for == result.problem
        assert (
            f"set trash_max_bytes of this volume in coordinator.toml to {50 * KIB} or more"
            in result.problem.message
        )
        assert "emptying the trash would not help" in result.problem.message
        assert (tmp_path / "n2/f").read_bytes() == bytes([50]) * 50 * KIB
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert bytes([12]) * 12 * KIB in kept


async def test_an_incident_that_was_open_before_a_restart_still_protects_what_is_younger(
    tmp_path: Path,
) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=40 * KIB) as nodes:
        await pair(nodes, tmp_path, {}, {})
        nodes.incidents = ("i7",)
        results = []
        for version in range(6):
            (tmp_path / "n1/f").write_bytes(bytes([version]) * 12 * KIB)
            await nodes.scan("n1")
            results.append((await nodes.push("n2", "n1")).applied)
            await nodes.convergers.pop("n2").close()  # the next push is another process's
        assert results == [1, 1, 1, 1, 0, 0]
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert sorted(one[0] for one in kept) == [0, 1, 2]


async def test_what_a_converge_discarded_never_goes_for_a_push(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=40 * KIB) as nodes:
        await pair(nodes, tmp_path, {"only-here": b"o" * 12 * KIB}, {})
        await nodes.converge("n2", "n1", incident="")
        for version in range(8):
            (tmp_path / "n1/f").write_bytes(bytes([version]) * 12 * KIB)
            await nodes.scan("n1")
            await nodes.push("n2", "n1")
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert b"o" * 12 * KIB in kept


async def test_a_new_file_costs_three_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, its directory; the third is the database's own."""
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"d/warm": b"1"}, {"d/warm": b"2"})
        await nodes.push("n2", "n1")
        (tmp_path / "n1/d/new").write_bytes(b"new")
        await nodes.scan("n1")
        synced: list[str] = []
        for owner, name in ((os, "fsync"), (os, "fdatasync"), (syscalls, "sync_filesystem")):
            inner = getattr(owner, name)

            def counted(fd: int, inner: Callable[[int], None] = inner) -> None:
                synced.append(os.readlink(f"/proc/self/fd/{fd}"))
                inner(fd)

            monkeypatch.setattr(owner, name, counted)
        await nodes.push("n2", "n1")
        assert len(synced) == 2
        assert "/stage/" in synced[0]
        assert synced[1] == str(tmp_path / "n2/d")


async def test_an_idle_agent_holds_nothing_open_below_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "LINGER_S", 0.01)
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"1"})
        await nodes.push("n2", "n1")
        async with asyncio.timeout(10):
            while any(one.startswith(str(tmp_path / "n2")) for one in open_files()):
                await asyncio.sleep(0.01)


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return found


async def test_a_private_directory_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"1"})
        await nodes.push("n2", "n1")
        shutil.rmtree(tmp_path / "n2/.closeranks/stage")
        shutil.rmtree(tmp_path / "n2/.closeranks/trash")
        (tmp_path / "n1/a").write_bytes(b"2")
        await nodes.scan("n1")
        assert (await nodes.push("n2", "n1")).applied == 1


async def test_a_root_that_was_replaced_is_not_written_to(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"b": b"1"}, {"b": b"1", "a": b"1"})
        edits = nodes.edits("n2", "n1")
        await nodes.push("n2", "n1", ())
        os.rename(tmp_path / "n2", tmp_path / "away")
        (tmp_path / "n2").mkdir()
        result = await nodes.push("n2", "n1", edits)
        assert (result.applied, result.skipped) == (0, 1)
        assert result.problem is not None
        assert result.problem.code == "not_mounted"
        assert os.listdir(tmp_path / "n2") == []
        assert not (tmp_path / "away/a").exists()


async def test_what_came_along_is_not_fetched_and_what_did_not_is(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"1"}, {"a": b"first", "b": b"second", "c": b"third"})
        result = await nodes.push("n2", "n1", bodies=(b"first", b"second"))
        assert (result.applied, result.failed, result.bytes_moved) == (3, 0, len(b"firstsecondthird"))
        assert nodes.nodes["n1"].served == {"n2": len(b"third")}
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


async def test_where_everything_came_along_no_source_is_needed(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        files: Files = {f"d/{at}": b"%d" % at * 50 for at in range(3000)}
        await pair(nodes, tmp_path, {}, files)
        bodies = tuple(body for body in files.values() if body is not None)
        result = await nodes.push("n2", "n1", sources=(), bodies=bodies)
        assert (result.applied, result.failed, result.skipped) == (3001, 0, 0)
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


@pytest.mark.parametrize("wrong", [b"forged", b"", b"right and more", bytes(CHUNK + 1)])
async def test_bodies_are_believed_for_what_their_bytes_are_and_nothing_else(
    tmp_path: Path, wrong: bytes
) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"right"})
        result = await nodes.push("n2", "n1", bodies=(wrong,))
        assert (result.applied, result.failed) == (1, 0)
        assert nodes.nodes["n1"].served == {"n2": len(b"right")}
        assert (tmp_path / "n2/a").read_bytes() == b"right"


async def test_a_body_of_another_length_than_its_entry_says_is_of_no_use(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"right"})
        lying = encode_entry(Entry(Kind.FILE, 3, XXH3_128.of(b"right"), 0o644))
        result = await nodes.push(
            "n2", "n1", edits=(PushEdit(b"a", None, lying),), sources=(), bodies=(b"right",)
        )
        assert (result.applied, result.failed) == (0, 1)
        assert not (tmp_path / "n2/a").exists()


async def test_what_came_along_counts_against_the_limit(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"a": b"x" * 3000, "b": b"y" * 3000})
        budget = Bucket()
        budget.set(10_000)
        nodes.converger("n2", budget=budget)
        began = asyncio.get_running_loop().time()
        for name in ("a", "b"):
            body = (tmp_path / "n1" / name).read_bytes()
            edits = tuple(edit for edit in nodes.edits("n2", "n1") if edit.key == name.encode())
            assert (await nodes.push("n2", "n1", edits=edits, bodies=(body,))).applied == 1
        assert asyncio.get_running_loop().time() - began > 0.15, (
            "the second waits until the first is paid for"
        )


async def test_what_came_along_is_used_where_the_content_is_in_the_tree_as_well(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(
            nodes, tmp_path, {"old": b"same", "kept": b"k"}, {"new": b"same", "copy": b"k", "kept": b"k"}
        )
        result = await nodes.push("n2", "n1", sources=(), bodies=(b"same", b"k"))
        assert (result.skipped, result.failed) == (0, 0)
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


async def test_a_push_that_came_long_ago_brings_back_nothing(tmp_path: Path) -> None:
    """A process that was stopped with it in hand: the truth may have left what it names since."""
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {"a": b"1"}, {"a": b"2", "b": b"3"})
        edits = nodes.edits("n2", "n1")
        before = describe(tmp_path / "n2")
        result = await nodes.push("n2", "n1", edits, ago_s=PUSH_GOOD_S + 1)
        assert (result.applied, result.skipped, result.failed) == (0, len(edits), 0)
        assert describe(tmp_path / "n2") == before
        assert (await nodes.push("n2", "n1", edits)).applied == len(edits)


async def test_a_push_that_stands_still_in_the_middle_is_given_up_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        names = [f"f{number}" for number in range(4)]
        await pair(nodes, tmp_path, {}, {name: name.encode() * 9 for name in names})
        monkeypatch.setattr(parts, "SMALL_STEPS", 1)
        looks = 4  # of each part: when its bytes come, before it is applied and its step, and behind that
        stopped_s = chain(repeat(0.0, 2 * looks), repeat(PUSH_GOOD_S + 1))
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + next(stopped_s))
        monkeypatch.setattr(pushed, "time", clock)
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.skipped, result.failed) == (2, 2, 0)
        monkeypatch.undo()
        assert (await nodes.push("n2", "n1")).applied == 2


@pytest.mark.parametrize("steps", [1, 4])
async def test_a_push_that_stood_still_within_a_step_is_over_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """What the step brought about is no progress that makes the rest good again, in its batch or behind it."""
    stood_s, attempt = 0.0, Installer._attempt

    def stopping(self: Installer, work: Any) -> Result:
        nonlocal stood_s
        result = attempt(self, work)
        stood_s = 2 * PUSH_GOOD_S
        return result

    async with nodes_in(tmp_path) as nodes:
        names = [f"f{number}" for number in range(4)]
        await pair(nodes, tmp_path, {}, {name: name.encode() * 9 for name in names})
        monkeypatch.setattr(parts, "SMALL_STEPS", steps)
        monkeypatch.setattr(Installer, "_attempt", stopping)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + stood_s)
        monkeypatch.setattr(pushed, "time", clock)
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.skipped, result.failed) == (1, 3, 0)


async def test_a_push_is_good_while_its_bytes_come_however_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node under a low limit of bytes follows its writer, too."""
    passed_s, write = 0.0, Fetcher._write

    async def slowly(self: Fetcher, *what: Any) -> None:
        nonlocal passed_s
        passed_s += 0.75 * PUSH_GOOD_S
        await write(self, *what)

    async with nodes_in(tmp_path) as nodes:
        names = [f"f{number}" for number in range(4)]
        await pair(nodes, tmp_path, {}, {name: name.encode() * 9 for name in names})
        monkeypatch.setattr("closeranks_agent.chunks.fetch.BATCH_CHUNKS", 1)
        monkeypatch.setattr(Fetcher, "_write", slowly)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s)
        monkeypatch.setattr(pushed, "time", clock)
        assert (await nodes.push("n2", "n1")).applied == 4
        assert passed_s > 2 * PUSH_GOOD_S


async def test_a_push_is_good_for_as_long_as_it_makes_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        names = [f"f{number}" for number in range(5)]
        await pair(nodes, tmp_path, {}, {name: name.encode() * 9 for name in names})
        monkeypatch.setattr(parts, "SMALL_STEPS", 1)
        passed = count(0.0, PUSH_GOOD_S / 4)  # at each look, and after each part
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + next(passed))
        monkeypatch.setattr(pushed, "time", clock)
        assert (await nodes.push("n2", "n1")).applied == 5


async def test_an_attribute_that_the_filesystem_does_not_keep_fails_its_path_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As done it would be sent again at once, for ever: there is always something left to do."""
    keep_time = os.utime

    def in_whole_seconds(*args: Any, ns: tuple[int, int], **more: Any) -> None:
        keep_time(*args, ns=(ns[0], ns[1] // 10**9 * 10**9), **more)

    async with nodes_in(tmp_path, track=("mode", "mtime")) as nodes:
        await pair(nodes, tmp_path, {"moved": b"m"}, {"moved": b"m", "whole": b"w"})
        for name in ("n1", "n2"):
            keep_time(tmp_path / name / "moved", ns=(0, 10**9))
        os.rename(tmp_path / "n1/moved", tmp_path / "n1/to")
        keep_time(tmp_path / "n1/whole", ns=(0, 5 * 10**9))
        (tmp_path / "n1/new").write_bytes(b"n")
        keep_time(tmp_path / "n1/new", ns=(0, 5 * 10**9 + 1))
        await nodes.scan("n1", "n2")
        monkeypatch.setattr(attributes.os, "utime", in_whole_seconds)
        for applied in (3, 0):  # the file, and the rename of two; then only what is left
            result = await nodes.push("n2", "n1")
            assert (result.applied, result.skipped, result.failed) == (applied, 0, 1)
            assert result.detail.startswith("new: it was made, and has another mtime than it was given")
        assert (tmp_path / "n2/new").read_bytes() == b"n"
        told = await nodes.converge("n2", "n1")
        assert told.state == "partial"
        assert "has another mtime than it was given" in told.detail
        assert "a program keeps changing it" not in told.detail


async def test_special_bits_that_may_not_be_written_are_no_failure(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await pair(nodes, tmp_path, {}, {"d/f": b"f"})
        (tmp_path / "n1/d/f").chmod(0o4755)
        (tmp_path / "n1/d").chmod(0o2755)
        await nodes.scan("n1")
        result = await nodes.push("n2", "n1")
        assert (result.applied, result.failed, result.detail) == (2, 0, "")
