"""Trees that nobody has on disk: entries made from their number, in order, in bounded memory.

Every process that asks for the same number of entries and the same seed gets the same tree, and the same steps
from it, so that load processes agree without talking.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.messages import Edit
from closeranks_proto.tree import Tree

FILES_A_DIRECTORY = 100
DIRECTORIES_A_YEAR = 500
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))
Item = tuple[bytes, bytes]
Change = tuple[bytes, bytes | None]


def key_of(number: int) -> bytes:
    """The key of the file of that number; keys ascend with numbers."""
    album = number // FILES_A_DIRECTORY
    return b"photos\0%04d\0album-%06d\0img_%05d.jpg" % (
        1000 + album // DIRECTORIES_A_YEAR,
        album,
        number % FILES_A_DIRECTORY,
    )


def value_of(number: int, salt: bytes) -> bytes:
    digest = XXH3_128.of(b"%d/%s" % (number, salt))
    return encode_entry(Entry(Kind.FILE, 20_000 + digest[0] * 157, digest, 0o644))


def items(files: int, salt: bytes = b"") -> Iterator[Item]:
    """The entries of a photo archive of so many files, each hundred below a directory of its own."""
    for number in range(files):
        key = key_of(number)
        if not number % FILES_A_DIRECTORY:
            yield key.rpartition(b"\0")[0], DIRECTORY
        yield key, value_of(number, salt)


def scattered(rng: random.Random, files: int, count: int, salt: bytes) -> list[Change]:
    """So many changed files, anywhere."""
    return [(key_of(number), value_of(number, salt)) for number in sorted(rng.sample(range(files), count))]


def clustered(rng: random.Random, files: int, count: int, salt: bytes) -> list[Change]:
    """So many changed files, one behind the other."""
    first = rng.randrange(max(1, files - count))
    return [(key_of(number), value_of(number, salt)) for number in range(first, min(files, first + count))]


@dataclass(frozen=True, slots=True)
class Step:
    """One commit that all nodes in sync make."""

    base: bytes
    root: bytes
    edits: tuple[Edit, ...]


class Forest:
    """A tree of some agents, its steps, and every object that their coordinator may ask for."""

    def __init__(self, root: bytes, entries: int, objects: dict[bytes, bytes], files: int, seed: int) -> None:
        self.root = root
        self.entries = entries
        self.objects = objects
        self.files = files
        self.tree = Tree(XXH3_128, objects.__getitem__, cache_pages=4096)
        self._seed = seed
        self._steps: list[Step] = []

    @classmethod
    def generated(cls, files: int, seed: int) -> Forest:
        """The tree of so many files; equal in every process."""
        made = Tree(XXH3_128, {}.__getitem__).build(items(files))
        return cls(made.root, made.summary.entries, dict(made.pages), files, seed)

    def step(self, number: int, edits: int, spread: bool = False) -> Step:
        """The step of that number from the first tree on, of so many edits. Made once, in order."""
        while len(self._steps) <= number:
            salt = b"step %d" % len(self._steps)
            rng = random.Random(self._seed * 1_000_003 + len(self._steps))
            changes = (scattered if spread else clustered)(rng, self.files, edits, salt)
            base = self._steps[-1].root if self._steps else self.root
            root = self.edited(base, changes)
            self._steps.append(Step(base, root, tuple(Edit(key, value) for key, value in changes)))
        return self._steps[number]

    def edited(self, root: bytes, changes: list[Change]) -> bytes:
        """The root after these changes; its pages can be asked for from now on."""
        made = self.tree.edit(root, changes)
        self.objects.update(made.pages)
        return made.root
