from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_agent.disk.database import Damaged
from closeranks_agent.disk.index import LONG_LIST_BYTES, PAGE_ROWS, Index
from closeranks_agent.disk.records import Record, StatSignature
from closeranks_agent.disk.rows import Delta, Listing, directory_id
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry

STAT = StatSignature(1, 2, 3, 4, 5)
FILE = encode_entry(Entry(Kind.FILE, 3, b"d" * 16, 0o644))
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(tmp_path / "index.sqlite")
    yield found
    found.database.close()


def write(index: Index, *records: Record, removed: tuple[bytes, ...] = ()) -> None:
    delta = Delta({record.key: record for record in records} | dict.fromkeys(removed))
    with index.database.transaction():
        index.write(delta, 4096, 16)


def long_file(key: bytes, content: bytes) -> Record:
    """A record of more than one chunk; only the digest and the blob matter here."""
    return Record(key, encode_entry(Entry(Kind.FILE, 9000, XXH3_128.of(content), 0o644)), STAT, content, True)


def test_a_record_comes_back_as_it_was_written(index: Index) -> None:
    record = Record(b"a\0b", FILE, STAT, None, True)
    write(index, record)
    assert index.record(b"a\0b", 4096) == record
    assert index.record(b"a", 4096) is None


def test_the_rows_of_a_directory_are_its_own_entries_by_name(index: Index) -> None:
    keys = (b"d", b"d\0b", b"d\0a", b"d\0a\0x", b"d.x", b"e")
    write(index, *(Record(key, FILE, STAT) for key in keys))
    assert [row.name for row in index.directory(b"d")] == [b"a", b"b"]
    assert [row.name for row in index.directory(b"")] == [b"d", b"d.x", b"e"]


def test_a_directory_of_many_pages_is_read_whole(index: Index) -> None:
    names = [b"%06d" % number for number in range(2 * PAGE_ROWS)]
    write(index, *(Record(name, FILE, STAT) for name in names))
    assert [row.name for row in index.directory(b"")] == names


_PATHS = st.sets(
    st.lists(st.sampled_from([b"a", b"b", b"a.", b"\x01", b"\xff", b"ab"]), min_size=1, max_size=4).map(tuple)
)


@given(paths=_PATHS)
@settings(deadline=None)  # each example makes a database
def test_items_come_in_the_order_of_keys(
    paths: set[tuple[bytes, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    index = Index(tmp_path_factory.mktemp("index") / "index.sqlite")
    try:
        write(index, *(Record(b"\0".join(path), DIRECTORY, STAT) for path in whole))
        keys = [key for key, _ in index.items()]
        assert [(key, row.value) for key, row in index.rows()] == list(index.items())
        for place in (*keys, b"a\0a\0gone", b"zz"):
            assert [key for key, _ in index.rows_after(place)] == [key for key in keys if key > place]
    finally:
        index.database.close()
    assert keys == sorted(b"\0".join(path) for path in whole)


def test_listings_are_found_many_at_a_time(index: Index) -> None:
    known = {b"d%d" % number: Listing(bytes([number]) * 16, number, 0) for number in range(5)}
    with index.database.transaction():
        index.write(Delta({}, dict(known)), 4096, 16)
    assert index.listings([*known, b"none"]) == [*known.values(), None]
    assert index.listings([]) == []


def test_a_chunk_list_is_kept_as_long_as_a_row_names_it(index: Index) -> None:
    write(index, long_file(b"a", b"list"), long_file(b"b", b"list"))
    digest = XXH3_128.of(b"list")
    write(index, removed=(b"a",))
    assert index.orphan_bytes() == 0
    write(index, Record(b"b", FILE, STAT))
    assert index.orphan_bytes() == 4
    assert index.chunk_list(digest) == b"list"
    with index.database.transaction():
        index.drop_orphans()
    assert index.chunk_list(digest) is None


def test_the_chunk_list_of_a_very_long_file_is_what_was_given_however_often(index: Index) -> None:
    """It goes into its place without a statement; what lies there already is left as it is."""
    content = os.urandom(3 * LONG_LIST_BYTES + 5)
    record = long_file(b"f", content)
    for chunks in (content, bytearray(content)):
        row = directory_id(b""), b"g", record.value, STAT.pack(), 1, XXH3_128.of(content)
        with index.database.transaction():
            index.write(Delta(fresh=[row], lists={XXH3_128.of(content): chunks}), 4096, 16)
        assert index.chunk_list(XXH3_128.of(content)) == content
    write(index, record, removed=(b"g",))
    assert index.record(b"f", 4096) == record
    write(index, removed=(b"f",))
    assert index.orphan_bytes() == len(content)
    write(index, record)
    assert index.orphan_bytes() == 0
    assert index.chunk_list(XXH3_128.of(content)) == content


def test_an_orphan_that_is_named_again_stays(index: Index) -> None:
    write(index, long_file(b"a", b"list"))
    write(index, removed=(b"a",))
    write(index, long_file(b"b", b"list"))
    assert index.orphan_bytes() == 0


def test_a_move_in_one_transaction_makes_no_orphan(index: Index) -> None:
    write(index, long_file(b"a", b"list"))
    write(index, long_file(b"b", b"list"), removed=(b"a",))
    assert index.orphan_bytes() == 0
    found = index.record(b"b", 4096)
    assert found is not None
    assert found.chunks == b"list"


def test_a_listing_is_stored_and_removed(index: Index) -> None:
    listing = Listing(b"x" * 16, 3, 1)
    with index.database.transaction():
        index.write(Delta(listings={b"d": listing}), 4096, 16)
    assert index.listing(b"d") == listing
    with index.database.transaction():
        index.write(Delta(listings={b"d": None}), 4096, 16)
    assert index.listing(b"d") is None


def test_a_transaction_that_fails_changes_nothing(index: Index) -> None:
    def fail() -> None:
        with index.database.transaction():
            index.write(Delta({b"a": Record(b"a", FILE, STAT)}), 4096, 16)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert index.is_empty()


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Damaged):
        Index(tmp_path / "index.sqlite")
