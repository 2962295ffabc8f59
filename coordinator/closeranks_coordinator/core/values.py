"""The value of one path: what it is, and how two changes of it become one.

Each attribute, and the content with its size, is a part that one side or the other may have changed. Absence is a value
like any other, but nothing can be combined with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry, entry_kind, entry_size

ATTRIBUTES = ("mode", "owner", "mtime_ns", "xattrs")
Value = bytes | None


def is_directory(value: Value) -> bool:
    """Whether there is a directory."""
    return value is not None and entry_kind(value) is Kind.DIRECTORY


def is_file(value: Value) -> bool:
    """Whether there is a file."""
    return value is not None and entry_kind(value) is Kind.FILE


def above_of(key: bytes) -> Iterator[bytes]:
    """The keys of the directories that a path lies in, nearest first."""
    end = key.rfind(b"\0")
    while end > 0:
        yield key[:end]
        end = key.rfind(b"\0", 0, end)


def combine(base: Value, ours: Value, theirs: Value, width: int) -> Value:
    """Both changes in one entry, where each changed something else of it; None where they clash."""
    if base is None or ours is None or theirs is None:
        return None
    was, mine, other = (decode_entry(value, width) for value in (base, ours, theirs))
    if len({was.kind, mine.kind, other.kind}) > 1:
        return None
    taken, clashing = _attributes(was, mine, other)
    bodies = _body(was), _body(mine), _body(other)
    if clashing or (bodies[1] != bodies[0] != bodies[2] and bodies[1] != bodies[2]):
        return None
    return encode_entry(replace(other if bodies[1] == bodies[0] else mine, **taken))


def has_same_body(one: bytes, other: bytes, width: int) -> bool:
    """Whether two values are of one kind and content, whatever their attributes."""
    first, second = decode_entry(one, width), decode_entry(other, width)
    return first.kind is second.kind and _body(first) == _body(second)


def is_alike(one: Value, other: Value, width: int, whole_bytes: int | None = None) -> bool:
    """Whether two values, perhaps of other settings, are the same by what both of them tell.

    `whole_bytes`: files that are longer are cut into other chunks by the one than by the other (None: none are). Of
    their contents both tell the length alone.
    """
    if one is None or other is None:
        return one is other
    if one == other:
        return True
    first, second = decode_entry(one, width), decode_entry(other, width)
    pairs = ((getattr(first, name), getattr(second, name)) for name in ATTRIBUTES)
    return (
        first.kind is second.kind
        and (_body(first) == _body(second) if tells_content(one, whole_bytes) else first.size == second.size)
        and all(a is None or b is None or a == b for a, b in pairs)
    )


def tells_content(value: Value, whole_bytes: int | None) -> bool:
    """Whether contents can be told apart by this value, held against one of other settings: see `is_alike`."""
    return whole_bytes is None or not is_file(value) or entry_size(value or b"") <= whole_bytes


def settle(base: Value, ours: bytes, theirs: bytes, width: int) -> tuple[bytes, frozenset[str]]:
    """Theirs with the attributes that only we changed, and the names of those that both did, otherwise."""
    mine, other = decode_entry(ours, width), decode_entry(theirs, width)
    was = other if base is None else decode_entry(base, width)
    if base is None or was.kind is not other.kind:
        differing = frozenset(name for name in ATTRIBUTES if getattr(mine, name) != getattr(other, name))
        return theirs, differing
    taken, clashing = _attributes(was, mine, other)
    return encode_entry(replace(other, **taken)), clashing


def _attributes(was: Entry, mine: Entry, other: Entry) -> tuple[dict[str, Any], frozenset[str]]:
    """Each attribute as it is after both changes, theirs where they clash; and which ones do."""
    taken: dict[str, Any] = {}
    clashing: set[str] = set()
    for name in ATTRIBUTES:
        old, ours, theirs = (getattr(one, name) for one in (was, mine, other))
        taken[name] = ours if theirs == old else theirs
        if ours not in (old, theirs) and theirs != old:
            clashing.add(name)
    return taken, frozenset(clashing)


def _body(entry: Entry) -> object:
    return entry.size, entry.digest, entry.target
