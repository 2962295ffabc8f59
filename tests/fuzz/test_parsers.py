"""Whatever bytes come, a parser gives a value or its own error, and takes memory in proportion."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.guided import Finding, check, check_memory, fuzz, mutate
from fuzz.targets import TARGETS, Target

EXAMPLES = 150
RANDOM_S = float(os.environ.get("FUZZ_SECONDS", "8"))
by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@by_name
def test_every_seed_is_read_and_costs_little(target: Target) -> None:
    accepted = 0
    for seed in target.seeds:
        check_memory(target, seed)
        accepted += check(target, seed)
    assert accepted, "a seed that is refused leads nowhere"


@pytest.mark.repeats(EXAMPLES)
@by_name
def test_any_bytes_are_answered(target: Target) -> None:
    """The same examples at each run; what is random is below, with its seed."""

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(st.binary(max_size=400))
    def answer(data: bytes) -> None:
        check(target, data)

    answer()


@pytest.mark.repeats(EXAMPLES)
@by_name
def test_seeds_that_were_mutated_are_answered(target: Target) -> None:
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(st.sampled_from(target.seeds), st.integers(0, 1 << 32), st.integers(1, 6))
    def answer(seed: bytes, number: int, times: int) -> None:
        rng = random.Random(number)
        for _ in range(times):
            seed = mutate(rng, seed, target.seeds)
        check(target, seed)

    answer()


def test_a_random_search_finds_nothing() -> None:
    """Some seconds, another seed each time; `python -m fuzz.guided --seed N` repeats it."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    searches = fuzz(TARGETS, RANDOM_S, seed)
    assert all(search.tried >= len(search.target.seeds) for search in searches)


def test_the_search_finds_what_is_planted() -> None:
    """A parser that fails only behind two conditions is found from a seed that meets neither."""

    def planted(data: bytes) -> None:
        if data[:1] == b"\xff" and len(data) > 8:
            raise KeyError("planted")

    target = Target("planted", planted, (ValueError,), (b"abcd" * 3,))
    with pytest.raises(Finding, match="planted"):
        fuzz([target], 20.0, 1)


def test_memory_out_of_proportion_is_found() -> None:
    target = Target("greedy", lambda data: [0] * (len(data) * 1000), (), (b"x" * 4000,))
    with pytest.raises(Finding, match="bytes of memory"):
        check_memory(target, target.seeds[0])
