"""Giving chunks to peers: bytes are read from disk now and sent only if they have the digest asked for.

Invariant: nothing leaves this node but bytes of files that the index lists in the volume (of files that never rest,
listed a moment ago: `disk.recent`, `disk.versions`), to askers that the membership knows and allows, and never while
this node is fenced. The index says *which* paths may be
read; it is never believed about their content. A peer that reads slowly loses its place after
WRITE_TIMEOUT_S, and no more than CHUNK_STREAMS_MAX are served at once, a few more wait a moment for a place:
serving must not hurt what this server is for.

Rejected: sendfile (the bytes must be hashed anyway; measured no faster), and looking a digest up under
other paths (a healthy peer holds the truth, so the path that is asked for is the right one).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus

from aiohttp import web

from closeranks_proto.content import chunk_count, chunk_span
from closeranks_proto.entries import Kind, entry_kind, entry_size
from closeranks_proto.errors import ProtocolError
from closeranks_proto.limits import CHUNK_STREAMS_MAX, PEER_TIMEOUT_S
from closeranks_proto.messages import Member

from ..beneath import read_span, read_span_into
from ..disk.index import Index
from ..disk.records import StateUnavailable, VolumeGone
from ..disk.volume import Volume
from ..speed import Bucket
from .outflow import Buffer, Outflow, outflow_of
from .wire import (
    CONTENT_TYPE,
    HEADER,
    NODE_HEADER,
    PATH,
    REQUEST_MAX_BYTES,
    TERM_HEADER,
    ChunkName,
    ChunkRequest,
    Status,
    decode_request,
)

log = logging.getLogger("closeranks.serve")

BATCH_CHUNKS = 128  # one hop to a thread costs as much as several small files
BATCH_BYTES = 4 * 1024 * 1024
SEND_BYTES = 256 * 1024  # of small chunks, that leave together
LONG_BYTES = 64 * 1024  # from here on a chunk is read into memory that is used again and again
FLUSH_TICK_S = 0.002
WRITE_TIMEOUT_S = 2 * PEER_TIMEOUT_S
BUSY_RETRY_S = 1
QUEUED_MAX = 64  # askers that wait for a place, each an idle connection
QUEUE_MAX_S = 2.0  # below the patience of whoever asks


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class ChunkServer:
    """`POST /v1/chunks` on the agent's listening application.

    The callables give the state of this moment: the open volumes, the members by name, the membership's
    term, and whether this node is fenced. `served(peer, payload_bytes)` counts.
    """

    def __init__(
        self,
        volumes: Callable[[], Mapping[str, Volume]],
        members: Callable[[], Mapping[str, Member]],
        term: Callable[[], int],
        fenced: Callable[[], bool],
        served: Callable[[str, int], None],
        budget: Bucket | None = None,
    ) -> None:
        self._volumes = volumes
        self._members = members
        self._term = term
        self._fenced = fenced
        self._served = served
        self._budget = budget or Bucket()
        self._places = asyncio.Semaphore(CHUNK_STREAMS_MAX)
        self._threads = ThreadPoolExecutor(CHUNK_STREAMS_MAX, thread_name_prefix="serve")
        self._queued = 0

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [web.post(PATH, self.chunks)]

    async def chunks(self, request: web.Request) -> web.StreamResponse:
        """One stream of chunks, or a refusal as JSON."""
        try:
            peer = self._known(request)
            await self._place()
        except _Refusal as refusal:
            return self._refuse(refusal)
        try:
            asked, volume = await self._asked(request)
            return await self._stream(request, peer, asked, volume)
        except _Refusal as refusal:
            return self._refuse(refusal)
        finally:
            self._places.release()

    async def _place(self) -> None:
        """Wait a moment for a place: fifteen peers that ask for the same new file at once are no overload."""
        if self._places.locked() and self._queued >= QUEUED_MAX:
            raise _busy()
        self._queued += 1
        try:
            async with asyncio.timeout(QUEUE_MAX_S):
                await self._places.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._queued -= 1

    def _known(self, request: web.Request) -> str:
        """The asker's name, if it may ask at all."""
        peer = request.headers.get(NODE_HEADER, "")
        member = self._members().get(peer)
        if self._fenced():
            raise _Refusal(HTTPStatus.CONFLICT, "fenced_source", "this node is fenced: take nothing from it")
        if member is None:
            raise _Refusal(HTTPStatus.FORBIDDEN, "unknown_node", "this node is not a member of the fleet")
        if member.fenced and not member.may_fetch:
            raise _Refusal(HTTPStatus.FORBIDDEN, "fenced", "the asking node is fenced and may not fetch now")
        return peer

    async def _asked(self, request: web.Request) -> tuple[ChunkRequest, Volume]:
        body = await _read_bounded(request)
        try:
            asked = decode_request(body)
        except ProtocolError as error:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "bad_request", str(error)) from error
        volume = self._volumes().get(asked.volume)
        if volume is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "unknown_volume", "this node has no such volume")
        if asked.chunk_bytes != volume.chunk_bytes or asked.digest != volume.algorithm.name:
            raise _Refusal(
                HTTPStatus.CONFLICT, "other_settings", "the volume's chunk length or digest differs here"
            )
        return asked, volume

    def _refuse(self, refusal: _Refusal) -> web.Response:
        headers = {TERM_HEADER: str(self._term())}
        if refusal.status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(BUSY_RETRY_S)
        error = {"error": {"code": refusal.code, "message": refusal.message, "detail": None}}
        return web.json_response(error, status=refusal.status, headers=headers)

    async def _stream(
        self, request: web.Request, peer: str, asked: ChunkRequest, volume: Volume
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={TERM_HEADER: str(self._term()), "Content-Type": CONTENT_TYPE})
        try:
            await response.prepare(request)  # it may have left while it waited for its place
            await self._send(request, response, peer, asked, volume)
        except (ConnectionError, TimeoutError) as error:
            log.info("peer %s left a chunk stream: %s", peer, error or type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        peer: str,
        asked: ChunkRequest,
        volume: Volume,
    ) -> None:
        """Batch by batch: past the event loop where that is possible."""
        outflow: Outflow | None = None
        position = 0
        try:
            while position < len(asked.chunks):
                if self._fenced():  # without END the asker knows that the rest is to be had elsewhere
                    await response.write_eof()
                    return
                free = self._budget.rate_bytes_s is None
                if free and outflow is None:
                    await response.write(b"")  # sends the headers
                    outflow = outflow_of(request, WRITE_TIMEOUT_S)
                if free and outflow is not None:
                    await _flushed(request)
                    payload, position = await self._past_loop(outflow, volume, asked.chunks, position)
                else:
                    call = partial(read_batch, volume, asked.chunks, position)
                    parts, payload, position = await asyncio.to_thread(call)
                    for part in parts:
                        await self._write(response, part)
                self._served(peer, payload)
        finally:
            if outflow is not None:
                outflow.close()
        await response.write(HEADER.pack(Status.END, 0, 0))
        await response.write_eof()

    async def _past_loop(
        self, outflow: Outflow, volume: Volume, chunks: tuple[ChunkName, ...], position: int
    ) -> tuple[int, int]:
        """`send_batch` in a thread of ours, which has ended when this returns or raises."""
        call = partial(send_batch, outflow, volume, chunks, position, self._fenced)
        sending = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            outflow.stop()
            await asyncio.gather(sending, return_exceptions=True)
            raise

    async def _write(self, response: web.StreamResponse, part: Buffer) -> None:
        """In slices: each waits for its turn in the budget, and a peer must take each in time."""
        view = memoryview(part)
        while view:
            step = self._budget.slice_bytes
            await self._budget.take(min(step, len(view)))
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await response.write(part if len(view) <= step and len(view) == len(part) else view[:step])
            view = view[step:]


