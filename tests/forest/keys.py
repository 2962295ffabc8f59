"""Keys chosen by the level of their hash, so that trees of some dozen entries have several levels.

Of random keys one in 64 ends a leaf and one in 4,096 an inner page: a small tree would be one page, and
the cases that are hard, runs over several parents, would never come up.
"""

from __future__ import annotations

import functools

import xxhash

from closeranks_proto.limits import PAGE_BITS


def level_of(key: bytes) -> int:
    """On how many levels the key ends a page: whole groups of 6 zero bits from the low end of its hash."""
    digest = xxhash.xxh3_64_intdigest(key)
    level = 0
    while level < 64 // PAGE_BITS and not digest >> PAGE_BITS * level & (1 << PAGE_BITS) - 1:
        level += 1
    return level


@functools.cache
def keys_of_level(level: int, count: int) -> tuple[bytes, ...]:
    """The first `count` keys of exactly this level, in a fixed order that is not the tree's."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        number += 1
        mixed = number * 2654435761 % 2**32
        key = b"d%x\0f%x" % (mixed >> 28, mixed)
        if level_of(key) == level:
            found.append(key)
    return tuple(found)


@functools.cache
def pool() -> tuple[bytes, ...]:
    """Sorted keys of which half end a leaf, and one in seven an inner page."""
    return tuple(
        sorted(keys_of_level(0, 60) + keys_of_level(1, 40) + keys_of_level(2, 16) + keys_of_level(3, 2))
    )
