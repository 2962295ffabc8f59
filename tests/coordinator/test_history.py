"""What the truth had earlier."""

from __future__ import annotations

import pytest

from closeranks_coordinator.core import history
from closeranks_coordinator.core.history import TruthHistory
from closeranks_coordinator.core.truth import Differ
from forest.store import Forest, small_value

ONE, TWO, THREE = (small_value(number) for number in (2, 6, 10))


def moved(forest: Forest, *states: dict[bytes, bytes]) -> TruthHistory:
    found = TruthHistory(Differ(forest.tree), [], 0.0)
    for state in states:
        found.move(forest.plant(state), 0.0)
    return found


def test_values_are_known_by_the_newest_order_they_had() -> None:
    past = moved(Forest(), {b"a": ONE}, {b"a": TWO}, {b"a": ONE}, {b"a": THREE})
    assert [past.latest_order(b"a", value) for value in (ONE, TWO, THREE, None)] == [3, 2, 4, None]


def test_absence_is_a_value() -> None:
    past = moved(Forest(), {}, {b"a": ONE})
    assert past.latest_order(b"a", None) == 1


def test_a_path_that_never_changed_is_not_known() -> None:
    assert moved(Forest(), {b"a": ONE, b"b": ONE}, {b"a": ONE, b"b": TWO}).latest_order(b"a", ONE) is None


def test_what_a_value_was_left_for_is_known_once_it_is_there_again() -> None:
    past = moved(Forest(), {b"a": ONE}, {}, {b"a": TWO}, {b"a": THREE}, {}, {b"a": ONE}, {})
    assert past.left_for(b"a", None, 7) is None, "it is the same one"
    assert [past.left_for(b"a", None, by) for by in (6, 5, 4, 2)] == [(ONE,), (ONE,), (TWO,), (TWO,)]
    assert past.left_for(b"a", None, 1) is None, "it had not been there"
    assert past.left_for(b"a", ONE, 6) is None, "it is not there now"
    assert past.left_for(b"b", None, 6) is None
    assert moved(Forest(), {b"a": ONE}, {}, {b"a": ONE}).left_for(b"a", ONE, 1) == (None,)


def test_it_is_the_same_after_a_restart() -> None:
    forest = Forest()
    past = moved(forest, {b"a": ONE}, {b"a": TWO, b"b": ONE}, {b"b": ONE})
    again = TruthHistory(Differ(forest.tree), past.roots, 0.0)
    for key in (b"a", b"b"):
        for value in (ONE, TWO, None):
            assert again.latest_order(key, value) == past.latest_order(key, value)
    again.move(forest.plant({b"b": THREE}), 0.0)
    assert again.latest_order(b"b", THREE) == 4


def test_old_roots_are_forgotten_and_the_present_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "HISTORY_MAX_ROOTS", 8)
    past = moved(Forest(), *({b"a": small_value(4 * number + 2)} for number in range(20)))
    assert len(past.roots) <= 8
    assert past.roots[-1][0] == 20
    assert past.latest_order(b"a", small_value(2)) is None
    assert past.latest_order(b"a", small_value(4 * 18 + 2)) == 19


def test_roots_whose_pages_are_gone_are_forgotten() -> None:
    forest = Forest(cache_pages=0)
    past = moved(forest, {b"a": ONE}, {b"a": TWO}, {b"a": THREE})
    del forest.objects[past.roots[0][1]]
    again = TruthHistory(Differ(forest.tree), past.roots, 0.0)
    assert again.latest_order(b"a", ONE) is None
    assert again.latest_order(b"a", TWO) == 2


def test_clear_forgets_everything() -> None:
    past = moved(Forest(), {b"a": ONE}, {b"a": TWO})
    past.clear()
    assert (past.roots, past.latest_order(b"a", ONE)) == ([], None)


