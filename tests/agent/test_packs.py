"""Rows in one blob, and an index that holds some paths as rows and others in packs."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_agent.disk.database import Damaged
from closeranks_agent.disk.index import Index
from closeranks_agent.disk.packs import PACK_ROWS, STAT_BYTES, items_of, names_of, pack_rows, row_of, rows_of
from closeranks_agent.disk.records import Record, StatSignature
from closeranks_agent.disk.rows import NAMES_MAX, Delta, Row, directory_id
from closeranks_agent.disk.schema import FORMAT
from closeranks_proto.entries import Entry, Kind, encode_entry

STAT = StatSignature(1, 2, 3, 4, 5)
Packed = dict[bytes, tuple[bytes, bytes, int]]

names = st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & set(name))
contents = st.tuples(
    st.binary(min_size=1, max_size=40), st.binary(min_size=40, max_size=40), st.integers(0, 1)
)


def packed(rows: Packed) -> bytes:
    return pack_rows([(name, *rows[name], None) for name in sorted(rows)])


@given(st.dictionaries(names, contents, min_size=1, max_size=PACK_ROWS))
def test_a_pack_gives_back_what_was_put_in(rows: Packed) -> None:
    blob = packed(rows)
    whole = [(name, *rows[name]) for name in sorted(rows)]
    assert rows_of(blob) == whole
    assert items_of(blob) == [row[:2] for row in whole]
    assert names_of(blob) == sorted(rows)
    assert [row_of(blob, row[0]) for row in whole] == whole
    assert row_of(blob, b"not there") is None


@given(st.dictionaries(names, contents, min_size=1, max_size=8), st.data())
def test_a_pack_that_was_cut_is_refused(rows: Packed, data: st.DataObject) -> None:
    blob = packed(rows)
    with pytest.raises((ValueError, struct.error)):
        rows_of(blob[: data.draw(st.integers(0, len(blob) - 1))])


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(tmp_path / "index.sqlite")
    yield found
    found.database.close()


def value(number: int) -> bytes:
    return encode_entry(Entry(Kind.FILE, number, bytes(16), 0o644))


def put_packs(index: Index, directory: bytes, *packs: Packed) -> None:
    place = directory_id(directory)
    with index.database.transaction():
        index.write(Delta(packs=[(place, max(rows), packed(rows)) for rows in packs]), 4096, 16)


def put(index: Index, *records: Record, removed: tuple[bytes, ...] = ()) -> None:
    with index.database.transaction():
        index.write(Delta({one.key: one for one in records} | dict.fromkeys(removed)), 4096, 16)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_index_with_packs_answers_as_one_with_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Packs that do not overlap, then writes and removals of paths in them, between them and behind them."""
    known = sorted(data.draw(st.sets(names, min_size=1, max_size=40)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(known)), max_size=4)) | {0, len(known)})
    packs = [
        {name: (value(at), STAT.pack(), 1) for at, name in enumerate(known) if start <= at < end}
        for start, end in pairwise(cuts)
    ]
    index = Index(None)
    try:
        put_packs(index, b"d", *packs)
        put(index, Record(b"d", encode_entry(Entry(Kind.DIRECTORY)), STAT, settled=True))
        expected = {name: value(at) for at, name in enumerate(known)}
        for number in range(data.draw(st.integers(0, 4))):
            changed = data.draw(st.lists(st.sampled_from(known) | names, min_size=1, max_size=6, unique=True))
            gone = tuple(name for name in changed if data.draw(st.booleans()))
            come = [name for name in changed if name not in gone]
            records = [Record(b"d\0" + name, value(1000 + number), STAT, settled=True) for name in come]
            put(index, *records, removed=tuple(b"d\0" + name for name in gone))
            expected |= dict.fromkeys(come, value(1000 + number))
            expected = {name: value for name, value in expected.items() if name not in gone}
        items = sorted(expected.items())
        rows = [Row(name, value, STAT.pack(), True) for name, value in items]
        for page_rows in (1, 3, 1024):
            assert list(index.directory(b"d", page_rows)) == rows
        assert [item for item in index.items() if item[0] != b"d"] == [
            (b"d\0" + name, one) for name, one in items
        ]
        asked = {*known, *expected, b"x", b"x" * 9}
        together = index.rows_at([b"d", *(b"d\0" + name for name in asked)])
        assert together.pop(b"d").name == b"d"
        assert together == {b"d\0" + row.name: row for row in rows}
        for name in asked:
            found = index.row(b"d\0" + name)
            assert (found and found.value) == expected.get(name)
            assert [key for key, _ in index.rows_after(b"d\0" + name)] == [
                b"d\0" + one for one in sorted(expected) if one > name
            ]
    finally:
        index.database.close()


def test_many_rows_cost_a_statement_for_each_pack_and_few_for_the_rest(index: Index) -> None:
    """One question for each path read a pack of 22 KB each time: a renamed directory of 50,000 files took a minute."""
    known = [b"%04d" % number for number in range(1000)]
    packs = [
        {name: (value(1), STAT.pack(), 1) for name in known[at : at + PACK_ROWS]}
        for at in range(0, 750, PACK_ROWS)
    ]
    put_packs(index, b"d", *packs)
    there = {name for pack in packs for name in pack}
    put(index, *(Record(b"d\0" + name, value(2), STAT, settled=True) for name in known if name not in there))
    statements: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index.database, "rows", counted(index.database.rows, statements))
        found = index.rows_at(b"d\0" + name for name in (*known, *[b"z%d" % at for at in range(300)]))
    assert {key[2:] for key in found} == set(known)
    assert len(statements) <= 1300 // NAMES_MAX + 1 + len(packs) + 1


