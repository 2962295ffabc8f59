"""The steps of a volume that the coordinator has not acknowledged yet, in the index's own database.

Either `announcement, commit, commit ...` or `commit, commit ...`: an announcement states a whole root and
makes everything before it superfluous. Numbers only grow, in one transaction with the rows that they tell
about, so that a crash leaves both or neither. Beyond JOURNAL_MAX_BYTES the commits give way to one
announcement: a coordinator that is away for days costs nothing but its own catching up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from closeranks_proto.limits import (
    COMMIT_MAX_BYTES,
    COMMIT_MAX_EDITS,
    CREDIT_COMMITS,
    JOURNAL_MAX_BYTES,
    MIB,
    SEQ_MAX,
)
from closeranks_proto.messages import MADE_ANEW, PUT_BACK, Announce, Commit, Decayed, Edit, Hand

from .attributed import Attributed, Tally
from .brought import CAUSES, Brought, ValueOf, announced_keys
from .database import Database
from .index import Index

_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(tuple[Edit, ...]).decode
_DECODE_HANDS = msgspec.msgpack.Decoder(tuple[tuple[Hand, ...], tuple[int, ...]]).decode
_NOBODY = Attributed()
_EDIT_OVERHEAD_BYTES = 16
FRESH_MAX_BYTES = MIB  # of commits that are sent without being read back
_ANNOUNCED_DECAYED = "announced_decayed"  # of the newest announcement; there is never more than one


def boot_id() -> str:
    """Which boot of this machine the monotonic clock belongs to."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def edit_bytes(edit: Edit) -> int:
    """About what an edit costs in a frame."""
    return len(edit.key) + len(edit.value or b"") + len(edit.chunks or b"") + _EDIT_OVERHEAD_BYTES


def cut(edits: Sequence[Edit]) -> Iterator[Sequence[Edit]]:
    """Runs of at most COMMIT_MAX_EDITS edits and, from two edits on, COMMIT_MAX_BYTES."""
    start, size = 0, 0
    for index, edit in enumerate(edits):
        cost = edit_bytes(edit)
        if index > start and (index - start >= COMMIT_MAX_EDITS or size + cost > COMMIT_MAX_BYTES):
            yield edits[start:index]
            start, size = index, 0
        size += cost
    if start < len(edits):
        yield edits[start:]


@dataclass(frozen=True, slots=True)
class _Fresh:
    message: Commit
    seen_mono: float
    bytes: int


