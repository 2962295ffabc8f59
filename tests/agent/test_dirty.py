"""When a changed path is due, what is asked for, and that it all stays bounded. Times are the tests' own."""

from __future__ import annotations

import pytest

from closeranks_agent.disk.attributed import hand_finder
from closeranks_agent.watch import dirty as module
from closeranks_agent.watch.dirty import (
    AGE_MAX_S,
    ALONG_COST_S,
    BATCH_MAX,
    COST_SHARE,
    OPEN_QUIET_S,
    QUICK_AGAIN_S,
    QUICK_S,
    QUIET_S,
    Dirty,
)
from closeranks_proto.messages import Hand

ANNA = Hand(7, "/usr/bin/anna", "anna", 1, 1, "", (), 0, 0)
BERT = Hand(8, "/usr/bin/bert", "bert", 1, 1, "", (), 0, 0)


def test_nothing_is_due_where_nothing_happened() -> None:
    dirty = Dirty()
    assert dirty.due() is None
    assert dirty.take(100.0) is None


def test_a_path_is_due_when_it_was_quiet() -> None:
    dirty = Dirty()
    dirty.note(b"d\0f", 10.0, ANNA)
    dirty.note(b"d\0f", 10.02, None)
    assert dirty.due() == pytest.approx(10.02 + QUICK_S)
    assert dirty.take(10.02 + QUICK_S / 2) is None
    batch = dirty.take(10.02 + QUICK_S)
    assert batch is not None
    assert batch.names == {b"d": frozenset([b"f"])}
    assert batch.hands == {b"d\0f": ANNA}
    assert batch.seen_mono == 10.0
    assert (len(dirty), dirty.due()) == (0, None)


def test_the_last_hand_counts() -> None:
    dirty = Dirty()
    dirty.note(b"f", 10.0, ANNA)
    dirty.note(b"f", 10.01, BERT)
    batch = dirty.take(11.0)
    assert batch is not None
    assert batch.hands == {b"f": BERT}


def test_an_open_file_waits_longer_until_it_is_closed() -> None:
    dirty = Dirty()
    dirty.note(b"f", 10.0, None, open=True)
    assert dirty.due() == pytest.approx(10.0 + OPEN_QUIET_S)
    dirty.note(b"f", 10.01, None, open=None)
    assert dirty.due() == pytest.approx(10.01 + OPEN_QUIET_S)
    dirty.note(b"f", 10.02, None, open=False)
    assert dirty.due() == pytest.approx(10.02 + QUICK_S)


def test_a_lone_file_takes_the_names_with_it_that_it_had_before() -> None:
    dirty = Dirty()
    dirty.note(b"d\0.tmp", 10.0, None, open=True)
    dirty.note(b"d\0.tmp", 10.001, None, open=False, gone=True)
    dirty.note(b"d\0f", 10.001, ANNA, open=False)
    assert dirty.due() == pytest.approx(10.001 + QUICK_S)
    batch = dirty.take(10.001 + QUICK_S)
    assert batch is not None
    assert batch.names == {b"d": frozenset([b"f", b".tmp"])}


@pytest.mark.parametrize("second", [b"g", b"d\0g"])
def test_two_files_at_once_are_no_lone_change(second: bytes) -> None:
    dirty = Dirty()
    dirty.note(b"f", 10.0, None, open=False)
    dirty.note(second, 10.0 + QUICK_S / 2, None, open=False)
    assert dirty.due() == pytest.approx(10.0 + QUIET_S)
    assert dirty.take(10.0 + QUIET_S - 0.001) is None


def test_the_first_file_of_a_burst_does_not_run_ahead_of_the_rest() -> None:
    """At 256 files a second and more, a burst is watched before it spreads: see the coordinator's guards."""
    dirty, now, first = Dirty(), 10.0, None
    while first is None:
        dirty.note(b"%f" % now, now, None, open=False)
        for step in range(4):
            first = first or dirty.take(now + step / 1024)
        now += 1 / 256
    assert now - 10.0 >= QUIET_S


