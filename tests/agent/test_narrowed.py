"""More is written than may be told: it is shown, hands are named, nothing is missed, and it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_agent.hands.attribution import Attribution
from closeranks_agent.watch import budget
from closeranks_agent.watching import Watching
from watched_volume import WatchedVolume, until

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")]

# Each file of some hundred is rewritten in place, changed in mode, made and removed again, for as long as it is let.
MAKE = """
import os, sys
number = 0
while True:
    number += 1
    name = "%s/%d/%d" % (sys.argv[1], number // 100 % 10, number % 100)
    os.makedirs(os.path.dirname(name), exist_ok=True)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, b"%d" % number)
    os.fchmod(fd, 0o600 if number % 3 else 0o640)
    os.close(fd)
    if number % 1000 == 999 and len(sys.argv) > 2:
        import shutil
        shutil.rmtree(sys.argv[1] + "/0", ignore_errors=True)
"""
LONG_OPEN = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
sys.stdin.readline()
os.write(fd, b"late")
print("written", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def one(make_volume: MakeVolume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedVolume]:
    """Its budget is small, so that a busy machine's writer is above it, too."""
    monkeypatch.setattr(budget, "NEWS_S", 500.0)
    monkeypatch.setattr(budget, "CALM_NEWS_S", 250.0)
    monkeypatch.setattr(budget, "CREDIT", 300.0)
    (tree_dir / "log").write_bytes(b"early")
    watched = WatchedVolume(make_volume(), "fanotify")
    watched.settle()
    yield watched
    watched.close()


@contextmanager
def running(script: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with process:
            process.kill()


def narrow(one: WatchedVolume) -> bool:
    return bool(one.watcher.narrowed)


@pytest.mark.parametrize("removed", [(), ("removed",)])
def test_a_burst_is_shown_and_nothing_of_it_is_missed(
    one: WatchedVolume, tree_dir: Path, expected_root: Expected, removed: tuple[str, ...]
) -> None:
    with running(MAKE, tree_dir / "many", *removed):
        until(lambda: narrow(one))
        assert one.tally.narrowed == 1
        assert "samples" in one.watcher.narrowed
        scans = len(one.wanted)
        until(lambda: len(one.wanted) > scans)  # one while it lasts
    until(lambda: not narrow(one))
    assert "told again" in one.wanted[-1]
    one.settle()
    assert one.volume.root == expected_root(one.volume)
    assert one.scan(full=True).changed == 0
    assert not one.ended


def test_while_anything_is_left_out_neither_a_proof_nor_a_scan_covers_the_volume(
    one: WatchedVolume, tree_dir: Path
) -> None:
    with running(MAKE, tree_dir / "many"):
        until(lambda: narrow(one))
        before = one.watcher.proven
        for _ in range(3):
            assert not one.watcher.prove()
            one.scan()
            assert not one.watcher.covered
        assert one.watcher.proven == before
        assert narrow(one)
    until(lambda: one.watcher.covered)
    one.settle()
    assert (one.watcher.proven or 0.0) > (before or 0.0)


def test_the_hands_of_a_burst_are_named(one: WatchedVolume, tree_dir: Path) -> None:
    with running(MAKE, tree_dir / "many") as process:
        until(lambda: narrow(one))
        one.notes.told.clear()
        until(lambda: any(hand is not None and hand.pid == process.pid for *_, hand in one.notes.told))


def test_a_file_that_is_open_for_long_is_not_missed(
    one: WatchedVolume, tree_dir: Path, expected_root: Expected
) -> None:
    """It is written once in a burst, which no sample need tell, and is not closed."""
    with running(LONG_OPEN, tree_dir / "log") as late:
        assert late.stdin is not None
        assert late.stdout is not None
        with running(MAKE, tree_dir / "many"):
            until(lambda: narrow(one))
            late.stdin.write("now\n")
            late.stdin.flush()
            assert late.stdout.readline() == "written\n"
        until(lambda: one.watcher.covered)
        one.settle()
        assert one.volume.root == expected_root(one.volume)
        assert (tree_dir / "log").read_bytes() == b"latey"


def test_afterwards_each_change_is_told_again(
    one: WatchedVolume, tree_dir: Path, expected_root: Expected
) -> None:
    with running(MAKE, tree_dir / "many"):
        until(lambda: narrow(one))
    until(lambda: one.watcher.covered)
    scans = len(one.wanted)
    os.chmod(tree_dir / "log", 0o600)
    (tree_dir / "log").write_bytes(b"after")
    one.settle()
    assert one.volume.root == expected_root(one.volume)
    assert len(one.wanted) == scans, "no scan was needed for it"
    assert one.tally.narrowed == 1


def test_it_is_said_in_words_where_people_look(one: WatchedVolume, tree_dir: Path) -> None:
    watching = Watching("photos", "auto", Attribution(), one.notes, lambda: None, lambda: None)
    watching._watcher = one.watcher
    assert (watching.shown_detail, watching.narrowed) == ("", False)
    with running(MAKE, tree_dir / "many"):
        until(lambda: narrow(one))
        assert watching.narrowed
        assert "slowing the writer down" in watching.shown_detail
    until(lambda: not narrow(one))
    assert (watching.shown_detail, watching.narrowed) == ("", False)
