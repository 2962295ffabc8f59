"""The trash of a volume: whatever converge replaces or removes goes here first, or the step does not run.

Invariants. An item's record is durable in the ledger before its bytes move, and they move by one rename, so
that at every moment each byte sequence is in the tree or in here. What a kill between exchange and move
left in the stage is brought home by `recover`. The trash never holds more than `trash_max_bytes`
(default: a tenth of the filesystem): when it is full, steps do not run.

Ages, and what is younger than what, are told by `ageing`: the wall clock, which can jump, is only shown to people.

*Never the last copy.* Whether another node still holds an item's bytes can not be known here. So nothing
is evicted to make room for something newer: an item goes only when it is older than `trash_keep_s` and its
incident is not open. Moving to the trash itself never removes a copy, since the trash is on this node.
One exception: *ordinary* items are versions that an authorised writer replaced or removed itself, brought by a
push or by the converge of a node that was only late. They fill the trash in the course of ordinary work, and a
trash that is full for `trash_keep_s` would stop the replication, and every repair. So whatever finds no room lets
the oldest of *them* go (`make_room`), though none that is younger than an open incident of this node, and never
anything that a repair, a join, a person or an incident put here. Where that is not enough, the step does not run.

Layout: `trash/ledger`, `trash/items/<id>`. A file or symlink is its own inode, a directory an empty one.
Rejected: names that keep the path (4,095 bytes do not fit below), and deduplication (bytes in the trash
must not depend on each other).
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock

import msgpack

from closeranks_proto.entries import Kind
from closeranks_proto.messages import TrashItem

from .. import beneath
from ..disk.volume import Volume
from .ageing import Ageing
from .items import Discard, Kept, decode, discard_of, encode, item_of, marker, settled_up_to
from .ledger import Ledger
from .workroom import Workroom, open_workroom

log = logging.getLogger("closeranks.converge")

CONTENTS_MAX = 100_000  # found by their content, some 150 bytes each
ROOM_SHARE = 16  # when room is made, for this part of the trash at once: the ledger is written anew each time
MAX_ITEMS = 1_000_000  # names in one directory, and 70 bytes of memory each while the trash is open
DEFAULT_SHARE = 10  # a tenth of the filesystem
LEDGER = b"ledger"
INCIDENTS = b"incidents"  # since when each open incident is known here


@dataclass(slots=True)
class _State:
    room: Workroom
    ledger: Ledger
    names: set[bytes]
    used: int = 0
    next_number: int = 1
    users: int = 0
    by_incident: dict[str, int] = field(default_factory=dict)
    contents: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)  # content digest -> newest item


class TrashFull(Exception):
    """A batch does not fit. `needed` and `free` are bytes of the trash's bound."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"the trash has room for {free} bytes, {needed} are needed")
        self.needed, self.free = needed, free


