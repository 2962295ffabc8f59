"""A large difference with the few keys in which it has changed since: so that a step need not copy all of it.

A flat copy of 200,000 keys is 10 MB and 10 ms, for every step of a node or the truth: when 200,000 changes reach three
replicas 512 at a time that was 30 s of processor time, and is 8.5 s. Here the large part is shared by all that follow
from it, and what has changed lies above it: a step copies that, until it is a share of the whole, and then all is made
flat again. Of a small difference, and of a step that is large for it, a flat copy is less work.

A look at a key takes five times as long as in a dictionary: steps look at what they touched, and who goes through
all of it goes through `items`.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import TypeVar

LAYER_MIN_KEYS = 16_384  # fewer are copied: half a millisecond
LAYER_SHARE = 8  # what lies above is at most such a part of it

Values = tuple[bytes | None, bytes | None]
Changes = Iterable[tuple[bytes, Values | None]]
T = TypeVar("T")


class Layered(Mapping[bytes, Values]):
    """`base` with `over` above it, where None is a key that is gone. Neither is ever changed."""

    __slots__ = ("_base", "_length", "_over")

    def __init__(self, base: dict[bytes, Values], over: dict[bytes, Values | None], length: int) -> None:
        self._base, self._over, self._length = base, over, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: bytes) -> Values:
        found = self._over[key] if key in self._over else self._base[key]
        if found is None:
            raise KeyError(key)
        return found

    def get(self, key: bytes, default: T | None = None) -> Values | T | None:  # type: ignore[override]
        if key in self._over:
            found = self._over[key]
            return default if found is None else found
        return self._base.get(key, default)

    def __contains__(self, key: object) -> bool:
        if key in self._over:
            return self._over[key] is not None
        return key in self._base

    def __iter__(self) -> Iterator[bytes]:
        over, base = self._over, self._base
        yield from (key for key in base if key not in over)
        yield from (key for key, values in over.items() if values is not None)

    def items(self) -> ItemsView[bytes, Values]:
        return _Items(self)

    def values(self) -> ValuesView[Values]:
        return _Values(self)

    def pairs(self) -> Iterator[tuple[bytes, Values]]:
        over = self._over
        yield from (pair for pair in self._base.items() if pair[0] not in over)
        for key, values in over.items():
            if values is not None:
                yield key, values

    def flat(self) -> dict[bytes, Values]:
        made = dict(self._base)
        _change(made, self._over.items())
        return made

    def after(self, changes: Changes) -> Mapping[bytes, Values]:
        base, over, length = self._base, dict(self._over), self._length
        for key, values in changes:
            length += (values is not None) - (over[key] is not None if key in over else key in base)
            if values is None and key not in base:
                over.pop(key, None)
            else:
                over[key] = values
        found = Layered(base, over, length)
        return found.flat() if len(over) * LAYER_SHARE > length else found


class _Items(ItemsView[bytes, Values]):
    def __init__(self, layered: Layered) -> None:
        super().__init__(layered)
        self._pairs = layered.pairs

    def __iter__(self) -> Iterator[tuple[bytes, Values]]:
        return self._pairs()


class _Values(ValuesView[Values]):
    def __init__(self, layered: Layered) -> None:
        super().__init__(layered)
        self._pairs = layered.pairs

    def __iter__(self) -> Iterator[Values]:
        return (values for _, values in self._pairs())


def changed(
    known: Mapping[bytes, Values], changes: list[tuple[bytes, Values | None]]
) -> Mapping[bytes, Values]:
    """`known` with these keys otherwise, None: gone. `known` stays as it is."""
    if isinstance(known, Layered):
        return known.after(changes)
    if len(known) >= LAYER_MIN_KEYS and len(changes) * LAYER_SHARE <= len(known):
        assert isinstance(known, dict)
        return Layered(known, {}, len(known)).after(changes)
    made = dict(known)
    _change(made, changes)
    return made


def _change(made: dict[bytes, Values], changes: Changes) -> None:
    for key, values in changes:
        if values is None:
            made.pop(key, None)
        else:
            made[key] = values
