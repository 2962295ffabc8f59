"""Counts by name, held against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from closeranks_coordinator.core.tally import Tally

NAMES = st.one_of(st.integers(-3, 12), st.integers(-(2**63), 2**64 - 1))


@given(st.lists(st.tuples(NAMES, st.sampled_from([-1, 1])), max_size=400))
def test_it_counts_as_a_dictionary_does(steps: list[tuple[int, int]]) -> None:
    tally, model = Tally(), dict[int, int]()
    for name, step in steps:
        tally.add(name, step)
        name %= 2**64  # a name has 64 bits
        model[name] = model.get(name, 0) + step
    assert {name: tally.get(name) for name in model} == model
    assert len(tally) == sum(count != 0 for count in model.values())


def test_what_comes_and_goes_takes_no_room() -> None:
    tally = Tally()
    for number in range(50_000):
        tally.add(number, 1)
        tally.add(number, -1)
    assert (len(tally), tally.get(7)) == (0, 0)
    assert tally.bytes < 16 * 1024


def test_equal_names_by_the_thousand_are_counted_in_full() -> None:
    tally = Tally()
    for _ in range(100_000):
        tally.add(0, -1)
    assert (tally.get(0), len(tally)) == (-100_000, 1)


def test_a_hundred_thousand_names_take_three_megabytes() -> None:
    tally = Tally()
    for number in range(100_000):
        tally.add(number * 0x1234567, 1)
    assert len(tally) == 100_000
    assert tally.bytes <= 3.2e6
