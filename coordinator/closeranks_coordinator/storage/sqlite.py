"""The store in one SQLite file, through apsw.

Two connections: one writes, on its own thread (`store_writer`); one reads, for callers on the event loop,
behind a cache bounded in bytes. WAL lets them work side by side; `synchronous=FULL` makes a commit's
return mean what `write` promises. What is queued can be read from an overlay until it is committed.

Layout: objects' keys stand in a table of their own (`objects`, WITHOUT ROWID, 40 bytes a row), their bytes
in `bodies`. Measured with 20,000 pages of 4.4 KB: as fast to write as one table with an index, while one
WITHOUT ROWID table costs 3 times the time and 10% more room; `has` and the collection's scan of all
digests never touch a body. Pages of 4,096 bytes: 16,384 gain nothing in room and make small commits 4
times as long in the WAL.

Bytes read from the disk are compared with their digest. A damaged object counts as missing, and since
nothing says which trees contain it, `has` denies every tree until an agent has brought it again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import apsw

from closeranks_proto.digests import DigestAlgorithm, algorithm_named
from closeranks_proto.errors import MissingObject

from .cache import CACHE_BYTES, Cache
from .collector import Collector
from .reserve import Reserve
from .schema import DATABASE_NAME, SELECT_BODY, connect, damaged, prepare
from .seclusion import close_to_others
from .store import (
    PROTECT_S,
    Batch,
    GcReport,
    NodeRoot,
    RootAt,
    StateLock,
    StoreClosed,
    StoreCounts,
    StoredEvent,
    StoreFault,
)
from .writer import Delta, Writer

log = logging.getLogger("closeranks.store")

# Beyond so much waiting for the disk, callers of `write` wait before they queue.
QUEUED_MAX_BYTES = 64 * 1024 * 1024


def open_store(
    state_dir: Path,
    digest: str,
    *,
    cache_bytes: int = CACHE_BYTES,
    protect_s: float = PROTECT_S,
    mono: Callable[[], float] = time.monotonic,
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> SqliteStore:
    """The store of `state_dir`, made if it is not there.

    Raises StateLocked when another process has it, UserError when it was made with another digest or by
    another version of this program, OSError when the directory or the database can not be used.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = StateLock(state_dir)
    path = state_dir / DATABASE_NAME
    reserve = Reserve(state_dir)
    try:
        close_to_others(state_dir)
        try:
            epoch = prepare(path, digest)
        except (apsw.FullError, apsw.CantOpenError, apsw.IOError):
            if not reserve.give_up():
                raise
            epoch = prepare(path, digest)
        algorithm = algorithm_named(digest)
        return SqliteStore(path, lock, reserve, algorithm, epoch, cache_bytes, protect_s, mono, wall_ms)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        lock.release()
        raise damaged(path, error) from error
    except apsw.Error as error:
        lock.release()
        raise OSError(f"{path}: {error}") from error
    except BaseException:
        lock.release()
        raise


