"""Chunks, chunk lists and content digests."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_proto.content import (
    CHUNK_LIST_HEAD_BYTES,
    ChunkList,
    begun_chunk_list,
    changed_bytes,
    chunk_count,
    chunk_span,
    content_digest,
    decode_chunk_list,
    differing_chunks,
    encode_chunk_list,
    filled_bytes,
    hole_digest,
    max_file_bytes,
)
from closeranks_proto.digests import ALGORITHMS, BLAKE3, XXH3_128, DigestAlgorithm, algorithm_named
from closeranks_proto.errors import CodecError
from closeranks_proto.limits import MAX_CHUNK_BYTES, MAX_OBJECT_BYTES, MIN_CHUNK_BYTES

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
algorithms = st.sampled_from([XXH3_128, BLAKE3])


def chunk_list(algorithm: DigestAlgorithm, size: int, chunk_bytes: int = MIN_CHUNK_BYTES) -> ChunkList:
    digests = random.Random(size).randbytes(algorithm.width * chunk_count(size, chunk_bytes))
    return ChunkList(size, chunk_bytes, algorithm.width, digests)


lists = st.builds(chunk_list, algorithms, st.integers(MIN_CHUNK_BYTES + 1, 40 * MIN_CHUNK_BYTES))


@FIXED
@given(lists)
def test_a_list_that_is_filled_in_is_the_one_that_is_encoded(chunks: ChunkList) -> None:
    begun = begun_chunk_list(chunks.size, chunks.chunk_bytes, chunks.width)
    for index in reversed(range(chunks.count)):
        at = CHUNK_LIST_HEAD_BYTES + index * chunks.width
        begun[at : at + chunks.width] = chunks[index]
    assert begun == encode_chunk_list(chunks)


def refused(blob: bytes) -> None:
    with pytest.raises(CodecError):
        decode_chunk_list(blob)


@FIXED
@given(st.integers(0, 2**50), st.integers(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES))
def test_chunks_cover_a_file_without_gap_or_overlap(size: int, chunk_bytes: int) -> None:
    count = chunk_count(size, chunk_bytes)
    assert count >= 1
    assert chunk_span(size, chunk_bytes, 0)[0] == 0
    offset, length = chunk_span(size, chunk_bytes, count - 1)
    assert offset + length == size
    assert 0 < length <= chunk_bytes or size == 0


@FIXED
@given(lists)
def test_chunk_lists_come_back(chunks: ChunkList) -> None:
    found = decode_chunk_list(encode_chunk_list(chunks))
    assert found == chunks
    assert b"".join(found) == chunks.digests
    assert [found[index] for index in range(found.count)] == list(found)
    with pytest.raises(IndexError):
        found[found.count]


@FIXED
@given(lists, st.integers(0, 2**32))
def test_cut_longer_and_mutated_chunk_lists_are_refused_or_canonical(chunks: ChunkList, seed: int) -> None:
    blob = encode_chunk_list(chunks)
    for length in {*range(20), len(blob) - 1}:
        refused(blob[:length])
    refused(blob + b"\0")
    refused(blob + bytes(chunks.width))
    rng = random.Random(seed)
    for _ in range(20):
        mutated = bytearray(blob)
        mutated[rng.randrange(14)] = rng.randrange(256)
        try:
            found = decode_chunk_list(bytes(mutated))
        except CodecError:
            continue
        assert encode_chunk_list(found) == bytes(mutated)


def test_impossible_chunk_lists_are_refused() -> None:
    good = encode_chunk_list(chunk_list(XXH3_128, 9000))
    refused(b"\x02" + good[1:])
    refused(good[:1] + b"\x11" + good[2:])
    one_chunk = ChunkList(MIN_CHUNK_BYTES, MIN_CHUNK_BYTES, 16, bytes(16))
    refused(encode_chunk_list(one_chunk))
    for chunk_bytes in (0, MIN_CHUNK_BYTES - 1, MAX_CHUNK_BYTES + 1):
        refused(encode_chunk_list(ChunkList(2**30, chunk_bytes, 16, bytes(16 * 64))))
    refused(bytes(MAX_OBJECT_BYTES + 1))


def test_the_content_digest_of_one_chunk_is_the_chunk_s() -> None:
    for algorithm in ALGORITHMS.values():
        one = algorithm.of(b"content")
        assert content_digest(algorithm, 7, MIN_CHUNK_BYTES, one) == one
        chunks = chunk_list(algorithm, 9000)
        whole = content_digest(algorithm, 9000, MIN_CHUNK_BYTES, chunks.digests)
        assert whole == algorithm.of(encode_chunk_list(chunks))


def test_the_longest_file_has_a_chunk_list_that_fits() -> None:
    size = max_file_bytes(XXH3_128, MIN_CHUNK_BYTES)
    longest = encode_chunk_list(
        ChunkList(size, MIN_CHUNK_BYTES, 16, bytes(16 * chunk_count(size, MIN_CHUNK_BYTES)))
    )
    assert len(longest) <= MAX_OBJECT_BYTES < len(longest) + 16
    assert decode_chunk_list(longest).size == size


def test_differing_chunks() -> None:
    ours = chunk_list(XXH3_128, 5 * MIN_CHUNK_BYTES)
    changed = bytearray(ours.digests)
    changed[33] ^= 1
    theirs = ChunkList(ours.size, ours.chunk_bytes, 16, bytes(changed))
    shorter = ChunkList(3 * MIN_CHUNK_BYTES, ours.chunk_bytes, 16, ours.digests[:48])
    assert differing_chunks(ours, ours) == []
    assert differing_chunks(ours, theirs) == [2]
    assert differing_chunks(ours, shorter) == [3, 4]
    assert differing_chunks(shorter, ours) == []
    assert differing_chunks(ours, None) == [0, 1, 2, 3, 4]
    assert differing_chunks(None, ours) == []
    assert differing_chunks(ours, ours[0]) == [1, 2, 3, 4]
    assert differing_chunks(b"a", b"b") == [0]


def test_changed_bytes_are_those_of_the_chunks_that_differ() -> None:
    """Also in the last, short chunk, and beyond the end of what was there before."""
    short, size = MIN_CHUNK_BYTES, 3000 * MIN_CHUNK_BYTES + 5
    before = chunk_list(XXH3_128, size)
    digests = bytearray(before.digests)
    for index in (0, 1500, 2999):
        digests[index * 16] ^= 1
    now = ChunkList(size, short, 16, bytes(digests))
    assert changed_bytes(encode_chunk_list(before), encode_chunk_list(before)) == 0
    assert changed_bytes(encode_chunk_list(before), encode_chunk_list(now)) == 3 * short
    shorter = ChunkList(2998 * short, short, 16, before.digests[: 2998 * 16])
    assert changed_bytes(encode_chunk_list(shorter), encode_chunk_list(before)) == 3 * short
    assert changed_bytes(encode_chunk_list(before), encode_chunk_list(shorter)) == 0
    small = ChunkList(short + 1, short, 16, bytes(32))
    other = ChunkList(short + 1, short, 16, bytes(range(32)))
    assert changed_bytes(encode_chunk_list(small), encode_chunk_list(other)) == short + 1, (
        "never more than it holds"
    )


def test_incremental_digests_are_the_digest_of_the_whole() -> None:
    for algorithm in ALGORITHMS.values():
        hasher = algorithm.new()
        for part in (b"", b"a", b"bc" * 10_000):
            hasher.update(part)
        assert hasher.digest() == algorithm.of(b"a" + b"bc" * 10_000)
        assert len(hasher.digest()) == algorithm.width
        assert algorithm_named(algorithm.name) is algorithm
    with pytest.raises(CodecError, match="known are"):
        algorithm_named("md5")


@pytest.mark.parametrize("algorithm", [XXH3_128, BLAKE3])
def test_filled_bytes_are_those_outside_of_holes(algorithm: DigestAlgorithm) -> None:
    short = MIN_CHUNK_BYTES
    hole, other = hole_digest(algorithm, short), algorithm.of(b"something")
    assert hole == algorithm.of(bytes(short))
    for digests, filled in (
        ([other, other, other], 2 * short + 5),
        ([hole, other, other], short + 5),
        ([hole, hole, other], 5),
        ([other, hole, hole], 5),
    ):
        blob = encode_chunk_list(ChunkList(2 * short + 5, short, algorithm.width, b"".join(digests)))
        assert filled_bytes(blob, hole) == filled, digests


def test_a_digest_across_two_others_is_no_hole() -> None:
    short, hole = MIN_CHUNK_BYTES, hole_digest(XXH3_128, MIN_CHUNK_BYTES)
    blob = encode_chunk_list(ChunkList(2 * short, short, 16, b"x" * 8 + hole + b"y" * 8))
    assert filled_bytes(blob, hole) == 2 * short
