"""What is told of a storm's bytes: by the room that the disk loses, as far as the samples let expect."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from closeranks_agent.disk.records import ScanReport
from closeranks_agent.disk.volume import Volume
from closeranks_agent.hands.activity import Activity
from closeranks_agent.watch.flood import BEYOND, NAMES_MAX_S, Flood
from watched_volume import Notes

MakeVolume = Callable[..., Volume]
SIZE = 1000
NAMES = [b"a", b"b"]


@dataclass
class Disk:
    """An invented clock, and an invented disk."""

    now: float = 100.0
    filesystem: int = 1
    free: int = 10**12

    def clock(self) -> float:
        return self.now

    def room(self) -> tuple[int, int]:
        return self.filesystem, self.free

    def loses(self, size: int, seconds: float) -> None:
        self.now += seconds
        self.free -= size


class Seen:
    def __init__(self, volume: Volume, tree_dir: Path) -> None:
        for name in NAMES:
            (tree_dir / os.fsdecode(name)).write_bytes(bytes(SIZE))
        self.volume, self.disk, self.notes = volume, Disk(), Notes()
        self.flood = Flood(volume, self.notes, self.disk.clock, self.disk.room)
        self.flood.begin(NAMES)

    @property
    def told(self) -> int:
        return sum(size for _, _, size, _ in self.notes.told)


@pytest.fixture
def seen(make_volume: MakeVolume, tree_dir: Path) -> Seen:
    return Seen(make_volume(), tree_dir)


def test_what_the_disk_loses_is_told_at_each_look_and_is_ahead_of_the_scan(seen: Seen) -> None:
    for turn in range(1, 10):
        seen.disk.loses(50_000, 0.05)
        seen.flood.look()
        assert seen.told == 50_000 * turn
    assert seen.notes.ahead_bytes == seen.told
    assert all(not files and hand is None for _, files, _, hand in seen.notes.told), (
        "whose hand it is, nobody saw"
    )


def test_no_more_is_told_than_samples_let_expect(seen: Seen) -> None:
    seen.disk.loses(10**11, 0.5)  # by somebody else
    seen.flood.look()
    assert seen.told <= NAMES_MAX_S * SIZE * 0.5
    before = seen.told
    seen.flood.sampled(NAMES, 10, 0.01)
    seen.disk.loses(10**11, 1.0)
    seen.flood.look()
    assert seen.told - before == pytest.approx(BEYOND * SIZE * 10 / 0.01, rel=0.01)


def test_what_was_too_little_until_a_sample_is_told_with_it(seen: Seen) -> None:
    seen.flood.sampled(NAMES, 0, 0.01)
    seen.disk.loses(10**8, 0.5)
    seen.flood.look()
    assert seen.told == 0
    seen.flood.sampled(NAMES, 5000, 0.01)
    assert seen.told == 10**8


def test_room_that_comes_back_or_that_we_take_ourselves_is_nothing_written(seen: Seen) -> None:
    seen.disk.loses(-(10**6), 0.05)
    seen.flood.look()
    assert seen.told == 0
    seen.volume.taken.bytes += 10**7
    seen.disk.loses(10**7, 0.05)
    seen.flood.look()
    assert seen.told == 0


def test_another_filesystem_in_its_place_is_no_loss(seen: Seen) -> None:
    seen.disk.filesystem = 2
    seen.disk.loses(10**9, 0.05)
    seen.flood.look()
    assert seen.told == 0
    seen.disk.loses(1000, 0.05)
    seen.flood.look()
    assert seen.told == 1000


def test_a_scan_does_not_tell_again_of_what_was_told_ahead() -> None:
    clock = Disk()
    activity = Activity(cast(Any, None), cast(Any, None), lambda message: None, lambda: True, clock.clock)
    activity.note("v", 0, 700)
    activity.ahead("v", 700)

    def scan(started: float, size: int) -> tuple[int, int]:
        before = activity._volume("v").fresh()
        activity.scanned("v", ScanReport(started, 0.1, True, changed=10, hashed_files=10, hashed_bytes=size))
        after = activity._volume("v").fresh()
        return after[0] - before[0], after[1] - before[1]

    assert scan(clock.now - 5.0, 500) == (10, 0)
    assert scan(clock.now - 5.0, 500) == (10, 300)
    activity.ahead("v", 700)
    assert scan(clock.now + 1.0, 100) == (10, 0), "it has seen all that was there"
    assert scan(clock.now + 2.0, 100) == (10, 100)


def test_the_disk_of_the_volume_is_asked(make_volume: MakeVolume, tree_dir: Path) -> None:
    flood = Flood(make_volume(), Notes())
    found = os.statvfs(tree_dir)
    assert flood._room()[0] == found.f_fsid
    assert flood._room()[1] > 0
