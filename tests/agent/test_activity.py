"""Disks and their forecast on real filesystems, and when there is something to tell."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from math import inf
from pathlib import Path

import msgspec
import pytest

from closeranks_agent.disk.records import ScanReport
from closeranks_agent.disk.taken import Taken
from closeranks_agent.hands import activity as module
from closeranks_agent.hands.activity import Activity
from closeranks_agent.hands.attribution import Attribution
from closeranks_agent.hands.disks import FORESEEN_MAX_S, STALE_S, Disks, Series
from closeranks_agent.hands.elsewhere import Elsewhere
from closeranks_agent.hands.own import OwnState
from closeranks_agent.hands.processes import ProcessDirectory
from closeranks_proto import messages as wire
from closeranks_proto.parts import OUTSIDE, Hand
from closeranks_proto.wire import encode_message
from link_world import World, until, world_of

GIB = 1 << 30
HAND = Hand(7, "/usr/bin/php", "php x", 33, None, "apache2.service", ("1 /sbin/init",), 0, 0)


MB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- the forecast --------------------------------------------------------------------------------


def series(*free_bytes: float) -> Series:
    """One sample a second."""
    made = Series()
    for second, free in enumerate(free_bytes):
        made.add(float(second), int(free))
    return made


def test_a_steady_disk_is_not_foreseen_to_fill() -> None:
    made = series(*[100 * GIB] * 40)
    assert made.rate_bytes_s() == 0
    assert made.full_in_s() is None


def test_nothing_is_foreseen_from_two_samples() -> None:
    assert series(10 * GIB, 9 * GIB).full_in_s() is None


def test_a_disk_that_fills_steadily_is_full_when_it_is() -> None:
    made = series(*(100 * GIB - second * GIB for second in range(40)))
    assert made.rate_bytes_s() == pytest.approx(GIB, rel=0.01)
    assert made.full_in_s() == pytest.approx(61, rel=0.02)


def test_a_sudden_writer_is_foreseen_within_three_seconds() -> None:
    made = series(*[100 * GIB] * 60, 99 * GIB, 98 * GIB, 97 * GIB)
    foreseen = made.full_in_s()
    assert foreseen is not None
    assert 97 <= foreseen < 600


def test_one_step_is_no_rate() -> None:
    assert series(*[100 * GIB] * 30, *[60 * GIB] * 10).full_in_s() is None


def test_a_trickle_is_not_foreseen() -> None:
    assert series(*(100 * GIB - second * 4096 for second in range(40))).full_in_s() is None


def test_a_disk_that_empties_is_not_foreseen_to_fill() -> None:
    assert series(*(second * GIB for second in range(1, 40))).full_in_s() is None


def test_a_full_disk_is_full_now() -> None:
    assert series(0, 0, 0).full_in_s() == 0.0


def test_a_forecast_fits_the_wire() -> None:
    made = series(*(2**62 - second * 2**52 for second in range(40)))
    foreseen = made.full_in_s()
    assert foreseen is not None
    assert foreseen <= FORESEEN_MAX_S


# --- sampling ------------------------------------------------------------------------------------


def idle(disks: Disks, but: int = 0) -> None:
    """All questions but so many are answered."""
    deadline = time.monotonic() + 10
    while sum(place.asked for place in disks._places) > but:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_disk_says_what_our_own_copying_took_of_it(tmp_path: Path) -> None:
    places = [("", str(tmp_path)), ("photos", str(tmp_path)), ("docs", str(tmp_path)), ("proc", "/proc")]
    disks = Disks(
        places,
        taken={"": 3, "photos": 5, "docs": 7, "proc": 100}.__getitem__,
        trashed={"photos": 50, "docs": 70, "proc": 1000}.__getitem__,
    )
    disks.sample()
    idle(disks)
    disks.sample()
    idle(disks)
    (state,) = (one for one in disks.states() if one.holds_state)
    assert (state.taken_bytes, state.trash_bytes) == (15, 120)


def test_what_the_agents_own_state_grows_by_counts_and_what_it_gives_back_shows_as_room(
    tmp_path: Path,
) -> None:
    (tmp_path / "photos").mkdir()
    index = tmp_path / "photos" / "index"
    index.write_bytes(b"x" * 8 * MB)
    own = OwnState(str(tmp_path))
    assert own.taken() == 0, "what was there before"
    index.write_bytes(b"x" * 10 * MB)
    assert own.taken() == pytest.approx(2 * MB, abs=MB // 4)
    index.unlink()
    assert own.taken() == pytest.approx(2 * MB, abs=MB // 4)
    index.write_bytes(b"x" * 3 * MB)
    assert own.taken() == pytest.approx(5 * MB, abs=MB // 2)


def test_what_is_staged_counts_with_the_room_that_it_takes_beyond_what_was_there(tmp_path: Path) -> None:
    taken = Taken()
    with (tmp_path / "staged").open("wb") as file:
        with taken.counting(file.fileno()):
            file.write(bytes(MB))
            file.flush()
        assert MB <= taken.bytes < 2 * MB
        with taken.counting(file.fileno()):
            file.truncate(8 * MB)
        assert MB <= taken.bytes < 2 * MB, "a hole takes no room"


def test_places_on_one_filesystem_are_one_disk_asked_for_once(tmp_path: Path) -> None:
    clock = Clock()
    disks = Disks([("", str(tmp_path)), ("photos", str(tmp_path)), ("gone", str(tmp_path / "none"))], clock)
    disks.sample()
    idle(disks)
    (state,) = disks.states()
    assert (state.volumes, state.holds_state) == (("photos",), True)
    found = os.statvfs(tmp_path)
    assert state.total_bytes == found.f_blocks * found.f_frsize
    assert disks.of("photos") == disks.of("")
    assert disks.of("gone") is None
    assert disks.of("unknown") is None
    asked: list[str] = []
    look = disks.look

    def counted(path: str) -> tuple[int, int, int]:
        asked.append(path)
        return look(path)

    disks.look = counted
    clock.now += 1
    disks.sample()
    idle(disks)
    assert asked == [str(tmp_path)]


def test_a_filesystem_that_does_not_answer_holds_up_nobody(tmp_path: Path) -> None:
    clock = Clock()
    disks = Disks([("dead", "/dead"), ("photos", str(tmp_path))], clock)
    answer, look = threading.Event(), disks.look
    disks.look = lambda path: (answer.wait(30), (9, 2, 1))[1] if path == "/dead" else look(path)
    disks.mount_of = lambda path, device: path
    for _ in range(20):
        disks.sample()
        idle(disks, but=1)
        clock.now += 1
    assert [state.volumes for state in disks.states()] == [("photos",)]
    assert disks.silent() == ("/dead",)
    assert sum(thread.name == "closeranks-disk" for thread in threading.enumerate()) <= 2
    answer.set()
    idle(disks)
    assert disks.silent() == ()
    assert disks.of("dead") == (2, 1)


def test_an_answer_that_is_old_is_none(tmp_path: Path) -> None:
    clock = Clock()
    disks = Disks([("photos", str(tmp_path))], clock)
    disks.sample()
    idle(disks)
    clock.now += STALE_S + 1
    assert disks.of("photos") is None
    assert disks.states() == ()


@pytest.mark.root
def test_a_real_disk_that_fills_is_foreseen_and_told(tmp_path: Path) -> None:
    from fleet.tmpfs import Tmpfs

    clock = Clock()
    with Tmpfs(tmp_path / "mount", 64 << 20) as mounted:
        disks = Disks([("", str(tmp_path)), ("photos", str(mounted.path / "tree"))], clock)
        (mounted.path / "tree").mkdir()
        for second in range(12):
            (mounted.path / f"outside-{second}").write_bytes(b"x" * (2 << 20))
            disks.sample()
            idle(disks)
            clock.now += 1
        (state,) = [one for one in disks.states() if "photos" in one.volumes]
        assert state.path == str(mounted.path)
        assert not state.holds_state
        assert state.rate_bytes_s == pytest.approx(2 << 20, rel=0.05)
        assert state.full_in_s == pytest.approx(20, rel=0.1)
        assert disks.full_in_s("photos") == pytest.approx(20, rel=0.1)
        assert disks.full_in_s("") is None


# --- telling -------------------------------------------------------------------------------------


class Node:
    """An activity over one disk whose figures the test sets."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.free = 900 * GIB
        self.disks = Disks([("", "/state"), ("photos", "/srv/photos")], self.clock)
        self.disks.look = lambda path: (1, 1000 * GIB, self.free)
        self.disks.mount_of = lambda path, device: "/"
        self.sent: list[wire.AgentMessage] = []
        self.activity = Activity(
            Attribution(self.clock),
            self.disks,
            self.sent.append,
            lambda: True,
            self.clock,
        )

    def second(self) -> wire.Activity | None:
        self.clock.now += 1
        self.disks.sample()
        idle(self.disks)
        return self.activity.report()

    def seconds(self, count: int) -> list[wire.Activity]:
        return [report for _ in range(count) if (report := self.second()) is not None]


