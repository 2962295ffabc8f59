"""A strict reading of what a program asked to be durable, from the trace of its calls.

Real filesystems give more than POSIX promises: ext4 writes a file's data out before the rename that replaces
another, XFS and ext4 carry old renames along with any sync. A program that rests on that works until it
meets another filesystem. So beside cutting the power of real ones, the order of the calls is judged as such: a file
that is renamed to its final name must have been synced after it was last written.
"""

from __future__ import annotations

from collections.abc import Iterable

from faults.shim import Point

TORN = frozenset({"write", "pwrite", "writev", "pwritev"})  # half of it may have happened
WRITES = TORN | {"ftruncate", "fallocate"}
SYNCS = frozenset({"fsync", "fdatasync"})
RENAMES = frozenset({"rename", "exchange", "linkat"})
PRIVATE = "/.closeranks/"


def installed(points: Iterable[Point], tree: str) -> list[Point]:
    """The renames that brought something from the private directory into the tree."""
    return [point for point in points if point.call in RENAMES and _enters(point, tree)]


def unsynced(points: Iterable[Point], tree: str) -> list[Point]:
    """Those of them whose bytes nothing had made durable. A syncfs counts for all that was written before it."""
    dirty: set[str] = set()
    found = []
    for point in points:
        if point.call in WRITES:
            dirty.add(point.path)
        elif point.call in SYNCS:
            dirty.discard(point.path)
        elif point.call == "syncfs":
            dirty.clear()
        elif point.call in RENAMES:
            if point.source in dirty and _enters(point, tree):
                found.append(point)
            dirty.discard(point.source)
    return found


def _enters(point: Point, tree: str) -> bool:
    return PRIVATE in point.source and point.path.startswith(tree + "/") and PRIVATE not in point.path
