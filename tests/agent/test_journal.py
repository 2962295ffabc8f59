from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from closeranks_agent.disk import brought
from closeranks_agent.disk import journal as module
from closeranks_agent.disk.attributed import Attributed
from closeranks_agent.disk.brought import announced_keys
from closeranks_agent.disk.index import Index
from closeranks_agent.disk.journal import Journal, cut
from closeranks_proto.limits import COMMIT_MAX_BYTES, COMMIT_MAX_EDITS, CREDIT_COMMITS
from closeranks_proto.messages import MADE_ANEW, PUT_BACK, Announce, Commit, Decayed, Edit, Hand

EDIT = Edit(b"a", b"v")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(tmp_path / "index.sqlite")
    yield found
    found.database.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def commit(journal: Journal, index: Index, base: bytes, root: bytes, seen: float = 1000.0) -> None:
    with index.database.transaction():
        journal.commit(base, root, [EDIT], "scan", seen)


def test_numbers_begin_at_one_and_go_on_after_reopening(index: Index) -> None:
    journal = Journal(index, "v")
    assert (journal.first_seq, journal.last_seq) == (1, 0)
    commit(journal, index, b"r0", b"r1")
    commit(journal, index, b"r1", b"r2")
    again = Journal(index, "v")
    assert (again.first_seq, again.last_seq, again.base_root()) == (1, 2, b"r0")


def test_numbers_go_on_when_everything_was_acknowledged(index: Index) -> None:
    journal = Journal(index, "v")
    commit(journal, index, b"r0", b"r1")
    with index.database.transaction():
        journal.acknowledge(1)
    assert journal.empty
    assert (Journal(index, "v").first_seq, Journal(index, "v").last_seq) == (2, 1)


def test_pending_gives_what_is_behind_a_number(index: Index) -> None:
    journal = Journal(index, "v")
    for number in range(5):
        commit(journal, index, b"r%d" % number, b"r%d" % (number + 1))
    found = journal.pending(2, 2)
    assert [record.seq for record in found] == [3, 4]
    first = found[0]
    assert isinstance(first, Commit)
    assert (first.volume, first.base_root, first.root, first.edits, first.cause) == (
        "v",
        b"r2",
        b"r3",
        (EDIT,),
        "scan",
    )


def test_ages_are_of_the_moment_of_asking(index: Index) -> None:
    clock = Clock()
    journal = Journal(index, "v", clock)
    commit(journal, index, b"r0", b"r1", seen=999.5)
    clock.now = 1002.0
    assert journal.pending(0, 9)[0].observed_age_ms == 2500


