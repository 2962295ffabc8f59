"""A closure collects exactly what is lacking, children first, and believes nothing."""

from __future__ import annotations

import random
import secrets
import tracemalloc
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.closure import Closure
from closeranks_proto.content import ChunkList, decode_chunk_list, encode_chunk_list
from closeranks_proto.digests import BLAKE3, XXH3_128, DigestAlgorithm
from closeranks_proto.entries import Entry, Kind, encode_entry, large_files
from closeranks_proto.errors import CodecError, PathError
from closeranks_proto.limits import CLOSURE_HELD_BYTES, WANT_MAX_DIGESTS
from closeranks_proto.pages import EMPTY, Page, Ref, decode_page, encode_page
from forest.keys import keys_of_level, pool
from forest.store import CHUNK, Forest, large_file, small_value

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=150)


class Side:
    """One side of a transfer: a forest, and the chunk lists of its longer files."""

    def __init__(self, algorithm: DigestAlgorithm = XXH3_128) -> None:
        self.forest = Forest(algorithm)
        self.objects = self.forest.objects
        self.rng = random.Random(9)

    def plant(self, items: Mapping[bytes, bytes], lists: Mapping[bytes, bytes]) -> bytes:
        root = self.forest.plant(items)
        self.objects.update({one: lists[one] for one in self.lists_below(root)})
        return root

    def lists_below(self, root: bytes) -> set[bytes]:
        width = self.forest.algorithm.width
        values = [value for _, value in self.forest.tree.walk(root)]
        return {digest for digest, _ in large_files(values, CHUNK, width)}

    def everything_below(self, root: bytes) -> set[bytes]:
        return self.forest.below(root) | self.lists_below(root)


def below(blob: bytes, algorithm: DigestAlgorithm) -> set[bytes]:
    """What an object refers to."""
    if blob[0] == 1:
        return set()
    page = decode_page(blob)
    if page.level:
        return {ref.digest for ref in page.refs}
    return {digest for digest, _ in large_files(page.values, CHUNK, algorithm.width)}


def transfer(
    closure: Closure,
    ours: Side,
    theirs: Side,
    rng: random.Random,
    chunk_lists: bool = True,
    cut_at: int = 10**9,
) -> list[bytes]:
    """Run a closure, answers arriving in any order and grouping; give the digests that were asked for.

    It is cut off when it has asked for `cut_at` objects.
    """
    asked: list[bytes] = []
    waiting: list[bytes] = []
    while not closure.done and len(asked) < cut_at:
        new = closure.wants()
        asked += new
        waiting += new
        assert 0 < len(waiting) <= WANT_MAX_DIGESTS
        assert closure.wants() == ()
        rng.shuffle(waiting)
        count = rng.randrange(len(waiting)) + 1
        now, waiting = waiting[:count], waiting[count:]
        if rng.random() < 0.1:
            closure.refuse(now)
            asked = [digest for digest in asked if digest not in now]
            continue
        for digest, blob in closure.receive([theirs.objects[one] for one in now]):
            assert ours.forest.algorithm.of(blob) == digest
            if chunk_lists or decode_page(blob).level:
                assert all(child in ours.objects for child in below(blob, ours.forest.algorithm))
            ours.objects[digest] = blob
    assert not closure.done or closure.wants() == ()
    return asked


