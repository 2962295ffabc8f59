"""`closeranks hash` and `closeranks compare`: the agent's roots, and differences, without any fleet."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from closeranks_agent.disk import findings
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.volume import Volume
from closeranks_agent.hotpath.readers import Readers
from closeranks_agent.plain import commands, hashing, long, manifest
from closeranks_agent.plain.progress import amount, duration, progress_line
from closeranks_agent.plain.snapshot import How, Snapshot
from closeranks_proto.content import ChunkList, content_digest
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry
from closeranks_proto.errors import UserError
from closeranks_proto.limits import MIB

MakeVolume = Callable[..., Volume]
Said = tuple[int, list[str], str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """A command in this process: (exit code, lines of output, what was said to standard error)."""

    def call(*words: str | os.PathLike[str]) -> Said:
        parser = argparse.ArgumentParser()
        subparsers = parser.add_subparsers()
        commands.register_hash(subparsers)
        commands.register_compare(subparsers)
        args = parser.parse_args([os.fspath(word) for word in words])
        code = args.daemon(args)
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return call


def plant(root: Path) -> None:
    rng = random.Random(8)
    (root / "d/e").mkdir(parents=True)
    for number in range(30):
        (root / ("d" if number % 2 else "d/e") / f"{number}").write_bytes(rng.randbytes(number * 1000))
    (root / "long").write_bytes(rng.randbytes(3 * MIB + 5))
    (root / "link").symlink_to("long")
    (root / os.fsdecode(b"\xff\n")).write_bytes(b"x")
    time.sleep(0.05)


OPTIONS: list[tuple[list[str], dict[str, object]]] = [
    ([], {"chunk_bytes": MIB}),
    (["--digest", "blake3", "--chunk-bytes", "8192"], {"digest": "blake3", "chunk_bytes": 8192}),
    (
        ["--track", "mode,owner,mtime", "--ignore", "*9", "--ignore", "e/"],
        {"chunk_bytes": MIB, "track": ("mode", "owner", "mtime"), "ignore": ("*9", "e/")},
    ),
    (["--track", "xattrs"], {"chunk_bytes": MIB, "track": ("xattrs",)}),
    (["--track", ""], {"chunk_bytes": MIB, "track": ()}),
]


@pytest.mark.parametrize(("words", "settings"), OPTIONS)
@pytest.mark.parametrize("least", [0, 1 << 40])
def test_the_root_is_the_one_that_an_agent_has(
    tree_dir: Path, make_volume: MakeVolume, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch,
    words: list[str], settings: dict[str, object], least: int,
) -> None:  # fmt: skip
    """With other processes that read, and without."""
    plant(tree_dir)
    volume = make_volume(**settings)
    volume.scan()
    assert volume.root is not None
    monkeypatch.setattr(scan_module, "READERS_FILES", least)
    code, lines, said = run("hash", tree_dir, *words)
    assert (code, lines, said) == (0, [f"{volume.root.hex()}  {tree_dir}"], "")


def test_a_file_has_its_content_digest(tmp_path: Path, run: Callable[..., Said]) -> None:
    data = random.Random(1).randbytes(2 * MIB + 1)
    (tmp_path / "f").write_bytes(data)
    (tmp_path / "l").symlink_to("f")
    (tmp_path / "small").write_bytes(b"abc")
    pieces = b"".join(XXH3_128.of(data[at : at + MIB]) for at in range(0, len(data), MIB))
    expected = content_digest(XXH3_128, len(data), MIB, ChunkList(len(data), MIB, 16, pieces).digests).hex()
    code, lines, _ = run("hash", tmp_path / "f", tmp_path / "l", tmp_path / "small")
    assert code == 0
    assert [line.split()[0] for line in lines] == [expected, expected, XXH3_128.of(b"abc").hex()]


def test_json_says_by_what_settings(tree_dir: Path, run: Callable[..., Said]) -> None:
    plant(tree_dir)
    _, [line], _ = run("hash", tree_dir, "--json")
    found = json.loads(line)
    assert (found["kind"], found["entries"], found["files"]) == ("directory", 35, 32)
    assert (found["digest"], found["chunk_bytes"], found["track"]) == ("xxh3-128", MIB, ["mode"])
    assert found["left_out"] == []


def test_what_is_not_there_is_2_and_the_others_are_told(tree_dir: Path, run: Callable[..., Said]) -> None:
    plant(tree_dir)
    code, lines, said = run("hash", tree_dir / "none", tree_dir)
    assert (code, len(lines)) == (2, 1)
    assert "none: No such file" in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--digest", "md5"], "unknown digest"),
        (["--chunk-bytes", "1000"], "--chunk-bytes"),
        (["--track", "mode,colour"], "colour"),
        (["--ignore", "!"], "ignore"),
    ],
)
def test_settings_that_no_volume_has_are_refused(
    tree_dir: Path, run: Callable[..., Said], words: list[str], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        run("hash", tree_dir, *words)


@pytest.mark.root
def test_what_can_not_be_read_is_named_and_ends_with_1(tmp_path: Path) -> None:
    plant(tmp_path / "tree")
    os.chown(tmp_path / "tree/d/1", 65534, 65534)
    (tmp_path / "tree/d/1").chmod(0)
    program = [
        sys.executable,
        "-c",
        "import sys; from closeranks_coordinator.cli.main import main; sys.exit(main())",
    ]
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *program]
    done = subprocess.run([*without, "hash", tmp_path / "tree"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "! d/1: unreadable: Permission denied" in done.stderr
    done = subprocess.run(
        [*without, "compare", tmp_path / "tree", tmp_path / "tree"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "! d/1", "# 0 differ, 0 only in B, 0 missing in B, 1 could not be read; 0 bytes differ; 34 same",
    ]  # fmt: skip


# --- compare -------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal trees."""
    plant(tmp_path / "a")
    subprocess.run(["cp", "-a", tmp_path / "a", tmp_path / "b"], check=True)
    return tmp_path / "a", tmp_path / "b"


