"""The pages of the volume's tree, in memory: about 75 bytes an entry, rebuilt from the index at start.

Edits leave pages behind. When they outweigh what is alive, everything that no root needs is dropped: alive
are the present root, announced roots that the coordinator may be fetching, and roots that somebody pinned.
Objects of a tree that this node is to become are *staged*: they stay until they are dropped as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from closeranks_proto.errors import MissingObject
from closeranks_proto.tree import Tree

SWEEP_SLACK_BYTES = 1024 * 1024


class Objects:
    """Thread-safe. `source` is what the tree reads from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own: dict[bytes, bytes] = {}
        self._own_bytes = 0
        self._live_bytes = 0
        self._staged: dict[bytes, bytes] = {}
        self._pins: dict[bytes, int] = {}

    def source(self, digest: bytes) -> bytes:
        found = self.get(digest)
        if found is None:
            raise MissingObject(digest)
        return found

    def get(self, digest: bytes) -> bytes | None:
        with self._lock:
            found = self._own.get(digest)
            return self._staged.get(digest) if found is None else found

    def add(self, pages: Mapping[bytes, bytes]) -> None:
        with self._lock:
            for digest, page in pages.items():
                if digest not in self._own:
                    self._own[digest] = page
                    self._own_bytes += len(page)

    def stage(self, objects: Mapping[bytes, bytes]) -> None:
        with self._lock:
            self._staged.update(objects)

    def drop_staged(self) -> None:
        with self._lock:
            self._staged.clear()

    def pin(self, root: bytes) -> None:
        """Keep everything below `root`, which must be at hand, until it is unpinned as often."""
        with self._lock:
            self._pins[root] = self._pins.get(root, 0) + 1

    def unpin(self, root: bytes) -> None:
        with self._lock:
            count = self._pins.pop(root, 0)
            if count > 1:
                self._pins[root] = count - 1

    @property
    def pinned(self) -> bool:
        return bool(self._pins)

    def clear(self) -> None:
        with self._lock:
            self._own.clear()
            self._own_bytes = self._live_bytes = 0

    def sweep(self, tree: Tree, roots: Iterable[bytes], force: bool = False) -> None:
        """Drop the pages that neither `roots` nor pins need, when there are enough of them."""
        if not force and self._own_bytes <= 2 * self._live_bytes + SWEEP_SLACK_BYTES:
            return
        with self._lock:
            wanted = [*roots, *self._pins]
        live: dict[bytes, bytes] = {}
        for root in wanted:
            if self.get(root) is not None:
                live.update(tree.pages(root, live.__contains__))
        with self._lock:
            self._own = {digest: page for digest, page in self._own.items() if digest in live}
            self._own_bytes = self._live_bytes = sum(map(len, self._own.values()))