def test_a_new_directory_and_what_lies_in_it_and_a_deletion_wait_as_usual() -> None:
    dirty = Dirty()
    dirty.note(b"d", 10.0, None, tree=True)
    assert dirty.due() == pytest.approx(10.0 + QUIET_S)
    dirty.note(b"d\0f", 10.0, None, open=False)
    assert dirty.due() == pytest.approx(10.0 + QUIET_S)
    dirty = Dirty()
    dirty.note(b"f", 10.0, None, open=False, gone=True)
    assert dirty.due() == pytest.approx(10.0 + QUIET_S)


def test_a_file_beside_one_that_is_still_written_waits_as_usual() -> None:
    dirty = Dirty()
    dirty.note(b"open", 10.0, None, open=True)
    dirty.note(b"f", 10.0, None, open=False)
    assert dirty.due() == pytest.approx(10.0 + QUIET_S)


def test_a_path_that_changes_again_and_again_is_not_looked_at_quickly_each_time() -> None:
    dirty, looks, now = Dirty(), 0, 10.0
    while now < 11.0:
        dirty.note(b"log", now, None, open=False)
        for at in (now + QUICK_S, now + 2 * QUICK_S):
            looks += dirty.take(at) is not None
        now += QUICK_AGAIN_S / 5
    assert looks == 1
    dirty.note(b"log", now + 2 * QUICK_AGAIN_S, None, open=False)
    assert dirty.take(now + 3 * QUICK_AGAIN_S) is not None
    dirty.note(b"log", now + 4.5 * QUICK_AGAIN_S, None, open=False)
    assert dirty.due() == pytest.approx(now + 4.5 * QUICK_AGAIN_S + QUICK_S)


def test_what_keeps_changing_is_due_at_a_bounded_age() -> None:
    dirty, now = Dirty(), 10.0
    while dirty.take(now) is None:
        dirty.note(b"f", now, None, open=True)
        now += 0.01
    assert now == pytest.approx(10.0 + AGE_MAX_S, abs=0.05)


def test_what_takes_long_to_read_rests_as_long_as_that_costs() -> None:
    dirty = Dirty()
    dirty.note(b"huge", 10.0, None)
    assert dirty.take(11.0) is not None
    dirty.cost({b"huge": 0.5}, (), 11.0)
    dirty.note(b"huge", 11.1, None)
    assert dirty.take(11.0 + 0.4 * COST_SHARE) is None
    assert dirty.due() == pytest.approx(11.0 + 0.5 * COST_SHARE)
    assert dirty.take(11.0 + 0.5 * COST_SHARE) is not None


def test_a_longer_file_that_comes_again_and_again_comes_once_in_a_while() -> None:
    dirty = Dirty()
    dirty.note(b"hot", 10.0, None)
    assert dirty.take(10.1) is not None
    dirty.cost({b"hot": 0.001}, {b"hot"}, 10.1)
    dirty.note(b"hot", 10.2, None)
    assert dirty.take(10.1 + 0.9 * AGE_MAX_S) is None
    assert dirty.take(10.1 + AGE_MAX_S) is not None


SOON_S = ALONG_COST_S / 2


def hot_files(*files: tuple[bytes, float, float]) -> Dirty:
    """Each was read at a moment, which took so many seconds, rests from then on, and is being written on."""
    dirty = Dirty()
    for name, read_at, took_s in files:
        dirty.cost({name: took_s}, {name}, read_at)
        dirty.note(name, read_at + 0.01, None)
    return dirty


def test_files_that_are_written_on_and_on_come_together_from_their_second_time_on() -> None:
    dirty = hot_files((b"base", 10.0, SOON_S), (b"log", 10.4, SOON_S))
    batch = dirty.take(11.0)
    assert batch is not None
    assert batch.names == {b"": frozenset([b"base", b"log"])}
    dirty.cost({}, {b"base", b"log"}, 11.0)
    for name in (b"base", b"log"):
        dirty.note(name, 11.1, None)
    assert dirty.take(11.0 + 0.9 * AGE_MAX_S) is None
    assert (batch := dirty.take(11.0 + AGE_MAX_S)) is not None
    assert batch.size == 2


