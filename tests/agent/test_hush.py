"""Hushes: the budget as plain numbers; on a real mark, that what nobody was told of is committed soon and proven."""

from __future__ import annotations

import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from closeranks_agent.disk.volume import Volume
from closeranks_agent.hands.attribution import Attribution
from closeranks_agent.statuses import worth_telling
from closeranks_agent.volumes import WATCHED_SCAN_MAX_S, Volumes, asked_rest_s, free_mono, scan_interval_s
from closeranks_agent.watch import hush as hush_module
from closeranks_agent.watch import writing
from closeranks_agent.watch.counters import Counters, writes_of
from closeranks_agent.watch.dirty import Dirty
from closeranks_agent.watch.events import What
from closeranks_agent.watch.fanotify import FanotifySource
from closeranks_agent.watch.holders import Holders
from closeranks_agent.watch.hush import (
    ASK_RARELY_S,
    BUDGET,
    BURST_S,
    LOOK_RARELY_S,
    LOOK_SHARE,
    MUTED_S,
    SCAN_SHARE,
    SHOWN,
    TOLD_S,
    WRITERS_MAX,
    Hush,
)
from closeranks_agent.watching import Watching
from closeranks_proto import messages as wire
from closeranks_proto.entries import entry_size
from obedient import WRITE, obedient, running, tell
from watched_volume import WatchedVolume, Weather, until

MakeVolume = Callable[..., Volume]
root_only = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")]


