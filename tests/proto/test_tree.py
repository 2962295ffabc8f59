"""The tree is a function of its set of items, and every question gets the set's answer."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.digests import ALGORITHMS, BLAKE3, XXH3_128
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry, entry_kind, entry_size
from closeranks_proto.errors import CodecError, DamagedObject, MissingObject, PathError
from closeranks_proto.pages import Page, decode_page, encode_page
from closeranks_proto.tree import Tree
from forest.keys import keys_of_level, pool
from forest.store import CHUNK, Forest, large_file, small_value

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=150)

keys = st.sampled_from(pool())
values = st.integers(0, 11).map(small_value)


def crowd(seed: int, gone: bool) -> dict[bytes, bytes | None]:
    """A random share of the pool: Hypothesis alone prefers sets of a few keys."""
    rng = random.Random(seed)
    some = rng.sample(pool(), rng.randrange(len(pool()) + 1))
    share = rng.random() if gone else 0
    return {key: None if rng.random() < share else small_value(rng.randrange(12)) for key in some}


seeds = st.integers(0, 2**32)
item_sets = st.dictionaries(keys, values, max_size=40) | st.builds(crowd, seeds, st.just(False))
edit_sets = st.dictionaries(keys, st.none() | values, max_size=40) | st.builds(crowd, seeds, st.just(True))


def applied(items: Mapping[bytes, bytes], edits: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    changed = {**items, **edits}
    return {key: value for key, value in changed.items() if value is not None}


def check_tree(forest: Forest, root: bytes, items: Mapping[bytes, bytes]) -> None:
    """`root` is the tree of `items` by every account."""
    summary = forest.tree.summary(root)
    files = [value for value in items.values() if entry_kind(value) is Kind.FILE]
    assert root == Forest(forest.algorithm).plant(items)
    assert (summary.root, summary.entries) == (root, len(items))
    assert (summary.files, summary.bytes) == (len(files), sum(map(entry_size, files)))
    assert list(forest.tree.walk(root)) == sorted(items.items())


@FIXED
@given(item_sets, st.lists(edit_sets, max_size=5))
def test_any_grouping_of_edits_gives_the_root_of_the_resulting_set(
    items: dict[bytes, bytes], groups: list[dict[bytes, bytes | None]]
) -> None:
    forest = Forest()
    root = forest.plant(items)
    for edits in groups:
        made = forest.tree.edit(root, sorted(edits.items()))
        root = forest.keep(made)
        items = applied(items, edits)
        assert made.summary == forest.tree.summary(root)
        check_tree(forest, root, items)


@FIXED
@given(item_sets, st.randoms(use_true_random=False))
def test_one_by_one_in_any_order_gives_the_root_of_build_and_back_to_the_empty_one(
    items: dict[bytes, bytes], rng: random.Random
) -> None:
    forest = Forest()
    root = forest.tree.empty.root
    order = list(items)
    rng.shuffle(order)
    for key in order:
        root = forest.edit(root, {key: items[key]})
    check_tree(forest, root, items)
    rng.shuffle(order)
    for key in order:
        root = forest.edit(root, {key: None})
    assert root == forest.tree.empty.root


def test_random_batch_within_a_time_box() -> None:
    """New cases at every run; `batch(seed)` repeats the printed one."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        seed = secrets.randbits(64)
        print(f"seed {seed}")
        batch(seed)


def batch(seed: int) -> None:
    rng = random.Random(seed)
    forest = Forest(rng.choice([XXH3_128, BLAKE3]), cache_pages=rng.choice([1, 4, 512]))
    some = rng.sample(pool(), rng.randrange(1, len(pool())))
    items: dict[bytes, bytes] = {}
    root = forest.tree.empty.root
    for _ in range(rng.randrange(1, 10)):
        count = rng.randrange(len(some) + 1) if rng.random() < 0.5 else min(len(some), rng.randrange(4))
        share = rng.random()
        edits = {
            key: None if rng.random() < share else small_value(rng.randrange(12), forest.algorithm.width)
            for key in rng.sample(some, count)
        }
        before, before_items = root, items
        root = forest.edit(root, edits)
        items = applied(items, edits)
        check_tree(forest, root, items)
        found = {one.key: (one.ours, one.theirs) for one in forest.tree.diff(before, root)}
        assert found == {
            key: (before_items.get(key), items.get(key))
            for key in sorted(before_items.keys() | items.keys())
            if before_items.get(key) != items.get(key)
        }


