"""Writers of many kinds against a real source: once they are quiet, the root is that of what lies on disk."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from closeranks_agent.disk import listing as listing_module
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.hashing import EntryReader, Reading
from closeranks_agent.disk.volume import Volume
from closeranks_agent.watch import calls
from closeranks_agent.watch import dirty as dirty_module
from closeranks_agent.watch import proof as proof_module
from closeranks_agent.watch import watcher as watcher_module
from closeranks_agent.watch.events import Event, Lost
from closeranks_agent.watch.source import open_source
from closeranks_proto.messages import Announce, Commit
from watched_volume import WatchedVolume, Weather, until

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]
KINDS = [
    "inotify",
    pytest.param("fanotify", marks=pytest.mark.root),
]
CHURN = Path(__file__).parent.parent / "churn.py"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def watch(make_volume: MakeVolume, kind: str) -> Iterator[Callable[..., WatchedVolume]]:
    """Scans and watches a volume over `tree_dir`."""
    opened: list[WatchedVolume] = []

    def make(volume: Volume | None = None, **changed: object) -> WatchedVolume:
        opened.append(WatchedVolume(volume or make_volume(**changed), kind))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def shell(tree_dir: Path, script: str) -> None:
    """A writer with a process of its own."""
    subprocess.run(["sh", "-ec", script], cwd=tree_dir, check=True, capture_output=True)


def python(tree_dir: Path, script: str) -> None:
    subprocess.run([sys.executable, "-c", script], cwd=tree_dir, check=True, capture_output=True)


APPEND = """
import time
with open({!r}, "ab", buffering=0) as file:
    while True:
        file.write(bytes({}))
        time.sleep(0.003)
"""
PYTHON_MODE = {
    "truncate": "import os; os.truncate('d/long', 100); os.truncate('d/long', 5000)",
    "a file that was open without a name": """
import os
fd = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o644)
os.write(fd, b"nameless")
here = os.open(".", os.O_RDONLY)
os.link(f"/proc/self/fd/{fd}", "named", src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)
""",
    "a shared map": """
