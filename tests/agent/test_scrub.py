"""Scrubs over real files. Decay is made as it looks to the agent: see `decayed`."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_agent.scrub import scrubber as scrubber_module
from closeranks_agent.scrub.pace import LATENCY_FACTOR, SCALE_MIN, Backoff, Pace
from closeranks_agent.scrub.pressure import Pressure
from closeranks_agent.scrub.progress import META
from closeranks_agent.scrub.reader import Reader
from closeranks_agent.scrub.residence import PAGE_BYTES, absent, drop
from closeranks_agent.scrub.scrubber import Scrubber
from closeranks_proto.messages import Announce, Commit, Decayed, Scrub
from decayed import decay

MakeVolume = Callable[..., Volume]
NOW = Scrub(True, False, 0)


def wait(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def scrub() -> Iterator[Callable[..., Scrubber]]:
    """Starts scrubbers with settings that are changed as given; stops them at the end."""
    started: list[Scrubber] = []

    def start(volume: Volume, now: Callable[[], float] = time.time, **changed: Any) -> Scrubber:
        settings = msgspec.structs.replace(volume.settings, **changed)
        found = Scrubber(volume, settings, lambda: None, now)
        found.start()
        started.append(found)
        return found

    yield start
    for one in started:
        one.stop()


def tour(scrubber: Scrubber) -> None:
    """One whole tour."""
    before = _ended(scrubber)
    time.sleep(0.002)  # ends are told apart by milliseconds
    scrubber.order(NOW)
    wait(lambda: _ended(scrubber) not in (None, before) and not scrubber._running)


def _ended(scrubber: Scrubber) -> int | None:
    return None if scrubber._progress is None else scrubber._progress.ended_ms


# --- what is found -------------------------------------------------------------------------------


def test_what_is_right_is_read_and_nothing_is_said(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    for number in range(150):
        (tree_dir / f"f{number}").write_bytes(os.urandom(number))
    (tree_dir / "long").write_bytes(os.urandom(100_000))
    (tree_dir / "link").symlink_to("long")
    volume = scanned()
    root = volume.root
    scrubber = scrub(volume)
    tour(scrubber)
    assert (scrubber.totals.files, scrubber.totals.found, scrubber.totals.unreadable) == (151, 0, 0)
    assert scrubber.totals.bytes == sum(range(150)) + 100_000
    assert (volume.root, volume.condition.scrubbed) == (root, ())


@pytest.mark.parametrize("size", [10, 4096, 100_000])
def test_decayed_bytes_are_named_and_become_a_commit(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber], size: int,
    expected_root: Callable[[Volume], bytes],
) -> None:  # fmt: skip
    (tree_dir / "d").mkdir()
    data = bytearray(os.urandom(size))
    (tree_dir / "d" / "file").write_bytes(data)
    (tree_dir / "other").write_bytes(b"right")
    volume = scanned()
    volume.acknowledge(volume.last_seq)
    data[size // 2] ^= 1
    decay(volume, tree_dir / "d" / "file", bytes(data))
    assert volume.scan().changed == 0, "no scan sees it"
    scrubber = scrub(volume)
    tour(scrubber)
    assert volume.root == expected_root(volume)
    commit = volume.pending(0, 10)[-1]
    assert isinstance(commit, Commit)
    assert (commit.cause, [edit.key for edit in commit.edits]) == ("scrub", [b"d\0file"])
    assert [(one.key, one.why) for one in volume.status().unreadable] == [(b"d\0file", "decayed")]
    assert (scrubber.totals.found, volume.status().unreadable_count) == (1, 0)


def test_decay_is_told_as_such_also_where_all_is_told_anew(
    tree_dir: Path,
    scanned: Callable[..., Volume],
    scrub: Callable[..., Scrubber],
    make_volume: Callable[..., Volume],
) -> None:
    """An announcement states a tree and no causes: what has decayed in it would be what a writer has written."""
    for name in ("file", "written", "right"):
        (tree_dir / name).write_bytes(b"what was there: " + name.encode())
    volume = scanned()
    before = volume.record(b"file")
    assert before is not None
    for name in ("file", "written"):
        decay(volume, tree_dir / name, b"what nobody wrot: " + name.encode())
    tour(scrub(volume))
    (tree_dir / "written").write_bytes(b"what somebody wrote since then")
    volume.scan()
    volume.announce(7)
    told = (Decayed(b"file", before.value),)
    assert announced(volume) == told
    volume.close()
    again = make_volume()
    assert announced(again) == told, "also by the next process"
    again.scan()
    (tree_dir / "file").write_bytes(b"what was there: file")
    again.scan()
    assert announced(again) == told, "the step is what it was"
    again.announce()
    assert announced(again) == ()


def test_what_had_decayed_and_is_written_later_is_the_nodes_own(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    """Bytes that looked like decay, were replaced, and come again as any change does: somebody means them."""
    (tree_dir / "file").write_bytes(b"what was there: file")
    volume = scanned()
    decay(volume, tree_dir / "file", b"what nobody wrot: ile")
    tour(scrub(volume))
    volume.announce()
    assert [one.key for one in announced(volume)] == [b"file"]
    for content in (b"what was there: file", b"what nobody wrot: ile"):
        (tree_dir / "file").write_bytes(content)
        volume.scan()
    volume.announce()
    assert announced(volume) == ()


def announced(volume: Volume) -> tuple[Decayed, ...]:
    step = volume.pending(0, 1)[0]
    assert isinstance(step, Announce)
    return step.decayed


def test_a_report_lasts_until_the_file_is_another_one(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scrubber_module, "MENDING_S", 0.01)
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    decay(volume, tree_dir / "file", b"wrong")
    scrubber = scrub(volume)
    tour(scrubber)
    assert volume.condition.scrubbed
    (tree_dir / "new").write_bytes(b"right")
    (tree_dir / "new").rename(tree_dir / "file")
    assert volume.scan().complete
    wait(lambda: not volume.condition.scrubbed)


def test_a_file_that_changed_is_the_scans_matter(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    (tree_dir / "file").write_bytes(b"before")
    volume = scanned()
    root = volume.root
    (tree_dir / "file").write_bytes(b"after!")
    scrubber = scrub(volume)
    tour(scrubber)
    assert (scrubber.totals.found, volume.root) == (0, root)


def test_a_program_that_has_the_file_mapped_is_not_decay(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    (tree_dir / "file").write_bytes(b"a" * 4096)
    volume = scanned()
    decay(volume, tree_dir / "file", b"b" * 4096)
    with (tree_dir / "file").open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        scrubber = scrub(volume)
        tour(scrubber)
    assert (scrubber.totals.found, volume.condition.scrubbed) == (0, ())
    commit = volume.pending(0, 10)[-1]
    assert getattr(commit, "cause", "") == "scan"


def test_in_a_storm_nothing_is_called_decay_before_its_scan(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Who stored it through a map has closed the file, and nobody was told."""
    monkeypatch.setattr(scrubber_module, "TROUBLE_S", 0.05)
    (tree_dir / "file").write_bytes(b"a" * 4096)
    volume = scanned()
    root, read = volume.root, Reader.read
    decay(volume, tree_dir / "file", b"b" * 4096)

    def as_it_rises(self: Reader, jobs: Any) -> Any:
        volume.storms(True)
        return read(self, jobs)

    monkeypatch.setattr(Reader, "read", as_it_rises)
    scrubber = scrub(volume)
    scrubber.order(NOW)
    wait(lambda: volume.is_stormy and not scrubber._running)
    assert (scrubber.totals.found, volume.root) == (0, root)
    monkeypatch.setattr(Reader, "read", read)
    volume.storms(False)
    wait(lambda: scrubber.totals.found)