class Trash:
    """The trash of one volume. All methods are synchronous and may be called from any thread."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lock = RLock()
        self._state: _State | None = None
        self._ageing: Ageing | None = None  # since the trash was first opened
        self._closed_bytes: int | None = None  # what it held when it was closed last
        self._open_since: dict[str, int] = {}  # when open incidents were first heard of

    @contextmanager
    def opened(self) -> Iterator[Workroom]:
        """Keep the trash open; the first to open it recovers what a kill left behind."""
        with self._lock:
            if self._state is None:
                self._state = self._load()
            state = self._state
            state.users += 1
        try:
            yield state.room
        finally:
            with self._lock:
                state.users -= 1
                if not state.users:
                    self._state, self._closed_bytes = None, state.used
                    state.ledger.close()
                    state.room.close()

    def prepare(self) -> None:
        """Make the ledger and reserve room in it, while there still is some. Raises VolumeGone, OSError."""
        with self.opened():
            pass

    @property
    def max_bytes(self) -> int:
        """The bound in force."""
        configured = self._volume.settings.trash_max_bytes
        if configured is not None:
            return configured
        status = os.statvfs(self._volume.path)
        return status.f_blocks * status.f_frsize // DEFAULT_SHARE

    @property
    def held_bytes(self) -> int | None:
        """What it holds; None while it was never opened. Reads nothing, and waits for nobody."""
        state = self._state
        return self._closed_bytes if state is None else state.used

    def usage(self) -> dict[str, int]:
        """Bytes held, by incident."""
        with self.opened(), self._lock:
            return dict(self._open_state().by_incident)

    # --- putting ---------------------------------------------------------------------------------

    def intend(self, discards: Sequence[Discard], incident: str, ordinary: bool = False) -> list[str]:
        """Durably announce that these entries are about to come; their ids, under which they go to items_fd.

        Raises TrashFull, with nothing announced, and OSError.
        """
        with self._lock:
            state = self._open_state()
            needed = sum(one.charge for one in discards)
            free = self.max_bytes - state.used
            if needed > free or len(state.names) + len(discards) > MAX_ITEMS:
                raise TrashFull(needed, max(0, free))
            state.ledger.prepare()
            now, at_ms = time.time_ns() // 1_000_000, self._now_ms()
            first = state.next_number
            kept = [Kept(first + at, now, at_ms, incident, one, ordinary) for at, one in enumerate(discards)]
            state.ledger.append(encode(one) for one in kept)
            state.ledger.sync()
            state.next_number += len(discards)
            return [one.id for one in kept]

    def settle(self, done: Sequence[tuple[str, Discard]], incident: str, ordinary: bool = False) -> None:
        """The batch is over: these items have arrived, and no exchange is pending any more."""
        with self._lock:
            state = self._open_state()
            for item_id, discard in done:
                self._count(state, Kept(int(item_id, 16), 0, 0, incident, discard, ordinary))
            state.ledger.append([marker(state.next_number - 1)])

    def has_room(self, charge: int, count: int) -> bool:
        """Whether `count` more items of `charge` bytes in all fit."""
        with self._lock:
            state = self._open_state()
            return state.used + charge <= self.max_bytes and len(state.names) + count <= MAX_ITEMS

    def find(self, content: bytes) -> bytes | None:
        """The id of an item with that content digest, of those that came last. The trash must be open."""
        with self._lock:
            return self._open_state().contents.get(content)

    # --- looking ---------------------------------------------------------------------------------

    def items(self, incident: str, limit: int, cursor: str) -> tuple[tuple[TrashItem, ...], str | None]:
        """A page of items, oldest first ("" for all incidents), and the cursor of the next page."""
        found: list[TrashItem] = []
        with self.opened(), self._lock:
            for kept in self.kept():
                if kept.id <= cursor or (incident and kept.incident != incident):
                    continue
                if len(found) == limit:
                    return tuple(found), found[-1].id
                found.append(item_of(self._volume.name, kept))
        return tuple(found), None

    def kept(self) -> Iterator[Kept]:
        """The items that are really here, oldest first. The trash must be open; it is locked meanwhile."""
        with self._lock:
            state = self._open_state()
            for record in state.ledger.read():
                kept = decode(record)
                if kept is not None and kept.id.encode() in state.names:
                    yield kept

    # --- evicting --------------------------------------------------------------------------------

    def evict(self, open_incidents: Collection[str], now_ms: int | None = None) -> int:
        """Remove what is older than `trash_keep_s` and than every open incident. Bytes freed.

        An incident is as old as the first item that it put here. `now_ms` is of the trash's own clock.
        """
        with self.opened(), self._lock:
            state = self._open_state()
            assert self._ageing is not None, "an open trash has a clock"
            self._ageing.save(state.room.trash_fd)
            now = self._now_ms() if now_ms is None else now_ms
            opened = [one.at_ms for one in self.kept() if one.incident in open_incidents]
            before = min([now - int(self._volume.settings.trash_keep_s * 1000), *opened])
            gone = [one for one in self.kept() if one.at_ms < before]
            return self._drop(state, gone)

    def note_incidents(self, open_incidents: Collection[str]) -> None:
        """Remember since when these are open: what came later is not dropped to make room. The trash must be open.

        A restart must not make them younger, so it is kept on disk, where that has room.
        """
        with self._lock:
            if set(open_incidents) == self._open_since.keys():
                return
            now = self._now_ms()
            self._open_since = {one: self._open_since.get(one, now) for one in sorted(open_incidents)}
            try:
                since = Ledger(self._open_state().room.trash_fd, INCIDENTS)
                try:
                    since.replace([msgpack.packb(pair) for pair in self._open_since.items()])
                finally:
                    since.close()
            except OSError as error:
                log.warning("%s: since when incidents are open is not on disk: %s", self._volume.name, error)

    def make_room(
        self, charge: int, count: int, open_incidents: Collection[str], keep: Collection[bytes] = ()
    ) -> bool:
        """Drop the oldest ordinary items, if that makes room for `count` items of `charge` bytes in all.

        Nothing is dropped that is younger than an open incident, or whose id is one of `keep`, and nothing where it
        would not be enough.
        """
        with self.opened(), self._lock:
            self.note_incidents(open_incidents)
            state = self._open_state()
            most_bytes = self.max_bytes
            opened = [one.at_ms for one in self.kept() if one.incident in open_incidents]
            before = min([*opened, *self._open_since.values()], default=None)
            used, items = state.used + charge, len(state.names) + count
            wished_bytes, wished_items = (
                most_bytes - most_bytes // ROOM_SHARE,
                MAX_ITEMS - MAX_ITEMS // ROOM_SHARE,
            )
            gone: list[Kept] = []
            for one in self.kept():
                if (used <= wished_bytes and items <= wished_items) or (
                    before is not None and one.at_ms >= before
                ):
                    break
                if one.ordinary and not one.incident and one.id.encode() not in keep:
                    gone.append(one)
                    used, items = used - one.discard.charge, items - 1
            if used > most_bytes or items > MAX_ITEMS:
                return False
            self._drop(state, gone)
            return True

    def _drop(self, state: _State, gone: Sequence[Kept]) -> int:
        """Remove items and their records. Bytes freed."""
        if not gone:
            return 0
        for one in gone:
            _remove(state.room.items_fd, one.id.encode())
            state.names.discard(one.id.encode())
            state.used -= one.discard.charge
            state.by_incident[one.incident] -= one.discard.charge
            content = one.discard.content(self._volume.algorithm.width)
            if content and state.contents.get(content) == one.id.encode():
                del state.contents[content]
        head = marker(state.next_number - 1)
        state.ledger.replace([head, *(encode(one) for one in self.kept())])
        return sum(one.discard.charge for one in gone)

    # --- opening ---------------------------------------------------------------------------------

    def _open_state(self) -> _State:
        assert self._state is not None, "the trash is used while it is not open"
        return self._state

    def _now_ms(self) -> int:
        assert self._ageing is not None, "an open trash has a clock"
        return self._ageing.now_ms()

    def _load(self) -> _State:
        room = open_workroom(self._volume)
        try:
            if self._ageing is None:
                self._ageing = Ageing(room.trash_fd)
            state = _State(
                room, Ledger(room.trash_fd, LEDGER), {os.fsencode(name) for name in os.listdir(room.items_fd)}
            )
        except BaseException:
            room.close()
            raise
        try:
            state.ledger.prepare()
            self._read(state)
        except BaseException:
            state.ledger.close()
            room.close()
            raise
        return state

    def _read(self, state: _State) -> None:
        pending: list[Kept] = []
        known: set[bytes] = set()
        for record in state.ledger.read():
            kept = decode(record)
            if kept is None:
                state.next_number = max(state.next_number, settled_up_to(record) + 1)
                pending.clear()
                continue
            state.next_number = max(state.next_number, kept.number + 1)
            known.add(kept.id.encode())
            pending.append(kept)
            if kept.id.encode() in state.names:
                self._count(state, kept)
        for kept in pending:
            if recover(state.room, kept):
                self._count(state, kept)
        self._open_since = _open_since(state.room.trash_fd) | self._open_since
        self._adopt(state, sorted(state.names - known))

    def _adopt(self, state: _State, names: Sequence[bytes]) -> None:
        """Items whose records were lost with a damaged ledger are listed again, under a made-up path."""
        for name in names:
            status = os.stat(name, dir_fd=state.room.items_fd, follow_symlinks=False)
            discard = discard_of(b"recovered\0" + name, status, "removed", b"", b"")
            try:
                number = int(name, 16)
            except ValueError:
                continue  # not ours: somebody put a file here by hand
            state.next_number = max(state.next_number, number + 1)
            kept = Kept(number, time.time_ns() // 1_000_000, self._now_ms(), "", discard)
            state.ledger.append([encode(kept)])
            self._count(state, kept)

    def _count(self, state: _State, kept: Kept) -> None:
        """An item is really here."""
        name, charge = kept.id.encode(), kept.discard.charge
        state.names.add(name)
        state.used += charge
        state.by_incident[kept.incident] = state.by_incident.get(kept.incident, 0) + charge
        content = kept.discard.content(self._volume.algorithm.width)
        if content:
            state.contents.pop(content, None)
            state.contents[content] = name
            if len(state.contents) > CONTENTS_MAX:
                state.contents.popitem(last=False)


def _open_since(trash_fd: int) -> dict[str, int]:
    since = Ledger(trash_fd, INCIDENTS)
    try:
        found: dict[str, int] = {}
        for record in since.read():
            match record:
                case (str(incident), int(at)):
                    found[incident] = at
                case _:
                    raise since.damaged()
        return found
    finally:
        since.close()


def recover(room: Workroom, kept: Kept) -> bool:
    """Finish an exchange that a kill cut off: its old file lies in the stage. True if it is an item now.

    A directory that was exchanged out and is not empty goes back to its place instead.
    """
    name, discard = kept.discard.stage_name, kept.discard
    if not name:
        return False
    try:
        status = os.stat(name, dir_fd=room.stage_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if status.st_ino != discard.inode:
        return False  # the staged new file: the exchange never happened, or was taken back
    if discard.kind is Kind.DIRECTORY:
        try:
            os.rmdir(name, dir_fd=room.stage_fd)
        except OSError:
            with beneath.spot(room.root_fd, discard.key) as where:
                beneath.exchange(name, room.stage_fd, where.name, where.parent_fd)
        return False
    beneath.move_new(name, room.stage_fd, kept.id.encode(), room.items_fd)
    os.fsync(room.items_fd)
    return True


def _remove(items_fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=items_fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        os.rmdir(name, dir_fd=items_fd)
