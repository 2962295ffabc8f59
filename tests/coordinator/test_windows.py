"""Counters over time."""

from __future__ import annotations

import pytest

from closeranks_coordinator.core import windows
from closeranks_coordinator.core.windows import Rolling, Shares, Usual, deviation, middle


def test_a_rolling_sum_forgets_what_is_older_than_its_window() -> None:
    rolling = Rolling(60.0, 2)
    rolling.add(1000.0, 1, 10)
    rolling.add(1030.0, 2, 20)
    assert rolling.sums(1030.0) == (3, 30)
    assert rolling.sums(1061.5) == (2, 20)
    assert rolling.sums(1200.0) == (0, 0)


def test_a_rolling_sum_has_no_more_than_so_many_buckets_however_long_its_window_is() -> None:
    rolling = Rolling(7 * 86400.0, 1)
    for second in range(0, 7 * 86400, 60):
        rolling.add(float(second), 1)
    assert len(rolling._buckets) <= windows.BUCKETS_MAX + 1
    assert rolling.sums(7 * 86400.0 - 60)[0] >= 7 * 1440 - 20


def test_the_pace_is_the_most_of_the_last_two_seconds() -> None:
    rolling = Rolling(60.0, 1)
    rolling.add(10.1, 5)
    rolling.add(11.2, 7)
    assert rolling.peak(11.5) == (7,)
    assert rolling.peak(12.9) == (7,)
    assert rolling.peak(14.0) == (0,)


def test_what_is_lost_under_one_name_and_gained_under_another_is_not_lost() -> None:
    shares = Shares(600.0)
    for content in range(100):
        shares.lose(1000.0, content)
    assert shares.lost(1000.0) == 100
    for content in range(90):
        shares.gain(1200.0, content)
    assert shares.lost(1200.0) == 10


def test_a_copy_before_the_deletion_counts_as_a_move_too() -> None:
    shares = Shares(600.0)
    shares.gain(1000.0, 7)
    shares.lose(1100.0, 7)
    assert shares.lost(1100.0) == 0


def test_each_gain_excuses_one_loss_only() -> None:
    shares = Shares(600.0)
    for _ in range(5):
        shares.lose(1000.0, 7)
    shares.gain(1000.0, 7)
    assert shares.lost(1000.0) == 4


def test_a_path_that_changes_for_ever_is_one_path() -> None:
    shares = Shares(600.0)
    for second in range(600):
        shares.alter(1000.0 + second, b"log")
    assert shares.altered(1600.0) == 1
    shares.restore(b"log")
    assert shares.altered(1600.0) == 0


def test_shares_forget_after_the_window_and_not_before() -> None:
    shares = Shares(600.0)
    shares.lose(1000.0, 1)
    shares.reach(1000.0, 500)
    assert (shares.lost(1600.0), shares.entries(1600.0)) == (1, 500)
    assert (shares.lost(1721.0), shares.entries(1721.0)) == (0, 0)


def made(shares: Shares, now: float, count: int) -> None:
    for number in range(count):
        shares.make(now, b"%d" % number)


def test_shares_are_of_what_there_was_without_this_node() -> None:
    """A flood of new files made any deletion a small one, and what had gone was no part of what it was a share of."""
    shares = Shares(600.0)
    shares.reach(1000.0, 500)
    made(shares, 1001.0, 8000)
    shares.grow(1001.0, 8000)
    assert shares.others(1001.0) == 500
    shares.reach(1200.0, 8500)
    assert shares.others(1200.0) == 500
    shares.grow(1201.0, -60)
    assert shares.others(1201.0) == 500, "it took of its own, or of the others'"
    shares.reach(1300.0, 9440)
    assert shares.others(1300.0) == 1500, "others have added a thousand"
    shares.reach(1400.0, 900)
    assert shares.others(1400.0) == 500, "others have removed what it added"
    assert shares.others(2200.0) == 900, "what it did was long ago"


def test_what_was_made_and_is_not_remembered_belongs_to_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an import of 300,000 files 200 that were removed again had been more than the volume had before."""
    monkeypatch.setattr(windows, "REMEMBERED_MAX", 1000)
    shares = Shares(600.0)
    shares.reach(1000.0, 10)
    made(shares, 1001.0, 3000)
    shares.grow(1001.0, 3000)
    assert shares.others(1002.0) == 2010


def test_what_waited_from_one_generation_to_the_next_is_forgotten_as_made_and_as_grown_at_once() -> None:
    shares = Shares(600.0)
    shares.reach(1000.0, 50)
    made(shares, 1000.0, 1000)
    shares.reach(1125.0, 50)
    shares.grow(1125.0, 1000)
    shares.reach(1600.0, 1050)
    assert shares.others(1719.0) == 50
    assert shares.others(1721.0) == 1050


def test_what_has_gone_already_belongs_to_what_it_is_a_share_of() -> None:
    shares = Shares(600.0)
    shares.reach(1000.0, 3030)
    shares.grow(1001.0, -97)
    shares.reach(1002.0, 2933)
    assert shares.others(1002.0) == 3030


def test_beyond_what_is_remembered_losses_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "REMEMBERED_MAX", 10)
    shares = Shares(600.0)
    for number in range(25):
        shares.lose(1000.0, number)
        shares.alter(1000.0, b"%d" % number)
        shares.retype(1000.0, b"%d" % number)
    assert (shares.lost(1000.0), shares.altered(1000.0), shares.retyped(1000.0)) == (25, 25, 25)


def test_the_usual_is_the_median_of_the_times_of_work() -> None:
    usual = Usual(0)
    for number, size in enumerate([100, 0, 300, 0, 200, 10**12], 1):
        usual.learn(number, size and 1, size)
    assert usual.bytes() == 250
    assert usual.pace()[1] == pytest.approx(250 / 300)


def test_the_usual_has_seven_days_and_no_more() -> None:
    usual = Usual(0)
    for number in range(1, 3 * windows.USUAL_BUCKETS):
        usual.learn(number, 1, number)
    assert len(usual.buckets) == windows.USUAL_BUCKETS


def test_the_deviation_is_not_moved_by_one_who_runs_away() -> None:
    values = [10, 12, 11, 9, 10**12]
    assert (middle(values), deviation(values)) == (11, 1)
    assert (middle([]), deviation([])) == (0, 0)
