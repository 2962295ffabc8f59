"""Sums of hands: bounded whatever a node tells, merged by what stays the same, told in one line."""

from __future__ import annotations

from closeranks_coordinator.core import writers
from closeranks_coordinator.core.writers import HandRecord, Hour, Writing
from closeranks_proto import messages as wire


def hand(
    exe: str = "/usr/bin/php", pid: int = 4711, files: int = 1, size: int = 10, **changes: object
) -> HandRecord:
    told = wire.Hand(
        pid, exe, f"{exe} /var/www/x.php --job 7", 33, 1000, "apache2.service", ("812 /bin/bash", "1 /sbin/init"),
        files, size,
    )  # fmt: skip
    found = writers.record_of(told, 1000)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_one_line_says_who_and_how_much() -> None:
    assert writers.told(hand(files=41, size=3_200_000_000)) == (
        "/usr/bin/php (script /var/www/x.php, pid 4711, unit apache2.service, uid 33, login uid 1000, "
        '"/usr/bin/php /var/www/x.php --job 7"), '
        "parents 812 /bin/bash, 1 /sbin/init: 41 files, 3.2 GB"
    )


def test_nobody_known_says_why() -> None:
    nobody = writers.unknown("inotify does not tell who writes", 0, 2, 5)
    assert writers.told(nobody) == "unknown: inotify does not tell who writes: 2 files, 5 B"


def test_processes_of_one_program_unit_and_user_are_one_hand() -> None:
    found: list[HandRecord] = []
    for pid in range(100, 120):
        writers.add_to(found, hand(pid=pid))
    assert [(one.files, one.bytes, one.pid) for one in found] == [(20, 200, 119)]


def test_a_loop_that_starts_a_program_for_each_file_is_one_hand() -> None:
    found: list[HandRecord] = []
    for number in range(40):
        writers.add_to(
            found, hand(exe="/usr/bin/rm", pid=100 + number, command=f"rm /srv/photos/{number}.jpg")
        )
        writers.add_to(found, hand(exe="/usr/bin/rm", pid=200 + number, command=f"rm {number}.jpg"))
    assert [(one.files, one.pid) for one in found] == [(80, 239)]
    for does in ("checkout", "gc"):
        writers.add_to(found, hand(exe="/usr/bin/git", command=f"git {does} main"))
    assert [one.command for one in found[1:]] == ["git checkout main", "git gc main"]


def test_another_script_of_the_same_interpreter_is_another_hand() -> None:
    found: list[HandRecord] = []
    for script in ("a.php", "b.php"):
        writers.add_to(found, hand(command=f"php {script} --now"))
    assert len(found) == 2


def test_a_sum_holds_a_fixed_number_of_hands_and_loses_no_count() -> None:
    found: list[HandRecord] = []
    for number in range(1000):
        writers.add_to(found, hand(exe=f"/bin/tool{number}"))
    assert len(found) == writers.SUM_HANDS
    assert sum(one.files for one in found) == 1000
    assert found[-1].detail == writers.UNTOLD
    assert not found[-1].pid


def test_what_a_node_calls_itself_can_not_drive_a_terminal() -> None:
    assert "\x1b" not in writers.told(hand(exe="/bin/\x1b[2Jevil", command="\n\x07"))


def test_the_hour_forgets_what_is_older() -> None:
    hour = Hour()
    hour.add(hand(), 0.0)
    hour.add(hand(), 3000.0)
    assert [one.files for one in hour.sums(3001.0).values()] == [2]
    assert [one.files for one in hour.sums(4000.0).values()] == [1]
    assert not hour.sums(9000.0)


def test_the_hour_is_bounded() -> None:
    hour = Hour()
    for number in range(10_000):
        hour.add(hand(exe=f"/bin/tool{number}"), float(number))
    assert len(hour.buckets) <= writers.BUCKETS
    assert all(len(bucket) <= writers.BUCKET_HANDS + 1 for bucket in hour.buckets.values())


def test_what_was_reported_and_committed_is_not_counted_twice() -> None:
    writing = Writing()
    writing.reported.add(hand(files=5, size=500), 10.0)
    writing.book("photos").hour.add(hand(files=3, size=700), 10.0)
    assert [(one.files, one.bytes) for one in writing.top(11.0)] == [(5, 700)]


def test_the_top_has_the_first_by_bytes_and_the_first_by_files() -> None:
    many = [hand(exe=f"/bin/big{number}", files=1, size=10_000 - number) for number in range(30)]
    many += [hand(exe=f"/bin/often{number}", files=10_000 - number, size=1) for number in range(30)]
    found = {one.exe for one in writers.top(many)}
    assert len(found) == writers.SUM_HANDS
    assert {"/bin/big0", "/bin/often0"} <= found
