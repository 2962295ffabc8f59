"""Files with several names: which names are known to be one file.

A write through one name changes what stands under the others, and no event tells of those. As long as every
name of a file is known here, a look at one is a look at all; otherwise only a scan finds them. A name that leaves
its file may have been written through first, so the names that are left are looked at as well. Known names are
those that scans and looks came across; the map is bounded, and begins anew when it is full.
"""

from __future__ import annotations

import os
from typing import Final

NAMES_MAX: Final = 65536  # about 200 bytes each


class Links:
    """On the volume's thread."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], set[bytes]] = {}
        self._count = 0

    def note(self, key: bytes, status: os.stat_result) -> None:
        """`key` is one of several names of a file."""
        names = self._names.setdefault((status.st_dev, status.st_ino), set())
        if key in names:
            return
        if self._count >= NAMES_MAX:
            self._names.clear()
            self._count = 0
            names = self._names.setdefault((status.st_dev, status.st_ino), set())
        names.add(key)
        self._count += 1

    def forget(self, key: bytes, device: int, inode: int) -> list[bytes]:
        """`key` is another file now, or none. The names that its file has left."""
        names = self._names.get((device, inode))
        if names is None or key not in names:
            return []
        names.discard(key)
        self._count -= 1
        if not names:
            del self._names[device, inode]
        return sorted(names)

    def few(self, count: int) -> set[bytes]:
        """All names, if there are no more than so many."""
        return set() if self._count > count else set().union(*self._names.values())

    def others(self, key: bytes, status: os.stat_result) -> tuple[list[bytes], bool]:
        """The other names that are known, and whether those are all."""
        names = self._names.get((status.st_dev, status.st_ino), set())
        return sorted(names - {key}), len(names | {key}) >= status.st_nlink

    def first(self, count: int) -> list[bytes]:
        """Some names, for people."""
        found: list[bytes] = []
        for names in self._names.values():
            found += sorted(names)[: count - len(found)]
            if len(found) >= count:
                break
        return found
