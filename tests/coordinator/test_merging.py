"""The three-way merge: table cases of two writers, and rules that hold for any three trees."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.founding import unite
from closeranks_coordinator.core.judge import Analysis
from closeranks_coordinator.core.merging import Merged, conflict_name, merge
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.tree import Tree
from fakeworld import file_of, key_of
from fakeworld.agents import DIRECTORY, Files
from fakeworld.trees import is_tree, tree

WALL_MS = 1_795_000_000_000


def merged(base: Files, ours: Files, theirs: Files, *lost: bytes) -> tuple[Merged, Files]:
    """What the merge says, and the new truth. Of `lost` keys no node has the truth's version."""
    objects: dict[bytes, bytes] = {}
    trees = Tree(XXH3_128, objects.__getitem__)
    objects.update(trees.empty.pages)
    roots = []
    for files in (base, ours, theirs):
        made = trees.build(sorted(files.items()))
        objects.update(made.pages)
        roots.append(made.root)

    def differing(one: Files, other: Files) -> dict[bytes, tuple[bytes | None, bytes | None]]:
        return {
            key: (one.get(key), other.get(key))
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        }

    raw = differing(ours, theirs)
    own = {key: values for key, values in raw.items() if ours.get(key) != base.get(key)}
    behind = differing(base, theirs)
    analysis = Analysis(
        roots[1], roots[2], roots[0], (), raw, behind, raw, frozenset(raw.keys() - own.keys()), frozenset()
    )
    found = merge(trees, analysis, own, "node-02", WALL_MS, lost.__contains__)
    truth = dict(theirs)
    for key, value in found.changes.items():
        if value is None:
            truth.pop(key, None)
        else:
            truth[key] = value
    return found, truth


BASE = tree("d/x", "d/y", "f")


def changed(**changes: bytes | None) -> Files:
    """BASE with these changes; `__` in a name is a slash."""
    files = dict(BASE)
    for name, value in changes.items():
        key = name.replace("__", "\0").encode()
        if value is None:
            for one in [one for one in files if one == key or one.startswith(key + b"\0")]:
                del files[one]
        else:
            files[key] = value
    return files


def kept(found: Merged) -> list[tuple[bytes, bytes | None]]:
    return [(clash.key, clash.ours if clash.kept else None) for clash in found.clashes]


NEW, OTHER = file_of("new"), file_of("other")


def test_what_only_one_changed_becomes_the_truth() -> None:
    found, truth = merged(BASE, changed(f=NEW, d__x=None), BASE)
    assert truth == changed(f=NEW, d__x=None)
    assert not found.clashes


def test_what_both_changed_stays_and_ours_is_kept_beside_it() -> None:
    found, truth = merged(BASE, changed(d__x=NEW), changed(d__x=OTHER))
    assert truth[key_of("d/x")] == OTHER
    (clash,) = found.clashes
    assert clash.kept is not None
    assert clash.kept.startswith(b"d\0x.conflict-node-02-")
    assert truth[clash.kept] == NEW
    assert found.held == {key_of("d/x"): NEW}


def test_what_was_removed_first_stays_removed_and_ours_is_kept_where_a_directory_is_left() -> None:
    found, truth = merged(BASE, changed(d__x=NEW), changed(d=None))
    assert key_of("d") not in truth
    (clash,) = found.clashes
    assert clash.kept is not None
    assert b"\0" not in clash.kept
    assert truth[clash.kept] == NEW


def test_a_removal_of_what_was_changed_first_is_only_noted() -> None:
    found, truth = merged(BASE, changed(f=None), changed(f=NEW))
    assert truth == changed(f=NEW)
    assert kept(found) == [(b"f", None)]


def test_a_removal_of_what_nobody_has_any_more_is_one() -> None:
    """Kept, it would be a truth that no node could ever reach."""
    for ours in (changed(d__x=None), changed(d=None)):
        found, truth = merged(BASE, ours, changed(d__x=NEW), b"d\0x")
        assert truth == ours
        assert not found.clashes
    _, truth = merged(BASE, changed(d=None), changed(d__x=NEW))
    assert truth == {b"d": DIRECTORY, b"d\0x": NEW, b"f": BASE[b"f"]}, "somebody has it: it stays"