def test_what_is_right_when_it_is_read_from_the_disk_again_is_only_told(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    root, read, lied = volume.root, Reader.read, []

    def lying(self: Reader, jobs: Any) -> Any:
        found = list(read(self, jobs))
        if not lied:
            lied.append(True)
            found[0] = (bytes(16), 0, 0.0)
        return found

    monkeypatch.setattr(Reader, "read", lying)
    scrubber = scrub(volume)
    tour(scrubber)
    assert [one.why for one in volume.condition.scrubbed] == ["slipped"]
    assert (volume.root, scrubber.totals.found) == (root, 0)


def test_a_file_that_can_not_be_read_is_reported_and_keeps_its_entry(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    root = volume.root
    monkeypatch.setattr(Reader, "read", lambda self, jobs: [5 for _ in jobs])
    scrubber = scrub(volume)
    tour(scrubber)
    status = volume.status()
    assert [(one.key, one.why) for one in status.unreadable] == [(b"file", "unreadable")]
    assert (status.unreadable_count, volume.root) == (1, root)
    monkeypatch.undo()
    tour(scrubber)
    assert volume.status().unreadable == ()


# --- the tour ------------------------------------------------------------------------------------


def test_a_tour_begins_when_the_last_one_is_old_enough(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scrubber_module, "IDLE_S", 0.01)
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    clock = [time.time()]
    scrubber = scrub(volume, lambda: clock[0], scrub_interval_s=3600.0)
    wait(lambda: scrubber.state() is not None)
    state = scrubber.state()
    assert state is not None
    assert (state.state, state.debt_bytes) == ("waiting", 0)
    assert state.oldest_age_ms is not None
    assert state.oldest_age_ms < 60_000, "it was just read"
    clock[0] += 3000
    late = scrubber.state()
    assert late is not None
    assert (late.oldest_age_ms, scrubber.totals.files) == (state.oldest_age_ms + 3_000_000, 0)
    clock[0] += 601
    wait(lambda: scrubber.totals.files == 1 and not scrubber._running)
    done = scrubber.state()
    assert done is not None
    assert (done.oldest_age_ms, done.ended_age_ms, done.state) == (0, 0, "waiting")


def test_a_clock_that_was_ahead_and_is_set_right_delays_no_tour(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A tour of next year would be followed by the year's wait for it, in which nothing that decays is found."""
    monkeypatch.setattr(scrubber_module, "IDLE_S", 0.01)
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    clock = [time.time() + 400 * 86400]
    scrubber = scrub(volume, lambda: clock[0], scrub_interval_s=3600.0)
    wait(lambda: scrubber.totals.files == 1 and not scrubber._running)
    clock[0] -= 400 * 86400
    wait(lambda: scrubber.totals.files == 2 and not scrubber._running)
    state = scrubber.state()
    assert state is not None
    assert (state.ended_age_ms, state.state) == (0, "waiting")


def test_paused_it_owes_what_it_does_not_read(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    (tree_dir / "file").write_bytes(bytes(1000))
    volume = scanned()
    clock = [time.time()]
    scrubber = scrub(volume, lambda: clock[0], scrub_interval_s=1000.0)
    wait(lambda: scrubber.state() is not None)
    scrubber.order(Scrub(False, True, None))
    clock[0] += 1500
    state = scrubber.state()
    assert state is not None
    assert state.state == "paused"
    assert 500 <= state.debt_bytes < 560, "half of the interval is over"
    assert scrubber.totals.files == 0


def test_the_position_is_kept_over_a_restart_also_within_a_file(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber], make_volume: MakeVolume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scrubber_module, "SAVE_S", 0.0)
    monkeypatch.setattr(scrubber_module, "JOB_BYTES", 4096)
    (tree_dir / "a").write_bytes(bytes(10))
    (tree_dir / "b").write_bytes(os.urandom(40 * 4096))
    (tree_dir / "c").write_bytes(bytes(10))
    volume = scanned()
    scrubber = scrub(volume, scrub_bytes_s=20_000)
    scrubber.order(Scrub(True, False, None))
    wait(lambda: scrubber.totals.bytes > 2 * 4096)
    stored: Any = volume.history.index.meta(META)  # all that a process killed here leaves
    assert bytes.fromhex(stored["position"]) == b"b"
    assert 0 < stored["offset"] < 40 * 4096
    scrubber.stop()
    volume.close()
    again = scrub(make_volume(), scrub_bytes_s=None)
    wait(lambda: _ended(again) is not None)
    assert again.totals.bytes <= 40 * 4096 + 10 - stored["offset"]
    assert again._progress is not None
    assert (again._progress.files, again._progress.bytes) == (3, 40 * 4096 + 20)


def test_an_index_of_an_older_version_is_due(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    volume.history.note(META, None)
    scrubber = scrub(volume, scrub_interval_s=3600.0)
    wait(lambda: _ended(scrubber) is not None)
    assert scrubber.totals.files == 1


def test_an_index_that_was_made_anew_knows_nothing_of_an_older_tour(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    scrubber = scrub(volume)
    tour(scrubber)
    assert volume.history.index.meta(META)
    volume.history.forget()
    assert volume.history.index.meta(META) is None


def test_limits_hold_and_change_while_it_runs(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    for number in range(400):
        (tree_dir / f"f{number:03}").write_bytes(bytes(10))
    volume = scanned()
    scrubber = scrub(volume, scrub_files_s=40, scrub_bytes_s=1_000_000)
    began = time.monotonic()
    scrubber.order(Scrub(True, False, None))
    wait(lambda: scrubber.totals.files >= 30)
    assert scrubber.totals.files <= 40 * (time.monotonic() - began) + 20, "a batch may be ahead"
    scrubber.order(Scrub(False, True, None))
    wait(lambda: not scrubber._running)
    seen = scrubber.totals.files
    assert 0 < seen < 400
    scrubber.order(Scrub(False, False, 0))  # no limit
    wait(lambda: scrubber.totals.files == 400)


def test_files_follow_the_bytes_that_an_operator_allows(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    volume = scanned()
    scrubber = scrub(volume, scrub_files_s=200, scrub_bytes_s=20_000_000)
    assert scrubber.limits == (20_000_000, 200)
    scrubber.order(Scrub(False, False, 40_000_000))
    assert scrubber.limits == (40_000_000, 400)
    scrubber.order(Scrub(False, False, 0))
    assert scrubber.limits == (None, None)
    scrubber.order(Scrub(False, False, None))
    assert scrubber.limits == (20_000_000, 200)


def test_a_root_that_went_away_is_no_decay(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber], tmp_path: Path
) -> None:
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    tree_dir.rename(tmp_path / "elsewhere")
    tree_dir.mkdir()
    scrubber = scrub(volume)
    scrubber.order(NOW)
    wait(lambda: scrubber._progress is not None and scrubber._progress.under_way and not scrubber._running)
    assert (scrubber.totals.files, volume.condition.scrubbed) == (0, ())


def test_a_reading_process_that_dies_is_started_again(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scrubber_module, "TROUBLE_S", 0.01)
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    read, killed = Reader.read, []

    def dying(self: Reader, jobs: Any) -> Any:
        if not killed:
            killed.append(True)
            self._process.kill()
            self._process.wait()
        return read(self, jobs)

    monkeypatch.setattr(Reader, "read", dying)
    scrubber = scrub(volume)
    tour(scrubber)
    assert (killed, scrubber.totals.files) == ([True], 1)


def test_the_reading_process_is_nice_and_in_the_idle_class(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tree_dir / "file").write_bytes(b"right")
    volume = scanned()
    seen: list[int] = []
    read = Reader.read

    def look(self: Reader, jobs: Any) -> Any:
        found = read(self, jobs)
        seen.append(os.getpriority(os.PRIO_PROCESS, self._process.pid))
        return found

    monkeypatch.setattr(Reader, "read", look)
    tour(scrub(volume))
    assert seen == [10]


# --- the page cache ------------------------------------------------------------------------------


def test_pages_that_were_not_there_are_given_back_and_the_others_stay(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    path = tree_dir / "file"
    path.write_bytes(os.urandom(64 * PAGE_BYTES))
    with path.open("rb") as file:
        fd, status = file.fileno(), os.fstat(file.fileno())
        os.fsync(fd)
        volume = scanned(chunk_bytes=1 << 20)
        drop(fd, [(0, 64 * PAGE_BYTES)])
        if not absent(fd, 0, status.st_size, status):
            pytest.skip("this file system keeps everything in memory")
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 8 * PAGE_BYTES, 16 * PAGE_BYTES)  # what the site serves
        before = absent(fd, 0, status.st_size, status)
        assert before == [(0, 16 * PAGE_BYTES), (24 * PAGE_BYTES, 40 * PAGE_BYTES)]
        tour(scrub(volume))
        assert absent(fd, 0, status.st_size, status) == before


def test_without_the_right_to_ask_the_first_page_stands_for_the_range(
    tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree_dir / "file"
    path.write_bytes(os.urandom(8 * PAGE_BYTES))
    monkeypatch.setattr(os, "geteuid", lambda: 2**30)
    with path.open("rb") as file:
        fd, status = file.fileno(), os.fstat(file.fileno())
        assert absent(fd, 0, status.st_size, status) == ()
        os.fsync(fd)
        drop(fd, [(0, 8 * PAGE_BYTES)])
        assert absent(fd, 0, status.st_size, status) in ((), ((0, 8 * PAGE_BYTES),))


# --- the pace ------------------------------------------------------------------------------------


def test_a_pace_is_exact_and_a_new_rate_counts_at_once() -> None:
    pace = Pace(bytes_s=1000.0)
    pace.spend(0.0, 500, 1)
    assert pace.due_s(0.0) == pytest.approx(0.5)
    assert pace.due_s(0.25) == pytest.approx(0.25)
    pace.bytes_s = 100.0
    assert pace.due_s(0.25) == pytest.approx(2.5)
    pace.bytes_s = None
    assert pace.due_s(0.25) == 0.0


def test_the_slower_of_bytes_and_files_rules() -> None:
    pace = Pace(bytes_s=1000.0, files_s=10.0)
    pace.spend(0.0, 100, 5)
    assert pace.due_s(0.0) == pytest.approx(0.5)


def test_without_a_limit_it_still_gives_way() -> None:
    pace = Pace()
    pace.spend(0.0, 10**9, 1)
    assert pace.due_s(0.0) == 0.0
    pace.scale = 0.5
    pace.spend(0.0, 10**9, 1)
    assert pace.due_s(0.0) > 1.0


@pytest.mark.parametrize(("io", "cpu"), [(0.5, 0.0), (0.0, 0.9), (None, 0.9)])
def test_pressure_slows_down_and_its_end_lets_go(io: float | None, cpu: float) -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.look(io, cpu, None)
    assert backoff.scale == SCALE_MIN
    for _ in range(40):
        backoff.look(0.0, 0.0, None)
    assert backoff.scale == 1.0


def test_where_the_kernel_does_not_tell_slow_reads_do() -> None:
    backoff = Backoff()
    backoff.look(None, None, 0.01)
    assert backoff.scale == 1.0
    backoff.look(None, None, 0.01 * LATENCY_FACTOR * 2)
    assert backoff.scale == 0.5
    kernel_tells = Backoff()
    kernel_tells.look(0.0, 0.0, 0.01)
    kernel_tells.look(0.0, 0.0, 10.0)
    assert kernel_tells.scale == 1.0


def test_own_waiting_is_no_pressure(tmp_path: Path) -> None:
    clock = [0.0]

    def tell(total_us: int) -> None:
        line = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total_us}\nfull avg10=0.00 total=0\n"
        for name in ("io", "cpu"):
            (tmp_path / name).write_text(line)

    tell(1_000_000)
    pressure = Pressure(tmp_path, lambda: clock[0])
    clock[0] += 2.0
    tell(2_000_000)
    assert pressure.look(own_wait_s=0.8) == (pytest.approx(0.1), pytest.approx(0.5))
    assert Pressure(tmp_path / "none").look(0.0) == (None, None)


def test_a_thread_that_scrubs_ends_when_it_is_told(
    tree_dir: Path, scanned: Callable[..., Volume], scrub: Callable[..., Scrubber]
) -> None:
    (tree_dir / "file").write_bytes(bytes(100_000))
    scrubber = scrub(scanned(), scrub_bytes_s=1000)
    scrubber.order(Scrub(True, False, None))
    wait(lambda: scrubber._running)
    scrubber.stop()
    assert not any(thread.name == "scrub-photos" for thread in threading.enumerate())
