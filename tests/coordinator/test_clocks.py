"""How long differences have lasted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core import clocks
from closeranks_coordinator.core.clocks import Clocks

FAR = math.inf


def test_a_difference_is_confirmed_when_it_has_lasted() -> None:
    found = Clocks()
    found.watch([b"a"], 10.0)
    assert found.confirm(11.9, 2, 600, FAR).confirmed == 0
    assert found.confirm(11.9, 2, 600, FAR).next_at == 12.0
    assert found.confirm(12.0, 2, 600, FAR).confirmed == 1
    assert found.confirm(12.0, 2, 600, FAR).since == 10.0


def test_it_also_needs_a_scan_of_every_other_voter_since() -> None:
    found = Clocks()
    found.watch([b"a"], 10.0)
    for scanned, confirmed in ((None, 0), (9.0, 0), (10.0, 0), (10.1, 1)):
        assert found.confirm(20.0, 2, 600, scanned).confirmed == confirmed


def test_watching_again_lets_clocks_run_and_ends_what_healed() -> None:
    found = Clocks()
    found.watch([b"a", b"b"], 10.0)
    found.watch([b"b", b"c"], 11.0)
    assert sorted(found) == [b"b", b"c"]
    assert found.confirm(12.0, 2, 600, FAR).confirmed == 1
    assert found.first_seen() == 10.0


def test_a_restart_moves_the_end_but_not_beyond_the_longest() -> None:
    found = Clocks()
    found.watch([b"a"], 10.0)
    for now in (11.0, 12.0, 13.0, 14.0):
        found.restart({b"a"}, now)
        assert found.confirm(now, 2, 5, FAR).confirmed == 0
    assert found.confirm(15.0, 2, 5, FAR).confirmed == 1


def test_a_restart_of_some_leaves_the_others() -> None:
    found = Clocks()
    found.watch([b"a", b"b", b"c"], 10.0)
    found.restart({b"b", b"unknown"}, 11.0)
    seen = found.confirm(12.5, 2, 600, FAR)
    assert (seen.confirmed, seen.unconfirmed, seen.next_at) == (2, 1, 13.0)
    found.watch([], 13.0)
    assert (len(found), found.first_seen()) == (0, None)


def test_a_restart_of_all_and_more_is_that_of_each() -> None:
    found = Clocks()
    found.watch([b"a"], 10.0)
    found.change([b"b"], [], 10.5)
    found.restart({b"a", b"b", b"elsewhere"}, 11.0)
    assert found.first_seen() == 10.0
    seen = found.confirm(12.5, 2, 600, FAR)
    assert (seen.confirmed, seen.unconfirmed, seen.next_at) == (0, 2, 13.0)
    assert found.confirm(13.0, 2, 600, FAR).confirmed == 2


def test_many_confirmed_clocks_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "BUCKETS_MAX", 10)
    found = Clocks()
    for number in range(100):
        found.change([b"%d" % number], [], float(number))
        found.confirm(float(number), 2, 600, FAR)
    assert len(found._buckets) < 20
    assert found.confirm(200.0, 2, 600, FAR).confirmed == 100
    assert found.lasting(3.0)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from("wcrg"), st.sets(st.integers(0, 5)), st.integers(0, 3)), max_size=30)
)
def test_buckets_count_what_the_keys_say(steps: list[tuple[str, set[int], int]]) -> None:
    """Against one clock a key."""
    found, simple, now = Clocks(), {}, 0.0
    for kind, numbers, pause in steps:
        now += pause
        keys = [b"%d" % number for number in sorted(numbers)]
        match kind:
            case "w":
                found.watch(keys, now)
                simple = {key: simple.get(key, (now, now)) for key in keys}
            case "c":
                found.change(keys, [], now)
                simple |= {key: simple.get(key, (now, now)) for key in keys}
            case "g":
                found.change([], keys, now)
                simple = {key: clock for key, clock in simple.items() if key not in keys}
            case "r":
                found.restart(frozenset(keys), now)
                simple = {key: (one[0], now if key in keys else one[1]) for key, one in simple.items()}
        seen = found.confirm(now, 3, 7, FAR)
        due = [first for first, start in simple.values() if now >= min(start + 3, first + 7)]
        assert (seen.confirmed, seen.unconfirmed) == (len(due), len(simple) - len(due))
        assert seen.since == min(due, default=None)


def test_a_key_that_is_told_twice_leaves_nothing_behind_when_it_heals() -> None:
    """It was judged again and became judgeable in one step. Whatever differs next would have been confirmed at once."""
    clocks = Clocks()
    clocks.change([b"a", b"a"], [], 0.0)
    clocks.change([], [b"a"], 1.0)
    assert clocks.first_seen() is None
    clocks.change([b"b"], [], 10.0)
    found = clocks.confirm(10.0, 2.0, 600.0, math.inf)
    assert (found.confirmed, found.unconfirmed, found.since) == (0, 1, None)


def test_a_part_of_what_began_together_is_restarted_by_itself_and_is_as_old_as_before() -> None:
    clocks = Clocks()
    clocks.watch([b"a", b"b", b"c"], 10.0)
    clocks.watch([b"a", b"b", b"c", b"d"], 11.0)
    clocks.restart({b"a", b"d"}, 12.0)
    found = clocks.confirm(12.5, 2.0, 100.0, 50.0)
    assert (found.confirmed, found.unconfirmed, found.next_at) == (2, 2, 14.0)
    assert clocks.first_seen() == 10.0
    assert sorted(clocks.lasting(10.5)) == [b"a", b"b", b"c"]
    assert clocks.confirm(14.0, 2.0, 100.0, 50.0).confirmed == 4


def test_a_restart_of_more_than_differs_restarts_all() -> None:
    clocks = Clocks()
    clocks.watch([b"a", b"b"], 10.0)
    clocks.restart({b"a", b"b", b"elsewhere"}, 11.0)
    assert clocks.confirm(12.5, 2.0, 100.0, 50.0).confirmed == 0


def test_the_newest_that_began_since_a_look_is_what_the_look_lacks() -> None:
    clocks = Clocks()
    for key, at in ((b"a", 10.0), (b"b", 12.0), (b"c", 14.0)):
        clocks.change([key], (), at)
    assert [clocks.newest_unsettled(scanned) for scanned in (9.0, 12.0, 14.0, 14.5)] == [
        14.0,
        14.0,
        14.0,
        None,
    ]


def test_where_nothing_differs_any_more_nothing_is_remembered() -> None:
    clocks = Clocks()
    clocks.watch([b"a", b"b"], 10.0)
    clocks.watch([], 11.0)
    clocks.watch([b"a"], 20.0)
    assert (clocks.first_seen(), len(clocks), clocks.lasting(15.0)) == (20.0, 1, [])
