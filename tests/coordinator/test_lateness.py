"""Since when a node lacks something of the truth: the age of the oldest step that it has not got."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from closeranks_coordinator.core import history, lateness
from closeranks_coordinator.core.history import TruthHistory
from closeranks_coordinator.core.judge import Analysis, Judge, Stand
from closeranks_coordinator.core.lateness import Lateness
from closeranks_coordinator.core.truth import Differ
from forest.store import Forest, small_value

ONE, TWO, THREE, FOUR = (small_value(number) for number in (2, 6, 10, 14))
Files = Mapping[bytes, bytes]


class Bench:
    """A truth that moves, and one node that follows it."""

    def __init__(self, truth: Files) -> None:
        self.forest = Forest()
        self.differ = Differ(self.forest.tree)
        self.judge = Judge(self.differ, 16)
        self.history = TruthHistory(self.differ, [], 0.0)
        self.late = Lateness()
        self.before: Analysis | None = None
        self.move(truth)
        self.held = self.truth

    def move(self, truth: Files) -> None:
        self.truth = self.forest.plant(truth)
        self.history.move(self.truth, 0.0)

    def look(self, files: Files, now: float) -> float | None:
        """Since when it lacks something, where it has these files now."""
        stand = Stand(self.forest.plant(files), self.truth, self.held, ())
        after, _ = self.judge.analyse(self.history, stand, self.before, replays=True)
        self.forest.objects.update(after.pages)
        since = self.late.follow(self.history, self.before, after, now)
        assert after.held is not None
        self.before, self.held = after, after.held
        return since


def test_who_has_all_of_the_truth_lacks_nothing() -> None:
    bench = Bench({b"a": ONE})
    assert bench.look({b"a": ONE}, 1.0) is None
    bench.move({b"a": TWO})
    assert bench.look({b"a": TWO}, 2.0) is None


def test_who_lags_when_it_is_first_looked_at_lags_since_then_until_that_has_come() -> None:
    bench = Bench({b"a": ONE, b"b": ONE})
    bench.move({b"a": TWO, b"b": TWO})
    assert bench.look({b"a": ONE, b"b": ONE}, 5.0) == 5.0
    assert bench.look({b"a": TWO, b"b": ONE}, 6.0) == 5.0
    bench.move({b"a": THREE, b"b": TWO})
    assert bench.look({b"a": TWO, b"b": ONE}, 7.0) == 5.0
    assert bench.look({b"a": TWO, b"b": TWO}, 8.0) == 7.0, (
        "what it lacked at first it has: the next step is left"
    )
    assert bench.look({b"a": THREE, b"b": TWO}, 9.0) is None


def test_under_a_steady_stream_the_oldest_step_that_it_lacks_counts() -> None:
    bench = Bench({b"a": ONE})
    bench.look({b"a": ONE}, 0.0)
    had = {b"a": ONE}
    for number in range(1, 10):
        truth = {**had, b"f%d" % number: ONE}
        bench.move(truth)
        assert bench.look(had, float(number)) == float(number), "it has got the step before by now"
        had = truth


def test_a_step_of_which_anything_is_lacking_is_lacking() -> None:
    bench = Bench({b"a": ONE, b"b": ONE})
    bench.look({b"a": ONE, b"b": ONE}, 0.0)
    bench.move({b"a": TWO, b"b": TWO})
    bench.look({b"a": ONE, b"b": ONE}, 1.0)
    bench.move({b"a": THREE, b"b": TWO})
    assert bench.look({b"a": TWO, b"b": ONE}, 2.0) == 1.0
    assert bench.look({b"a": TWO, b"b": TWO}, 3.0) == 2.0


def test_what_a_later_step_made_again_is_not_lacking_any_more_once_that_is_there() -> None:
    """It never had the step between, and need not."""
    bench = Bench({b"a": ONE})
    bench.look({b"a": ONE}, 0.0)
    bench.move({b"a": TWO})
    bench.look({b"a": ONE}, 1.0)
    bench.move({b"a": THREE})
    assert bench.look({b"a": ONE}, 2.0) == 1.0
    assert bench.look({b"a": THREE}, 3.0) is None


def test_steps_that_the_past_has_forgotten_still_count_by_what_is_lacking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that is far behind is as late as it was, though the fleet does not know any more what changed then."""
    monkeypatch.setattr(history, "HISTORY_MAX_ROOTS", 6)
    bench = Bench({b"a": ONE, b"z": ONE})
    bench.look({b"a": ONE, b"z": ONE}, 0.0)
    for number in range(1, 20):
        bench.move({b"a": small_value(4 * number + 2), b"z": TWO if number > 1 else ONE})
        assert bench.look({b"a": ONE, b"z": ONE}, float(number)) == 1.0
    assert bench.history.changed(2) is None, "forgotten"
    newest = small_value(4 * 19 + 2)
    assert bench.look({b"a": newest, b"z": ONE}, 20.0) == 1.0, "the step of z is older than all that is known"
    assert bench.look({b"a": newest, b"z": TWO}, 21.0) is None


def test_no_more_steps_are_counted_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lateness, "STEPS_MAX", 3)
    bench = Bench({b"a": ONE})
    bench.look({b"a": ONE}, 0.0)
    for number in range(1, 8):
        bench.move({b"a": small_value(4 * number + 2)})
        assert bench.look({b"a": ONE}, float(number)) == 1.0
    assert len(bench.late.steps) == 3