class Counted(Counters):
    """Whoever is asked for has made so many calls since."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, int] = {}

    def since(self, pids: Any) -> dict[int, int]:
        return {pid: self.calls.pop(pid) for pid in pids if pid in self.calls}


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Hush, Counted]:
    monkeypatch.setattr(hush_module, "BURST_S", BURST_S)
    source: Any = SimpleNamespace(
        path=os.fsencode(tmp_path),
        can_hush=True,
        can_mute=False,
        hush=lambda: None,
        ask=lambda: None,
        unhush=lambda: None,
    )
    hush = Hush(source, Attribution())
    hush._counters = counted = Counted()
    return hush, counted


class TestBudget:
    def rounds(
        self, loud: tuple[Hush, Counted], pace: float, muted: set[int], seconds: float, start: float = 1000.0
    ) -> int | None:
        """After how many hundredths of a second it begins, where process 5 writes at that pace."""
        hush, counted = loud
        for tick in range(int(seconds * 100)):
            counted.calls[5] = int(pace / 100)
            if hush.told(() if muted else {5}, muted, start + tick / 100):
                return tick
        return None

    def test_what_stays_below_it_is_told_for_ever(self, loud: tuple[Hush, Counted]) -> None:
        assert self.rounds(loud, 0.95 * BUDGET / TOLD_S, set(), 60) is None

    def test_a_fast_writer_overdraws_it_in_some_hundredths_of_a_second(
        self, loud: tuple[Hush, Counted]
    ) -> None:
        ticks = self.rounds(loud, 340_000, set(), 1)
        assert ticks is not None
        assert ticks < 10

    def test_what_a_mark_on_the_file_ignores_costs_less(self, loud: tuple[Hush, Counted]) -> None:
        assert MUTED_S < TOLD_S / 2
        assert self.rounds(loud, 0.95 * BUDGET / MUTED_S, {5}, 60) is None
        assert self.rounds(loud, 1.5 * BUDGET / MUTED_S, {5}, 60, 2000.0) is not None

    def test_a_large_file_that_is_copied_once_is_told(self, loud: tuple[Hush, Counted]) -> None:
        assert self.rounds(loud, 8192 / 0.14, set(), 0.14) is None, "1 GiB by 128 KiB"

    def test_after_a_scan_that_took_long_it_waits(self, loud: tuple[Hush, Counted]) -> None:
        hush, _ = loud
        hush.scanned(900.0, 1000.0)
        assert self.rounds(loud, 340_000, set(), 1) is not None, "a scan for another reason"
        hush.begin(1001.0)
        hush.end()
        hush.forget()
        hush.scanned(990.0, 1000.0)
        hush.scanned(900.0, 1000.0)
        assert self.rounds(loud, 340_000, set(), 10 * SCAN_SHARE - 1, 1001.0) is None
        assert self.rounds(loud, 340_000, set(), 1, 1000.0 + 10 * SCAN_SHARE) is not None

    def test_none_begins_before_the_scan_behind_the_last_one_has_ended(
        self, loud: tuple[Hush, Counted]
    ) -> None:
        """No scan would end outside of a hush, where hushes follow each other closely: nothing were ever proven."""
        hush, _ = loud
        hush.begin(1000.0)
        hush.end()
        hush.forget()
        assert self.rounds(loud, 340_000, set(), 5, 1006.0) is None
        hush.scanned(1006.0, 1011.0)
        assert self.rounds(loud, 340_000, set(), 1, 1011.0 + 5 * SCAN_SHARE) is not None

    def test_what_a_process_calls_for_between_two_rare_events_may_have_gone_elsewhere(
        self, loud: tuple[Hush, Counted]
    ) -> None:
        """A server that writes a line into its log now and then, and all the time to sockets."""
        hush, counted = loud
        for second in range(60):
            counted.calls[5] = 500_000
            assert not hush.told({5}, (), 1000.0 + second)

    def test_writers_without_number_are_not_counted_all(self, loud: tuple[Hush, Counted]) -> None:
        hush, _ = loud
        hush.told(range(-5, 10 * WRITERS_MAX), (), 1000.0)
        assert len(hush._writers) == WRITERS_MAX
        assert 0 not in hush._writers


class TestLooks:
    def test_a_long_search_for_holders_puts_off_the_next_search_and_no_look(
        self, loud: tuple[Hush, Counted], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a server with many processes, a file beside a database was committed a second later."""
        hush, _ = loud

        def find() -> dict[int, Any]:
            began = time.thread_time()
            while time.thread_time() - began < 0.02:
                pass
            return {}

        monkeypatch.setattr(hush._holders, "find", find)
        hush.begin(1000.0)
        hush.look(Dirty(), 1000.0)
        assert hush.due - 1000.0 < LOOK_RARELY_S / 2
        assert hush._full_due - 1000.0 >= 0.02 * LOOK_SHARE

    def test_a_long_comparison_puts_off_the_next_comparison_and_no_look(
        self, loud: tuple[Hush, Counted], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Four directories of 1,000 entries, compared each second, took 2% of a core."""
        hush, _ = loud
        asked = []

        def ask() -> None:
            asked.append(began := time.thread_time())
            while time.thread_time() - began < 0.02:
                pass

        monkeypatch.setattr(hush._source, "ask", ask)
        monkeypatch.setattr(hush._holders, "find", dict)
        hush.begin(1000.0)
        for at in (0.0, 0.5, 1.0, 0.019 * LOOK_SHARE):
            hush.look(Dirty(), 1000.0 + at)
            assert hush.due - 1000.0 - at < LOOK_RARELY_S / 2
        assert len(asked) == 1
        hush.look(Dirty(), 1000.0 + ASK_RARELY_S)
        assert len(asked) == 2


class TestCounters:
    def test_calls_since_the_last_time_are_told(self, tmp_path: Path) -> None:
        with obedient(tmp_path / "file") as process:
            counters = Counters()
            assert counters.since([process.pid]) == {process.pid: 0}
            for _ in range(5):
                tell(process, "x")
            assert 5 <= counters.since([process.pid])[process.pid] <= 20, "each of them, and its answers"
            assert counters.since([]) == {}
            assert counters.since([process.pid]) == {process.pid: 0}

    def test_of_a_process_that_is_gone_nothing_is_told(self) -> None:
        process = subprocess.Popen(["true"])
        process.wait()
        assert writes_of(process.pid) is None
        assert Counters().since([process.pid]) == {}


class TestHolders:
    pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="needs /proc")

    def test_files_that_are_open_to_write_are_found_and_no_others(self, tmp_path: Path) -> None:
        for name in ("one", "two", "gone", "read"):
            (tmp_path / name).write_bytes(b"x")
        inodes = {name: (tmp_path / name).stat().st_ino for name in ("one", "two", "gone", "read")}
        with obedient(tmp_path / "one", tmp_path / "gone") as first, obedient(tmp_path / "one") as second:
            argv = ["sh", "-c", 'exec sleep 60 < "$1"', "sh", str(tmp_path / "read")]
            with subprocess.Popen(argv) as reader:
                (tmp_path / "gone").unlink()
                holders = Holders(os.fsencode(tmp_path))
                found = holders.find()
                assert found[inodes["one"]].pids == {first.pid, second.pid}
                assert not found.keys() & {inodes["two"], inodes["gone"], inodes["read"]}
                assert all(stat.S_ISREG(held.stat.st_mode) for held in found.values())
                before = found[inodes["one"]].stat.st_size
                tell(first, "more")
                again = holders.again({inodes["one"]: found[inodes["one"]]})
                assert again[inodes["one"]].stat.st_size == before + 5
                reader.kill()
        assert holders.again({inodes["one"]: found[inodes["one"]]}) == {}

    @pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")
    def test_a_volume_below_dev_has_files_there(self) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name, obedient(Path(name, "log")) as process:
            held = Holders(os.fsencode(name)).find()[Path(name, "log").stat().st_ino]
            assert held.pids == {process.pid}

    @pytest.mark.parametrize("left", [0, 1])
    def test_where_no_more_files_may_be_opened_nobody_is_found(self, own: Path, left: int) -> None:
        """That ended the watcher, by a fault."""
        holders = Holders(os.fsencode(own))
        free = [os.dup(0) for _ in range(left + 1)]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for one in free:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], limits[1]))
        try:
            assert holders.find() == {}
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
    def test_another_filesystem_is_left_alone(self, tmp_path: Path, own: Path) -> None:
        with obedient(own / "there") as process:
            inode = (own / "there").stat().st_ino
            assert Holders(os.fsencode(own)).find()[inode].pids == {process.pid}
            found = Holders(os.fsencode(tmp_path)).find()
            assert all(held.stat.st_dev == tmp_path.stat().st_dev for held in found.values())


class TestScans:
    def test_scans_prove_while_it_lasts_and_take_a_small_part_of_the_time(self) -> None:
        for took_s in (0.1, 3.0):
            assert asked_rest_s(took_s, hushed=True) >= 40 * took_s
            assert asked_rest_s(took_s, hushed=False) <= took_s
        assert scan_interval_s(60.0, 3.0, covered=False, hushed=True) == pytest.approx(150.0)
        assert scan_interval_s(60.0, 0.1, covered=False, hushed=True) == 60.0
        assert scan_interval_s(60.0, 3.0, covered=False, hushed=False) == 60.0
        assert scan_interval_s(60.0, 3.0, covered=True, hushed=False) == 3000.0
        assert scan_interval_s(60.0, 300.0, covered=True, hushed=False) == WATCHED_SCAN_MAX_S

    def test_the_scan_behind_it_waits_no_longer_than_any_other(self) -> None:
        """A tree that takes ten minutes was scanned an hour later, and nothing was proven until then."""
        kept: Any = SimpleNamespace(
            scanned_mono=1000.0, scan_took_s=600.0, watching=SimpleNamespace(hushed=True)
        )
        assert free_mono(kept) >= 1000.0 + 40 * 600.0
        kept.watching.hushed = False
        assert free_mono(kept) <= 1000.0 + 600.0

    def test_it_is_said_in_words(self) -> None:
        nobody: Any = SimpleNamespace()
        watching = Watching("photos", "auto", nobody, nobody, lambda: None, lambda: None)
        source = SimpleNamespace(unwatched=0)
        watcher: Any = SimpleNamespace(stormy=False, hushed=False, source=source)
        watching._watcher = watcher
        assert watching.shown_detail == ""
        watcher.hushed = True
        assert watching.shown_detail == SHOWN
        assert "nothing has to be done" in SHOWN

    def test_the_coordinator_is_told_that_a_proof_takes_as_long_as_a_scan(self) -> None:
        status = wire.VolumeStatus("photos", None, 1, 1, 1, (), 0, 100, 100, 1)
        watching = SimpleNamespace(
            kind="fanotify", shown_detail=SHOWN, stormy=False, is_proven_by_scans=True,
            tally=SimpleNamespace(dropped=0, canary_misses=0),
        )  # fmt: skip
        volume = SimpleNamespace(root=b"root", status=lambda: status)
        kept = SimpleNamespace(looked=True, volume=volume, watching=watching, problem=None, scrubber=None)
        volumes: Any = SimpleNamespace(_kept={"photos": kept})
        hushed = Volumes.status(volumes, "photos")
        assert hushed is not None
        assert hushed.hush
        assert worth_telling(msgspec.structs.replace(hushed, hush=False), hushed)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A filesystem to which nobody else writes."""
    path = tmp_path / "own"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


class TestOnDisk:
    pytestmark = root_only

    @pytest.fixture
    def tree_dir(self, own: Path) -> Path:
        path = own / "tree"
        path.mkdir()
        return path

    @pytest.fixture(params=["fanotify", "inotify"])
    def one(
        self,
        make_volume: MakeVolume,
        monkeypatch: pytest.MonkeyPatch,
        tree_dir: Path,
        request: pytest.FixtureRequest,
    ) -> Iterator[WatchedVolume]:
        """Whoever writes is too fast for it, and calm is what a fifth of a second shows."""
        monkeypatch.setattr(hush_module, "BURST_S", 1e-6)
        monkeypatch.setattr(hush_module, "BUDGET", 1e-4)
        monkeypatch.setattr(hush_module, "CALM_S", 0.2)
        monkeypatch.setattr(hush_module, "ALL_EVERY_S", 0.05)
        monkeypatch.setattr(hush_module, "LOOK_SHARE", 0.0)
        monkeypatch.setattr(hush_module, "SCAN_SHARE", 0.0)
        monkeypatch.setattr(writing, "FIND_SHARE", 0.0)
        watched = WatchedVolume(make_volume(path=tree_dir), request.param)
        yield watched
        watched.close()
        assert watched.ended == []

    def is_hushed(self, one: WatchedVolume) -> bool:
        return one.watcher.hushed

    def now_on_disk(self, one: WatchedVolume) -> None:
        """The root that the watcher led to is the one that a full scan finds."""
        root = one.volume.root
        one.scan(full=True)
        assert one.volume.root == root

    @pytest.mark.parametrize(
        ("one", "place"),
        [("fanotify", "tree/hot"), ("fanotify", "hot"), ("inotify", "tree/hot")],
        indirect=["one"],
    )
    def test_a_fast_writer_is_not_told_of_in_the_volume_or_beside_it(
        self, one: WatchedVolume, own: Path, place: str
    ) -> None:
        with running(WRITE, own / place):
            until(lambda: self.is_hushed(one))
            time.sleep(0.2)  # what was queued before is read
            before, changed = one.tally.events, one.tally.changed
            if place == "hot":
                time.sleep(0.5)
                assert one.tally.changed == changed == 0
            else:
                until(lambda: one.tally.changed >= changed + 3)
            assert one.tally.events - before < 100, "some a look at most, of some 100,000 writes a second"
        until(lambda: not self.is_hushed(one))
        one.settle()
        self.now_on_disk(one)

    def test_it_ends_with_a_scan_and_single_writes_are_told_again(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        with running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            wanted = len(one.wanted)
        until(lambda: not self.is_hushed(one))
        until(lambda: len(one.wanted) > wanted)
        one.settle()
        with obedient(tree_dir / "log") as process:
            one.settle()
            before = one.tally.events
            tell(process, "a line")
            until(lambda: one.tally.events > before, 10.0)  # the canary would come after 30 s
        one.settle()
        self.now_on_disk(one)

    def test_until_the_scan_behind_it_has_ended_it_is_told_that_scans_prove(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        assert not one.watcher.is_proven_by_scans
        scan = threading.Event()
        with running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            assert one.watcher.is_proven_by_scans
            one.volume._worker._thread.submit(scan.wait)
        try:
            until(lambda: not self.is_hushed(one))
            assert one.watcher.is_proven_by_scans
        finally:
            scan.set()
        one.settle()
        assert not one.watcher.is_proven_by_scans

    def test_a_busy_server_with_a_log_open_does_not_keep_it_going(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        """Its calls are counted whatever they are for: what it sends to its clients is no write into a file."""
        serve = "import os, sys\nlog = open(sys.argv[1], 'a')\nwhile True: os.write(1, b'x' * 4096)"
        with running(serve, tree_dir / "log") as server:
            assert server.stdout is not None
            pipe = server.stdout.fileno()
            drain = threading.Thread(target=lambda: deque(iter(partial(os.read, pipe, 1 << 16), b""), 0))
            drain.start()
            with running(WRITE, tree_dir / "hot"):
                until(lambda: self.is_hushed(one))
                time.sleep(0.3)  # all holders are known by then
            until(lambda: not self.is_hushed(one), 15.0)
            server.kill()
            drain.join()

    def test_a_write_into_a_file_that_was_open_before_is_committed_soon(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        """One that was opened before, one opened meanwhile, one of two names, one renamed while it is open."""
        (tree_dir / "a").mkdir()
        (tree_dir / "twin").touch()
        os.link(tree_dir / "twin", tree_dir / "a" / "twin")
        names = ["before", "twin", "old"]
        with ExitStack() as stack:
            processes = [stack.enter_context(obedient(tree_dir / name)) for name in names]
            one.settle()
            stack.enter_context(running(WRITE, tree_dir / "hot"))
            until(lambda: self.is_hushed(one))
            (tree_dir / "old").rename(tree_dir / "a" / "new")
            processes.append(stack.enter_context(obedient(tree_dir / "a" / "meanwhile")))
            for name, process in zip(["before", "twin", "a/new", "a/meanwhile"], processes, strict=True):
                for line in ("first", "second"):
                    tell(process, line)
                    size = (tree_dir / name).stat().st_size
                    key = name.replace("/", "\0").encode()
                    until(partial(self.is_size, one, key, size), 10.0)
            assert self.is_hushed(one)

    def is_as_wanted(self, one: WatchedVolume, wanted: bool) -> bool:
        return one.watcher.hushed or not wanted

    def is_size(self, one: WatchedVolume, key: bytes, size: int) -> bool:
        """As it is committed, under this name or for the twin under its other one."""
        index = one.volume.history.index
        with index.database.lock:
            rows = [index.row(name) for name in ((key, b"a\0twin") if key == b"twin" else (key,))]
        return any(entry_size(row.value) == size for row in rows if row is not None)

    def test_one_who_sees_the_volume_at_another_place_is_found(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        """A container sees it under a name of its own."""
        (tree_dir / "log").touch()
        there = tree_dir.parent / "there"
        there.mkdir()
        bind = f'mount --bind "{tree_dir}" "{there}" && exec "$@"'
        wrapped = ("unshare", "--mount", "--propagation", "private", "sh", "-c", bind, "sh")
        with obedient(there / "log", wrapped=wrapped) as process:
            one.settle()
            with running(WRITE, tree_dir / "hot"):
                until(lambda: self.is_hushed(one))
                tell(process, "a line")
                until(partial(self.is_size, one, b"log", 7), 10.0)
                assert self.is_hushed(one)

    @pytest.mark.parametrize("one", ["inotify"], indirect=True)
    def test_whoever_has_it_open_is_no_hand_where_writers_may_be_hidden(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        with obedient(tree_dir / "alone") as process, running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            one.scan()
            tell(process, "x")
            heard: list[Any] = []

            def is_heard() -> bool:
                heard.extend(filter(None, [one.watcher.hand_of(b"alone")]))
                return bool(heard)

            until(is_heard)
        assert {(hand.pid, hand.detail) for hand in heard} == {(0, one.watcher.source.why_unknown)}

    @pytest.mark.parametrize("one", ["inotify"], indirect=True)
    def test_who_writes_beside_the_volume_keeps_none_going_where_that_costs_nothing(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        with running(WRITE, tree_dir.parent / "beside"):
            with running(WRITE, tree_dir / "hot"):
                until(lambda: self.is_hushed(one))
                time.sleep(0.3)  # all holders are known by then
            until(lambda: not self.is_hushed(one), 15.0)

    @pytest.mark.parametrize("one", ["inotify"], indirect=True)
    def test_a_directory_that_becomes_hot_meanwhile_is_not_told_of_either(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        (tree_dir / "b").mkdir()
        one.settle()
        hushed = one.watcher.source._hushed  # type: ignore[attr-defined]
        with running(WRITE, tree_dir / "hot"), ExitStack() as stack:
            until(lambda: self.is_hushed(one))
            assert len(hushed.compared) == 1
            stack.enter_context(running(WRITE, tree_dir / "b" / "hot"))
            until(lambda: len(hushed.compared) == 2)

    @pytest.mark.parametrize("one", ["inotify"], indirect=True)
    def test_what_came_and_went_between_two_comparisons_is_known_gone_by_the_scan_behind_it(
        self, one: WatchedVolume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look at a whole directory may have committed it meanwhile."""
        (tree_dir / "top" / "hot").mkdir(parents=True)
        (tree_dir / "comes").mkdir()
        one.settle()
        source: Any = one.watcher.source
        asks, ask = [0], source.ask

        def may_ask() -> None:
            asks[0] += 1
            if asks[0] > 0:
                ask()

        monkeypatch.setattr(source, "ask", may_ask)
        with running(WRITE, tree_dir / "top" / "hot" / "file"):
            until(lambda: self.is_hushed(one) and len(source._hushed.compared) == 1)
            asks[0] = -10_000
            (tree_dir / "comes").rename(tree_dir / "top" / "hot" / "comes")
            (tree_dir / "top").rename(tree_dir / "moved")
            key = b"moved\0hot\0comes"
            until(lambda: one.volume.record(key) is not None)
            (tree_dir / "moved" / "hot" / "comes").rmdir()
            asks[0] = 0
            until(lambda: asks[0] >= 3)
            assert one.volume.record(key) is not None, "nothing tells of it"
        until(lambda: not self.is_hushed(one))
        one.settle()
        assert one.volume.record(key) is None
        self.now_on_disk(one)

    @pytest.mark.parametrize("one", ["fanotify"], indirect=True)
    def test_who_alone_has_it_open_is_the_hand_and_of_several_nobody(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        with (
            obedient(tree_dir / "alone") as alone,
            obedient(tree_dir / "shared") as first,
            obedient(tree_dir / "shared"),
        ):
            one.settle()
            with running(WRITE, tree_dir.parent / "beside"):
                until(lambda: self.is_hushed(one))
                one.scan()
                tell(alone, "x")
                tell(first, "x")
                hands: dict[bytes, Any] = {}

                def both() -> bool:
                    heard = {key: one.watcher.hand_of(key) for key in (b"alone", b"shared")}
                    hands.update({key: hand for key, hand in heard.items() if hand is not None})
                    return len(hands) == 2

                until(both)
        assert hands[b"alone"].pid == alone.pid
        assert hands[b"shared"].pid == 0
        assert "2 processes" in hands[b"shared"].detail

    def test_nothing_is_proven_while_it_lasts_but_by_scans(self, one: WatchedVolume, tree_dir: Path) -> None:
        one.settle()
        proven = one.watcher.proven
        with running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            proven = one.watcher.proven
            assert (one.watcher.prove(), one.watcher.covered) == (False, False)
            one.scan()
            assert (one.watcher.prove(), one.watcher.covered) == (False, False)
        until(lambda: one.watcher.covered)
        assert one.watcher.proven == proven
        one.prove()

    def test_a_proof_that_was_under_way_becomes_a_scan(self, one: WatchedVolume, tree_dir: Path) -> None:
        one.settle()
        with one.watcher._lock:
            one.watcher._proof._asked, one.watcher._proof._due = True, inf  # it has to wait
        with running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            until(lambda: any("a proof was under way" in why for why in one.wanted))
        one.watcher._proof._due = 0.0

    def test_a_file_that_is_cut_without_being_opened_is_known_in_the_end(
        self, one: WatchedVolume, tree_dir: Path
    ) -> None:
        """truncate(2) by a path: no open, no close, and no process that holds it."""
        (tree_dir / "cut").write_bytes(b"x" * 10_000)
        one.settle()
        with running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            subprocess.run(
                [sys.executable, "-c", "import os, sys; os.truncate(sys.argv[1], 7)", tree_dir / "cut"],
                check=True,
            )
        until(lambda: not self.is_hushed(one))
        one.settle()
        assert self.is_size(one, b"cut", 7)
        self.now_on_disk(one)

    def test_a_storm_takes_its_place(
        self, one: WatchedVolume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weather = Weather(monkeypatch)
        with running(WRITE, tree_dir / "hot"):
            until(lambda: self.is_hushed(one))
            weather.rise(one, tree_dir)
            assert not self.is_hushed(one)
        weather.fall(one)
        one.settle()
        with obedient(tree_dir / "log") as process:
            one.settle()
            before = one.tally.events
            tell(process, "a line")
            until(lambda: one.tally.events > before, 10.0)
        one.settle()
        self.now_on_disk(one)

    @pytest.mark.parametrize("seed", range(3))
    def test_each_byte_of_many_writers_is_committed_when_it_is_proven(
        self, one: WatchedVolume, tree_dir: Path, seed: int
    ) -> None:
        """At random moments before, in and after hushes, into files that stay open; proven by whatever may."""
        rng = random.Random(seed)
        names = [tree_dir / f"{number % 3}-{number}" for number in range(24)]
        with ExitStack() as stack:
            writers = [stack.enter_context(obedient(*names[at : at + 6])) for at in range(0, 24, 6)]
            hot = stack.enter_context(running(WRITE, tree_dir / "hot", tree_dir / "hotter"))
            for turn in range(12):
                hot.send_signal(signal.SIGCONT if turn % 2 else signal.SIGSTOP)
                for _ in range(rng.randrange(30)):
                    tell(rng.choice(writers), "x" * rng.randrange(1, 5000))
                    time.sleep(rng.random() * 0.01)
                if rng.random() < 0.5:
                    wanted = rng.random() < 0.5 and bool(turn % 2)
                    until(partial(self.is_as_wanted, one, wanted))
                hot.send_signal(signal.SIGSTOP)
                if not one.watcher.prove():
                    one.scan()
                else:
                    one.prove()
                self.now_on_disk(one)
            assert one.tally.hushes

    def test_a_hush_tells_of_closing_and_of_all_but_writes(self, tree_dir: Path) -> None:
        private = tree_dir / ".closeranks"
        private.mkdir()
        source = FanotifySource(os.fsencode(tree_dir), os.fsencode(private), lambda key: False, own_pid=-1)
        try:
            with obedient(tree_dir / "log") as process:
                source.read()
                source.hush()
                tell(process, "one")
                assert (source.read(), source.writers) == ([], set())
                source.unhush()
                tell(process, "two")
                assert [event.what for event in source.read()] == [What.MODIFIED]  # type: ignore[union-attr]
                assert source.writers == {process.pid}
                source.hush()
            assert [event.what for event in source.read()] == [What.CLOSED]  # type: ignore[union-attr]
            (private / "canary").touch()
            for name, key in ((b"log", b"log"), (b".closeranks/canary", None)):
                fd = os.open(os.fsencode(tree_dir) + b"/" + name, os.O_PATH)
                assert source.key_of(fd) == key
                os.close(fd)
        finally:
            source.close()
