"""The trash: bounded, durable, listed, restored, evicted only by age and closed incident."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgpack
import pytest

from closeranks_agent.converge import ageing
from closeranks_agent.converge.ledger import Ledger
from closeranks_agent.converge.trash import Trash
from closeranks_proto.errors import UserError
from closeranks_proto.messages import TrashItem, TrashList, TrashRestore
from peers_in_process import Nodes, contents_below, describe, fill, nodes_in, sparse


async def trashed(
    nodes: Nodes, tmp_path: Path, tree: dict[str, bytes | None], incident: str = "i1"
) -> list[TrashItem]:
    """Put a tree on n2, converge it away, and list what is in the trash."""
    if not nodes.nodes:
        await nodes.add("n1")
        await nodes.add("n2")
    fill(tmp_path / "n2", tree)
    await nodes.scan("n2")
    result = await nodes.converge("n2", "n1", incident=incident)
    assert result.state == "done"
    items, _ = await nodes.converger("n2").list_trash(TrashList(1, "v", "", 1000, ""))
    return list(items)


async def test_items_are_listed_by_incident_and_page(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await trashed(nodes, tmp_path, {f"f{at}": b"x" * at for at in range(5)})
        items = await trashed(nodes, tmp_path, {"g": b"later"}, incident="i2")
        assert [item.incident for item in items] == ["i1"] * 5 + ["i2"]
        converger = nodes.converger("n2")
        first, cursor = await converger.list_trash(TrashList(1, "v", "i1", 3, ""))
        rest, end = await converger.list_trash(TrashList(1, "v", "i1", 3, cursor or ""))
        assert [item.key for item in (*first, *rest)] == [b"f4", b"f3", b"f2", b"f1", b"f0"]
        assert end is None
        assert (first[0].size_bytes, first[0].kind, first[0].why, first[0].volume) == (
            4,
            "file",
            "removed",
            "v",
        )


async def test_restore_to_a_directory_outside(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        os.makedirs(tmp_path / "n2/d")
        os.symlink("target", tmp_path / "n2/d/link")
        sparse(tmp_path / "n2/sparse", 1 << 20)
        fill(tmp_path / "n2", {"d/sub": None, "tool": b"#!"})
        (tmp_path / "n2/tool").chmod(0o4755)
        items = await trashed(nodes, tmp_path, {"d/f": b"content"})
        assert describe(tmp_path / "n2") == {}
        converger = nodes.converger("n2")
        to = tmp_path / "out/side"
        order = TrashRestore(1, "v", tuple(item.id for item in items), str(to), False)
        restored = await converger.restore_trash(order, [])
        assert len(restored) == len(items) == 6
        found = describe(to)
        assert found[b"d/f"] == ("file", 0o644, b"content")
        assert found[b"d/link"] == ("symlink", b"target")
        assert found[b"tool"] == ("file", 0o755, b"#!")
        assert found[b"d/sub"][0] == "directory"
        assert os.stat(to / "sparse").st_blocks * 512 < 1 << 19


async def test_a_restore_that_is_asked_for_again_goes_on_and_overwrites_nothing(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        (tmp_path / "n2").mkdir(exist_ok=True)
        os.symlink("target", tmp_path / "n2/link")
        items = await trashed(nodes, tmp_path, {"d/f": b"content", "g": b"g"})
        converger, to = nodes.converger("n2"), tmp_path / "out"
        order = TrashRestore(1, "v", tuple(item.id for item in items), str(to), False)
        await converger.restore_trash(order, [])
        (to / "g").unlink()
        before = {name: os.lstat(to / name) for name in ("d", "d/f", "link")}
        assert len(await converger.restore_trash(order, [])) == len(items) == 4
        assert (to / "g").read_bytes() == b"g"
        assert {name: os.lstat(to / name)[1:7] for name in before} == {
            name: status[1:7] for name, status in before.items()
        }, "what was there is the same file"
        for name, spoil in (
            ("g", lambda place: place.write_bytes(b"h")),
            ("link", lambda place: (place.unlink(), os.symlink("elsewhere", place))),
            ("d/f", lambda place: (place.unlink(), place.mkdir())),
        ):
            spoil(to / name)
            found = describe(to)
            with pytest.raises(UserError, match="never overwritten"):
                await converger.restore_trash(order, [])
            assert describe(to) == found
            (to / name).rmdir() if (to / name).is_dir() else (to / name).unlink()


async def test_restore_refuses_places_inside_volumes_unknown_items_and_relative_paths(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        items = await trashed(nodes, tmp_path, {"f": b"content"})
        converger = nodes.converger("n2")
        os.symlink(tmp_path / "n2", tmp_path / "sly")
        other = tmp_path / "other-volume"
        other.mkdir()
        for place, words in (
            (tmp_path / "n2/sub", "outside every volume"),
            (tmp_path / "n2/.closeranks/x", "outside every volume"),
            (tmp_path / "sly/sub", "outside every volume"),
            (other / "deep/er", "outside every volume"),
            (Path("relative"), "not an absolute path"),
            (Path("/proc/nowhere"), "can not be"),
        ):
            with pytest.raises(UserError, match=words):
                await converger.restore_trash(
                    TrashRestore(1, "v", (items[0].id,), str(place), False), [os.fsencode(other)]
                )
        with pytest.raises(UserError, match="no item"):
            await converger.restore_trash(
                TrashRestore(1, "v", ("nonsense",), str(tmp_path / "out"), False), []
            )


async def test_restore_in_place_puts_back_and_is_recorded(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        items = await trashed(nodes, tmp_path, {"d/f": b"content", "g": b"g"})
        converger = nodes.converger("n2")
        ids = tuple(item.id for item in items)
        assert len(await converger.restore_trash(TrashRestore(1, "v", ids, "", True), [])) == 3
        found = describe(tmp_path / "n2")
        assert found[b"d/f"] == ("file", 0o644, b"content")
        root = nodes.root("n2")
        assert root != nodes.root("n1")
        await nodes.scan("n2")
        assert nodes.root("n2") == root
        with pytest.raises(UserError, match="never overwritten"):
            await converger.restore_trash(TrashRestore(1, "v", ids[-1:], "", True), [])
        assert os.listdir(tmp_path / "n2/.closeranks/stage") == []


async def test_two_versions_of_one_path_are_both_restored(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await trashed(nodes, tmp_path, {"f": b"first"})
        items = await trashed(nodes, tmp_path, {"f": b"second"})
        order = TrashRestore(1, "v", tuple(item.id for item in items), str(tmp_path / "out"), False)
        await nodes.converger("n2").restore_trash(order, [])
        assert sorted(contents_below(tmp_path / "out")) == [b"first", b"second"]


async def test_only_old_items_of_closed_incidents_are_evicted(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_keep_s=100.0) as nodes:
        (first,) = await trashed(nodes, tmp_path, {"f": b"closed"}, incident="closed")
        items = await trashed(nodes, tmp_path, {"g": b"open"}, incident="open")
        trash = nodes.converger("n2").trash
        # Each by its own time: a slow machine makes the second more than a second later.
        assert trash.evict({"open"}, first.trashed_unix_ms + 99_000) == 0
        assert trash.usage() == {"closed": 6, "open": 4}
        assert trash.evict({"open"}, items[-1].trashed_unix_ms + 101_000) == 6
        assert trash.usage() == {"closed": 0, "open": 4} or trash.usage() == {"open": 4}
        left, _ = trash.items("", 10, "")
        assert [item.key for item in left] == [b"g"]
        assert contents_below(tmp_path / "n2/.closeranks/trash/items") == [b"open"]
        later = await trashed(nodes, tmp_path, {"h": b"new"})
        assert later[-1].id > items[-1].id


@pytest.mark.parametrize("days", [-7, 400])
async def test_a_wall_clock_that_jumps_makes_nothing_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """What is shown goes by that clock; what is kept, by the machine's own."""
    real = time.time_ns
    async with nodes_in(tmp_path, trash_keep_s=100.0) as nodes:
        await trashed(nodes, tmp_path, {"f": b"before"}, incident="closed")
        monkeypatch.setattr(time, "time_ns", lambda: real() + days * 86400 * 10**9)
        monkeypatch.setattr(time, "time", lambda: real() / 1e9 + days * 86400)
        first, second = await trashed(nodes, tmp_path, {"g": b"after"}, incident="later")
        assert abs(second.trashed_unix_ms - first.trashed_unix_ms) > 6 * 86_400_000
        trash = Trash(nodes.nodes["n2"].volume)  # as after a restart of the agent
        assert trash.evict(set()) == 0
        assert trash.usage() == {"closed": 6, "later": 5}


