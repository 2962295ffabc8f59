"""Whose hand the edits of a step are, as commits, announcements and reports carry it.

Bounded everywhere: a step names HANDS_MAX hands, the most active ones, and what the others did counts as
unknown. A hand weighs by its files and by its bytes, BYTES_AS_A_FILE as much as one file, so that neither
who deletes ten thousand files nor who writes one huge one is crowded out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from closeranks_proto.entries import entry_size
from closeranks_proto.limits import HANDS_MAX
from closeranks_proto.messages import Edit, Hand
from closeranks_proto.paths import parent_key

HandOf = Callable[[bytes], Hand | None]  # whose hand a key's change is; None: nothing is said of it

TALLY_MAX: Final = 256  # hands told apart while they are counted
BYTES_AS_A_FILE: Final = 64 * 1024
COUNT_MAX: Final = 2**50


def unknown_hand(detail: str) -> Hand:
    """Nobody in particular, and why it is not known who."""
    return Hand(0, "", "", None, None, "", (), 0, 0, detail)


UNSEEN: Final = unknown_hand("a scan found the change; who made it was not seen")
_OTHERS: Final = unknown_hand("more hands at once than are told apart")


class Tally:
    """Files and bytes by hand. Hands are given without counts."""

    def __init__(self) -> None:
        self._counts: dict[Hand, list[int]] = {}

    def add(self, hand: Hand, files: int, size_bytes: int) -> None:
        counts = self._counts.get(hand)
        if counts is None:
            if len(self._counts) >= TALLY_MAX:
                hand = _OTHERS
            counts = self._counts.setdefault(hand, [0, 0])
        counts[0] += files
        counts[1] += size_bytes

    def merge(self, hands: Iterable[Hand]) -> None:
        """Hands with counts, of other steps."""
        for hand in hands:
            self.add(msgspec.structs.replace(hand, files=0, bytes=0), hand.files, hand.bytes)

    def heaviest(self) -> list[Hand]:
        """Without counts, the most active first."""
        weight = {hand: files + size / BYTES_AS_A_FILE for hand, (files, size) in self._counts.items()}
        return sorted(weight, key=lambda hand: -weight[hand])[:HANDS_MAX]

    def hands(self) -> tuple[Hand, ...]:
        """With counts, the most active first, at most HANDS_MAX."""
        return tuple(
            msgspec.structs.replace(
                hand, files=min(self._counts[hand][0], COUNT_MAX), bytes=min(self._counts[hand][1], COUNT_MAX)
            )
            for hand in self.heaviest()
        )


@dataclass(frozen=True, slots=True)
class Attributed:
    """As a Commit has it: hands with counts, and each edit's number among them, from 1."""

    hands: tuple[Hand, ...] = ()
    by: tuple[int, ...] = ()


def attribute(
    edits: Sequence[Edit], hand_of: HandOf | None, sizes: Mapping[bytes, int] | None = None
) -> Attributed:
    """Whose the edits are; nothing where nobody can say. `sizes`: bytes written, where not the whole file was."""
    if hand_of is None:
        return Attributed()
    tally, found = Tally(), [hand_of(edit.key) for edit in edits]
    for edit, hand in zip(edits, found, strict=True):
        if hand is not None:
            size = None if sizes is None else sizes.get(edit.key)
            tally.add(hand, 1, edit_size(edit.value) if size is None else size)
    number = {hand: place for place, hand in enumerate(tally.heaviest(), 1)}
    if not number:
        return Attributed()
    return Attributed(tally.hands(), tuple(0 if hand is None else number.get(hand, 0) for hand in found))


def hand_finder(hands: Mapping[bytes, Hand]) -> HandOf:
    """Whose hand a key's change is: the key's own, or that of the nearest directory above it that has one."""

    def find(key: bytes) -> Hand | None:
        hand = hands.get(key)
        while hand is None and key:
            key = parent_key(key)
            hand = hands.get(key)
        return hand

    return find


def edit_size(value: bytes | None) -> int:
    """How many bytes a change to `value` counts: a file's size; removing writes nothing."""
    return 0 if value is None else entry_size(value)