# --- the shape -----------------------------------------------------------------------------------


def test_deleting_the_key_that_ends_a_page_runs_into_the_first_page_of_the_next_parent() -> None:
    """Both the leaf and its parent end at the key that goes: the run crosses from parent to parent."""
    between, after = keys_of_level(2, 16)[0], None
    plain = sorted(keys_of_level(0, 60) + keys_of_level(1, 40))
    items = dict.fromkeys([*plain, between], small_value(5))
    forest = Forest()
    root = forest.plant(items)
    top = decode_page(forest.objects[root])
    assert top.level == 2
    assert between in top.keys
    first, second = (decode_page(forest.objects[ref.digest]) for ref in top.refs[:2])
    assert first.keys[-1] == between
    assert (first.level, second.level) == (1, 1)
    root = forest.edit(root, {between: after})
    check_tree(forest, root, {key: small_value(5) for key in plain})
    joined = [page for page in map(decode_page, forest.objects.values()) if not page.level]
    before, behind = max(key for key in plain if key < between), min(key for key in plain if key > between)
    assert any(before in page.keys and behind in page.keys for page in joined)


def test_a_run_absorbs_every_following_page_that_ends_at_a_deleted_key() -> None:
    ending = keys_of_level(1, 40) + keys_of_level(2, 16) + keys_of_level(3, 2)
    plain = keys_of_level(0, 60)
    forest = Forest()
    root = forest.plant(dict.fromkeys(ending + plain, small_value(3)))
    assert len(forest.below(root)) > 60
    root = forest.edit(root, dict.fromkeys(ending))
    check_tree(forest, root, dict.fromkeys(plain, small_value(3)))
    assert len(forest.below(root)) == 1


def test_the_root_is_the_lowest_page_alone_on_its_level() -> None:
    """A tall tree that loses its right half is as low as one that never had it, and no page is left over."""
    forest = Forest()
    items = dict.fromkeys(pool(), small_value(2))
    root = forest.plant(items)
    tall = decode_page(forest.objects[root]).level
    few = sorted(items)[:2]
    made = forest.tree.edit(root, [(key, None) for key in sorted(items) if key not in few])
    root = forest.keep(made)
    assert decode_page(forest.objects[root]).level < tall
    check_tree(forest, root, {key: items[key] for key in few})
    assert set(made.pages) <= forest.below(root)


def test_an_edit_gives_no_page_that_its_tree_does_not_have() -> None:
    forest = Forest()
    rng = random.Random(5)
    root = forest.plant(dict.fromkeys(pool(), small_value(2)))
    for _ in range(100):
        some = rng.sample(pool(), rng.randrange(1, 40))
        made = forest.tree.edit(root, [(key, rng.choice([None, small_value(6)])) for key in sorted(some)])
        root = forest.keep(made)
        assert set(made.pages) <= forest.below(root)


def test_edits_that_change_nothing_give_the_same_root() -> None:
    forest = Forest()
    root = forest.plant(dict.fromkeys(pool()[::2], small_value(2)))
    assert forest.tree.edit(root, []).pages == {}
    same = [(key, small_value(2)) if key in pool()[::2] else (key, None) for key in pool()]
    made = forest.tree.edit(root, same)
    assert made.root == root
    assert not any(decode_page(blob).level for blob in made.pages.values())  # the levels above were let be
    assert made.summary == forest.tree.summary(root)


@pytest.mark.parametrize("value_bytes", [10, 3000])
def test_caps_end_pages_whatever_the_order_of_edits(value_bytes: int) -> None:
    """No key ends a page here: only the caps on items and bytes do."""
    rng = random.Random(value_bytes)
    target = b"t" * value_bytes
    value = encode_entry(Entry(Kind.SYMLINK, len(target), target=target))
    plain = keys_of_level(0, 1500)
    forest = Forest()
    items: dict[bytes, bytes] = {}
    root = forest.tree.empty.root
    for _ in range(12):
        edits = {
            key: value if rng.random() < 0.7 else None for key in rng.sample(plain, rng.choice([1, 30, 500]))
        }
        root = forest.edit(root, edits)
        items = applied(items, edits)
        check_tree(forest, root, items)
    assert len(forest.below(root)) > 1


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_shape_is_the_same_for_every_digest(name: str) -> None:
    algorithm = ALGORITHMS[name]
    forest = Forest(algorithm)
    root = forest.plant({key: small_value(index, algorithm.width) for index, key in enumerate(pool())})
    shape = sorted(
        (page.level, *page.keys) for page in (decode_page(forest.objects[one]) for one in forest.below(root))
    )
    other = Forest(XXH3_128)
    other_root = other.plant({key: small_value(index) for index, key in enumerate(pool())})
    assert shape == sorted(
        (page.level, *page.keys)
        for page in (decode_page(other.objects[one]) for one in other.below(other_root))
    )


