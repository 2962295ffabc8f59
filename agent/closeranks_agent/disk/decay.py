"""Files whose bytes nobody wrote: a scrub found other ones than were there, under an unchanged stat.

The commit of a scrub says so by its cause. But where everything is told anew, by one announcement in place of the
journal, a tree is told and not how it came about, and a writer's rot would be taken for what it has written. So what
has decayed is remembered beside the rows, with the entry that was there before, until the path has another entry.

Bounded by DECAYED_MAX and DECAYED_MAX_BYTES; the newest stay. A disk on which more decays before one of it is repaired
is told by the scrub's own report. Rejected: the commits of scrubs that have not been acknowledged (what was
acknowledged and not repaired yet is lost with a coordinator's state), a cause for each announcement (it may have
what was written as well).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from closeranks_proto.limits import DECAYED_MAX, DECAYED_MAX_BYTES
from closeranks_proto.messages import Decayed

from .index import Index

_META: Final = "decayed"

ValueOf = Callable[[bytes], "bytes | None"]


class Decay:
    """`note`, `follow` and `follow_all` belong inside a transaction; `reload` after one that failed."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.reload()

    def reload(self) -> None:
        stored = self._index.meta(_META)
        rows = stored if isinstance(stored, list) else []
        # key to (what it was before, what it is now), the newest last
        self._known = {bytes.fromhex(key): (bytes.fromhex(old), bytes.fromhex(new)) for key, old, new in rows}

    def note(self, found: Mapping[bytes, tuple[bytes, bytes]], value_of: ValueOf) -> None:
        """These have decayed: key to (entry before, entry now). `value_of` gives a path's present entry."""
        kept = self._standing(value_of)
        for key, (before, now) in found.items():
            first = kept.pop(key, None)
            kept[key] = (before if first is None or first[1] != before else first[0], now)
        while len(kept) > DECAYED_MAX or _size(kept) > DECAYED_MAX_BYTES:
            del kept[next(iter(kept))]
        self._keep(kept)

    def follow(self, keys: Iterable[bytes], value_of: ValueOf) -> None:
        """These may have another entry now: then it is forgotten, and who comes to the same again wrote it."""
        gone = {key for key in keys if key in self._known and value_of(key) != self._known[key][1]}
        if gone:
            self._keep({key: values for key, values in self._known.items() if key not in gone})

    def follow_all(self, value_of: ValueOf) -> None:
        """The same where any path may."""
        self.follow(tuple(self._known), value_of)

    def among(self, value_of: ValueOf) -> tuple[Decayed, ...]:
        """Those of a tree that still are as they were found, by key."""
        return tuple(Decayed(key, before) for key, (before, _) in sorted(self._standing(value_of).items()))

    def _keep(self, known: dict[bytes, tuple[bytes, bytes]]) -> None:
        self._known = known
        self._index.set_meta(_META, [[key.hex(), old.hex(), new.hex()] for key, (old, new) in known.items()])

    def _standing(self, value_of: ValueOf) -> dict[bytes, tuple[bytes, bytes]]:
        return {key: values for key, values in self._known.items() if value_of(key) == values[1]}


def _size(known: Mapping[bytes, tuple[bytes, bytes]]) -> int:
    return sum(len(key) + len(old) + len(new) for key, (old, new) in known.items())
