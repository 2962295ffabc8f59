"""The chunk service's bytes, for both ends: one request for many chunks, one stream of records back.

A request names at most CHUNK_REQUEST_MAX_CHUNKS chunks by (key, index, expected digest). The answer is a
sequence of records: status, position in the request, length, payload. The last record is END: a stream
without it was cut off. Small files travel like chunks, hundreds to a request: one request a file would
lose to rsync by far.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import msgpack

from closeranks_proto.errors import CodecError
from closeranks_proto.limits import CHUNK_REQUEST_MAX_CHUNKS, MAX_PATH_BYTES
from closeranks_proto.paths import check_key
from closeranks_proto.wire import unpack_bounded

PATH = "/v1/chunks"
NODE_HEADER = "X-Closeranks-Node"
TERM_HEADER = "X-Closeranks-Term"
VERSION = 1
CONTENT_TYPE = "application/x-closeranks-chunks"
# Each chunk is a key, an index, a digest and their msgpack heads; then the volume's name and change.
REQUEST_MAX_BYTES = CHUNK_REQUEST_MAX_CHUNKS * (MAX_PATH_BYTES + 64) + 1024

HEADER = struct.Struct(">BHI")  # status, position in the request, payload length


class Status(IntEnum):
    CHUNK = 0  # the bytes, which had the expected digest when they were sent
    MISSING = 1  # not here, not readable, or with other bytes than expected
    END = 2


@dataclass(frozen=True, slots=True)
class ChunkName:
    """One chunk: of which path, which number, and the digest that its bytes must have."""

    key: bytes
    index: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    volume: str
    digest: str  # the algorithm's name
    chunk_bytes: int
    chunks: tuple[ChunkName, ...]


def encode_request(request: ChunkRequest) -> bytes:
    assert 0 < len(request.chunks) <= CHUNK_REQUEST_MAX_CHUNKS
    chunks = [(one.key, one.index, one.digest) for one in request.chunks]
    packed: bytes = msgpack.packb(
        (VERSION, request.volume, request.digest, request.chunk_bytes, chunks), use_bin_type=True
    )
    return packed


def decode_request(body: bytes) -> ChunkRequest:
    """Raises CodecError or PathError (both ProtocolError) for anything that `encode_request` does not make."""
    match unpack_bounded(body, REQUEST_MAX_BYTES, CHUNK_REQUEST_MAX_CHUNKS):
        case (int(version), str(volume), str(digest), int(chunk_bytes), tuple(chunks)):
            if version != VERSION:
                raise CodecError(f"chunk request of version {version}; this program reads version {VERSION}")
            return ChunkRequest(volume, digest, chunk_bytes, _names(chunks))
        case _:
            raise CodecError("a chunk request of the wrong shape")


def _names(chunks: Sequence[object]) -> tuple[ChunkName, ...]:
    names: list[ChunkName] = []
    for one in chunks:
        match one:
            case (bytes(key), int(index), bytes(digest)) if 0 <= index < 1 << 32:
                names.append(ChunkName(check_key(key), index, digest))
            case _:
                raise CodecError("a chunk request of the wrong shape")
    if not names:
        raise CodecError("a chunk request without chunks")
    return tuple(names)
