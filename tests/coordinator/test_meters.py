"""What a meter counts of a node's changes: above all, what it takes for lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from braked import FILES, Writer, some, without
from closeranks_coordinator.core import meters
from closeranks_coordinator.core.meters import Meter
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.truth import Values
from closeranks_coordinator.core.windows import Usual
from closeranks_proto.parts import VolumeActivity
from fakeworld import file_of


@pytest.mark.parametrize(
    "changed",
    [
        lambda number: file_of(number, mode=0o600),  # as is done to a read-only tree before it is removed
        lambda _number: file_of("zeros"),  # shred
        lambda _number: file_of("", size=0),  # truncated
        lambda number: file_of(f"new {number}"),
    ],
    ids=["mode", "zeros", "truncated", "new"],
)
def test_what_is_changed_and_then_deleted_is_lost_all_the_same(changed: Callable[[int], bytes]) -> None:
    writer = Writer()
    keys = some(writer.truth, 45)
    writer.commit(writer.truth | {key: changed(number) for number, key in enumerate(keys)})
    assert (writer.lost, writer.altered) == (0, 45)
    writer.commit(without(writer.truth, keys))
    assert writer.lost == 45
    assert writer.altered == 0, "what is gone is not changed: it is counted once"


def test_one_file_that_is_committed_again_and_again_is_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold said that 83 files had been written."""
    writer = Writer()
    before = writer.meter.totals()[0]
    for version in range(83):
        writer.commit(writer.truth | {b"log": file_of(f"{version}")}, let_through=version % 7 == 0)
    assert writer.meter.totals()[0] - before == 1
    monkeypatch.setattr(meters, "COUNTED_MAX", 10)
    writer.commit(writer.truth | {b"new-%02d" % number: file_of(f"{number}") for number in range(30)})
    assert writer.meter.totals()[0] - before == 31
    assert len(writer.meter.counted) <= FILES + 1
    writer.now += meters.COUNTED_S
    writer.commit(writer.truth | {b"log": file_of("of another hour")})
    assert writer.meter.totals()[0] - before == 32


def test_what_waits_when_it_was_decided_about_is_counted_once_more() -> None:
    """After an allowance that ended nothing of it counted as a file: 2,000 new ones were no flood any more."""
    writer = Writer()
    flood = writer.truth | {b"new-%04d" % number: file_of(f"{number}") for number in range(2000)}
    writer.commit(flood, let_through=False)
    assert writer.meter.written(writer.now)[0] == 2000
    writer.meter.forget()
    assert writer.meter.written(writer.now)[0] == 0
    writer.commit(flood, let_through=False)
    assert writer.meter.written(writer.now)[0] == 2000


def test_what_was_made_a_moment_ago_may_be_rewritten_and_removed() -> None:
    """A build: new files, written in pieces, and removed in the end."""
    writer = Writer()
    made = {b"made-%03d" % number: file_of(f"made {number}") for number in range(80)}
    old = writer.truth
    writer.commit(old | made)
    for version in range(5):
        made = {key: file_of(f"{key!r} {version}") for key in made}
        writer.commit(old | made)
        assert writer.altered == 0, "nobody else has ever had them otherwise"
    writer.commit(old)
    assert writer.lost == 0


@pytest.mark.parametrize("pairs", [(0, 1), (1, 0)])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_file_that_is_moved_over_another_is_not_lost_whichever_name_comes_first(
    pairs: tuple[int, int], at_once: bool
) -> None:
    writer = Writer()
    keys = sorted(writer.truth)
    moved = dict(writer.truth)
    for at in range(0, 60, 2):
        moved[keys[at + pairs[1]]] = moved.pop(keys[at + pairs[0]])
    if not at_once:  # first seen a moment before it may go through
        writer.commit(moved, let_through=False)
    writer.commit(moved)
    assert writer.lost == 0


def test_a_file_written_beside_and_renamed_over_another_is_not_lost() -> None:
    writer = Writer()
    for version in range(3):
        for key in some(writer.truth, 50):
            beside = key + b".tmp"
            new = file_of(f"{key!r} {version}")
            writer.commit(writer.truth | {beside: new})
            writer.commit(without(writer.truth, [beside]) | {key: new})
    assert writer.lost == 0


def test_changes_that_are_taken_back_leave_nothing_counted() -> None:
    writer = Writer()
    old = dict(writer.truth)
    keys = sorted(old)
    changed = without(old, keys[:10]) | {key: file_of(f"other {key!r}") for key in keys[10:40]}
    changed |= {keys[50]: old[keys[0]], b"made": file_of("made"), keys[51]: file_of(51, mode=0o600)}
    writer.commit(changed, let_through=False)
    assert (writer.lost, writer.altered) == (9, 32)
    writer.commit(old, let_through=False)
    assert (writer.lost, writer.altered) == (0, 0)
    writer.commit(without(old, keys[:30]), let_through=False)
    assert writer.lost == 30, "and nothing is excused by it"


