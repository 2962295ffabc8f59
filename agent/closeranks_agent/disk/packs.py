"""Rows that were read together, in one blob: what a first scan writes instead of a row for each path.

A directory of a new tree comes as a whole and mostly stays as it came. As rows of their own its paths cost more to
insert than to read again, and 40 bytes each around them; as a pack, the process that read them makes the blob,
and nobody handles a single one of them before somebody asks for it.

A pack is never changed: who writes to one of its paths takes it apart into rows first (see `index`).

Light to import: reading processes do.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

PACK_ROWS: Final = 256  # about 22 KB, taken apart in 0.2 ms
VALUE_MAX_BYTES: Final = 0xFFFF  # of one path; what is longer becomes a row
STAT_BYTES: Final = 40
_HEAD: Final = struct.Struct("<HI")  # rows, bytes of their names

# name, value, packed signature, settled: a row of the index but for its directory, of a path without a chunk list.
PackedRow = tuple[bytes, bytes, bytes, int]


def pack_rows(rows: Sequence[tuple[bytes, bytes, bytes, int, bytes | None]]) -> bytes:
    """1 to PACK_ROWS rows, names ascending, each without a content digest and of at most VALUE_MAX_BYTES."""
    names, values, stats, settled, _ = zip(*rows, strict=True)
    joined = b"/".join(names)
    lengths = struct.pack(f"<{len(rows)}H", *map(len, values))
    return b"".join((_HEAD.pack(len(rows), len(joined)), joined, lengths, bytes(settled), *stats, *values))


def names_of(blob: bytes) -> list[bytes]:
    """Raises ValueError, struct.error for what is no pack, as the others here do."""
    count, size = _HEAD.unpack_from(blob)
    names = blob[_HEAD.size : _HEAD.size + size].split(b"/")
    if len(names) != count:
        raise ValueError("a pack with more or fewer names than rows")
    return names


def items_of(blob: bytes) -> list[tuple[bytes, bytes]]:
    """(name, value) of each."""
    names = names_of(blob)
    return list(zip(names, _values_of(blob, len(names)), strict=True))


def rows_of(blob: bytes) -> list[PackedRow]:
    names = names_of(blob)
    count = len(names)
    at = _HEAD.size + _HEAD.unpack_from(blob)[1] + 2 * count
    settled, begin = blob[at : at + count], at + count
    stats = [blob[one : one + STAT_BYTES] for one in range(begin, begin + count * STAT_BYTES, STAT_BYTES)]
    return list(zip(names, _values_of(blob, count), stats, settled, strict=True))


def row_of(blob: bytes, name: bytes) -> PackedRow | None:
    """The one of that name."""
    names = names_of(blob)
    at, count = bisect_left(names, name), len(names)
    if at == count or names[at] != name:
        return None
    begin = _HEAD.size + _HEAD.unpack_from(blob)[1]
    lengths = struct.unpack_from(f"<{count}H", blob, begin)
    stat = begin + (2 + 1) * count + at * STAT_BYTES
    value = begin + (2 + 1 + STAT_BYTES) * count + sum(lengths[:at])
    if value + sum(lengths[at:]) != len(blob) or not lengths[at]:
        raise ValueError("a pack of another length than it says")
    settled = blob[begin + 2 * count + at]
    return name, blob[value : value + lengths[at]], blob[stat : stat + STAT_BYTES], settled


def _values_of(blob: bytes, count: int) -> list[bytes]:
    at = _HEAD.size + _HEAD.unpack_from(blob)[1]
    lengths = struct.unpack_from(f"<{count}H", blob, at)
    begin = at + (2 + 1 + STAT_BYTES) * count
    if begin + sum(lengths) != len(blob):
        raise ValueError("a pack of another length than it says")
    if 0 in lengths:
        raise ValueError("a pack with a path that has no entry")
    return [blob[start:end] for start, end in pairwise(accumulate(lengths, initial=begin))]


def together(rows: list[Any], more_rows: bool, packed: list[Any], more_packs: bool) -> tuple[list[Any], bool]:
    """Rows and what stands in packs, as far as both are known, names ascending; whether more may follow."""
    page = sorted([*rows, *packed]) if rows and packed else rows or packed
    ends = [part[-1][0] for part, more in ((rows, more_rows), (packed, more_packs)) if more]
    if rows and packed and ends:
        end = min(ends)
        page = [row for row in page if row[0] <= end]
    return page, bool(ends)
