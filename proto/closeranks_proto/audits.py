"""What proves that a node holds a chunk: a digest that nobody can know who has not read its bytes just now.

The seed comes first, and nobody knows it before the question. What was remembered of the chunk, its own digest or a
state of the algorithm behind it, is of no use: all bytes have to be gone through again. Rejected: the seed behind the
bytes, for there one remembered state a chunk answers every question; the algorithms' own seeds, which xxh3-128 and
blake3 do not have alike.
"""

from __future__ import annotations

from .digests import DigestAlgorithm

SEED_BYTES = 16


def seeded_digest(algorithm: DigestAlgorithm, seed: bytes, chunk: bytes) -> bytes:
    """The proof for these bytes."""
    return algorithm.of(seed + chunk)