class SqliteStore:
    """`Store` on SQLite, made by `open_store`. `write`, `collect` and `close` belong to one event loop."""

    def __init__(
        self,
        path: Path,
        lock: StateLock,
        reserve: Reserve,
        algorithm: DigestAlgorithm,
        epoch: int,
        cache_bytes: int,
        protect_s: float,
        mono: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._path = path
        self._lock = lock
        self._algorithm = algorithm
        self._wall_ms = wall_ms
        self._guard = threading.Lock()  # of the reading connection and the cache
        self._reader = connect(path, read_only=True)
        self._damaged: set[bytes] = set()
        self._writer = Writer(path, epoch, reserve, self._damaged.__contains__)
        self._cache = Cache(cache_bytes)
        self._collector = Collector(path, algorithm.width, self._writer, protect_s, mono, self._removed)
        self._collecting = asyncio.Lock()
        self._overlay: dict[bytes, tuple[bytes, int]] = {}  # queued objects, and in how many batches
        self._queued_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._batches = 0
        self._fault: str | None = None  # of the last write, where the disk failed
        self._closed = False
        self._load()

    def _load(self) -> None:
        execute = self._reader.execute
        self._roots = {
            (node, volume): NodeRoot(agent_id, seq, root)
            for node, volume, agent_id, seq, root in execute("SELECT * FROM node_roots")
        }
        objects = execute("SELECT count(*) FROM objects").get
        object_bytes = execute("SELECT coalesce(sum(bytes), 0) FROM objects").get
        self._sums = Delta(objects, object_bytes, execute("SELECT count(*) FROM root_history").get)

    # --- reading ---------------------------------------------------------------------------------

    def object(self, digest: bytes) -> bytes:
        queued = self._overlay.get(digest)
        if queued is not None:
            return queued[0]
        with self._guard:
            body = self._cache.get(digest)
            if body is not None:
                return body
            body = self._reader.execute(SELECT_BODY, (digest,)).get
            if body is None or digest in self._damaged:
                raise MissingObject(digest)
            if self._algorithm.of(body) != digest:
                self._damaged.add(digest)
                log.error(
                    "object %s in %s is damaged: agents are asked for their trees again",
                    digest.hex(),
                    self._path,
                )
                raise MissingObject(digest)
            self._cache.put(digest, body)
            return bytes(body)

    def has(self, digest: bytes) -> bool:
        if self._damaged or self._collector.dooms(digest):
            return False
        if digest not in self._cache:
            with self._guard:
                if self._reader.execute("SELECT 1 FROM objects WHERE digest = ?", (digest,)).get is None:
                    return False
        self._collector.affirmed(digest)
        return True

    def records(self) -> list[tuple[str, str, bytes]]:
        with self._guard:
            return list(self._reader.execute("SELECT kind, key, value FROM records ORDER BY kind, key"))

    def node_root(self, node: str, volume: str) -> NodeRoot | None:
        return self._roots.get((node, volume))

    def node_roots(self) -> dict[tuple[str, str], NodeRoot]:
        return dict(self._roots)

    def root_history(self, node: str, volume: str, since_ms: int, limit: int = 1000) -> list[RootAt]:
        with self._guard:
            found = self._reader.execute(
                "SELECT seq, root, wall_ms FROM root_history WHERE node = ?1 AND volume = ?2 AND id >="
                " coalesce((SELECT max(id) FROM root_history"
                "  WHERE node = ?1 AND volume = ?2 AND wall_ms <= ?3), 0)"
                " ORDER BY id DESC LIMIT ?4",
                (node, volume, since_ms, limit),
            )
            return [RootAt(seq, root, wall_ms) for seq, root, wall_ms in found][::-1]

    def events(self) -> list[StoredEvent]:
        with self._guard:
            return [StoredEvent(*row) for row in self._reader.execute("SELECT * FROM events ORDER BY id")]

    def meta(self, key: str) -> bytes | None:
        with self._guard:
            found: bytes | None = self._reader.execute("SELECT value FROM meta WHERE name = ?", (key,)).get
            return found

    def counts(self) -> StoreCounts:
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return StoreCounts(
            objects=self._sums.objects,
            object_bytes=self._sums.object_bytes,
            database_bytes=sum(found.stat().st_size for found in files if found.exists()),
            node_roots=len(self._roots),
            history=self._sums.history,
            queued_bytes=self._queued_bytes,
            cached_bytes=self._cache.bytes,
            cache_max_bytes=self._cache.max_bytes,
            commits=self._writer.commits,
            batches=self._batches,
            fault=self._fault or self._writer.shortage,
        )

    # --- writing ---------------------------------------------------------------------------------

    async def write(self, batch: Batch) -> None:
        if self._closed:
            raise StoreClosed("the store is closed")
        loop = asyncio.get_running_loop()
        for digest, body in batch.objects.items():
            self._overlay[digest] = (body, self._overlay.get(digest, (b"", 0))[1] + 1)
        size = batch.size_bytes
        try:
            while self._queued_bytes > QUEUED_MAX_BYTES:
                self._room.clear()
                await self._room.wait()
        except asyncio.CancelledError:
            self._uncover(batch)
            raise
        self._queued_bytes += size
        answer: asyncio.Future[None] = loop.create_future()

        def settle(result: Delta | Exception) -> None:
            self._settle(batch, size, result)
            if answer.done():
                return  # the caller was cancelled; the batch is as it is
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(None)

        self._writer.write(batch, self._wall_ms(), lambda result: _call_soon(loop, settle, result))
        await answer

    def _settle(self, batch: Batch, size: int, result: Delta | Exception) -> None:
        self._queued_bytes -= size
        if self._queued_bytes <= QUEUED_MAX_BYTES:
            self._room.set()
        if isinstance(result, StoreFault):
            self._fault = str(result)
        if isinstance(result, Delta):
            self._fault = None
            self._batches += 1
            self._sums += result
            for node, volume, agent_id, seq, root in batch.node_roots:
                self._roots[node, volume] = NodeRoot(agent_id, seq, root)
            for name in batch.forget:
                self._roots.pop(name, None)
            if batch.objects:
                self._collector.brought(batch.objects)
                self._damaged.difference_update(batch.objects)
                with self._guard:
                    for digest, body in batch.objects.items():
                        self._cache.put(digest, body)
        self._uncover(batch)

    def _uncover(self, batch: Batch) -> None:
        for digest in batch.objects:
            body, times = self._overlay.pop(digest)
            if times > 1:
                self._overlay[digest] = (body, times - 1)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._collector.stop()
        async with self._collecting:
            with self._guard:
                self._reader.close()
            # The last to close moves the WAL into the file, which a reading connection can not do.
            await asyncio.to_thread(self._writer.close)
            self._lock.release()

    # --- collecting ------------------------------------------------------------------------------

    async def collect(self, live: Iterable[bytes], history_before_ms: int | None = None) -> GcReport:
        async with self._collecting:
            if self._closed:
                raise StoreClosed("the store is closed")
            return await self._collector.collect(live, history_before_ms)

    def _removed(self, sums: Delta, digests: Iterable[bytes]) -> None:
        self._sums += sums
        with self._guard:
            for digest in digests:
                self._cache.drop(digest)


def _call_soon(
    loop: asyncio.AbstractEventLoop, settle: Callable[[Delta | Exception], None], result: Delta | Exception
) -> None:
    """Back to the event loop. A loop that is gone leaves nobody to tell."""
    try:
        loop.call_soon_threadsafe(settle, result)
    except RuntimeError:
        log.warning("a batch was settled after its event loop had ended: %r", result)
