"""Storms: the budget and its end as plain numbers; on a real mark, that what happened in one is known after it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest

from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.volume import Volume
from closeranks_agent.syscalls import is_open_to_write
from closeranks_agent.watch import fanotify, inotify, sampling
from closeranks_agent.watch import storm as storm_module
from closeranks_agent.watch.sampling import SAMPLED, SHOWN, UNSEEN
from closeranks_agent.watch.storm import (
    BREWED_S,
    BREWING,
    BREWING_S,
    BUDGET_S,
    BURST,
    CALM_SHARE,
    SAMPLE_EVERY_S,
    SCAN_EVERY_MIN_S,
    Storm,
)
from closeranks_proto.messages import Commit, Hand
from watched_volume import WatchedVolume, Weather, until

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]
root_only = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")]


class TestBudget:
    def test_what_stays_below_it_is_told_for_ever(self) -> None:
        storm = Storm()
        assert not any(storm.told(int(BUDGET_S / 20), tick / 20) for tick in range(1, 2000))

    def test_a_burst_that_it_allows_is_told_and_the_next_one_when_it_has_rested(self) -> None:
        storm = Storm()
        assert not storm.told(int(BURST) - 1, 10.0)
        assert not storm.told(int(BURST) - 1, 10.0 + BURST / BUDGET_S)
        assert storm.told(int(BURST) - 1, 10.1 + BURST / BUDGET_S)

    def test_a_fast_writer_overdraws_it_in_a_fraction_of_a_second(self) -> None:
        storm = Storm()
        at = next(tick / 100 for tick in range(1, 100) if storm.told(1000, tick / 100))
        assert at < 0.15

    def test_it_begins_once(self) -> None:
        storm = Storm()
        assert storm.told(int(BURST) + 1, 1.0)
        storm.begin(1.0, 60.0)
        assert not storm.told(int(BURST), 1.1)

    def test_it_is_whole_again_behind_a_storm(self) -> None:
        storm = Storm()
        storm.begin(1.0, 60.0)
        storm.told(10 * int(BURST), 1.1)
        storm.end(2.0)
        assert not storm.told(int(BURST), 2.0)

    def test_half_of_it_ends_a_storm_and_more_does_not(self) -> None:
        storm = Storm()
        assert storm.is_calm(int(CALM_SHARE * BUDGET_S * 0.1) - 1, 0.1)
        assert not storm.is_calm(int(CALM_SHARE * BUDGET_S * 0.1) + 1, 0.1)


class TestBrewing:
    def test_what_is_within_the_budget_lets_looks_begin_at_once(self) -> None:
        storm = Storm()
        for tick in range(1, 2000):
            storm.told(int(BUDGET_S / 20), tick / 20)
            assert storm.looks_due <= tick / 20

    def test_looks_wait_where_a_fast_writer_has_begun(self) -> None:
        storm = Storm()
        for tick in range(1, 3):
            assert not storm.told(int(BREWING), 5.0 + tick / 100)
        assert 5.02 < storm.looks_due <= 5.02 + BREWED_S

    def test_a_burst_that_no_storm_follows_is_looked_at_a_moment_later(self) -> None:
        storm = Storm()
        assert not storm.told(int(BURST) - 1, 5.0)
        assert storm.looks_due <= 5.0 + BREWED_S
        storm.told(1, 5.0 + 2 * BREWED_S)
        assert storm.looks_due <= 5.0 + 2 * BREWED_S

    def test_looks_wait_no_longer_than_a_storm_takes_to_begin(self) -> None:
        for pace in (1.1 * BREWING_S, BREWING_S, 0.9 * BREWING_S, 1.1 * BUDGET_S):
            storm, waited = Storm(), 0
            for tick in range(1, 1000):
                now = 5.0 + tick / 100
                begins = storm.told(int(pace / 100), now)
                waited = waited + 1 if storm.looks_due > now else 0
                assert waited <= 100 * BURST / BUDGET_S
                if begins:
                    break
            assert begins

    def test_it_is_known_before_when_it_begins(self) -> None:
        storm = Storm()
        assert not storm.told(1000, 5.0)
        assert not storm.told(1000, 5.0 + 1 / 60)  # 60,000 a second
        foretold = storm.due
        assert 5.0 + 1 / 60 < foretold < 5.2
        assert storm.told(int((foretold + 0.001 - 5.0 - 1 / 60) * 60_000), foretold + 0.001)

    def test_what_is_within_the_budget_begins_none(self) -> None:
        storm = Storm()
        storm.told(10, 5.0)
        storm.told(10, 5.1)
        assert storm.due == inf


class TestPace:
    def test_samples_come_at_their_pace(self) -> None:
        storm = Storm()
        storm.begin(5.0, 60.0)
        assert storm.sample_due == 5.0 + SAMPLE_EVERY_S
        storm.sampled(200, 0.01, 6.0)
        assert storm.sample_due == 6.0 + SAMPLE_EVERY_S

    def test_scans_come_at_the_pace_of_a_volume_that_is_not_watched(self) -> None:
        storm = Storm()
        storm.begin(5.0, 60.0)
        assert storm.scan_due == 65.0
        storm.scanned(65.0, 68.5)
        assert storm.scan_due == 128.5

    def test_scans_never_follow_each_other_closely(self) -> None:
        storm = Storm()
        storm.begin(5.0, 0.5)
        assert storm.scan_due == 5.0 + SCAN_EVERY_MIN_S

    def test_what_no_scan_has_seen_goes_by_the_pace_of_the_last_sample(self) -> None:
        storm = Storm()
        storm.begin(5.0, 60.0)
        assert storm.unseen(6.0) == 0
        storm.sampled(200, 0.02, 6.0)
        assert storm.unseen(7.0) == 20_000
        storm.scanned(6.5, 7.0)
        assert storm.unseen(7.5) == 10_000


def test_a_file_that_is_open_to_write_is_told_from_one_that_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as writer:
        with path.open("rb") as reader:
            assert is_open_to_write(reader.fileno())
        writer.write(b"x")
    with path.open("rb") as reader:
        assert not is_open_to_write(reader.fileno())
        with path.open("ab"):
            pass  # nothing is leased any more: this does not wait


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    return Weather(monkeypatch)


@pytest.fixture
def watched(make_volume: MakeVolume, tree_dir: Path) -> Iterator[WatchedVolume]:
    (tree_dir / "d" / "e").mkdir(parents=True)
    for name in ("small", "long", "e/file"):
        (tree_dir / "d" / name).write_bytes(os.urandom(9000))
    one = WatchedVolume(make_volume(scan_interval_s=0.1), "fanotify")
    yield one
    one.close()


@pytest.fixture
def unnamed(make_volume: MakeVolume, tree_dir: Path) -> Iterator[WatchedVolume]:
    """The same, watched by inotify."""
    for name in ("d/small", "d/e/file", "far/away/file"):
        (tree_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (tree_dir / name).write_bytes(os.urandom(9000))
    one = WatchedVolume(make_volume(scan_interval_s=0.1), "inotify")
    yield one
    one.close()


def python(tree_dir: Path, script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], cwd=tree_dir)


class TestOnDisk:
    pytestmark = root_only

    KINDS_OF_CHANGE = """