def test_what_was_left_long_ago_is_forgotten_by_when_it_was_left() -> None:
    """Not by when it came: a truth that stood for a year was the truth a moment ago."""
    forest = Forest()
    past = TruthHistory(Differ(forest.tree), [], 0.0)
    for state, at in (({b"a": ONE}, 0.0), ({b"a": TWO}, 100.0), ({b"a": THREE}, 101.0)):
        past.move(forest.plant(state), at)
    past.forget_left(100.5)
    assert [order for order, _ in past.roots] == [2, 3]
    past.forget_left(101.0)
    assert past.latest_order(b"a", TWO) == 2
    past.forget_left(200.0)
    assert [order for order, _ in past.roots] == [3]


def test_what_an_earlier_process_left_counts_from_the_start_of_this_one() -> None:
    forest = Forest()
    past = moved(forest, {b"a": ONE}, {b"a": TWO})
    again = TruthHistory(Differ(forest.tree), past.roots, 500.0)
    again.forget_left(499.0)
    assert again.latest_order(b"a", ONE) == 1
    again.forget_left(501.0)
    assert again.latest_order(b"a", ONE) is None


def test_the_steps_after_an_order() -> None:
    past = moved(Forest(), {b"a": ONE}, {b"a": TWO}, {b"a": THREE})
    assert (past.after(1), past.after(3)) == ([3, 2], [])


def test_whether_the_past_is_known_from_its_beginning() -> None:
    past = moved(Forest())
    assert past.is_complete, "nothing was, and that is known"
    past = moved(Forest(), {b"a": ONE}, {b"a": TWO}, {b"a": THREE})
    assert past.is_complete
    past.forget(2)
    assert not past.is_complete


def test_all_that_was_left_long_ago_is_forgotten_at_once() -> None:
    forest = Forest()
    past = TruthHistory(Differ(forest.tree), [], 0.0)
    for at, value in enumerate((ONE, TWO, THREE, ONE)):
        past.move(forest.plant({b"a": value}), float(at))
    past.forget_left(2.5)
    assert [order for order, _ in past.roots] == [3, 4]


def test_what_a_forgotten_step_left_is_not_the_truths_past_any_more() -> None:
    past = moved(Forest(), {b"a": ONE, b"b": ONE}, {b"a": TWO, b"b": ONE}, {b"a": THREE, b"b": TWO})
    past.forget(2)
    assert [past.latest_order(b"a", value) for value in (ONE, TWO, THREE)] == [None, 2, 3]
    assert past.latest_order(b"b", ONE) == 2
    assert (past.changed(2), past.changed(3)) == (None, (b"a", b"b"))


def test_memory_of_the_past_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = Forest()
    few = {b"%d" % number: ONE for number in range(20)}
    past = moved(forest, few, dict.fromkeys(few, TWO))
    monkeypatch.setattr(history, "HISTORY_MAX_BYTES", 3 * past.bytes)
    for number in range(20):
        past.move(forest.plant(dict.fromkeys(few, small_value(4 * number + 2))), 0.0)
        assert past.bytes <= history.HISTORY_MAX_BYTES
    assert past.roots[-1][0] == 22
    assert past.latest_order(b"1", small_value(4 * 18 + 2)) == 21, "the newest stay"


def test_a_step_that_is_more_than_may_be_kept_leaves_the_present_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forest = Forest()
    past = moved(forest, {b"a": ONE}, {b"a": TWO})
    monkeypatch.setattr(history, "HISTORY_MAX_BYTES", 5 * history.CHANGE_BYTES)
    large = {b"%d" % number: ONE for number in range(20)}
    past.move(forest.plant(large), 0.0)
    assert [order for order, _ in past.roots] == [3]
    assert (past.latest_order(b"a", TWO), past.bytes) == (None, 0)
    past.move(forest.plant(large | {b"1": TWO}), 0.0)
    assert (past.latest_order(b"1", ONE), past.latest_order(b"1", TWO)) == (3, 4)
    assert not past.is_complete