@pytest.fixture
def node() -> Node:
    made = Node()
    assert made.second() is not None, "a session begins with the disks"
    return made


def test_at_rest_nothing_is_told(node: Node) -> None:
    assert node.seconds(120) == []


def test_a_session_that_begins_is_told_anew(node: Node) -> None:
    node.activity.anew()
    (report,) = node.seconds(3)
    assert [(disk.path, disk.volumes, disk.holds_state) for disk in report.disks] == [
        ("/", ("photos",), True)
    ]


def test_what_is_written_is_told_with_its_hand_within_a_second(node: Node) -> None:
    node.activity.note("photos", 100, 10**9, HAND)
    node.activity.pending("photos", 3)
    report = node.second()
    assert report is not None
    assert report.volumes == (wire.VolumeActivity("photos", 100, 10**9, 3),)
    (hand,) = report.hands
    assert (hand.exe, hand.files, hand.bytes) == ("/usr/bin/php", 100, 10**9)


def test_each_write_is_told_of_once_and_their_end_once(node: Node) -> None:
    told = []
    for _ in range(30):
        node.activity.note("photos", 100, 10**6, HAND)
        told.append(node.second())
    assert sum(one.files for report in told if report is not None for one in report.volumes) == 3000
    assert [report.volumes for report in node.seconds(120)] == [()]
    assert node.seconds(60) == []


