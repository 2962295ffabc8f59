"""Converge while others write, disks fill, peers fail and people change their minds."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from closeranks_agent import beneath
from closeranks_agent.converge import tally
from closeranks_agent.converge.athand import local_content
from closeranks_agent.converge.room import Room
from closeranks_agent.converge.trash import Trash
from closeranks_agent.disk.volume import Volume
from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import decode_entry
from peers_in_process import CHUNK, Nodes, contents_below, describe, fill, nodes_in


async def two(nodes: Nodes) -> None:
    await nodes.add("n1")
    await nodes.add("n2")


def once(action: Callable[[], None], monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Run `action` right before the first call of `owner.name`."""
    inner = getattr(owner, name)
    done = False

    def wrapped(*args: object, **kwargs: object) -> object:
        nonlocal done
        if not done:
            done = True
            action()
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def rewrite(path: Path, content: bytes) -> Callable[[], None]:
    """Replace a file as editors do."""

    def act() -> None:
        path.with_name("other-name").write_bytes(content)
        os.rename(path.with_name("other-name"), path)

    return act


@pytest.mark.parametrize("moment", ["checked", "exchanged"])
async def test_a_file_replaced_under_our_hands_is_planned_again_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"the truth"})
        fill(tmp_path / "n2", {"f": b"first damage"})
        await two(nodes)
        act = rewrite(tmp_path / "n2/f", b"second damage")
        owner, name = (Trash, "intend") if moment == "checked" else (beneath, "exchange")
        once(act, monkeypatch, owner, name)
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.detail) == ("done", "")
        assert (tmp_path / "n2/f").read_bytes() == b"the truth"
        kept = contents_below(tmp_path / "n2/.closeranks/trash/items")
        assert b"second damage" in kept
        assert os.listdir(tmp_path / "n2/.closeranks/stage") == []


async def test_a_file_replaced_while_it_is_removed_stays_until_the_next_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        (tmp_path / "n1").mkdir()
        fill(tmp_path / "n2", {"f": b"rogue one"})
        await two(nodes)
        once(rewrite(tmp_path / "n2/f", b"rogue two"), monkeypatch, beneath, "move_new")
        result = await nodes.converge("n2", "n1")
        assert result.state == "done"
        assert describe(tmp_path / "n2") == {}
        assert b"rogue two" in contents_below(tmp_path / "n2")


