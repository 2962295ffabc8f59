"""From a file's bytes to its content digest.

A file is cut into fixed chunks. A file of at most one chunk has its chunk's digest as content digest,
so that the millions of small files need no object besides their entry. A longer file has a *chunk
list*, an object of its own: the digests of its chunks in order; its content digest is the digest of
that object. Size and chunk length stand in the object, so equal content digests mean equal cuts.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .digests import DigestAlgorithm
from .errors import CodecError
from .limits import MAX_CHUNK_BYTES, MAX_OBJECT_BYTES, MIN_CHUNK_BYTES

_HEADER = struct.Struct(">BBIQ")  # version, digest width, chunk length, file size
_VERSION = 1
CHUNK_LIST_HEAD_BYTES = _HEADER.size
COMPARED_CHUNKS = 1024  # at once: most blocks of a long file are the same


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The chunk digests of one file. `digests` is one blob of `count` times `width` bytes."""

    size: int
    chunk_bytes: int
    width: int
    digests: bytes

    @property
    def count(self) -> int:
        return len(self.digests) // self.width

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.digests[index * self.width : (index + 1) * self.width]

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(self.count))

    def span(self, index: int) -> tuple[int, int]:
        """(offset, length) of chunk `index` in the file, in bytes."""
        return chunk_span(self.size, self.chunk_bytes, index)


def chunk_count(size: int, chunk_bytes: int) -> int:
    """How many chunks a file of `size` bytes has; an empty file has one, empty, chunk."""
    return max(1, -(-size // chunk_bytes))


def chunk_span(size: int, chunk_bytes: int, index: int) -> tuple[int, int]:
    """(offset, length) of chunk `index` of a file of `size` bytes."""
    offset = index * chunk_bytes
    return offset, min(chunk_bytes, size - offset)


def max_file_bytes(algorithm: DigestAlgorithm, chunk_bytes: int) -> int:
    """The longest file whose chunk list fits an object."""
    return (MAX_OBJECT_BYTES - _HEADER.size) // algorithm.width * chunk_bytes


def encode_chunk_list(chunks: ChunkList) -> bytes:
    """The canonical object. Its digest is the file's content digest."""
    return _HEADER.pack(_VERSION, chunks.width, chunks.chunk_bytes, chunks.size) + chunks.digests


def begun_chunk_list(size: int, chunk_bytes: int, width: int) -> bytearray:
    """The canonical object, whose digests, from CHUNK_LIST_HEAD_BYTES on, are still zeros: of a very long file one
    copy is enough."""
    blob = bytearray(_HEADER.size + width * chunk_count(size, chunk_bytes))
    _HEADER.pack_into(blob, 0, _VERSION, width, chunk_bytes, size)
    return blob


def decode_chunk_list(blob: bytes) -> ChunkList:
    """Raises CodecError for anything that `encode_chunk_list` can not have made of a multi-chunk file."""
    if len(blob) < _HEADER.size or len(blob) > MAX_OBJECT_BYTES:
        raise CodecError(f"a chunk list has {_HEADER.size} to {MAX_OBJECT_BYTES} bytes, not {len(blob)}")
    version, width, chunk_bytes, size = _HEADER.unpack_from(blob)
    if version != _VERSION:
        raise CodecError(f"chunk list of version {version}; this program reads version {_VERSION}")
    if width not in (16, 32) or not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or size <= chunk_bytes:
        raise CodecError("chunk list with an impossible width, chunk length or size")
    if len(blob) - _HEADER.size != width * chunk_count(size, chunk_bytes):
        raise CodecError("chunk list whose length does not fit its size")
    return ChunkList(size, chunk_bytes, width, blob[_HEADER.size :])


def content_digest(algorithm: DigestAlgorithm, size: int, chunk_bytes: int, digests: bytes) -> bytes:
    """The content digest of a file whose chunk digests, joined, are `digests`."""
    if size <= chunk_bytes:
        assert len(digests) == algorithm.width
        return digests
    return algorithm.of(encode_chunk_list(ChunkList(size, chunk_bytes, algorithm.width, digests)))


def differing_chunks(ours: ChunkList | bytes | None, theirs: ChunkList | bytes | None) -> list[int]:
    """Indices of the chunks of `ours` that `theirs` does not have at the same place.

    A one-chunk file is given as its bare content digest, an absent one as None.
    """
    own = _digest_list(ours)
    other = _digest_list(theirs)
    return [index for index, digest in enumerate(own) if index >= len(other) or other[index] != digest]


def changed_bytes(before: bytes, now: bytes) -> int:
    """How many bytes lie in chunks that are others than the chunk at the same place before, by a file's chunk lists.

    Raises CodecError.
    """
    old, new = decode_chunk_list(before), decode_chunk_list(now)
    width, count = new.width, 0
    for at in range(0, len(new.digests), COMPARED_CHUNKS * width):
        mine = new.digests[at : at + COMPARED_CHUNKS * width]
        theirs = old.digests[at : at + COMPARED_CHUNKS * width]
        if mine != theirs:
            count += sum(mine[i : i + width] != theirs[i : i + width] for i in range(0, len(mine), width))
    return min(count * new.chunk_bytes, new.size)


@functools.lru_cache(maxsize=8)
def hole_digest(algorithm: DigestAlgorithm, chunk_bytes: int) -> bytes:
    """The digest of a chunk of zeros, as a hole in a sparse file reads."""
    return algorithm.of(bytes(chunk_bytes))


def filled_bytes(now: bytes, hole: bytes) -> int:
    """How many bytes of a file, by its chunk list, lie in chunks that are not all zeros (`hole_digest`).

    Raises CodecError.
    """
    chunks = decode_chunk_list(now)
    width, digests = chunks.width, chunks.digests
    if hole not in digests:
        return chunks.size
    holes = sum(digests[at : at + width] == hole for at in range(0, len(digests), width))
    return max(0, chunks.size - holes * chunks.chunk_bytes)


def _digest_list(content: ChunkList | bytes | None) -> list[bytes]:
    if content is None:
        return []
    return [content] if isinstance(content, bytes) else list(content)