# --- questions -----------------------------------------------------------------------------------

ranges = st.tuples(keys | st.just(b""), st.none() | keys)


@FIXED
@given(item_sets, ranges)
def test_walk_and_counts_of_a_range(items: dict[bytes, bytes], span: tuple[bytes, bytes | None]) -> None:
    low, high = span
    forest = Forest()
    root = forest.plant(items)
    inside = {key: value for key, value in items.items() if low <= key and (high is None or key < high)}
    assert list(forest.tree.walk(root, low, high)) == sorted(inside.items())
    counts = forest.tree.count_range(root, low, high)
    files = [value for value in inside.values() if entry_kind(value) is Kind.FILE]
    assert counts == (len(inside), len(files), sum(map(entry_size, files)))


@FIXED
@given(item_sets, st.sets(keys))
def test_lookups_find_what_is_there_and_nothing_else(items: dict[bytes, bytes], asked: set[bytes]) -> None:
    forest = Forest()
    root = forest.plant(items)
    assert {key: forest.tree.lookup(root, key) for key in asked} == {key: items.get(key) for key in asked}
    assert forest.tree.lookup_many(root, asked) == {key: items[key] for key in asked if key in items}
    assert forest.tree.lookup(root, b"zzz") is None


def test_questions_read_no_more_than_their_path() -> None:
    forest = Forest(cache_pages=0)
    every = sorted(keys_of_level(0, 3000) + keys_of_level(1, 40) + keys_of_level(2, 16))
    root = forest.plant(dict.fromkeys(every, small_value(3)))
    height = decode_page(forest.objects[root]).level + 1
    assert height > 2
    forest.reads.clear()
    forest.tree.lookup(root, every[1000])
    assert len(forest.reads) <= height
    forest.reads.clear()
    assert forest.tree.count_range(root, every[500], every[2500]).entries == 2000
    assert len(forest.reads) <= 2 * height
    forest.reads.clear()
    assert forest.tree.lookup_many(root, every[700:705]) == dict.fromkeys(every[700:705], small_value(3))
    assert len(forest.reads) <= 2 * height
    forest.reads.clear()
    forest.tree.summary(root)
    assert len(forest.reads) == 1
    assert len(list(forest.tree.walk(root, every[100], every[110]))) == 10


@FIXED
@given(item_sets, edit_sets)
def test_pages_come_children_first_and_without_what_is_skipped(
    items: dict[bytes, bytes], edits: dict[bytes, bytes | None]
) -> None:
    forest = Forest()
    old = forest.plant(items)
    new = forest.edit(old, edits)
    had = forest.below(old)
    seen = set(had)
    for digest, blob in forest.tree.pages(new, had.__contains__):
        page = decode_page(blob)
        assert forest.algorithm.of(blob) == digest
        assert digest not in had
        assert not page.level or all(ref.digest in seen for ref in page.refs)
        seen.add(digest)
    assert seen == had | forest.below(new)


def test_chunk_lists_of_a_page_are_those_of_its_longer_files() -> None:
    rng = random.Random(1)
    (long, digest, _), (other, other_digest, _) = (
        large_file(XXH3_128, rng, size) for size in (9000, CHUNK + 1)
    )
    fits = encode_entry(Entry(Kind.FILE, CHUNK, rng.randbytes(16)))
    forest = Forest()
    root = forest.plant({b"a": long, b"b": fits, b"c": small_value(0), b"d": other, b"e": long})
    assert forest.tree.chunk_lists(forest.objects[root], CHUNK) == [digest, other_digest]
    assert forest.tree.chunk_lists(forest.objects[root], 1 << 20) == []


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [b"", b"a/b", b"a\0", b"\0a", b"a\0\0b", b"..", b"a\0.", b"x" * 256, b"a\0" * 2100 + b"a"]
)
def test_keys_that_name_nothing_are_refused(key: bytes) -> None:
    tree = Forest().tree
    with pytest.raises((PathError, CodecError)):
        tree.build([(key, small_value(2))])
    with pytest.raises((PathError, CodecError)):
        tree.edit(tree.empty.root, [(key, small_value(2))])