class Journal:
    """Writing methods belong inside a transaction, and count only once it has succeeded (`reload` otherwise)."""

    def __init__(
        self,
        index: Index,
        volume: str,
        now: Callable[[], float] = time.monotonic,
        decayed_in: Callable[[bytes], tuple[Decayed, ...]] = lambda _: (),
        values_of: Callable[[bytes], ValueOf] = lambda _: lambda _: None,
    ) -> None:
        """`decayed_in` says of the tree with that root what in it nobody wrote, `values_of` gives its entries."""
        self._index = index
        self._decayed_in = decayed_in
        self._values_of = values_of
        self._database: Database = index.database
        self._volume = volume
        self._now = now
        self._boot = boot_id()
        self._fresh: dict[int, _Fresh] = {}  # replaced as a whole: other threads read it
        self._written: list[_Fresh] = []  # of the transaction under way
        self.reload()

    def reload(self) -> None:
        """Take everything from the database again, after a transaction that failed."""
        self._written = []
        found = self._database.row("SELECT min(seq), max(seq), ifnull(sum(bytes), 0) FROM journal")
        assert found is not None
        last = cast(int, self._index.meta("last_seq") or 0)
        self.last_seq = max(last, cast(int, found[1] or 0))
        self.first_seq = cast(int, found[0]) if found[0] is not None else self.last_seq + 1
        self.bytes = cast(int, found[2])

    @property
    def empty(self) -> bool:
        return self.first_seq > self.last_seq

    def base_root(self) -> bytes | None:
        """What the first record starts from; None for an announcement, which starts from nothing."""
        found = self._database.row("SELECT base_root FROM journal WHERE seq = ?", (self.first_seq,))
        return None if found is None else cast("bytes | None", found[0])

    def root_at(self, seq: int) -> bytes | None:
        """What the record of that number leads to; None where it is not kept."""
        found = self._database.row("SELECT root FROM journal WHERE seq = ?", (seq,))
        return None if found is None else cast(bytes, found[0])

    def announced_roots(self) -> list[bytes]:
        """The roots that the coordinator may be fetching."""
        found = self._database.rows("SELECT root FROM journal WHERE edits IS NULL")
        return [cast(bytes, root) for (root,) in found]

    # --- writing -------------------------------------------------------------------------------

    def commit(
        self, base_root: bytes, root: bytes, edits: Sequence[Edit], cause: str, seen_mono: float,
        attributed: Attributed = _NOBODY,
    ) -> None:  # fmt: skip
        blob = _ENCODE(tuple(edits))
        self._append(base_root, root, cause, blob, seen_mono, attributed)
        message = Commit(
            self._volume,
            self.last_seq,
            base_root,
            root,
            tuple(edits),
            cause,
            0,
            attributed.hands,
            attributed.by,
        )
        self._written.append(_Fresh(message, seen_mono, len(blob)))
        if self.bytes > JOURNAL_MAX_BYTES:
            self.announce(root, cause, self._oldest(seen_mono))

    def announce(
        self, root: bytes, cause: str, seen_mono: float, after_seq: int = 0, hands: Sequence[Hand] = ()
    ) -> None:
        """One announcement in place of everything; numbered above whatever was ever numbered.

        `hands` are those of what no commit told yet; they join those of the commits that give way. That this machine
        was put back, or knows nothing of what it told before, is told until somebody has heard it.
        """
        told, brought = self._told_hands(hands), self._brought()
        untold = self._database.row("SELECT cause FROM journal WHERE cause IN (?, ?)", (MADE_ANEW, PUT_BACK))
        if untold is not None:
            cause = cast(str, untold[0])
        self._fresh, self._written = {}, []
        self._database.execute("DELETE FROM journal")
        self.last_seq = max(self.last_seq, after_seq)
        self.first_seq = self.last_seq + 1
        self.bytes = 0
        self._append(None, root, cause, None, seen_mono, Attributed(told))
        decayed = [[one.key.hex(), one.before.hex()] for one in self._decayed_in(root)]
        if decayed or self._index.meta(_ANNOUNCED_DECAYED):
            self._index.set_meta(_ANNOUNCED_DECAYED, decayed)
        brought.note(self._index, self._values_of(root))

    def _brought(self) -> Brought:
        """What of that which gives way was our own doing."""
        found = Brought()
        for cause, edits in self._database.rows("SELECT cause, edits FROM journal ORDER BY seq"):
            if edits is None:
                found.announced(self._index)
            elif found or cause in CAUSES:
                found.follow(cast(str, cause), _DECODE(cast(bytes, edits)))
        return found

    def _told_hands(self, hands: Sequence[Hand]) -> tuple[Hand, ...]:
        """The most active of all that the journal names and of `hands`."""
        tally = Tally()
        for (blob,) in self._database.rows("SELECT hands FROM journal WHERE hands IS NOT NULL"):
            tally.merge(_DECODE_HANDS(cast(bytes, blob))[0])
        tally.merge(hands)
        return tally.hands()

    def _append(
        self, base_root: bytes | None, root: bytes, cause: str, edits: bytes | None, seen_mono: float,
        attributed: Attributed,
    ) -> None:  # fmt: skip
        self.last_seq += 1
        hands = _ENCODE((attributed.hands, attributed.by)) if attributed.hands else None
        size = len(edits or b"") + len(hands or b"")
        self.bytes += size
        seen_wall = time.time() - (self._now() - seen_mono)
        self._database.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.last_seq, base_root, root, cause, edits, size, seen_mono, seen_wall, self._boot, hands),
        )
        self._index.set_meta("last_seq", self.last_seq)

    def skip(self, seq: int) -> None:
        """Numbers go on above `seq`: it was given once, and is not remembered."""
        if self.empty:
            self.first_seq = seq + 1
        self.last_seq = seq
        self._index.set_meta("last_seq", seq)

    def acknowledge(self, seq: int) -> None:
        self._database.execute("DELETE FROM journal WHERE seq <= ?", (seq,))
        self._fresh = {number: one for number, one in self._fresh.items() if number > seq}
        self.first_seq = max(self.first_seq, min(seq, self.last_seq) + 1)
        found = self._database.row("SELECT ifnull(sum(bytes), 0) FROM journal")
        assert found is not None
        self.bytes = cast(int, found[0])

    def _oldest(self, seen_mono: float) -> float:
        found = self._database.row("SELECT seen_mono, seen_wall, boot FROM journal ORDER BY seq LIMIT 1")
        if found is None:
            return seen_mono
        return self._now() - self._age_s(*cast(tuple[float, float, str], found))

    # --- reading -------------------------------------------------------------------------------

    def durable(self) -> None:
        """The transaction has succeeded: its commits may be sent."""
        if not self._written:
            return
        fresh, self._written = {**self._fresh, **{one.message.seq: one for one in self._written}}, []
        size = sum(one.bytes for one in fresh.values())
        for seq in sorted(fresh):
            if len(fresh) <= CREDIT_COMMITS and size <= FRESH_MAX_BYTES:
                break
            size -= fresh.pop(seq).bytes
        self._fresh = fresh

    def fresh(self, after_seq: int, limit: int) -> list[Commit]:
        """Like `pending`, of commits that are remembered; [] where the next one is not. Any thread, never waits."""
        kept, found, now = self._fresh, list[Commit](), self._now()
        while len(found) < limit and (one := kept.get(after_seq + 1 + len(found))) is not None:
            age_ms = max(0, int((now - one.seen_mono) * 1000))
            found.append(msgspec.structs.replace(one.message, observed_age_ms=age_ms))
        return found

    def pending(self, after_seq: int, limit: int, last_seq: int = SEQ_MAX) -> list[Commit | Announce]:
        """At most `limit` records behind `after_seq` and up to `last_seq`, ready to send; ages as of now."""
        found = self._database.rows(
            "SELECT seq, base_root, root, cause, edits, seen_mono, seen_wall, boot, hands FROM journal"
            " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (after_seq, last_seq, limit),
        )
        return [self._message(*row) for row in found]  # type: ignore[arg-type]  # as the schema says

    def _message(
        self, seq: int, base_root: bytes | None, root: bytes, cause: str, edits: bytes | None,
        seen_mono: float, seen_wall: float, boot: str, blob: bytes | None,
    ) -> Commit | Announce:  # fmt: skip
        age_ms = int(self._age_s(seen_mono, seen_wall, boot) * 1000)
        hands, by = ((), ()) if blob is None else _DECODE_HANDS(blob)
        if edits is None:
            brought = announced_keys(self._index)
            return Announce(self._volume, seq, root, cause, age_ms, hands, self._announced_decayed(), brought)
        assert base_root is not None
        return Commit(self._volume, seq, base_root, root, _DECODE(edits), cause, age_ms, hands, by)

    def _announced_decayed(self) -> tuple[Decayed, ...]:
        stored = self._index.meta(_ANNOUNCED_DECAYED)
        rows = stored if isinstance(stored, list) else []
        return tuple(Decayed(bytes.fromhex(key), bytes.fromhex(before)) for key, before in rows)

    def _age_s(self, seen_mono: float, seen_wall: float, boot: str) -> float:
        """Since a change was seen. Across a reboot only the wall clock is left; it may have been set back."""
        return max(0.0, self._now() - seen_mono if boot == self._boot else time.time() - seen_wall)
