"""What lies in the trash, and the records that tell of it."""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
import pytest

from closeranks_agent.converge.items import Discard, Kept, decode, discard_of, encode, marker, settled_up_to
from closeranks_agent.converge.ledger import LedgerDamaged
from closeranks_proto.entries import Entry, Kind, encode_entry

DIGEST = bytes(range(16))
FILE = encode_entry(Entry(Kind.FILE, 7, DIGEST, 0o644))
DISCARD = Discard(b"a\0b", Kind.FILE, 7, 4096, 0o644, 1_000, 12, "replaced", FILE, b"staged")


@pytest.mark.parametrize("ordinary", [False, True])
def test_a_record_gives_the_item_back(ordinary: bool) -> None:
    kept = Kept(0x12, 1_764_000_000_000, 5_000, "i-000001", DISCARD, ordinary)
    assert decode(msgpack.unpackb(encode(kept), use_list=False)) == kept
    assert kept.id == "000000000012"


def test_a_marker_is_no_item_and_names_the_last_that_is_settled() -> None:
    record = msgpack.unpackb(marker(41), use_list=False)
    assert decode(record) is None
    assert settled_up_to(record) == 41
    assert settled_up_to(msgpack.unpackb(encode(Kept(7, 0, 0, "", DISCARD)), use_list=False)) == 0


@pytest.mark.parametrize("record", [("item", 1), ("settled", "1"), 7, ("later",)])
def test_a_record_of_another_shape_is_damage(record: object) -> None:
    with pytest.raises(LedgerDamaged, match="unknown shape"):
        decode(record)


def test_the_content_of_an_item_is_known_where_the_index_had_a_file_there() -> None:
    assert DISCARD.content(16) == DIGEST
    link = encode_entry(Entry(Kind.SYMLINK, 16, target=bytes(16)))
    for kind, value in ((Kind.FILE, b""), (Kind.FILE, link), (Kind.SYMLINK, FILE), (Kind.FILE, FILE[:-1])):
        assert Discard(b"k", kind, 7, 0, 0o644, 0, 1, "removed", value).content(16) == b""


def test_an_item_is_charged_what_it_occupies(tmp_path: Path) -> None:
    """A sparse file is no more than its blocks, a short one no more than its bytes; other kinds are free."""
    (tmp_path / "short").write_bytes(b"seven b")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("nowhere")

    def charged(name: str) -> tuple[Kind, int, int]:
        one = discard_of(name.encode(), os.lstat(tmp_path / name), "removed", b"", b"")
        return one.kind, one.size, one.charge

    assert charged("short") == (Kind.FILE, 7, 7)
    assert charged("sparse") == (Kind.FILE, 1 << 30, 0)
    assert charged("directory") == (Kind.DIRECTORY, 0, 0)
    assert charged("link") == (Kind.SYMLINK, 0, 0)