@pytest.mark.parametrize(
    ("name", "read_at", "took_s"),
    [(b"later", 10.6, SOON_S), (b"huge", 10.0, 0.5), (b"large", 10.2, 0.05)],
    ids=["has hardly rested", "takes long to read", "takes a while to read"],
)
def test_no_file_comes_along_long_before_its_time(name: bytes, read_at: float, took_s: float) -> None:
    dirty = hot_files((b"base", 10.0, SOON_S), (name, read_at, took_s))
    assert (batch := dirty.take(11.0)) is not None
    assert batch.names == {b"": frozenset([b"base"])}
    assert dirty.due() == pytest.approx(read_at + max(AGE_MAX_S, took_s * COST_SHARE))


def test_a_file_that_rests_less_draws_no_other_along() -> None:
    """It would come ten times a second, and those that are to come once in a while twice."""
    dirty = hot_files((b"base", 10.0, SOON_S))
    dirty.cost({b"short": 0.1 / COST_SHARE}, (), 10.6)
    dirty.note(b"short", 10.61, None)
    assert (batch := dirty.take(10.7)) is not None
    assert batch.names == {b"": frozenset([b"short"])}
    assert dirty.due() == pytest.approx(10.0 + AGE_MAX_S)


def test_a_file_that_came_along_once_and_rests_less_by_now_has_all_of_its_rest() -> None:
    dirty = hot_files((b"base", 10.0, SOON_S), (b"odd", 10.3, SOON_S), (b"other", 10.6, SOON_S))
    assert (batch := dirty.take(11.0)) is not None
    assert batch.names == {b"": frozenset([b"base", b"odd"])}
    dirty.cost({b"odd": 0.9 / COST_SHARE}, (), 11.0)
    dirty.note(b"odd", 11.01, None)
    assert (batch := dirty.take(11.6)) is not None
    assert batch.names == {b"": frozenset([b"other"])}
    assert dirty.due() == pytest.approx(11.9)


def test_what_comes_again_does_not_come_along_though_it_rested_once() -> None:
    dirty = hot_files((b"odd", 9.4, SOON_S), (b"base", 10.2, SOON_S))
    assert dirty.take(10.5) is not None  # odd, whose rest is over
    dirty.again([b"odd"], {}, 11.19)
    assert (batch := dirty.take(11.2)) is not None
    assert batch.names == {b"": frozenset([b"base"])}


def test_a_proof_takes_what_is_known_since_a_moment_due_or_not() -> None:
    dirty = Dirty()
    dirty.note(b"old", 10.0, None, open=True)
    dirty.note(b"young", 10.02, None)
    batch = dirty.take(10.02, since=10.01)
    assert batch is not None
    assert batch.names == {b"": frozenset([b"old"])}
    assert dirty.take(10.02, since=10.01) is None
    assert len(dirty) == 1


def test_what_could_not_be_finished_comes_again_later_each_time() -> None:
    dirty, now, waits = Dirty(), 10.0, []
    dirty.note(b"f", now, None)
    for _ in range(4):
        due = dirty.due()
        assert due is not None
        waits.append(due - now)
        now = due
        batch = dirty.take(now)
        assert batch is not None
        dirty.finished(batch, [b"f"])
        dirty.again([b"f"], {}, now)
    assert waits[1] < waits[2] < waits[3]


def test_a_new_event_makes_a_put_off_path_due_as_usual() -> None:
    dirty = Dirty()
    for _ in range(5):
        dirty.again([b"f"], {}, 10.0)
        dirty.take(100.0)
    dirty.again([b"f"], {}, 200.0)
    dirty.note(b"f", 200.01, ANNA)
    assert dirty.due() == pytest.approx(200.01 + QUICK_S)
    assert dirty.take(200.01 + QUICK_S) is not None
    assert dirty.take(300.0) is None