def test_a_change_that_is_let_through_again_before_it_is_the_truth_counts_once() -> None:
    writer = Writer()
    own: dict[bytes, Values] = {b"new": (file_of("new"), None)}
    for _ in range(3):
        writer.meter.let_through(own, writer.now)
    assert writer.meter.merged.sums(writer.now) == (1,)
    writer.meter.let_through({b"new": (file_of("newer"), None)}, writer.now)
    assert writer.meter.merged.sums(writer.now) == (2,)


def test_a_file_that_is_written_on_and_on_is_one_path_of_a_spree() -> None:
    """Also where a version takes the place of one that still waits, after one that was let through."""
    writer = Writer()
    first, second, *_ = sorted(writer.truth)
    writer.commit(writer.truth | {first: file_of("1")})
    altering = writer.meter.altering
    assert (altering.count, altering.waiting) == (1, 0)
    for version in range(2, 5):
        writer.commit(writer.truth | {first: file_of(str(version))}, let_through=False)
        assert (altering.count, altering.waiting, writer.altered) == (1, 0, 1)
    both = writer.truth | {first: file_of("5"), second: file_of("a")}
    writer.commit(both, let_through=False)
    assert (altering.count, altering.waiting, writer.altered) == (2, 1, 2)
    since = writer.now
    for version in range(6, 9):
        both = both | {first: file_of(str(version)), second: file_of(f"a{version}")}
        writer.commit(both, let_through=False)
        assert (altering.count, altering.waiting, writer.altered) == (2, 1, 2)
        assert (altering.since, altering.at) == (since, since), "it rests: nothing else has changed since"
    writer.commit(writer.truth, let_through=False)
    assert (altering.count, altering.waiting, writer.altered) == (1, 0, 1), (
        "what was let through was a change"
    )


# --- the pace of what agents report ---------------------------------------------------------------


class Reported:
    """A meter that hears of so many bytes in the last `window_s`, `after_s` after the report before."""

    def __init__(self) -> None:
        self.meter, self.now = Meter.new(Usual(0), GuardRules()), 1000.0

    def hear(self, size: int, after_s: float = 1.0, window_s: float | None = None) -> Meter:
        self.now += after_s
        window_ms = int(1000 * (after_s if window_s is None else window_s))
        self.meter.see(VolumeActivity("photos", 1, size, 1), window_ms, self.now)
        return self.meter

    @property
    def pace(self) -> float:
        return self.meter.pace(self.now)[1]

    @property
    def rush(self) -> float:
        return self.meter.rush_bytes_s(self.now)


def test_a_pace_is_that_of_a_second_however_often_it_is_reported() -> None:
    often, once = Reported(), Reported()
    for _ in range(40):
        often.hear(50, 0.05)
    for _ in range(2):
        once.hear(1000)
    assert often.pace == pytest.approx(1000, rel=0.01)
    assert once.pace == 1000
    often.hear(900, 0.05)
    assert often.pace == pytest.approx(1850, rel=0.03), "a step counts with its second, not as twenty of them"
    once.hear(0, 1.0)
    assert once.pace == 0


def test_a_rush_is_what_two_paces_agree_on() -> None:
    heard = Reported()
    heard.hear(1000, 60.0)
    heard.hear(1000, 0.06)
    heard.hear(1000, 0.06)
    assert heard.rush < 100, "the first may have been written in all of that minute"
    heard.hear(500, 0.06)
    heard.hear(700, 0.06)
    assert heard.rush == pytest.approx(10_000)
    heard.hear(50_000, 0.06)
    heard.hear(700, 0.06)
    assert heard.rush == pytest.approx(10_000), "a large file that is moved in is no pace"
    heard.now += 1.0
    assert heard.rush == 0


def test_a_report_without_news_between_two_looks_is_no_end_of_a_rush() -> None:
    heard = Reported()
    for size in (100, 1000, 1000, 1000, 0):
        heard.hear(size, 0.06)
    assert heard.rush > 8_000


def test_reports_that_come_together_are_no_rush() -> None:
    """A line that stood for a second."""
    heard = Reported()
    heard.hear(500, 1.0)
    for after_s in (1.0, 0.001, 0.001, 0.001):
        heard.hear(500, after_s, 0.05)
    assert heard.rush < 1_000
