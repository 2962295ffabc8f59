"""What of the target's content is at hand on this node, and which differences a plan looks at now.

A window of at most WINDOW differences is planned at a time: that bounds memory whatever the trees' size.
Searching the whole tree for copies of wanted contents costs time in proportion to the tree; it is done where
that is little against fetching. Runs on the volume's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from closeranks_proto.content import ChunkList, decode_chunk_list
from closeranks_proto.difference import Difference
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size

from ..disk.records import StatSignature
from ..disk.volume import Volume
from .plan import LocalContent, Place, Rules, Saw
from .trash import Trash

WINDOW = 32_768  # about 1 KB each while they are planned
ROWS_AT_ONCE = 2048
CHUNKS_MAX = 100_000  # chunk digests of local files kept for comparison: files of 100 GB in all
# Walking reads some 300,000 entries a second, peers give some 100 MB/s: 300 bytes to fetch for each entry.
WALK_ALWAYS_ENTRIES = 50_000
WALK_BYTES_PER_ENTRY = 300


@dataclass(frozen=True, slots=True)
class Window:
    """Differences in key order. `cut` is the last key if there are more behind it, else None."""

    saws: tuple[Saw, ...]
    cut: bytes | None


def rules_of(volume: Volume) -> Rules:
    return Rules(volume.algorithm.width, volume.chunk_bytes, volume.settings.special_bits)


def windows(volume: Volume, target: bytes, skip: Collection[bytes], size: int = WINDOW) -> Iterator[Window]:
    """All differences of the volume's present root and the target, in windows."""
    root = volume.root
    assert root is not None, "a volume is scanned before it is converged"
    found: list[Difference] = []
    for one in volume.tree.diff(root, target):
        if one.key in skip:
            continue
        if len(found) == size:
            yield Window(_seen(volume, found), found[-1].key)
            found = []
        found.append(one)
    yield Window(_seen(volume, found), None)


def _seen(volume: Volume, found: Sequence[Difference]) -> tuple[Saw, ...]:
    """Each with what the index knows of its path."""
    saws: list[Saw] = []
    for start in range(0, len(found), ROWS_AT_ONCE):
        part = found[start : start + ROWS_AT_ONCE]
        rows = volume.rows(one.key for one in part if one.ours is not None)
        for one in part:
            row = rows.get(one.key)
            seen = None if row is None else StatSignature.unpack(row.stat)
            saws.append(Saw(one.key, one.ours, one.theirs, seen))
    return tuple(saws)


def local_content(
    volume: Volume,
    saws: Collection[Saw],
    trash: Trash | None,
    known: Mapping[bytes, Place] | None = None,
) -> LocalContent:
    """What is at hand for these differences. `trash`, if given, is open.

    `known`: where whole contents are, by digest, if that was looked up already.
    """

    def lists(digest: bytes) -> ChunkList | None:
        blob = volume.object(digest)
        if blob is None:
            return None
        # What the plan rests on is kept until it is carried out: the index forgets a list that no row names any more.
        volume.stage_objects({digest: blob})
        return decode_chunk_list(blob)

    zeros: dict[int, bytes] = {}

    def zero(length: int) -> bytes:
        if length not in zeros:
            if len(zeros) > 64:
                zeros.clear()
            zeros[length] = volume.algorithm.of(bytes(length))
        return zeros[length]

    width = volume.algorithm.width
    wanted: dict[bytes, int] = {}
    for saw in saws:
        if saw.target is not None and entry_kind(saw.target) is Kind.FILE:
            digest = _digest(saw.target, width)
            if saw.own is None or entry_kind(saw.own) is not Kind.FILE or _digest(saw.own, width) != digest:
                wanted[digest] = entry_size(saw.target)
    whole = known if known is not None else _whole(volume, saws, wanted, trash) if wanted else {}
    longer = any(size > volume.chunk_bytes for size in wanted.values())
    return LocalContent(lists, whole, _chunk_places(volume, saws, lists) if longer else {}, zero)


def _digest(value: bytes, width: int) -> bytes:
    return value[DIGEST_AT : DIGEST_AT + width]


def _whole(
    volume: Volume, saws: Collection[Saw], wanted: dict[bytes, int], trash: Trash | None
) -> dict[bytes, Place]:
    """Content digest -> where a file with that content is."""
    width = volume.algorithm.width
    found: dict[bytes, Place] = {}
    if trash is not None:
        for kept in trash.kept():
            value = kept.discard.value
            if (
                kept.discard.kind is Kind.FILE
                and value
                and entry_kind(value) is Kind.FILE
                and len(value) >= 12 + width
            ):
                digest = _digest(value, width)
                if digest in wanted:
                    found[digest] = Place(True, kept.id.encode())
    for saw in saws:
        if saw.own is not None and entry_kind(saw.own) is Kind.FILE:
            digest = _digest(saw.own, width)
            if digest in wanted:
                found[digest] = Place(False, saw.key)
    _search_tree(volume, wanted, found)
    return found


def _search_tree(volume: Volume, wanted: dict[bytes, int], found: dict[bytes, Place]) -> None:
    left = {digest: size for digest, size in wanted.items() if digest not in found}
    summary = volume.summary
    if not left or volume.root is None or summary is None:
        return
    affordable = sum(left.values()) // WALK_BYTES_PER_ENTRY
    if summary.entries > max(WALK_ALWAYS_ENTRIES, affordable):
        return
    width = volume.algorithm.width
    for key, value in volume.tree.walk(volume.root):
        if entry_kind(value) is Kind.FILE:
            digest = _digest(value, width)
            if digest in left:
                found[digest] = Place(False, key)


def _chunk_places(
    volume: Volume, saws: Collection[Saw], lists: Callable[[bytes], ChunkList | None]
) -> dict[bytes, tuple[Place, int]]:
    """Chunk digest -> (file, number), of the differing longer files of this node."""
    found: dict[bytes, tuple[Place, int]] = {}
    for saw in saws:
        if saw.own is None or entry_size(saw.own) <= volume.chunk_bytes:
            continue
        chunks = lists(_digest(saw.own, volume.algorithm.width))
        if chunks is None:
            continue
        place = Place(False, saw.key)
        for index, digest in enumerate(chunks):
            if len(found) >= CHUNKS_MAX:
                return found
            found.setdefault(digest, (place, index))
    return found
