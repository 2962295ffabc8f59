"""What the truth itself has left gives way in a full trash, oldest first; what a repair set aside never does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.converge.trash import Trash
from closeranks_proto.messages import ConvergeResult, TrashRestore
from peers_in_process import KIB, Nodes, contents_below, describe, fill, nodes_in

MOST = 40 * KIB
ALBUM: dict[str, bytes | None] = {f"trip/{at:02}": bytes([at]) * 12 * KIB for at in range(12)}

LEFT = {
    b"stays": ("file", 0o644, b"stays")
}  # a tree that is empty all at once is taken for one that is not mounted


def kept(tmp_path: Path) -> list[int]:
    """Which photos lie in the trash of n2, whose bytes are their numbers."""
    return sorted(one[0] for one in contents_below(tmp_path / "n2/.closeranks/trash/items") if one)


async def album(nodes: Nodes, tmp_path: Path, **before: bytes) -> None:
    """Two nodes that hold the same photos; `before` is what n2 has besides."""
    for name in ("n1", "n2"):
        fill(tmp_path / name, ALBUM | {"stays": b"stays"})
        await nodes.add(name)
    fill(tmp_path / "n2", dict(before))
    await nodes.scan("n2")


async def delete(nodes: Nodes, tmp_path: Path) -> None:
    """The writer's `rm -r trip`."""
    for name in ALBUM:
        os.unlink(tmp_path / "n1" / name)
    os.rmdir(tmp_path / "n1/trip")
    await nodes.scan("n1")


async def catch_up(nodes: Nodes, **options: object) -> ConvergeResult:
    """As the coordinator orders it for n2, which is only late, in a volume with writers."""
    arguments = {"incident": "", "base": nodes.root("n2"), "ordinary": True} | options
    return await nodes.converge("n2", "n1", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["push", "converge"])
async def test_a_deletion_of_more_than_the_trash_may_hold_goes_through_at_once(
    tmp_path: Path, how: str
) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path)
        await delete(nodes, tmp_path)
        if how == "push":
            pushed = await nodes.push("n2", "n1")
            assert (pushed.applied, pushed.failed, pushed.problem) == (13, 0, None)
        else:
            result = await catch_up(nodes)
            assert (result.state, result.problem) == ("done", None), result.detail
        assert describe(tmp_path / "n2") == LEFT
        assert kept(tmp_path) == [0, 1, 2], "removals go from the last to the first: the newest items stay"
        assert nodes.root("n2") == nodes.root("n1")
        await nodes.scan("n2")
        assert nodes.root("n2") == nodes.root("n1")


async def test_replaced_versions_give_way_to_a_late_nodes_converge(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path)
        fill(tmp_path / "n1", dict.fromkeys(ALBUM, b"edited"))
        await nodes.scan("n1")
        result = await catch_up(nodes)
        assert (result.state, result.problem) == ("done", None), result.detail
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert len(kept(tmp_path)) == 3


async def test_where_a_majority_is_the_truth_nothing_gives_way(tmp_path: Path) -> None:
    """Nobody is authorised there: the late ones may be the last that have what a bad deployment took from the rest."""
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path)
        await delete(nodes, tmp_path)
        result = await catch_up(nodes, ordinary=False)
        assert result.problem is not None
        assert (result.state, result.problem.code) == ("failed", "trash_full")
        assert "is to be removed here" in result.problem.message
        assert len(describe(tmp_path / "n2")) == 2 + 9
        assert len(kept(tmp_path)) == 3


@pytest.mark.parametrize("incident", ["i1", ""])
@pytest.mark.parametrize("how", ["push", "converge"])
async def test_what_a_repair_or_a_join_took_never_gives_way(tmp_path: Path, incident: str, how: str) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path, own=bytes([99]) * 12 * KIB)
        assert (await nodes.converge("n2", "n1", incident=incident)).state == "done"
        await delete(nodes, tmp_path)
        if how == "push":
            assert (await nodes.push("n2", "n1")).failed == 0
        else:
            assert (await catch_up(nodes)).state == "done"
        assert kept(tmp_path) == [0, 1, 99]


