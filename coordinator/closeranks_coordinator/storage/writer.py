"""The one thread that writes to the SQLite store.

It takes whatever has queued up, makes one transaction of it, and only then tells the callers: sixteen
commits that arrive together cost one fsync. When a shared transaction fails, its batches are tried one by
one, so that a small record still gets through when a large batch does not fit. On a full disk the room set
aside (`reserve`) is for small changes, and then for the core's records and for collecting garbage.

SQLite allows one writer; a second writing connection would only add waiting and, before 3.51.3, a way to
corrupt a WAL database. Rejected: writing on the event loop (an fsync takes 1 to 100 ms).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import apsw

from .reserve import Reserve
from .schema import BUSY_WAIT_MS, connect
from .store import Batch, StoreFault, StoreFull

log = logging.getLogger("closeranks.store")

T = TypeVar("T")
GROUP_MAX_BATCHES = 256
GROUP_MAX_BYTES = 8 * 1024 * 1024
EVENTS_KEPT = 10_000
SHRINK_WAIT_MS = 200
RELIEF_EVERY_S = 1.0  # while it is tight, whether there is room again, also where nobody writes
# Below this much free space any failed write counts as "full", whatever code SQLite found for it.
FULL_BELOW_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Delta:
    """How a transaction changed the counts."""

    objects: int = 0
    object_bytes: int = 0
    history: int = 0

    def __add__(self, other: Delta) -> Delta:
        return Delta(
            self.objects + other.objects, self.object_bytes + other.object_bytes, self.history + other.history
        )


@dataclass(frozen=True, slots=True)
class _Write:
    batch: Batch
    wall_ms: int
    done: Callable[[Delta | Exception], None]


@dataclass(frozen=True, slots=True)
class _Call:
    run: Callable[[apsw.Connection], None]


class Writer:
    """Owns the writing connection. `epoch` is stamped on every object written (see `store_gc`)."""

    def __init__(self, path: Path, epoch: int, reserve: Reserve, rewrite: Callable[[bytes], bool]) -> None:
        self.epoch = epoch
        self._reserve = reserve
        # What an earlier process has left of its reserve is for fences still.
        self._tight = not reserve.hold() and reserve.free_bytes() < reserve.needed_bytes
        self.commits = 0
        self._path = path
        self._rewrite = rewrite  # digests whose stored bytes were found damaged
        self._queue: queue.SimpleQueue[_Write | _Call | None] = queue.SimpleQueue()
        self._connection = connect(path)
        self._thread = threading.Thread(target=self._work, name="closeranks-store", daemon=True)
        self._thread.start()

    def write(self, batch: Batch, wall_ms: int, done: Callable[[Delta | Exception], None]) -> None:
        """Queue a batch; `done` is called on the writer's thread once it is durable or has failed."""
        self._queue.put(_Write(batch, wall_ms, done))

    async def call(self, run: Callable[[apsw.Connection], T]) -> T:
        """Run one transaction of the store's own on the writer's thread, behind what is queued."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if answer.done():
                return  # the caller was cancelled
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def work(connection: apsw.Connection) -> None:
            try:
                with connection:
                    result = run(connection)
            except Exception as error:  # noqa: BLE001 - the caller gets it
                fault = self.fault(error)
                if isinstance(fault, StoreFull) and self._give_up():
                    work(connection)
                else:
                    loop.call_soon_threadsafe(settle, None, fault)
            else:
                loop.call_soon_threadsafe(settle, result, None)

        self._queue.put(_Call(work))
        return await answer

    async def shrink(self) -> None:
        """Move the write-ahead log into the database and give its room back, unless somebody reads from it now."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if error is not None:
                log.warning("the write-ahead log could not be shortened: %s", error)
            if not done.done():
                done.set_result(None)

        def work(connection: apsw.Connection) -> None:
            error: Exception | None = None
            try:
                # Writes that are queued shall not wait for a reader.
                connection.set_busy_timeout(SHRINK_WAIT_MS)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except apsw.Error as fault:
                error = self.fault(fault)
            finally:
                connection.set_busy_timeout(BUSY_WAIT_MS)
            loop.call_soon_threadsafe(settle, error)

        self._queue.put(_Call(work))
        await done

    def close(self) -> None:
        """Finish the queue and the connection; blocks."""
        self._queue.put(None)
        self._thread.join()

    def fault(self, error: Exception) -> Exception:
        """The typed error of a failed statement; what SQLite has no part in stays what it is."""
        if not isinstance(error, apsw.Error):
            return error
        if isinstance(error, apsw.FullError) or self._reserve.free_bytes() < FULL_BELOW_BYTES:
            return self._full()
        return StoreFault(
            errno.EIO, f"the coordinator's database {self._path} failed: {error}", str(self._path)
        )

    @property
    def shortage(self) -> str | None:
        """Why what agents tell has to wait, though single records may still be written; any thread."""
        return str(self._full()) if self._tight else None

    def _full(self) -> StoreFull:
        return StoreFull(
            errno.ENOSPC,
            f"there is no room left for the coordinator's state in {self._path.parent}, so nothing large, and soon "
            f"nothing new, is taken from any node; make room on that disk ({self._reserve.needed_bytes / 1e6:.1f} MB "
            "must be free) and it goes on by itself",
            str(self._path.parent),
        )

    def _give_up(self) -> bool:
        """Use the room set aside; from now on it is tight."""
        self._tight = True
        return self._reserve.give_up()

    def _let_on(self, group: list[_Write]) -> list[_Write]:
        """While it is tight only what is small, all in all, or what the core has decided; until there is a reserve.

        The others are told that they have to wait.
        """
        self._relieve()
        found: list[_Write] = []
        size = objects = 0
        for one in group:
            batch = one.batch
            decided = batch.records or (batch.node_roots and not batch.objects)
            with_it = size + batch.size_bytes, objects + len(batch.objects)
            if self._tight and not decided and not self._reserve.bears(*with_it):
                one.done(self._full())
                continue
            size, objects = with_it
            found.append(one)
        return found

    def _relieve(self) -> None:
        if self._tight and self._reserve.hold():
            self._tight = False

    # --- on the thread ---------------------------------------------------------------------------

    def _next(self) -> _Write | _Call | None:
        while self._tight:
            try:
                return self._queue.get(timeout=RELIEF_EVERY_S)
            except queue.Empty:
                self._relieve()
        return self._queue.get()

    def _work(self) -> None:
        try:
            while (first := self._next()) is not None:
                match first:
                    case _Call():
                        first.run(self._connection)
                    case _Write():
                        after = self._write_group(self._gather(first))
                        if isinstance(after, _Call):
                            after.run(self._connection)
                        elif after is not None:
                            return
        finally:
            self._connection.close()

    def _gather(self, first: _Write) -> tuple[list[_Write], _Call | bool | None]:
        """All that waits, up to the bounds; and what came behind it: a call, True for the end, None."""
        group = [first]
        size = first.batch.size_bytes
        while len(group) < GROUP_MAX_BATCHES and size < GROUP_MAX_BYTES:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(following, _Write):
                return group, True if following is None else following
            group.append(following)
            size += following.batch.size_bytes
        return group, None

    def _write_group(self, gathered: tuple[list[_Write], _Call | bool | None]) -> _Call | bool | None:
        group, after = gathered
        if self._tight:
            group = self._let_on(group)
        try:
            deltas = self._transact(group) if group else []
        except Exception as error:  # noqa: BLE001 - the callers get it; the thread must live on
            fault = self.fault(error)
            if len(group) == 1 and isinstance(fault, StoreFull) and self._give_up():
                self._once_more(group[0])
            elif len(group) == 1:
                group[0].done(fault)
            else:
                for one in group:
                    self._write_group(([one], None))
            return after
        for one, delta in zip(group, deltas, strict=True):
            one.done(delta)
        return after

    def _once_more(self, one: _Write) -> None:
        """With the room that was set aside; once, for a disk may be full whatever its free bytes say (a quota)."""
        if not self._let_on([one]):
            return
        try:
            (delta,) = self._transact([one])
        except Exception as error:  # noqa: BLE001 - the caller gets it; the thread must live on
            one.done(self.fault(error))
        else:
            one.done(delta)

    def _transact(self, group: list[_Write]) -> list[Delta]:
        """All of them in one transaction, or an exception and none of them."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            deltas = [self._apply(one) for one in group]
            self._connection.execute("COMMIT")
        except Exception:
            # SQLite has rolled back by itself after some errors (full disk among them), not after others.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.commits += 1
        return deltas

    def _apply(self, one: _Write) -> Delta:
        batch = one.batch
        execute = self._connection.execute
        delta = Delta()
        for digest, body in batch.objects.items():
            delta += self._put_object(digest, body)
        for kind, key, blob in batch.records:
            if blob is None:
                execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))
            else:
                execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, key, blob))
        for node, volume, agent_id, seq, root in batch.node_roots:
            before = execute("SELECT root FROM node_roots WHERE node = ? AND volume = ?", (node, volume)).get
            execute(
                "INSERT OR REPLACE INTO node_roots VALUES (?, ?, ?, ?, ?)",
                (node, volume, agent_id, seq, root),
            )
            if before != root:
                execute(
                    "INSERT INTO root_history (node, volume, seq, root, wall_ms) VALUES (?, ?, ?, ?, ?)",
                    (node, volume, seq, root, one.wall_ms),
                )
                delta += Delta(history=1)
        for node, volume in batch.forget:
            execute("DELETE FROM node_roots WHERE node = ? AND volume = ?", (node, volume))
            execute("DELETE FROM root_history WHERE node = ? AND volume = ?", (node, volume))
            delta += Delta(history=-self._connection.changes())
        for event in batch.events:
            execute(
                "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)",
                (event.id, event.kind, event.ref, event.wall_ms),
            )
        if batch.events:
            execute("DELETE FROM events WHERE id <= ?", (batch.events[-1].id - EVENTS_KEPT,))
        for name, blob in batch.meta.items():
            execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, blob))
        return delta

    def _put_object(self, digest: bytes, body: bytes) -> Delta:
        execute = self._connection.execute
        found = execute("SELECT body, epoch FROM objects WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            execute("INSERT INTO bodies (body) VALUES (?)", (body,))
            execute(
                "INSERT INTO objects VALUES (?, ?, ?, ?)",
                (digest, self._connection.last_insert_rowid(), len(body), self.epoch),
            )
            return Delta(objects=1, object_bytes=len(body))
        body_id, epoch = found
        if epoch < self.epoch:
            execute("UPDATE objects SET epoch = ? WHERE digest = ?", (self.epoch, digest))
        if self._rewrite(digest):
            execute("UPDATE bodies SET body = ? WHERE id = ?", (body, body_id))
        return Delta()