def test_a_tree_takes_the_place_of_a_file_that_nobody_has_any_more() -> None:
    ours = changed(f=DIRECTORY, f__new=NEW, f__sub=DIRECTORY, f__sub__new=NEW)
    found, truth = merged(BASE, ours, changed(f=OTHER), b"f")
    assert truth == ours
    assert not found.clashes


def test_a_new_file_brings_its_directory_back_and_nothing_else() -> None:
    found, truth = merged(BASE, changed(d__new=NEW), changed(d=None))
    assert truth == {b"d": DIRECTORY, b"d\0new": NEW, b"f": BASE[b"f"]}
    assert not found.clashes


def test_a_directory_in_which_something_came_is_not_removed() -> None:
    found, truth = merged(BASE, changed(d=None), changed(d__new=NEW))
    assert truth == {b"d": DIRECTORY, b"d\0new": NEW, b"f": BASE[b"f"]}
    assert found.held == {b"d": None}


def test_a_file_where_something_came_into_the_directory_is_kept_beside_it() -> None:
    ours = changed(d=None)
    ours[b"d"] = NEW
    found, truth = merged(BASE, ours, changed(d__new=OTHER))
    assert truth[b"d"] == DIRECTORY
    assert truth[b"d\0new"] == OTHER
    assert kept(found) == [(b"d", NEW)]


def test_a_directory_on_a_path_that_became_a_file_goes_whole_under_its_conflict_name() -> None:
    ours = changed(f=None)
    ours |= {b"f": DIRECTORY, b"f\0in": NEW, b"f\0deep": DIRECTORY, b"f\0deep\0er": OTHER}
    found, truth = merged(BASE, ours, changed(f=OTHER))
    assert truth[b"f"] == OTHER
    (clash,) = found.clashes
    assert clash.kept is not None
    assert truth[clash.kept + b"\0deep\0er"] == OTHER
    assert truth[clash.kept + b"\0in"] == NEW


def test_an_empty_directory_brings_back_those_that_it_lies_in() -> None:
    """Another has removed them; who made it must have somewhere to keep it."""
    _, truth = merged(BASE, BASE | {b"d\0new": DIRECTORY}, changed(d=None, d__x=None, d__y=None))
    assert truth == {b"d": DIRECTORY, b"d\0new": DIRECTORY, b"f": BASE[b"f"]}


def test_a_mode_and_a_content_changed_apart_are_both_taken() -> None:
    found, truth = merged(BASE, changed(f=file_of("f", mode=0o600)), changed(f=NEW))
    assert truth[b"f"] == file_of("new", mode=0o600)
    assert not found.clashes


def _file(content: str, mode: int = 0o644, mtime_ns: int = 0, owner: tuple[int, int] = (0, 0)) -> bytes:
    """A file of a volume that tracks these."""
    return encode_entry(
        Entry(Kind.FILE, 100, XXH3_128.of(content.encode()), mode, owner=owner, mtime_ns=mtime_ns)
    )


def test_attributes_that_both_changed_keep_no_second_copy_of_the_same_bytes() -> None:
    base = changed(f=_file("f"))
    ours, theirs = _file("f", 0o600, owner=(1, 1)), _file("f", 0o640, mtime_ns=9)
    found, truth = merged(base, base | {b"f": ours}, base | {b"f": theirs})
    assert truth == base | {b"f": _file("f", 0o640, mtime_ns=9, owner=(1, 1))}, "each attribute by itself"
    assert kept(found) == [(b"f", None)], "it is told that two modes were given"
    assert found.held == {b"f": ours}


