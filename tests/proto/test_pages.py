"""A page's bytes are canonical, its end is where the rule says, and a peer's page is believed only if it is both."""

from __future__ import annotations

import random
import sys
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.digests import BLAKE3, XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import CodecError, PathError
from closeranks_proto.limits import PAGE_ENCODED_MAX_BYTES, PAGE_MAX_BYTES, PAGE_MAX_ITEMS, TREE_MAX_LEVELS
from closeranks_proto.pages import EMPTY, Page, Ref, check_page, decode_page, encode_page, page_ends
from forest.keys import keys_of_level, level_of, pool
from forest.store import Forest, small_value

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)

PLAIN = keys_of_level(0, 60)
LEAF = Page(0, sorted(PLAIN), [small_value(number) for number in range(60)])
REF = Ref(bytes(range(16)), 3, 2, 500)
INNER = Page(1, sorted(PLAIN), [REF] * 60)
GOOD = [EMPTY, LEAF, INNER, Page(5, [b"a"], [REF]), Page(0, [b"a"], [small_value(3)])]


def fields(page: Page) -> list[object]:
    return list(msgpack.unpackb(encode_page(page), use_list=True))


def refused(blob: bytes) -> None:
    with pytest.raises((CodecError, PathError)):
        check_page(blob, XXH3_128)


def refused_or_canonical(blob: bytes) -> None:
    """Other bytes may be another page, but then that page's only bytes."""
    try:
        found = check_page(blob, XXH3_128)
    except (CodecError, PathError):
        return
    assert encode_page(found) == blob


@pytest.mark.parametrize("page", GOOD)
def test_pages_come_back_from_their_bytes(page: Page) -> None:
    found = check_page(encode_page(page), XXH3_128)
    assert (found.level, list(found.keys), list(found.items)) == (
        page.level,
        list(page.keys),
        list(page.items),
    )


@FIXED
@given(
    st.sets(st.binary(min_size=1, max_size=12).filter(lambda key: b"/" not in key), min_size=1, max_size=30)
)
def test_any_keys_without_slashes_come_back(keys: set[bytes]) -> None:
    page = Page(0, sorted(keys), [small_value(2)] * len(keys))
    assert list(decode_page(encode_page(page)).keys) == sorted(keys)


# --- where pages end -----------------------------------------------------------------------------


def ends_one_by_one(page: Page) -> list[int]:
    """The rule, word by word."""
    found = []
    start = weight = 0
    for index, (key, item) in enumerate(zip(page.keys, page.items, strict=True), 1):
        weight += len(key) + (64 if page.level else len(item))
        if level_of(key) > page.level or index - start >= PAGE_MAX_ITEMS or weight >= PAGE_MAX_BYTES:
            found.append(index)
            start, weight = index, 0
    return found


def symlink(length: int) -> bytes:
    return encode_entry(Entry(Kind.SYMLINK, length, target=b"t" * length))


@FIXED
@given(
    st.integers(0, 2),
    st.sampled_from([1, 60, 600, 1500]),
    st.sampled_from([pool(), PLAIN, PLAIN * 20 + pool()]),
    st.sampled_from([1, 100, 2000, 4095]),
    st.integers(0, 2**32),
)
def test_pages_end_where_the_rule_says(
    level: int, count: int, some: tuple[bytes, ...], length: int, seed: int
) -> None:
    keys = random.Random(seed).choices(some, k=count)
    items: list[bytes | Ref] = [REF if level else symlink(length)] * len(keys)
    page = Page(level, keys, items)
    assert page_ends(level, keys, items) == ends_one_by_one(page)


@pytest.mark.parametrize(("count", "length"), [(PAGE_MAX_ITEMS * 3, 1), (1700, 300), (100, 4095)])
def test_caps_end_pages_where_no_key_does(count: int, length: int) -> None:
    keys = (PLAIN * count)[:count]
    items: list[bytes | Ref] = [symlink(length)] * count
    found = page_ends(0, keys, items)
    assert found
    assert found == ends_one_by_one(Page(0, keys, items))


