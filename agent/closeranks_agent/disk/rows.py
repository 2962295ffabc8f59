"""What an index holds of a path and of a directory, and what one transaction changes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import blake3

from closeranks_proto.entries import Kind

from .records import Record

NAMES_MAX = 64  # of one directory that are asked for at once
DIRECTORY = int(Kind.DIRECTORY)  # an enumeration's member is looked up in a tenth of a microsecond


class Row(NamedTuple):
    """One path of a directory, as it was last read."""

    name: bytes
    value: bytes
    stat: bytes  # a packed StatSignature
    settled: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory in which nothing changed as long as its digest stays."""

    digest: bytes
    ignored: int
    hard_links: int


# As it stands in the table: directory's id, name, value, packed signature, settled, content digest of a long file.
FreshRow = tuple[bytes, bytes, bytes, bytes, int, bytes | None]
# Likewise: directory's id, name of its last path, the pack.
FreshPack = tuple[bytes, bytes, bytes]


@dataclass(slots=True)
class Delta:
    """What one transaction changes: rows by key (None removes), listings by directory (None removes)."""

    rows: dict[bytes, Record | None] = field(default_factory=dict)
    listings: dict[bytes, Listing | None] = field(default_factory=dict)
    fresh: list[FreshRow] = field(default_factory=list)  # of paths that have no row
    packs: list[FreshPack] = field(default_factory=list)  # the same, packed
    # Chunk lists of those, by content digest.
    lists: dict[bytes, bytes | bytearray] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rows or self.listings or self.fresh or self.packs)


def is_directory(value: bytes) -> bool:
    """Whether a value is a directory's."""
    return value[0] & 15 == DIRECTORY


def directory_id(key: bytes) -> bytes:
    """Under what the rows of directory `key` stand."""
    return blake3.blake3(key).digest(length=16)


_recent_directory_id = lru_cache(64)(directory_id)  # neighbours follow each other


def place_of(key: bytes) -> tuple[bytes, bytes]:
    """The (directory id, name) under which `key` stands."""
    parent, _, name = key.rpartition(b"\0")
    return _recent_directory_id(parent), name


def by_directory(keys: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """The names of these keys, by the directory that they stand in."""
    found: dict[bytes, list[bytes]] = {}
    for key in keys:
        directory, _, name = key.rpartition(b"\0")
        found.setdefault(directory, []).append(name)
    return found


def filled_up(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """NAMES_MAX each, the last one filled up: one statement, compiled once."""
    for start in range(0, len(names), NAMES_MAX):
        part = names[start : start + NAMES_MAX]
        yield (*part, *[part[-1]] * (NAMES_MAX - len(part)))
