"""Converge where filesystems are at their most awkward."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import pytest

from peers_in_process import CHUNK, Nodes, contents_below, describe, fill, nodes_in, replace_settings, sparse


async def two(nodes: Nodes, tmp_path: Path) -> tuple[Path, Path]:
    """n1 holds the target, n2 is converged; both are scanned now."""
    await nodes.add("n1")
    await nodes.add("n2")
    return tmp_path / "n1", tmp_path / "n2"


async def converged(nodes: Nodes, tmp_path: Path, **options: object) -> None:
    result = await nodes.converge("n2", "n1", **options)
    assert (result.state, result.detail) == ("done", "")
    assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
    await nodes.scan("n2")
    assert nodes.root("n2") == nodes.root("n1")


def make(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_bytes(b"file at " + os.fsencode(path.name))
        case "empty":
            path.write_bytes(b"")
        case "symlink":
            path.symlink_to("../" * 8 + "etc/passwd")
        case "directory":
            path.mkdir()
        case "full":
            fill(path, {"x": b"x", "sub/y": b"y" * 100, "sub/deeper/z": b"z"})


KINDS = ("absent", "file", "empty", "symlink", "directory", "full")


@pytest.mark.parametrize("window", [3, 1000])
async def test_every_kind_becomes_every_other(tmp_path: Path, window: int) -> None:
    async with nodes_in(tmp_path) as nodes:
        for base in ("n1", "n2"):
            (tmp_path / base).mkdir()
        for own, target in itertools.product(KINDS, KINDS):
            make(tmp_path / "n2" / f"{own}-to-{target}", own)
            make(tmp_path / "n1" / f"{own}-to-{target}", target)
        lost = contents_below(tmp_path / "n2")
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path, window=window)
        assert set(lost) <= set(contents_below(tmp_path / "n2"))


async def test_names_that_are_not_text_and_names_of_255_bytes(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        names = [
            b"\xff\xfe\x80",
            b"new\nline",
            b"tab\t\\",
            b"\x1b[2J",
            b"x" * 255,
            b" ",
            b"-rf",
            b"...",
            "é".encode(),
        ]
        for base in ("n1", "n2"):
            (tmp_path / base).mkdir()
        for name in names:
            Path(os.fsdecode(os.fsencode(tmp_path / "n1") + b"/" + name)).write_bytes(b"content of " + name)
            directory = os.fsencode(tmp_path / "n2") + b"/dir"
            os.makedirs(directory, exist_ok=True)
            Path(os.fsdecode(directory + b"/" + name)).write_bytes(b"goes")
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path)


def deep(root: Path, path: bytes, content: bytes | None) -> None:
    """Write (or remove, with None) a file whose path is too long for a single call."""
    fd = os.open(root, os.O_RDONLY)
    *directories, name = path.split(b"/")
    for directory in directories:
        if content is not None:
            try:
                os.mkdir(directory, dir_fd=fd)
            except FileExistsError:
                pass
        inner = os.open(directory, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    if content is None:
        os.unlink(name, dir_fd=fd)
    else:
        file = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
        os.write(file, content)
        os.close(file)
    os.close(fd)


async def test_relative_paths_of_4095_bytes(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        for base in ("n1", "n2"):
            (tmp_path / base).mkdir()
        longest = b"/".join([b"d" * 254] * 16) + b"/" + b"f" * 15
        narrow = b"/".join([b"narrow"] * 550) + b"/leaf"
        assert len(longest) == 4095
        deep(tmp_path / "n1", longest, b"long")
        deep(tmp_path / "n1", narrow, b"narrow")
        deep(tmp_path / "n2", longest[:-1] + b"g", b"other")
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path)


async def test_zeros_stay_holes(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        (tmp_path / "n1").mkdir()
        sparse(tmp_path / "n1/sparse", 200 * CHUNK, 100 * CHUNK, b"island")
        sparse(tmp_path / "n1/nothing", 64 * CHUNK)
        await two(nodes, tmp_path)
        result = await nodes.converge("n2", "n1")
        assert result.state == "done"
        assert describe(tmp_path / "n2") == describe(tmp_path / "n1")
        assert result.bytes_moved <= CHUNK
        blocks = os.stat(tmp_path / "n2/sparse").st_blocks + os.stat(tmp_path / "n2/nothing").st_blocks
        assert blocks * 512 <= 4 * CHUNK


async def test_renames_copies_and_parts_that_are_at_hand_are_not_moved(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        content = {f"c{at}": os.urandom(5000 + at) for at in range(6)}
        large = os.urandom(10 * CHUNK)
        for base in ("n1", "n2"):
            (tmp_path / base).mkdir()
            fill(tmp_path / base, {**content, "large": large, "keep/large": large[: 3 * CHUNK]})
        own = tmp_path / "n2"
        os.rename(own / "c1", own / "moved-away")  # a rename is undone
        os.rename(own / "large", own / "elsewhere")
        (own / "c2").unlink()
        shutil.copy(own / "c3", own / "c4")  # another content over c4, which is nowhere else
        fill(tmp_path / "n1", {"again/c0": content["c0"], "shifted": large[CHUNK:] + b"tail"})
        await two(nodes, tmp_path)
        result = await nodes.converge("n2", "n1")
        assert result.state == "done"
        assert describe(own) == describe(tmp_path / "n1")
        assert result.bytes_moved == len(content["c2"]) + len(content["c4"]) + 4


async def test_what_lies_in_the_trash_is_not_fetched_again(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        (tmp_path / "n1").mkdir()
        (tmp_path / "n2").mkdir()
        fill(tmp_path / "n2", {"f": b"precious" * 100})
        own = await two(nodes, tmp_path)
        await converged(nodes, tmp_path)
        fill(own[0], {"back": b"precious" * 100})
        await nodes.scan("n1")
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.bytes_moved) == ("done", 0)
        assert (own[1] / "back").read_bytes() == b"precious" * 100


@pytest.mark.parametrize("seed", range(8))
async def test_random_trees_become_each_other(tmp_path: Path, seed: int) -> None:
    """Directories are closed when they are full, which only root would not need."""
    rng = random.Random(seed)

    def grow(root: Path) -> None:
        root.mkdir()
        places = [root]
        closed: list[Path] = []
        for at in range(60):
            path = rng.choice(places) / rng.choice("abcdef")
            if path.exists() or path.is_symlink():
                continue
            match rng.randrange(4):
                case 0:
                    mode = rng.choice((0o755, 0o700, 0o555))
                    path.mkdir(mode=mode | 0o200)
                    places.append(path)
                    if not mode & 0o200:
                        closed.append(path)
                case 1:
                    path.symlink_to(rng.choice(("..", "nowhere", "/etc")))
                case _:
                    path.write_bytes(
                        rng.choice((b"", b"x", rng.randbytes(rng.randrange(3 * CHUNK)), bytes(CHUNK)))
                    )
                    path.chmod(rng.choice((0o644, 0o400, 0o755)))
            del at
        for path in reversed(closed):
            path.chmod(0o555)

    async with nodes_in(tmp_path) as nodes:
        grow(tmp_path / "n1")
        grow(tmp_path / "n2")
        before = set(contents_below(tmp_path / "n2"))
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path, window=rng.choice((2, 5, 1000)))
        assert before <= set(contents_below(tmp_path / "n2"))


async def test_mode_alone_does_not_rewrite_the_file(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        for base in ("n1", "n2"):
            fill(tmp_path / base, {"f": b"content", "d": None})
        (tmp_path / "n1/f").chmod(0o640)
        (tmp_path / "n1/d").chmod(0o500)
        inode = os.stat(tmp_path / "n2/f").st_ino
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path)
        assert os.stat(tmp_path / "n2/f").st_ino == inode


@pytest.mark.root
async def test_owner_mtime_and_xattrs_where_they_are_tracked(tmp_path: Path) -> None:
    tracked = ("mode", "owner", "mtime", "xattrs")
    async with nodes_in(tmp_path, track=tracked) as nodes:
        fill(tmp_path / "n1", {"f": b"content", "d/g": b"more", "same": b"same"})
        fill(tmp_path / "n2", {"same": b"same"})
        os.symlink("f", tmp_path / "n1/l")
        for name in ("f", "d", "d/g", "same"):
            os.chown(tmp_path / "n1" / name, 1234, 4321)
            os.setxattr(tmp_path / "n1" / name, "user.note", name.encode())
            os.utime(tmp_path / "n1" / name, ns=(10**18, 10**18 + 7))
        os.chown(tmp_path / "n1/l", 77, 88, follow_symlinks=False)
        os.setxattr(tmp_path / "n2/same", "user.other", b"goes")
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path)
        status = os.stat(tmp_path / "n2/d/g")
        assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (1234, 4321, 10**18 + 7)
        assert os.listxattr(tmp_path / "n2/same") == ["user.note"]
        assert os.lstat(tmp_path / "n2/l").st_uid == 77


@pytest.mark.root
async def test_untracked_owner_stays_and_new_files_follow_their_directory(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"d/replaced": b"new", "d/created": b"new"})
        fill(tmp_path / "n2", {"d/replaced": b"old"})
        os.chown(tmp_path / "n2/d", 1000, 1001)
        os.chown(tmp_path / "n2/d/replaced", 2000, 2001)
        await two(nodes, tmp_path)
        await converged(nodes, tmp_path)
        assert os.stat(tmp_path / "n2/d/replaced").st_uid == 2000
        assert os.stat(tmp_path / "n2/d/created").st_gid == 1001


async def test_special_bits_are_withheld_unless_allowed(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        for base in ("n1", "n2"):
            fill(tmp_path / base, {"tool": b"#!", "dir": None, "planted": b"p"})
        fill(tmp_path / "n1", {"fresh": b"f"})
        for name, mode in (("tool", 0o4755), ("dir", 0o2775), ("fresh", 0o2750)):
            (tmp_path / "n1" / name).chmod(mode)
        (tmp_path / "n2/planted").chmod(0o4777)
        await two(nodes, tmp_path)
        result = await nodes.converge("n2", "n1")
        assert (result.state, result.withheld) == ("done", 3)
        found = describe(tmp_path / "n2")
        assert [found[name][1] for name in (b"tool", b"dir", b"fresh", b"planted")] == [
            0o755,
            0o775,
            0o750,
            0o644,
        ]
        verified = await nodes.verify("n2")
        assert verified.withheld == (b"dir", b"fresh", b"tool")
        volume = nodes.nodes["n2"].volume
        await volume.run(
            volume.configure, replace_settings(volume.settings, special_bits=True), volume.algorithm
        )
        await converged(nodes, tmp_path)
        assert (await nodes.verify("n2")).withheld == ()


async def test_a_directory_with_ignored_content_stays_and_is_named(tmp_path: Path) -> None:
    async with nodes_in(tmp_path, ignore=("*.tmp",)) as nodes:
        fill(tmp_path / "n1", {"keep": b"k", "becomes-file": b"now a file"})
        fill(tmp_path / "n2", {"gone/x": b"x", "gone/y.tmp": b"ignored", "becomes-file/z.tmp": b"ignored"})
        os.mkfifo(tmp_path / "n2/gone/fifo")
        await two(nodes, tmp_path)
        result = await nodes.converge("n2", "n1")
        assert result.state == "partial"
        assert "gone" in result.detail
        assert "ignored_content" in result.detail
        assert sorted(os.listdir(tmp_path / "n2/gone")) == ["fifo", "y.tmp"]
        assert os.listdir(tmp_path / "n2/becomes-file") == ["z.tmp"]
        assert (tmp_path / "n2/keep").read_bytes() == b"k"


async def test_a_fifo_in_the_way_is_never_removed(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"file", "g": b"file"})
        (tmp_path / "n2").mkdir()
        os.mkfifo(tmp_path / "n2/f")
        await two(nodes, tmp_path)
        result = await nodes.converge("n2", "n1")
        assert result.state == "partial"
        assert "special" in result.detail
        assert describe(tmp_path / "n2")[b"f"] == ("special",)
        assert describe(tmp_path / "n2")[b"g"][2] == b"file"


async def test_what_only_changes_its_name_keeps_the_old_one_until_it_has_the_new(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        content = os.urandom(2 * CHUNK)
        fill(tmp_path / "n1", {"new/deep": content, "second": b"small"})
        fill(tmp_path / "n2", {"d/old": content, "d/small": b"small", "d/gone": b"gone"})
        os.mkfifo(tmp_path / "n2/new")
        await two(nodes, tmp_path)
        result = await nodes.converge("n2", "n1")
        assert result.state == "partial"
        assert "d/old: it stays, since new/deep, which is to have its content, is not there" in result.detail
        assert (tmp_path / "n2/d/old").read_bytes() == content
        assert sorted(os.listdir(tmp_path / "n2")) == [".closeranks", "d", "new", "second"]
        assert os.listdir(tmp_path / "n2/d") == ["old"]
        os.unlink(tmp_path / "n2/new")
        await nodes.scan("n2")
        await converged(nodes, tmp_path)


async def test_a_planted_symlink_does_not_redirect_a_write(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        outside = tmp_path / "outside"
        fill(outside, {"victim": b"safe"})
        fill(tmp_path / "n1", {"d/victim": b"from the truth", "d/other": b"o"})
        fill(tmp_path / "n2", {"d/victim": b"own"})
        await two(nodes, tmp_path)
        shutil.rmtree(tmp_path / "n2/d")
        os.symlink(outside, tmp_path / "n2/d")  # after the scan: the index still says "directory"
        await converged(nodes, tmp_path)
        assert describe(outside) == {b"victim": ("file", 0o644, b"safe")}


async def test_many_changes_in_several_windows_end_at_the_target(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {f"a{at % 9}/b{at % 5}/f{at}": b"%d" % at for at in range(150)})
        fill(tmp_path / "n2", {f"a{at % 7}/b{at % 3}/g{at}": b"%d" % at for at in range(150)})
        await two(nodes, tmp_path)
        dry = await nodes.converge("n2", "n1", dry_run=True, window=10)
        wide = await nodes.converge("n2", "n1", dry_run=True, window=1000)
        assert {(one.verb, one.key) for one in dry.plan} == {(one.verb, one.key) for one in wide.plan}
        assert dry.plan_steps == wide.plan_steps
        await converged(nodes, tmp_path, window=10)
