"""Where a node differs, one row a path: what the API pages through and what incidents name.

Invariant: rows come in the order of keys, one a key, so a page is continued by the key alone. A path
that could not be read is a row of its own even where the entries are equal: an error is not a pass, and
it is no accusation either, so it stands instead of any difference of that path. A path on which the node may
not write special mode bits is named too, and is no difference: its state and its release do not count it.

`bytes` counts the differing chunks of the longer of the two files. Where a chunk list is not at hand,
is damaged or was cut with another chunk length, the whole file counts: too much is honest, too little
is not. Rejected: counting only what a resync fetches (a file that grew would differ by 0 bytes).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from closeranks_proto.content import ChunkList, chunk_count, chunk_span, decode_chunk_list, differing_chunks
from closeranks_proto.entries import Entry, Kind, aspects, decode_entry
from closeranks_proto.errors import CodecError, MissingObject
from closeranks_proto.lines import printable, shortened
from closeranks_proto.paths import escape, path_of
from closeranks_proto.tree import Tree

Change = Literal["modified", "added", "missing", "unreadable", "withheld", "same"]
ChunkLists = Callable[[bytes], bytes]  # content digest -> encoded chunk list; raises MissingObject
Ranges = tuple[tuple[int, int], ...]
_WHY_WIDTH = 200


def _never(_key: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One path. `added` is only on the node, `missing` not on the node.

    `chunks` are inclusive index ranges of the chunks that differ, `bytes` their length: 0 for directories,
    symlinks and where only attributes differ. The `aspects` of an unreadable path say why it is.
    """

    key: bytes
    change: Change
    aspects: tuple[str, ...] = ()
    chunks: Ranges = ()
    bytes: int = 0

    def view(self) -> dict[str, object]:
        """The fields of the API's answer; chunks are pairs."""
        path = path_of(self.key)
        return {
            "path": escape(path),
            "path_b64": b64encode(path).decode("ascii"),
            "change": self.change,
            "aspects": list(self.aspects),
            "chunks": [list(span) for span in self.chunks],
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class DiffPage:
    """Rows in the order of keys. `next_key` is where the next page begins, None at the end."""

    rows: tuple[DiffRow, ...]
    next_key: bytes | None


def row(
    key: bytes,
    node_value: bytes | None,
    against_value: bytes | None,
    chunk_list: ChunkLists,
    width: int,
    chunk_bytes: int,
) -> DiffRow:
    """How the entries of one path differ; both None or equal values give `same`.

    Raises CodecError for a value that is not canonical.
    """
    if node_value == against_value:
        return DiffRow(key, "same")
    node = None if node_value is None else decode_entry(node_value, width)
    against = None if against_value is None else decode_entry(against_value, width)
    change: Change = "added" if against is None else "missing" if node is None else "modified"
    chunks, count = _content(node, against, chunk_list, width, chunk_bytes)
    return DiffRow(key, change, aspects(node, against), chunks, count)


def diff_page(
    tree: Tree,
    node_root: bytes,
    against_root: bytes,
    *,
    width: int,
    chunk_bytes: int,
    chunk_list: ChunkLists,
    skip: Callable[[bytes], bool] = _never,
    unreadable: Mapping[bytes, str] | None = None,
    withheld: Collection[bytes] = (),
    low: bytes = b"",
    limit: int = 100,
    same: bool = False,
) -> DiffPage:
    """The first `limit` rows from key `low` on. `skip` leaves differences out (undetermined keys).

    `unreadable` maps keys to the reason; `withheld` are those that differ in nothing but special mode bits that may
    not be written. `same` lists equal entries, too. Raises MissingObject for a page that the tree's source lacks.
    """
    assert limit > 0
    differing = (
        (difference.key, difference.ours, difference.theirs)
        for difference in tree.diff(node_root, against_root, low)
        if not skip(difference.key)
    )
    compared = _with_same(tree, node_root, against_root, low, skip) if same else differing
    rows: list[DiffRow] = []
    for key, ours, theirs, why in _with_unreadable(compared, unreadable or {}, low):
        if len(rows) == limit:
            return DiffPage(tuple(rows), key)
        if why is not None:
            reason = shortened(printable(why), _WHY_WIDTH)
            rows.append(DiffRow(key, "unreadable", (reason,) if reason else ()))
        elif key in withheld:
            rows.append(DiffRow(key, "withheld", ("mode",)))
        else:
            rows.append(row(key, ours, theirs, chunk_list, width, chunk_bytes))
    return DiffPage(tuple(rows), None)


def totals(
    tree: Tree,
    node_root: bytes,
    against_root: bytes,
    *,
    width: int,
    chunk_bytes: int,
    chunk_list: ChunkLists,
    skip: Callable[[bytes], bool] = _never,
) -> tuple[int, int]:
    """(paths, bytes) in which the trees differ, unreadable paths not considered."""
    paths = count = 0
    for difference in tree.diff(node_root, against_root):
        if not skip(difference.key):
            paths += 1
            found = row(difference.key, difference.ours, difference.theirs, chunk_list, width, chunk_bytes)
            count += found.bytes
    return paths, count


# --- merging --------------------------------------------------------------------------------------

_Pair = tuple[bytes, bytes | None, bytes | None]


def _with_same(
    tree: Tree, node_root: bytes, against_root: bytes, low: bytes, skip: Callable[[bytes], bool]
) -> Iterator[_Pair]:
    """Every key of either tree. What the node has and no difference names is the same in both."""
    walk = tree.walk(node_root, low)
    item = next(walk, None)
    for difference in tree.diff(node_root, against_root, low):
        while item is not None and item[0] < difference.key:
            yield item[0], item[1], item[1]
            item = next(walk, None)
        if item is not None and item[0] == difference.key:
            item = next(walk, None)
        if not skip(difference.key):
            yield difference.key, difference.ours, difference.theirs
    while item is not None:
        yield item[0], item[1], item[1]
        item = next(walk, None)


def _with_unreadable(
    pairs: Iterator[_Pair], unreadable: Mapping[bytes, str], low: bytes
) -> Iterator[tuple[bytes, bytes | None, bytes | None, str | None]]:
    """Both in the order of keys; where a key is in both, only the unreadable one."""
    waiting = sorted((key for key in unreadable if key >= low), reverse=True)
    for key, ours, theirs in pairs:
        while waiting and waiting[-1] < key:
            bad = waiting.pop()
            yield bad, None, None, unreadable[bad]
        if waiting and waiting[-1] == key:
            yield key, ours, theirs, unreadable[waiting.pop()]
        else:
            yield key, ours, theirs, None
    while waiting:
        bad = waiting.pop()
        yield bad, None, None, unreadable[bad]


# --- content --------------------------------------------------------------------------------------


def _content(
    node: Entry | None, against: Entry | None, chunk_list: ChunkLists, width: int, chunk_bytes: int
) -> tuple[Ranges, int]:
    """(ranges of differing chunks, their bytes) of the longer of two entries' files."""
    ours = node if node is not None and node.kind is Kind.FILE else None
    theirs = against if against is not None and against.kind is Kind.FILE else None
    if ours is None or theirs is None:
        one = ours or theirs
        return ((), 0) if one is None else _whole(one.size, chunk_bytes)
    if ours.digest == theirs.digest and ours.size == theirs.size:
        return (), 0
    longer, shorter = (ours, theirs) if ours.size >= theirs.size else (theirs, ours)
    if longer.size <= chunk_bytes:
        return _whole(longer.size, chunk_bytes)
    first = _chunks(longer, chunk_list, width, chunk_bytes)
    second = _chunks(shorter, chunk_list, width, chunk_bytes)
    if first is None or second is None:
        return _whole(longer.size, chunk_bytes)
    indices = differing_chunks(first, second)
    return _ranges(indices), sum(chunk_span(longer.size, chunk_bytes, index)[1] for index in indices)


def _chunks(entry: Entry, chunk_list: ChunkLists, width: int, chunk_bytes: int) -> ChunkList | bytes | None:
    """The chunk digests of a file, a one-chunk file's bare digest; None where they can not be known."""
    if entry.size <= chunk_bytes:
        return entry.digest
    try:
        found = decode_chunk_list(chunk_list(entry.digest))
    except (MissingObject, CodecError):
        return None  # the whole file counts; that it differs is known from the entries alone
    fits = found.size == entry.size and found.chunk_bytes == chunk_bytes and found.width == width
    return found if fits else None


def _whole(size: int, chunk_bytes: int) -> tuple[Ranges, int]:
    return ((0, chunk_count(size, chunk_bytes) - 1),), size


def _ranges(indices: list[int]) -> Ranges:
    """Ascending indices as inclusive ranges."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and found[-1][1] == index - 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return tuple(found)