def test_a_tree_is_asked_for_as_a_whole() -> None:
    dirty = Dirty()
    dirty.note(b"d", 10.0, ANNA, tree=True)
    dirty.note(b"d", 10.0, None)
    dirty.note(b"d\0f", 10.0, None)
    batch = dirty.take(11.0)
    assert batch is not None
    assert batch.names == {
        b"d": None,
    }


def test_a_batch_is_bounded_and_the_rest_comes_next() -> None:
    dirty = Dirty()
    for number in range(BATCH_MAX + 10):
        dirty.note(b"%d" % number, 10.0, None)
    first, second = dirty.take(11.0), dirty.take(11.0)
    assert first is not None
    assert second is not None
    assert (first.size, second.size) == (BATCH_MAX, 10)


def test_too_many_paths_fold_into_the_directories_that_have_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATHS_MAX", 100)
    monkeypatch.setattr(module, "FOLD_TO", 50)
    dirty = Dirty()
    for number in range(95):
        dirty.note(b"full\0%d" % number, 10.0, ANNA)
    for number in range(20):
        dirty.note(b"d%d\0f" % number, 10.0, BERT)
    assert not dirty.everything
    batch = dirty.take(11.0)
    assert batch is not None
    assert batch.names[b"full"] is None
    assert batch.hands[b"full"] == ANNA
    assert len(batch.names) == 21


def test_too_many_paths_everywhere_are_a_matter_for_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATHS_MAX", 100)
    monkeypatch.setattr(module, "FOLD_TO", 50)
    dirty = Dirty()
    for number in range(101):
        dirty.note(b"d%d\0f" % number, 10.0, None)
    assert dirty.everything
    assert len(dirty) == 0


