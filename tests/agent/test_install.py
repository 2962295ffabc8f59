"""Single steps against a tree that is not what the plan saw, and disks that refuse: each path is old or new."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from closeranks_agent import beneath
from closeranks_agent.converge import install as module
from closeranks_agent.converge import maker
from closeranks_agent.converge.install import Installer
from closeranks_agent.converge.lift import Lifts
from closeranks_agent.converge.plan import Saw, Step, Verb
from closeranks_agent.converge.recheck import is_same
from closeranks_agent.converge.stage import stage_name
from closeranks_agent.converge.swap import Surprise
from closeranks_agent.converge.trash import Trash
from closeranks_agent.converge.work import Outcome, Result
from closeranks_agent.converge.workroom import Workroom
from closeranks_agent.converge.written import Written
from closeranks_agent.disk.records import StatSignature, VolumeGone
from closeranks_agent.disk.volume import Volume
from closeranks_proto.entries import Entry, Kind, encode_entry
from peers_in_process import fill

EMPTY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))


def link_to(target: bytes, mtime_ns: int | None = None) -> bytes:
    return encode_entry(Entry(Kind.SYMLINK, len(target), target=target, mtime_ns=mtime_ns))


class Bench:
    """An installer over a real volume, and steps from what the index knows of it."""

    def __init__(self, volume: Volume, tree: Path) -> None:
        self.volume, self.tree = volume, tree
        self.trash = Trash(volume)
        self.opened = self.trash.opened()
        self.room: Workroom = self.opened.__enter__()
        self.written = Written(self.room.trash_fd, "i1")
        self.lifts = Lifts(self.room.trash_fd, self.room.root_fd)
        self.installer = Installer(
            volume, self.room, self.trash, self.written, self.lifts, "i1", lambda: (), ordinary=False
        )

    def close(self) -> None:
        self.written.close()
        self.lifts.close()
        self.opened.__exit__(None, None, None)

    def saw(self, key: bytes, target: bytes | None) -> Saw:
        record = self.volume.record(key)
        return Saw(
            key,
            None if record is None else record.value,
            target,
            None if record is None else record.stat,
        )

    def step(self, verb: Verb, key: bytes, target: bytes | None) -> Step:
        saw = self.saw(key, target)
        return Step(verb, key, saw.own, target, saw.seen)

    def apply(self, *steps: Step) -> list[Outcome]:
        return [result.outcome for result in self.results(*steps)]

    def results(self, *steps: Step) -> list[Result]:
        found: list[Result] = self.installer.apply(steps)
        return found

    def kept(self) -> list[bytes]:
        """The keys of what lies in the trash."""
        return [kept.discard.key for kept in self.trash.kept()]


@pytest.fixture
def make_bench(make_volume: Callable[..., Volume], tree_dir: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**changed: object) -> Bench:
        volume = make_volume(**changed)
        volume.scan()
        made.append(Bench(volume, tree_dir))
        return made[-1]

    (tree_dir / "stays").write_bytes(b"stays")
    yield make
    for bench in made:
        bench.close()


def move(bench: Bench, old: bytes, new: bytes) -> Step:
    source = bench.saw(old, None)
    return Step(Verb.MOVE, new, None, source.own, None, None, source)


def test_a_renamed_file_keeps_its_bytes_and_nothing_comes_to_the_trash(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    (tree_dir / "old").write_bytes(b"content")
    bench = make_bench()
    assert bench.apply(move(bench, b"old", b"new")) == [Outcome.DONE]
    assert (tree_dir / "new").read_bytes() == b"content"
    assert (bench.kept(), bench.volume.record(b"old")) == ([], None)
    assert bench.volume.record(b"new") is not None


def test_a_file_that_was_changed_since_the_plan_keeps_its_name_and_is_recorded(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    (tree_dir / "old").write_bytes(b"content")
    bench = make_bench()
    step = move(bench, b"old", b"new")
    (tree_dir / "old").write_bytes(b"somebody's newer")
    before = bench.volume.root
    assert bench.apply(step) == [Outcome.CHANGED]
    assert (tree_dir / "old").read_bytes() == b"somebody's newer"
    assert not (tree_dir / "new").exists()
    assert bench.volume.root != before, "what somebody did is known at once"


def test_where_the_new_name_is_taken_meanwhile_both_stay(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    (tree_dir / "old").write_bytes(b"content")
    bench = make_bench()
    step = move(bench, b"old", b"new")
    (tree_dir / "new").write_bytes(b"somebody's")
    assert bench.apply(step) == [Outcome.CHANGED]
    assert [(tree_dir / name).read_bytes() for name in ("old", "new")] == [b"content", b"somebody's"]
    assert bench.volume.record(b"new") is not None, "and is recorded at once"


def test_what_has_appeared_where_nothing_was_seen_is_recorded_and_not_replaced(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    bench = make_bench()
    step = bench.step(Verb.LINK, b"l", link_to(b"ours"))
    os.symlink(b"theirs", os.fsencode(tree_dir / "l"))
    assert bench.apply(step) == [Outcome.CHANGED]
    assert os.readlink(tree_dir / "l") == "theirs"
    record = bench.volume.record(b"l")
    assert record is not None
    assert record.value == link_to(b"theirs")


def test_what_has_become_the_target_by_itself_is_done(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    bench = make_bench()
    step = bench.step(Verb.LINK, b"l", link_to(b"ours"))
    os.unlink(tree_dir / "l")
    os.symlink(b"ours", os.fsencode(tree_dir / "l"))
    assert bench.apply(step) == [Outcome.DONE]
    assert bench.kept() == []


def test_a_directory_that_nobody_has_looked_into_is_left_to_a_scan(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    (tree_dir / "f").write_bytes(b"file")
    bench = make_bench()
    step = bench.step(Verb.REMOVE, b"f", None)
    os.unlink(tree_dir / "f")
    (tree_dir / "f").mkdir()
    (tree_dir / "f/inner").write_bytes(b"inner")
    assert bench.apply(step) == [Outcome.STALE]
    assert (tree_dir / "f/inner").read_bytes() == b"inner"


@pytest.mark.parametrize(
    ("what", "ignore", "why"),
    [
        ("an ignored file", ("*", "!*/"), "ignored_content"),
        ("an ignored directory", ("*/",), "ignored_content"),
        ("a fifo", (), "special"),
    ],
)
def test_what_is_never_compared_is_in_the_way_stays_and_is_not_recorded(
    make_bench: Callable[..., Bench], tree_dir: Path, what: str, ignore: tuple[str, ...], why: str
) -> None:
    """The truth has a directory where this node has an ignored file, or a link where it has an ignored directory."""
    bench = make_bench(ignore=ignore)
    makes_directory = what == "an ignored file"
    step = bench.step(
        Verb.MAKE_DIRECTORY if makes_directory else Verb.LINK,
        b"cache",
        EMPTY if makes_directory else link_to(b"ours"),
    )
    place = tree_dir / "cache"
    match what:
        case "an ignored file":
            place.write_bytes(b"ignored")
        case "an ignored directory":
            fill(place, {"inner": b"ignored"})
        case _:
            os.mkfifo(place)
    before = os.lstat(place)
    (result,) = bench.results(step)
    assert (result.outcome, result.why) == (Outcome.BLOCKED, why)
    assert os.lstat(place).st_ino == before.st_ino
    assert bench.volume.record(b"cache") is None


def test_a_symlink_gets_the_time_that_is_tracked(make_bench: Callable[..., Bench], tree_dir: Path) -> None:
    os.symlink(b"t", os.fsencode(tree_dir / "l"))
    bench = make_bench(track=("mode", "mtime"))
    assert bench.apply(bench.step(Verb.SET_ATTRIBUTES, b"l", link_to(b"t", 10**18))) == [Outcome.DONE]
    assert os.lstat(tree_dir / "l").st_mtime_ns == 10**18
    assert bench.trash.usage() == {}, "nothing was replaced"


def test_attributes_are_not_put_on_what_has_another_content_by_then(
    make_bench: Callable[..., Bench], tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced between the look and the change: the new owner's mode is not ours to set."""
    (tree_dir / "f").write_bytes(b"content")
    (tree_dir / "f").chmod(0o600)
    bench = make_bench()
    saw = bench.saw(b"f", None)
    assert saw.own is not None
    entry = Entry(Kind.FILE, 7, bench.volume.algorithm.of(b"content"), 0o644)
    step = bench.step(Verb.SET_ATTRIBUTES, b"f", encode_entry(entry))
    real = beneath.spot
    calls: list[bytes] = []

    def spot(root_fd: int, key: bytes) -> object:
        calls.append(key)
        if len(calls) == 2:  # the look was the first
            (tree_dir / "theirs").write_bytes(b"theirs")
            (tree_dir / "theirs").chmod(0o600)
            os.rename(tree_dir / "theirs", tree_dir / "f")
        return real(root_fd, key)

    monkeypatch.setattr(beneath, "spot", spot)
    assert bench.apply(step) == [Outcome.CHANGED]
    assert os.stat(tree_dir / "f").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["symlink", "directory"])
