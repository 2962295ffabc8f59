"""inotify on real directories: every one is watched under its key, whatever was moved where, and losses are told."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn import churn, directories
from closeranks_agent.syscalls import RENAME_EXCHANGE, rename_flags
from closeranks_agent.watch import calls, inotify
from closeranks_agent.watch.events import CANARY, Event, Lost, What
from closeranks_agent.watch.inotify import InotifySource
from closeranks_agent.watch.moves import OVERFLOWN
from closeranks_agent.watch.records import MalformedEvents, parse_inotify
from closeranks_agent.watch.spread import RETRY_S, Task
from closeranks_agent.watch.watched import Confused, Node, Watched
from closeranks_agent.watch.watches import Watches
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

Opener = Callable[..., InotifySource]
CHURN = Path(__file__).resolve().parent.parent / "churn.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


@pytest.fixture
def opened() -> Iterator[Opener]:
    sources: list[InotifySource] = []

    def make(
        root: Path, private: Path | None = None, ignored: Callable[[bytes], bool] = lambda key: False
    ) -> InotifySource:
        source = InotifySource(os.fsencode(root), os.fsencode(private or root / ".closeranks"), ignored)
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Path]:
    with fast_tree(tmp_path) as tree:
        yield tree


def private_of(tree: Path) -> Path:
    return tree / ".closeranks"


def unwatched_after_probe(source: InotifySource, tree: Path) -> set[str]:
    """The directories in which a new file is not told."""
    base = os.fsencode(tree)
    everywhere = directories(base)
    for directory in everywhere:
        with open(directory + b"/probe", "w"):
            pass
    told = paths(drain(source, private_of(tree), ".probe"))
    return {os.path.relpath(os.fsdecode(one), tree) for one in everywhere} - {
        os.path.dirname(one) or "." for one in told if one.endswith("probe")
    }


def test_each_kind_of_change_is_told(tree: Path, opened: Opener) -> None:
    (tree / "a").mkdir()
    source = opened(tree)
    (tree / "a/f").write_text("x")
    (tree / "a/f").chmod(0o600)
    (tree / "a/f").rename(tree / "a/g")
    (tree / "a/l").symlink_to("x")
    (tree / "a").chmod(0o700)
    told = drain(source, private_of(tree))
    assert what_of_path(told, "a/f") == (
        What.CREATED | What.MODIFIED | What.CLOSED | What.ATTRIBUTES | What.MOVED_FROM
    )
    assert what_of_path(told, "a/g") == What.MOVED_TO
    assert what_of_path(told, "a/l") == What.CREATED
    assert what_of_path(told, "a") == What.ATTRIBUTES | What.DIRECTORY
    assert {one.pid for one in told if isinstance(one, Event)} == {0}
    assert not source.tells_hands


def test_a_new_directory_that_moves_before_it_was_listed_is_listed_where_it_is(
    tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is watched, and what was made in it before that is not: the list is still owed, wherever it goes."""
    source = opened(tree)
    listed, moves = source._spread.step, [(tree / "new/a", tree / "moved")]

    def step(directories: int) -> list[Task]:
        while moves:  # behind the events that were read, and before the directory is listed
            os.rename(*moves.pop())
        return listed(directories)

    monkeypatch.setattr(source._spread, "step", step)
    (tree / "new/a/b/c").mkdir(parents=True)
    drain(source, private_of(tree))
    assert not moves
    assert unwatched_after_probe(source, tree) == set()