def due_ms(node: Node) -> float:
    return round(1000 * (node.activity.due_s() - node.clock.now), 1)


def test_a_burst_is_told_twice_a_second_and_a_step_of_a_runaway_at_once(node: Node) -> None:
    assert due_ms(node) == inf
    node.activity.note("photos", 10, MB, HAND)
    assert due_ms(node) == inf, "that can wait for the next report"
    node.activity.note("photos", 0, module.BURST_BYTES, HAND)
    assert due_ms(node) == 500, "half a second after the last report"
    report = node.activity.report(hurried=True)
    assert report is not None
    assert (report.volumes[0].bytes, report.disks, len(report.hands)) == (5 * MB, (), 1)
    node.activity.note("photos", module.BURST_FILES, 1)
    assert due_ms(node) == 500
    node.activity.note("photos", 0, module.STEP_BYTES)
    assert due_ms(node) == 50
    assert node.activity.report(hurried=True) is not None
    assert due_ms(node) == inf
    assert node.activity.report(hurried=True) is None, "what was told is not told again"


def test_the_disks_are_told_each_second_of_a_burst_all_the_same(node: Node) -> None:
    """A guard for a full disk counts reports with disks."""
    for _ in range(5):
        node.activity.note("photos", 0, module.STEP_BYTES, HAND)
        assert node.activity.report(hurried=True) is not None
        report = node.second()
        assert report is not None
        assert len(report.disks) == 1


def test_before_the_disks_of_a_session_nothing_is_hurried(node: Node) -> None:
    node.activity.anew()
    node.activity.note("photos", 0, module.STEP_BYTES, HAND)
    assert node.activity.report(hurried=True) is None
    report = node.second()
    assert report is not None
    assert (report.volumes[0].bytes, len(report.disks)) == (module.STEP_BYTES, 1), "nothing of it is lost"


