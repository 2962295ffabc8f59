"""Digest algorithms, by name. The fleet's choice travels in the handshake.

`xxh3-128` finds accidents at memory speed and is no evidence against tampering: whoever wants to can
forge it. `blake3` is. Whatever says "verified" says with which of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import blake3
import xxhash

from .errors import CodecError


class Hasher(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> object: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class DigestAlgorithm:
    """One algorithm: `of(data)` hashes at once, `new()` starts an incremental hasher.

    `tamper_evident` says whether an equal digest proves equal bytes against an adversary.
    """

    name: str
    width: int  # bytes
    tamper_evident: bool
    of: Callable[[bytes | bytearray | memoryview], bytes]
    new: Callable[[], Hasher]


def _blake3_of(data: bytes | bytearray | memoryview) -> bytes:
    return blake3.blake3(data).digest()


XXH3_128 = DigestAlgorithm("xxh3-128", 16, False, xxhash.xxh3_128_digest, xxhash.xxh3_128)
BLAKE3 = DigestAlgorithm("blake3", 32, True, _blake3_of, blake3.blake3)
ALGORITHMS = {algorithm.name: algorithm for algorithm in (XXH3_128, BLAKE3)}


def algorithm_named(name: str) -> DigestAlgorithm:
    """The algorithm of that name; CodecError names the known ones otherwise."""
    if name not in ALGORITHMS:
        raise CodecError(f"unknown digest {name!r}; known are {', '.join(sorted(ALGORITHMS))}")
    return ALGORITHMS[name]