def test_a_directory_that_moves_while_all_is_listed_again_is_listed_where_it_is(
    tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After events were lost nothing is known of what lies below it either."""
    (tree / "a/b").mkdir(parents=True)
    source = opened(tree)
    (tree / "a/b/c").mkdir()
    os.read(source._fd, 65536)  # what tells of it is lost
    source._spread.start_over(Lost("made up", None))
    listed, moves = source._spread._list, [(tree / "a", tree / "moved")]

    def _list(task: Task) -> None:
        if task.stack[-1].name == b"a" and moves:
            source._watches.release()
            os.rename(*moves.pop())
        listed(task)

    monkeypatch.setattr(source._spread, "_list", _list)
    drain(source, private_of(tree))
    assert not moves
    assert unwatched_after_probe(source, tree) == set()


def test_what_can_not_be_reached_is_waited_for_as_long_as_directories_move(
    tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a storm of moves may take long, and the disk is ahead of its events throughout."""
    clock = [100.0]
    fake = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("closeranks_agent.watch.spread.time", fake)
    monkeypatch.setattr("closeranks_agent.watch.moves.time", fake)
    (tree / "p").mkdir()
    source = opened(tree)
    found, ahead = source._watches.directory, [True]
    monkeypatch.setattr(
        source._watches, "directory", lambda node: None if node.name == b"p" and ahead[0] else found(node)
    )
    (tree / "p/x").mkdir()
    for number in range(6):
        (tree / f"d{number}").mkdir()
        assert not any(isinstance(one, Lost) for one in source.read())
        clock[0] += RETRY_S * 0.9
    assert source._spread.unsure
    assert source.unwatched == 0
    ahead[0] = False
    drain(source, private_of(tree))
    assert unwatched_after_probe(source, tree) == set()
    ahead[0] = True
    (tree / "p/y").mkdir()
    source.read()
    clock[0] += RETRY_S * 1.1
    (lost,) = [one for one in source.read() if isinstance(one, Lost)]
    assert lost.below == b"p"
    assert source.unwatched == 1


def test_a_chain_of_new_directories_is_watched_and_told_by_its_top(tree: Path, opened: Opener) -> None:
    source = opened(tree)
    (tree / "a/b/c/d").mkdir(parents=True)
    (tree / "a/b/c/d/f").write_text("x")
    told = drain(source, private_of(tree))
    assert what_of_path(told, "a") == What.CREATED | What.DIRECTORY
    assert unwatched_after_probe(source, tree) == set()
    assert source.watches == 6  # with the root and the private directory


def test_names_in_new_directories_are_counted_once_and_those_of_moved_ones_never(
    tree: Path, tmp_path: Path, opened: Opener
) -> None:
    """`tar` is out of a directory before that has a watch: nothing else tells how much was written."""
    source = opened(tree)

    def found() -> int:
        count = 0
        wait(source)
        for _ in range(3):
            source.read()
            count += source.found
        return count

    fill(tree / "new", 2, 50)
    assert found() == 102
    (tree / "new").rename(tree / "named")
    assert found() == 0
    fill(tmp_path / "outside", 1, 30)
    (tmp_path / "outside").rename(tree / "inside")
    assert found() == 0
    assert unwatched_after_probe(source, tree) == set()


def test_a_moved_directory_takes_its_subtree_along(tree: Path, opened: Opener) -> None:
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "z").mkdir()
    source = opened(tree)
    (tree / "a").rename(tree / "z/y")
    told = drain(source, private_of(tree))
    assert what_of_path(told, "z/y") == What.MOVED_TO | What.DIRECTORY
    (tree / "z/y/b/c/f").write_text("")
    assert paths(drain(source, private_of(tree))) == {"z/y/b/c/f"}


def test_two_directories_that_swap_places_are_told_apart(tree: Path, opened: Opener) -> None:
    (tree / "one/of-one").mkdir(parents=True)
    (tree / "two/of-two").mkdir(parents=True)
    source = opened(tree)
    rename_flags(os.fsencode(tree / "one"), os.fsencode(tree / "two"), -100, -100, RENAME_EXCHANGE)
    drain(source, private_of(tree))
    assert unwatched_after_probe(source, tree) == set()
    assert source.watches == 6


