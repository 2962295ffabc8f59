"""How much is told: everything within the budget, samples above it, and a scan at its end."""

from __future__ import annotations

from closeranks_agent.watch import budget
from closeranks_agent.watch.budget import Budget, Heard
from closeranks_agent.watch.events import What

CHEAP_S = 0.1
TURN_S = 0.01
NEW = What.MODIFIED | What.ATTRIBUTES | What.CLOSED


class Story:
    """A budget and its clock: `files` a second are made or rewritten, each of them `news` kinds."""

    def __init__(self) -> None:
        self.budget, self.now = Budget(), 100.0
        self.ends: list[float] = []
        self.scans: list[float] = []
        self.told_fully_s = 0.0

    def play(
        self, seconds: float, *, made: float = 0.0, rewritten: float = 0.0, hot_writes_s: float = 0.0,
        scan_s: float | None = CHEAP_S,
    ) -> None:  # fmt: skip
        """What is left out is not heard of."""
        owed = {"made": 0.0, "rewritten": 0.0}
        until = self.now + seconds
        while self.now < until:
            left_out = self.budget.left_out
            owed["made"] += made * TURN_S
            owed["rewritten"] += rewritten * TURN_S
            new, again = int(owed["made"]), int(owed["rewritten"])
            owed["made"] -= new
            owed["rewritten"] -= again
            kinds = sum(1 for kind in (What.MODIFIED, What.ATTRIBUTES, What.CLOSED) if not left_out & kind)
            closed = 0 if left_out & What.CLOSED else again
            heard = Heard(kinds * (new + again), new, closed)
            self.told_fully_s += 0.0 if left_out else TURN_S
            if self.budget.step(self.now, heard, hot_writes_s, scan_s):
                self.ends.append(self.now)
            if self.budget.wants_scan(self.now, scan_s or 0.0):
                self.scans.append(self.now)
            self.now += TURN_S


def test_two_thousand_new_files_a_second_are_told_one_by_one_for_ever() -> None:
    story = Story()
    story.play(120, made=2000)
    assert not story.budget.active
    assert abs(story.told_fully_s - 120) < 2 * TURN_S


def test_a_short_lump_is_told_whatever_its_rate() -> None:
    story = Story()
    for _ in range(20):
        story.play(0.05, made=30_000)
        story.play(2)
    assert (story.ends, story.budget.active) == ([], False)


def test_a_burst_of_new_files_is_told_by_their_making_alone() -> None:
    story = Story()
    story.play(0.2, made=20_000)
    assert story.budget.active
    assert story.budget.burst
    assert story.budget.left_out == NEW


def test_where_files_are_rewritten_in_place_their_closing_is_told() -> None:
    story = Story()
    story.play(0.3, rewritten=20_000)
    assert story.budget.left_out == What.MODIFIED | What.ATTRIBUTES
    story.play(5, rewritten=20_000)
    assert story.budget.active
    assert not story.budget.left_out & What.CLOSED


def test_the_kind_of_a_burst_is_found_anew_by_each_sample() -> None:
    story = Story()
    story.play(2, made=20_000)
    assert story.budget.left_out & What.CLOSED
    story.play(3, rewritten=20_000)
    assert not story.budget.left_out & What.CLOSED


def test_during_a_burst_everything_is_told_for_a_small_share_of_the_time() -> None:
    story = Story()
    story.play(20.3, made=20_000)
    whole = story.told_fully_s
    assert 0.2 < whole < 0.05 * 20, whole
    assert story.ends == []


def test_a_calm_sample_ends_it_once() -> None:
    story = Story()
    story.play(1, made=20_000)
    ended = story.now
    story.play(60, made=100)
    assert len(story.ends) == 1
    assert story.ends[0] - ended < budget.PERIOD_S + 3 * budget.WINDOW_S
    assert not story.budget.left_out


def test_one_that_begins_again_at_once_needs_more_calm_samples() -> None:
    story = Story()
    for _ in range(8):
        story.play(1, made=20_000)
        began = len(story.ends)
        while len(story.ends) == began:
            story.play(TURN_S)
    gaps = [later - before for before, later in zip(story.ends, story.ends[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > budget.CALM_MAX * budget.PERIOD_S
    story.play(budget.AGAIN_S + 1)
    story.play(1, made=20_000)
    ended = story.now
    story.play(3)
    assert story.ends[-1] - ended < 2 * budget.PERIOD_S, "long ago is forgotten"


def test_scans_come_while_it_lasts_and_take_a_twentieth_of_the_time() -> None:
    story = Story()
    story.play(60, made=20_000, scan_s=1.0)
    first, *others = story.scans
    assert first - 100 < budget.SCAN_FIRST_S + 0.5
    gaps = [later - before for before, later in zip(story.scans, others, strict=False)]
    assert gaps
    assert all(20 <= gap < 21 for gap in gaps)


def test_nothing_is_left_out_where_a_scan_takes_long_or_none_has_ended() -> None:
    for scan_s in (None, budget.SCAN_MAX_S + 0.1):
        story = Story()
        story.play(3, made=50_000, hot_writes_s=10 * budget.HOT_WRITES_S, scan_s=scan_s)
        assert not story.budget.active
        assert story.scans == []


def test_a_file_written_without_a_pause_leaves_out_writes_alone() -> None:
    story = Story()
    story.play(1, hot_writes_s=2 * budget.HOT_WRITES_S)
    assert story.budget.left_out == What.MODIFIED
    story.play(9, hot_writes_s=2 * budget.HOT_WRITES_S)
    assert story.budget.active
    story.play(2 * budget.PERIOD_S, hot_writes_s=0.5 * budget.HOT_WRITES_S)
    assert len(story.ends) == 1


def test_creations_moves_and_removals_are_never_left_out() -> None:
    told = What.CREATED | What.DELETED | What.MOVED_FROM | What.MOVED_TO | What.DIRECTORY | What.SELF
    for kinds in (NEW, budget.CONTENT, What.MODIFIED):
        assert not kinds & told
    story = Story()
    for shape in ({"made": 30_000.0}, {"rewritten": 30_000.0}, {"hot_writes_s": 1e6}):
        story.play(3, **shape)
        assert not story.budget.left_out & told


def test_it_says_when_it_wants_to_be_asked_again() -> None:
    story = Story()
    assert story.budget.due() == float("inf")
    story.play(0.2, made=20_000)
    assert story.now <= story.budget.due() <= story.now + budget.PERIOD_S
