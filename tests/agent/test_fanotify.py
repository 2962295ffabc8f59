"""fanotify on real filesystems: what is told, what is not, and that nothing is missed in a storm."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn import churn, directories
from closeranks_agent.watch import calls
from closeranks_agent.watch.events import CANARY, Event, Lost, What
from closeranks_agent.watch.fanotify import NAMELESS, FanotifySource
from closeranks_agent.watch.records import MalformedEvents, fields_of, parse_fanotify
from watched_tree import (
    Mirror,
    drain,
    fast_tree,
    fill,
    losses,
    make_tree,
    names,
    paths,
    read_below,
    wait,
    what_of_path,
)

root_only = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="fanotify and mounting need root"),
]
NOBODYS_PID = -1  # so that what the test itself does is told
Opener = Callable[..., FanotifySource]
CHURN = Path(__file__).resolve().parent.parent / "churn.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


@pytest.fixture
def opened() -> Iterator[Opener]:
    sources: list[FanotifySource] = []

    def make(
        root: Path, private: Path | None = None, ignored: Callable[[bytes], bool] = lambda key: False,
        own_pid: int | None = NOBODYS_PID,
    ) -> FanotifySource:  # fmt: skip
        where = os.fsencode(private or root / ".closeranks")
        source = FanotifySource(os.fsencode(root), where, ignored, own_pid)
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Path]:
    with fast_tree(tmp_path) as tree:
        yield tree


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small ext4 of its own, mounted."""
    image, where = tmp_path / "disk.img", tmp_path / "disk"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True)
    yield where
    subprocess.run(["umount", str(where)], check=False, capture_output=True)


def shell(command: str, where: Path) -> int:
    """Run by another process; the pid of the shell, which does builtins itself."""
    process = subprocess.Popen(["/bin/sh", "-ec", command], cwd=where)
    assert process.wait() == 0
    return process.pid