def random_items(
    rng: random.Random, algorithm: DigestAlgorithm
) -> tuple[dict[bytes, bytes], dict[bytes, bytes], dict[bytes, bytes]]:
    """Two sets that share a part, and the chunk lists of both; some files are copies of each other."""
    large = [
        large_file(algorithm, rng, rng.randrange(CHUNK + 1, 9 * CHUNK)) for _ in range(rng.randrange(12))
    ]
    lists = {digest: blob for _, digest, blob in large}

    def value() -> bytes:
        if large and rng.random() < 0.4:
            return rng.choice(large)[0]
        return small_value(rng.randrange(12), algorithm.width)

    ours = {key: value() for key in rng.sample(pool(), rng.randrange(len(pool()) + 1))}
    theirs = dict(ours) if rng.random() < 0.6 else {}
    theirs |= {key: value() for key in rng.sample(pool(), rng.choice([0, 1, 3, 60, len(pool())]))}
    for key in rng.sample(sorted(theirs), rng.randrange(len(theirs) + 1) // 4):
        del theirs[key]
    return ours, theirs, lists


def exchange(seed: int) -> None:
    rng = random.Random(seed)
    algorithm = rng.choice([XXH3_128, BLAKE3])
    ours, theirs = Side(algorithm), Side(algorithm)
    own_items, other_items, lists = random_items(rng, algorithm)
    own, other = ours.plant(own_items, lists), theirs.plant(other_items, lists)
    lacking = theirs.everything_below(other) - ours.everything_below(own) - {ours.forest.tree.empty.root}
    source = ours.forest.source if rng.random() < 0.5 else None
    closure = Closure(algorithm, other, ours.objects.__contains__, CHUNK, source)
    asked = transfer(closure, ours, theirs, rng)
    assert len(asked) == len(set(asked))
    assert set(asked) == lacking
    assert theirs.everything_below(other) <= set(ours.objects)
    assert dict(ours.forest.tree.walk(other)) == other_items


@FIXED
@given(st.integers(0, 2**64))
def test_what_is_lacking_is_transferred_and_nothing_else(seed: int) -> None:
    exchange(seed)


def test_a_fresh_random_transfer() -> None:
    seed = secrets.randbits(64)
    print(f"seed {seed}")
    exchange(seed)


def test_without_a_chunk_length_no_chunk_lists_are_asked_for() -> None:
    theirs, ours = Side(), Side()
    value, digest, blob = large_file(XXH3_128, random.Random(1), 3 * CHUNK)
    root = theirs.plant({b"a": value}, {digest: blob})
    closure = Closure(XXH3_128, root, ours.objects.__contains__, None)
    assert transfer(closure, ours, theirs, random.Random(2), chunk_lists=False) == [root]


def test_a_root_that_is_had_is_done_at_once() -> None:
    closure = Closure(XXH3_128, b"root", lambda _: True, CHUNK)
    assert closure.done
    assert closure.wants() == ()
    assert closure.receive([]) == []


@pytest.mark.parametrize("kind", ["chunk list", "inner page with one child", "tree"])
def test_a_root_that_is_had_is_looked_at(kind: str) -> None:
    """A peer may announce any digest that was ever stored, also one that is no root."""
    blob = {"chunk list": large_file(XXH3_128, random.Random(1), 3 * CHUNK)[2], "tree": GOOD}.get(kind)
    blob = blob or inner(ref_to(FIRST))
    store = {XXH3_128.of(blob): blob}
    if kind == "tree":
        assert Closure(XXH3_128, XXH3_128.of(blob), store.__contains__, CHUNK, store.__getitem__).done
    else:
        with pytest.raises(CodecError):
            Closure(XXH3_128, XXH3_128.of(blob), store.__contains__, CHUNK, store.__getitem__)


def test_an_interrupted_walk_goes_on_where_it_was() -> None:
    theirs, ours = Side(), Side()
    root = theirs.plant(dict.fromkeys(pool(), small_value(2)), {})
    closure = Closure(XXH3_128, root, ours.objects.__contains__, CHUNK)
    transfer(closure, ours, theirs, random.Random(3), cut_at=30)
    assert not closure.done
    assert len(ours.objects) > 10
    lacking = theirs.everything_below(root) - set(ours.objects)
    again = Closure(XXH3_128, root, ours.objects.__contains__, CHUNK)
    assert set(transfer(again, ours, theirs, random.Random(3))) == lacking


def test_a_large_tree_is_walked_with_bounded_memory() -> None:
    """What is held is a small part of what is transferred, and never more than the bound and a batch."""
    theirs = Side()
    value = small_value(7)
    root = theirs.plant({b"d%03d\0f%05d" % (number // 300, number): value for number in range(60_000)}, {})
    total = sum(map(len, theirs.objects.values()))
    stored: set[bytes] = set()
    closure = Closure(XXH3_128, root, stored.__contains__, CHUNK)
    tracemalloc.start()
    try:
        while wanted := closure.wants():
            stored.update(digest for digest, _ in closure.receive(theirs.objects[one] for one in wanted))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert closure.done
    assert stored | {theirs.forest.tree.empty.root} == set(theirs.objects)
    assert total > 2_000_000
    assert peak < CLOSURE_HELD_BYTES


# --- lies ----------------------------------------------------------------------------------------


def walk(closure: Closure, store: Mapping[bytes, bytes]) -> list[bytes]:
    """Answer everything that is asked for; give the objects that were handed out."""
    got: list[bytes] = []
    while wanted := closure.wants():
        assert len(set(wanted)) == len(wanted)
        got += [blob for _, blob in closure.receive([store[one] for one in wanted])]
    return got


def refused(
    *objects: bytes, chunk_bytes: int | None = CHUNK, have: Callable[[bytes], bool] = lambda _: False
) -> None:
    """The first object is the root; the others follow as they are asked for, and somewhere the walk ends."""
    store = {XXH3_128.of(blob): blob for blob in objects}
    closure = Closure(XXH3_128, XXH3_128.of(objects[0]), have, chunk_bytes, store.__getitem__)
    with pytest.raises((CodecError, PathError)):
        walk(closure, store)
    assert not closure.done
    assert closure.wants() == ()
    with pytest.raises(CodecError, match="over"):
        closure.receive([])


ENDING = sorted(keys_of_level(1, 40))[5:]
PLAIN = sorted(keys_of_level(0, 60))


def leaf(*keys: bytes, value: bytes | None = None) -> bytes:
    return encode_page(Page(0, keys, [value or small_value(2)] * len(keys)))


def inner(*children: tuple[bytes, Ref], level: int = 1) -> bytes:
    return encode_page(Page(level, [key for key, _ in children], [ref for _, ref in children]))


def ref_to(blob: bytes) -> tuple[bytes, Ref]:
    page = decode_page(blob)
    return page.keys[-1], Ref(XXH3_128.of(blob), *page.totals())


FIRST = leaf(ENDING[0])
LAST = leaf(ENDING[1], value=small_value(3))
GOOD = inner(ref_to(FIRST), ref_to(LAST))


def test_the_tree_that_the_lies_are_about_is_good() -> None:
    store = {XXH3_128.of(blob): blob for blob in (GOOD, FIRST, LAST)}
    for had in (set[bytes](), {XXH3_128.of(FIRST)}):
        closure = Closure(XXH3_128, XXH3_128.of(GOOD), had.__contains__, CHUNK, store.__getitem__)
        got: list[bytes] = []
        while wanted := closure.wants():
            got += [blob for _, blob in closure.receive([store[one] for one in wanted])]
        assert closure.done
        assert (
            got == [blob for blob in (LAST, FIRST, GOOD) if XXH3_128.of(blob) not in had] or got[-1] == GOOD
        )


def test_what_was_not_asked_for_is_refused() -> None:
    for blob in (FIRST, GOOD):  # not even the root, before it was asked for
        closure = Closure(XXH3_128, XXH3_128.of(GOOD), lambda _: False, CHUNK)
        with pytest.raises(CodecError, match="not asked for"):
            closure.receive([blob])
    closure = Closure(XXH3_128, XXH3_128.of(GOOD), lambda _: False, CHUNK)
    assert closure.wants() == (XXH3_128.of(GOOD),)
    assert closure.receive([GOOD]) == []
    with pytest.raises(CodecError, match="not asked for"):
        closure.refuse([XXH3_128.of(GOOD)])
    with pytest.raises(CodecError, match="not asked for"):
        closure.receive([GOOD])


@pytest.mark.parametrize("had", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda key, ref: (key, ref._replace(entries=ref.entries + 1)),
        lambda key, ref: (key, ref._replace(files=ref.files - 1)),
        lambda key, ref: (key, ref._replace(bytes=ref.bytes + 1)),
        lambda key, ref: (key + b"x", ref),
        lambda key, ref: (PLAIN[0], ref),
    ],
    ids=["entries", "files", "bytes", "key", "another-key"],
)
def test_a_parent_that_lies_about_a_child_is_refused(
    change: Callable[[bytes, Ref], tuple[bytes, Ref]], had: bool
) -> None:
    """Also about a child that was had before the lie."""
    children = sorted([change(*ref_to(FIRST)), ref_to(LAST)])
    have = (lambda digest: digest == XXH3_128.of(FIRST)) if had else (lambda _: False)
    refused(inner(*children), FIRST, LAST, have=have)


def test_a_child_below_keys_of_its_left_neighbour_is_refused() -> None:
    first, last = leaf(ENDING[-2]), leaf(PLAIN[0], ENDING[-1])
    assert PLAIN[0] < ENDING[-2]
    refused(inner(ref_to(first), ref_to(last)), last, first)


def test_a_page_that_ends_too_early_is_refused_unless_it_is_the_last() -> None:
    low, high = [key for key in PLAIN if key < ENDING[-1]][:2]
    early, rest = leaf(low), leaf(high, value=small_value(3))
    refused(inner(ref_to(early), ref_to(rest)), early, rest)
    late = sorted([ref_to(leaf(ENDING[0])), ref_to(leaf(max(PLAIN)))])
    assert late[0][0] == ENDING[0]
    store = {XXH3_128.of(blob): blob for blob in (inner(*late), leaf(ENDING[0]), leaf(max(PLAIN)))}
    closure = Closure(XXH3_128, XXH3_128.of(inner(*late)), lambda _: False, CHUNK)
    walk(closure, store)
    assert closure.done


def test_a_page_of_the_wrong_level_or_kind_is_refused() -> None:
    middle = inner(ref_to(LAST))
    refused(inner(ref_to(FIRST), ref_to(middle)), middle, FIRST)  # an inner page where a leaf stands
    refused(inner(ref_to(FIRST), ref_to(LAST), level=2), FIRST, LAST)  # leaves two levels down
    chunks = large_file(XXH3_128, random.Random(1), 3 * CHUNK)[2]
    refused(chunks)
    refused(inner(ref_to(FIRST), (ENDING[1], Ref(XXH3_128.of(chunks), 1, 1, 1))), chunks, FIRST)
    refused(
        inner(ref_to(FIRST), (ENDING[1], Ref(XXH3_128.of(encode_page(EMPTY)), 1, 1, 1))),
        encode_page(EMPTY),
        FIRST,
    )


def test_a_root_that_is_not_the_lowest_is_refused() -> None:
    refused(inner(ref_to(FIRST)))
    refused(inner(ref_to(GOOD), level=2))


def test_one_page_at_two_places_is_refused() -> None:
    key, ref = ref_to(FIRST)
    refused(inner((key, ref), (ENDING[1], ref)), FIRST)
    low = min(PLAIN)
    assert low < key
    refused(inner((low, ref), (key, ref)), FIRST)


def test_bytes_that_are_no_page_are_refused() -> None:
    for blob in (b"", b"\x95", GOOD + b"\0", GOOD[:-1], b"\x01" * 40):
        refused(blob)


@pytest.mark.parametrize("lie", ["size", "chunk_bytes", "width", "none"])
def test_a_chunk_list_that_does_not_fit_is_refused(lie: str) -> None:
    size = 3 * CHUNK
    chunks = ChunkList(size, CHUNK, 16, bytes(48))
    match lie:
        case "size":
            chunks = ChunkList(size - 1, CHUNK, 16, bytes(48))
        case "chunk_bytes":
            chunks = ChunkList(size, 2 * CHUNK, 16, bytes(32))
        case "width":
            chunks = ChunkList(size, CHUNK, 32, bytes(96))
    blob = encode_chunk_list(chunks)
    assert decode_chunk_list(blob) == chunks
    page = leaf(b"a", value=encode_entry(Entry(Kind.FILE, size, XXH3_128.of(blob))))
    if lie == "none":
        with pytest.raises(pytest.fail.Exception):
            refused(page, blob)
    else:
        refused(page, blob)
        refused(page, blob, have=lambda digest: digest == XXH3_128.of(blob))


def test_a_page_in_the_place_of_a_chunk_list_is_refused() -> None:
    refused(leaf(b"a", value=encode_entry(Entry(Kind.FILE, 3 * CHUNK, XXH3_128.of(FIRST)))), FIRST)


def test_one_chunk_list_for_files_of_different_sizes_is_refused() -> None:
    _, digest, blob = large_file(XXH3_128, random.Random(1), 3 * CHUNK)
    values = [encode_entry(Entry(Kind.FILE, size, digest)) for size in (3 * CHUNK, 3 * CHUNK - 1)]
    refused(encode_page(Page(0, [b"a", b"b"], values)), blob)
    first = encode_page(Page(0, [ENDING[0]], values[:1]))
    second = encode_page(Page(0, [ENDING[1]], values[1:]))
    refused(inner(ref_to(first), ref_to(second)), first, second, blob)
