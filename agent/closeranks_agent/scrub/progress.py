"""Where a scrub stands, as it is kept in the volume's index: with the index it goes, for a rebuilt one proves nothing.

Times are of the wall clock, since they must survive restarts: they are shown, and say when the next tour is due, and
nothing else. A clock that was set back makes ages 0, never negative.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import Final

import msgspec

from closeranks_proto.messages import ScrubState, Unreadable

META: Final = "scrub"
AMISS_MAX: Final = 100  # files named; more are counted


@dataclass(slots=True)
class Amiss:
    """A file that a tour found wrong, and the stat of it (`mark`): it holds as long as the file has that one."""

    key: str  # hexadecimal, like the mark
    mark: str
    why: str
    detail: str


@dataclass(slots=True)
class Progress:
    """`position` is the key of the file that was finished last, in hexadecimal, or is read at `offset`; None: no tour.

    `verified_ms`: every content was verified since then, by the last whole tour or when it was first read.
    """

    position: str | None = None
    offset: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    verified_ms: int | None = None
    files: int = 0
    bytes: int = 0
    found: int = 0
    amiss: list[Amiss] = field(default_factory=list)

    @property
    def key(self) -> builtins.bytes:
        return builtins.bytes.fromhex(self.position or "")

    @property
    def under_way(self) -> bool:
        return self.position is not None

    def begin(self, now_ms: int) -> None:
        self.position, self.offset, self.started_ms, self.files, self.bytes = "", 0, now_ms, 0, 0

    def at(self, key: builtins.bytes, offset: int) -> None:
        """`offset` 0: the file is done with."""
        self.position, self.offset = key.hex(), offset

    def end(self, now_ms: int) -> None:
        self.verified_ms, self.ended_ms, self.position, self.offset = self.started_ms, now_ms, None, 0

    def note(self, key: builtins.bytes, mark: str, why: str, detail: str) -> None:
        self.clear(key)
        if len(self.amiss) < AMISS_MAX:
            self.amiss.append(Amiss(key.hex(), mark, why, detail))

    def clear(self, key: builtins.bytes) -> None:
        """It was read, and is right."""
        if self.amiss:
            self.amiss = [one for one in self.amiss if one.key != key.hex()]

    def reports(self) -> tuple[Unreadable, ...]:
        return tuple(Unreadable(builtins.bytes.fromhex(one.key), one.why, one.detail) for one in self.amiss)

    def due_ms(self, now_ms: int, interval_s: float) -> int | None:
        """When the next tour should begin, or the present one began; None: only on demand.

        A tour that will have begun some day was stamped by a clock that has been set back since: nobody knows how long
        ago it was, and waiting for that day could be waiting for years.
        """
        if not interval_s:
            return None
        last_ms = self.started_ms or self.verified_ms or 0
        if last_ms > now_ms:
            return now_ms
        return last_ms + (0 if self.under_way else int(interval_s * 1000))

    def debt_bytes(self, now_ms: int, interval_s: float, total_bytes: int) -> int:
        """What should have been read by now, at an even pace over the interval, and was not."""
        due_ms = self.due_ms(now_ms, interval_s)
        if due_ms is None:
            return 0
        share = min(1.0, max(0.0, (now_ms - due_ms) / (interval_s * 1000)))
        return max(0, int(total_bytes * share) - (self.bytes if self.under_way else 0))


def encode(progress: Progress) -> object:
    return msgspec.to_builtins(progress)


def decode(stored: object) -> Progress:
    """What an index has; nothing, or what cannot be read, is a scrub that never ran."""
    try:
        return msgspec.convert(stored, Progress)
    except msgspec.ValidationError:
        return Progress()


def state_of(
    progress: Progress, state: str, slowed: bool, now_ms: int, totals: tuple[int, int], interval_s: float,
    limits: tuple[int | None, int | None],
) -> ScrubState:  # fmt: skip
    """As it is told. `totals` are (files, bytes) of the volume, `limits` (bytes/s, files/s)."""

    def age(moment: int | None) -> int | None:
        return None if moment is None else max(0, now_ms - moment)

    assert state in ("off", "waiting", "running", "paused")
    return ScrubState(
        state, slowed, progress.files, totals[0], progress.bytes, totals[1],  # type: ignore[arg-type]
        progress.debt_bytes(now_ms, interval_s, totals[1]), progress.found,
        sum(one.why == "unreadable" for one in progress.amiss),
        age(progress.started_ms if progress.under_way else None), age(progress.ended_ms), age(progress.verified_ms),
        *limits,
    )  # fmt: skip