class TestOnDisk:
    pytestmark = root_only

    def test_each_kind_of_change_is_told_with_directory_name_and_pid(
        self, tree: Path, opened: Opener
    ) -> None:
        source = opened(tree)
        (tree / "a").mkdir()
        drain(source, tree / ".closeranks")
        pid = shell("echo x > a/f; : > a/g", tree)
        told = drain(source, tree / ".closeranks")
        assert {one for one in told if isinstance(one, Event)} == {
            Event(b"a", b"f", What.CREATED | What.MODIFIED | What.CLOSED, pid),
            Event(b"a", b"g", What.CREATED | What.CLOSED, pid),
        }
        shell("chmod 600 a/f; mv a/f a/h; rm a/g; chmod 700 a; ln -s x a/l", tree)
        told = drain(source, tree / ".closeranks")
        assert What.MOVED_FROM in what_of_path(told, "a/f")
        assert what_of_path(told, "a/h") & What.MOVED_TO
        assert what_of_path(told, "a/g") == What.DELETED
        assert what_of_path(told, "a") == What.ATTRIBUTES | What.DIRECTORY
        assert what_of_path(told, "a/l") == What.CREATED

    def test_own_changes_are_dropped_but_not_the_canary(self, tree: Path, opened: Opener) -> None:
        source = opened(tree, own_pid=None)
        (tree / "mine").write_text("x")
        (tree / "canary").write_text("a file of the volume's, by name alone")
        shell("echo > theirs", tree)
        assert paths(drain(source, tree / ".closeranks")) == {"theirs"}

    def test_a_directory_that_this_process_renames_is_known_under_its_new_name(
        self, tree: Path, opened: Opener
    ) -> None:
        source = opened(tree, own_pid=None)
        shell("mkdir -p a/b; echo > a/b/f", tree)
        drain(source, tree / ".closeranks")
        (tree / "a").rename(tree / "z")
        shell("echo > z/b/g", tree)
        assert paths(drain(source, tree / ".closeranks")) == {"z/b/g"}

    def test_the_private_directory_and_ignored_ones_are_not_told(self, tree: Path, opened: Opener) -> None:
        source = opened(tree, ignored=lambda key: key == b"a\0cache")
        shell(
            "mkdir -p .closeranks/stage a/cache/deep; echo > a/cache/deep/f; echo > .closeranks/stage/f", tree
        )
        shell("echo > a/cache/g; echo > a/h; touch .closeranks", tree)
        assert paths(drain(source, tree / ".closeranks")) == {"a", "a/cache", "a/h"}

    def test_what_lies_outside_the_volume_is_not_told(self, tree: Path, opened: Opener) -> None:
        source = opened(tree)
        shell("mkdir x; echo > x/f; echo > tree.txt; mkdir treetop; echo > treetop/f", tree.parent)
        assert drain(source, tree / ".closeranks") == []

    def test_the_canary_of_a_private_directory_elsewhere_is_told(self, tree: Path, opened: Opener) -> None:
        private = tree.parent / "private"
        private.mkdir()
        source = opened(tree, private)
        shell("echo > f; echo > ../private/other", tree)
        assert paths(drain(source, private, ".17")) == {"f"}

    def test_the_canary_comes_after_everything_older_in_one_read(self, tree: Path, opened: Opener) -> None:
        source = opened(tree)
        (tree / ".closeranks/canary").write_text("")
        (tree / "f").write_text("")
        (tree / ".closeranks/canary").write_text("")
        told = source.read()
        assert isinstance(told[-1], Event)
        assert told[-1].directory == CANARY
        assert names(told[:-1]) == {(b"", b"f")}

    def test_directories_moved_in_out_and_about_are_told_where_they_are(
        self, tree: Path, opened: Opener
    ) -> None:
        source = opened(tree)
        shell("mkdir -p a/b c ../out/o; echo > a/b/f; echo > ../out/o/f", tree)
        drain(source, tree / ".closeranks")
        shell("mv a/b c/d; echo > c/d/g; mv c/d ../out/d; mv ../out/o o", tree)
        drain(source, tree / ".closeranks")
        shell("echo > ../out/d/h; echo > o/h", tree)
        assert paths(drain(source, tree / ".closeranks")) == {"o/h"}

    def test_names_that_are_not_utf_8_are_told_as_they_are(self, tree: Path, opened: Opener) -> None:
        source = opened(tree)
        directory = os.fsencode(tree) + b"/d\xff\xfe"
        os.mkdir(directory)
        with open(directory + b"/\x80\n", "w"):
            pass
        assert names(drain(source, tree / ".closeranks")) == {(b"", b"d\xff\xfe"), (b"d\xff\xfe", b"\x80\n")}

    def test_a_path_longer_than_a_page_is_lost_below_an_ancestor(self, tree: Path, opened: Opener) -> None:
        source = opened(tree)
        here = os.open(tree, os.O_PATH)
        for _ in range(20):
            os.mkdir(b"n" * 250, dir_fd=here)
            deeper = os.open(b"n" * 250, os.O_PATH, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)
        lost = losses(drain(source, tree / ".closeranks"))
        assert lost
        assert all(one.below and set(one.below) == {0, ord("n")} for one in lost)
        shutil.rmtree(tree / ("n" * 250))

    def test_a_root_behind_a_link_above_it_is_found(self, tree: Path, tmp_path: Path, opened: Opener) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        source = opened(tmp_path / "link" / "tree")
        shell("mkdir a; echo > a/f", tree)
        assert paths(drain(source, tree / ".closeranks")) == {"a", "a/f"}

    def test_changes_through_another_mount_of_a_bound_root_are_told(
        self, tree: Path, tmp_path: Path, opened: Opener
    ) -> None:
        bound = tmp_path / "bound"
        bound.mkdir()
        subprocess.run(["mount", "--bind", str(tree), str(bound)], check=True)
        try:
            source = opened(bound)
            shell("mkdir a; echo > a/f; echo > ../outside", tree)
            assert paths(drain(source, tree / ".closeranks")) == {"a", "a/f"}
            source.close()
        finally:
            subprocess.run(["umount", str(bound)], check=True)

    @pytest.mark.parametrize(
        "command", ["mv tree elsewhere", "rm -r tree; mkdir -p tree/.closeranks", "rm -r tree"]
    )
    def test_a_root_that_is_moved_removed_or_replaced_is_told_once(
        self, tree: Path, opened: Opener, command: str
    ) -> None:
        source = opened(tree)
        shell(command, tree.parent)
        told: list[Event | Lost] = []
        wait(source)
        while more := source.read():
            told.extend(more)
        shell("mkdir -p tree/x", tree.parent)
        told.extend(source.read())
        assert [one for one in told if isinstance(one, Event) and What.SELF in one.what] == told[-1:]

    def test_a_change_through_a_hard_link_is_told_under_the_name_used(
        self, tree: Path, opened: Opener
    ) -> None:
        shell("mkdir a b; echo > a/f; ln a/f b/g", tree)
        source = opened(tree)
        shell("echo x >> b/g", tree)
        assert paths(drain(source, tree / ".closeranks")) == {"b/g"}

    def test_a_write_through_a_map_is_told_when_the_file_is_closed_and_not_before(
        self, tree: Path, opened: Opener
    ) -> None:
        (tree / "m").write_bytes(b"\0" * 4096)
        source = opened(tree)
        with open(tree / "m", "r+b") as file:
            with mmap.mmap(file.fileno(), 4096) as area:
                area[:4] = b"abcd"
                area.flush()
            assert paths(drain(source, tree / ".closeranks")) == set()
        assert paths(drain(source, tree / ".closeranks")) == {"m"}

    def test_a_file_made_without_a_name_and_linked_later_is_told(self, tree: Path, opened: Opener) -> None:
        source = opened(tree)
        fd = os.open(tree, os.O_TMPFILE | os.O_WRONLY)
        os.write(fd, b"x")
        anywhere = os.open("/", os.O_PATH)
        os.link(f"/proc/self/fd/{fd}", tree / "named", src_dir_fd=anywhere, follow_symlinks=True)
        os.close(anywhere)
        os.close(fd)
        assert "named" in paths(drain(source, tree / ".closeranks"))

    def test_a_storm_of_100000_renames_is_told_completely(self, storm: Path, opened: Opener) -> None:
        fill(storm, 100, 10)
        base = os.fsencode(storm)
        source = opened(storm)
        for turn in range(100):
            for directory in range(100):
                for file in range(10):
                    where = base + b"/d%d/" % directory
                    os.rename(where + b"%d" % (file + 10 * turn), where + b"%d" % (file + 10 * (turn + 1)))
        told = drain(source, storm / ".closeranks")
        assert losses(told) == []
        assert len(paths(told)) == 101_000

    def test_a_tree_of_20000_files_removed_is_told_by_its_top(self, storm: Path, opened: Opener) -> None:
        fill(storm / "top", 20, 1000)
        source = opened(storm)
        shell("rm -r top", storm)
        told = drain(source, storm / ".closeranks")
        assert losses(told) == []
        assert what_of_path(told, "top") & What.DELETED

    @pytest.mark.parametrize("seed", range(4))
    def test_who_looks_only_where_told_knows_the_tree(
        self, tree: Path, tmp_path: Path, opened: Opener, seed: int
    ) -> None:
        (tmp_path / "out").mkdir()
        base, out = os.fsencode(tree), os.fsencode(tmp_path / "out")
        churn(base, out, 1000 + seed, 40)
        source = opened(tree)
        mirror = Mirror(base)
        mirror.look_below(b"")
        process = subprocess.Popen([sys.executable, "-S", CHURN, tree, tmp_path / "out", str(seed), "400"])
        while process.poll() is None:
            wait(source, 0.05)
            mirror.take(source.read())
        mirror.take(drain(source, tree / ".closeranks", ".1"))
        assert mirror.entries == read_below(base)
        for directory in directories(base):
            with open(directory + b"/probe", "w"):
                pass
        assert {os.fsdecode(one) for one in read_below(base) if one.endswith(b"probe")} == paths(
            drain(source, tree / ".closeranks", ".2")
        )

    def test_an_overflow_of_the_queue_is_lost_everywhere(
        self, tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limit = Path("/proc/sys/fs/fanotify/max_queued_events")
        before = limit.read_text()
        monkeypatch.setattr(calls, "FAN_UNLIMITED_QUEUE", 0)
        limit.write_text("64")
        try:
            source = opened(tree)
        finally:
            limit.write_text(before)
        for number in range(200):
            (tree / f"f{number}").write_text("")
        lost = losses(source.read())
        assert [one.below for one in lost] == [None]
        assert "overflowed" in lost[0].reason
        assert paths(drain(source, tree / ".closeranks")) == set()  # and it goes on

    @pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
    def test_other_filesystems_are_watched_and_can_be_unmounted(
        self, tmp_path: Path, opened: Opener, kind: str, request: pytest.FixtureRequest
    ) -> None:
        if kind == "ext4":
            where = request.getfixturevalue("disk")
        else:
            where = tmp_path / "ram"
            where.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(where)], check=True)
        (where / ".closeranks").mkdir()
        source = opened(where)  # the root of the volume is that of the filesystem
        shell("mkdir -p a/b; echo > a/b/f", where)
        assert paths(drain(source, where / ".closeranks")) == {"a", "a/b", "a/b/f"}
        subprocess.run(["umount", str(where)], check=True)  # not busy

    def test_a_write_through_a_handle_without_a_name_is_lost_and_an_unlink_is_not(
        self, disk: Path, tmp_path: Path, opened: Opener
    ) -> None:
        (disk / ".closeranks").mkdir()
        (disk / "f").write_text("x")
        with open(disk / "f") as file:
            handle = calls.handle_of(file.fileno())
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(tmp_path / "disk.img"), str(disk)], check=True)
        source = opened(disk)
        (disk / "gone").write_text("")
        (disk / "gone").unlink()
        assert losses(drain(source, disk / ".closeranks")) == []
        mount = os.open(disk, os.O_RDONLY)
        found = calls.open_handle(mount, handle)
        os.close(mount)
        with open(f"/proc/self/fd/{found}", "ab") as file_by_handle:
            file_by_handle.write(b"y")
        os.close(found)
        assert set(losses(drain(source, disk / ".closeranks"))) == {Lost(NAMELESS, None)}
        source.close()