import mmap, os, shutil
os.rename("d/e", "moved")
open("moved/new", "w").write("x")
os.mkdir("d/e"); open("d/e/file", "w").write("another directory of that name")
os.chmod("d/small", 0o600)
os.link("d/small", "twin"); open("twin", "ab").write(b"through the other name")
with open("d/long", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    mapped[5:10] = b"mmaps"
fd = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o644)
os.write(fd, b"nameless")
here = os.open(".", os.O_RDONLY)
os.link(f"/proc/self/fd/{fd}", "named", src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)
for number in range(300):
    os.makedirs(f"many/{number}"); open(f"many/{number}/f", "w").write(str(number))
shutil.rmtree("many/7"); shutil.rmtree("many/8"); os.rename("many", "most")
"""

    def test_what_happened_in_one_is_known_after_it(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather, expected_root: Expected
    ) -> None:
        weather.rise(watched, tree_dir)
        assert python(tree_dir, self.KINDS_OF_CHANGE).wait() == 0
        weather.fall(watched)
        watched.settle()
        assert watched.volume.root == expected_root(watched.volume)
        assert watched.scan(full=True).changed == 0
        assert watched.tally.storms == 1
        assert not watched.ended

    def test_what_may_become_one_is_looked_at_when_it_did_not(
        self, tree_dir: Path, watched: WatchedVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing more has to happen for that; the next look comes by itself."""
        watched.settle()
        monkeypatch.setattr(storm_module, "BREWING", 0.0)
        monkeypatch.setattr(storm_module, "BREWING_S", 10.0)
        monkeypatch.setattr(storm_module, "BREWED_S", 0.3)
        began = time.monotonic()
        (tree_dir / "new").write_bytes(b"made, written and closed: told of three times at least")
        until(lambda: watched.volume.record(b"new") is not None)
        assert time.monotonic() - began >= 0.3
        assert not watched.tally.storms

    def test_what_goes_on_for_long_is_found_by_a_scan_meanwhile(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather
    ) -> None:
        weather.rise(watched, tree_dir)
        python(tree_dir, "open('new', 'w').write('x')").wait()
        until(lambda: watched.volume.record(b"new") is not None)
        assert watched.watcher._sampling.active
        assert not watched.watcher.covered
        assert not watched.watcher.prove()

    def test_a_file_that_was_muted_is_known_after_it(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather, expected_root: Expected
    ) -> None:
        script = """
import time
with open("d/log", "ab", buffering=0) as file:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        file.write(bytes(16)); time.sleep(0.002)
"""
        writer = python(tree_dir, script)
        try:
            until(lambda: len(watched.watcher._muted))
            weather.rise(watched, tree_dir)
            assert not len(watched.watcher._muted)
            weather.fall(watched)
            until(lambda: len(watched.watcher._muted))
        finally:
            writer.kill()
            writer.wait()
        watched.settle()
        assert watched.volume.root == expected_root(watched.volume)

    def test_half_of_a_file_is_not_committed_while_it_is_open_to_write(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan_module, "BUSY_MAX_AGE_S", 60.0)
        weather.rise(watched, tree_dir)
        with (tree_dir / "half").open("wb", buffering=0) as file:
            file.write(b"first ")
            time.sleep(0.1)  # its stat has rested by then
            watched.scan()
            assert watched.volume.record(b"half") is None
            assert b"half" in watched.volume.condition.busy
            file.write(b"second")
        watched.scan()
        record = watched.volume.record(b"half")
        assert record is not None
        assert record.stat.size == len(b"first second")

    def test_what_the_last_scan_found_open_to_write_is_committed_all_the_same(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather
    ) -> None:
        weather.rise(watched, tree_dir)
        with (tree_dir / "held").open("wb", buffering=0) as file:
            file.write(b"and not closed")
            weather.fall(watched)
            until(lambda: watched.volume.record(b"held") is not None)

    def test_a_scan_that_ends_as_the_storm_does_is_not_the_one_behind_it(
        self, watched: WatchedVolume, weather: Weather, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It began before the mark was back: what was written behind it and heard by nobody is still to be found."""
        weather.rise(watched, tree_dir)
        began, missed, stormy = time.monotonic(), watched.watcher._proof.missed, list[bool]()

        def ends_meanwhile(why: str) -> None:
            watched.watcher.scanned(began)
            stormy.append(watched.watcher.stormy)
            missed(why)

        monkeypatch.setattr(watched.watcher._proof, "missed", ends_meanwhile)
        weather.fall(watched)
        assert stormy == [True]

    def test_what_is_written_again_after_one_counts_whole(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather
    ) -> None:
        """What was told ahead of a commit was committed by a scan: it explains nothing of what comes later."""
        size = 300_000

        def told() -> int:
            return sum(count for _, _, count, _ in watched.notes.told)

        with (tree_dir / "grows").open("wb", buffering=0) as file:
            file.write(bytes(size))
            until(lambda: told() >= size)
            weather.rise(watched, tree_dir)
        until(lambda: (found := watched.volume.record(b"grows")) is not None and found.settled)
        weather.fall(watched)
        watched.settle()
        watched.notes.told.clear()
        (tree_dir / "grows").write_bytes(os.urandom(size))
        watched.settle()
        assert told() >= size

    def test_hands_of_samples_are_told_as_such_and_of_the_others_why_not(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sampling, "_SAYS_EVERY_S", 0.0)
        weather.rise(watched, tree_dir)
        before = watched.volume.last_seq
        script = "n = 0\nwhile True:\n open(f'd/{n % 2000}', 'w').write('x'); n += 1"
        writer = python(tree_dir, script)

        def named() -> list[Hand]:
            steps = watched.volume.pending(before, 1000)
            return [hand for step in steps if isinstance(step, Commit) for hand in step.hands]

        try:
            until(lambda: any(hand.pid == writer.pid and SAMPLED in hand.detail for hand in named()))
            until(lambda: any(hand.detail == UNSEEN.detail for hand in named()))
            until(lambda: f"(pid {writer.pid}); some " in watched.watcher.storm_shown)
        finally:
            writer.kill()
            writer.wait()
        shown = watched.watcher.storm_shown
        assert re.search(
            r"at once, since \d\d:\d\d:\d\d UTC: by the last sample some [\d,]+ changed names a s", shown
        )
        assert "that no scan has seen yet. So that watching" in shown
        assert all(hand.pid == writer.pid or not hand.pid for hand in named())
        noted = [hand for _, files, _, hand in watched.notes.told if files and hand is not None]
        assert any(hand.pid == writer.pid for hand in noted)
        assert watched.notes.most_pending > 0

    def test_how_much_is_written_in_one_is_told_while_it_lasts(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather, expected_root: Expected
    ) -> None:
        weather.rise(watched, tree_dir)
        script = "n = 0\nwhile True:\n open(f'd/{n}', 'wb').write(bytes(65536)); n += 1"
        writer = python(tree_dir, script)
        try:
            until(lambda: watched.notes.ahead_bytes > 10_000_000)
        finally:
            writer.kill()
            writer.wait()
        written = sum(path.stat().st_size for path in (tree_dir / "d").iterdir() if path.is_file())
        assert watched.notes.ahead_bytes <= 1.2 * written + 10_000_000, "the disk is others', too"
        weather.fall(watched)
        watched.settle()
        assert watched.volume.root == expected_root(watched.volume)

    def test_a_root_that_was_moved_in_one_ends_the_watcher(
        self, tree_dir: Path, watched: WatchedVolume, weather: Weather
    ) -> None:
        weather.rise(watched, tree_dir)
        tree_dir.rename(tree_dir.parent / "elsewhere")
        tree_dir.mkdir()
        until(lambda: watched.ended)
        assert "root" in watched.ended[0]
        tree_dir.rmdir()
        (tree_dir.parent / "elsewhere").rename(tree_dir)

    def test_a_mark_that_can_not_be_had_again_is_not_taken_for_a_root_that_is_gone(
        self, watched: WatchedVolume, weather: Weather, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        weather.rise(watched, tree_dir)
        monkeypatch.setattr(fanotify.calls, "fanotify_mark_filesystem", refused)
        until(lambda: watched.ended)
        assert "mark" in watched.ended[0]
        assert "root" not in watched.ended[0]

    def test_a_real_one_begins_and_ends_by_itself(
        self, tree_dir: Path, watched: WatchedVolume, expected_root: Expected, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storm_module, "BUDGET_S", 100.0)  # a slow machine reaches it, too
        monkeypatch.setattr(storm_module, "BURST", 100.0)
        script = "\n".join(
            [
                "import os",
                "for n in range(5000):",
                " os.makedirs(f'many/{n // 100}', exist_ok=True)",
                " open(f'many/{n // 100}/{n}', 'w').write('x')",
            ]
        )
        assert python(tree_dir, script).wait() == 0
        until(lambda: watched.tally.storms and not watched.watcher.stormy)
        watched.settle()
        assert watched.volume.root == expected_root(watched.volume)


class TestWithoutMarks:
    """inotify: its queue is left unread, and where that was too much, all is watched anew."""

    SCRIPT = """
import os, shutil
for n in range(COUNT):
    os.makedirs(f"many/{n // 100}", exist_ok=True)
    open(f"many/{n // 100}/{n}", "w").write("x")
os.rename("far", "many/near")
os.makedirs("far/away"); open("far/away/file", "w").write("another directory of that name")
shutil.rmtree("many/3"); os.rename("many/1", "d/one")
"""

    @pytest.mark.parametrize("unread", [0, inotify.UNREAD_MAX_BYTES])
    def test_what_happened_in_one_is_known_after_it_and_told_from_then_on(
        self, tree_dir: Path, unnamed: WatchedVolume, weather: Weather, expected_root: Expected,
        monkeypatch: pytest.MonkeyPatch, unread: int,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(inotify, "UNREAD_MAX_BYTES", unread)
        weather.rise(unnamed, tree_dir)
        assert python(tree_dir, self.SCRIPT.replace("COUNT", "1000")).wait() == 0
        weather.fall(unnamed)
        unnamed.settle()
        assert unnamed.volume.root == expected_root(unnamed.volume)
        assert unnamed.scan(full=True).changed == 0
        scans = len(unnamed.wanted)
        for path in (tree_dir, *tree_dir.rglob("*")):
            if path.is_dir() and ".closeranks" not in path.parts:
                (path / "after").write_bytes(b"in each directory, wherever it is by now")
        unnamed.settle()
        assert unnamed.volume.root == expected_root(unnamed.volume)
        assert len(unnamed.wanted) == scans, "told, and not found by a scan"
        assert unnamed.tally.storms == 1
        assert not unnamed.ended

    def test_what_is_written_in_new_directories_keeps_one_going(
        self, tree_dir: Path, unnamed: WatchedVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those made since the last sample are watched by the next, or it would seem calm, over and over again."""
        script = """
import os, time
n = 0
while True:
    os.makedirs(f"many/{n // 1000}", exist_ok=True)
    open(f"many/{n // 1000}/{n}", "w").write("x"); n += 1
    if n % 20 == 0: time.sleep(0.001)
"""
        monkeypatch.setattr(storm_module, "BUDGET_S", 1000.0)
        monkeypatch.setattr(storm_module, "BURST", 1000.0)
        writer = python(tree_dir, script)
        try:
            until(lambda: unnamed.watcher._sampling.active)
            ends = time.monotonic() + 3.0  # six samples
            while time.monotonic() < ends:
                assert unnamed.watcher._sampling.active
                time.sleep(0.01)
        finally:
            writer.kill()
            writer.wait()
        assert unnamed.watcher._sampling._storm.pace > 0

    def test_what_was_found_in_new_directories_counts_as_if_it_had_been_told(
        self, unnamed: WatchedVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before, `tar` never made a storm where it is out of each directory before that is watched."""
        watcher = unnamed.watcher
        judge = sampling.Sampling(unnamed.volume, watcher.source, unnamed.notes)
        judge.told([], 10.0)
        monkeypatch.setattr(watcher.source, "found", int(BURST / sampling.FOUND_WEIGHT) + 1, raising=False)
        assert not judge.begins
        judge.told([], 10.01)
        assert judge.begins

    @pytest.mark.parametrize("unread", [0, inotify.UNREAD_MAX_BYTES])
    def test_a_root_that_was_moved_in_one_ends_the_watcher(
        self, tree_dir: Path, unnamed: WatchedVolume, weather: Weather, monkeypatch: pytest.MonkeyPatch, unread: int
    ) -> None:  # fmt: skip
        monkeypatch.setattr(inotify, "UNREAD_MAX_BYTES", unread)
        weather.rise(unnamed, tree_dir)
        tree_dir.rename(tree_dir.parent / "elsewhere")
        tree_dir.mkdir()
        until(lambda: unnamed.ended)
        assert "root" in unnamed.ended[0]
        tree_dir.rmdir()
        (tree_dir.parent / "elsewhere").rename(tree_dir)

    def test_no_hand_is_promised_where_nobody_tells_of_any(
        self, tree_dir: Path, unnamed: WatchedVolume, weather: Weather
    ) -> None:
        weather.rise(unnamed, tree_dir)
        (tree_dir / "d/new").write_bytes(b"x")
        hand = unnamed.watcher.hand_of(b"d\0new")
        assert hand is not None
        assert "fanotify would" in hand.detail
        weather.fall(unnamed)


def test_it_is_told_that_nothing_has_to_be_done() -> None:
    assert "nothing has to be done" in SHOWN
