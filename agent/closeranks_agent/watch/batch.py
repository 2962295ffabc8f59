"""What a look is asked for: names, and whose hands were heard of at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from closeranks_proto.messages import Hand


class Heard(dict[bytes, Hand]):
    """The hands of a batch; and of what a look finds beside it the hand of its own events, whenever they came.

    A new directory is looked at as a whole. What another process has put there meanwhile would be the maker's.
    """

    def __init__(self, hands: Mapping[bytes, Hand], own: Callable[[bytes], Hand | None]) -> None:
        super().__init__(hands)
        self._own = own

    def get(self, key: bytes, default: Hand | None = None) -> Hand | None:  # type: ignore[override]
        found = super().get(key)
        found = self._own(key) if found is None else found
        return default if found is None else found


@dataclass(frozen=True, slots=True)
class Batch:
    """`names` and `hands` as `Volume.look` takes them."""

    names: Mapping[bytes, frozenset[bytes] | None]
    hands: Mapping[bytes, Hand]
    seen_mono: float  # when the first of these was heard of
    size: int
    owed: Mapping[bytes, float] = field(default_factory=dict)  # since when, of those that came again