def record(mask: int, pid: int, information: bytes) -> bytes:
    return struct.pack("=IBBHQii", 24 + len(information), 3, 0, 24, mask, -1, pid) + information


def named(handle: bytes, name: bytes) -> bytes:
    body = struct.pack("=8xIi", len(handle), 1) + handle + name + b"\0" * (4 - len(name) % 4)
    return struct.pack("=BBH", 2, 0, 4 + len(body)) + body


def test_repeated_events_of_one_buffer_are_folded() -> None:
    one = named(b"directory", b"f")
    data = record(calls.CREATE, 7, one) + record(calls.MODIFY, 7, one) + record(calls.MODIFY, 8, one)
    batch = parse_fanotify(data, 9, b"canary")
    assert sorted(batch.masks.values()) == [calls.MODIFY, calls.CREATE | calls.MODIFY]
    pid, handle, name = fields_of(next(iter(batch.masks)))
    assert (pid, handle[8:], name) == (7, b"directory", b"f")


def test_an_overflow_record_has_no_information() -> None:
    batch = parse_fanotify(record(calls.OVERFLOW, 0, b""), 9, b"canary")
    assert (batch.masks, batch.union) == ({}, calls.OVERFLOW)


mutated = st.lists(
    st.builds(
        record, st.sampled_from([calls.CREATE, calls.ATTRIB, calls.OVERFLOW]), st.integers(0, 3),
        st.one_of(st.binary(max_size=40), st.builds(named, st.binary(max_size=12), st.binary(max_size=9))),
    ),
    max_size=4,
)  # fmt: skip


@given(st.one_of(st.binary(max_size=200), mutated.map(b"".join)))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes) -> None:
    try:
        found = [fields_of(key) for key in parse_fanotify(data, 1, b"canary").masks]
    except MalformedEvents:
        return
    assert all(name and b"/" not in name and b"\0" not in name for _, _, name in found)
