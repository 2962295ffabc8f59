"""Edits that keep the tree's shape give, page for page, what the general way gives."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.digests import BLAKE3, XXH3_128, DigestAlgorithm
from closeranks_proto.edits import Press
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import CodecError
from closeranks_proto.limits import PAGE_MAX_BYTES, PAGE_MAX_ITEMS
from closeranks_proto.pages import Page, decode_page
from closeranks_proto.replacing import plan
from forest.keys import keys_of_level, pool
from forest.store import Forest, file_value, small_value

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=150)
Edits = Mapping[bytes, bytes | None]


def link(length: int) -> bytes:
    return encode_entry(Entry(Kind.SYMLINK, length, target=b"t" * length))


def naive(forest: Forest, root: bytes, edits: Edits) -> tuple[bytes, dict[bytes, bytes]]:
    """(root, pages) by the way that knows nothing of shapes that stay."""

    def read(digest: bytes) -> Page:
        return decode_page(forest.objects[digest])

    press = Press(forest.algorithm, read)
    return press.reshape(read(root), root, sorted(edits.items())), press.pages


def planned(forest: Forest, root: bytes, edits: Edits) -> bool:
    """Whether these edits are taken for such that keep the shape."""

    def read(digest: bytes) -> Page:
        return decode_page(forest.objects[digest])

    return plan(read, read(root), sorted(edits.items())) is not None


@FIXED
@pytest.mark.parametrize("algorithm", [XXH3_128, BLAKE3])
@given(st.integers(0, 2**32))
def test_values_replaced_by_others_give_the_root_and_the_pages_of_the_general_way(
    algorithm: DigestAlgorithm, seed: int
) -> None:
    rng = random.Random(seed)
    forest = Forest(algorithm)
    items = {key: small_value(rng.randrange(12), algorithm.width) for key in pool() if rng.random() < 0.8}
    root = forest.plant(items)
    for _ in range(4):
        some = rng.sample(sorted(items), min(len(items), rng.choice((1, 2, 40))))
        edits: Edits = {key: small_value(rng.randrange(12), algorithm.width) for key in some}
        assert planned(forest, root, edits)
        made = forest.tree.edit(root, sorted(edits.items()))
        expected, pages = naive(forest, root, edits)
        assert made.root == expected
        assert all(pages[digest] == blob for digest, blob in made.pages.items())
        assert set(pages) - set(forest.objects) == set(made.pages) - set(forest.objects)
        root = forest.keep(made)
        assert made.summary == forest.tree.summary(root)
        items |= {key: value for key, value in edits.items() if value is not None}
    assert root == Forest(algorithm).plant(items)


def test_what_comes_or_goes_is_left_to_the_general_way() -> None:
    forest = Forest()
    keys = pool()
    root = forest.plant({key: small_value(3) for key in keys[1:-1]})
    for edits in ({keys[0]: small_value(3)}, {keys[-1]: small_value(3)}, {keys[5]: None}):
        assert not planned(forest, root, edits)
        assert forest.tree.edit(root, sorted(edits.items())).root == naive(forest, root, edits)[0]


def test_edits_that_change_nothing_make_no_page() -> None:
    forest = Forest()
    root = forest.plant({key: small_value(3) for key in pool()})
    made = forest.tree.edit(root, [(key, small_value(3)) for key in pool()[:9]])
    assert (made.root, made.pages) == (root, {})


@pytest.mark.parametrize("grown", [1, 2000])
@pytest.mark.parametrize("count", [PAGE_MAX_ITEMS - 1, PAGE_MAX_ITEMS, 30, 60])
def test_a_value_of_another_length_near_a_cap_gives_the_tree_of_its_set(count: int, grown: int) -> None:
    """Pages without a natural end, of many items or of heavy ones."""
    length = 10 if count > 100 else PAGE_MAX_BYTES // (count + 2)
    forest = Forest()
    items = {key: link(length) for key in sorted(keys_of_level(0, count))}
    root = forest.plant(items)
    for key in (min(items), sorted(items)[count // 2], max(items)):
        for other in (length + grown, max(1, length - grown)):
            edits: Edits = {key: link(other)}
            expected = Forest().plant({**items, key: link(other)})
            assert forest.tree.edit(root, sorted(edits.items())).root == expected
            assert naive(forest, root, edits)[0] == expected


def test_a_page_that_was_edited_is_known_as_the_one_that_is_read_again() -> None:
    """Packed keys and columns are kept from edit to edit: they must be those of the page's bytes."""
    rng = random.Random(5)
    forest, cold = Forest(), Forest(cache_pages=1)
    items = {key: file_value(rng) for key in pool()}
    root = forest.plant(items)
    cold.objects = forest.objects
    for _ in range(50):
        key, value = rng.choice(pool()), file_value(rng, rng.randrange(1, 2**40))
        warm = forest.tree.edit(root, [(key, value)])
        assert cold.tree.edit(root, [(key, value)]) == warm
        root = forest.keep(warm)


def test_a_tree_of_more_bytes_than_can_exist_is_refused() -> None:
    forest = Forest()
    items: dict[bytes, bytes] = {key: file_value(random.Random(1), 1) for key in pool()}
    items[pool()[0]] = file_value(random.Random(2), 2**63 - 200)
    root = forest.plant(items)
    with pytest.raises(CodecError, match="more than can exist"):
        forest.tree.edit(root, [(pool()[-1], file_value(random.Random(3), 2**62))])
