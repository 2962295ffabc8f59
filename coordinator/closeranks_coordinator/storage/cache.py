"""Objects that were read or written lately, within a bound of bytes: the oldest make room."""

from __future__ import annotations

from collections import OrderedDict

CACHE_BYTES = 32 * 1024 * 1024
# What the cache takes for an object besides its bytes: their header (33), the key (49), its places (140).
CACHED_BYTES = 222


class Cache:
    """Not thread-safe: its owner locks, except around `in`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._bodies

    def get(self, digest: bytes) -> bytes | None:
        body = self._bodies.get(digest)
        if body is not None:
            self._bodies.move_to_end(digest)
        return body

    def put(self, digest: bytes, body: bytes) -> None:
        if len(body) > self.max_bytes // 8:
            return  # one terabyte file's chunk list must not push out a whole tree
        old = self._bodies.pop(digest, None)
        self._bodies[digest] = body
        self.bytes += _cost(body) - _cost(old)
        while self.bytes > self.max_bytes:
            self.bytes -= _cost(self._bodies.popitem(last=False)[1])

    def drop(self, digest: bytes) -> None:
        self.bytes -= _cost(self._bodies.pop(digest, None))


def _cost(body: bytes | None) -> int:
    """What an object takes of the cache's bound."""
    return 0 if body is None else len(body) + CACHED_BYTES