def test_paths_that_come_again_have_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a whole directory can come back with more names than are kept apart."""
    monkeypatch.setattr(module, "PATHS_MAX", 10)
    monkeypatch.setattr(module, "FOLD_TO", 5)
    dirty = Dirty()
    dirty.note(b"d", 1.0, None, tree=True)
    batch = dirty.take(2.0)
    assert batch is not None
    names = [b"d\0again-%d" % number for number in range(35)]
    dirty.again(names, {}, 2.0)
    assert len(dirty) <= 10
    dirty.finished(batch, [], names)
    assert dirty.owes(1.0), "none of them is committed"
    batch = dirty.take(100.0)
    assert batch is not None
    assert batch.names[b"d"] is None, "the whole directory is looked at"
    assert not dirty.owes(100.0)
    assert not len(dirty)


def test_too_many_that_come_again_everywhere_are_a_matter_for_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATHS_MAX", 10)
    monkeypatch.setattr(module, "FOLD_TO", 5)
    dirty = Dirty()
    dirty.note(b"d", 1.0, None, tree=True)
    batch = dirty.take(2.0)
    assert batch is not None
    names = [b"d%d\0f" % number for number in range(11)]
    dirty.again(names, {}, 2.0)
    dirty.finished(batch, [], names)
    assert dirty.everything
    assert (len(dirty), dirty.owes(100.0)) == (0, False)


# --- what is owed ---------------------------------------------------------------------------------


def unfinished(dirty: Dirty, key: bytes, now: float, hand: Hand | None = None) -> None:
    """A look took it, and could not commit it."""
    batch = dirty.take(now, since=now)
    assert batch is not None
    dirty.again([key], {} if hand is None else {key: hand}, now)
    dirty.finished(batch, [key], [key])


def test_what_came_back_uncommitted_is_owed_since_it_was_first_heard_of() -> None:
    """A proof for a moment before would vouch for a file that nobody has told of."""
    dirty = Dirty()
    dirty.note(b"busy", 10.0, None)
    assert not dirty.owes(20.0), "what waits for its look is not owed but known"
    unfinished(dirty, b"busy", 10.5)
    unfinished(dirty, b"busy", 11.5)
    assert (dirty.owes(9.9), dirty.owes(10.0)) == (False, True)
    batch = dirty.take(20.0)
    assert batch is not None
    assert batch.owed == {b"busy": 10.0}
    dirty.finished(batch, [])
    assert not dirty.owes(20.0)


def test_a_proof_takes_what_is_owed_once_its_time_has_come() -> None:
    dirty = Dirty()
    dirty.note(b"busy", 10.0, None)
    unfinished(dirty, b"busy", 10.5)
    assert dirty.take(10.5, since=10.2) is None, "it was looked at just now"
    batch = dirty.take(12.0, since=10.2)
    assert batch is not None
    assert batch.names == {b"": frozenset([b"busy"])}


def test_a_proof_takes_no_more_than_a_batch_of_what_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    dirty = Dirty()
    for name in (b"one", b"other"):
        dirty.note(name, 10.0, None)
        unfinished(dirty, name, 10.5)
    monkeypatch.setattr(module, "BATCH_MAX", 1)
    batch = dirty.take(20.0, since=10.2)
    assert batch is not None
    assert batch.size == 1


def test_after_a_scan_nothing_is_owed_or_asked_for() -> None:
    dirty = Dirty()
    dirty.note(b"busy", 10.0, None)
    unfinished(dirty, b"busy", 10.5)
    dirty.note(b"other", 11.0, None, open=True)
    dirty.everything = True
    dirty.clear()
    assert (dirty.owes(20.0), dirty.everything, dirty.due(), len(dirty)) == (False, False, None, 0)
    assert dirty.take(100.0, since=100.0) is None


def test_a_folded_directory_owes_what_was_owed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATHS_MAX", 10)
    monkeypatch.setattr(module, "FOLD_TO", 5)
    dirty = Dirty()
    dirty.note(b"d\0busy", 10.0, None)
    unfinished(dirty, b"d\0busy", 10.5)
    for number in range(10):
        dirty.note(b"d\0%d" % number, 12.0, None)
    assert not dirty.everything
    assert dirty.owes(10.0)


def test_names_of_the_root_itself_do_not_fold_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the root as a whole is a scan, and called one."""
    monkeypatch.setattr(module, "PATHS_MAX", 10)
    monkeypatch.setattr(module, "FOLD_TO", 5)
    dirty = Dirty()
    for number in range(11):
        dirty.note(b"%d" % number, 10.0, None)
    assert dirty.everything


# --- whose hand -----------------------------------------------------------------------------------


def test_a_hand_at_a_directory_that_came_as_a_whole_is_that_of_what_lies_in_it() -> None:
    dirty = Dirty()
    dirty.note(b"d", 10.0, ANNA, tree=True)
    dirty.note(b"d\0f", 10.0, None)
    dirty.note(b"d\0g", 10.0, BERT)
    assert [dirty.hand(key) for key in (b"d\0f", b"d\0g", b"d\0unheard", b"e")] == [ANNA, BERT, ANNA, None]


def test_what_is_found_with_a_new_directory_is_its_own_writers_also_where_it_waits_for_its_own_look() -> None:
    """A new directory is looked at as a whole: what another process had begun to write in it was the maker's."""
    dirty = Dirty()
    dirty.note(b"d", 10.0, ANNA, tree=True)
    dirty.note(b"d\0open", 10.0, BERT, open=True)
    dirty.note(b"e", 10.0, None)
    batch = dirty.take(10.03)
    assert batch is not None
    assert batch.names == {b"d": None, b"": frozenset({b"e"})}
    hand_of = hand_finder(batch.hands)
    dirty.note(b"d\0later", 10.04, BERT, open=True)
    assert [hand_of(key) for key in (b"d", b"d\0unheard", b"d\0open", b"d\0later", b"e")] == [
        ANNA, ANNA, BERT, BERT, None,
    ]  # fmt: skip