def _busy() -> _Refusal:
    text = f"{CHUNK_STREAMS_MAX} streams are being served and others wait for a place"
    return _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy", text)


async def _read_bounded(request: web.Request) -> bytes:
    """The request's body. An asker that leaves or stalls in the middle of it is refused: it is no fault of ours."""
    body = bytearray()
    try:
        async with asyncio.timeout(PEER_TIMEOUT_S):
            async for part in request.content.iter_any():
                body += part
                if len(body) > REQUEST_MAX_BYTES:
                    raise _Refusal(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"at most {REQUEST_MAX_BYTES} bytes"
                    )
    except TimeoutError:
        text = f"the request did not arrive within {PEER_TIMEOUT_S:g} s"
        raise _Refusal(HTTPStatus.REQUEST_TIMEOUT, "too_slow", text) from None
    except ConnectionError:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "incomplete", "the asker left before it had asked") from None
    return bytes(body)


async def _flushed(request: web.Request) -> None:
    """Returns when the event loop has sent everything. Raises ConnectionError, TimeoutError."""
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        while True:
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("it has hung up")
            if not transport.get_write_buffer_size():
                return
            await asyncio.sleep(FLUSH_TICK_S)


def read_batch(volume: Volume, chunks: tuple[ChunkName, ...], position: int) -> tuple[list[Buffer], int, int]:
    """Read chunks from `position` on, up to a batch. (records to send, payload bytes, next position)"""
    parts: list[Buffer] = []
    payload = 0
    opened = _open(volume)
    if opened is None:
        last = len(chunks)
        return [HEADER.pack(Status.MISSING, at, 0) for at in range(position, last)], 0, last
    index, root_fd = opened
    try:
        last = min(len(chunks), position + BATCH_CHUNKS)
        while position < last and payload < BATCH_BYTES:
            data = _read_chunk(volume, index, root_fd, chunks[position])
            if data is None:
                parts.append(HEADER.pack(Status.MISSING, position, 0))
            else:
                parts += (HEADER.pack(Status.CHUNK, position, len(data)), data)
                payload += len(data)
            position += 1
    finally:
        os.close(root_fd)
    # Many small records leave in one write; large chunks go alone, without one more copy.
    return (parts if payload > len(parts) * 32768 else [b"".join(parts)]), payload, position


