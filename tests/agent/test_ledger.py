"""The account of writers: bounded, by program, over a window."""

from __future__ import annotations

from closeranks_agent.hands.ledger import BUCKET_S, PROCESSES_MAX, Ledger
from closeranks_proto.parts import OUTSIDE, Hand


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def hand(
    pid: int, exe: str = "/usr/bin/cp", command: str = "cp a b", unit: str = "", detail: str = ""
) -> Hand:
    return Hand(pid, exe, command, 0, None, unit, (), 0, 0, detail)


def told(ledger: Ledger, **how: float) -> list[tuple[int, str, int, int]]:
    return [(one.pid, one.exe, one.files, one.bytes) for one in ledger.top(8, **how)]


def test_the_most_active_come_first_by_bytes() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1, "/bin/a"), 5, 10)
    ledger.note(hand(2, "/bin/b"), 1, 1000)
    ledger.note(hand(1, "/bin/a"), 5, 10)
    assert told(ledger) == [(2, "/bin/b", 1, 1000), (1, "/bin/a", 10, 20)]


def test_processes_of_one_program_are_one_writer_shown_by_its_latest() -> None:
    ledger = Ledger(Clock())
    for pid in range(1, 4):
        ledger.note(hand(pid), 1, 10)
    assert told(ledger) == [(3, "/usr/bin/cp", 3, 30)]


def test_one_program_in_two_services_is_two_writers() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1, unit="a.service"), 1, 2)
    ledger.note(hand(2, unit="b.service"), 1, 1)
    assert len(told(ledger)) == 2


def test_an_interpreters_program_is_its_script() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1, "/usr/bin/python3.11", "python3 -u /srv/a.py --x"), 1, 3)
    ledger.note(hand(2, "/usr/bin/python3.11", "python3 /srv/b.py"), 1, 2)
    ledger.note(hand(3, "/usr/bin/python3.11", "python3 /srv/a.py"), 1, 3)
    assert [one[0] for one in told(ledger)] == [3, 2]


def test_unknown_hands_are_one_writer_for_each_reason() -> None:
    ledger = Ledger(Clock())
    for reason in ("gone", "foreign", "gone"):
        ledger.note(hand(0, "", "", detail=reason), 1, 1)
    assert [one.detail for one in ledger.top()] == ["gone", "foreign"]


def test_writing_outside_the_volumes_is_told_apart() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1), 1, 1)
    ledger.note(hand(1, detail=f"{OUTSIDE}, here"), 1, 5)
    assert [one.bytes for one in ledger.top()] == [5, 1]


def test_what_was_drained_is_not_told_again() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1, "/bin/a"), 1, 10)
    assert [one.bytes for one in ledger.drain()] == [10]
    ledger.note(hand(2, "/bin/b"), 1, 5)
    ledger.note(hand(1, "/bin/a"), 1, 1)
    assert [(one.exe, one.bytes) for one in ledger.drain()] == [("/bin/b", 5), ("/bin/a", 1)]
    assert ledger.drain() == ()
    assert [one.bytes for one in ledger.top()] == [11, 5]


def test_what_is_older_than_the_window_is_forgotten() -> None:
    clock = Clock()
    ledger = Ledger(clock, window_s=60.0)
    ledger.note(hand(1, "/bin/a"), 1, 1000)
    clock.now += 50
    ledger.note(hand(2, "/bin/b"), 1, 1)
    assert len(told(ledger)) == 2
    assert told(ledger, within_s=20.0) == [(2, "/bin/b", 1, 1)]
    clock.now += 10 + BUCKET_S
    assert told(ledger) == [(2, "/bin/b", 1, 1)]
    clock.now += 120
    assert told(ledger) == []
    assert ledger._writers == {}


def test_who_wrote_most_files_has_a_place_among_those_who_wrote_most_bytes() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1, "/bin/touch"), 100_000, 0)
    for number in range(2, 6):
        ledger.note(hand(number, f"/bin/{number}"), 1, number)
    assert [one.exe for one in ledger.top(2)] == ["/bin/5", "/bin/touch"]


def test_the_smallest_gives_way_where_there_are_too_many() -> None:
    ledger = Ledger(Clock(), writers_max=3)
    ledger.note(hand(1, "/bin/big"), 1, 10**9)
    for number in range(2, 100):
        ledger.note(hand(number, f"/bin/{number}"), 1, 1)
    assert len(ledger._writers) == 3
    assert told(ledger)[0] == (1, "/bin/big", 1, 10**9)


def test_the_processes_of_the_last_seconds_are_listed_and_bounded() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.note(hand(1, "/bin/old"), 1, 10**9)
    clock.now += 30
    for pid in range(100, 100 + 2 * PROCESSES_MAX):
        ledger.note(hand(pid), 1, 1)
    ledger.note(hand(7, "/bin/b"), 1, 10**6)
    ledger.note(hand(0, "", detail="gone"), 1, 1)
    recent = ledger.recent(10.0)
    assert recent[0].pid == 7, "the most active program first"
    assert [one.pid for one in recent[1:]] == list(range(100 + PROCESSES_MAX, 100 + 2 * PROCESSES_MAX))


def test_totals_fit_what_a_report_can_carry() -> None:
    ledger = Ledger(Clock())
    ledger.note(hand(1), 2**50, 2**50)
    ledger.note(hand(1), 2**50, 2**50)
    assert told(ledger)[0][2:] == (2**50, 2**50)