@pytest.mark.parametrize("base", [BASE, changed(f=_file("elder"))])
def test_the_same_bytes_written_on_both_sides_are_no_conflict(base: Files) -> None:
    """A release that is unpacked on each node by itself: its files differ in nothing but the moment."""
    ours, theirs = _file("release", mtime_ns=1), _file("release", mtime_ns=2)
    found, truth = merged(base, base | {b"f": ours}, base | {b"f": theirs})
    assert truth == base | {b"f": theirs}
    assert kept(found) == []
    assert found.held == {b"f": ours}, "what came second is late, and is brought to the first one's time"


def test_the_first_truth_of_equal_files_with_other_times_has_each_of_them_once() -> None:
    """Trees that were copied to each node without their times, or cloned there."""
    objects: dict[bytes, bytes] = {}
    trees = Tree(XXH3_128, objects.__getitem__)
    objects.update(trees.empty.pages)
    roots = {}
    for number, mode in enumerate((0o644, 0o644, 0o600)):
        files = {f"file-{one}".encode(): _file(f"{one}", mode, mtime_ns=number) for one in range(200)}
        made = trees.build(sorted(files.items()))
        objects.update(made.pages)
        roots[f"node-{number}"] = made.root
    union = unite(trees, roots, WALL_MS, objects.update)
    found = dict(trees.walk(union.root, b"", None))
    assert sorted(found) == sorted(f"file-{one}".encode() for one in range(200))
    assert union.clashes == []


def test_a_removal_above_what_is_still_there_is_put_off() -> None:
    ours = {key: value for key, value in BASE.items() if key not in (b"d", b"d\0x")}
    found, truth = merged(BASE, ours, BASE)
    assert truth == changed(d__x=None)
    assert found.held == {}


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        (b"photo.jpg", b"photo.conflict-n-", b".jpg"),
        (b".profile", b".profile.conflict-n-", b"-a1b2c3"),
        (b"x" * 255, b"x" * 200, b"-a1b2c3"),
        ("ä".encode() * 127, "ä".encode() * 100, b"-a1b2c3"),
        (b"\xff" * 250 + b".jpg", b"\xff" * 200, b".jpg"),
    ],
)
def test_a_conflict_name_is_bounded_and_keeps_the_extension(name: bytes, start: bytes, end: bytes) -> None:
    found = conflict_name(name, "n", WALL_MS, "a1b2c3d4")
    assert found.startswith(start)
    assert found.endswith(end)
    assert len(found) <= 255
    if name.decode(errors="replace").isprintable() and b"\xff" not in name:
        found.decode()


PATHS = ("a", "a/b", "a/b/c", "a/b/d", "a/e", "f", "f/g")


@st.composite
def some_tree(draw: st.DrawFn) -> Files:
    files: Files = {}
    for path in PATHS:
        above = path.rpartition("/")[0]
        if above and files.get(key_of(above)) != DIRECTORY:
            continue
        value = draw(
            st.sampled_from(
                (None, DIRECTORY, DIRECTORY, file_of("1"), file_of("2"), file_of("1", mode=0o600))
            )
        )
        if value is not None:
            files[key_of(path)] = value
    return files


@settings(max_examples=400, deadline=None)
@given(some_tree(), some_tree(), some_tree())
def test_any_three_trees(base: Files, ours: Files, theirs: Files) -> None:
    found, truth = merged(base, ours, theirs)
    assert is_tree(truth.items()), "a disk can hold it"
    values = set(truth.values())
    for key, value in ours.items():
        if base.get(key, b"")[4:28] != value[4:28] and value != DIRECTORY:
            same = {one for one in values if one[4:28] == value[4:28]}
            assert same, f"{key!r} is lost"
    for key, value in theirs.items():
        if base.get(key, b"")[4:28] != value[4:28] and value != DIRECTORY:
            assert truth.get(key, b"")[4:28] == value[4:28], f"{key!r}: what came first stands"
    for key, value in base.items():
        gone = key not in theirs
        if gone and key in truth and value != DIRECTORY:
            assert truth[key] != value or (key in ours and ours[key] != value), f"{key!r} came back"
    assert all(value == ours.get(key) for key, value in found.held.items())
