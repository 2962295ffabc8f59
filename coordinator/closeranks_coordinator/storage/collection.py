"""Which stored objects nothing reaches any more: mark from the live roots, then name the rest.

Runs on a thread of its own with its own reading connection, in small bites, while writes go on. Nothing
is deleted here: the store does that, in small transactions, for what `doomed` names.

What may not be swept although no live root reaches it:

- *young* objects: written or written again in this epoch or the one before. An epoch lasts at least
  PROTECT_S, so a tree that is still being transferred keeps what has come of it;
- *touched* objects: `has` said yes to them in these epochs, and somebody may store a parent of them next.
  They are remembered in a filter of fixed size; a false hit keeps some garbage for another round.

Both are roots like any other: what they reach stays too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apsw

from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import large_files
from closeranks_proto.errors import CloseranksError, CodecError, MissingObject
from closeranks_proto.limits import MIN_CHUNK_BYTES
from closeranks_proto.pages import decode_page

from .schema import SELECT_BODY, connect

log = logging.getLogger("closeranks.store")

KEYS_AT_ONCE = 4096
# The interpreter lock is the event loop's first: after so many pages the marking thread steps aside.
PAGES_AT_ONCE = 64
STEP_ASIDE_S = 0.001


class TouchedFilter:
    """A set of digests that may say yes to some it was never given. Digests are evenly spread bits already.

    1 MiB with two bits a digest: 100,000 digests give one false yes in 1,800, a million one in 20.
    """

    BITS = 23

    def __init__(self) -> None:
        self._bits = bytearray(1 << self.BITS - 3)

    def add(self, digest: bytes) -> None:
        for at in self._places(digest):
            self._bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, digest: bytes) -> bool:
        return all(self._bits[at >> 3] >> (at & 7) & 1 for at in self._places(digest))

    def _places(self, digest: bytes) -> tuple[int, int]:
        mask = (1 << self.BITS) - 1
        return int.from_bytes(digest[:4], "big") & mask, int.from_bytes(digest[4:8], "big") & mask


class GivenUp(CloseranksError):
    """A collection that can not be sure; nothing is removed."""


class Marking:
    """One collection's view of what is reachable. All methods block; use one thread at a time.

    `young_from` is the first epoch that counts as young, `touched` says which digests were relied on.
    """

    def __init__(self, path: Path, width: int, young_from: int, touched: Callable[[bytes], bool]) -> None:
        self.marked: set[bytes] = set()
        self.stopped = False  # set from outside: give up soon
        self._width = width
        self._young_from = young_from
        self._touched = touched
        self._connection = connect(path, read_only=True)
        self._seen = 0

    def close(self) -> None:
        self._connection.close()

    def past_roots(self) -> list[bytes]:
        """The nodes' present roots and those of their past."""
        found = self._connection.execute("SELECT root FROM node_roots UNION SELECT root FROM root_history")
        return [root for (root,) in found]

    def mark(self, roots: Iterable[bytes]) -> None:
        """Everything that is stored below these objects, themselves included. Absent roots count for nothing.

        Raises GivenUp where a tree has a hole: what lies behind it can not be told from garbage.
        """
        for root in roots:
            if root in self.marked:
                continue
            try:
                body = self._read(root)
            except MissingObject:
                continue
            self.marked.add(root)
            waiting = [self._below(root, body)]
            while waiting:
                child = next(waiting[-1], None)
                if child is None:
                    waiting.pop()
                elif child not in self.marked:
                    try:
                        body = self._read(child)
                    except MissingObject as error:
                        raise GivenUp(f"the tree {root.hex()} has a hole: {error}") from error
                    self.marked.add(child)
                    waiting.append(self._below(child, body))

    def doomed(self) -> list[bytes]:
        """Stored, not marked, not young, not touched; what is young or touched is marked on the way."""
        found: list[bytes] = []
        kept: list[bytes] = []
        for digest, epoch in self._keys():
            if digest not in self.marked:
                (kept if epoch >= self._young_from or self._touched(digest) else found).append(digest)
        self.mark(kept)
        return [digest for digest in found if digest not in self.marked]

    def _below(self, digest: bytes, body: bytes) -> Iterator[bytes]:
        """The objects that this one refers to; for a leaf page, those chunk lists that are stored."""
        try:
            page = decode_page(body)
        except CodecError as error:
            try:
                decode_chunk_list(body)
            except CodecError:
                raise GivenUp(f"object {digest.hex()} is neither a page nor a chunk list: {error}") from error
            return iter(())
        if page.level:
            return iter([ref.digest for ref in page.refs])
        self._mark_chunk_lists(page.values)
        return iter(())

    def _mark_chunk_lists(self, values: Iterable[bytes]) -> None:
        """A file above one chunk has a list. Chunk lengths differ between volumes, so the store is asked."""
        for digest, _ in large_files(values, MIN_CHUNK_BYTES, self._width):
            if digest not in self.marked and self._stored(digest):
                self.marked.add(digest)

    def _stored(self, digest: bytes) -> bool:
        return self._connection.execute("SELECT 1 FROM objects WHERE digest = ?", (digest,)).get is not None

    def _read(self, digest: bytes) -> bytes:
        if self.stopped:
            raise GivenUp("the store is being closed")
        self._seen += 1
        if self._seen % PAGES_AT_ONCE == 0:
            time.sleep(STEP_ASIDE_S)
        body: bytes | None = self._connection.execute(SELECT_BODY, (digest,)).get
        if body is None:
            raise MissingObject(digest)
        return body

    def _keys(self) -> Iterator[tuple[bytes, int]]:
        """Every stored digest with its epoch, in bites: a long read would keep the WAL from shrinking."""
        last = b""
        while True:
            found: list[tuple[bytes, int]] = list(
                self._connection.execute(
                    "SELECT digest, epoch FROM objects WHERE digest > ? ORDER BY digest LIMIT ?",
                    (last, KEYS_AT_ONCE),
                )
            )
            yield from found
            if len(found) < KEYS_AT_ONCE:
                return
            last = found[-1][0]
            time.sleep(STEP_ASIDE_S)


