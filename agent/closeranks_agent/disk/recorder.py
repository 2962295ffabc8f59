"""How the findings of one scan become history: gathered, cut into slices, written soon.

A change is committed when COMMIT_MAX_EDITS edits have come together, or COMMIT_MAX_BYTES, or SLICE_S after
the first of them, whichever is sooner. More than SNAPSHOT_EDITS edits in one scan are a mass change: from
then on rows are stowed and the tree is built anew at the end, and every INTERIM_S if that takes long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

from closeranks_proto.limits import COMMIT_MAX_BYTES, COMMIT_MAX_EDITS, MIB, SNAPSHOT_EDITS
from closeranks_proto.messages import Edit, Hand
from closeranks_proto.paths import parent_key

from ..hotpath.wire import ReadPack, ReadRow
from .attributed import HandOf, Tally, edit_size
from .index import Index
from .journal import edit_bytes
from .packs import rows_of
from .records import Change, Record, StatSignature
from .rows import Delta, Listing, directory_id, is_directory

SLICE_S: Final = 1.0
INTERIM_S: Final = 10.0
INTERIM_BUILD_SHARE: Final = 0.1  # of the time, at most, goes into building interim trees
ROWS_MAX: Final = 2048
FRESH_ROWS_MAX: Final = 4096  # what they dirty fits the database's cache: none is written twice
GROW_ROWS: Final = 2048  # 3 ms of building: as long as that the readers have something to do
ROWS_MAX_BYTES: Final = 2 * MIB  # of keys, values and chunk lists


class Recorded(Protocol):
    """Where findings go: a volume's history, or the rows of a snapshot, which have no root before the end."""

    @property
    def root(self) -> bytes | None: ...
    @property
    def unfinished(self) -> bool: ...

    def stow(self, delta: Delta) -> None: ...
    def grow(self, frontier: bytes) -> None: ...
    def commit(
        self, delta: Delta, edits: Mapping[bytes, Edit], cause: str, seen_mono: float,
        hand_of: HandOf | None = None, sizes: Mapping[bytes, int] | None = None,
    ) -> None: ...  # fmt: skip
    def found(
        self, cause: str, seen_mono: float, force: bool = False, hands: Sequence[Hand] = ()
    ) -> None: ...