def test_the_trashs_clock_goes_on_after_a_restart_and_after_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the machine has run; never back. Time for which it was off is not known, and does not count."""
    up_s = [5000.0]
    boot = ["one"]
    monkeypatch.setattr(ageing, "boot_id", lambda: boot[0])
    monkeypatch.setattr(time, "monotonic", lambda: up_s[0])
    fd = os.open(tmp_path, os.O_RDONLY)
    clock = ageing.Ageing(fd)
    start = clock.now_ms()
    assert abs(start - time.time() * 1000) < 60_000, "what older versions have stamped is compared with it"
    up_s[0] += 700
    clock.save(fd)
    up_s[0] += 50
    assert ageing.Ageing(fd).now_ms() == clock.now_ms() == start + 750_000
    up_s[0] += 30
    boot[0], up_s[0] = "two", 40.0
    again = ageing.Ageing(fd)
    assert again.now_ms() == start + 750_000 + 40_000, "what nothing has noted by the reboot is gone"
    up_s[0] += 1.0
    assert ageing.Ageing(fd).now_ms() == again.now_ms() == start + 791_000
    os.close(fd)


async def test_items_of_an_older_version_are_as_old_as_they_are_shown(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_keep_s=3600.0) as nodes:
        await trashed(nodes, tmp_path, {"f": b"old", "g": b"young"})
        trash = tmp_path / "n2/.closeranks/trash"
        fd = os.open(trash, os.O_RDONLY)
        ledger = Ledger(fd, b"ledger")
        records = [list(one) if isinstance(one, tuple) else one for one in ledger.read()]
        items = [one for one in records if isinstance(one, list) and one[0] == "aged item"]
        for item in items:
            item[0] = "item"
            del item[3]  # it had no other clock
        items[0][2] -= 7_200_000
        ledger.replace([msgpack.packb(one) for one in records])
        ledger.close()
        os.close(fd)
        left = Trash(nodes.nodes["n2"].volume)
        left.evict(set())
        assert [item.id for item in left.items("", 10, "")[0]] == [f"{items[1][1]:012x}"]


async def test_a_lost_ledger_still_lists_the_items(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        await trashed(nodes, tmp_path, {"f": b"content"})
        (tmp_path / "n2/.closeranks/trash/ledger").write_bytes(b"garbage of some length")
        (item,) = Trash(nodes.nodes["n2"].volume).items("", 10, "")[0]
        assert (item.key, item.size_bytes) == (b"recovered\0" + b"000000000001", 7)


def test_a_torn_tail_of_a_ledger_is_cut_off(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    ledger = Ledger(fd, b"l")
    records = [b"\xa5first", b"\xa6second", b"\xa5third"]
    ledger.append(records)
    ledger.sync()
    ledger.close()
    whole = (tmp_path / "l").read_bytes()
    for length in range(len(whole) + 1):
        (tmp_path / "l").write_bytes(whole[:length])
        ledger = Ledger(fd, b"l")
        kept = list(ledger.read())
        assert kept == ["first", "second", "third"][: len(kept)]
        ledger.append([b"\xa4next"])
        assert list(ledger.read()) == [*kept, "next"]
        ledger.close()
    os.close(fd)
