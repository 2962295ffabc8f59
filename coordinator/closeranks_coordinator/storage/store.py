"""What the coordinator keeps on disk, as an interface: objects, records, roots, events.

Invariants that every implementation holds and every caller may build on:

- **Durable means durable.** `write` returns when its batch would survive a power loss, or raises and
  nothing of the batch is kept. Several batches at once become one transaction.
- **A stored object has its subtree stored.** Callers put children in the same batch as their parent or
  in one whose `write` has returned. `has` therefore speaks of whole trees, and of committed ones only:
  what is merely queued might still fail. `object` also gives what is queued.
- **What was just relied on stays.** An object that was written, or for which `has` said yes, is kept for
  at least PROTECT_S, whatever `collect` was told is live. A transfer that takes longer asks `has` again.

Rejected: reference counts on objects (every commit would rewrite the counts of shared pages, and one
lost count is for ever); deleting by age alone (a tree that nobody changes is all old).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from closeranks_proto.errors import CloseranksError, UserError

LOCK_RESTS_S = (0.01, 0.05, 0.1)  # between attempts
PROTECT_S = 3600.0


class StateLocked(UserError):
    """Another process works in this state directory."""


class StoreError(OSError):
    """What the world did to the store. `str()` is for people: no number of an error, no name in quotes at its end."""

    def __str__(self) -> str:
        return self.strerror or "the coordinator's state can not be written"


class StoreFull(StoreError):
    """No room for a batch. Nothing of it is kept; the same batch may be written again later."""


class StoreFault(StoreError):
    """The disk or the database failed in another way. Nothing of the batch is kept."""


class StoreClosed(CloseranksError):
    """Asked after `close`: our own order of shutting down is wrong."""


@dataclass(frozen=True, slots=True)
class NodeRoot:
    """The last accepted step of a node's volume; `root` None: nothing accepted yet."""

    agent_id: str
    seq: int
    root: bytes | None


@dataclass(frozen=True, slots=True)
class RootAt:
    """One moment of a node's past. `wall_ms` is the coordinator's clock when the root was stored."""

    seq: int
    root: bytes
    wall_ms: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Something looked different at `wall_ms`: `kind` (node, volume, incident, action) and which."""

    id: int
    kind: str
    ref: str
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What becomes durable together.

    `objects`: digest to bytes. `records`: (kind, key, blob; None deletes). `node_roots`: (node, volume,
    agent_id, seq, root). `forget`: (node, volume) whose root and past are dropped. `events`: new ones, ids
    growing. `meta`: the store's and the event log's own small facts.
    """

    objects: Mapping[bytes, bytes] = field(default_factory=dict)
    records: Sequence[tuple[str, str, bytes | None]] = ()
    node_roots: Sequence[tuple[str, str, str, int, bytes]] = ()
    forget: Sequence[tuple[str, str]] = ()
    events: Sequence[StoredEvent] = ()
    meta: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Roughly what it holds in memory while it waits."""
        return (
            sum(len(body) + 64 for body in self.objects.values())
            + sum(len(blob or b"") + 128 for _, _, blob in self.records)
            + 256 * (len(self.node_roots) + len(self.events) + len(self.forget))
        )


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """`object_bytes` are the objects' own bytes, `database_bytes` the files'."""

    objects: int
    object_bytes: int
    database_bytes: int
    node_roots: int
    history: int
    queued_bytes: int
    cached_bytes: int  # of objects kept in memory, and the most that may be
    cache_max_bytes: int
    commits: int  # transactions since the start
    batches: int  # batches that they carried
    fault: str | None = None  # how the disk failed the last write, or why most have to wait; None: it did not


@dataclass(frozen=True, slots=True)
class GcReport:
    """What one collection found. `complete` False: it was given up on the way; the log says why."""

    live: int
    removed: int
    removed_bytes: int
    history_removed: int
    duration_s: float
    complete: bool


class Store(Protocol):
    """See the module's invariants. Everything but `write`, `collect` and `close` answers at once."""

    def object(self, digest: bytes) -> bytes:
        """The bytes of an object, queued ones included. Raises MissingObject."""

    def has(self, digest: bytes) -> bool:
        """Whether the object *and everything beneath it* is durable."""

    def records(self) -> list[tuple[str, str, bytes]]:
        """Every record, ordered by kind and key."""

    def node_root(self, node: str, volume: str) -> NodeRoot | None: ...

    def node_roots(self) -> dict[tuple[str, str], NodeRoot]: ...

    def root_history(self, node: str, volume: str, since_ms: int, limit: int = 1000) -> list[RootAt]:
        """Oldest first, from the one that stood at `since_ms`; at most `limit`, the newest ones."""

    def events(self) -> list[StoredEvent]:
        """The events still kept, oldest first."""

    def meta(self, key: str) -> bytes | None: ...

    async def write(self, batch: Batch) -> None:
        """Durable when it returns. Raises StoreFull or StoreFault; then nothing of the batch is kept."""

    async def collect(self, live: Iterable[bytes], history_before_ms: int | None = None) -> GcReport:
        """Drop roots of the past before that moment, then objects that no live root reaches.

        Live are the given roots, every node's present root and what is left of its past. Writes go on
        meanwhile. What the disk or a damaged tree prevents is logged and done another time.
        """

    def counts(self) -> StoreCounts: ...

    async def close(self) -> None:
        """Finish what is queued, then let go of the state directory."""


class StateLock:
    """Whoever holds it is the only process at work in `state_dir`. The kernel frees it when we die."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not self._take():
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StateLocked(
                f"{state_dir} is in use by another coordinator{f' (process {holder})' if holder else ''}: "
                "two at once would each overwrite what the other recorded. Stop that one, or give this one "
                "another state_dir."
            )
        try:
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            # The number is only for the message above; a full disk must not keep us from starting.
            os.truncate(self._fd, 0)

    def _take(self) -> bool:
        """Whoever only asks who has it (`examination`) has it himself for a moment: that is waited for."""
        for rest_s in LOCK_RESTS_S:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(rest_s)
            else:
                return True
        return False

    def release(self) -> None:
        os.close(self._fd)
