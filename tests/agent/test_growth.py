"""The tree of a first scan grows behind it, and is the one that is built of all rows at once."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from closeranks_agent.disk import growth as growth_module
from closeranks_agent.disk import recorder as recorder_module
from closeranks_agent.disk import scan as scan_module
from closeranks_agent.disk.fresh import Fresh
from closeranks_agent.disk.growth import Growth
from closeranks_agent.disk.index import Index
from closeranks_agent.disk.listing import KEEP_ENTRIES
from closeranks_agent.disk.packs import pack_rows
from closeranks_agent.disk.records import Record, StatSignature
from closeranks_agent.disk.rows import Delta, directory_id
from closeranks_agent.disk.volume import Volume
from closeranks_agent.plain.snapshot import How, Snapshot, no_source
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.tree import Tree

MakeVolume = Callable[..., Volume]
Expected = Callable[[Volume], bytes]

STAT = StatSignature(1, 2, 3, 4, 5)
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))


@pytest.fixture
def index() -> Iterator[Index]:
    found = Index(None)
    yield found
    found.database.close()


def write(index: Index, growth: Growth, delta: Delta) -> None:
    growth.writing(delta)
    with index.database.transaction(durable=False):
        index.write(delta, 1 << 20, 16)


def some_tree(rng: random.Random) -> dict[bytes, dict[bytes, bytes]]:
    """Values by name, by directory."""
    found: dict[bytes, dict[bytes, bytes]] = {b"": {}}
    for _ in range(rng.randrange(1, 40)):
        above = rng.choice(sorted(found))
        name = b"d%d" % rng.randrange(1000)
        found[above][name] = DIRECTORY
        found[(above and above + b"\0" + name) or name] = {}
    for entries in found.values():
        for _ in range(rng.randrange(60)):
            value = encode_entry(Entry(Kind.FILE, 1, rng.randbytes(16), 0o644))
            entries.setdefault(b"f%d" % rng.randrange(1000), value)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_tree_of_all_rows_in_whatever_order_they_come(
    index: Index, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(growth_module, "BATCH_ITEMS", 7)
    rng = random.Random(seed)
    tree = Tree(XXH3_128, no_source)
    growth = Growth(index, tree)
    content = some_tree(rng)
    waiting = {b""}
    while waiting:
        key = rng.choice(sorted(waiting)[:3])  # nearly in the order of keys, as answers come
        rows = sorted((name, value, STAT.pack(), 1, None) for name, value in content[key].items())
        packs = [rows[start : start + 20] for start in range(0, len(rows), 20)]
        place = directory_id(key)
        write(index, growth, Delta(packs=[(place, pack[-1][0], pack_rows(pack)) for pack in packs]))
        waiting.remove(key)
        waiting |= {(key and key + b"\0" + name) or name for name, *row in rows if row[0] == DIRECTORY}
        if waiting and rng.random() < 0.7:
            growth.grow(min(waiting))
    assert not growth.stunted
    made = growth.finish()
    expected = tree.build(index.items())
    assert (made.root, made.summary, made.pages) == (expected.root, expected.summary, expected.pages)
    assert made.summary.entries == sum(map(len, content.values()))


def test_nothing_is_looked_at_while_the_root_has_more_to_come(index: Index) -> None:
    tree = Tree(XXH3_128, no_source)
    growth = Growth(index, tree)
    for name in (b"b", b"a", b"c"):
        pack = pack_rows([(name, DIRECTORY, STAT.pack(), 1, None)])
        write(index, growth, Delta(packs=[(directory_id(b""), name, pack)]))
        growth.grow(b"")
    assert growth.finish().root == tree.build(index.items()).root


def test_a_path_that_is_written_by_itself_ends_it_once_it_has_begun(index: Index) -> None:
    growth = Growth(index, Tree(XXH3_128, no_source))
    record = Record(b"a", DIRECTORY, STAT)
    write(index, growth, Delta({b"a": record}))
    assert not growth.stunted
    growth.grow(b"b")
    write(index, growth, Delta({b"0": dataclasses.replace(record, key=b"0")}))
    assert growth.stunted
    growth.grow(b"c")


@pytest.mark.parametrize(
    ("key", "stunts"),
    [
        (b"a\0b\0c", True),  # behind it
        (b"d\0e\0z", True),  # beside what was looked at last: a page may be known ahead
        (b"d\0z", True),  # above it
        (b"z", True),
        (b"d\0f\0g", False),
        (b"d\0f\0g\0h", False),
        (b"e\0a", False),
    ],
)
def test_only_a_path_that_may_have_been_looked_at_ends_it(index: Index, key: bytes, stunts: bool) -> None:
    tree = Tree(XXH3_128, no_source)
    growth = Growth(index, tree)
    known = (b"a", b"d", b"d\0e", b"d\0e\0x", b"d\0f", b"e")
    write(index, growth, Delta({one: Record(one, DIRECTORY, STAT) for one in known}))
    growth.grow(b"d\0e\0x")
    write(index, growth, Delta({key: Record(key, DIRECTORY, STAT)}))
    assert growth.stunted is stunts
    if not stunts:
        assert growth.finish().root == tree.build(index.items()).root


def test_when_everything_was_looked_at_any_path_ends_it(index: Index) -> None:
    growth = Growth(index, Tree(XXH3_128, no_source))
    write(index, growth, Delta({b"a": Record(b"a", DIRECTORY, STAT)}))
    growth.grow(b"b")
    write(index, growth, Delta({b"a\0b": Record(b"a\0b", DIRECTORY, STAT)}))
    assert growth.stunted


def plant(root: Path) -> None:
    for number in range(40):
        place = root / f"{number % 5}" / f"d{number % 9}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}").write_bytes(os.urandom(number))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each tree that grew: whether anything was built before all was read."""
    monkeypatch.setattr(scan_module, "READERS_FILES", 0)
    monkeypatch.setattr(recorder_module, "GROW_ROWS", 1)
    monkeypatch.setattr("closeranks_agent.disk.fresh.BATCH_DIRECTORIES", 1)
    seen: list[bool] = []
    finish = Growth.finish

    def finishing(self: Growth) -> object:
        seen.append(self._begun)
        return finish(self)

    monkeypatch.setattr(Growth, "finish", finishing)
    return seen