def damage(tree: Path) -> list[str]:
    """The lines that comparing must give."""
    (tree / "d/1").write_bytes(b"other")
    (tree / "d/3").unlink()
    (tree / "new").mkdir()
    (tree / "new/f").write_bytes(b"f")
    (tree / os.fsdecode(b"\xff\n")).unlink()
    (tree / "link").unlink()
    (tree / "link").symlink_to("d")
    (tree / "d/5").chmod(0o600)
    with (tree / "long").open("r+b") as file:
        file.seek(MIB)
        file.write(b"altered")
    return ["* d/1", "- d/3", "* d/5", "* link", "* long", "+ new", "+ new/f", "- \\xff\\n"]


def test_equal_trees_have_no_difference(pair: tuple[Path, Path], run: Callable[..., Said]) -> None:
    code, lines, _ = run("compare", *pair)
    assert (code, lines) == (
        0, ["# 0 differ, 0 only in B, 0 missing in B, 0 could not be read; 0 bytes differ; 35 same"],
    )  # fmt: skip
    code, lines, _ = run("compare", *pair, "--all")
    assert len([line for line in lines if line.startswith("= ")]) == 35


@pytest.mark.parametrize("sides", ["trees", "manifest a", "manifest b", "manifests"])
def test_differences_in_the_symbols_of_diff(
    pair: tuple[Path, Path], tmp_path: Path, run: Callable[..., Said], sides: str
) -> None:
    expected = damage(pair[1])
    given = list(pair)
    for index, name in enumerate("ab"):
        if sides in (f"manifest {name}", "manifests"):
            run("hash", pair[index], "--manifest", tmp_path / f"{name}.json")
            given[index] = tmp_path / f"{name}.json"
    code, lines, _ = run("compare", *given)
    assert code == 1
    assert lines[:-1] == expected
    moved = MIB if sides == "trees" else 3 * MIB + 5
    assert lines[-1] == (
        f"# 4 differ (1 in mode alone), 2 only in B, 2 missing in B, 0 could not be read; "
        f"{1000 + 3000 + 1 + 1 + moved} bytes differ; 29 same"
    )