async def test_a_file_that_never_rests_ends_as_partial_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"the truth", "g": b"calm"})
        fill(tmp_path / "n2", {"f": b"damage"})
        await two(nodes)
        inner = beneath.exchange
        count = 0

        def busy(*args: object) -> bool:
            nonlocal count
            count += 1
            rewrite(tmp_path / "n2/f", b"damage %d" % count)()
            return inner(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(beneath, "exchange", busy)
        result = await nodes.converge("n2", "n1")
        assert result.state == "partial"
        assert result.detail.startswith("1 path could not be brought to the target. f: it was changed")
        assert "(busy): a program keeps changing it" in result.detail
        assert result.detail.endswith("stop that program."), "what to do"
        assert (tmp_path / "n2/g").read_bytes() == b"calm"


async def test_a_new_name_that_was_changed_under_our_hands_keeps_the_old_one_only_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old name was set aside as one that can not be written, for the rest of the run; nothing was wrong with it."""
    content = os.urandom(2 * CHUNK)
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"new/deep": content, "small": b"s"})
        fill(tmp_path / "n2", {"d/old": content, "new/deep": b"before", "small": b"t"})
        await two(nodes)
        once(rewrite(tmp_path / "n2/new/deep", b"damage"), monkeypatch, beneath, "exchange")
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.detail) == ("done", "")
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert b"damage" in contents_below(tmp_path / "n2")


async def test_new_files_in_a_directory_that_goes_are_seen_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"d": b"a file"})
        fill(tmp_path / "n2", {"d/x": b"x"})
        await two(nodes)
        once(lambda: fill(tmp_path / "n2", {"d/late": b"late"}), monkeypatch, Trash, "intend")
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.detail) == ("done", "")
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert b"late" in contents_below(tmp_path / "n2")


async def test_without_rename_exchange_files_are_still_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"new", "was-dir": b"file", "was-file/x": b"x"})
        fill(tmp_path / "n2", {"f": b"old", "was-dir/y": b"y", "was-file": b"a file"})
        await two(nodes)
        monkeypatch.setattr(beneath, "exchange", lambda *_: False)
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.detail) == ("done", "")
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert {b"old", b"y", b"a file"} <= set(contents_below(tmp_path / "n2/.closeranks/trash"))


async def test_a_source_whose_file_changed_is_not_believed_and_another_is_asked(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        content = os.urandom(4 * CHUNK)
        fill(tmp_path / "n1", {"f": content, "g": b"only on n1"})
        fill(tmp_path / "n3", {"f": content, "g": b"only on n1"})
        await two(nodes)
        await nodes.add("n3")
        (tmp_path / "n3/f").write_bytes(os.urandom(4 * CHUNK))  # its index does not know yet
        (tmp_path / "n3/g").unlink()
        result = await nodes.converge("n2", "n1")
        assert result.state == "done"
        assert result.bytes_moved == 4 * CHUNK + 10
        assert (tmp_path / "n2/f").read_bytes() == content


async def test_bytes_that_no_source_has_end_as_partial(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"gone soon", "g": b"here"})
        await two(nodes)
        (tmp_path / "n1/f").unlink()
        result = await nodes.converge("n2", "n1")
        assert result.state == "partial"
        assert "no healthy peer gave its bytes" in result.detail
        assert (tmp_path / "n2/g").read_bytes() == b"here"


async def test_nothing_is_taken_from_a_fenced_or_unknown_node(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"x" * 1000})
        await two(nodes)
        nodes.fence("n1")
        result = await nodes.converge("n2", "n1", sources=("n1", "n2", "nobody"))
        assert (result.state, result.bytes_moved) == ("partial", 0)
        assert nodes.nodes["n1"].served == {}


async def test_cancelled_and_run_again_it_finishes_without_fetching_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "PROGRESS_INTERVAL_S", 0.0)  # a fast machine is through between two of them
    async with nodes_in(tmp_path) as nodes:
        size = 1000 * CHUNK
        fill(tmp_path / "n1", {"large": os.urandom(size)})
        await two(nodes)
        task = asyncio.create_task(nodes.converge("n2", "n1"))
        # Not by what the source has sent: on a busy machine much of that is still in the sockets' buffers.
        while not any(0 < one.bytes_remaining <= size // 2 for one in nodes.progress):
            assert not task.done()
            await asyncio.sleep(0.0005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        remaining = nodes.progress[-1].bytes_remaining
        result = await nodes.converge("n2", "n1")
        assert result.state == "done"
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert result.bytes_moved <= remaining <= size // 2, "what had come is not fetched again"


# --- disks ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.root
async def test_a_disk_without_room_ends_as_a_problem_with_figures_and_later_goes_on(
    tmp_path: Path, small_disk: Path
) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"small": b"s" * 1000, "zlarge": os.urandom(6 << 20), "dir": None})
        own = small_disk / "n2"
        fill(own, {"small": b"damaged"})
        (small_disk / "ballast").write_bytes(bytes(5 << 20))
        await nodes.add("n1")
        await nodes.add("n2", own)
        result = await nodes.converge("n2", "n1")
        assert result.state == "failed"
        assert result.problem is not None
        assert result.problem.code == "no_space"
        assert result.problem.needed_bytes == 6 << 20
        assert 0 < (result.problem.free_bytes or 0) < 3 << 20
        assert (own / "small").read_bytes() == b"s" * 1000  # what had room was done
        assert (own / "dir").is_dir()
        (small_disk / "ballast").unlink()
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.problem) == ("done", None)
        assert describe(own) == describe(tmp_path / "n1")


def fill_the_disk(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"r" * 65536)
        except OSError:
            return


@pytest.mark.root
async def test_a_rogue_file_that_fills_the_disk_goes_to_the_trash_first(
    tmp_path: Path, small_disk: Path
) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=8 << 20) as nodes:
        fill(tmp_path / "n1", {"wanted": os.urandom(100_000)})
        own = small_disk / "n2"
        own.mkdir()
        await nodes.add("n1")
        await nodes.add("n2", own)
        await nodes.converger("n2").prepare()
        fill_the_disk(own / "rogue")
        await nodes.scan("n2")
        result = await nodes.converge("n2", "n1")
        assert result.state == "failed"
        assert result.problem is not None
        assert result.problem.code == "no_space"
        assert "i1" in result.problem.message
        assert describe(own) == {}
        (item,), _ = nodes.converger("n2").trash.items("", 10, "")
        assert item.key == b"rogue"
        os.unlink(own / ".closeranks/trash/items" / item.id)  # what an operator may do
        result = await nodes.converge("n2", "n1")
        assert result.state == "done", result
        assert describe(own) == describe(tmp_path / "n1")


@pytest.mark.root
async def test_room_that_vanishes_in_the_middle_ends_cleanly(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "free", lambda _: 1 << 40)  # the check believes anything; the disk does not
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {f"f{at}": os.urandom(200_000) for at in range(50)})
        own = small_disk / "n2"
        fill(own, {"f0": b"old"})
        await nodes.add("n1")
        await nodes.add("n2", own)
        result = await nodes.converge("n2", "n1")
        assert result.state == "failed"
        assert result.problem is not None
        assert result.problem.code == "no_space"


async def test_a_full_trash_stops_the_step_and_says_so(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, trash_max_bytes=1000) as nodes:
        fill(tmp_path / "n1", {"f": b"new", "g": b"new"})
        fill(tmp_path / "n2", {"f": b"o" * 900, "g": b"p" * 900})
        await two(nodes)
        result = await nodes.converge("n2", "n1")
        assert result.state == "failed"
        assert result.problem is not None
        assert (result.problem.code, result.problem.needed_bytes, result.problem.free_bytes) == (
            "trash_full",
            900,
            100,
        )
        assert (tmp_path / "n2/f").read_bytes() == b"new"
        assert (tmp_path / "n2/g").read_bytes() == b"p" * 900
        await nodes.converge("n2", "n1", dry_run=True)
        assert nodes.converger("n2").waits_for == result.problem, "doctor asks on that machine"
        (tmp_path / "n2/g").unlink()
        await nodes.scan("n2")
        assert (await nodes.converge("n2", "n1")).state == "done"
        assert nodes.converger("n2").waits_for is None


async def test_what_pushes_have_brought_does_not_want_for_room_any_more(tmp_path: Path) -> None:
    """`doctor` went on telling of it on that machine until another converge, of which there was none."""
    async with nodes_in(tmp_path, trash_max_bytes=1000) as nodes:
        fill(tmp_path / "n1", {"f": b"new", "g": b"new", "h": b"new"})
        fill(tmp_path / "n2", {"f": b"o" * 900, "g": b"p" * 900, "h": b"q" * 900})
        await two(nodes)
        problem = (await nodes.converge("n2", "n1")).problem
        waits = [nodes.converger("n2").waits_for]
        for name in ("g", "h"):
            (tmp_path / "n2" / name).unlink()
            await nodes.scan("n2")
            edits = tuple(one for one in nodes.edits("n2", "n1") if one.before is None)
            assert (await nodes.push("n2", "n1", edits)).applied == len(edits) == 1
            waits.append(nodes.converger("n2").waits_for)
        assert problem is not None
        assert waits == [problem, problem, None]


async def test_a_file_whose_name_differs_only_in_case_is_reported_and_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of this machine may lack case-folding ext4: lstat and rename are made to fold the one name."""
    inner, move = beneath.status, beneath.move_new

    def folding(where: beneath.Spot) -> os.stat_result | None:
        folded = b"Readme" if where.name == b"readme" else where.name
        return inner(beneath.Spot(where.parent_fd, folded))

    def moving(old: bytes, old_dir_fd: int, new: bytes, new_dir_fd: int) -> None:
        if new == b"readme":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        move(old, old_dir_fd, new, new_dir_fd)

    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"Readme": b"capital", "readme": b"small"})
        fill(tmp_path / "n2", {"Readme": b"capital"})
        await two(nodes)
        monkeypatch.setattr(beneath, "status", folding)
        monkeypatch.setattr(beneath, "move_new", moving)
        result = await nodes.converge("n2", "n1")
        assert result.state == "partial"
        assert "case_twin" in result.detail
        assert describe(tmp_path / "n2") == {b"Readme": ("file", 0o644, b"capital")}