def test_a_first_scan_builds_while_it_reads_and_a_second_one_does_not(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, begun: list[bool]
) -> None:
    plant(tree_dir)
    volume = make_volume()
    volume.scan()
    assert volume.root == expected_root(volume)
    assert begun == [True]
    (tree_dir / "1/d1/new").write_bytes(b"new")
    volume.scan()
    assert volume.root == expected_root(volume)
    assert begun == [True]


def test_a_snapshot_builds_while_it_reads(tmp_path: Path, begun: list[bool]) -> None:
    plant(tmp_path)
    snapshot = Snapshot(os.fsencode(tmp_path), How(XXH3_128))
    try:
        summary = snapshot.take()
        assert begun == [True]
        assert summary == Tree(XXH3_128, no_source).build(snapshot.items()).summary
    finally:
        snapshot.close()


@pytest.mark.parametrize("held_up_files", [4, 1000])
def test_what_is_written_behind_the_frontier_is_in_the_root(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, begun: list[bool],
    monkeypatch: pytest.MonkeyPatch, held_up_files: int,
) -> None:  # fmt: skip
    """A directory that readers leave to the scan is compared at the end, or when the tree waits for it."""
    monkeypatch.setattr(scan_module, "HELD_UP_FILES", held_up_files)
    plant(tree_dir)
    os.mkfifo(tree_dir / "0" / "d0" / "pipe")
    grown: list[bytes] = []
    grow = Growth.grow

    def growing(self: Growth, frontier: bytes) -> None:
        grown.append(frontier)
        grow(self, frontier)

    monkeypatch.setattr(Growth, "grow", growing)
    volume = make_volume()
    volume.scan()
    assert volume.root == expected_root(volume)
    assert (max(grown) <= b"0\0d0") is (held_up_files > 40)
    assert begun == [True]  # what was written below that directory did not end it


@pytest.mark.parametrize("held_up_files", [4, 1000])
def test_what_is_below_an_odd_directory_is_read_once(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, begun: list[bool],
    monkeypatch: pytest.MonkeyPatch, held_up_files: int,
) -> None:  # fmt: skip
    """A directory of very many names comes in parts: what the first found was to be read when the last left it."""
    monkeypatch.setattr(scan_module, "HELD_UP_FILES", held_up_files)
    odd = tree_dir / "a"
    for number in range(100):
        (odd / f"d{number:02}" / "e").mkdir(parents=True)
        (odd / f"d{number:02}" / "f").write_bytes(b"once")
        (odd / f"d{number:02}" / "e" / "f").write_bytes(b"once")
    for number in range(2 * KEEP_ENTRIES):
        (odd / f"l{number}").symlink_to("d00")
    os.mkfifo(odd / "pipe")
    volume = make_volume()
    report = volume.scan()
    assert volume.root == expected_root(volume)
    assert report.hashed_files == 200


class Compared(bytes):
    """A key that counts how often it is held against another one."""

    count = 0

    def __lt__(self, other: bytes) -> bool:
        Compared.count += 1
        return bytes(self) < bytes(other)


def test_the_frontier_costs_the_same_however_many_directories_are_left() -> None:
    """It is asked for whenever readers have answered, and a tree may have many directories that nobody can read."""
    nothing = cast(Any, None)
    fresh = Fresh(nothing, nothing, nothing, nothing, nothing)
    keys = [Compared(b"d%04d" % number) for number in range(1000)]
    random.Random(1).shuffle(keys)
    for key in keys:
        fresh._leave(key)
    Compared.count = 0
    assert fresh.frontier(Compared(b"e")) == b"d0000"
    assert Compared.count < 10


def test_a_scan_that_failed_leaves_no_tree_to_the_next(
    tree_dir: Path, make_volume: MakeVolume, expected_root: Expected, begun: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plant(tree_dir)
    volume = make_volume()
    with monkeypatch.context() as patched:
        count = 0
        answered = Fresh._answered

        def failing(self: Fresh, *given: object) -> None:
            nonlocal count
            count += 1
            if count == 20:
                raise OSError(5, "the disk")
            answered(self, *given)  # type: ignore[arg-type]

        patched.setattr(Fresh, "_answered", failing)
        assert not volume.scan().complete
    (tree_dir / "0/d0/late").write_bytes(b"late")
    (tree_dir / "0/another").mkdir()
    (tree_dir / "0/another/f").write_bytes(b"f")
    assert volume.scan().complete
    assert volume.root == expected_root(volume)
