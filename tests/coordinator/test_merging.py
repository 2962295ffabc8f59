"""The three-way merge: table cases of two writers, and rules that hold for any three trees."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.founding import unite
from closeranks_coordinator.core.judge import Analysis
from closeranks_coordinator.core.merging import Merged, conflict_name, merge
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from closeranks_proto.limits import MAX_PATH_BYTES
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


# --- the middle of a change, and paths at their bounds ------------------------------------------------


def without(files: Files, *paths: str) -> Files:
    """The same without exactly these: what lies below a directory that goes stays, as in the middle of a removal."""
    return {key: value for key, value in files.items() if key not in [key_of(path) for path in paths]}


def test_what_lies_in_a_directory_that_its_writer_has_removed_already_is_on_its_way_out() -> None:
    """Told in the middle of `mv d e`: the new file is not brought back, nor does it bring its directory."""
    ours = without(BASE, "d", "d/x", "d/y") | {key_of("d/new"): NEW}
    found, truth = merged(BASE, ours, BASE)
    assert truth == changed(d=None)
    assert not found.clashes


def test_what_a_writer_has_moved_within_a_directory_that_it_removes_is_put_off_at_any_depth() -> None:
    base = tree("d/e/x")
    ours = without(base, "d/e", "d/e/x") | {key_of("d/e/f"): DIRECTORY, key_of("d/e/f/new"): NEW}
    found, truth = merged(base, ours, base)
    assert not [key for key in truth if key.startswith(key_of("d/e/f"))]
    assert not found.clashes


def test_a_whole_subtree_of_two_levels_follows_under_the_conflict_name() -> None:
    """One writer makes `f` a directory with a tree in it, another changes the file `f`."""
    below = tree("f/a/b/c", "f/a/d", "f/e") | {key_of("f/a/empty"): DIRECTORY}
    ours = without(BASE, "f") | below
    found, truth = merged(BASE, ours, changed(f=OTHER))
    assert truth[key_of("f")] == OTHER
    (clash,) = found.clashes
    assert clash.kept is not None
    moved = {key: truth.get(clash.kept + key[1:]) for key in below}
    assert moved == below
    assert is_tree(truth)


def test_where_the_conflict_name_makes_a_path_too_long_the_file_is_kept_by_itself() -> None:
    """The directory's name grows by a date. What would pass 4,095 bytes lies under a conflict name of its own."""
    deep = "f/" + "/".join(["n" * 254] * 15) + "/" + "m" * 240
    ours = without(BASE, "f") | tree(deep)
    found, truth = merged(BASE, ours, changed(f=OTHER))
    assert truth[key_of("f")] == OTHER
    (content,) = [value for key, value in ours.items() if key == key_of(deep)]
    places = [key for key, value in truth.items() if value == content]
    assert len(places) == 1
    assert all(len(key) <= MAX_PATH_BYTES for key in truth)
    assert b".conflict-node-02-" in places[0].rsplit(b"\0", 1)[-1]
    assert is_tree(truth)
    assert [one.key for one in found.clashes] == [key_of("f"), key_of(deep)]


def test_a_conflict_name_that_fits_nowhere_below_lies_in_a_directory_further_up() -> None:
    deep = "/".join(["n" * 254] * 15) + "/" + "m" * 235 + "/x"
    base = tree(deep)
    found, truth = merged(base, base | {key_of(deep): NEW}, base | {key_of(deep): OTHER})
    (clash,) = found.clashes
    assert clash.kept is not None
    assert (truth[clash.kept], truth[key_of(deep)]) == (NEW, OTHER)
    assert len(clash.kept) <= MAX_PATH_BYTES
    assert clash.kept.count(b"\0") == key_of(deep).count(b"\0") - 1
    assert is_tree(truth)


def test_two_conflicts_of_one_moment_and_one_content_have_two_names() -> None:
    base = tree("d/x")
    taken = conflict_name(b"x", "node-02", WALL_MS, decode_entry(NEW, 16).digest.hex())
    theirs = base | {key_of("d/x"): OTHER, b"d\0" + taken: file_of("there already")}
    found, truth = merged(base, base | {key_of("d/x"): NEW}, theirs)
    (clash,) = found.clashes
    assert clash.kept is not None
    assert clash.kept.endswith(b"-2")
    assert truth[b"d\0" + taken] == file_of("there already")


def test_where_only_a_time_was_changed_on_both_sides_nobody_is_told() -> None:
    def at(mtime_ns: int, mode: int = 0o644) -> bytes:
        return encode_entry(Entry(Kind.FILE, 5, bytes(16), mode, mtime_ns=mtime_ns))

    found, truth = merged({b"f": at(1)}, {b"f": at(2)}, {b"f": at(3)})
    assert (truth, found.clashes) == ({b"f": at(3)}, [])
    found, truth = merged({b"f": at(1)}, {b"f": at(2, 0o600)}, {b"f": at(3)})
    assert (truth, found.clashes) == ({b"f": at(3, 0o600)}, []), "what only we changed is taken"
    found, truth = merged({b"f": at(1)}, {b"f": at(2, 0o600)}, {b"f": at(3, 0o640)})
    assert truth == {b"f": at(3, 0o640)}
    assert [(one.key, one.kept) for one in found.clashes] == [(b"f", None)]