def test_the_item_that_reaches_a_cap_exactly_is_the_page_s_last() -> None:
    keys = sorted(PLAIN)[:50] + sorted(PLAIN)[:15]
    items: list[bytes | Ref] = [symlink(1024 - 12 - len(key)) for key in keys]
    assert page_ends(0, keys, items) == [PAGE_MAX_BYTES // 1024]
    assert page_ends(0, [b"a"] * PAGE_MAX_ITEMS, [symlink(1)] * PAGE_MAX_ITEMS) == [PAGE_MAX_ITEMS]


def test_no_hash_is_so_round_that_a_level_is_without_end() -> None:
    """Above the hash's 60 bits only the caps end pages, so that even chosen keys can not build a tower."""
    assert page_ends(10, [b"a"] * PAGE_MAX_ITEMS, [REF] * PAGE_MAX_ITEMS) == [PAGE_MAX_ITEMS]


# --- what is refused -----------------------------------------------------------------------------


def test_every_truncation_and_every_trailing_byte_is_refused() -> None:
    for page in GOOD:
        blob = encode_page(page)
        for length in range(len(blob)):
            refused(blob[:length])
        refused(blob + b"\0")
        refused(blob + blob)


@pytest.mark.parametrize("page", GOOD[1:3])
def test_mutated_pages_are_refused_or_are_other_canonical_pages(page: Page) -> None:
    rng = random.Random(11)
    blob = encode_page(page)
    for _ in range(3000):
        mutated = bytearray(blob)
        for _ in range(rng.choice([1, 1, 2, 5])):
            mutated[rng.randrange(min(len(blob), 60) if rng.random() < 0.4 else len(blob))] = rng.randrange(
                256
            )
        refused_or_canonical(bytes(mutated))


def test_random_bytes_are_refused() -> None:
    rng = random.Random(12)
    for _ in range(2000):
        refused(bytes([rng.choice([0x95, 0x98, rng.randrange(256)])]) + rng.randbytes(rng.randrange(80)))


@pytest.mark.parametrize("page", GOOD)
def test_every_field_of_another_type_is_refused(page: Page) -> None:
    good = fields(page)
    others = [
        None,
        True,
        False,
        -1,
        2**63,
        1.0,
        "text",
        b"bytes",
        [],
        [1],
        [b"a"],
        ["a"],
        {},
        {1: 2},
        [[1]],
        2**64 - 1,
    ]
    for place in range(len(good)):
        for other in others:
            changed = [*good[:place], other, *good[place + 1 :]]
            if type(other) is type(good[place]):
                refused_or_canonical(msgpack.packb(changed))
            else:
                refused(msgpack.packb(changed))
    for length in range(10):
        if length != len(good):
            refused(msgpack.packb((good * 2)[:length]))


def test_unknown_versions_and_levels_are_refused() -> None:
    for page in (LEAF, INNER):
        for place, other in ((0, 0), (0, 2), (1, TREE_MAX_LEVELS + 1), (1, 0 if page.level else 1)):
            changed = fields(page)
            changed[place] = other
            refused(msgpack.packb(changed))


def test_other_encodings_of_the_same_values_are_refused() -> None:
    blob = encode_page(INNER)
    assert blob[1:3] == b"\x01\x01"
    refused(blob[:1] + b"\xcc\x01" + blob[2:])  # the version as a longer integer
    shorter = fields(LEAF)
    assert isinstance(shorter[2], bytes)
    assert isinstance(shorter[3], bytes)
    prefix, rests = shorter[2], shorter[3]
    assert prefix
    shorter[2:4] = [b"", (prefix + rests.replace(b"/", b"/" + prefix))]
    refused(msgpack.packb(shorter))  # the common prefix not taken out


@pytest.mark.parametrize(
    ("keys", "level"),
    [
        ([b"b", b"a"], 0),
        ([b"a", b"a"], 0),
        ([b"a", b".."], 1),
        ([b""], 0),
        ([b"a\0\0b"], 0),
        ([b"x" * 256], 0),
        ([b"a\0" * 2500 + b"b"], 1),
        ([sorted(keys_of_level(1, 2))[0], b"z"], 0),
        ([sorted(keys_of_level(2, 2))[0], b"z"], 1),
        ([b"%05d" % number for number in range(PAGE_MAX_ITEMS + 1)], 10),
    ],
    ids=[
        "descending",
        "twice",
        "dots",
        "empty",
        "hollow",
        "long-name",
        "long",
        "leaf-goes-on",
        "inner-goes-on",
        "cap",
    ],
)
def test_keys_that_no_tree_has_are_refused(keys: list[bytes], level: int) -> None:
    refused(encode_page(Page(level, keys, [REF if level else small_value(2)] * len(keys))))


def test_a_leaf_past_its_cap_of_bytes_is_refused() -> None:
    keys = sorted(PLAIN)[:18]
    refused(encode_page(Page(0, keys, [symlink(4095)] * 18)))
    check_page(encode_page(Page(0, keys[:16], [symlink(4095)] * 16)), XXH3_128)


@pytest.mark.parametrize(
    "ref",
    [
        Ref(bytes(32), 1, 1, 1),
        Ref(b"", 1, 1, 1),
        Ref(bytes(16), 0, 0, 0),
        Ref(bytes(16), -1, 0, 0),
        Ref(bytes(16), 1, 2, 0),
        Ref(bytes(16), 1, -1, 0),
        Ref(bytes(16), 1, 1, -1),
        Ref(bytes(16), 1, 1, 2**63),
        Ref(bytes(16), 2**64 - 1, 1, 1),
    ],
)
def test_refs_with_impossible_totals_are_refused(ref: Ref) -> None:
    refused(encode_page(Page(1, [b"a"], [ref])))


def test_totals_that_add_up_to_more_than_can_exist_are_refused() -> None:
    half = Ref(bytes(16), 1, 1, 2**62)
    refused(encode_page(Page(1, [b"a", b"b"], [half, half])))


def test_values_that_are_no_entries_are_refused() -> None:
    for value in (b"", small_value(2)[:-1], small_value(2, 32), b"\xff" * 28):
        refused(encode_page(Page(0, [b"a"], [value])))
    check_page(encode_page(Page(0, [b"a"], [small_value(2, 32)])), BLAKE3)


HOSTILE = {
    "values": b"\x95\x01\x00\xc4\x00\xc4\x00\xdd\xff\xff\xff\xff",
    "entries": b"\x98\x01\x01\xc4\x00\xc4\x00\xc4\x00\xdd\xff\xff\xff\xff",
    "prefix": b"\x95\x01\x00\xc6\xff\xff\xff\xff",
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "nested": b"\x91" * 50_000,
    "nested values": b"\x95\x01\x00\xc4\x00\xc4\x00" + b"\x91" * 50_000,
    "expansion": msgpack.packb([1, 0, b"p" * 60_000, b"/" * 40_000, [b""] * 511]),
    "many": msgpack.packb([1, 0, b"", b"/" * 65_000, [b""] * 65_001]),
    "oversized": b"\x95\x01\x00" + bytes(PAGE_ENCODED_MAX_BYTES),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_lengths_cost_no_memory(name: str) -> None:
    """A small multiple of what was sent at most; most are refused at the header."""
    refused(HOSTILE[name])
    tracemalloc.start()
    try:
        refused(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 50_000 + 8 * len(HOSTILE[name])
    finally:
        tracemalloc.stop()


def test_a_tree_is_made_of_pages_that_a_peer_may_send() -> None:
    forest = Forest()
    root = forest.plant({key: small_value(index) for index, key in enumerate(pool())})
    for digest in sorted(forest.below(root)):
        check_page(forest.objects[digest], XXH3_128)


def test_an_encoded_page_takes_no_more_memory_than_its_bytes() -> None:
    """The encoder's own blocks are a quarter larger, and whoever keeps pages counts bytes."""
    leaf = Page(0, [b"photos\0img-%05d" % n for n in range(100)], [small_value(1)] * 100)
    inner = Page(1, leaf.keys, [Ref(bytes(16), 1, 1, 1)] * 100)
    for page in (leaf, inner):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            blob = encode_page(page)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sys.getsizeof(blob) <= after - before <= sys.getsizeof(blob) + 200