def test_json_has_one_entry_a_line(pair: tuple[Path, Path], run: Callable[..., Said]) -> None:
    damage(pair[1])
    _, lines, _ = run("compare", *pair, "--json")
    found = {entry["path"]: entry for entry in map(json.loads, lines)}
    assert found["d/5"]["aspects"] == ["mode"]
    assert found["link"]["aspects"] == ["target"]
    assert (found["long"]["change"], found["long"]["bytes"]) == ("modified", MIB)
    assert found["\\xff\\n"]["path_b64"] == "/wo="


def test_a_manifest_brings_its_settings(
    pair: tuple[Path, Path], tmp_path: Path, run: Callable[..., Said]
) -> None:
    words = ["--digest", "blake3", "--track", "", "--ignore", "d/"]
    run("hash", pair[0], "--manifest", tmp_path / "a.json", *words)
    (pair[1] / "d/1").write_bytes(b"ignored")
    (pair[1] / "long").chmod(0o600)
    assert run("compare", tmp_path / "a.json", pair[1])[0] == 0
    run("hash", pair[1], "--manifest", tmp_path / "b.json")
    with pytest.raises(UserError, match="different settings"):
        run("compare", tmp_path / "a.json", tmp_path / "b.json")


@pytest.mark.parametrize(
    "words",
    [["--track", "mode,owner"], ["--digest", "blake3"], ["--chunk-bytes", "2097152"],
     ["--ignore", "*.x", "--ignore", "a b/"]],
)  # fmt: skip
def test_a_manifest_refuses_settings_that_it_was_not_made_by(
    tmp_path: Path, run: Callable[..., Said], words: list[str]
) -> None:
    """Else nobody would see that what was asked for was not compared."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(b"x")
    run("hash", tmp_path / "tree", "--manifest", tmp_path / "m")
    with pytest.raises(UserError, match=rf"{words[0]}: .*/m was made by") as refused:
        run("compare", tmp_path / "m", tmp_path / "tree", *words)
    printed = str(refused.value).partition("anew: ")[2]
    assert shlex.split(printed) == ["closeranks", "hash", "--manifest", "FILE", *words, "PATH"], "for a shell"
    assert run("compare", tmp_path / "m", tmp_path / "tree", "--track", "mode")[0] == 0


def test_what_differs_in_its_mode_alone_is_counted_so(tmp_path: Path, run: Callable[..., Said]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(b"x")
        (tmp_path / name / "g").write_bytes(name.encode())
    (tmp_path / "b/f").chmod(0o600)
    code, lines, _ = run("compare", tmp_path / "a", tmp_path / "b")
    assert (code, lines[:2]) == (1, ["* f", "* g"])
    assert lines[2].startswith("# 2 differ (1 in mode alone), 0 only in B")


def test_a_manifest_that_was_cut_or_edited_is_not_believed(
    pair: tuple[Path, Path], tmp_path: Path, run: Callable[..., Said]
) -> None:
    place = tmp_path / "a.json"
    run("hash", pair[0], "--manifest", place)
    lines = place.read_bytes().splitlines(keepends=True)
    for damaged, text in (
        (b"".join(lines[:-1]), "lead to the root"),
        (b"".join(lines)[:-10], "line 36"),
        (b"".join([lines[0], *reversed(lines[1:])]), "damaged"),
        (
            b"not a manifest\n",
            "neither a directory nor a manifest .*hash DIR --manifest FILE",
        ),
        (b"".join(lines).replace(b'"size":1000', b'"size":1001'), "lead to the root"),
    ):
        place.write_bytes(damaged)
        with pytest.raises(UserError, match=text):
            run("compare", place, pair[1])


def test_manifests_carry_everything_that_is_tracked(tmp_path: Path, run: Callable[..., Said]) -> None:
    tree = tmp_path / "tree"
    plant(tree)
    os.setxattr(tree / "long", "user.note", b"\x00\xff\n")
    words = ["--track", "mode,owner,mtime,xattrs"]
    assert run("hash", tree, "--manifest", tmp_path / "m", *words)[0] == 0
    assert run("compare", tmp_path / "m", tree)[0] == 0
    os.setxattr(tree / "long", "user.note", b"other")
    code, lines, _ = run("compare", tmp_path / "m", tree, "--json")
    assert code == 1
    assert [json.loads(line)["aspects"] for line in lines] == [["xattrs"]]


def test_what_can_not_be_written_is_refused_before_anything_is_read(
    tree_dir: Path, run: Callable[..., Said]
) -> None:
    for place, text in (
        ("none/m", "no such directory"),
        (".", "it is a directory"),
        ("", "the name of a file"),
    ):
        with pytest.raises(UserError, match=f"--manifest.*{text}"):
            run("hash", tree_dir / "never looked at", "--manifest", place and tree_dir / place)


def test_a_manifest_that_ends_in_its_middle_leaves_the_old_one(
    tmp_path: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "tree")
    place = tmp_path / "m"
    place.write_text("old")

    def interrupted(value: bytes, width: int) -> Entry:
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "decode_entry", interrupted)
    assert run("hash", tmp_path / "tree", "--manifest", place) == (130, [], "closeranks: interrupted\n")
    assert place.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["m", "tree"]


def test_a_link_to_a_manifest_stays_one(tmp_path: Path, run: Callable[..., Said]) -> None:
    plant(tmp_path / "tree")
    (tmp_path / "real").write_text("old")
    (tmp_path / "m").symlink_to("real")
    run("hash", tmp_path / "tree", "--manifest", tmp_path / "m")
    assert (tmp_path / "m").is_symlink()
    assert run("compare", tmp_path / "real", tmp_path / "tree")[0] == 0


def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path: Path, run: Callable[..., Said]) -> None:
    """As root, a device like /dev/null would be a file from then on."""
    plant(tmp_path / "tree")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    came: list[bytes] = []
    reading = threading.Thread(target=lambda: came.append(pipe.read_bytes()))
    reading.start()
    code, [line], _ = run("hash", tmp_path / "tree", "--manifest", pipe)
    reading.join(10)
    assert (code, pipe.is_fifo()) == (0, True)
    (tmp_path / "m").write_bytes(came[0])
    assert json.loads(came[0].splitlines()[0])["root"] == line.split()[0]
    assert run("compare", tmp_path / "m", tmp_path / "tree")[0] == 0


def test_a_pipe_is_refused_at_once_where_a_manifest_is_read(tmp_path: Path, run: Callable[..., Said]) -> None:
    """Opening one waits for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="neither a directory nor a regular file"):
        run("compare", tmp_path, tmp_path / "pipe")
    assert run("compare", tmp_path, tmp_path / "none")[::2] == (
        2, f"closeranks: {tmp_path}/none: No such file or directory\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"chunk_bytes":1048576', '"chunk_bytes":0', "settings that no volume has: --chunk-bytes"),
        ('"track":["mode"]', '"track":["colour"]', "settings that no volume has: --track: unknown: colour"),
        ('"digest":"xxh3-128"', '"digest":"md5"', "unknown digest 'md5'"),
        ('"files":32', '"files":31', "counts other entries"),
        ('"left_out_count":0', '"left_out_count":-1', "counts other entries"),
        ('"left_out":[]', '"left_out":[["..\\\\q","x"]]', "is damaged: .*backslash"),
        ('"left_out":[]', '"left_out":[["../x","x"]]', "is damaged: .*not allowed"),
        ('"size":1000', '"size":99999999999999999999', "line 3: "),
        ('"size":1000', '"size":-1', "line 3: "),
        ('"kind":"file"', '"kind":"fifo"', "line 3: unknown kind 'fifo'; known are file, directory, symlink"),
        ('"mode":"0644"', '"mode":"7777777"', "line 3: "),
    ],
)
def test_a_manifest_with_impossible_figures_is_refused_in_words(
    tmp_path: Path, run: Callable[..., Said], old: str, new: str, text: str
) -> None:
    plant(tmp_path / "tree")
    place = tmp_path / "m"
    run("hash", tmp_path / "tree", "--manifest", place)
    whole = place.read_text()
    assert old in whole
    place.write_text(whole.replace(old, new, 1))
    with pytest.raises(UserError, match=text):
        run("compare", place, tmp_path / "tree")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"digest":"', '"digest":"zz', "its digest must have 32 digits of 0-9 and a-f"),
        (
            '"size":1000',
            '"size":99999999999999999999',
            "no file has the size 99999999999999999999",
        ),
        ('"size":1000', '"size":-1', "no file has the size -1"),
        ('"mode":"0644"', '"mode":"0648"', "its mode must have four digits of 0-7, and is '0648'"),
        ('"path":"d/11"', '"path":"d/1"', "its path does not come behind that of the line before"),
        ('"path":"d/1"', '"path":"d/../1"', "which is not allowed"),
        ('"path":"d/1"', '"path":"d/1', "this is no line of a manifest"),
    ],
)
def test_a_damaged_manifest_is_told_in_plain_words_with_its_line_and_the_way_out(
    tmp_path: Path, run: Callable[..., Said], old: str, new: str, why: str
) -> None:
    plant(tmp_path / "tree")
    (tmp_path / "tree/d/1").chmod(0o644)
    place = tmp_path / "m"
    run("hash", tmp_path / "tree", "--manifest", place)
    first, rest = place.read_text().split("\n", 1)
    assert old in rest
    place.write_text(f"{first}\n{rest.replace(old, new, 1)}")
    with pytest.raises(UserError) as caught:
        run("compare", place, tmp_path / "tree")
    told = str(caught.value)
    assert re.match(rf"{place} is damaged(, line \d+)?: .*", told)
    assert ", line " in told or ".." in new, "a path that none can have is found later, in the tree"
    assert why in told
    assert told.endswith("make it anew with `closeranks hash DIR --manifest FILE`")