def test_after_a_reboot_ages_come_from_the_wall_clock(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(Journal(index, "v", Clock()), index, b"r0", b"r1", seen=1000.0)
    monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    later = time.time() + 7.0
    monkeypatch.setattr(time, "time", lambda: later)
    clock = Clock()
    clock.now = 3.0
    assert Journal(index, "v", clock).pending(0, 9)[0].observed_age_ms == pytest.approx(7000, abs=500)


def test_an_announcement_replaces_everything_before_it(index: Index) -> None:
    journal = Journal(index, "v")
    commit(journal, index, b"r0", b"r1")
    with index.database.transaction():
        journal.announce(b"r1", "scan", 1000.0)
    found = journal.pending(0, 9)
    assert [type(record) for record in found] == [Announce]
    assert (found[0].seq, found[0].root, journal.first_seq, journal.base_root()) == (2, b"r1", 2, None)


def test_an_announcement_is_numbered_above_what_somebody_else_has_seen(index: Index) -> None:
    journal = Journal(index, "v")
    with index.database.transaction():
        journal.announce(b"r1", "scan", 1000.0, after_seq=57)
    assert journal.last_seq == 58


def test_a_journal_that_is_too_long_becomes_an_announcement(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOURNAL_MAX_BYTES", 1000)
    clock = Clock()
    journal = Journal(index, "v", clock)
    edit = Edit(b"k" * 400, b"v")
    for number in range(3):
        with index.database.transaction():
            journal.commit(b"r%d" % number, b"r%d" % (number + 1), [edit], "scan", 1000.0 - number)
    (only,) = journal.pending(0, 9)
    assert isinstance(only, Announce)
    assert (only.seq, only.root, journal.bytes) == (4, b"r3", 0)
    assert only.observed_age_ms == 0  # the first change was seen at 1000


def test_edits_are_cut_by_number() -> None:
    runs = list(cut([Edit(b"%d" % number, b"v") for number in range(2 * COMMIT_MAX_EDITS + 1)]))
    assert [len(run) for run in runs] == [COMMIT_MAX_EDITS, COMMIT_MAX_EDITS, 1]


def test_edits_are_cut_by_bytes_and_a_long_one_stands_alone() -> None:
    big = Edit(b"b", b"v", b"c" * COMMIT_MAX_BYTES)
    assert [len(run) for run in cut([EDIT, big, EDIT, EDIT])] == [1, 1, 2]
    assert list(cut([])) == []


def test_hands_are_told_after_a_restart(tmp_path: Path) -> None:
    anna = Hand(7, "/usr/bin/anna", "anna -x", 1, 1, "anna.service", ("1 /sbin/init",), 0, 0)
    told = Attributed((msgspec.structs.replace(anna, files=1, bytes=3),), (1,))
    before = Index(tmp_path / "index.sqlite")
    journal = Journal(before, "v")
    with before.database.transaction():
        journal.commit(b"r0", b"r1", [EDIT], "watch", 1000.0, told)
    before.database.close()
    after = Index(tmp_path / "index.sqlite")
    try:
        (step,) = Journal(after, "v").pending(0, 10)
        assert isinstance(step, Commit)
        assert (step.hands, step.by) == (told.hands, told.by)
        again = Journal(after, "v")
        with after.database.transaction():
            again.announce(b"r1", "watch", 1000.0)
        (whole,) = again.pending(0, 10)
        assert isinstance(whole, Announce)
        assert whole.hands == told.hands
    finally:
        after.database.close()


def test_a_journal_of_the_first_format_is_taken_over_without_hands(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    before = Index(path)
    journal = Journal(before, "v")
    commit(journal, before, b"r0", b"r1")
    with before.database.transaction():
        before.database.execute("DROP TABLE packs")
        before.database.execute("ALTER TABLE journal DROP COLUMN hands")
        before.database.execute("PRAGMA user_version = 1")
    before.database.close()
    after = Index(path)
    try:
        again = Journal(after, "v")
        commit(again, after, b"r1", b"r2")
        old, new = again.pending(0, 10)
        assert isinstance(old, Commit)
        assert isinstance(new, Commit)
        assert (old.root, old.edits, old.hands, new.seq) == (b"r1", (EDIT,), (), 2)
    finally:
        after.database.close()
    Index(path).database.close()  # it is of the present format now


def test_what_was_committed_a_moment_ago_is_told_without_the_database(index: Index) -> None:
    clock = Clock()
    journal = Journal(index, "v", clock)
    commit(journal, index, b"r0", b"r1")
    assert journal.fresh(0, 9) == [], "nothing is told before the transaction is known to be durable"
    journal.durable()
    commit(journal, index, b"r1", b"r2")
    journal.durable()
    clock.now += 5.0
    assert journal.fresh(0, 9) == journal.pending(0, 9)
    assert [one.seq for one in journal.fresh(0, 1)] == [1]
    assert [one.seq for one in journal.fresh(1, 9)] == [2]
    assert journal.fresh(2, 9) == []


def test_a_transaction_that_failed_is_told_to_nobody(index: Index) -> None:
    journal = Journal(index, "v")

    def fail() -> None:
        with index.database.transaction():
            journal.commit(b"r0", b"r1", [EDIT], "scan", 1000.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    journal.reload()
    commit(journal, index, b"r0", b"r9")
    journal.durable()
    assert [one.root for one in journal.fresh(0, 9)] == [b"r9"]


def test_what_was_acknowledged_or_announced_is_not_remembered(index: Index) -> None:
    journal = Journal(index, "v")
    for number in range(3):
        commit(journal, index, b"r%d" % number, b"r%d" % (number + 1))
    journal.durable()
    with index.database.transaction():
        journal.acknowledge(1)
    assert (journal.fresh(0, 9), [one.seq for one in journal.fresh(1, 9)]) == ([], [2, 3])
    with index.database.transaction():
        journal.announce(b"r3", "scan", 1000.0)
    assert journal.fresh(1, 9) == []


def test_only_so_many_commits_are_remembered(index: Index) -> None:
    journal = Journal(index, "v")
    for number in range(CREDIT_COMMITS + 4):
        commit(journal, index, b"r%d" % number, b"r%d" % (number + 1))
        journal.durable()
    assert journal.fresh(0, 99) == []
    assert len(journal.fresh(4, 99)) == CREDIT_COMMITS


def test_what_was_brought_is_named_where_all_is_told_anew(index: Index) -> None:
    """Until somebody has heard it, and as long as it is as it was left."""
    values: dict[bytes, bytes | None] = {}
    journal = Journal(index, "v", values_of=lambda _root: values.get)

    def change(key: bytes, value: bytes | None, cause: str) -> None:
        values[key] = value
        with index.database.transaction():
            journal.commit(b"r", b"r", [Edit(key, value)], cause, 1000.0)

    def announced() -> tuple[bytes, ...]:
        with index.database.transaction():
            journal.announce(b"r", "scan", 1000.0)
        (only,) = Journal(index, "v").pending(0, 9)
        assert isinstance(only, Announce)
        return only.brought

    change(b"pushed", b"v", "push")
    change(b"written", b"v", "scan")
    change(b"removed", None, "converge")
    change(b"pushed and written", b"v", "push")
    change(b"pushed and written", b"w", "scan")
    change(b"seen by a scan alone", b"v", "push")
    values[b"seen by a scan alone"] = b"w"
    assert announced() == (b"pushed", b"removed")
    change(b"later", b"v", "push")
    change(b"removed", b"v", "scan")
    assert announced() == (b"later", b"pushed"), "nobody has heard the one before"
    with index.database.transaction():
        journal.acknowledge(journal.last_seq)
    change(b"newest", b"v", "push")
    assert announced() == (b"newest",)


def test_the_newest_of_what_was_brought_are_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[bytes, bytes | None] = {}
    journal = Journal(index, "v", values_of=lambda _root: values.get)
    with index.database.transaction():
        for number in range(6):
            key = b"%d" % number
            values[key] = bytes(100)
            journal.commit(b"r", b"r", [Edit(key, values[key])], "push", 1000.0)
    for limits, left in (
        ({"BROUGHT_MAX": 3}, (b"3", b"4", b"5")),
        ({"BROUGHT_MAX_BYTES": 202}, (b"4", b"5")),
    ):
        with monkeypatch.context() as patch:
            for name, limit in limits.items():
                patch.setattr(brought, name, limit)
            with index.database.transaction():
                journal.announce(b"r", "scan", 1000.0)
        assert announced_keys(index) == left


def test_no_run_of_edits_is_empty() -> None:
    """Also where the first one alone is beyond the bound."""
    long = Edit(b"k", b"v" * (COMMIT_MAX_BYTES + 1))
    assert [list(run) for run in cut([long, EDIT])] == [[long], [EDIT]]
    assert [list(run) for run in cut([EDIT, long])] == [[EDIT], [long]]


def test_how_long_it_is_outlives_a_restart(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of many processes has the same bound as one of a single process."""
    journal = Journal(index, "v")
    commit(journal, index, b"r0", b"r1")
    assert Journal(index, "v").bytes == journal.bytes > 0
    monkeypatch.setattr(module, "JOURNAL_MAX_BYTES", journal.bytes)
    commit(Journal(index, "v"), index, b"r1", b"r2")
    assert [type(one) for one in journal.pending(0, 9)] == [Announce]


@pytest.mark.parametrize("cause", [MADE_ANEW, PUT_BACK])
def test_what_became_of_a_machine_is_told_until_somebody_has_heard_it(index: Index, cause: str) -> None:
    journal = Journal(index, "v")
    with index.database.transaction():
        journal.announce(b"r1", cause, 1000.0)
    with index.database.transaction():
        journal.announce(b"r2", "scan", 1000.0)
    (only,) = journal.pending(0, 9)
    assert (only.root, only.cause) == (b"r2", cause)
    with index.database.transaction():
        journal.acknowledge(only.seq)
        journal.announce(b"r3", "scan", 1000.0)
    assert [one.cause for one in journal.pending(0, 9)] == ["scan"]


def test_steps_of_a_transaction_that_failed_do_not_become_those_of_the_next(index: Index) -> None:
    """It had more steps than the next one, which is told from memory."""
    journal = Journal(index, "v")

    def fail() -> None:
        with index.database.transaction():
            journal.commit(b"r0", b"r1", [EDIT], "scan", 1000.0)
            journal.commit(b"r1", b"r2", [EDIT], "scan", 1000.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    journal.reload()
    commit(journal, index, b"r0", b"r9")
    journal.durable()
    assert journal.fresh(0, 9) == journal.pending(0, 9)


def test_steps_that_give_way_in_their_own_transaction_are_not_remembered(index: Index) -> None:
    journal = Journal(index, "v")
    with index.database.transaction():
        journal.commit(b"r0", b"r1", [EDIT], "scan", 1000.0)
        journal.announce(b"r1", "scan", 1000.0)
    journal.durable()
    assert journal.fresh(0, 9) == []


def test_what_has_decayed_is_told_by_the_newest_announcement_alone(index: Index) -> None:
    found = [(Decayed(b"k", b"before"),), ()]
    journal = Journal(index, "v", decayed_in=lambda _: found.pop(0))
    for told in ((Decayed(b"k", b"before"),), ()):
        with index.database.transaction():
            journal.announce(b"r1", "scan", 1000.0)
        (only,) = journal.pending(0, 9)
        assert isinstance(only, Announce)
        assert only.decayed == told


def test_an_announcement_tells_of_hands_that_no_step_has_told_of(index: Index) -> None:
    hand = Hand(7, "/usr/bin/anna", "anna -x", 1, 1, "anna.service", ("1 /sbin/init",), 2, 3)
    journal = Journal(index, "v")
    with index.database.transaction():
        journal.announce(b"r1", "scan", 1000.0, hands=(hand,))
    (only,) = journal.pending(0, 9)
    assert [one.exe for one in only.hands] == [hand.exe]


def test_a_number_that_is_skipped_is_never_given(index: Index) -> None:
    journal = Journal(index, "v")
    with index.database.transaction():
        journal.skip(5)
    for one in (journal, Journal(index, "v")):
        assert (one.empty, one.first_seq, one.last_seq) == (True, 6, 5)
    commit(journal, index, b"r0", b"r1")
    with index.database.transaction():
        journal.skip(9)
    for one in (journal, Journal(index, "v")):
        assert (one.empty, one.first_seq, one.last_seq) == (False, 6, 9), "what is there is still to be told"


def test_an_acknowledgement_beyond_the_last_step_hides_no_later_one(index: Index) -> None:
    journal = Journal(index, "v")
    commit(journal, index, b"r0", b"r1")
    with index.database.transaction():
        journal.acknowledge(40)
    assert journal.empty
    commit(journal, index, b"r1", b"r2")
    assert (journal.empty, journal.first_seq, journal.base_root()) == (False, 2, b"r1")


def test_only_so_many_bytes_of_commits_are_remembered(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_MAX_BYTES", 2500)
    journal = Journal(index, "v")
    edit = Edit(b"k" * 900, b"v")
    for number in range(4):
        with index.database.transaction():
            journal.commit(b"r%d" % number, b"r%d" % (number + 1), [edit], "scan", 1000.0)
        journal.durable()
    assert (journal.fresh(1, 9), [one.seq for one in journal.fresh(2, 9)]) == ([], [3, 4])