def sweep(connection: apsw.Connection, digests: Iterable[bytes], young_from: int) -> tuple[int, int]:
    """Delete those that are still old: (objects, bytes) removed. Runs inside a transaction."""
    objects = removed = 0
    for digest in digests:
        key = (digest,)
        found = connection.execute("SELECT body, bytes, epoch FROM objects WHERE digest = ?", key).fetchone()
        if found is None or found[2] >= young_from:
            continue
        connection.execute("DELETE FROM bodies WHERE id = ?", (found[0],))
        connection.execute("DELETE FROM objects WHERE digest = ?", (digest,))
        objects += 1
        removed += found[1]
    return objects, removed


def prune_history(connection: apsw.Connection, before_ms: int | None, at_most: int, keep: int) -> int:
    """Drop roots of the past, but not the one that stood at `before_ms`, and all but `keep` of each volume.

    How many went: at most `at_most`, and fewer only when no more are to go.
    """
    gone = 0
    if before_ms is not None:
        connection.execute(
            "DELETE FROM root_history WHERE id IN ("
            " SELECT old.id FROM root_history AS old WHERE old.wall_ms < ?1 AND EXISTS ("
            "  SELECT 1 FROM root_history AS next WHERE next.node = old.node AND next.volume = old.volume"
            "  AND next.id > old.id AND next.wall_ms <= ?1) LIMIT ?2)",
            (before_ms, at_most),
        )
        gone = connection.changes()
    for name in list(connection.execute("SELECT DISTINCT node, volume FROM root_history")):
        if gone < at_most:
            connection.execute(
                "DELETE FROM root_history WHERE id IN ("
                " SELECT id FROM root_history WHERE node = ?1 AND volume = ?2 AND id <= ("
                "  SELECT id FROM root_history WHERE node = ?1 AND volume = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)"
                " LIMIT ?4)",
                (*name, keep, at_most - gone),
            )
            gone += connection.changes()
    return gone
