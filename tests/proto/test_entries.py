"""An entry has one encoding, and only that one decodes."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.entries import (
    Entry,
    Kind,
    aspects,
    check_values,
    content_mark,
    decode_entry,
    encode_entry,
    entry_kind,
    entry_size,
    file_sizes,
    large_files,
    same_content,
)
from closeranks_proto.errors import CodecError
from closeranks_proto.limits import ITEM_MAX_BYTES, MAX_PATH_BYTES, MAX_TARGET_BYTES, MAX_XATTRS_BYTES

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=300)
u32 = st.integers(0, 2**32 - 1)
xattrs = st.dictionaries(st.binary(min_size=1, max_size=30), st.binary(max_size=30), max_size=5)
optional = {
    "owner": st.none() | st.tuples(u32, u32),
    "mtime_ns": st.none() | st.integers(-(2**63), 2**63 - 1),
    "xattrs": st.none() | xattrs.map(lambda found: tuple(sorted(found.items()))),
}
modes = st.none() | st.integers(0, 0o7777)
targets = st.binary(min_size=1, max_size=50).filter(lambda target: b"\0" not in target)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    match draw(st.sampled_from(Kind)):
        case Kind.FILE:
            size = draw(st.integers(0, 2**64 - 1))
            entry = Entry(Kind.FILE, size, draw(st.binary(min_size=16, max_size=16)), draw(modes))
        case Kind.DIRECTORY:
            entry = Entry(Kind.DIRECTORY, mode=draw(modes))
        case Kind.SYMLINK:
            target = draw(targets)
            entry = Entry(Kind.SYMLINK, len(target), target=target)
    if draw(st.booleans()):
        return entry
    rest: dict[str, Any] = {name: draw(strategy) for name, strategy in optional.items()}
    return dataclasses.replace(entry, **rest)


def refused(value: bytes, width: int = 16) -> None:
    with pytest.raises(CodecError):
        decode_entry(value, width)
    with pytest.raises(CodecError):
        check_values([value], width)


@FIXED
@given(entries())
def test_entries_come_back(entry: Entry) -> None:
    value = encode_entry(entry)
    assert decode_entry(value, 16) == entry
    check_values([value, None], 16)
    assert entry_kind(value) is entry.kind
    size = entry.size if entry.kind is Kind.FILE else 0
    assert entry_size(value) == size
    assert file_sizes([value]) == ([size] if entry.kind is Kind.FILE else [])
    assert large_files([value], 1000, 16) == ([(entry.digest, size)] if size > 1000 else [])


@FIXED
@given(entries())
def test_every_truncation_and_other_width_is_refused(entry: Entry) -> None:
    value = encode_entry(entry)
    for length in range(len(value)):
        refused(value[:length])
    if entry.kind is not Kind.SYMLINK:
        refused(value + b"\0")
    if entry.kind is Kind.FILE and entry.xattrs is None:
        refused(value, 32)


@FIXED
@given(entries(), st.integers(0, 2**32))
def test_mutated_entries_are_refused_or_canonical(entry: Entry, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        mutated = bytearray(encode_entry(entry))
        mutated[rng.randrange(min(len(mutated), 14) if rng.random() < 0.5 else len(mutated))] = rng.randrange(
            256
        )
        value = bytes(mutated)
        try:
            found = decode_entry(value, 16)
        except CodecError:
            with pytest.raises(CodecError):
                check_values([value], 16)
            continue
        check_values([value], 16)
        assert encode_entry(found) == value


FILE = encode_entry(Entry(Kind.FILE, 5, bytes(16), 0o644))
XATTRS = Entry(Kind.DIRECTORY, xattrs=((b"a", b"1"), (b"b", b"2")))


@pytest.mark.parametrize(
    "value",
    [
        b"\x21" + FILE[1:],
        b"\x14" + FILE[1:],
        b"\x10" + FILE[1:],
        FILE[:1] + b"\x10" + FILE[2:],
        FILE[:1] + b"\x00" + FILE[2:],
        FILE[:2] + b"\xff\xff" + FILE[4:],
        encode_entry(Entry(Kind.DIRECTORY))[:4] + (5).to_bytes(8, "big"),
        encode_entry(Entry(Kind.SYMLINK, 3, target=b"a\0b")),
        encode_entry(Entry(Kind.SYMLINK, 0)),
        encode_entry(Entry(Kind.SYMLINK, 4, target=b"abc")),
        encode_entry(Entry(Kind.SYMLINK, 3, mode=0o777, target=b"abc")),
        encode_entry(Entry(Kind.SYMLINK, MAX_TARGET_BYTES + 1, target=b"t" * (MAX_TARGET_BYTES + 1))),
        encode_entry(Entry(Kind.DIRECTORY, xattrs=((b"b", b""), (b"a", b"")))),
        encode_entry(Entry(Kind.DIRECTORY, xattrs=((b"a", b""), (b"a", b"")))),
        encode_entry(Entry(Kind.DIRECTORY, xattrs=((b"", b""),))),
        encode_entry(Entry(Kind.DIRECTORY, xattrs=((b"a", bytes(MAX_XATTRS_BYTES)),))),
    ],
)
def test_what_no_entry_is_is_refused(value: bytes) -> None:
    refused(value)


def test_the_largest_entry_fits_an_item() -> None:
    """Names of two bytes are the shortest of which there can be many: their lengths weigh most."""
    names = [bytes(pair) for pair in ((high, low) for high in range(128) for low in range(256))]
    most = Entry(Kind.DIRECTORY, xattrs=tuple((name, b"") for name in sorted(names)))
    value = encode_entry(most)
    assert decode_entry(value, 16) == most
    assert len(value) + MAX_PATH_BYTES + MAX_TARGET_BYTES <= ITEM_MAX_BYTES


def test_hostile_lengths_cost_no_memory() -> None:
    head = encode_entry(Entry(Kind.DIRECTORY, xattrs=()))[:-2]
    for value in (
        head + b"\xff\xff",
        head + b"\xff\xff\xff\xff",
        head + b"\x00\x01\x00\x01a\xff\xff\xff\xff",
    ):
        tracemalloc.start()
        try:
            refused(value)
            assert tracemalloc.get_traced_memory()[1] < 20_000
        finally:
            tracemalloc.stop()


def test_aspects_name_what_differs() -> None:
    ours = Entry(Kind.FILE, 5, bytes(16), 0o644, owner=(1, 2), mtime_ns=3, xattrs=())
    assert aspects(ours, ours) == aspects(None, None) == ()
    assert aspects(ours, None) == aspects(None, ours) == ("presence",)
    assert aspects(ours, Entry(Kind.DIRECTORY)) == ("kind",)
    other = Entry(Kind.FILE, 6, bytes(16), 0o600, owner=(1, 3), mtime_ns=4, xattrs=((b"a", b""),))
    assert aspects(ours, other) == ("content", "mode", "owner", "mtime", "xattrs")
    assert aspects(Entry(Kind.SYMLINK, 1, target=b"a"), Entry(Kind.SYMLINK, 2, target=b"bb")) == ("target",)


def test_a_moved_content_keeps_its_mark_whatever_its_attributes() -> None:
    plain = encode_entry(Entry(Kind.FILE, 5, b"d" * 16, 0o644))
    owned = encode_entry(Entry(Kind.FILE, 5, b"d" * 16, 0o600, owner=(1, 2), mtime_ns=7))
    other = encode_entry(Entry(Kind.FILE, 5, b"e" * 16, 0o644))
    link = encode_entry(Entry(Kind.SYMLINK, 1, target=b"x"))
    assert content_mark(plain) == content_mark(owned) != content_mark(other)
    assert content_mark(link) != content_mark(encode_entry(Entry(Kind.SYMLINK, 1, target=b"y")))
    assert same_content(plain, owned, 16)
    assert not same_content(plain, other, 16)
    assert not same_content(link, link, 16)