async def test_an_open_incident_keeps_what_came_since_and_the_message_names_the_writer(
    tmp_path: Path,
) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path)
        await delete(nodes, tmp_path)
        nodes.incidents = ("i7",)
        result = await catch_up(nodes)
        assert result.problem is not None
        assert (result.state, result.problem.code) == ("failed", "trash_full")
        assert "A writer of this volume has removed trip/" in result.problem.message
        assert "younger than an incident of this node that is open" in result.problem.message
        assert kept(tmp_path) == [9, 10, 11]
        nodes.incidents = ()
        assert (await catch_up(nodes)).state == "done"
        assert describe(tmp_path / "n2") == LEFT


async def test_a_repair_finds_room_in_a_trash_that_ordinary_work_has_filled(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path)
        await delete(nodes, tmp_path)
        await nodes.push("n2", "n1")
        nodes.incidents = ("i1",)
        fill(tmp_path / "n2", {"rogue": bytes([99]) * 20 * KIB})
        await nodes.scan("n2")
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.problem) == ("done", None), result.detail
        assert kept(tmp_path) == [0, 99]


async def test_one_file_larger_than_the_trash_stays_and_the_message_names_its_deletion(
    tmp_path: Path,
) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        for name in ("n1", "n2"):
            fill(tmp_path / name, ALBUM | {"stays": b"stays", "film": b"f" * 50 * KIB})
            await nodes.add(name)
        os.unlink(tmp_path / "n1/film")
        await delete(nodes, tmp_path)
        result = await catch_up(nodes)
        assert result.problem is not None
        assert "A writer of this volume has removed film (51.2 kB)" in result.problem.message
        assert f"set trash_max_bytes of this volume in coordinator.toml to {50 * KIB} or more" in (
            result.problem.message
        )
        assert "remove it on this node by hand" in result.problem.message
        assert describe(tmp_path / "n2").keys() == {b"film", b"stays"}, "everything else has gone"
        os.unlink(tmp_path / "n2/film")
        await nodes.scan("n2")
        assert nodes.root("n2") == nodes.root("n1")


async def test_what_is_still_to_be_copied_does_not_give_way(tmp_path: Path) -> None:
    """A renamed album is made from the bytes of the old one: they may be the last, so they go when it is there."""
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path)
        os.rename(tmp_path / "n1/trip", tmp_path / "n1/holiday")
        await nodes.scan("n1")
        base = nodes.root("n2")
        first = await catch_up(nodes, sources=(), base=base)
        assert first.bytes_moved == 0
        assert {b"holiday/%02d" % at for at in range(12)} <= describe(tmp_path / "n2").keys()
        again = await catch_up(nodes, sources=())
        assert (again.state, again.bytes_moved) == ("done", 0), again.detail
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")


async def test_a_full_trash_is_read_once_for_many_that_find_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger may have a million records, and each of a thousand paths would read all of them."""
    asked: list[int] = []
    make_room = Trash.make_room

    def counted(trash: Trash, charge: int, *others: Any) -> bool:
        asked.append(charge)
        return make_room(trash, charge, *others)

    monkeypatch.setattr(Trash, "make_room", counted)
    async with nodes_in(tmp_path, trash_max_bytes=MOST) as nodes:
        await album(nodes, tmp_path, first=b"f" * 30 * KIB)
        assert (await nodes.converge("n2", "n1")).state == "done"
        fill(tmp_path / "n2", {f"own-{at:03}": b"o" * KIB for at in range(200)})
        await nodes.scan("n2")
        result = await nodes.converge("n2", "n1")
        assert result.problem is not None
        assert (result.problem.code, result.files_trashed) == ("trash_full", 10)
        assert asked == [11 * KIB]


async def test_an_item_is_found_without_the_leading_zeros_of_its_id(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await album(nodes, tmp_path, own=b"mine")
        await nodes.converge("n2", "n1")
        order = TrashRestore(1, "v", ("1", "000000000001"), str(tmp_path / "out"), False)
        (item,) = await nodes.converger("n2").restore_trash(order, [])
        assert (item.id, contents_below(tmp_path / "out")) == ("000000000001", [b"mine"])