def _open(volume: Volume) -> tuple[Index, int] | None:
    """The index and a descriptor of the root; None where this node can not serve now."""
    try:
        return volume.history.index, volume.open_root()
    except (VolumeGone, StateUnavailable, OSError) as error:
        log.warning("can not serve chunks of %s: %s", volume.name, error)
        return None


def send_batch(
    outflow: Outflow,
    volume: Volume,
    chunks: tuple[ChunkName, ...],
    position: int,
    fenced: Callable[[], bool],
) -> tuple[int, int]:
    """Read chunks from `position` on and send them, up to a batch. (payload bytes, next position)

    Many small ones leave together. A fence ends it early: a batch may take a slow reader minutes.
    Raises ConnectionError and TimeoutError.
    """
    opened = _open(volume)
    if opened is None:
        outflow.send([HEADER.pack(Status.MISSING, at, 0) for at in range(position, len(chunks))])
        return 0, len(chunks)
    index, root_fd = opened
    payload, last = 0, min(len(chunks), position + BATCH_CHUNKS)
    waiting: list[Buffer] = []
    waiting_bytes = 0
    buffer = outflow.buffer(volume.chunk_bytes)
    try:
        while position < last and payload < BATCH_BYTES and not fenced():
            data = _read_chunk(volume, index, root_fd, chunks[position], buffer)
            found = Status.MISSING if data is None else Status.CHUNK
            length = 0 if data is None else len(data)
            waiting.append(HEADER.pack(found, position, length))
            if data is not None:
                waiting.append(data)
            payload, waiting_bytes, position = payload + length, waiting_bytes + length, position + 1
            if waiting_bytes >= SEND_BYTES or isinstance(data, memoryview):
                outflow.send(waiting if length >= SEND_BYTES // 4 else [b"".join(waiting)])
                waiting, waiting_bytes = [], 0
        if waiting:
            outflow.send([b"".join(waiting)])
    finally:
        os.close(root_fd)
    return payload, position


def _read_chunk(
    volume: Volume, index: Index, root_fd: int, chunk: ChunkName, buffer: memoryview | None = None
) -> Buffer | None:
    """The chunk's bytes if they are what was asked for, read now or a moment ago; None otherwise.

    Long ones come in `buffer`, if there is one.
    """
    data = _read_now(volume, index, root_fd, chunk, buffer)
    if data is None and not chunk.index:
        data = volume.recent.get(chunk.key, chunk.digest)
    return _read_kept(volume, chunk) if data is None else data


def _read_kept(volume: Volume, chunk: ChunkName) -> Buffer | None:
    """Of a version of a longer file that is replaced or rewritten faster than it can be fetched."""
    try:
        return volume.versions.read(
            chunk.key, chunk.index, volume.chunk_bytes, lambda data: volume.algorithm.of(data) == chunk.digest
        )
    except OSError as error:
        log.info("a kept chunk of volume %s could not be read for a peer: %s", volume.name, error.strerror)
        return None


def _read_now(
    volume: Volume, index: Index, root_fd: int, chunk: ChunkName, buffer: memoryview | None
) -> Buffer | None:
    row = index.row(chunk.key)
    if row is None or entry_kind(row.value) is not Kind.FILE:
        return None
    size = entry_size(row.value)
    if chunk.index >= chunk_count(size, volume.chunk_bytes):
        return None
    offset, length = chunk_span(size, volume.chunk_bytes, chunk.index)
    data: Buffer
    try:
        if buffer is not None and length >= LONG_BYTES:
            data = buffer[: read_span_into(root_fd, chunk.key, offset, buffer[:length])]
        else:
            data = read_span(root_fd, chunk.key, offset, length)
    except OSError as error:
        log.info("a chunk of volume %s could not be read for a peer: %s", volume.name, error.strerror)
        return None
    return data if volume.algorithm.of(data) == chunk.digest else None