async def test_what_is_noted_in_another_thread_is_told_before_the_next_second(node: Node) -> None:
    node.activity._clock = time.monotonic
    node.disks._clock = time.monotonic
    node.activity.anew()
    running = asyncio.create_task(node.activity.run())
    try:
        await until(lambda: node.sent)  # the disks
        for count in range(1, 5):
            await asyncio.to_thread(node.activity.note, "photos", 1, module.STEP_BYTES, HAND)
            await until(partial(has_told, node, count))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    told = [one for one in node.sent if isinstance(one, wire.Activity)]
    assert sum(volume.bytes for report in told for volume in report.volumes) == 4 * module.STEP_BYTES


def has_told(node: Node, count: int) -> bool:
    return sum(isinstance(one, wire.Activity) and bool(one.volumes) for one in node.sent) >= count


def test_trifles_are_told_together(node: Node) -> None:
    told = 0
    for _ in range(30):
        node.activity.note("photos", 1, 100, HAND)
        told += node.second() is not None
    assert 5 <= told <= 7


def test_a_report_covers_the_time_since_the_first_write_that_it_tells_of(node: Node) -> None:
    node.clock.now += 600
    node.activity.note("photos", 100, 1)
    report = node.second()
    assert report is not None
    assert report.window_ms == 1000
    node.activity.note("photos", 1, 1)
    report = node.seconds(10)[0]
    assert 4000 <= report.window_ms <= 6000


def test_what_was_written_while_nobody_listened_is_not_one_burst(node: Node) -> None:
    for _ in range(600):
        node.activity.note("photos", 100, 10**6)
        node.clock.now += 1
    report = node.second()
    assert report is not None
    assert report.window_ms == 60_000
    assert report.volumes[0].files <= 6100


def test_what_a_scan_found_changed_is_told_without_a_hand(node: Node) -> None:
    node.activity.scanned(
        "photos", ScanReport(0.0, 1.0, True, changed=100, hashed_files=100, hashed_bytes=10**7)
    )
    report = node.second()
    assert report is not None
    assert report.volumes == (wire.VolumeActivity("photos", 100, 10**7, 0),)
    assert report.hands == ()