@pytest.mark.root
def test_read_only_directories_as_an_ordinary_user() -> None:
    """The agent without root's privileges: directories are lifted for the work and closed again.

    Also with the mode that somebody gave one of them, and that nobody had seen when the order was made.
    """
    program = Path(__file__).with_name("as_nobody.py")
    # Not under pytest's own directory, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="closeranks-nobody-") as base:
        os.chmod(base, 0o777)
        ended = subprocess.run(
            [sys.executable, str(program), base], capture_output=True, text=True, check=False
        )
    assert ended.returncode == 0, ended.stderr
    converged, unseen = map(json.loads, ended.stdout.splitlines())
    assert converged == {"state": "done", "detail": "", "equal": True, "lifted": 0}
    assert unseen == {"mode": "0o604"}


def test_a_chunk_list_that_a_plan_rests_on_stays_until_it_is_carried_out(
    tree_dir: Path, make_volume: Callable[..., Volume]
) -> None:
    """The index forgets a list that no row names when a step is acknowledged; a repair may bring its file back."""
    volume = make_volume()
    (tree_dir / "long").write_bytes(b"before" * 4096)
    assert volume.scan().complete
    before = volume.record(b"long")
    assert before is not None
    digest = decode_entry(before.value, volume.algorithm.width).digest
    (tree_dir / "long").write_bytes(b"after" * 4096)
    assert volume.scan().complete
    planned = local_content(volume, (), None).lists(digest)
    volume.acknowledge(volume.last_seq)
    assert volume.chunk_list(digest) is None
    found = volume.object(digest)
    assert found is not None
    assert decode_chunk_list(found) == planned
    volume.drop_staged()
    assert volume.object(digest) is None
