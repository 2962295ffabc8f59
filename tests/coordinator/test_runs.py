"""What the brake makes of writers on disks of which they take a good part: stories in a table, then the rule itself."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

import pytest

from brake_stories import GB, MB, Write, bursts, files, flood, over, play, receive
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.runs import Run

SMALL = (400 * MB, 380 * MB)
MIDDLE = (19 * GB, 18 * GB)
NEVER = inf

# story, (disk, free), held after so many seconds at most, spread by then at most (a share of the disk)
RUNAWAYS = {
    "at full speed": (files(20 * MB, 0.1, 19), SMALL, 3, 0.0),
    "6 MB/s": (files(MB, 0.17, 180), SMALL, 5, 0.0),
    "1 MB/s, full in 6 minutes": (files(MB, 1, 380), SMALL, 45, 0.0),
    "many small files": (files(65536, 0.0125, 1000), SMALL, 6, 0.001),
    "20 MB, a pause of 1.2 s": (bursts(10 * MB, 2, 0.05, 19, 1.2), SMALL, 6, 0.0),
    "6 MB, a pause of 4 s": (bursts(MB, 6, 0.05, 80, 4), SMALL, 45, 0.0),
    "20 MB, a pause of 6 s": (bursts(10 * MB, 2, 0.05, 80, 6), SMALL, 45, 0.06),
    "6 MB, a pause of 20 s": (bursts(MB, 6, 0.05, 80, 20), SMALL, 420, 0.26),
    "at 150 MB/s": (files(15 * MB, 0.1, 600), MIDDLE, 5, 0.0),
    "100 MB, a pause of 1.1 s": (bursts(20 * MB, 5, 0.05, 180, 1.1), MIDDLE, 7, 0.0),
    "a trickle, full in 21 minutes": (files(MB, 3.4, 370), SMALL, 340, 0.26),
    "a trickle, full in 2 hours": (files(2 * MB, 34, 190), SMALL, 1700, 0.26),
}
# One file, on a machine so busy that its second look lasts, and that of its disk is told late.
SEEN = (Write(0, MB, "log"), Write(0.3, 300 * MB, "log", committed=False))
# story, (disk, free), waits at most so many seconds
ORDINARY = {
    "a page": (files(100_000, 1, 1), SMALL, 0.3),
    "a photo": (files(2 * MB, 1, 1), SMALL, 3.5),
    "twenty photos in a minute": (files(2 * MB, 3, 19), SMALL, 63),
    "the same, on a disk that is nearly full": (files(2 * MB, 3, 20), (1000 * MB, 300 * MB), 65),
    "the same, with 2 GB free": (files(2 * MB, 3, 20), (10 * GB, 2 * GB), 0.5),
    "rsync of 5% of the disk, at full speed": (files(MB, 0.01, 20), SMALL, 6),
    "rsync of 5% of the disk, in 20 s": (files(MB, 1, 20), SMALL, 25),
    "rsync of 5% of the disk, 10 MB/s": (files(5 * MB, 0.5, 190), MIDDLE, 6),
    "rsync of 5% of the disk, 50 MB/s": (files(5 * MB, 0.1, 190), MIDDLE, 26),
    "a checkout of 300 files": (files(100_000, 0.003, 300), SMALL, 7),
    "a log for an hour, full in 5 hours": (files(400_000, 20, 180), SMALL, 1),
    "a database that is rewritten in place": (over("db", MB, 0.25, 200), SMALL, 6),
    "a file of 30 MB rewritten each 2 s": (over("db", 30 * MB, 2, 40), SMALL, 6),
    "8 MB/s for a minute": (files(MB, 0.125, 480), (5 * GB, 4500 * MB), 66),
}
# What can not be told from a runaway by anything but its end: it is held, and a person allows it.
HELD_ALL_THE_SAME = {
    "rsync of 5% of the disk, in 5 s": (files(MB, 0.25, 20), SMALL),
    "rsync of 5% of the disk, 100 MB/s": (files(10 * MB, 0.1, 95), MIDDLE),
    "an import of a third of the room, in 10 minutes": (files(MB, 4.7, 127), SMALL),
}

# What a page cache takes, where a tenth of the disk is hardly more than 2 GB: story, (disk, free), written when held.
PAGE_CACHE = {
    "at 1 GB/s, 24 GB": (files(25 * MB, 0.025, 400), (24 * GB, 23 * GB), 2_400 * MB),
    "at 5 GB/s, 24 GB": (files(125 * MB, 0.025, 80), (24 * GB, 23 * GB), 2_400 * MB),
    "files of 10 MB at 2 GB/s": (files(10 * MB, 0.005, 400), (24 * GB, 23 * GB), 2_400 * MB),
    "at 5 GB/s, 40 GB": (files(125 * MB, 0.025, 80), (40 * GB, 38 * GB), 2_600 * MB),
}
# In a storm of small files, of which only samples are seen: size, bytes a second, (disk, free), written when held.
FLOODS = {
    "64 KB at 0.9 GB/s, 19 GB": (65_536, 900 * MB, MIDDLE, 2_000 * MB),
    "64 KB at 2 GB/s, 19 GB": (65_536, 2 * GB, MIDDLE, 2_000 * MB),
    "256 KB at 2 GB/s, 24 GB": (262_144, 2 * GB, (24 * GB, 23 * GB), 2_400 * MB),
    "256 KB at 4 GB/s, 400 GB": (262_144, 4 * GB, (400 * GB, 300 * GB), 2_600 * MB),
}

# Copies that fit: below what a runaway may write, however fast. Waits at most so many seconds.
COPIED = {
    "one file of 1.9 GB that is moved in": (files(1900 * MB, 1, 1), (24 * GB, 23 * GB), 6),
    "1.7 GB at 4 GB/s": (files(100 * MB, 0.025, 17), (24 * GB, 23 * GB), 6),
    "2 GB at 2 GB/s": (files(50 * MB, 0.025, 40), (24 * GB, 23 * GB), 7),
    "2 GB at 4 GB/s, 40 GB": (files(100 * MB, 0.025, 20), (40 * GB, 38 * GB), 6),
}

# What a writer with a large disk sends to a node with a small one, which keeps nothing back: story, (disk, free).
RECEIVED = {
    "300 photos, at full speed": (files(2_200_000, 0.005, 300), (2 * GB, 1900 * MB)),
    "two files of 30 MB a second": (files(30 * MB, 0.5, 12), SMALL),
    "one file of nine tenths of the room": (files(340 * MB, 1, 1), SMALL),
    "for a minute": (files(5 * MB, 1, 60), SMALL),
}


def of(table: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(table))


@of(RUNAWAYS)
def test_a_runaway_is_held_and_next_to_nothing_of_it_is_spread(name: str) -> None:
    story, (total, free), within_s, share = RUNAWAYS[name]
    told = play(story, total, free, GuardRules())
    assert told.held_s is not None, f"never held: {told.spread / MB:.0f} MB were spread"
    assert (told.guard, told.held_s <= within_s) == ("disk_full", True), told
    assert told.spread <= share * total, told


def test_the_first_of_a_file_that_went_on_growing_is_not_paid_by_the_time_that_its_next_look_takes() -> None:
    told = play(SEEN, *SMALL, GuardRules(), look_s=7.0)
    assert (told.held_s, told.spread) == (None, MB), told
    assert told.longest_wait_s >= 5.0, (
        "it rests like all of it: 1.4 s pay for the first megabyte, not for what follows"
    )


@of(ORDINARY)
def test_ordinary_work_is_not_held_and_waits_no_longer_than_it_takes(name: str) -> None:
    story, (total, free), waits_s = ORDINARY[name]
    told = play(story, total, free, GuardRules())
    assert told.held_s is None, told
    assert told.waits, "it was spread"
    assert told.longest_wait_s <= waits_s


def test_what_is_rewritten_in_place_goes_on_reaching_the_others() -> None:
    told = play(over("db", MB, 0.25, 200), *SMALL, GuardRules())
    assert len(told.waits) > 150, "it takes no room"


@of(PAGE_CACHE)
def test_what_a_page_cache_takes_is_held_before_a_tenth_of_the_disk_is_written(name: str) -> None:
    story, (total, free), most = PAGE_CACHE[name]
    told = play(story, total, free, GuardRules())
    assert (told.guard, told.spread) == ("write_rate", 0), told
    assert told.written <= most, told


@of(FLOODS)
def test_a_flood_of_small_files_is_held_before_a_tenth_of_the_disk_is_written(name: str) -> None:
    size, bytes_s, (total, free), most = FLOODS[name]
    told = flood(size, bytes_s, total, free)
    assert (told.held_s is not None, told.written <= most, told.spread) == (True, True, 0), told


def test_what_somebody_writes_beside_a_flood_of_tiny_files_is_not_counted_as_theirs() -> None:
    told = flood(1000, 20 * MB, 400 * GB, 300 * GB, beside_bytes_s=500 * MB)
    assert told.held_s is None, told


@of(COPIED)
def test_a_copy_that_a_runaway_would_go_beyond_is_not_held_for_its_pace(name: str) -> None:
    story, (total, free), waits_s = COPIED[name]
    told = play(story, total, free, GuardRules())
    assert (told.held_s, told.longest_wait_s <= waits_s, bool(told.waits)) == (None, True, True), told


@of(HELD_ALL_THE_SAME)
def test_what_nothing_tells_from_a_runaway_is_held(name: str) -> None:
    story, (total, free) = HELD_ALL_THE_SAME[name]
    assert play(story, total, free, GuardRules()).guard == "disk_full"


def test_a_trickle_that_is_usual_for_its_node_is_not_held_for_it() -> None:
    story = list(files(MB, 4.7, 127))
    assert play(story, *SMALL, GuardRules(warm_up_s=0.0), usual_bytes=10 * MB).held_s is None
    assert play(story, *SMALL, GuardRules(warm_up_s=0.0), usual_bytes=MB).held_s is not None


def test_where_nobody_asks_about_disks_nothing_waits_for_one() -> None:
    told = play(files(MB, 0.5, 200), *SMALL, GuardRules(disk_full_in_s=0.0))
    assert (told.held_s, told.longest_wait_s <= 0.5) == (None, True)


@of(RECEIVED)
def test_a_disk_that_fills_by_what_the_truth_brings_holds_nobody(name: str) -> None:
    story, (total, free) = RECEIVED[name]
    told = receive(story, total, free)
    assert (told.holds, told.behind) == ([], 0)


def test_a_disk_that_fills_by_what_the_truth_brings_is_told_once() -> None:
    told = receive(files(5 * MB, 1, 60), *SMALL)
    assert len(told.said) == 1, told.said
    assert "fills with what closeranks puts there" in told.said[0]


@pytest.mark.parametrize("story", [[], list(files(MB, 1, 60))], ids=["alone", "beside what the truth brings"])
def test_who_fills_the_disk_of_a_replica_from_outside_is_still_found(story: list[Write]) -> None:
    told = receive(story, *SMALL, outside_bytes_s=6 * MB)
    (hold,) = told.holds
    assert (hold.guard, hold.node) == ("disk_full", "n2")


# --- the rule by itself ---------------------------------------------------------------------------

CALM = 1000.0
OBSERVE_S = 5.0
FULL_IN_S = 600.0


def ask(run: Run, now: float, grown: int, changed_at: float) -> float | None:
    return run.due(now, grown, CALM, changed_at, OBSERVE_S, FULL_IN_S)


def test_what_is_slower_than_the_calm_pace_is_never_in_debt() -> None:
    run = Run()
    assert all(ask(run, now / 5, 180 * now, now / 5) is None for now in range(100))


def test_a_debt_is_paid_by_time_and_a_pause_counts_for_as_long_as_it_lasts() -> None:
    run = Run()
    assert ask(run, 0.0, 3000, 0.0) == pytest.approx(2.75)
    assert ask(run, 1.0, 3000, 0.0) == pytest.approx(2.75)
    assert ask(run, 2.0, 6000, 2.0) == pytest.approx(5.75)
    assert ask(run, 5.75, 6000, 2.0) is None


def test_time_before_a_run_pays_for_nothing() -> None:
    run = Run()
    assert ask(run, 0.0, 100, 0.0) is None
    assert ask(run, 1000.0, 50_000, 1000.0) == 1005.0


def test_who_begins_again_before_it_is_paid_rests_twice_as_long_and_later_no_more() -> None:
    run = Run()
    assert ask(run, 0.0, 100_000, 0.0) == 5.0
    assert ask(run, 5.0, 100_000, 0.0) is None
    assert ask(run, 6.0, 200_000, 6.0) == 16.0
    assert ask(run, 16.0, 200_000, 6.0) is None
    assert ask(run, 400.0, 300_000, 400.0) == 405.0


def test_what_is_taken_away_again_is_no_debt() -> None:
    run = Run()
    assert ask(run, 0.0, 50_000, 0.0) is not None
    assert ask(run, 0.5, 0, 0.5) is None


def test_a_disk_without_any_room_lets_through_only_what_rests() -> None:
    run = Run()
    assert run.due(0.0, 100, 0.0, 0.0, OBSERVE_S, FULL_IN_S) == 5.0
    assert run.due(5.0, 100, 0.0, 0.0, OBSERVE_S, FULL_IN_S) is None


def test_whoever_never_rests_on_a_disk_that_does_not_fill_is_let_through_at_last() -> None:
    """What is shared with other files, or made room for as fast, grows and fills nothing: it waited for ever."""
    run = Run()
    assert [now for now in range(1900) if ask(run, now, 2000 * now, now) is None] == [0, 601, 1202, 1803]
    assert ask(run, 1900.0, 2000 * 1900, 1900.0) == 1905.0


def test_where_room_is_no_question_nothing_is_owed() -> None:
    run = Run()
    assert run.due(0.0, 10**12, inf, 0.0, OBSERVE_S, FULL_IN_S) is None