def test_values_that_are_no_entries_are_refused() -> None:
    tree = Forest().tree
    good = small_value(2)
    for value in (b"", good[:-1], good + b"x", b"\x21" + good[1:], small_value(2, 32)):
        with pytest.raises(CodecError):
            tree.build([(b"a", value)])
        with pytest.raises(CodecError):
            tree.edit(tree.empty.root, [(b"a", value)])


def test_keys_must_ascend_strictly() -> None:
    tree = Forest().tree
    for pair in ((b"b", b"a"), (b"a", b"a")):
        with pytest.raises(CodecError):
            tree.build([(key, small_value(2)) for key in pair])
        with pytest.raises(CodecError):
            tree.edit(tree.empty.root, [(key, None) for key in pair])


def test_totals_beyond_what_can_exist_are_refused() -> None:
    vast = encode_entry(Entry(Kind.FILE, 2**62, bytes(16)))
    assert decode_entry(vast, 16).size == 2**62
    forest = Forest()
    root = forest.plant({b"a": vast})
    with pytest.raises(CodecError):
        forest.tree.edit(root, [(b"b", vast)])


def test_damaged_storage_is_an_error_and_missing_storage_another() -> None:
    forest = Forest(cache_pages=0)
    root = forest.plant(dict.fromkeys(pool(), small_value(2)))
    blob = forest.objects[root]
    forest.objects[root] = blob[:-1] + bytes([blob[-1] ^ 1])
    with pytest.raises(DamagedObject, match="damaged"):
        forest.tree.lookup(root, pool()[0])
    del forest.objects[root]
    with pytest.raises(MissingObject) as caught:
        forest.tree.lookup(root, pool()[0])
    assert caught.value.digest == root


def test_a_stored_page_that_refers_to_one_of_another_level_is_an_error_and_no_loop() -> None:
    """Its digest is right: whoever wrote it was wrong. A page that led to its own level might be without end."""
    forest = Forest()
    root = forest.plant({key: small_value(2) for key in pool()})
    page = decode_page(forest.objects[root])
    leaf = forest.tree.build([(pool()[0], small_value(2))])
    forest.keep(leaf)
    ref = page.refs[0]
    odd = encode_page(Page(page.level, page.keys, (ref._replace(digest=leaf.root), *page.refs[1:])))
    assert page.level > 1
    forest.objects[XXH3_128.of(odd)] = odd
    with pytest.raises(CodecError, match="stands at the wrong level"):
        list(forest.tree.walk(XXH3_128.of(odd)))


def test_threads_share_a_tree_with_a_tiny_cache() -> None:
    forest = Forest()
    root = forest.plant(dict.fromkeys(pool(), small_value(2)))
    tree = Tree(XXH3_128, forest.objects.__getitem__, cache_pages=3)
    faults: list[BaseException] = []

    def read() -> None:
        try:
            for key in pool() * 3:
                assert tree.lookup(root, key) == small_value(2)
            tree.edit(root, [(pool()[5], None)])
        except BaseException as fault:  # noqa: BLE001  # whatever it is, the test must see it
            faults.append(fault)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not faults


@pytest.mark.parametrize("files", [1, 3, 500])
def test_every_place_of_all_files_and_of_all_bytes_is_in_the_file_that_holds_it(files: int) -> None:
    forest = Forest(XXH3_128)
    items = {b"d%03d" % number: encode_entry(Entry(Kind.DIRECTORY, mode=0o755)) for number in range(20)}
    sizes = {b"d%03d\0f%03d" % (number % 20, number): number % 5 for number in range(files)}
    for key, size in sizes.items():
        items[key] = encode_entry(Entry(Kind.FILE, size, XXH3_128.of(key), 0o644))
    root = forest.plant(items)
    tree, ordered = forest.tree, sorted(sizes)
    by_files = [tree.file_at(root, place, "files") for place in range(files)]
    assert by_files == [(key, items[key], 0) for key in ordered]
    by_bytes = [tree.file_at(root, place, "bytes") for place in range(sum(sizes.values()))]
    assert by_bytes == [(key, items[key], at) for key in ordered for at in range(sizes[key])]
    for by, count in (("files", files), ("bytes", sum(sizes.values()))):
        with pytest.raises(IndexError):
            tree.file_at(root, count, by)  # type: ignore[arg-type]
