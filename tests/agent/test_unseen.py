"""What somebody else did on this node, and nobody has looked at, is never replaced: it is committed as the node's own.

On a node that may write, such a change has to be merged first. So pushes, and converges of a node that is only
late, leave it where it is, and its commit does not pass for something that we made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.converge import push as pushing
from closeranks_proto.messages import PushEdit
from peers_in_process import CHUNK, Nodes, contents_below, fill, nodes_in

OURS = {
    "same": b"s",
    "changed": b"before",
    "attributes": b"a",
    "gone": b"g",
    "d/x": b"x",
    "becomes/y": b"y",
    "long": b"l" * 3 * CHUNK,
}
Carry = Callable[[Nodes, tuple[PushEdit, ...], bytes], Coroutine[Any, Any, object]]


async def pushed(nodes: Nodes, edits: tuple[PushEdit, ...], _base: bytes) -> object:
    return await nodes.push("n2", "n1", edits)


async def pushed_in_groups(nodes: Nodes, edits: tuple[PushEdit, ...], base: bytes) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pushing, "LARGE_BYTES", 0)
        return await pushed(nodes, edits, base)


async def converged(nodes: Nodes, _edits: tuple[PushEdit, ...], base: bytes) -> object:
    return await nodes.converge("n2", "n1", base=base)


async def converged_after_a_scan(nodes: Nodes, edits: tuple[PushEdit, ...], base: bytes) -> object:
    """The change is committed, but the order was made before the coordinator heard of it."""
    await nodes.scan("n2")
    return await converged(nodes, edits, base)


def replace(path: Path) -> None:
    path.write_bytes(b"mine")


def replace_by_rename(path: Path) -> None:
    path.with_name("aside").write_bytes(b"mine")
    path.with_name("aside").rename(path)


def remove(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "within").write_bytes(b"mine")


def make_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("elsewhere")


def change_mode(path: Path) -> None:
    path.chmod(0o604)


ACTS = {
    "changed": (replace, replace_by_rename, remove, make_directory, make_link, change_mode),
    "attributes": (replace, remove, change_mode),
    "gone": (replace, make_directory, change_mode),
    "new": (replace, make_directory, make_link),
    "long": (replace, remove),
    "d/x": (replace,),
    "d/new": (replace,),
    "d": (change_mode,),
    "becomes/new": (replace,),
}


@pytest.mark.parametrize("carry", [pushed, pushed_in_groups, converged, converged_after_a_scan])
@pytest.mark.parametrize(("name", "act"), [(name, act) for name, acts in ACTS.items() for act in acts])
async def test_a_change_that_nobody_has_seen_stays_and_is_committed_as_the_nodes_own(
    tmp_path: Path, carry: Carry, name: str, act: Callable[[Path], None]
) -> None:
    async with nodes_in(tmp_path) as nodes:
        for node in ("n1", "n2"):
            (tmp_path / node).mkdir()
            fill(tmp_path / node, OURS)
            await nodes.add(node)
        theirs = tmp_path / "n1"
        fill(theirs, {"changed": b"theirs", "new": b"theirs", "d/x": b"theirs", "d/new": b"theirs"})
        (theirs / "long").write_bytes(b"t" + b"l" * (3 * CHUNK - 1))
        (theirs / "attributes").chmod(0o640)
        (theirs / "gone").unlink()
        (theirs / "d").chmod(0o750)
        (theirs / "becomes/y").unlink()
        (theirs / "becomes").rmdir()
        (theirs / "becomes").write_bytes(b"theirs")
        await nodes.scan("n1")
        edits, base = nodes.edits("n2", "n1"), nodes.root("n2")
        seq = nodes.nodes["n2"].volume.last_seq
        path = tmp_path / "n2" / name
        act(path)
        wanted = look_at(path)
        await carry(nodes, edits, base)
        assert look_at(path) == wanted
        assert b"mine" not in contents_below(tmp_path / "n2/.closeranks/trash/items")
        await nodes.scan("n2")
        key = os.fsencode(name).replace(b"/", b"\0")
        commits = nodes.since("n2", seq)
        own = {one for cause, edits in commits if cause != "converge" for one in edits}
        made = {one for cause, edits in commits if cause == "converge" for one in edits}
        assert key in own
        assert not own & made
        assert own <= {one for one in own if (one + b"\0").startswith(key + b"\0")} | above(key)
        assert b"attributes" in made | own, "and the rest was carried out"


def look_at(path: Path) -> object:
    """What stands there."""
    if path.is_symlink():
        return os.readlink(path)
    if path.is_dir():
        return (path.stat().st_mode, sorted(os.listdir(path))) if path.name != "d" else path.stat().st_mode
    return (path.stat().st_mode, path.read_bytes()) if path.exists() else None


def above(key: bytes) -> set[bytes]:
    """The directories that it lies in."""
    return {key[:at] for at in range(len(key)) if key[at] == 0}


async def test_a_directory_into_which_something_came_stays_with_it_when_the_node_is_late(
    tmp_path: Path,
) -> None:
    async with nodes_in(tmp_path) as nodes:
        for node in ("n1", "n2"):
            (tmp_path / node).mkdir()
            fill(tmp_path / node, {"d/x": b"x", "stays": b"s"})
            await nodes.add(node)
        (tmp_path / "n1/d/x").unlink()
        (tmp_path / "n1/d").rmdir()
        await nodes.scan("n1")
        base = nodes.root("n2")
        (tmp_path / "n2/d/late").write_bytes(b"mine")
        result = await nodes.converge("n2", "n1", base=base)
        assert result.state == "partial"
        assert os.listdir(tmp_path / "n2/d") == ["late"]
        again = await nodes.converge("n2", "n1", base=nodes.root("n2"))
        assert again.state == "done", "what the coordinator knows is its to decide about"
        assert sorted(os.listdir(tmp_path / "n2")) == [".closeranks", "stays"]


async def test_a_change_that_comes_while_a_late_node_is_converged_stays(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        for node in ("n1", "n2"):
            (tmp_path / node).mkdir()
            fill(tmp_path / node, {f"f{number:03}": b"before" for number in range(300)})
            await nodes.add(node)
        fill(tmp_path / "n1", {f"f{number:03}": b"theirs %d" % number for number in range(300)})
        await nodes.scan("n1")
        volume, base = nodes.nodes["n2"].volume, nodes.root("n2")
        inner, calls = volume.apply, iter(range(100))

        def apply(*args: Any) -> None:
            if next(calls) == 0:
                (tmp_path / "n2/f299").write_bytes(b"mine")
                volume.look({b"": frozenset([b"f299"])}, {})
            inner(*args)

        volume.apply = apply  # type: ignore[method-assign]
        result = await nodes.converge("n2", "n1", base=base, window=64)
        assert (result.state, result.detail) == ("done", "")
        assert (tmp_path / "n2/f299").read_bytes() == b"mine"
        assert (tmp_path / "n2/f298").read_bytes() == b"theirs 298"
        assert not volume.history.objects.pinned
