"""What a node is converged to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.judge import Analysis
from closeranks_coordinator.core.targets import target_of
from closeranks_coordinator.core.truth import Differ
from closeranks_proto.entries import Entry, Kind, encode_entry
from forest.store import Forest, small_value

FILE, OTHER = small_value(2), small_value(6)
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))
Files = dict[bytes, bytes]


def target(
    files: Files, truth: Files, lagging: set[bytes], purpose: str, unclear: frozenset[bytes]
) -> Files | None:
    forest = Forest()
    root, wanted = forest.plant(files), forest.plant(truth)
    raw = Differ(forest.tree).diff(root, wanted)
    analysis = Analysis(root, wanted, wanted, (), raw, {}, raw, lagging & raw.keys(), frozenset())
    made = target_of(forest.tree, analysis, purpose, unclear)  # type: ignore[arg-type]
    return None if made is None else dict(forest.tree.walk(forest.keep(made)))


def test_a_fenced_node_gets_the_truth() -> None:
    assert target({b"a": OTHER}, {b"a": FILE}, set(), "divergence", frozenset()) is None


def test_what_nobody_can_judge_is_kept() -> None:
    found = target(
        {b"a": OTHER, b"b": OTHER}, {b"a": FILE, b"b": FILE}, set(), "divergence", frozenset([b"a"])
    )
    assert found == {b"a": OTHER, b"b": FILE}


def test_a_late_node_keeps_its_own() -> None:
    found = target({b"mine": OTHER}, {b"new": FILE}, {b"new"}, "lag", frozenset())
    assert found == {b"mine": OTHER, b"new": FILE}


def test_a_removed_directory_stays_while_something_kept_lies_in_it() -> None:
    files = {b"d": DIRECTORY, b"d\0old": FILE, b"d\0mine": OTHER}
    found = target(files, {}, {b"d", b"d\0old"}, "lag", frozenset())
    assert found == {b"d": DIRECTORY, b"d\0mine": OTHER}


def test_nothing_is_put_below_what_is_kept_as_a_file() -> None:
    truth = {b"d": DIRECTORY, b"d\0new": FILE, b"d\0sub": DIRECTORY, b"d\0sub\0deep": FILE, b"e": FILE}
    found = target({b"d": OTHER}, truth, set(truth) - {b"d"}, "lag", frozenset())
    assert found == {b"d": OTHER, b"e": FILE}


value = st.sampled_from([FILE, OTHER, DIRECTORY])
tree = st.dictionaries(st.sampled_from([b"a", b"a\0b", b"a\0b\0c", b"a\0d", b"e"]), value)


def sound(files: Files) -> Files:
    """Only what a disk can hold."""
    kept: Files = {}
    for key in sorted(files):
        parent = key.rpartition(b"\0")[0]
        if not parent or kept.get(parent) == DIRECTORY:
            kept[key] = files[key]
    return kept


@settings(deadline=None, max_examples=300, derandomize=True)
@given(tree, tree, st.data())
def test_every_target_can_be_held_by_a_disk(files: Files, truth: Files, data: st.DataObject) -> None:
    files, truth = sound(files), sound(truth)
    differing = sorted(key for key in files.keys() | truth.keys() if files.get(key) != truth.get(key))
    lagging = data.draw(st.sets(st.sampled_from(differing)) if differing else st.just(set()))
    unclear = data.draw(st.frozensets(st.sampled_from(differing)) if differing else st.just(frozenset()))
    purpose = data.draw(st.sampled_from(["lag", "join", "divergence"]))
    found = target(files, truth, lagging, purpose, unclear)
    if found is not None:
        assert sound(found) == found
        for key in unclear:
            assert found.get(key) == files.get(key)
