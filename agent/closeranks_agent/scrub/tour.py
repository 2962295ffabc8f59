"""What a tour reads next: the volume's files in the order of their keys, cut into jobs of bounded size.

Only settled rows are read: an unsettled file is read by the next scan anyway. A long file is compared chunk by chunk
with the list that the index has, so that a tour can be cut off in the middle of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size
from closeranks_proto.paths import path_of

from ..disk.index import Index
from ..disk.rows import Row
from .reading import Job

JOB_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Item:
    """A range of a file, and what its chunks' digests must be. `ends`: the file is done with it."""

    key: bytes
    row: Row
    offset: int
    length: int
    expected: bytes
    ends: bool

    def job(self, chunk_bytes: int, afresh: bool = False) -> Job:
        return path_of(self.key), self.row.stat, self.offset, self.length, chunk_bytes, afresh


def items(
    index: Index, key: bytes, offset: int, chunk_bytes: int, width: int, job_bytes: int
) -> Iterator[Item]:
    """Everything behind `key`; with an `offset` also the rest of that file."""
    if offset:
        row = index.row(key)
        if row is not None:
            yield from _of_file(index, key, row, offset, chunk_bytes, width, job_bytes)
    for found, row in index.rows_after(key):
        yield from _of_file(index, found, row, 0, chunk_bytes, width, job_bytes)


def items_of(
    index: Index, key: bytes, chunk: int, chunk_bytes: int, width: int, job_bytes: int
) -> Iterator[Item]:
    """The range of one file that has this chunk; none where the file is not known by its chunks."""
    row, place = index.row(key), chunk * chunk_bytes
    for item in () if row is None else _of_file(index, key, row, 0, chunk_bytes, width, job_bytes):
        if item.offset <= place <= item.offset + max(item.length - 1, 0):
            yield item


def _of_file(
    index: Index, key: bytes, row: Row, start: int, chunk_bytes: int, width: int, job_bytes: int
) -> Iterator[Item]:
    if not row.settled or entry_kind(row.value) is not Kind.FILE:
        return
    size, digest = entry_size(row.value), row.value[DIGEST_AT : DIGEST_AT + width]
    if size <= chunk_bytes:
        yield Item(key, row, 0, size, digest, True)
        return
    encoded = index.chunk_list(digest)
    if encoded is None:
        return  # the row is gone by now
    digests = decode_chunk_list(encoded).digests
    step = max(1, job_bytes // chunk_bytes) * chunk_bytes
    for at in range(start, size, step):
        length = min(step, size - at)
        first = at // chunk_bytes * width
        expected = digests[first : first + -(-length // chunk_bytes) * width]
        yield Item(key, row, at, length, expected, at + length >= size)