def test_files_that_a_scan_read_and_found_the_same_were_not_written(node: Node) -> None:
    node.activity.scanned("photos", ScanReport(0.0, 1.0, True, hashed_files=100, hashed_bytes=10**9))
    assert node.second() is None
    node.activity.scanned(
        "photos", ScanReport(0.0, 1.0, True, changed=50, hashed_files=100, hashed_bytes=10**9)
    )
    report = node.second()
    assert report is not None
    assert report.volumes == (wire.VolumeActivity("photos", 50, 10**9 // 2, 0),)


def test_a_disk_that_fills_from_outside_the_volumes_is_told(node: Node) -> None:
    told: list[wire.Activity] = []
    for _ in range(5):
        node.free -= 2 * GIB
        told += node.seconds(1)
    assert told
    disk = told[-1].disks[0]
    assert disk.full_in_s is not None
    assert disk.full_in_s < 3600
    assert told[-1].volumes == ()


def test_a_worry_that_stays_the_same_is_repeated_sparingly(node: Node) -> None:
    for _ in range(40):
        node.free -= GIB // 2
        node.second()
    told = 0
    for _ in range(30):
        node.free -= GIB // 2
        told += node.second() is not None
    assert 5 <= told <= 8
    assert node.seconds(60), "that it fills no more is told"
    assert node.seconds(60) == []


def test_a_step_of_more_than_a_hundredth_is_told(node: Node) -> None:
    node.free -= 11 * GIB
    assert len(node.seconds(60)) == 1


WRITES = """
import os, sys
with open(sys.argv[1], "wb") as file:
    for line in sys.stdin:
        file.write(b"x" * (4 << 20))
        file.flush()
        os.fsync(file.fileno())
        print("written", flush=True)
"""


def test_who_fills_a_disk_from_outside_the_volumes_is_named_with_its_bytes(
    node: Node, tmp_path: Path
) -> None:
    with tempfile.NamedTemporaryFile(dir=tmp_path) as target:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES, target.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            if Elsewhere().look() or not written_by(process.pid):
                pytest.skip("a tmpfs, or a kernel that does not count what processes write")
            node.activity.look_elsewhere()
            assert all(hand.pid != process.pid for hand in node.activity.top()), "of its past nothing is said"
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            node.activity.look_elsewhere()
            (hand,) = [hand for hand in node.activity.top() if hand.pid == process.pid]
            assert hand.detail.startswith(OUTSIDE)
            assert hand.bytes >= 4 << 20
            assert node.activity.recent("photos", 60.0) == ()
            node.activity.note("photos", 1, 1, msgspec.structs.replace(hand, detail=""))
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            node.activity.look_elsewhere()
            assert sum(one.bytes for one in node.activity.top() if one.pid == process.pid) < 8 << 20, (
                "what is written in a volume is told by its watcher"
            )
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def written_by(pid: int) -> int:
    with ProcessDirectory(pid) as process:
        return process.written_bytes() or 0


def test_notes_from_many_threads_are_all_counted(node: Node) -> None:
    def write() -> None:
        for _ in range(1000):
            node.activity.note("photos", 1, 10, HAND)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = node.second()
    assert report is not None
    assert report.volumes == (wire.VolumeActivity("photos", 4000, 40_000, 0),)
    assert report.hands[0].files == 4000


def test_a_report_is_small(node: Node) -> None:
    for number in range(100):
        node.activity.note(
            "photos", 1, number, Hand(number + 1, f"/bin/{number}", "x" * 500, 0, 0, "u", (), 0, 0)
        )
    report = node.second()
    assert report is not None
    assert len(report.hands) == module.HANDS_TOLD
    assert len(encode_message(report)) < 8 * 1024


# --- in an agent ---------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


async def test_an_agent_tells_of_its_disks_once_and_shows_them(world: World) -> None:
    async with world.agent() as agent:
        talk = await world.coordinator.talk(0)
        report = await talk.hear(wire.Activity)
        assert any("photos" in disk.volumes for disk in report.disks)
        assert any(disk.holds_state for disk in report.disks)
        page = await asyncio.to_thread(_metrics, agent.metrics.registry)
        assert 'closeranks_agent_disk_free_bytes{kind="volume",volume="photos"}' in page
        assert 'closeranks_agent_disk_free_bytes{kind="state",volume=""}' in page
        assert 'closeranks_agent_disk_full_in_seconds{kind="volume",volume="photos"}' in page


async def test_an_agent_whose_coordinator_dials_anew_tells_it_again(world: World) -> None:
    async with world.agent():
        first = await world.coordinator.talk(0)
        await first.hear(wire.Activity)
        await first.socket.close()
        second = await world.coordinator.talk(1)
        await second.hear(wire.Activity)


async def test_what_was_there_before_the_agent_is_not_told_as_written(world: World) -> None:
    for number in range(30):
        (world.tree / f"file-{number}").write_bytes(b"x" * 1000)
    async with world.agent() as agent:
        talk = await world.coordinator.talk(0)
        await until(lambda: agent.ready is None)
        for number in range(20):
            (world.tree / f"more-{number}").write_bytes(b"x" * 1000)
        told = await talk.hear(wire.Activity, lambda one: one.volumes)
        assert sum(one.volumes[0].files for one in talk.all(wire.Activity) if one.volumes) <= 20
        assert told.volumes[0].name == "photos"


async def test_metrics_ask_no_filesystem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.agent() as agent:
        await until(lambda: agent.disk("photos"))

        def never(*_: object) -> None:
            raise AssertionError("asked on the loop")

        monkeypatch.setattr(os, "statvfs", never)
        monkeypatch.setattr(os, "fstatvfs", never)
        assert "closeranks_agent_disk_free_bytes" in _metrics(agent.metrics.registry)
        monkeypatch.undo()


def _metrics(registry: object) -> str:
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()  # type: ignore[arg-type]