def counted(rows: Callable[..., Any], statements: list[str]) -> Callable[..., Any]:
    def call(statement: str, bindings: Sequence[Any] = ()) -> Any:
        statements.append(statement)
        return rows(statement, bindings)

    return call


def test_writing_to_one_path_leaves_the_other_packs(index: Index) -> None:
    packs = [{b"%d%02d" % (group, at): (value(at), STAT.pack(), 1) for at in range(50)} for group in range(3)]
    put_packs(index, b"d", *packs)
    put(index, Record(b"d\x00107", value(7), STAT), removed=(b"d\x00108",))
    assert index.database.row("SELECT count(*) FROM packs") == (2,)
    assert index.database.row("SELECT count(*) FROM entries") == (49,)
    put(index, Record(b"d\x00199x", value(7), STAT))  # behind a pack's last
    put(index, Record(b"d\x00200x", value(7), STAT))  # between two of its names
    assert index.database.row("SELECT count(*) FROM packs") == (2,)
    assert len(list(index.directory(b"d"))) == 151


def test_a_pack_of_what_was_written_meanwhile_becomes_rows(index: Index) -> None:
    """A look at a path of a huge directory while its readers are under way: what they read counts, once."""
    put(index, Record(b"d\0b", value(7), STAT))
    put_packs(index, b"d", {name: (value(1), STAT.pack(), 1) for name in (b"a", b"b", b"c")})
    assert [(row.name, row.value) for row in index.directory(b"d")] == [
        (name, value(1)) for name in (b"a", b"b", b"c")
    ]
    put_packs(index, b"e", {name: (value(1), STAT.pack(), 1) for name in (b"b", b"d", b"y")})
    put_packs(index, b"e", {name: (value(2), STAT.pack(), 1) for name in (b"a", b"d", b"x")})
    expected = [(b"a", 2), (b"b", 1), (b"d", 2), (b"x", 2), (b"y", 1)]
    assert [(row.name, row.value) for row in index.directory(b"e")] == [
        (name, value(number)) for name, number in expected
    ]
    for name, number in expected:
        found = index.row(b"e\0" + name)
        assert found is not None
        assert found.value == value(number)


def test_rows_that_were_packed_while_they_were_read_come_once(index: Index) -> None:
    """A reader of a directory goes on while its packs are taken apart."""
    packs = [{b"%d%02d" % (group, at): (value(at), STAT.pack(), 1) for at in range(50)} for group in range(4)]
    put_packs(index, b"d", *packs)
    found = []
    for row in index.directory(b"d"):
        found.append(row.name)
        if len(found) % 30 == 0:
            put(index, *(Record(b"d\0" + name, value(1), STAT) for name in (b"000", b"111", b"222", b"333")))
    assert found == sorted(name for pack in packs for name in pack)


def test_forgetting_everything_forgets_packs(index: Index) -> None:
    put_packs(index, b"", {b"a": (value(1), STAT.pack(), 1)})
    assert not index.is_empty()
    with index.database.transaction():
        index.drop_entries()
    assert index.is_empty()


def _empty(blob: bytes) -> bytes:
    """The first path has the entries of both, the second has none."""
    begin = len(blob) - len(value(1)) - len(value(2)) - 2 * STAT_BYTES - 2 - 4
    first, second = struct.unpack_from("<2H", blob, begin)
    return blob[:begin] + struct.pack("<2H", first + second, 0) + blob[begin + 4 :]


def test_a_pack_with_a_path_without_an_entry_is_damaged(index: Index) -> None:
    rows = {b"a": (value(1), STAT.pack(), 1), b"b": (value(2), STAT.pack(), 1)}
    put_packs(index, b"", rows)
    with index.database.transaction():
        index.database.execute("UPDATE packs SET rows = ?", (_empty(packed(rows)),))
    for read in (lambda: list(index.items()), lambda: list(index.rows()), lambda: index.row(b"b")):
        with pytest.raises(Damaged):
            read()


def test_a_pack_whose_names_are_out_of_order_is_damaged_and_not_read_for_ever(index: Index) -> None:
    rows = {name: (value(1), STAT.pack(), 1) for name in (b"a", b"b", b"z")}
    put_packs(index, b"", rows)
    blob = pack_rows([(name, *rows[name], None) for name in (b"b", b"a", b"z")])
    with index.database.transaction():
        index.database.execute("UPDATE packs SET rows = ?", (blob,))
    with pytest.raises(Damaged):
        for _, _ in zip(index.directory(b"", page_rows=2), range(10), strict=False):
            pass


@pytest.mark.parametrize("damage", [lambda blob: blob[:-1], lambda blob: blob.replace(b"a", b"b")])
def test_a_damaged_pack_is_a_damaged_index(index: Index, damage: object) -> None:
    put_packs(index, b"", {b"a": (value(1), STAT.pack(), 1)})
    with index.database.transaction():
        blob = damage(packed({b"a": (value(1), STAT.pack(), 1)}))  # type: ignore[operator]
        index.database.execute("UPDATE packs SET rows = ?", (blob,))
    with pytest.raises(Damaged):
        index.row(b"a")
    with pytest.raises(Damaged):
        list(index.items())


def test_an_index_without_packs_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = Index(path)
    put(index, Record(b"a", value(1), STAT))
    with index.database.transaction():
        index.database.execute("DROP TABLE packs")
        index.database.execute("PRAGMA user_version = 2")
    index.database.close()
    index = Index(path)
    try:
        assert index.database.row("PRAGMA user_version") == (FORMAT,)
        assert [key for key, _ in index.items()] == [b"a"]
        put_packs(
            index, b"d", {os.urandom(3).replace(b"/", b"x").replace(b"\0", b"x"): (value(1), STAT.pack(), 1)}
        )
        assert len(list(index.directory(b"d"))) == 1
    finally:
        index.database.close()