import mmap
with open("d/long", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    mapped[5:10] = b"mmaps"
""",
    "sqlite": """
import sqlite3
base = sqlite3.connect("d/base.sqlite")
base.execute("PRAGMA journal_mode = WAL")
base.execute("CREATE TABLE t (a)")
for number in range(50):
    base.execute("INSERT INTO t VALUES (?)", (number,))
    base.commit()
base.close()
""",
    "directories that come, move and go": """
import os, shutil
for number in range(30):
    os.makedirs(f"x/{number}/a/b")
    open(f"x/{number}/a/b/f", "w").write(str(number))
    os.rename(f"x/{number}/a", f"x/{number}/c")
    if number % 3 == 0:
        shutil.rmtree(f"x/{number}")
""",
    "a name in every role": """
import os, shutil
for number in range(20):
    open("n", "w").close(); os.unlink("n")
    os.mkdir("n"); open("n/f", "w").write("x"); shutil.rmtree("n")
    os.symlink("d", "n"); os.unlink("n")
os.mkdir("n"); open("n/g", "w").write("last")
""",
}
SHELL_MODE = {
    "a deep path": "mkdir -p a/b/c/d/e/f/g; echo x > a/b/c/d/e/f/g/h",
    "rename over": "echo new > .t; mv .t d/small; echo other > .u; mv .u d/long",
    "a directory moved": "mv d e; mv e/e/inner .; mkdir f; mv e f/g",
    "modes and links": "chmod 600 d/small; ln -s small d/sym; ln -sfn other d/sym; chmod 700 d/e",
    "hard links": "ln d/small d/e/twin; echo through >> d/e/twin; ln d/small third; echo more >> third",
    "copies and removals": "cp -a d copy; rm -r d; cp -a copy/e back; rm copy/small",
    "tar": "tar cf ../t.tar d; rm -r d; mkdir in; tar xf ../t.tar -C in; tar xf ../t.tar",
    "rsync": "cp -a d ../source; echo changed > ../source/small; rsync -a --delete ../source/ d/; "
    "echo again >> ../source/long; rsync -a --inplace ../source/ d/",
    "git": "git init -q r; cd r; git config user.email a@b; git config user.name a; echo 1 > f; mkdir s; echo 2 > s/g; "
    "git add .; git commit -qm one; git checkout -qb b; rm -r s; echo 3 > f; git add -A; git commit -qm two; "
    "git checkout -q -; git checkout -q b; git gc -q",
}


def plant(tree_dir: Path) -> None:
    (tree_dir / "stays").touch()
    (tree_dir / "d" / "e" / "inner").mkdir(parents=True)
    (tree_dir / "d" / "small").write_bytes(b"small")
    (tree_dir / "d" / "long").write_bytes(os.urandom(10_000))
    (tree_dir / "d" / "e" / "file").write_bytes(b"file")


@pytest.mark.parametrize("what", [*PYTHON_MODE, *SHELL_MODE])
def test_after_each_kind_of_writer_the_root_is_that_of_the_disk(
    tree_dir: Path, watch: Callable[..., WatchedVolume], expected_root: Expected, what: str
) -> None:
    tool = what.split()[0]
    if tool in ("git", "rsync", "tar") and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    plant(tree_dir)
    watched = watch()
    if what in PYTHON_MODE:
        python(tree_dir, PYTHON_MODE[what])
    else:
        shell(tree_dir, SHELL_MODE[what])
    watched.settle()
    assert watched.volume.root == expected_root(watched.volume)
    assert watched.scan(full=True).changed == 0
    assert not watched.ended


@pytest.mark.parametrize("kind", KINDS[1:], indirect=True)
@pytest.mark.parametrize("what", [*PYTHON_MODE, *SHELL_MODE])
def test_what_each_kind_of_writer_does_in_a_storm_is_known_after_it(
    tree_dir: Path, watch: Callable[..., WatchedVolume], expected_root: Expected, what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tool = what.split()[0]
    if tool in ("git", "rsync", "tar") and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    plant(tree_dir)
    watched, weather = watch(), Weather(monkeypatch)
    weather.rise(watched, tree_dir)
    if what in PYTHON_MODE:
        python(tree_dir, PYTHON_MODE[what])
    else:
        shell(tree_dir, SHELL_MODE[what])
    weather.fall(watched)
    watched.settle()
    assert watched.volume.root == expected_root(watched.volume)
    assert watched.scan(full=True).changed == 0
    assert not watched.ended


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_turned_over_at_random_is_known_in_the_end(
    tmp_path: Path, tree_dir: Path, watch: Callable[..., WatchedVolume], expected_root: Expected, seed: int
) -> None:
    plant(tree_dir)
    (tmp_path / "outside").mkdir()
    watched = watch()
    for turn in range(3):
        run = [sys.executable, str(CHURN), str(tree_dir), str(tmp_path / "outside"), f"{seed}{turn}", "150"]
        subprocess.run(run, check=True)
        watched.settle()
        assert watched.volume.root == expected_root(watched.volume)
    assert watched.scan(full=True).changed == 0


def test_what_was_written_before_a_proof_is_committed_after_it(
    tree_dir: Path, watch: Callable[..., WatchedVolume], expected_root: Expected
) -> None:
    plant(tree_dir)
    watched = watch()
    for number in range(20):
        (tree_dir / f"f{number}").write_bytes(b"%d" % number)
        watched.prove()
        assert watched.volume.root == expected_root(watched.volume)


def test_what_was_written_in_a_new_directory_before_a_proof_is_committed_after_it(
    tree_dir: Path, watch: Callable[..., WatchedVolume], expected_root: Expected
) -> None:
    plant(tree_dir)
    watched = watch()
    for number in range(20):
        (tree_dir / f"new{number}" / "e").mkdir(parents=True)
        (tree_dir / f"new{number}" / "e" / "f").write_bytes(b"%d" % number)
        watched.prove()
        assert watched.volume.root == expected_root(watched.volume)


def test_a_file_that_was_busy_when_its_proof_was_asked_for_is_committed_after_it(
    tree_dir: Path, watch: Callable[..., WatchedVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    watched = watch()
    watched.settle()
    inner, busy = EntryReader.read_file, [True] * 3

    def read_file(*args: object) -> Reading:
        reading = inner(*args)  # type: ignore[arg-type]
        if busy and reading.record.key == b"d\0small":
            busy.pop()
            return replace(reading, steady=False)
        return reading

    monkeypatch.setattr(EntryReader, "read_file", read_file)
    before = watched.volume.record(b"d\0small")
    (tree_dir / "d" / "small").write_bytes(b"other")
    watched.prove()
    now = watched.volume.record(b"d\0small")
    assert before is not None
    assert now is not None
    assert now.value != before.value


def test_what_is_committed_is_told_as_watched_and_leads_to_the_root(
    tree_dir: Path, watch: Callable[..., WatchedVolume]
) -> None:
    plant(tree_dir)
    watched = watch()
    before = watched.volume.last_seq
    shell(tree_dir, "echo new > d/new")
    watched.prove()
    step = watched.volume.pending(before, 1)[0]
    assert isinstance(step, Commit)
    assert step.cause == "watch"
    assert [edit.key for edit in step.edits] == [b"d\0new"]


def test_the_writer_is_named_where_the_kernel_tells(
    tree_dir: Path, watch: Callable[..., WatchedVolume], kind: str
) -> None:
    plant(tree_dir)
    watched = watch()
    before = watched.volume.last_seq
    python(
        tree_dir,
        "import time; open('new', 'w').write('12345'); open('d/small', 'w').close(); time.sleep(0.2)",
    )
    watched.settle()
    steps = watched.volume.pending(before, 10)
    assert all(isinstance(step, Commit) and len(step.by) == len(step.edits) for step in steps)
    hands = [hand for step in steps for hand in step.hands]
    assert sum(hand.files for hand in hands) == 2
    assert sum(hand.bytes for hand in hands) == 5
    if kind == "fanotify":
        assert all("python" in hand.exe for hand in hands)
    else:
        assert all(hand.pid == 0 and hand.detail for hand in hands)


def test_a_file_that_never_rests_is_committed_again_and_again(
    tree_dir: Path, watch: Callable[..., WatchedVolume]
) -> None:
    plant(tree_dir)
    watched = watch()
    script = APPEND.format("log", 4)
    writer = subprocess.Popen([sys.executable, "-c", script], cwd=tree_dir)
    try:
        sizes: set[bytes] = set()

        def seen() -> bool:
            record = watched.volume.record(b"log")
            if record is not None:
                sizes.add(record.value)
            return len(sizes) >= 3

        until(seen)
    finally:
        writer.kill()
        writer.wait()


def test_what_a_growing_file_takes_is_told_before_it_is_committed(
    tree_dir: Path, watch: Callable[..., WatchedVolume]
) -> None:
    plant(tree_dir)
    watched = watch()
    script = APPEND.format("big", 1000)
    writer = subprocess.Popen([sys.executable, "-c", script], cwd=tree_dir)
    try:
        until(lambda: sum(size for _, _, size, _ in watched.notes.told) > 100_000)
    finally:
        writer.kill()
        writer.wait()
    watched.settle()
    told = sum(size for _, _, size, _ in watched.notes.told)
    size = (tree_dir / "big").stat().st_size
    assert size <= told <= 3 * size
    assert sum(files for _, files, _, _ in watched.notes.told) >= 1


# --- what goes wrong -----------------------------------------------------------------------------


class Faulty:
    """A source that can be made deaf, or lose things."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.deaf = False
        self.foreign = False  # the queue never ends, and nothing in it concerns the volume
        self.lost: list[Lost] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    @property
    def drained(self) -> bool:
        return not self.foreign

    def read(self) -> list[Event | Lost]:
        if self.foreign:
            return []
        found: list[Event | Lost] = self._inner.read()  # type: ignore[attr-defined]
        if self.deaf:
            return []
        lost, self.lost = self.lost, []
        return [*lost, *found]


@pytest.fixture
def faulty(make_volume: MakeVolume, tree_dir: Path) -> Iterator[tuple[WatchedVolume, Faulty]]:
    plant(tree_dir)
    volume = make_volume()
    source, detail = open_source(volume.path, volume.private, prefer="inotify")
    assert source is not None, detail
    fault = Faulty(source)
    watched = WatchedVolume(volume, "inotify", fault)  # type: ignore[arg-type]
    yield watched, fault
    watched.close()


def test_a_canary_that_is_not_seen_ends_the_watcher(
    faulty: tuple[WatchedVolume, Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, fault = faulty
    monkeypatch.setattr(proof_module, "LIMIT_S", 0.2)
    until(watched.watcher.prove)
    watched.prove()
    fault.deaf = True
    assert watched.watcher.prove()
    until(lambda: watched.ended)
    assert "canary" in watched.ended[0]
    assert watched.tally.canary_misses == 1
    assert watched.wanted


def test_a_canary_behind_a_long_queue_of_others_events_is_waited_for(
    faulty: tuple[WatchedVolume, Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, fault = faulty
    monkeypatch.setattr(proof_module, "LIMIT_S", 0.2)
    watched.prove()
    os.eventfd_write(fault._wake, 1)
    fault.foreign = True
    bell = watched.watcher._bell
    queue, bell._queue = bell._queue, fault._wake
    bell._poll.register(fault._wake, select.POLLIN)
    assert watched.watcher.prove()
    time.sleep(0.6)
    assert not watched.ended
    fault.foreign = False
    bell._queue = queue
    bell._poll.unregister(fault._wake)
    watched.prove()
    assert watched.tally.canary_misses == 0


def test_a_look_that_ends_after_its_watcher_was_closed_writes_nowhere(
    faulty: tuple[WatchedVolume, Faulty],
) -> None:
    watched, _ = faulty
    watched.prove()
    watched.watcher.close()
    before = watched.watcher._bell._fd
    watched.watcher._bell.ring()
    assert before == -1


def test_a_scan_that_comes_before_the_look_names_the_hand_that_was_heard_of(
    tree_dir: Path, watch: Callable[..., WatchedVolume], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tree_dir)
    watched = watch()
    watched.settle()
    monkeypatch.setattr(dirty_module, "QUIET_S", 60.0)
    monkeypatch.setattr(dirty_module, "QUICK_S", 60.0)
    monkeypatch.setattr(dirty_module, "OPEN_QUIET_S", 60.0)
    monkeypatch.setattr(dirty_module, "AGE_MAX_S", 60.0)
    before = watched.volume.last_seq
    script = (
        "import os, time; os.mkdir('n'); open('n/f', 'w').write('1'); open('g', 'w').close(); time.sleep(0.3)"
    )
    python(tree_dir, script)
    until(lambda: watched.watcher.pending >= 2)  # n, perhaps with what is in it, and g
    watched.scan()
    steps = watched.volume.pending(before, 10)
    hands = [hand for step in steps for hand in step.hands]
    assert {step.cause for step in steps} == {"scan"}
    assert sum(hand.files for hand in hands) == 3
    if kind == "fanotify":
        assert all("python" in hand.exe for hand in hands)
    else:
        assert all("inotify" in hand.detail for hand in hands)


def test_a_file_in_a_new_directory_is_its_writers_and_not_the_makers(
    tree_dir: Path, watch: Callable[..., WatchedVolume], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch()
    watched.settle()
    monkeypatch.setattr(dirty_module, "QUIET_S", 0.3)
    monkeypatch.setattr(dirty_module, "OPEN_QUIET_S", 60.0)
    monkeypatch.setattr(dirty_module, "AGE_MAX_S", 60.0)
    before = watched.volume.last_seq
    python(tree_dir, "import os, time; os.mkdir('n'); time.sleep(0.05)")
    writer = subprocess.Popen(
        ["sh", "-c", "exec 3>n/f; echo x >&3; read _"], cwd=tree_dir, stdin=subprocess.PIPE
    )
    try:
        until(
            lambda: any(
                edit.key == b"n\0f" for step in watched.volume.pending(before, 10) for edit in step.edits
            )
        )
    finally:
        writer.communicate(b"\n")
    whose: dict[bytes, str] = {}
    for step in watched.volume.pending(before, 10):
        for edit, number in zip(step.edits, step.by, strict=True):
            whose.setdefault(edit.key, step.hands[number - 1].exe if number else "")
    if kind != "fanotify":
        assert set(whose.values()) == {""}, "inotify tells no hands"
        return
    assert "python" in whose[b"n"]
    assert "python" not in whose[b"n\0f"]
    assert whose[b"n\0f"]


def test_lost_events_are_counted_and_answered_by_a_scan(
    faulty: tuple[WatchedVolume, Faulty], tree_dir: Path, expected_root: Expected
) -> None:
    watched, fault = faulty
    watched.prove()
    fault.deaf = True
    shell(tree_dir, "echo unseen > d/unseen")
    time.sleep(0.1)
    fault.lost.append(Lost("the queue overflowed", None))
    fault.deaf = False
    shell(tree_dir, "echo seen > d/seen")
    until(lambda: watched.wanted)
    watched.settle()
    assert watched.tally.dropped == 1
    assert watched.volume.root == expected_root(watched.volume)


def test_a_canary_that_was_lost_with_other_events_is_touched_again(
    faulty: tuple[WatchedVolume, Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, fault = faulty
    monkeypatch.setattr(proof_module, "LIMIT_S", 60.0)
    watched.prove()
    fault.deaf = True
    assert watched.watcher.prove()
    until(lambda: watched.watcher._proof._canary is not None)
    first = watched.watcher._proof._canaries
    time.sleep(0.1)  # its event is read and not given on
    fault.lost.append(Lost("the queue overflowed", None))
    fault.deaf = False
    (Path(os.fsdecode(watched.volume.path)) / "stays").touch()
    watched.prove()
    assert watched.watcher._proof._canaries > first
    assert watched.tally.canary_misses == 0
    assert not watched.ended


def test_what_could_not_be_watched_is_watched_when_the_limit_is_raised(
    make_volume: MakeVolume, tree_dir: Path, monkeypatch: pytest.MonkeyPatch, expected_root: Expected
) -> None:
    plant(tree_dir)
    inner, limited = calls.inotify_add, True
    known: set[int] = set()

    def few(fd: int, directory_fd: int, mask: int) -> int:
        inode = os.fstat(directory_fd).st_ino
        if limited and inode not in known and len(known) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        known.add(inode)
        return inner(fd, directory_fd, mask)

    monkeypatch.setattr(calls, "inotify_add", few)
    monkeypatch.setattr(watcher_module, "REWATCH_EVERY_S", 0.0)
    watched = WatchedVolume(make_volume(), "inotify")
    try:
        until(lambda: watched.watcher.source.unwatched)
        watched.scan()
        assert not watched.watcher.covered
        assert not watched.watcher.prove()
        limited = False
        watched.scan()
        until(lambda: watched.watcher.covered)
        (tree_dir / "d" / "e" / "seen").write_bytes(b"seen")
        watched.settle()
        assert watched.volume.root == expected_root(watched.volume)
        assert not watched.ended
    finally:
        watched.close()


def test_events_lost_below_a_directory_are_answered_by_a_look_at_it(
    faulty: tuple[WatchedVolume, Faulty], tree_dir: Path, expected_root: Expected
) -> None:
    watched, fault = faulty
    watched.prove()
    fault.deaf = True
    shell(tree_dir, "echo unseen > d/e/unseen; rm d/e/file")
    time.sleep(0.1)
    fault.lost.append(Lost("no watches left", b"d\0e"))
    fault.deaf = False
    shell(tree_dir, "touch stays")
    watched.settle()
    assert watched.tally.dropped == 1
    assert not watched.wanted
    assert watched.volume.root == expected_root(watched.volume)


def test_nothing_is_proven_before_a_scan_that_began_after_the_source_was_opened(
    make_volume: MakeVolume, tree_dir: Path
) -> None:
    plant(tree_dir)
    volume = make_volume()
    watched = WatchedVolume(volume, "inotify")
    try:
        watched.watcher._proof.gap = time.monotonic()
        assert not watched.watcher.prove()
        assert not watched.watcher.scanned(watched.watcher._proof.gap - 1)
        assert watched.watcher.scanned(time.monotonic())
        assert watched.watcher.prove()
    finally:
        watched.close()


def test_a_root_that_is_gone_writes_nothing(
    tmp_path: Path, tree_dir: Path, watch: Callable[..., WatchedVolume]
) -> None:
    plant(tree_dir)
    watched = watch()
    watched.prove()
    root, last = watched.volume.root, watched.volume.last_seq
    tree_dir.rename(tmp_path / "elsewhere")
    until(lambda: watched.ended or watched.volume.condition.problem is not None)
    shell(tmp_path / "elsewhere", "echo x > d/new; rm d/small")
    time.sleep(0.2)
    assert (watched.volume.root, watched.volume.last_seq) == (root, last)
    (tmp_path / "elsewhere").rename(tree_dir)


def test_more_changed_paths_than_are_kept_apart_fold_into_directories(
    tree_dir: Path,
    watch: Callable[..., WatchedVolume],
    expected_root: Expected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dirty_module, "PATHS_MAX", 50)
    monkeypatch.setattr(dirty_module, "FOLD_TO", 25)
    monkeypatch.setattr(dirty_module, "BATCH_MAX", 25)
    plant(tree_dir)
    watched = watch()
    python(tree_dir, "for n in range(400): open(f'd/f{n}', 'w').write(str(n))")
    watched.settle()
    assert watched.volume.root == expected_root(watched.volume)
    # Those that are kept, those of a look, and those that one look could not finish.
    assert watched.notes.most_pending <= 100


def test_a_mass_change_is_announced(
    tree_dir: Path, watch: Callable[..., WatchedVolume], expected_root: Expected
) -> None:
    plant(tree_dir)
    outside = tree_dir.parent / "outside"
    outside.mkdir()
    for number in range(5000):
        (outside / f"f{number}").write_bytes(b"%d" % number)
    watched = watch()
    before = watched.volume.last_seq
    outside.rename(tree_dir / "inside")
    watched.settle()
    assert watched.volume.root == expected_root(watched.volume)
    assert any(isinstance(step, Announce) for step in watched.volume.pending(before, 100))


def test_a_change_is_committed_while_a_scan_is_under_way(
    tree_dir: Path, watch: Callable[..., WatchedVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (tree_dir / f"d{number}").mkdir()
    watched = watch()
    watched.prove()
    inner = listing_module.look

    def slow(*args: object) -> object:
        time.sleep(0.02)
        return inner(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(scan_module, "look", slow)
    scanning = threading.Thread(target=watched.scan)
    scanning.start()
    shell(tree_dir, "echo x > d7/new")
    until(lambda: watched.volume.record(b"d7\0new") is not None)
    assert scanning.is_alive()
    watched.volume.stop()
    scanning.join()


def test_closing_does_not_hang_with_a_busy_writer(
    tree_dir: Path, watch: Callable[..., WatchedVolume]
) -> None:
    plant(tree_dir)
    watched = watch()
    script = "n = 0\nwhile True:\n open(f'd/{n % 100}', 'w').write('x'); n += 1"
    writer = subprocess.Popen([sys.executable, "-c", script], cwd=tree_dir)
    try:
        until(lambda: watched.tally.looks > 3)
        started = time.monotonic()
        watched.watcher.close()
        assert time.monotonic() - started < 5
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        watched.watcher = WatchedVolume(watched.volume, "inotify").watcher
