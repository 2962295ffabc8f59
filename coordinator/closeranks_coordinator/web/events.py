"""What looks different now, in order, for everybody who listens.

An event says only *which* node, volume, incident or action changed; what it looks like is asked when it
is delivered. So a listener who is slow gets the newest state once instead of ten old ones, and waiting
events are bounded by the number of things in the fleet.

Ids grow for ever, over restarts too: each start begins at the wall clock's milliseconds or behind the
last stored id, whichever is more. The last RING_MAX events are kept, in memory and, a moment later, in
the store. A listener who comes back with an id from which not everything is known any more (too old, or
from before a crash that took the last moment's events along) is told to look at everything again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice

from closeranks_proto import limits

from ..storage.store import Batch, Store, StoredEvent, StoreFault, StoreFull

log = logging.getLogger("closeranks.events")

RING_MAX = 10_000
WAITING_MAX = 2_000  # different things that one listener may be behind by
LISTENERS_MAX = 256
SHARED_MAX_BYTES = 4 * limits.MIB  # of events as they were sent last: some two thousand nodes
SHARED_S = 1.0
FLUSH_AFTER_S = 0.5
FLUSH_RETRY_S = 5.0
_CLEAN = "events_clean"  # the last id, written in an orderly end


class TooManyListeners(Exception):
    """LISTENERS_MAX are listening already."""


class Shared:
    """The newest events as bytes. The first listener that sends one makes them, for all that send it soon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made: OrderedDict[int, tuple[float, bytes]] = OrderedDict()  # by the event's id
        self._bytes = 0

    def get(self, event: StoredEvent) -> bytes | None:
        """None where nobody has made them yet, or too long ago: ages and rates in them are of then."""
        found = self._made.get(event.id)
        return None if found is None or self._clock() - found[0] > SHARED_S else found[1]

    def put(self, event: StoredEvent, data: bytes) -> None:
        before = self._made.pop(event.id, (0.0, b""))
        self._made[event.id] = self._clock(), data
        self._bytes += len(data) - len(before[1])
        while self._bytes > SHARED_MAX_BYTES:
            self._bytes -= len(self._made.popitem(last=False)[1][1])


class Listener:
    """One reader of the log. Iterating it gives the next event, or None: look at everything again."""

    def __init__(self, latest: int) -> None:
        self.latest = latest  # id of the newest event when it began
        self._waiting: OrderedDict[tuple[str, str], StoredEvent] = OrderedDict()
        self._reset = False
        self._closed = False
        self._news = asyncio.Event()

    def offer(self, event: StoredEvent) -> None:
        """Put an event in line, in the place of an older one about the same thing."""
        key = (event.kind, event.ref)
        self._waiting.pop(key, None)
        self._waiting[key] = event
        if len(self._waiting) > WAITING_MAX:
            self.reset(event.id)
        self._news.set()

    def reset(self, latest: int) -> None:
        self._waiting.clear()
        self._reset = True
        self.latest = latest
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> StoredEvent | None:
        while not self._closed:
            if self._reset:
                self._reset = False
                return None
            if self._waiting:
                return self._waiting.popitem(last=False)[1]
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration


class EventLog:
    """The ring, its listeners and its copy in the store. Belongs to one event loop."""

    def __init__(
        self, store: Store, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._store = store
        self._wall_ms = wall_ms
        stored = store.events()
        last = stored[-1].id if stored else 0
        clean = store.meta(_CLEAN) == str(last).encode()
        self._next = max(wall_ms(), last + 1)
        # Events up to this id may be unknown here: whoever saw nothing newer looks at everything again.
        self._forgotten = (stored[0].id - 1 if stored else 0) if clean else self._next - 1
        self._ring: deque[StoredEvent] = deque(stored if clean else ())
        self._unsaved: deque[StoredEvent] = deque(maxlen=RING_MAX)
        self._listeners: set[Listener] = set()
        self.shared = Shared()
        self._flushing: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._closed = False
        self.latest = last if clean else self._next - 1

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def publish(self, kind: str, ref: str) -> int:
        """Tell every listener; the event's id. Durable within about FLUSH_AFTER_S."""
        event = StoredEvent(self._next, kind, ref, self._wall_ms())
        self.latest, self._next = event.id, event.id + 1
        if len(self._ring) >= RING_MAX:
            self._forgotten = self._ring.popleft().id
        self._ring.append(event)
        self._unsaved.append(event)
        for listener in self._listeners:
            listener.offer(event)
        if self._flushing is None and not self._closed:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self._flush)
        return event.id

    def listen(self, after: int | None) -> Listener:
        """Everything behind id `after`; None: from now on. Raises TooManyListeners. End it with `leave`."""
        if len(self._listeners) >= LISTENERS_MAX:
            raise TooManyListeners
        listener = Listener(self.latest)
        if after is not None:
            if not self._forgotten <= after <= self.latest:
                listener.reset(self.latest)
            else:
                start = bisect_right(self._ring, after, key=lambda event: event.id)
                for event in islice(self._ring, start, None):
                    listener.offer(event)
        if self._closed:
            listener.close()
        else:
            self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def hang_up(self) -> None:
        """End every listener and take no more: the process is going down."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """Hang up and make the rest durable; call it before the store is closed."""
        self.hang_up()
        if self._flushing is not None:
            self._flushing.cancel()
        if self._saving is not None:
            await self._saving
        await self._save({_CLEAN: str(self.latest).encode()} if self._ring else {})

    # --- the copy in the store -------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = None
        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(self._save({_CLEAN: b""}))
            self._saving.add_done_callback(self._saved)

    def _saved(self, task: asyncio.Task[None]) -> None:
        self._saving = None
        if self._unsaved and not self._closed and self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_RETRY_S, self._flush)

    async def _save(self, meta: dict[str, bytes]) -> None:
        taken = list(self._unsaved)
        try:
            await self._store.write(Batch(events=taken, meta=meta))
        except (StoreFull, StoreFault) as error:
            log.warning("%d events are not stored yet: %s", len(taken), error)
            return
        while self._unsaved and taken and self._unsaved[0].id <= taken[-1].id:
            self._unsaved.popleft()
