"""Files that are written all the time are asked, not listened to; nothing of theirs is missed for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_agent.watch import muted
from watched_volume import WatchedVolume, until

MakeVolume = Callable[..., Volume]
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")]

WRITE = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
number = 0
while True:
    number += 1
    os.pwrite(fd, b"%08d" % number * 512, number % 16 * 4096)
"""


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Writes 4 KiB into the same file again and again until it is stopped for good."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def one(make_volume: MakeVolume) -> Iterator[WatchedVolume]:
    watched = WatchedVolume(make_volume(), "fanotify")
    yield watched
    watched.close()


def is_muted(one: WatchedVolume) -> bool:
    return len(one.watcher._muted) > 0


def now_on_disk(one: WatchedVolume) -> None:
    """The root that the watcher led to is the one that a full scan finds."""
    root = one.volume.root
    one.scan(full=True)
    assert one.volume.root == root


def test_a_hot_file_is_muted_and_still_committed_while_it_is_written(
    one: WatchedVolume, tree_dir: Path
) -> None:
    with writer(tree_dir / "hot"):
        until(lambda: is_muted(one))
        time.sleep(5 * muted.EVERY_S)  # what was queued before is read
        before, looked = one.tally.events, one.tally.changed
        until(lambda: one.tally.changed >= looked + 3)
        assert one.tally.events - before < 20, "each of thousands of writes was told"
    one.settle()
    now_on_disk(one)


def test_it_is_listened_to_again_once_it_is_quiet(one: WatchedVolume, tree_dir: Path) -> None:
    with writer(tree_dir / "hot"):
        until(lambda: is_muted(one))
    until(lambda: not is_muted(one))
    one.settle()
    before = one.tally.events
    with open(tree_dir / "hot", "r+b", buffering=0) as file:
        file.write(b"a single write")
        until(lambda: one.tally.events > before)
    one.settle()
    now_on_disk(one)


def test_a_proof_covers_what_was_written_while_muted(one: WatchedVolume, tree_dir: Path) -> None:
    """Also right behind the last look, under the same time stamp as what that look has seen."""
    with writer(tree_dir / "hot") as process:
        for _ in range(5):
            until(lambda: is_muted(one))
            process.send_signal(19)
            one.prove()
            now_on_disk(one)
            process.send_signal(18)


def test_a_muted_file_that_moves_is_written_on_under_its_new_name(one: WatchedVolume, tree_dir: Path) -> None:
    (tree_dir / "a").mkdir()
    one.settle()
    with writer(tree_dir / "a" / "hot"):
        until(lambda: is_muted(one))
        os.rename(tree_dir / "a", tree_dir / "b")
        time.sleep(1.5 * muted.EVERY_S)
    one.settle()
    now_on_disk(one)


@pytest.mark.parametrize("moment", range(6))
def test_the_last_write_after_a_move_is_never_missed(one: WatchedVolume, tree_dir: Path, moment: int) -> None:
    """Whenever it comes: before the marks are taken back nobody hears of it."""
    with writer(tree_dir / "hot"):
        until(lambda: is_muted(one))
        os.rename(tree_dir / "hot", tree_dir / "moved")
        time.sleep(0.03 * moment)
    one.settle()
    now_on_disk(one)


def test_a_file_with_two_names_is_not_muted(one: WatchedVolume, tree_dir: Path) -> None:
    (tree_dir / "hot").touch()
    os.link(tree_dir / "hot", tree_dir / "twin")
    with writer(tree_dir / "hot"):
        changed = one.tally.changed
        until(lambda: one.tally.changed > changed + 2)
        assert not is_muted(one)
    one.settle()


def test_another_file_in_its_place_is_heard_of(one: WatchedVolume, tree_dir: Path) -> None:
    with writer(tree_dir / "hot"):
        until(lambda: is_muted(one))
        (tree_dir / "next").write_bytes(b"another")
        os.rename(tree_dir / "next", tree_dir / "hot")
        until(lambda: not is_muted(one))
    one.settle()
    now_on_disk(one)


def test_a_log_with_ten_lines_a_second_is_never_muted(one: WatchedVolume, tree_dir: Path) -> None:
    with open(tree_dir / "log", "ab", buffering=0) as log:
        for _ in range(15):
            log.write(b"a line\n")
            time.sleep(0.1)
            assert not is_muted(one)
    assert muted.HOT_READS > 10 * muted.EVERY_S