def test_a_manifest_that_was_cut_off_is_told_so(tmp_path: Path, run: Callable[..., Said]) -> None:
    plant(tmp_path / "tree")
    place = tmp_path / "m"
    run("hash", tmp_path / "tree", "--manifest", place)
    place.write_bytes(place.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"line 36: it ends in the middle of a line.*make it anew with"):
        run("compare", place, tmp_path / "tree")


def test_a_pipe_that_nobody_reads_any_more_is_not_the_directorys_fault(
    tmp_path: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    plant(tmp_path / "tree")
    monkeypatch.setattr(hashing, "write_manifest", closed)
    with pytest.raises(BrokenPipeError):
        run("hash", tmp_path / "tree", "--manifest", "-")


# --- what is no part of a root -------------------------------------------------------------------


def test_special_files_are_told_and_never_counted_as_unreadable(
    tmp_path: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are more than are named."""
    monkeypatch.setattr(findings, "REPORT_MAX_UNREADABLE", 2)
    tree = tmp_path / "tree"
    plant(tree)
    for number in range(5):
        os.mkfifo(tree / f"fifo{number}")
    code, [line], said = run("hash", tree)
    assert (code, said) == (
        0, f"closeranks: {tree}: 5 special files (device, socket, fifo) are no part of the root\n",
    )  # fmt: skip
    found = json.loads(run("hash", tree, "--json")[1][0])
    assert (found["root"], found["left_out_count"], found["never_compared_count"]) == (line.split()[0], 0, 5)
    assert run("compare", tree, tree)[0] == 0


@pytest.mark.root
def test_another_filesystem_in_a_tree_is_named(tmp_path: Path, run: Callable[..., Said]) -> None:
    (tmp_path / "tree/mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "tree/mounted"], check=True)
    try:
        code, _, said = run("hash", tmp_path / "tree")
    finally:
        subprocess.run(["umount", tmp_path / "tree/mounted"], check=True)
    assert (code, said) == (
        0, f"closeranks: {tmp_path}/tree: mounted is another filesystem, and no part of the root\n",
    )  # fmt: skip


# --- long files ----------------------------------------------------------------------------------


def test_a_long_file_is_shared_among_readers(
    tmp_path: Path, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(random.Random(2).randbytes(5 * MIB + 3))
    alone = run("hash", tmp_path / "f")
    monkeypatch.setattr(hashing, "MIN_BYTES", MIB)
    monkeypatch.setattr(long, "RANGE_BYTES", 2 * MIB)
    came: list[int] = []
    read_long = long.read_long

    def watched(
        readers: Readers, name: bytes, status: os.stat_result, how: How, told: Callable[[int], None]
    ) -> bytes | None:
        return read_long(readers, name, status, how, lambda size: (came.append(size), told(size))[1])

    monkeypatch.setattr(hashing, "read_long", watched)
    assert run("hash", tmp_path / "f") == alone
    assert sorted(came) == [MIB + 3, 2 * MIB, 2 * MIB]


def test_a_long_file_that_changed_has_no_digest_of_ranges(tmp_path: Path) -> None:
    place = tmp_path / "f"
    place.write_bytes(bytes(3 * MIB))
    before = place.stat()
    os.utime(place, (1, 1))
    parent_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with long.open_readers(parent_fd, How(XXH3_128)) as readers:
            assert long.read_long(readers, b"f", before, How(XXH3_128), lambda size: None) is None
    finally:
        os.close(parent_fd)


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirected", "code", "text"),
    [
        (">/dev/full", 2, "closeranks: standard output: No space left on device\n"),
        (">&-", 2, "closeranks: standard output is closed\n"),
        ("2>&- >/dev/null", 0, ""),
    ],
)
def test_an_answer_that_goes_nowhere_is_an_error(
    tmp_path: Path, redirected: str, code: int, text: str, unbuffered: str
) -> None:
    (tmp_path / "f").write_bytes(b"f")
    main = "import sys; from closeranks_coordinator.cli.main import main; sys.exit(main())"
    command = shlex.join([sys.executable, "-c", main, "hash", str(tmp_path)])
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirected}"],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, text)


# --- progress ------------------------------------------------------------------------------------


def test_an_estimate_is_given_only_of_a_whole_count_and_after_a_while() -> None:
    assert progress_line((10, 5_000_000), None, 10) == "10 files, 5 MB, 500 kB/s"
    assert "left" not in progress_line((10, 5_000_000), (20, 10_000_000), 1.0)
    assert progress_line((10, 5_000_000), (20, 10_000_000), 10) == (
        "10 of 20 files, 5 MB of 10 MB, 500 kB/s, about 10 s left"
    )
    assert "left" not in progress_line((30, 20_000_000), (20, 10_000_000), 10)


def test_one_file_is_not_counted() -> None:
    assert progress_line((0, 5_000_000), (1, 10_000_000), 10) == "5 MB of 10 MB, 500 kB/s, about 10 s left"


def test_small_files_count_in_an_estimate() -> None:
    """Nine tenths of the bytes lie in one file, nine tenths of the work in the others."""
    text = progress_line((1, 9_000_000), (10_000, 10_000_000), 10)
    assert "about 1 h" in text or "min left" in text


def test_amounts_and_durations_are_for_people() -> None:
    assert [amount(n) for n in (0, 999, 1_500, 999_600_000, 2.5e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "1,000 MB",
        "2.5 TB",
    ]
    assert [duration(s) for s in (0.2, 45, 600, 9000)] == ["1 s", "45 s", "10 min", "2 h 30 min"]


def test_without_a_terminal_there_is_no_progress(tree_dir: Path, run: Callable[..., Said]) -> None:
    plant(tree_dir)
    assert run("hash", tree_dir)[2] == ""


def test_a_snapshot_that_can_not_begin_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ValueError("no such settings")

    monkeypatch.setattr("closeranks_agent.plain.snapshot.reading_setup", refused)
    before = sorted(os.listdir("/proc/self/fd"))
    snapshot = Snapshot(os.fsencode(tmp_path), How(XXH3_128))
    with pytest.raises(ValueError, match="no such settings"):
        snapshot.open()
    snapshot.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
