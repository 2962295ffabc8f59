"""What the coordinator's disk holds, and what it only believes to hold.

Transactions are durable when they end, not when they begin: a crash before loses them as a whole, and what
nobody was told of is gone. Reads answer with what is durable and with what is queued, as the real store does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from closeranks_proto.digests import XXH3_128
from closeranks_proto.errors import MissingObject
from closeranks_proto.tree import Tree

NodeRoot = tuple[str, int, bytes | None]  # agent id, seq, root
YOUNG_S = 60.0  # objects written lately are never collected: whoever is about to name them must find them


@dataclass(slots=True, eq=False)
class Batch:
    """One transaction."""

    objects: Mapping[bytes, bytes] = field(default_factory=dict)
    records: Mapping[tuple[str, str], bytes | None] = field(default_factory=dict)
    roots: Mapping[tuple[str, str], NodeRoot] = field(default_factory=dict)


class Stored:
    """The coordinator's state directory."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.records: dict[tuple[str, str], bytes] = {}
        self.roots: dict[tuple[str, str], NodeRoot] = {}
        self.born: dict[bytes, float] = {}
        self.queued: list[Batch] = []
        self.touched: set[bytes] = set()  # `has` said yes to them: somebody may be about to name them
        self.touched_before: set[bytes] = set()
        self.epoch_began = 0.0
        self.tree = Tree(XXH3_128, self.object, cache_pages=64)
        self.objects.update(self.tree.empty.pages)

    def object(self, digest: bytes) -> bytes:
        found = self.objects.get(digest)
        if found is not None:
            return found
        for batch in self.queued:
            if digest in batch.objects:
                return batch.objects[digest]
        raise MissingObject(digest)

    def has(self, digest: bytes) -> bool:
        """What is stored is stored with everything beneath it: pages come after what they name."""
        if digest not in self.objects:
            return False
        self.touched.add(digest)
        return True

    def durable(self, batch: Batch, now: float) -> None:
        """The transaction has ended."""
        if batch in self.queued:
            self.queued.remove(batch)
        self.objects.update(batch.objects)
        self.born.update(dict.fromkeys(batch.objects, now))
        for name, blob in batch.records.items():
            if blob is None:
                self.records.pop(name, None)
            else:
                self.records[name] = blob
        self.roots.update(batch.roots)

    def crash(self) -> None:
        """What was under way never was."""
        self.queued.clear()

    def rows(self) -> list[tuple[str, str, bytes]]:
        return [(kind, key, blob) for (kind, key), blob in sorted(self.records.items())]

    def collect(self, live: Iterable[bytes], now: float) -> int:
        """Drop what no live root reaches, and nobody asked for lately; how many objects."""
        kept = set(self.tree.empty.pages)
        roots = {root for root in (*live, *(root for _, _, root in self.roots.values())) if root is not None}
        for root in sorted(roots | self.touched | self.touched_before):
            if root in self.objects:
                kept.update(digest for digest, _ in self.tree.pages(root, kept.__contains__))
        dead = [
            one for one in self.objects if one not in kept and now - self.born.get(one, -YOUNG_S) >= YOUNG_S
        ]
        for digest in dead:
            del self.objects[digest]
        if now >= self.epoch_began + YOUNG_S:
            self.touched_before, self.touched, self.epoch_began = self.touched, set(), now
        return len(dead)