def test_a_hand_that_changed_a_directorys_mode_is_not_that_of_what_lies_in_it() -> None:
    dirty = Dirty()
    dirty.note(b"d", 10.0, ANNA)
    assert (dirty.hand(b"d"), dirty.hand(b"d\0f")) == (ANNA, None)


def test_what_is_being_written_is_counted_with_whose_hand_it_is() -> None:
    dirty = Dirty()
    for _ in range(3):
        dirty.note(b"growing", 10.0, ANNA, open=True)
    dirty.note(b"closed", 10.0, BERT)
    assert (dirty.growing(5), dirty.heard(5)) == ([(b"growing", ANNA)], {b"growing": 3})


def test_a_rest_that_is_over_is_forgotten() -> None:
    dirty = Dirty()
    dirty.cost({b"huge": 0.5}, (), 10.0)
    dirty.cost({}, (), 10.0 + 0.5 * COST_SHARE)
    dirty.note(b"huge", 10.0 + 0.4 * COST_SHARE, None)
    assert dirty.due() == pytest.approx(10.0 + 0.4 * COST_SHARE + QUICK_S)


@pytest.mark.parametrize("bound", ["rests", "repetitions"])
def test_no_more_is_remembered_than_is_of_use(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 3)
    dirty = Dirty()
    names = [b"%d" % number for number in range(10)]
    if bound == "rests":
        dirty.cost(dict.fromkeys(names, 1.0), (), 10.0)
        assert len(dirty._resting) == 3
    else:
        dirty.again(names, {}, 10.0)
        assert len(dirty._repeated) == 3
        assert len(dirty) == 10, "they come again all the same"


def test_of_what_was_looked_at_lately_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 2)
    dirty = Dirty()
    for number in range(3):
        dirty.note(b"%d" % number, 10.0, None, open=False)
        assert dirty.take(10.0 + QUICK_S) is not None
    dirty.note(b"0", 10.01, None, open=False)
    assert dirty.due() == pytest.approx(10.01 + QUICK_S), "the oldest is a lone change again"


# --- which queue ----------------------------------------------------------------------------------


def test_the_files_of_a_burst_are_taken_when_they_were_quiet_and_not_only_at_their_age() -> None:
    dirty = Dirty()
    for name in (b"one", b"two", b"three"):
        dirty.note(name, 10.0, None, open=False)
    batch = dirty.take(10.0 + QUIET_S)
    assert batch is not None
    assert batch.names == {b"": frozenset([b"one", b"two", b"three"])}


def test_open_files_are_taken_beside_closed_ones_each_when_it_was_quiet() -> None:
    dirty = Dirty()
    dirty.note(b"open", 10.0, None, open=True)
    dirty.note(b"closed", 10.0 + OPEN_QUIET_S - QUIET_S, None, open=False)
    batch = dirty.take(10.0 + OPEN_QUIET_S)
    assert batch is not None
    assert batch.names == {b"": frozenset([b"open", b"closed"])}


def test_all_that_keeps_changing_is_due_and_taken_at_its_own_age() -> None:
    dirty = Dirty()
    for number in range(1, 60):
        for name, since in ((b"one", 0.0), (b"other", 0.01)):
            dirty.note(name, 10.0 + since + number * 0.02, None, open=True)
    first = 10.0 + 0.02
    assert dirty.due() == pytest.approx(first + AGE_MAX_S)
    batch = dirty.take(first + AGE_MAX_S + 0.01)
    assert batch is not None
    assert batch.names == {b"": frozenset([b"one", b"other"])}


def test_a_path_that_has_a_rest_is_not_due_by_its_age() -> None:
    dirty = Dirty()
    dirty.note(b"huge", 10.0, None, open=True)
    dirty.cost({b"huge": 1.0}, (), 10.1)
    dirty.note(b"huge", 10.2, None, open=True)
    assert dirty.due() == pytest.approx(10.1 + COST_SHARE)
    assert dirty.take(10.0 + 2 * AGE_MAX_S) is None
