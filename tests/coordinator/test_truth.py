"""The truth by majority, and differences that are followed instead of computed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.truth import Differ, decide_quorum, quorum_of
from forest.store import Forest, file_value, small_value

KEYS = [b"a", b"b", b"c\0d", b"e"]
files = st.dictionaries(
    st.sampled_from(KEYS), st.integers(2, 5).map(lambda number: small_value(number * 4 + 2))
)


def test_a_quorum_is_more_than_half() -> None:
    assert [quorum_of(count) for count in (1, 2, 3, 4, 5, 16)] == [1, 2, 2, 3, 3, 9]


def test_equal_majorities_need_no_comparison() -> None:
    forest = Forest()
    root = forest.plant({b"a": small_value(2)})
    forest.reads.clear()
    decision = decide_quorum(Differ(forest.tree), dict.fromkeys("xyz", root), 3, None)
    assert (decision.root, decision.undetermined, forest.reads) == (root, frozenset(), [])


def test_few_dissenters_are_not_even_compared() -> None:
    forest = Forest(cache_pages=1)
    truth, other = forest.plant({b"a": small_value(2)}), forest.plant({b"a": small_value(6)})
    forest.reads.clear()
    votes = {**{str(number): truth for number in range(12)}, "r1": other, "r2": other}
    decision = decide_quorum(Differ(forest.tree), votes, 9, truth)
    assert (decision.root, decision.undetermined, forest.reads) == (truth, frozenset(), [])


def test_less_than_a_quorum_of_votes_founds_nothing() -> None:
    forest = Forest()
    root = forest.plant({b"a": small_value(2)})
    assert decide_quorum(Differ(forest.tree), {"x": root, "y": root}, 3, None).root is None


def test_what_has_no_majority_stays_as_the_truth_had_it() -> None:
    forest = Forest()
    one, two = forest.plant({b"a": small_value(2)}), forest.plant({b"a": small_value(6)})
    decision = decide_quorum(Differ(forest.tree), {"w": one, "x": one, "y": two, "z": two}, 3, one)
    assert (decision.root, decision.undetermined) == (one, frozenset([b"a"]))


def test_absence_is_an_entry() -> None:
    forest = Forest()
    full, empty = (
        forest.plant({b"a": small_value(2), b"b": small_value(6)}),
        forest.plant({b"b": small_value(6)}),
    )
    other = forest.plant({b"b": small_value(10)})
    decision = decide_quorum(Differ(forest.tree), {"x": empty, "y": empty, "z": other}, 3, full)
    assert decision.undetermined == frozenset([b"b"])
    assert decision.root is not None
    forest.objects.update(decision.pages)
    assert dict(forest.tree.walk(decision.root)) == {b"b": small_value(6)}


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(files, min_size=1, max_size=6), st.integers(0, 3), st.one_of(st.none(), files))
def test_the_truth_is_counted_path_by_path(votes: list[dict[bytes, bytes]], silent: int, now: object) -> None:
    """Against the rule written down directly."""
    forest = Forest()
    need = quorum_of(len(votes) + silent)
    current = None if now is None else forest.plant(now)  # type: ignore[arg-type]
    decision = decide_quorum(
        Differ(forest.tree),
        {str(number): forest.plant(one) for number, one in enumerate(votes)},
        need,
        current,
    )
    if decision.root is None:
        assert now is None
        assert len(votes) < need
        return
    forest.objects.update(decision.pages)
    truth = dict(forest.tree.walk(decision.root))
    before: dict[bytes, bytes] = now or {}  # type: ignore[assignment]
    for key in KEYS:
        held = [one.get(key) for one in votes]
        winner = next((value for value in held if held.count(value) >= need), False)
        if winner is not False:
            assert truth.get(key) == winner
            assert key not in decision.undetermined
        else:
            assert truth.get(key) == before.get(key)
            differs = any(value != before.get(key) for value in held)
            if now is not None:
                assert (key in decision.undetermined) == differs
            elif any(value is not None for value in held):
                assert key in decision.undetermined


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(st.tuples(files, files), min_size=1, max_size=6))
def test_a_followed_difference_equals_a_computed_one(
    steps: list[tuple[dict[bytes, bytes], dict[bytes, bytes]]],
) -> None:
    forest = Forest()
    differ, before, known = Differ(forest.tree), None, {}
    for ours, theirs in steps:
        pair = (forest.plant(ours), forest.plant(theirs))
        expected = {
            key: (ours.get(key), theirs.get(key))
            for key in ours.keys() | theirs.keys()
            if ours.get(key) != theirs.get(key)
        }
        if before is not None:
            found, touched = differ.follow(known, before, pair)
            assert found == expected
            changed = {key for key in found.keys() | known.keys() if found.get(key) != known.get(key)}
            assert touched is None or changed <= set(touched)
        known, before = expected, pair


def test_the_way_back_is_known_from_the_way_there() -> None:
    forest, rng = Forest(), random.Random(1)
    ours: dict[bytes, bytes] = {b"%05d" % number: file_value(rng) for number in range(500)}
    theirs = {**ours, b"00007": file_value(rng), b"new": file_value(rng)}
    del theirs[b"00300"]
    one, other = forest.plant(ours), forest.plant(theirs)
    differ = Differ(forest.tree)
    differ.diff(one, other)
    forest.reads.clear()
    back = differ.diff(other, one)
    assert forest.reads == []
    assert back == Differ(forest.tree).diff(other, one)
    assert set(back) == {b"00007", b"new", b"00300"}


def test_following_a_small_step_reads_little_however_much_differs() -> None:
    forest, rng = Forest(cache_pages=8), random.Random(1)
    ours = {b"%05d" % number: file_value(rng) for number in range(20_000)}
    theirs = {key: file_value(rng) for key in ours}
    one, other = forest.plant(ours), forest.plant(theirs)
    differ = Differ(forest.tree)
    known = differ.diff(one, other)
    next_one = forest.edit(one, {b"00007": theirs[b"00007"]})
    forest.reads.clear()
    found, touched = differ.follow(known, (one, other), (next_one, other))
    assert (len(found), touched) == (19_999, (b"00007",))
    assert len(forest.reads) < 20


def test_a_step_too_large_to_follow_is_computed() -> None:
    forest, rng = Forest(), random.Random(1)
    ours = {b"%05d" % number: file_value(rng) for number in range(5000)}
    one, other = forest.plant(ours), forest.plant({key: file_value(rng) for key in ours})
    found, touched = Differ(forest.tree).follow({}, (one, one), (other, one))
    assert (len(found), touched) == (5000, None)
