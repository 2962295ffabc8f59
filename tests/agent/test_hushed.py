"""What a hush takes away and gives back where inotify watches: of the directories with hot files alone."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from closeranks_agent.watch import calls, hushed, polled
from closeranks_agent.watch.events import ROOT_GONE, Lost, SourceBroken, What
from closeranks_agent.watch.hushed import CALM_LOOKS
from closeranks_agent.watch.inotify import InotifySource
from closeranks_agent.watch.stamps import SETTLED_NS
from closeranks_agent.watch.writing import HOT_READS, Writing
from obedient import obedient, tell

only_compared = pytest.mark.parametrize("hot", ["compared"], indirect=True)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[InotifySource]:
    for name in ("a/below", "b", ".closeranks"):
        (tmp_path / name).mkdir(parents=True)
    source = InotifySource(os.fsencode(tmp_path), os.fsencode(tmp_path / ".closeranks"), lambda key: False)
    yield source
    source.close()


@pytest.fixture(params=["compared", "watched"])
def hot(
    source: InotifySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """A process that has a/below/hot and b/cold open; a hush, begun for the first, whose directory is large or not."""
    if request.param == "watched":
        monkeypatch.setattr(hushed, "POLLED_MAX", 0)
    with obedient(tmp_path / "a" / "below" / "hot", tmp_path / "b" / "cold") as process:
        told(source)
        source._writing.known.add(b"a\0below\0hot")
        source.hush()
        yield process


def told(source: InotifySource) -> list[tuple[bytes, bytes, What]]:
    """All that is queued, and what it leads to."""
    found: list[Any] = []
    while True:
        found += source.read()
        if source.drained and not select.select([source.fileno()], [], [], 0)[0]:
            return [(event.directory, event.name, event.what) for event in found]


def test_writes_there_are_not_told_but_all_else_is(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    tell(hot, "into the hot one")
    tell(hot, "into the cold one")
    assert told(source) == [(b"b", b"cold", What.MODIFIED)]
    (tmp_path / "a" / "new").touch()
    (tmp_path / "b" / "file").write_text("x")
    hot.kill()
    hot.wait()
    names = {(directory, name): what for directory, name, what in told(source)}
    if source._watches.quiet:
        assert names[b"a\0below", b"hot"] == What.CLOSED
    assert names[b"a", b"new"] & What.CREATED
    assert names[b"b", b"file"] & What.MODIFIED


def test_afterwards_they_are(source: InotifySource, hot: subprocess.Popen[str]) -> None:
    source.unhush()
    tell(hot, "into the hot one")
    assert told(source) == [(b"a\0below", b"hot", What.MODIFIED)]


def test_looking_at_all_directories_anew_ends_it_for_none(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    source.watch(b"")
    told(source)
    tell(hot, "into the hot one")
    (tmp_path / "made" / "file").write_text("x")
    found = told(source)
    assert {(directory, name) for directory, name, _ in found} == {(b"made", b"file")}
    assert found[0][2] & What.MODIFIED


def test_a_directory_that_moves_as_it_ends_is_told_of_as_a_whole(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Its events under way, its path leads nowhere: what is written until it is found is not told."""
    (tmp_path / "b").rename(tmp_path / "c")
    (tmp_path / "a").rename(tmp_path / "c" / "a")
    source.unhush()
    tell(hot, "into the hot one")
    assert any(
        name == b"a"
        and directory in (b"b", b"c")
        and what & What.DIRECTORY
        and what & (What.CREATED | What.MOVED_TO)
        for directory, name, what in told(source)
    )
    tell(hot, "into the cold one")
    tell(hot, "into the hot one")
    assert (b"c\0a\0below", b"hot", What.MODIFIED) in told(source)


