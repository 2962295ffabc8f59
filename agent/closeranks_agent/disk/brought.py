"""What converges and pushes have brought since the coordinator has heard of this volume last.

A commit says by its cause that it is no doing of this node's. An announcement in its place states a tree, and not how
it came about: what a push had brought just before would be taken for what a writer has written, where the coordinator
no longer remembers that it sent it, and the path was twice the same. So an announcement names these paths.

They are found in the journal itself, in the moment in which it gives way: what was acknowledged was told as what it
is. Bounded by BROUGHT_MAX and BROUGHT_MAX_BYTES; the newest stay. More than one push's worth is only under way in a
converge, whose node is on its way to the truth anyhow. Rejected: a table of its own (one more write for each pushed
file), and the cause of the announcement (it may have what was written as well).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from closeranks_proto.limits import BROUGHT_MAX, BROUGHT_MAX_BYTES
from closeranks_proto.messages import Edit

from .index import Index

_META: Final = "announced_brought"  # of the newest announcement: there is never more than one
CAUSES: Final = frozenset({"converge", "push"})

ValueOf = Callable[[bytes], "bytes | None"]


class Brought:
    """One gathering, from the oldest step on. `note` belongs inside a transaction."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes | None] = {}  # key to what it was left as, the newest last

    def __bool__(self) -> bool:
        return bool(self._known)

    def announced(self, index: Index) -> None:
        """The oldest step was an announcement, which nobody has heard of: what it names goes on."""
        stored = index.meta(_META)
        for key, value in stored if isinstance(stored, list) else []:
            self._known[bytes.fromhex(key)] = None if value is None else bytes.fromhex(value)

    def follow(self, cause: str, edits: Iterable[Edit]) -> None:
        """A commit came after it: what others than we have changed since is theirs."""
        for edit in edits:
            self._known.pop(edit.key, None)
            if cause in CAUSES:
                self._known[edit.key] = edit.value

    def note(self, index: Index, value_of: ValueOf) -> None:
        """Of the tree with these values this is what its announcement names."""
        kept = [(key, value) for key, value in self._known.items() if value_of(key) == value][-BROUGHT_MAX:]
        size = sum(len(key) + len(value or b"") for key, value in kept)
        while size > BROUGHT_MAX_BYTES:
            key, value = kept.pop(0)
            size -= len(key) + len(value or b"")
        if kept or index.meta(_META):
            index.set_meta(
                _META, [[key.hex(), None if value is None else value.hex()] for key, value in kept]
            )


def announced_keys(index: Index) -> tuple[bytes, ...]:
    """What the newest announcement names, in order."""
    stored = index.meta(_META)
    rows = stored if isinstance(stored, list) else []
    return tuple(sorted(bytes.fromhex(key) for key, _ in rows))