class Recorder:
    """For one scan or look. With `announce` one announcement comes at its end, whatever changed.

    `hand_of` says whose hand a change is. `tally` adds up all of them, `changed` counts them.
    """

    def __init__(
        self, history: Recorded, cause: str, announce: bool, tell: Callable[[], None],
        hand_of: HandOf | None = None, seen_mono: float | None = None,
    ) -> None:  # fmt: skip
        self._history = history
        self._hand_of = hand_of
        self.tally = Tally()
        self._untold = Tally()  # what is stowed
        self._cause = cause
        self._stow = announce or history.root is None or history.unfinished
        self._announce = announce
        self._tell = tell
        self._delta = Delta()
        self._edits: dict[bytes, Edit] = {}
        self._sizes: dict[bytes, int] = {}  # bytes written, where not the whole file was
        self._edit_bytes = self._row_bytes = self._fresh = 0
        self._asked_mono = seen_mono  # when the changes were heard of; None: when they are found
        self._seen_mono = self._slice_due = 0.0
        self._first_mono: float | None = seen_mono
        self._interim_due = time.monotonic() + INTERIM_S
        self.changed = 0

    def put(self, record: Record, differs: bool, written: int | None = None) -> None:
        """A path as it is now; `differs` where its value is not the row's.

        `written`: how many bytes of it are new; None: all of them.
        """
        self._delta.rows[record.key] = record
        self._row_bytes += len(record.key) + len(record.value) + len(record.chunks or b"")
        if differs:
            self._edit(record.key, record.value, record.chunks, written)
        else:
            self._edits.pop(record.key, None)  # it came back to what it was before anybody was told
        self.flush_if_due()

    def put_rows(
        self, directory: bytes, rows: Sequence[ReadRow], lists: Sequence[tuple[bytes, bytes | bytearray]] = (),
        packs: Sequence[ReadPack] = (),
    ) -> None:  # fmt: skip
        """Paths of one directory that have no row yet, with the chunk lists that they need."""
        if not self._stow or self._hand_of is not None:
            chunks, prefix = dict(lists), directory and directory + b"\0"
            for name, value, signature, settled, content in chain(rows, *map(unpacked, packs)):
                stat = StatSignature.unpack(signature)
                listed = None if content is None else bytes(chunks[content])
                record = Record(prefix + name, value, stat, listed, bool(settled))
                self.put(record, True)
            return
        place = directory_id(directory)
        self._delta.fresh += [
            (place, name, value, stat, settled, content) for name, value, stat, settled, content in rows
        ]
        self._delta.packs += [(place, last, blob) for last, _, blob in packs]
        self._delta.lists.update(lists)
        self._row_bytes += sum(len(blob) for _, blob in lists)
        count = len(rows) + sum(count for _, count, _ in packs)
        self.changed += count
        self._fresh += count
        if self._first_mono is None:
            self._first_mono = time.monotonic()
        self.flush_if_due()

    def grow(self, frontier: bytes) -> None:
        """No path before this key will come any more: what was stowed of them can become a tree."""
        if self._stow and self._fresh >= GROW_ROWS:
            self.flush()
            self._history.grow(frontier)

    @property
    def stowing(self) -> bool:
        """Rows are ahead of the root: nobody else may commit before `finish`."""
        return self._stow

    def remove(self, key: bytes) -> None:
        self._delta.rows[key] = None
        self._row_bytes += len(key)
        self._edit(key, None, None)
        self.flush_if_due()

    def listing(self, key: bytes, listing: Listing | None) -> None:
        self._delta.listings[key] = listing

    def _edit(
        self, key: bytes, value: bytes | None, chunks: bytes | None, written: int | None = None
    ) -> None:
        self.changed += 1
        hand = None if self._hand_of is None else self._hand_of(key)
        if hand is not None:
            for tally in (self.tally, self._untold) if self._stow else (self.tally,):
                tally.add(hand, 1, edit_size(value) if written is None else written)
        if self._first_mono is None:
            self._first_mono = time.monotonic()
        if self._stow:
            return
        if not self._edits:
            self._seen_mono = time.monotonic() if self._asked_mono is None else self._asked_mono
            self._slice_due = time.monotonic() + SLICE_S
        edit = Edit(key, value, chunks)
        if written is not None:
            self._sizes[key] = written
        self._edits[key] = edit
        self._edit_bytes += edit_bytes(edit)

    def flush_if_due(self) -> None:
        """Write what has come together if it is enough, or old enough."""
        if (
            len(self._delta.rows) >= ROWS_MAX
            or self._fresh >= FRESH_ROWS_MAX
            or self._row_bytes >= ROWS_MAX_BYTES
            or len(self._edits) >= COMMIT_MAX_EDITS
            or self._edit_bytes >= COMMIT_MAX_BYTES
            or (self._edits and time.monotonic() >= self._slice_due)
        ):
            self.flush()

    def flush(self) -> None:
        """Write what has come together."""
        if self._delta or self._edits:
            if self._stow:
                self._history.stow(self._delta)
            else:
                self._history.commit(
                    self._delta, self._edits, self._cause, self._seen_mono, self._hand_of, self._sizes
                )
                if self._edits:
                    self._tell()
            self._delta, self._edits, self._edit_bytes, self._row_bytes = Delta(), {}, 0, 0
            self._fresh = 0
            self._sizes = {}
        if self.changed > SNAPSHOT_EDITS:
            self._stow = True
        now = time.monotonic()
        if self._stow and self._history.root is not None and not self._announce and now >= self._interim_due:
            self._history.found(self._cause, self._first_mono or now, hands=self._untold.hands())
            self._untold = Tally()
            self._tell()
            ended = time.monotonic()
            self._interim_due = ended + max(INTERIM_S, (ended - now) / INTERIM_BUILD_SHARE)

    def finish(self) -> None:
        """Everything was looked at. What was stowed becomes the root."""
        self.flush()
        if self._stow:
            first_mono = self._first_mono or time.monotonic()
            self._history.found(self._cause, first_mono, self._announce, self._untold.hands())
            self._tell()


def unpacked(pack: ReadPack) -> Iterator[ReadRow]:
    return ((*row, None) for row in rows_of(pack[2]))


def changes_of(index: Index, changes: Sequence[Change]) -> tuple[Delta, dict[bytes, Edit]]:
    """What rows and edits known changes make. Beneath a directory that is one no more, everything goes."""
    delta, edits = Delta(), dict[bytes, Edit]()
    rows = index.rows_at(change.key for change in changes)
    for change in changes:
        row, record = rows.get(change.key), change.record
        if row is not None and is_directory(row.value) and (record is None or not is_directory(record.value)):
            for key, value in index.items(change.key):
                delta.rows.setdefault(key, None)
                edits.setdefault(key, Edit(key, None))
                if is_directory(value):
                    delta.listings[key] = None
            delta.listings[change.key] = None
        delta.rows[change.key] = record
        delta.listings[parent_key(change.key)] = None
        edits.pop(change.key, None)
        if record is None and row is not None:
            edits[change.key] = Edit(change.key, None)
        elif record is not None and (row is None or row.value != record.value):
            edits[change.key] = Edit(change.key, record.value, record.chunks)
    return delta, edits
