"""Fetching chunks from several healthy peers at once.

Wants of all callers stand in one queue; up to FETCH_STREAMS_MAX streams take bundles from it, each from the
best peer of the moment. What a peer does not have, sends with wrong bytes or falls silent over is asked of
another. No chunk is ever asked of two peers at the same time: the bytes that are moved stay within the
bytes that are missing plus what failed on the way. Bytes are counted as they arrive, whatever becomes
of them.

A chunk is given up when every usable peer has denied it, or when for PATIENCE_S no peer gave anything.
Rejected: hedged requests for the last chunks, which would break the bound on bytes moved; requests are small
enough (REQUEST_SECONDS) that a slow peer delays the end by little.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from closeranks_proto.errors import ProtocolError
from closeranks_proto.limits import CHUNK_REQUEST_MAX_CHUNKS, FETCH_STREAMS_MAX, PEER_TIMEOUT_S
from closeranks_proto.messages import Member

from ..speed import Bucket
from .inflow import PACE_BYTES_S, Buffers, Inflow, PeerFailed
from .peers import Peer, Peers
from .reach import Reach, why_missed
from .straight import Answer, Connections
from .wire import NODE_HEADER, PATH, TERM_HEADER, ChunkName, ChunkRequest, Status, encode_request

log = logging.getLogger("closeranks.fetch")

REQUEST_SECONDS = 2.0
REQUEST_MAX_BYTES = 64 * 1024 * 1024
STREAM_BYTES_S = 64 * 1024  # a receive budget is shared by no more streams than leaves each of them this
REQUEST_NAMES_BYTES = 512 * 1024  # paths in one request, which is one small body
REQUEST_MIN_CHUNKS = 16  # a bundle is not cut smaller to spread it over more peers
SCAN_MAX = 4096  # wants looked at to fill one bundle
BATCH_CHUNKS = 128  # chunks that are verified and written in one hop to a thread
BATCH_BYTES = 4 * 1024 * 1024
LENT_MIN_BYTES = 64 * 1024  # shorter chunks are not worth a buffer of their own
PATIENCE_S = 30.0
NO_PEER_PATIENCE_S = 5.0  # a membership that names the sources may be on its way
READ_BUFFER_BYTES = 1024 * 1024  # of each stream, before the socket is left to wait
CONNECT_TIMEOUT_S = 5.0
BUNDLE_MAX_S = 300.0  # of waiting for one bundle, where another peer could be asked instead
# Our own disk is never among them: what fails to be written fails its job.
_PEERS_FAULT = (aiohttp.ClientError, OSError, ProtocolError)


@dataclass(frozen=True, slots=True)
class ChunkWant:
    """One missing chunk of the file `key`."""

    key: bytes
    index: int
    digest: bytes
    length: int


# Verifies and writes; gives back those whose bytes did not have the digest.
Write = Callable[[Sequence[tuple[ChunkWant, bytes | memoryview]]], Awaitable[Sequence[ChunkWant]]]


@dataclass(slots=True)
class _Job:
    write: Write
    lends: bool
    left: int
    done: asyncio.Future[None]
    denied: list[ChunkWant] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Item:
    want: ChunkWant
    job: _Job
    tried: set[str] = field(default_factory=set)


class Fetcher:
    """One converge's fetching of one volume. Use as an async context manager: leaving it ends all streams."""

    def __init__(
        self,
        volume: str,
        digest: str,
        chunk_bytes: int,
        self_name: str,
        sources: Sequence[str],
        members: Callable[[], Mapping[str, Member]],
        term: Callable[[], int],
        http: aiohttp.ClientSession,
        received: Callable[[int], None],
        timeout_s: float = PEER_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        peers: Peers | None = None,
        budget: Bucket | None = None,
        reach: Reach | None = None,
    ) -> None:
        """`peers`, if given, are the sources with what was learnt of them earlier. `reach` is told who answers."""
        self._volume, self._digest, self._chunk_bytes = volume, digest, chunk_bytes
        self._self_name = self_name
        self._peers = peers or Peers(sources, self_name, members, random.Random())
        self._budget = budget or Bucket()
        self._reach = reach or Reach()
        self._term = term
        self._http = http
        self._received = received
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._queue: deque[_Item] = deque()
        self._streams: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._last_gain = 0.0
        self._buffers = Buffers(chunk_bytes)
        self._connections = Connections(CONNECT_TIMEOUT_S)

    async def __aenter__(self) -> Fetcher:
        self._last_gain = self._now()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        self._connections.close()
        self._buffers.let_go()

    async def fetch(self, wants: Sequence[ChunkWant], write: Write, lends: bool = False) -> list[ChunkWant]:
        """Get all `wants` and hand them to `write`; what nobody has is given back.

        `lends`: the bytes of long chunks may be used only until `write` returns.
        """
        if not wants:
            return []
        job = _Job(write, lends, len(wants), asyncio.get_running_loop().create_future())
        if not self._queue and not self._streams:
            self._last_gain = self._now()
        self._queue.extend(_Item(want, job) for want in wants)
        self._pump()
        try:
            await job.done
        finally:
            self._queue = deque(item for item in self._queue if item.job is not job)
        return job.denied

    def story(self) -> str:
        """Why peers failed, in words; "" when none did."""
        return self._peers.story()

    # --- choosing --------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _pump(self) -> None:
        """Start as many streams as there are wants, peers and places; give up what can not be had."""
        self._give_up()
        now = self._now()
        for peer in self._peers.ready(now):
            if not self._queue or len(self._streams) >= self._streams_max():
                break
            items = self._take(peer)
            if items:
                peer.streams += 1
                task = asyncio.create_task(self._stream(peer, items))
                self._streams.add(task)
                task.add_done_callback(self._ended)
        if self._queue and len(self._streams) < self._streams_max():
            self._pump_later(now)

    def _streams_max(self) -> int:
        """Under a small budget few streams, so that none of them seems silent to its peer."""
        rate = self._budget.rate_bytes_s
        return (
            FETCH_STREAMS_MAX if rate is None else max(1, min(FETCH_STREAMS_MAX, int(rate // STREAM_BYTES_S)))
        )

    def _pump_later(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake = self._peers.wake_at()
        delay = 0.5 if wake is None else min(max(wake - now, 0.05), 1.0)
        self._timer = asyncio.get_running_loop().call_later(delay, self._pump)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._streams.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:  # a bug of ours: everybody who waits must learn of it
            for item in self._queue:
                if not item.job.done.done():
                    item.job.done.set_exception(error)
            self._queue.clear()
            return
        self._pump()

    def _take(self, peer: Peer) -> list[_Item]:
        """The next bundle for `peer`: what it has not denied, up to a bound in chunks and bytes."""
        free = max(1, self._streams_max() - len(self._streams))
        fair = max(REQUEST_MIN_CHUNKS, -(-len(self._queue) // free))
        most = min(CHUNK_REQUEST_MAX_CHUNKS, fair)
        budget = min(REQUEST_MAX_BYTES, peer.rate_bytes_s * REQUEST_SECONDS)
        if self._budget.rate_bytes_s is not None:
            budget = min(budget, max(1.0, self._budget.rate_bytes_s * REQUEST_SECONDS / self._streams_max()))
        taken: list[_Item] = []
        passed: list[_Item] = []
        names = REQUEST_NAMES_BYTES
        while self._queue and len(taken) < most and budget > 0 and names > 0 and len(passed) < SCAN_MAX:
            item = self._queue.popleft()
            if peer.name in item.tried:
                passed.append(item)
            else:
                taken.append(item)
                budget -= item.want.length
                names -= len(item.want.key)
        self._queue.extendleft(reversed(passed))
        return taken

    def _give_up(self) -> None:
        usable = {peer.name for peer in self._peers.usable()}
        patience = self._patience_s if usable else min(NO_PEER_PATIENCE_S, self._patience_s)
        silent = not self._streams and self._now() - self._last_gain > patience
        kept: deque[_Item] = deque()
        while self._queue and (silent or len(kept) < SCAN_MAX):
            item = self._queue.popleft()
            if silent or (usable and usable <= item.tried):
                self._settle(item, denied=True)
            else:
                kept.append(item)
        self._queue.extendleft(reversed(kept))

    def _settle(self, item: _Item, denied: bool) -> None:
        job = item.job
        job.left -= 1
        if denied:
            job.denied.append(item.want)
        if not job.left and not job.done.done():
            job.done.set_result(None)

    # --- one stream ------------------------------------------------------------------------------

    async def _stream(self, peer: Peer, items: list[_Item]) -> None:
        open_items = dict(enumerate(items))
        started = self._now()
        moved, has_answered, address = 0, False, peer.address

        def count(length: int) -> None:
            nonlocal moved
            moved += length
            self._received(length)

        def answered() -> None:
            nonlocal has_answered
            has_answered = True
            self._reach.answered(peer.name)

        try:
            denied = await self._request(peer, items, open_items, count, answered)
            self._peers.served(peer, moved, self._now() - started)
            self._peers.denied(peer, self._now(), denied / len(items))
        except PeerFailed as failure:
            self._note_failure(peer, str(failure), failure.busy_s)
        except _PEERS_FAULT as error:
            self._note_failure(peer, str(error) or type(error).__name__, 0.0)
            if not has_answered:
                self._reach.missed(peer.name, address, why_missed(error, CONNECT_TIMEOUT_S))
        finally:
            peer.streams -= 1
            # What was not answered is asked again, of whoever is free: first in the queue.
            self._queue.extendleft(item for item in reversed(open_items.values()) if not item.job.done.done())

    def _note_failure(self, peer: Peer, text: str, busy_s: float) -> None:
        if busy_s:
            self._peers.busy(peer, self._now(), busy_s)
            return
        log.info("source %s of volume %s failed: %s", peer.name, self._volume, text)
        self._peers.failed(peer, self._now(), text)

    async def _request(
        self,
        peer: Peer,
        items: list[_Item],
        open_items: dict[int, _Item],
        count: Callable[[int], None],
        answered: Callable[[], None],
    ) -> int:
        """How many chunks the peer did not have."""
        names = tuple(ChunkName(one.want.key, one.want.index, one.want.digest) for one in items)
        body = encode_request(ChunkRequest(self._volume, self._digest, self._chunk_bytes, names))
        headers = {NODE_HEADER: self._self_name, TERM_HEADER: str(self._term())}
        async with (
            # Headers that drip and endless interim answers are never silent: until the payload all has one limit.
            asyncio.timeout(CONNECT_TIMEOUT_S + 2 * self._timeout_s) as opening,
            self._asked(peer.address, headers, body, items) as (status, content),
        ):
            answered()
            if status != 200:
                raise PeerFailed(await _refusal(status, content), 1.0 if status == 503 else 0.0)
            opening.reschedule(None)
            inflow = Inflow(content, self._budget, count, self._timeout_s, self._least_bytes_s(items))
            return await self._records(peer, inflow, open_items)

    @asynccontextmanager
    async def _asked(
        self, address: str, headers: Mapping[str, str], body: bytes, items: Sequence[_Item]
    ) -> AsyncIterator[tuple[int, aiohttp.StreamReader | Answer]]:
        """(status, body) of the answer; long chunks that are lent come straight into their memory."""
        if items[0].job.lends and sum(item.want.length for item in items) >= LENT_MIN_BYTES * len(items):
            async with self._connections.post(address, PATH, headers, body) as answer:
                yield answer.status, answer
            return
        # No sock_read: where reading was paused near the end, aiohttp's clock runs on after it. What came and waits
        # for our disk or budget is then lost, or the connection's next request. `opening` and Inflow time our waits.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        async with self._http.post(
            f"http://{address}{PATH}",
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            read_bufsize=READ_BUFFER_BYTES,
        ) as response:
            yield response.status, response.content

    def _least_bytes_s(self, items: list[_Item]) -> float:
        """What a source must send while we wait: more where somebody else could send it."""
        if len(self._peers.usable()) < 2:
            return PACE_BYTES_S
        return max(PACE_BYTES_S, sum(item.want.length for item in items) / BUNDLE_MAX_S)

    async def _records(self, peer: Peer, inflow: Inflow, open_items: dict[int, _Item]) -> int:
        """One batch is written while the next one comes. How many chunks the peer did not have."""
        got: list[tuple[int, bytes | memoryview]] = []
        positions: set[int] = set()  # of everything that came, to notice what comes twice
        size = denied = 0
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                status, position, length = await inflow.header()
                if status == Status.END:
                    if not await inflow.ended():
                        raise PeerFailed("it went on after its end")
                    break
                item = open_items.get(position)
                if item is None or position in positions:
                    raise PeerFailed("it answered what was not asked")
                if status == Status.MISSING:
                    self._deny(peer, open_items.pop(position))
                    denied += 1
                    continue
                if status != Status.CHUNK or length != item.want.length:
                    raise PeerFailed("it sent a record of the wrong shape")
                positions.add(position)
                if item.job.lends and length >= LENT_MIN_BYTES:
                    buffer = self._buffers.take(length)
                    try:
                        await inflow.fill(buffer)
                    except BaseException:
                        self._buffers.give_back(buffer)  # peers that break off must not use up memory
                        raise
                    got.append((position, buffer))
                else:
                    got.append((position, await inflow.payload(length)))
                size += length
                if len(got) >= BATCH_CHUNKS or size >= BATCH_BYTES:
                    if writing is not None:
                        await writing
                    batch, got, size = got, [], 0
                    writing = asyncio.create_task(self._write(peer, batch, open_items))
        except asyncio.CancelledError:
            if writing is not None:
                writing.cancel()
                await asyncio.wait({writing})
            raise
        except (PeerFailed, *_PEERS_FAULT):
            # What came whole need not be moved again.
            await asyncio.gather(*([] if writing is None else [writing]), return_exceptions=True)
            await self._write(peer, got, open_items)
            raise
        if writing is not None:
            await writing
        await self._write(peer, got, open_items)
        if open_items:
            raise PeerFailed("it left chunks out")
        return denied

    async def _write(
        self, peer: Peer, got: Sequence[tuple[int, bytes | memoryview]], open_items: dict[int, _Item]
    ) -> None:
        """Verify and write what came. Of several jobs each gets its own."""
        jobs: dict[int, tuple[_Job, list[tuple[_Item, int, bytes | memoryview]]]] = {}
        for position, data in got:
            item = open_items[position]
            jobs.setdefault(id(item.job), (item.job, []))[1].append((item, position, data))
        wrong = 0
        for job, parts in jobs.values():
            for _, position, _ in parts:
                del open_items[position]
            failure: Exception | None = None
            try:
                bad = set(await job.write([(item.want, data) for item, _, data in parts]))
            except Exception as error:  # noqa: BLE001 (whoever waits for the job gets it)
                failure = error
            # Not where this is cancelled: a thread may go on writing from them, and nobody else may write there.
            for _, _, data in parts:
                if isinstance(data, memoryview):
                    self._buffers.give_back(data)
            if failure is not None:
                if not job.done.done():
                    job.done.set_exception(failure)
                continue
            for item, _, _ in parts:
                if item.want in bad:
                    wrong += 1
                    self._deny(peer, item)
                else:
                    self._last_gain = self._now()
                    self._settle(item, denied=False)
        if wrong:
            raise PeerFailed(f"{wrong} chunks had bytes that do not match their {self._digest} digest")

    def _deny(self, peer: Peer, item: _Item) -> None:
        item.tried.add(peer.name)
        if not item.job.done.done():
            self._queue.append(item)


async def _refusal(status: int, content: aiohttp.StreamReader | Answer) -> str:
    """The refusal's words, bounded: a peer's text is never trusted to be short or printable."""
    text = (await content.read(512)).decode("utf-8", "replace")
    return f"it answered {status}: {''.join(one for one in text if one.isprintable())[:200]}"