def test_a_directory_moved_away_gives_its_watches_back(tree: Path, opened: Opener) -> None:
    (tree / "a/b").mkdir(parents=True)
    source = opened(tree)
    (tree / "a").rename(tree.parent / "gone")
    assert paths(drain(source, private_of(tree))) == {"a"}
    (tree.parent / "gone/b/f").write_text("")
    assert drain(source, private_of(tree)) == []
    assert source.watches == 2


def between_places(
    tree: Path, tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> tuple[InotifySource, int]:
    """One that was told that `a` with a directory in it moved away, not yet where to; its watches before that."""
    (tree / "a/b").mkdir(parents=True)
    source = opened(tree)
    before = source.watches
    monkeypatch.setattr(inotify, "BUFFER_BYTES", 300)  # more may be queued, and with it where it arrived
    (tree / "a").rename(tmp_path / "outside")
    wait(source)
    source.read()
    return source, before


def test_a_directory_that_moved_away_before_all_was_watched_anew_gives_its_watches_back(
    tree: Path, tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, before = between_places(tree, tmp_path, opened, monkeypatch)

    def confused(*_: object) -> bool:
        raise Confused("as if the events did not explain what is there")

    monkeypatch.setattr(source._spread, "check", confused, raising=False)
    (tree / "new").mkdir()
    wait(source)
    source.read()
    monkeypatch.undo()
    told = drain(source, private_of(tree))
    assert losses(told)
    assert source.watches == before - 2 + 1
    assert unwatched_after_probe(source, tree) == set()


def test_a_directory_that_moved_away_before_all_was_thrown_away_gives_its_watches_back(
    tree: Path, tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, before = between_places(tree, tmp_path, opened, monkeypatch)
    source.pause()
    monkeypatch.setattr(inotify, "UNREAD_MAX_BYTES", -1)
    source.resume()
    monkeypatch.undo()
    assert source.stale
    source.pause()
    source.resume()
    assert not source.stale
    (tmp_path / "outside/b/f").write_text("x")
    drain(source, private_of(tree))
    assert source.watches == before - 2
    assert unwatched_after_probe(source, tree) == set()


def test_ignored_directories_and_the_private_one_cost_no_watch(tree: Path, opened: Opener) -> None:
    (tree / "a/cache/deep").mkdir(parents=True)
    (tree / ".closeranks/stage").mkdir()
    source = opened(tree, ignored=lambda key: key.endswith(b"cache"))
    (tree / "b/cache").mkdir(parents=True)
    (tree / "a/cache/f").write_text("")
    (tree / ".closeranks/stage/f").write_text("")
    assert paths(drain(source, private_of(tree))) == {"b"}
    assert source.watches == 4


def test_the_canary_of_a_private_directory_elsewhere_is_told(tree: Path, opened: Opener) -> None:
    private = tree.parent / "private"
    private.mkdir()
    source = opened(tree, private)
    (tree / "f").write_text("")
    (private / "other").write_text("")
    assert paths(drain(source, private, ".17")) == {"f"}


def test_the_canary_waits_for_directories_that_are_still_being_watched(
    tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_agent.watch.inotify.DIRECTORIES_A_READ", 3)
    source = opened(tree)
    outside = tree.parent / "many"
    for number in range(20):
        (outside / f"{number}/deep").mkdir(parents=True)
    outside.rename(tree / "many")
    (tree / ".closeranks/canary").write_text("")
    told: list[Event | Lost] = []
    reads = 0
    while not any(isinstance(one, Event) and one.directory == CANARY for one in told):
        wait(source)  # what is left to do makes it readable
        told.extend(source.read())
        reads += 1
    assert reads > 3
    assert what_of_path(told, "many") & What.MOVED_TO
    assert unwatched_after_probe(source, tree) == set()


def test_names_that_are_not_utf_8_are_told_as_they_are(tree: Path, opened: Opener) -> None:
    source = opened(tree)
    directory = os.fsencode(tree) + b"/d\xff\xfe"
    os.mkdir(directory)
    drain(source, private_of(tree))
    with open(directory + b"/\x80\n", "w"):
        pass
    assert names(drain(source, private_of(tree))) == {(b"d\xff\xfe", b"\x80\n")}


def test_a_link_in_place_of_a_directory_is_not_followed(tree: Path, opened: Opener) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()
    source = opened(tree)
    (tree / "a").mkdir()
    (tree / "a").rmdir()
    (tree / "a").symlink_to(outside)
    drain(source, private_of(tree))
    (outside / "f").write_text("")
    assert drain(source, private_of(tree)) == []
    assert source.watches == 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_root_mounted_within_itself_is_no_circle(tree: Path, opened: Opener) -> None:
    (tree / "a/loop").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(tree), str(tree / "a/loop")], check=True)
    try:
        source = opened(tree)
        assert source.watches == 3
        source.close()
    finally:
        subprocess.run(["umount", str(tree / "a/loop")], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_filesystem_can_be_unmounted_and_that_is_told(tmp_path: Path, opened: Opener) -> None:
    where = tmp_path / "ram"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(where)], check=True)
    (where / ".closeranks").mkdir()
    source = opened(where)
    subprocess.run(["umount", str(where)], check=True)
    wait(source)
    (told,) = source.read()
    assert isinstance(told, Event)
    assert What.SELF in told.what


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_root_that_is_moved_removed_or_replaced_is_told_once(tree: Path, opened: Opener, how: str) -> None:
    source = opened(tree)
    if how == "moved":
        tree.rename(tree.parent / "elsewhere")
    else:
        shutil.rmtree(tree)
    if how == "replaced":
        (tree / ".closeranks").mkdir(parents=True)
    wait(source)
    told = source.read() + source.read()
    assert [one for one in told if isinstance(one, Event) and What.SELF in one.what] == told


def test_an_overflow_is_told_once_every_directory_is_watched_again(tree: Path, opened: Opener) -> None:
    source = opened(tree)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    base = os.fsencode(tree)
    for number in range(limit + 200):  # two names by turns: the kernel merges only what repeats
        os.utime(base) if number % 2 else os.close(os.open(base + b"/f", os.O_CREAT | os.O_WRONLY))
    (tree / "unseen/deep").mkdir(parents=True)
    told = drain_lost(source)
    assert [one.below for one in losses(told)] == [None]
    assert "max_queued_events" in losses(told)[0].reason
    assert unwatched_after_probe(source, tree) == set()


def drain_lost(source: InotifySource) -> list[Event | Lost]:
    """Read until a loss is told; the canary itself may be among what was lost."""
    told: list[Event | Lost] = []
    while not losses(told):
        wait(source)
        told.extend(source.read())
    return told


def test_watches_that_run_out_are_told_by_subtree_and_the_rest_is_watched(
    tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/b", "c/d", "e"):
        (tree / name).mkdir(parents=True)
    real = calls.inotify_add
    known: set[int] = set()
    limit = 4

    def few(fd: int, directory_fd: int, mask: int) -> int:
        inode = os.fstat(directory_fd).st_ino
        if inode not in known and len(known) >= limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        known.add(inode)
        return real(fd, directory_fd, mask)

    monkeypatch.setattr(calls, "inotify_add", few)
    source = opened(tree)
    wait(source)
    lost = losses(source.read())
    assert lost
    assert all("fs.inotify.max_user_watches" in one.reason for one in lost)
    assert source.unwatched == len(lost)
    assert source.watches == limit
    limit = 100
    assert source.watch(b"") == []
    assert source.unwatched == 0
    assert unwatched_after_probe(source, tree) == set()


def test_the_storm_of_removing_20000_files_is_told_by_its_top_or_lost(storm: Path, opened: Opener) -> None:
    tree = storm
    fill(tree / "top", 20, 1000)
    source = opened(tree)
    process = subprocess.Popen(["rm", "-r", str(tree / "top")])
    told: list[Event | Lost] = []
    while process.poll() is None:
        wait(source, 0.05)
        told.extend(source.read())
    told.extend(drain(source, private_of(tree)))
    assert losses(told) or what_of_path(told, "top") & What.DELETED
    assert source.watches == 2


def test_a_directory_that_is_behind_its_events_for_a_moment_is_waited_for(
    tree: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever moves it may stand still between the move and its event, however often something else is read."""
    (tree / "d").mkdir()
    source = opened(tree)
    inner, ends = Watches.directory, time.monotonic() + 0.5
    asked: list[float] = []

    def late(watches: Watches, node: Node) -> int | None:
        asked.append(time.monotonic())
        return inner(watches, node) if time.monotonic() > ends else None

    monkeypatch.setattr(Watches, "directory", late)
    (tree / "d/new").mkdir()
    told = drain(source, private_of(tree))
    assert len(asked) > 20, "it is tried without another event"
    assert not losses(told)
    assert source.unwatched == 0
    assert unwatched_after_probe(source, tree) == set()


def test_a_canary_that_finds_the_queue_full_is_lost_and_the_loss_is_told(storm: Path, opened: Opener) -> None:
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (storm / "d").mkdir()
    source = opened(storm)
    fill(storm / "d", 1, 0)
    fd = os.open(storm / "d", os.O_PATH)
    for number in range(queued // 2 + 1000):  # each makes at least two events: created, closed
        os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    told = drain(source, private_of(storm))
    assert [one.reason for one in losses(told)] == [OVERFLOWN]
    assert source.watches == 4


@pytest.mark.parametrize("seed", range(6))
def test_who_looks_only_where_told_knows_the_tree(
    tree: Path, tmp_path: Path, opened: Opener, seed: int
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
    mirror.take(drain(source, private_of(tree), ".1"))
    assert mirror.entries == read_below(base)
    assert unwatched_after_probe(source, tree) == set()
    assert source.watches == len(directories(base)) + 1


@pytest.mark.parametrize("seed", range(8))
def test_events_read_long_after_they_happened_end_in_the_same_watches(
    tree: Path, tmp_path: Path, opened: Opener, seed: int
) -> None:
    """The disk is up to sixty changes ahead of the events: paths lead elsewhere, names were used again."""
    (tmp_path / "out").mkdir()
    base, out = os.fsencode(tree), os.fsencode(tmp_path / "out")
    source = opened(tree)
    for turn in range(5):
        churn(base, out, 100 * seed + turn, 60)
        source.read()
    drain(source, private_of(tree))
    assert unwatched_after_probe(source, tree) == set()
    assert source.watches == len(directories(base)) + 1


def test_a_directory_found_below_itself_is_refused() -> None:
    watched = Watched(1)
    outer, _, _ = watched.attach(watched.root, b"a", 2)
    inner, _, _ = watched.attach(outer, b"b", 3)
    with pytest.raises(Confused):
        watched.attach(inner, b"a", 2)
    assert watched.key(inner) == b"a\0b"


def test_what_a_directory_displaces_is_forgotten_with_all_below() -> None:
    watched = Watched(1)
    old, _, _ = watched.attach(watched.root, b"a", 2)
    watched.attach(old, b"b", 3)
    _, new, displaced = watched.attach(watched.root, b"a", 4)
    assert new
    assert sorted(displaced) == [2, 3]
    assert len(watched) == 2


record = st.builds(
    lambda watch, mask, cookie, name: struct.pack("=iIII", watch, mask, cookie, len(name)) + name,
    st.integers(-1, 4),
    st.sampled_from([calls.CREATE, calls.OVERFLOW, calls.MOVED_TO | calls.ON_DIRECTORY]),
    st.integers(0, 3),
    st.binary(max_size=12),
)


@given(st.one_of(st.binary(max_size=120), st.lists(record, max_size=4).map(b"".join)))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes) -> None:
    try:
        batch = parse_inotify(data)
    except MalformedEvents:
        return
    assert all(name and b"/" not in name and b"\0" not in name for _, name in batch.masks)
