"""A store of objects in memory that counts its reads, and entries to fill trees with."""

from __future__ import annotations

import random
from collections.abc import Mapping

from closeranks_proto.content import ChunkList, chunk_count, encode_chunk_list
from closeranks_proto.digests import XXH3_128, DigestAlgorithm
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.errors import MissingObject
from closeranks_proto.tree import Edited, Tree

CHUNK = 4096


class Forest:
    """Objects by digest, and a `tree` that reads them. `reads` lists what was read."""

    def __init__(self, algorithm: DigestAlgorithm = XXH3_128, cache_pages: int = 512) -> None:
        self.algorithm = algorithm
        self.objects: dict[bytes, bytes] = {}
        self.reads: list[bytes] = []
        self.tree = Tree(algorithm, self.source, cache_pages)
        self.keep(self.tree.empty)

    def source(self, digest: bytes) -> bytes:
        self.reads.append(digest)
        if digest not in self.objects:
            raise MissingObject(digest)
        return self.objects[digest]

    def keep(self, edited: Edited) -> bytes:
        self.objects.update(edited.pages)
        return edited.root

    def plant(self, items: Mapping[bytes, bytes]) -> bytes:
        """The root of the tree of these items, its pages stored."""
        return self.keep(self.tree.build(sorted(items.items())))

    def edit(self, root: bytes, edits: Mapping[bytes, bytes | None]) -> bytes:
        return self.keep(self.tree.edit(root, sorted(edits.items())))

    def below(self, root: bytes) -> set[bytes]:
        """The digests of all pages of a tree."""
        return {digest for digest, _ in self.tree.pages(root, lambda _: False)}


def file_value(rng: random.Random, size: int = 100, width: int = 16) -> bytes:
    return encode_entry(Entry(Kind.FILE, size, rng.randbytes(width), 0o644))


def small_value(number: int, width: int = 16) -> bytes:
    """One of a few distinct values of all kinds."""
    match number % 4:
        case 0:
            return encode_entry(Entry(Kind.DIRECTORY, mode=0o755))
        case 1:
            target = b"target-%d" % number
            return encode_entry(Entry(Kind.SYMLINK, len(target), target=target))
        case _:
            return encode_entry(Entry(Kind.FILE, number, number.to_bytes(width, "big"), 0o644))


def large_file(algorithm: DigestAlgorithm, rng: random.Random, size: int) -> tuple[bytes, bytes, bytes]:
    """(value, content digest, chunk list) of a file of several chunks of CHUNK bytes."""
    digests = rng.randbytes(algorithm.width * chunk_count(size, CHUNK))
    blob = encode_chunk_list(ChunkList(size, CHUNK, algorithm.width, digests))
    digest = algorithm.of(blob)
    return encode_entry(Entry(Kind.FILE, size, digest, 0o644)), digest, blob
