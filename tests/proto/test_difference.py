"""The difference of two trees is the difference of their sets, and costs pages in the size of the difference."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.pages import decode_page
from forest.keys import pool
from forest.store import Forest, file_value, small_value

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)

Items = dict[bytes, bytes]
keys = st.sampled_from(pool())


def crowd(seed: int) -> Items:
    rng = random.Random(seed)
    return {key: small_value(rng.randrange(12)) for key in rng.sample(pool(), rng.randrange(len(pool()) + 1))}


crowds = st.builds(crowd, st.integers(0, 2**32))
sets = crowds | st.dictionaries(keys, st.integers(0, 11).map(small_value), max_size=30)


@st.composite
def near_pairs(draw: st.DrawFn) -> tuple[Items, Items]:
    """Two sets that share most, or nothing, or are equal."""
    ours = draw(sets)
    if draw(st.booleans()):
        return ours, draw(sets)
    edits = draw(st.dictionaries(keys, st.none() | st.integers(0, 11).map(small_value), max_size=8))
    return ours, {key: value for key, value in {**ours, **edits}.items() if value is not None}


@FIXED
@given(near_pairs())
def test_applying_the_difference_makes_one_tree_of_the_other(pair: tuple[Items, Items]) -> None:
    forest = Forest()
    ours, theirs = (forest.plant(items) for items in pair)
    found = list(forest.tree.diff(ours, theirs))
    assert [one.key for one in found] == sorted({one.key for one in found})
    assert all(one.ours != one.theirs for one in found)
    assert all((one.ours, one.theirs) == (pair[0].get(one.key), pair[1].get(one.key)) for one in found)
    assert forest.edit(ours, {one.key: one.theirs for one in found}) == theirs
    assert forest.edit(theirs, {one.key: one.ours for one in found}) == ours


@FIXED
@given(near_pairs(), st.tuples(keys | st.just(b""), st.none() | keys))
def test_the_difference_within_a_range_is_the_part_of_the_whole(
    pair: tuple[Items, Items], span: tuple[bytes, bytes | None]
) -> None:
    low, high = span
    forest = Forest()
    ours, theirs = (forest.plant(items) for items in pair)
    whole = list(forest.tree.diff(ours, theirs))
    part = list(forest.tree.diff(ours, theirs, low, high))
    assert part == [one for one in whole if low <= one.key and (high is None or one.key < high)]


def test_trees_of_different_heights_and_the_empty_tree() -> None:
    forest = Forest()
    tall = forest.plant(dict.fromkeys(pool(), small_value(2)))
    low = forest.plant(dict.fromkeys(pool()[50:51], small_value(2)))
    assert decode_page(forest.objects[tall]).level > decode_page(forest.objects[low]).level == 0
    assert [one.key for one in forest.tree.diff(tall, low)] == [*pool()[:50], *pool()[51:]]
    assert [one.key for one in forest.tree.diff(low, tall)] == [*pool()[:50], *pool()[51:]]
    assert len(list(forest.tree.diff(forest.tree.empty.root, tall))) == len(pool())
    assert list(forest.tree.diff(tall, tall)) == []


# --- cost ----------------------------------------------------------------------------------------

ENTRIES = 20_000


@pytest.fixture(scope="module")
def large() -> tuple[Forest, bytes, list[tuple[bytes, bytes]]]:
    rng = random.Random(7)
    forest = Forest(cache_pages=0)
    items = [(b"d%02d\0f%04d" % divmod(number, 500), file_value(rng)) for number in range(ENTRIES)]
    return forest, forest.plant(dict(items)), items


def path_pages(forest: Forest, root: bytes) -> int:
    return decode_page(forest.objects[root]).level + 1


@pytest.mark.parametrize("count", [1, 2, 5, 20, 80])
@pytest.mark.parametrize("kind", ["change", "delete", "insert"])
def test_scattered_differences_cost_their_paths_in_both_trees(
    large: tuple[Forest, bytes, list[tuple[bytes, bytes]]], count: int, kind: str
) -> None:
    """At most three paths in each tree for each difference, where the leaves alone would be 600 pages."""
    forest, root, items = large
    rng = random.Random(count)
    some = sorted(rng.sample(items, count))
    edits: dict[bytes, bytes | None] = {
        key + (b"-new" if kind == "insert" else b""): None if kind == "delete" else file_value(rng)
        for key, _ in some
    }
    other = forest.edit(root, edits)
    height = max(path_pages(forest, root), path_pages(forest, other))
    forest.reads.clear()
    assert {one.key for one in forest.tree.diff(root, other)} == set(edits)
    assert len(forest.reads) <= 3 * 2 * height * count
    assert height <= 2 + math.log(ENTRIES, 32)


def test_a_cluster_of_differences_costs_its_leaves(
    large: tuple[Forest, bytes, list[tuple[bytes, bytes]]],
) -> None:
    forest, root, items = large
    rng = random.Random(3)
    other = forest.edit(root, {key: file_value(rng) for key, _ in items[5000:6000]})
    forest.reads.clear()
    assert len(list(forest.tree.diff(root, other))) == 1000
    assert len(forest.reads) < 2 * 2 * 1000 / 64 + 20


def test_pages_that_both_share_are_never_read(large: tuple[Forest, bytes, list[tuple[bytes, bytes]]]) -> None:
    forest, root, items = large
    other = forest.edit(root, {items[77][0]: None, items[9000][0]: None})
    shared = forest.below(root) & forest.below(other)
    forest.reads.clear()
    list(forest.tree.diff(root, other))
    assert len(shared.intersection(forest.reads)) <= 2 * 2