def test_what_is_found_again_is_not_found_as_new(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A directory of 1,200 files that moved as a hush ended was a storm."""
    for number in range(20):
        (tmp_path / "a" / "below" / str(number)).touch()
    told(source)
    (tmp_path / "a").rename(tmp_path / "c")
    source.unhush()
    found = 0
    for _ in range(10):
        source.read()
        found += source.found
    assert source.drained
    assert found == 0


def test_files_of_the_volume_are_known_by_their_paths_and_no_others(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / ".closeranks" / "own").touch()
    (tmp_path.parent / "outside").touch()
    paths = [
        tmp_path / "a" / "below" / "hot",
        tmp_path / ".closeranks" / "own",
        tmp_path.parent / "outside",
    ]
    fds = [os.open(path, os.O_PATH) for path in paths]
    try:
        assert [source.key_of(fd) for fd in fds] == [b"a\0below\0hot", None, None]
        (tmp_path / "a" / "below" / "hot").unlink()
        assert source.key_of(fds[0]) is None
    finally:
        for fd in fds:
            os.close(fd)


def test_who_writes_into_what_is_told_on_and_on_is_looked_up(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    writing = Writing(os.fsencode(tmp_path))
    for read in range(HOT_READS):
        assert writing.writers == set()
        writing.told([b"a\0below\0hot"], 1000.0 + read * 0.01)
    assert writing.writers == {hot.pid}
    writing.told([b"other"], 1000.06)
    assert writing.writers == set(), "of what this read told"
    writing.told([b"a\0below\0hot"], 1000.07)
    assert writing.writers == {hot.pid}


def test_what_nobody_is_seen_to_have_open_is_told_as_before(tmp_path: Path) -> None:
    """Another user's, for an agent that is not root: nobody would look at it."""
    (tmp_path / "log").touch()
    writing = Writing(os.fsencode(tmp_path))
    for read in range(HOT_READS):
        writing.told([b"log"], 1000.0 + read * 0.01)
    assert list(writing.hot) == [b"log"]
    assert (writing.known, writing.writers) == (set(), set())


def test_a_log_with_some_lines_a_second_is_not_asked_for(tmp_path: Path) -> None:
    writing = Writing(os.fsencode(tmp_path))
    for second in range(100):
        writing.told([b"log"], 1000.0 + second / 10)
    assert (writing.hot, writing.writers) == ({}, set())


def watches_of(source: InotifySource) -> int:
    """As the kernel counts them."""
    return Path(f"/proc/self/fdinfo/{source._fd}").read_text().count("inotify wd:")


def asked(source: InotifySource) -> dict[tuple[bytes, bytes], What]:
    source.ask()
    return {(directory, name): what for directory, name, what in told(source)}


@only_compared
def test_the_directory_of_a_hot_file_has_no_watch_while_it_lasts(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Any watch on it, whatever it asks for, slows down each read and each write of a file there."""
    assert watches_of(source) == source.watches == 4
    source.unhush()
    told(source)
    assert watches_of(source) == source.watches
    (tmp_path / "a" / "below" / "new").touch()
    assert told(source)


@only_compared
def test_what_happens_there_is_found_by_comparing(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    below = tmp_path / "a" / "below"
    for name in ("gone", "replaced", "written", "moved", "mode"):
        (below / name).write_text(name)
    (below / "directory").mkdir()
    asked(source)
    time.sleep(2 * SETTLED_NS / 1e9)
    asked(source)
    assert asked(source) == {}, "nothing happens"
    (below / "gone").unlink()
    (below / "written").write_text("again")
    (below / "mode").chmod(0o600)
    (below / "moved").rename(below / "away")
    (below / "new").write_text("new")
    (below / "new").rename(below / "replaced")
    (below / "directory").chmod(0o700)
    tell(hot, "into the hot one")
    found = {name: what for (directory, name), what in asked(source).items() if directory == b"a\0below"}
    assert found == {
        b"gone": What.DELETED,
        b"moved": What.DELETED,
        b"away": What.CREATED,
        b"replaced": What.DELETED | What.MOVED_TO,
        b"written": What.MODIFIED,
        b"mode": What.MODIFIED,
        b"hot": What.MODIFIED,
        b"directory": What.ATTRIBUTES | What.DIRECTORY,
    }


@only_compared
def test_directories_that_are_made_there_are_watched(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    below = tmp_path / "a" / "below"
    (below / "made" / "deep").mkdir(parents=True)
    assert asked(source)[b"a\0below", b"made"] == What.CREATED | What.DIRECTORY
    (below / "made" / "deep" / "file").write_text("x")
    assert (b"a\0below\0made\0deep", b"file") in {event[:2] for event in told(source)}
    (below / "made").rename(tmp_path / "elsewhere")
    asked(source)
    (tmp_path / "elsewhere" / "deep" / "other").write_text("x")
    assert (b"elsewhere\0deep", b"other") in {event[:2] for event in told(source)}
    (below / "made").write_text("a file by now")
    assert asked(source)[b"a\0below", b"made"] & What.CREATED
    assert watches_of(source) == source.watches


@only_compared
def test_what_happens_as_it_ends_is_told(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    below = tmp_path / "a" / "below"
    (below / "made").mkdir()
    (below / "file").write_text("x")
    source.unhush()
    names = {name for directory, name, _ in told(source) if directory == b"a\0below"}
    assert {b"made", b"file"} <= names
    (below / "made" / "inside").write_text("x")
    assert (b"a\0below\0made", b"inside") in {event[:2] for event in told(source)}


@only_compared
def test_what_was_queued_as_it_began_is_told(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "b" / "file").write_text("x")
    source._writing.known.add(b"b\0cold")
    source.hush()
    assert (b"b", b"file") in {event[:2] for event in told(source)}
    assert source._watches.tree.find(b"b") in source._hushed.compared


@only_compared
def test_another_directory_by_that_name_is_not_taken_for_it(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Its inode may have the same number."""
    hot.kill()
    hot.wait()
    (tmp_path / "a" / "below" / "hot").unlink()
    (tmp_path / "a" / "below").rmdir()
    (tmp_path / "a" / "below").mkdir()
    (tmp_path / "a" / "below" / "file").write_text("x")
    source._writing.known.clear()
    asked(source)
    (tmp_path / "a" / "below" / "later").write_text("x")
    assert (b"a\0below", b"later") in {event[:2] for event in told(source)}
    asked(source)
    assert source._hushed.compared == []
    assert watches_of(source) == source.watches


@only_compared
def test_one_that_moves_is_compared_where_it_is(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "a" / "below").rename(tmp_path / "b" / "moved")
    asked(source)
    (tmp_path / "b" / "moved" / "later").write_text("x")
    assert (b"b\0moved", b"later") in asked(source)
    (tmp_path / "b" / "moved").rename(tmp_path.with_name(f"{tmp_path.name}-away"))
    asked(source)
    source.ask()
    assert source._hushed.compared == []
    source.unhush()
    told(source)
    assert watches_of(source) == source.watches
    tmp_path.with_name(f"{tmp_path.name}-away").rename(tmp_path / "a" / "below")


@only_compared
def test_one_that_becomes_large_is_watched_again(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polled, "ENTRIES_MAX", 10)
    monkeypatch.setattr(hushed, "ENTRIES_MAX", 10)
    for number in range(12):
        (tmp_path / "a" / "below" / str(number)).touch()
    asked(source)
    asked(source)
    assert watches_of(source) == source.watches
    tell(hot, "into the hot one")
    (tmp_path / "a" / "below" / "later").touch()
    names = {(directory, name): what for directory, name, what in told(source)}
    assert names.keys() == {(b"a\0below", b"later")}, "all but writes"


@only_compared
def test_those_that_are_hot_no_more_make_room_for_those_that_are(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hushed, "POLLED_MAX", 1)
    source._writing.known = {b"b\0cold"}
    source.hush()
    below, b = (source._watches.tree.find(key) for key in (b"a\0below", b"b"))
    for _ in range(2 * CALM_LOOKS):
        tell(hot, "into the hot one")
        asked(source)
        assert source._hushed.compared == [below], "there is no room for the other"
    time.sleep(2 * SETTLED_NS / 1e9)
    # Looks follow each other so closely here that it is hot by them.
    source._writing.hot.clear()
    source._writing.known.clear()
    for _ in range(CALM_LOOKS + 1):
        asked(source)
    assert source._hushed.compared == [b]
    assert watches_of(source) == source.watches == 4
    tell(hot, "into the hot one")
    assert told(source) == [(b"a\0below", b"hot", What.MODIFIED)]
    tell(hot, "into the cold one")
    assert told(source) == []
    assert asked(source) == {(b"b", b"cold"): What.MODIFIED}
    source.unhush()
    assert watches_of(source) == source.watches == 5
    tell(hot, "into the cold one")
    assert (b"b", b"cold", What.MODIFIED) in told(source)


@only_compared
def test_directories_that_are_gone_wait_for_no_room(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hush may last for days, and each had been kept until its end."""
    monkeypatch.setattr(hushed, "POLLED_MAX", 1)
    for number in range(3):
        made = tmp_path / f"made {number}"
        made.mkdir()
        told(source)
        source._writing.known = {os.fsencode(made.name) + b"\0file"}
        source.hush()
        assert [node.name for node in source._hushed._crowded] == [os.fsencode(made.name)]
        made.rmdir()
        told(source)
        asked(source)
        assert not source._hushed._crowded


@only_compared
def test_one_that_can_not_be_found_when_there_is_room_waits_for_the_next(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hushed, "POLLED_MAX", 1)
    monkeypatch.setattr(hushed, "CALM_LOOKS", 0)
    source._writing.known = {b"b\0cold"}
    source.hush()
    source._writing.known = set()
    below, b = (source._watches.tree.find(key) for key in (b"a\0below", b"b"))
    directory, is_moving = source._watches.directory, True
    monkeypatch.setattr(
        source._watches, "directory", lambda node: None if is_moving and node is b else directory(node)
    )
    asked(source)
    assert source._hushed.compared == []
    is_moving = False
    source._writing.known = {b"a\0below\0hot"}
    source.hush()
    assert source._hushed.compared == [below]
    source._writing.known = set()
    asked(source)
    assert source._hushed.compared == [b]


def test_without_handles_it_is_watched_for_all_but_writes(
    source: InotifySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "")

    monkeypatch.setattr(calls, "handle_of", refused)
    with obedient(tmp_path / "b" / "hot") as process:
        told(source)
        source._writing.known.add(b"b\0hot")
        source.hush()
        tell(process, "into the hot one")
        assert asked(source) == {}
        (tmp_path / "b" / "new").touch()
        assert (b"b", b"new") in {event[:2] for event in told(source)}


@only_compared
def test_where_no_watch_is_left_as_it_ends_that_is_told(
    source: InotifySource, hot: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = calls.inotify_add

    def full(fd: int, directory_fd: int, mask: int) -> int:
        if os.readlink(f"/proc/self/fd/{directory_fd}").endswith("below"):
            raise OSError(errno.ENOSPC, "no space left on device")
        return add(fd, directory_fd, mask)

    monkeypatch.setattr(calls, "inotify_add", full)
    source.unhush()
    lost = [event for event in source.read() if isinstance(event, Lost)]
    assert [(one.below, "max_user_watches" in one.reason) for one in lost] == [(b"a", True)]
    assert source.unwatched == 1
    monkeypatch.setattr(calls, "inotify_add", add)
    source.watch(b"")
    assert source.unwatched == 0
    tell(hot, "into the hot one")
    assert (b"a\0below", b"hot") in {event[:2] for event in told(source)}


def test_a_root_that_is_replaced_while_it_is_compared_ends_the_source(
    source: InotifySource, tmp_path: Path
) -> None:
    with obedient(tmp_path / "hot"):
        told(source)
        source._writing.known.add(b"hot")
        source.hush()
        (tmp_path / "file").touch()
        assert asked(source)[b"", b"file"] == What.CREATED
        tmp_path.rename(tmp_path.with_name("moved"))
        tmp_path.mkdir()
        with pytest.raises(SourceBroken, match=ROOT_GONE):
            source.ask()
        tmp_path.rmdir()
        tmp_path.with_name("moved").rename(tmp_path)


@only_compared
def test_what_was_found_just_before_it_ends_is_told(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A hush ends behind a comparison, and the directory has another watch by the time that is told."""
    made = tmp_path / "a" / "below" / "made"
    made.mkdir()
    source.ask()
    source.unhush()
    assert (b"a\0below", b"made") in {event[:2] for event in told(source)}
    (made / "inside").touch()
    assert (b"a\0below\0made", b"inside") in {event[:2] for event in told(source)}


@only_compared
def test_what_is_queued_from_before_it_began_is_told_after_it(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A storm may end it at once."""
    (tmp_path / "b" / "made").mkdir()
    source._writing.known.add(b"b\0cold")
    source.hush()
    source.unhush()
    assert (b"b", b"made") in {event[:2] for event in told(source)}
    (tmp_path / "b" / "made" / "inside").touch()
    assert (b"b\0made", b"inside") in {event[:2] for event in told(source)}


@only_compared
def test_a_directory_that_was_made_again_there_is_watched(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    """It has the number and the mode of the one before (ext4), and times that say nothing."""
    made = tmp_path / "a" / "below" / "made"
    made.mkdir()
    asked(source)
    made.rmdir()
    made.mkdir()
    assert (b"a\0below", b"made") in asked(source)
    (made / "inside").touch()
    assert (b"a\0below\0made", b"inside") in {event[:2] for event in told(source)}


@only_compared
def test_the_mode_of_a_directory_is_compared_whatever_its_times_say(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    made = tmp_path / "a" / "below" / "made"
    made.mkdir(0o755)
    asked(source)
    made.chmod(0o700)
    (made / "inside").touch()
    assert (b"a\0below", b"made") in asked(source)


@only_compared
def test_directories_that_moved_away_from_there_give_their_watches_back(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "a" / "below" / "made" / "deep").mkdir(parents=True)
    asked(source)
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    (tmp_path / "a" / "below" / "made").rename(away)
    asked(source)
    assert watches_of(source) == source.watches
    (away / "deep").rmdir()
    away.rmdir()


@only_compared
@pytest.mark.parametrize("ends", [False, True])
def test_one_that_becomes_large_at_once_is_told_of_as_a_whole_and_all_in_it_is_watched(
    source: InotifySource,
    hot: subprocess.Popen[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: bool,
) -> None:
    monkeypatch.setattr(polled, "ENTRIES_MAX", 10)
    below = tmp_path / "a" / "below"
    for number in range(10, 40):
        (below / f"d{number}").mkdir()
    if ends:
        source.unhush()
    found = asked(source)
    assert found[b"a", b"below"] & What.DIRECTORY
    assert found[b"a", b"below"] & What.MOVED_TO
    for number in range(10, 40):
        (below / f"d{number}" / "inside").touch()
    keys = {directory for directory, name, _ in told(source) if name == b"inside"}
    assert keys == {b"a\0below\0d%d" % number for number in range(10, 40)}
    assert watches_of(source) == source.watches


def test_a_root_that_becomes_large_is_told_of_as_a_whole(
    source: InotifySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source._writing.known.add(b"hot")
    source.hush()
    monkeypatch.setattr(polled, "ENTRIES_MAX", 10)
    for number in range(12):
        (tmp_path / f"d{number}").mkdir()
    source.ask()
    lost = [event for event in source.read() if isinstance(event, Lost)]
    assert [one.below for one in lost] == [b""]
    (tmp_path / "d11" / "inside").touch()
    assert (b"d11", b"inside") in {event[:2] for event in told(source)}


@only_compared
def test_one_that_can_not_be_listed_ends_no_source(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed a moment ago, or not to be read for a while: it is compared the next time."""
    entries = polled._entries

    def refused(fd: int, entries_max: int) -> None:
        raise OSError(errno.EACCES, "permission denied")

    (tmp_path / "a" / "below" / "new").touch()
    monkeypatch.setattr(polled, "_entries", refused)
    assert asked(source) == {}
    monkeypatch.setattr(polled, "_entries", entries)
    assert (b"a\0below", b"new") in asked(source)
    monkeypatch.setattr(polled, "_entries", refused)
    source.unhush()
    lost = [event for event in source.read() if isinstance(event, Lost)]
    assert [one.below for one in lost] == [b"a\0below"]
    assert source.unwatched == 1


@only_compared
def test_what_moved_out_of_one_that_was_removed_gives_its_watches_back(
    source: InotifySource, hot: subprocess.Popen[str], tmp_path: Path
) -> None:
    below, away = tmp_path / "a" / "below", tmp_path.with_name(f"{tmp_path.name}-away")
    (below / "made").mkdir()
    asked(source)
    (below / "made").rename(away)
    (below / "hot").unlink()
    below.rmdir()
    asked(source)
    assert watches_of(source) == source.watches
    away.rmdir()
