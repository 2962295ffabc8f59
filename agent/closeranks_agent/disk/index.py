"""What a volume held when it was last read: a row for each path, in SQLite, read directory by directory.

Rows are found by (digest of the directory's key, name): a directory is one range, and a path of 4,095 bytes
is not repeated in each of its entries. A path's parents are not looked up, and there is no table of
directories' numbers to keep. For each directory whose entries are all settled there is besides a *listing*:
the digest of its names and their stats, by which a scan sees that nothing in it changed without reading
its rows.

What a first scan reads of a directory stands in *packs*, some hundred paths each (see `packs`), by the name of their
last one; a pack is taken apart into rows when one of its paths is written. A path has a row or stands in a pack, never
both, and the packs of a directory do not overlap.

Chunk lists of long files stand in a table of their own, by content digest. One that no row names any more
is an *orphan*; it is kept for a coordinator that may still be asking for it and dropped later.

Rejected: one range over full keys (a directory's own entries lie scattered between its subdirectories'), a
listing of stats in memory (grows with the tree).
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from closeranks_proto.entries import DIGEST_AT, entry_size

from .database import Damaged, Database
from .packs import PACK_ROWS, PackedRow, items_of, names_of, row_of, rows_of, together
from .records import Record, StatSignature
from .rows import (
    DIRECTORY,
    NAMES_MAX,
    Delta,
    FreshPack,
    Listing,
    Row,
    by_directory,
    directory_id,
    filled_up,
    is_directory,
    place_of,
)  # fmt: skip
from .schema import FORMAT, SCHEMA, UPGRADES

T = TypeVar("T")

PAGE_ROWS = 1024  # about 250 bytes each
DEEP_LEVELS = 16
DEEP_PAGE_ROWS = 16
LISTINGS_MAX = 64
LONG_LIST_BYTES = 64 * 1024  # of a chunk list: of a file of 4 GiB
_LISTINGS = (
    f"SELECT dir, digest, ignored, hard_links FROM listings WHERE dir IN ({','.join('?' * LISTINGS_MAX)})"
)
_NAMED = f"FROM entries WHERE dir = ? AND name IN ({','.join('?' * NAMES_MAX)})"


class _Pack(NamedTuple):
    last: bytes
    blob: bytes


class Index:
    """The rows of one volume. Writing methods belong inside a transaction of `database`."""

    def __init__(self, path: Path | None, upgrades: Mapping[int, str] = UPGRADES) -> None:
        """`path` None: nobody keeps it. Without `upgrades` an older format counts as damaged, and stays as it is."""
        self.database = Database(path, SCHEMA, FORMAT, upgrades)

    # --- small facts ---------------------------------------------------------------------------

    def meta(self, name: str) -> object:
        """A fact stored as JSON; None where it was never set."""
        found = self.database.row("SELECT value FROM meta WHERE name = ?", (name,))
        return None if found is None else json.loads(cast(str, found[0]))

    def set_meta(self, name: str, value: object) -> None:
        text = json.dumps(value)
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, text))

    # --- reading -------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        return all(
            self.database.row(f"SELECT 1 FROM {table} LIMIT 1") is None for table in ("entries", "packs")
        )

    def directory(self, key: bytes, page_rows: int = PAGE_ROWS, after: bytes = b"") -> Iterator[Row]:
        """The rows of directory `key` behind the name `after`, ascending, in pages: writing meanwhile is allowed."""
        for page in self._pages("name, value, stat, settled", rows_of, directory_id(key), after, page_rows):
            for name, value, stat, settled in page:
                yield Row(name, value, stat, bool(settled))

    def _pages(
        self, columns: str, unpack: Callable[[bytes], list[Any]], place: bytes, after: bytes, page_rows: int
    ) -> Iterator[list[Any]]:
        """Pages of rows behind the name `after`, each asked for anew: what was a pack may be rows by then."""
        statement = f"SELECT {columns} FROM entries WHERE dir = ? AND name > ? ORDER BY name LIMIT ?"
        count = 2 if page_rows > PACK_ROWS else 1  # then what has one pack is asked for once
        last = after
        while True:
            with self.database.lock:
                rows = cast(list[Any], self.database.rows(statement, (place, last, page_rows)))
                packs = self._packs(place, last, ">", count)
            packed = [row for pack in packs for row in self._open(pack, unpack)]
            if packed and packed[0][0] <= last:
                packed = [row for row in packed if row[0] > last]
            page, more = together(rows, len(rows) == page_rows, packed, len(packs) == count)
            if len(page) > page_rows:  # of a deep directory, where each level keeps what is left of a page
                page, more = page[:page_rows], True
            if (more and not page) or (page and page[-1][0] <= last):
                raise Damaged(f"{self.database.path} is damaged: names that are out of order")
            if page:
                yield page
            if not more:
                return
            last = page[-1][0]

    def _packs(self, place: bytes, name: bytes, how: Literal[">", ">="], count: int) -> list[_Pack]:
        """The first packs whose last name is greater than `name`, or also as great."""
        found = self.database.rows(
            f"SELECT last, rows FROM packs WHERE dir = ? AND last {how} ? ORDER BY last LIMIT ?",
            (place, name, count),
        )
        return [_Pack(*cast(tuple[bytes, bytes], row)) for row in found]

    def _pack(self, place: bytes, name: bytes) -> _Pack | None:
        """The one in which that name stands or would stand."""
        return next(iter(self._packs(place, name, ">=", 1)), None)

    def _open(self, pack: _Pack, unpack: Callable[[bytes], T]) -> T:
        try:
            if names_of(pack.blob)[-1] != pack.last:
                raise ValueError("a pack that ends with another name")
            return unpack(pack.blob)
        except (ValueError, IndexError, struct.error) as error:
            raise Damaged(f"{self.database.path} is damaged: {error}") from error

    def listing(self, key: bytes) -> Listing | None:
        found = self.database.row(
            "SELECT digest, ignored, hard_links FROM listings WHERE dir = ?", (directory_id(key),)
        )
        return None if found is None else Listing(*cast(tuple[bytes, int, int], found))

    def listings(self, keys: Sequence[bytes]) -> list[Listing | None]:
        """The listings of many directories, at most LISTINGS_MAX."""
        assert len(keys) <= LISTINGS_MAX
        places = [directory_id(key) for key in keys]
        padded = (*places, *[b""] * (LISTINGS_MAX - len(places)))  # one statement, compiled once
        found = {
            row[0]: Listing(*cast(tuple[bytes, int, int], row[1:]))
            for row in self.database.rows(_LISTINGS, padded)
        }
        return [found.get(place) for place in places]

    def row(self, key: bytes) -> Row | None:
        place, name = place_of(key)
        with self.database.lock:
            found = cast(
                PackedRow | None,
                self.database.row(
                    "SELECT name, value, stat, settled FROM entries WHERE dir = ? AND name = ?", (place, name)
                ),
            )
            pack = None if found is not None else self._pack(place, name)
        if pack is not None:
            found = self._open(pack, lambda blob: row_of(blob, name))
        return None if found is None else Row(*found[:3], bool(found[3]))

    def rows_at(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        """The rows of these keys, as far as they have any: what many single questions would answer, and much sooner."""
        found: dict[bytes, Row] = {}
        for directory, names in by_directory(keys).items():
            prefix = directory and directory + b"\0"
            found |= {prefix + name: row for name, row in self.named(directory, names).items()}
        return found

    def named(self, directory: bytes, names: Iterable[bytes]) -> dict[bytes, Row]:
        """The rows of these names in one directory: a statement for NAMES_MAX of them, and one for each pack."""
        wanted = sorted(set(names))
        place = directory_id(directory)
        found: dict[bytes, Row] = {}
        with self.database.lock:
            for part in filled_up(wanted):
                rows = self.database.rows(f"SELECT name, value, stat, settled {_NAMED}", (place, *part))
                found |= {row[0]: Row(*row[:3], bool(row[3])) for row in cast(list[PackedRow], rows)}
            left = [name for name in wanted if name not in found]
            while left and (pack := self._pack(place, left[0])) is not None:
                end = bisect_right(left, pack.last)
                found |= {row[0]: Row(*row[:3], bool(row[3])) for row in self._among(pack, left[:end])}
                left = left[end:]
        return found

    def _among(self, pack: _Pack, names: Sequence[bytes]) -> list[PackedRow]:
        """The rows of those of these names that stand in the pack."""
        if len(names) == 1:
            one = self._open(pack, lambda blob: row_of(blob, names[0]))
            return [] if one is None else [one]
        wanted = set(names)
        return [row for row in self._open(pack, rows_of) if row[0] in wanted]

    def record(self, key: bytes, chunk_bytes: int) -> Record | None:
        """What is known of `key`, with its chunk list."""
        row = self.row(key)
        if row is None:
            return None
        chunks = None
        if entry_size(row.value) > chunk_bytes:
            found = self.database.row("SELECT content FROM entries WHERE dir = ? AND name = ?", place_of(key))
            if found is not None and found[0] is not None:
                chunks = self.chunk_list(cast(bytes, found[0]))
        return Record(key, row.value, StatSignature.unpack(row.stat), chunks, row.settled)

    def chunk_list(self, digest: bytes) -> bytes | None:
        found = self.database.row("SELECT list FROM chunk_lists WHERE digest = ?", (digest,))
        return None if found is None else cast(bytes, found[0])

    def items(self, below: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) below a directory, by default the root, keys ascending."""
        for keys, values in self.stretches(below):
            yield from zip(keys, values, strict=True)

    def stretches(self, below: bytes = b"") -> Iterator[tuple[list[bytes], Sequence[bytes]]]:
        """The same as (keys, values) of what stands together: what trees are built of, a third of the time.

        A directory ends its stretch, and nothing below it was looked at yet.
        """
        levels = [self._level(below, PAGE_ROWS)]
        while levels:
            stretch = next(levels[-1], None)
            if stretch is None:
                levels.pop()
                continue
            yield stretch
            if is_directory(stretch[1][-1]):
                page_rows = PAGE_ROWS if len(levels) < DEEP_LEVELS else DEEP_PAGE_ROWS
                levels.append(self._level(stretch[0][-1], page_rows))

    def _level(self, key: bytes, page_rows: int) -> Iterator[tuple[list[bytes], Sequence[bytes]]]:
        """(keys, values) of a directory's own paths, one part for each directory among them and each page."""
        prefix = key and key + b"\0"
        for page in self._pages("name, value", items_of, directory_id(key), b"", page_rows):
            names, values = zip(*page, strict=True)
            keys = [prefix + name for name in names]
            start = 0
            for end in [end for end, value in enumerate(values, 1) if value[0] & 15 == DIRECTORY]:
                yield keys[start:end], values[start:end]
                start = end
            if start < len(keys):
                yield keys[start:], values[start:]

    def rows(self, below: bytes = b"") -> Iterator[tuple[bytes, Row]]:
        """Every (key, row) below a directory, by default the root, keys ascending."""
        return self._down([(below and below + b"\0", self.directory(below))])

    def rows_after(self, key: bytes) -> Iterator[tuple[bytes, Row]]:
        """Every (key, row) whose key is greater, ascending."""
        if not key:
            return self.rows()
        stack: list[tuple[bytes, Iterator[Row]]] = []
        prefix = b""
        for name in key.split(b"\0"):
            stack.append((prefix, self.directory(prefix[:-1], DEEP_PAGE_ROWS, name)))
            prefix += name + b"\0"
        return self._down([*stack, (prefix, self.directory(prefix[:-1]))])

    def _down(self, stack: list[tuple[bytes, Iterator[Row]]]) -> Iterator[tuple[bytes, Row]]:
        while stack:
            prefix, rows = stack[-1]
            for row in rows:
                key = prefix + row.name
                yield key, row
                if is_directory(row.value):
                    # Each level holds what is left of its page: deep trees take small ones.
                    page_rows = PAGE_ROWS if len(stack) < DEEP_LEVELS else DEEP_PAGE_ROWS
                    stack.append((key + b"\0", self.directory(key, page_rows)))
                    break
            else:
                stack.pop()

    # --- writing -------------------------------------------------------------------------------

    def write(self, delta: Delta, chunk_bytes: int, width: int) -> None:
        """Bring the rows up to date. Listings count last: what they promise must stand in the rows."""
        places = {key: place_of(key) for key in delta.rows}
        self._take_apart(set(places.values()))
        touched = self._contents_of(places.values())
        self.database.execute_many(
            "DELETE FROM entries WHERE dir = ? AND name = ?",
            [places[key] for key, record in delta.rows.items() if record is None],
        )
        rows: list[tuple[bytes, bytes, bytes, bytes, int, bytes | None]] = []
        lists: dict[bytes, bytes | bytearray] = {}
        for record in delta.rows.values():
            if record is None:
                continue
            content = None
            if record.chunks is not None:
                content = record.value[DIGEST_AT : DIGEST_AT + width]
                lists[content] = record.chunks
            else:
                assert entry_size(record.value) <= chunk_bytes
            place, name = places[record.key]
            rows.append((place, name, record.value, record.stat.pack(), int(record.settled), content))
        self.database.execute_many(_INSERT, rows)
        self.database.execute_many(_INSERT, delta.fresh)
        self._write_packs(delta.packs)
        lists |= delta.lists
        self._write_lists(lists)
        self.database.execute_many(
            "UPDATE chunk_lists SET orphan = 1 WHERE digest = ?1"
            " AND NOT EXISTS (SELECT 1 FROM entries WHERE content = ?1)",
            [(digest,) for digest in sorted(touched - lists.keys())],
        )
        self._write_listings(delta)

    def _write_packs(self, packs: Iterable[FreshPack]) -> None:
        """Insert them; one that something is known of already, written while it was read, becomes rows."""
        for place, last, blob in packs:
            names = names_of(blob)
            known = self.database.rows(
                "SELECT name FROM entries WHERE dir = ? AND name BETWEEN ? AND ?", (place, names[0], last)
            )
            other = self._pack(place, names[0])
            apart = other is None or self._open(other, names_of)[0] > last
            if apart and (not known or {row[0] for row in known}.isdisjoint(names)):
                self.database.execute("INSERT INTO packs VALUES (?, ?, ?)", (place, last, blob))
                continue
            self._take_apart({(place, name) for name in names})
            self.database.execute_many(_INSERT, [(place, *row, None) for row in rows_of(blob)])

    def _take_apart(self, places: Set[tuple[bytes, bytes]]) -> None:
        """Make rows of each pack that one of these paths stands in, but of these paths themselves: they are written."""
        if self.database.row("SELECT 1 FROM packs LIMIT 1") is None:
            return
        here, pack, names = b"", None, frozenset[bytes]()
        for place, name in sorted(places):
            if place != here or (pack is not None and name > pack.last):
                here, pack = place, self._pack(place, name)
                names = frozenset(() if pack is None else self._open(pack, names_of))
            if pack is None or name not in names:
                continue
            rows = [(place, *row, None) for row in self._open(pack, rows_of) if (place, row[0]) not in places]
            self.database.execute_many(_INSERT, rows)
            self.database.execute("DELETE FROM packs WHERE dir = ? AND last = ?", (place, pack.last))
            names = frozenset()

    def _write_lists(self, lists: Mapping[bytes, bytes | bytearray]) -> None:
        """A long one goes into its place directly: bound to a statement it would stand in memory three times."""
        insert = "INSERT INTO chunk_lists VALUES (?, %s, 0) ON CONFLICT (digest) DO UPDATE SET orphan = 0"
        short = [(digest, bytes(chunks)) for digest, chunks in lists.items() if len(chunks) < LONG_LIST_BYTES]
        self.database.execute_many(insert % "?", short)
        for digest, chunks in lists.items():
            if len(chunks) < LONG_LIST_BYTES:
                continue
            known = self.database.row("SELECT 1 FROM chunk_lists WHERE digest = ?", (digest,)) is not None
            self.database.execute(insert % "zeroblob(?)", (digest, len(chunks)))
            if not known:
                found = self.database.row("SELECT rowid FROM chunk_lists WHERE digest = ?", (digest,))
                assert found is not None
                self.database.fill_blob("chunk_lists", "list", cast(int, found[0]), chunks)

    def _contents_of(self, places: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
        """The content digests of long files that stand at these places now."""
        if self.database.row("SELECT 1 FROM chunk_lists LIMIT 1") is None:
            return set()
        named: dict[bytes, list[bytes]] = {}
        for place, name in places:
            named.setdefault(place, []).append(name)
        statement = f"SELECT content {_NAMED} AND content IS NOT NULL"
        return {
            cast(bytes, row[0])
            for place, names in named.items()
            for part in filled_up(names)
            for row in self.database.rows(statement, (place, *part))
        }

    def _write_listings(self, delta: Delta) -> None:
        gone = [(directory_id(key),) for key, listing in delta.listings.items() if listing is None]
        self.database.execute_many("DELETE FROM listings WHERE dir = ?", gone)
        self.database.execute_many(
            "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?)",
            [
                (directory_id(key), listing.digest, listing.ignored, listing.hard_links)
                for key, listing in delta.listings.items()
                if listing is not None
            ],
        )

    def drop_listings(self) -> None:
        """Let the next scan look into every directory."""
        self.database.execute("DELETE FROM listings")

    def drop_entries(self) -> None:
        """Forget every path: digests of another algorithm or chunk length say nothing."""
        for table in ("entries", "packs", "listings", "chunk_lists", "journal"):
            self.database.execute(f"DELETE FROM {table}")

    def orphan_bytes(self) -> int:
        found = self.database.row("SELECT ifnull(sum(length(list)), 0) FROM chunk_lists WHERE orphan")
        return cast(int, found[0]) if found is not None else 0

    def drop_orphans(self) -> None:
        self.database.execute("DELETE FROM chunk_lists WHERE orphan")


_INSERT = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)"