@pytest.mark.parametrize("left", ["file", "directory"])
def test_what_a_killed_run_staged_under_that_name_does_not_hinder(
    make_bench: Callable[..., Bench], tree_dir: Path, kind: str, left: str
) -> None:
    bench = make_bench()
    target = link_to(b"t") if kind == "symlink" else EMPTY
    name = stage_name(b"new", b"t" if kind == "symlink" else b"")
    if left == "file":
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=bench.room.stage_fd))
    else:
        os.mkdir(name, dir_fd=bench.room.stage_fd)
    verb = Verb.LINK if kind == "symlink" else Verb.MAKE_DIRECTORY
    assert bench.apply(bench.step(verb, b"new", target)) == [Outcome.DONE]
    assert (os.path.islink(tree_dir / "new"), os.listdir(bench.room.stage_fd)) == (kind == "symlink", [])


@pytest.mark.parametrize("full", ["trash", "list"])
def test_without_room_for_the_announcement_nothing_is_touched(
    make_bench: Callable[..., Bench], tree_dir: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    bench = make_bench()

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = (bench.trash, "intend") if full == "trash" else (bench.written, "add")
    monkeypatch.setattr(type(owner), name, fails)
    step = bench.step(Verb.LINK, b"l", link_to(b"ours"))
    assert bench.apply(step) == [Outcome.NO_ROOM]
    assert os.readlink(tree_dir / "l") == "old"
    monkeypatch.undo()
    assert bench.apply(step) == [Outcome.DONE]


def test_a_list_that_can_not_be_written_ends_the_run_before_anything_is_touched(
    make_bench: Callable[..., Bench], tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    bench = make_bench()

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Written, "add", fails)
    with pytest.raises(OSError, match="Input/output"):
        bench.apply(bench.step(Verb.LINK, b"l", link_to(b"ours")))
    assert os.readlink(tree_dir / "l") == "old"


def test_a_root_that_was_replaced_since_the_plan_is_not_written_to(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    bench = make_bench()
    step = bench.step(Verb.LINK, b"l", link_to(b"ours"))
    os.rename(tree_dir, tree_dir.with_name("away"))
    tree_dir.mkdir()
    with pytest.raises(VolumeGone):
        bench.apply(step)
    assert os.listdir(tree_dir) == []


def test_a_push_that_is_over_between_two_steps_makes_only_the_first(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    bench = make_bench()
    steps = [bench.step(Verb.LINK, name, link_to(b"t")) for name in (b"a", b"b")]
    bench.installer.is_over = lambda: os.path.lexists(tree_dir / "a")
    assert bench.apply(*steps) == [Outcome.DONE, Outcome.OVER]
    assert not os.path.lexists(tree_dir / "b")


def test_names_are_synced_before_the_trash_is_settled_and_the_index_learns_of_them(
    make_bench: Callable[..., Bench], tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settled first, a power cut would leave the old file in the stage, and nobody would bring it home."""
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    bench = make_bench()
    story: list[str] = []

    def told(owner: object, name: str, word: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            story.append(word)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    told(Trash, "intend", "announced")
    told(Written, "add", "listed")
    told(beneath, "exchange", "exchanged")
    told(module, "sync_directories", "synced")
    told(Trash, "settle", "settled")
    told(Volume, "apply", "recorded")
    assert bench.apply(bench.step(Verb.LINK, b"l", link_to(b"ours"))) == [Outcome.DONE]
    assert story == ["announced", "listed", "exchanged", "synced", "settled", "recorded"]


def test_all_directories_that_names_came_to_and_went_from_are_synced_with_the_trash(
    make_bench: Callable[..., Bench], tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("from", "to", "gone"):
        (tree_dir / name).mkdir()
    (tree_dir / "from/f").write_bytes(b"content")
    (tree_dir / "gone/g").write_bytes(b"goes")
    bench = make_bench()
    synced: list[tuple[list[bytes], tuple[int, ...]]] = []

    def sync(_root_fd: int, paths: set[bytes], others: tuple[int, ...]) -> None:
        synced.append((sorted(paths), tuple(others)))

    monkeypatch.setattr(module, "sync_directories", sync)
    steps = (bench.step(Verb.REMOVE, b"gone\0g", None), move(bench, b"from\0f", b"to\0f"))
    assert bench.apply(*steps) == [Outcome.DONE, Outcome.DONE]
    assert synced == [([b"from", b"gone", b"to"], (bench.room.items_fd,))]


# --- what the path holds instead ------------------------------------------------------------------


def test_a_file_that_is_gone_already_needs_no_removal_and_is_recorded(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    (tree_dir / "f").write_bytes(b"file")
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    bench = make_bench(ignore=("*.tmp",))
    steps = bench.step(Verb.REMOVE, b"f", None), bench.step(Verb.LINK, b"l", link_to(b"ours"))
    os.unlink(tree_dir / "f")
    os.unlink(tree_dir / "l")
    assert bench.apply(*steps) == [Outcome.DONE, Outcome.CHANGED]
    assert (bench.volume.record(b"f"), bench.volume.record(b"l")) == (None, None)
    assert (bench.kept(), os.path.lexists(tree_dir / "l")) == ([], False)


def test_a_directory_whose_mode_somebody_has_changed_is_recorded_and_planned_again(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    (tree_dir / "d").mkdir(mode=0o700)
    bench = make_bench()
    step = bench.step(Verb.SET_ATTRIBUTES, b"d", EMPTY)
    (tree_dir / "d").chmod(0o750)
    assert bench.apply(step) == [Outcome.CHANGED]
    assert os.stat(tree_dir / "d").st_mode & 0o777 == 0o750
    record = bench.volume.record(b"d")
    assert record is not None
    assert record.value == encode_entry(Entry(Kind.DIRECTORY, mode=0o750))
    assert bench.apply(bench.step(Verb.SET_ATTRIBUTES, b"d", EMPTY)) == [Outcome.DONE]


def test_a_name_that_was_taken_and_is_free_again_is_planned_again(
    make_bench: Callable[..., Bench], tree_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()

    def surprised(*_: object) -> None:
        raise Surprise

    monkeypatch.setattr(maker, "put_new", surprised)
    assert bench.apply(bench.step(Verb.LINK, b"l", link_to(b"ours"))) == [Outcome.CHANGED]
    assert bench.volume.record(b"l") is None


@pytest.mark.parametrize(
    ("left", "outcome", "why"),
    [
        ("a file that could not be removed", Outcome.WAITS, "ignored_content"),
        ("a file that nobody has seen", Outcome.STALE, ""),
        ("ignored files alone", Outcome.BLOCKED, "ignored_content"),
        ("an ignored file and a new one", Outcome.STALE, ""),
        ("a fifo", Outcome.BLOCKED, "ignored_content"),
        ("a dangling link that nobody has seen", Outcome.STALE, ""),
        ("a link to another filesystem, which nobody has seen", Outcome.STALE, ""),
    ],
)
def test_a_directory_that_holds_something_stays_and_it_is_said_why(
    make_bench: Callable[..., Bench], tree_dir: Path, left: str, outcome: Outcome, why: str
) -> None:
    (tree_dir / "d").mkdir()
    if outcome is Outcome.WAITS:
        (tree_dir / "d/known").write_bytes(b"known")
    bench = make_bench(ignore=("*.tmp",))
    step = bench.step(Verb.REMOVE, b"d", None)
    if "ignored file" in left:
        (tree_dir / "d/a.tmp").write_bytes(b"ignored")
    if "nobody" in left or "new" in left:
        target = b"/proc" if "another filesystem" in left else b"nowhere"
        os.symlink(target, os.fsencode(tree_dir / "d/new"))
    if left == "a fifo":
        os.mkfifo(tree_dir / "d/fifo")
    before, descriptors = sorted(os.listdir(tree_dir / "d")), len(os.listdir("/proc/self/fd"))
    (result,) = bench.results(step)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert (result.outcome, result.why) == (outcome, why)
    assert sorted(os.listdir(tree_dir / "d")) == before
    assert bench.kept() == []


def test_what_was_replaced_or_removed_is_in_the_trash_at_once(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    (tree_dir / "f").write_bytes(b"file")
    bench = make_bench()
    (removed,) = bench.results(bench.step(Verb.REMOVE, b"f", None))
    (replaced,) = bench.results(bench.step(Verb.LINK, b"l", link_to(b"ours")))
    (made,) = bench.results(bench.step(Verb.LINK, b"new", link_to(b"ours")))
    assert [one.trashed for one in (removed, replaced, made)] == [True, True, False]
    assert bench.kept() == [b"f", b"l"]
    assert [kept.discard.why for kept in bench.trash.kept()] == ["removed", "replaced"]


def test_of_a_batch_that_makes_and_replaces_what_came_to_the_trash_is_known_there(
    make_bench: Callable[..., Bench], tree_dir: Path
) -> None:
    """By its path and by its id: what is still to be copied from it must not give way."""
    os.symlink(b"old", os.fsencode(tree_dir / "l"))
    bench = make_bench()
    steps = [bench.step(Verb.LINK, name, link_to(b"t")) for name in (b"a", b"l", b"z")]
    assert bench.apply(*steps) == [Outcome.DONE] * 3
    assert bench.kept() == [b"l"]
    assert bench.installer.moved == {b"l": b"000000000001"}


def test_only_the_very_same_stat_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"f")
    status = os.stat(tmp_path / "f")
    seen = StatSignature.of(status)
    assert (is_same(seen, status), is_same(None, None)) == (True, True)
    assert not is_same(None, status), "it has appeared"
    assert not is_same(seen, None), "it is gone"
    (tmp_path / "f").write_bytes(b"other")
    assert not is_same(seen, os.stat(tmp_path / "f"))
