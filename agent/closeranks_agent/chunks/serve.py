"""Giving chunks to peers: bytes are read from disk now and sent only if they have the digest asked for.

Invariant: nothing leaves this node but bytes of files that the index lists in the volume, to askers that
the membership knows and allows, and never while this node is fenced. The index says *which* paths may be
read; it is never believed about their content. A peer that reads slowly loses its place after
WRITE_TIMEOUT_S, and no more than CHUNK_STREAMS_MAX are served at once: serving must not hurt what this
server is for.

Rejected: sendfile (the bytes must be hashed anyway; measured no faster), and looking a digest up under
other paths (a healthy peer holds the truth, so the path that is asked for is the right one).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from aiohttp import web

from closeranks_proto.content import chunk_count, chunk_span
from closeranks_proto.entries import Kind, entry_kind, entry_size
from closeranks_proto.errors import ProtocolError
from closeranks_proto.limits import CHUNK_STREAMS_MAX, PEER_TIMEOUT_S
from closeranks_proto.messages import Member

from ..beneath import read_span
from ..disk.records import VolumeGone
from ..disk.volume import Volume
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

BATCH_CHUNKS = 64  # one hop to a thread costs as much as several small files
BATCH_BYTES = 4 * 1024 * 1024
WRITE_TIMEOUT_S = 2 * PEER_TIMEOUT_S
BUSY_RETRY_S = 1


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
    ) -> None:
        self._volumes = volumes
        self._members = members
        self._term = term
        self._fenced = fenced
        self._served = served
        self._streams = 0

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [web.post(PATH, self.chunks)]

    async def chunks(self, request: web.Request) -> web.StreamResponse:
        """One stream of chunks, or a refusal as JSON."""
        try:
            peer, asked, volume = await self._admit(request)
        except _Refusal as refusal:
            return self._refuse(refusal)
        if self._streams >= CHUNK_STREAMS_MAX:
            busy = _Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"{CHUNK_STREAMS_MAX} streams are being served"
            )
            return self._refuse(busy)
        self._streams += 1
        try:
            return await self._stream(request, peer, asked, volume)
        finally:
            self._streams -= 1

    async def _admit(self, request: web.Request) -> tuple[str, ChunkRequest, Volume]:
        peer = request.headers.get(NODE_HEADER, "")
        member = self._members().get(peer)
        if self._fenced():
            raise _Refusal(HTTPStatus.CONFLICT, "fenced_source", "this node is fenced: take nothing from it")
        if member is None:
            raise _Refusal(HTTPStatus.FORBIDDEN, "unknown_node", "this node is not a member of the fleet")
        if member.fenced and not member.may_fetch:
            raise _Refusal(HTTPStatus.FORBIDDEN, "fenced", "the asking node is fenced and may not fetch now")
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
        return peer, asked, volume

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
        await response.prepare(request)
        try:
            await self._send(response, peer, asked, volume)
        except (ConnectionError, TimeoutError) as error:
            log.info("peer %s left a chunk stream: %s", peer, error or type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _send(
        self, response: web.StreamResponse, peer: str, asked: ChunkRequest, volume: Volume
    ) -> None:
        position = 0
        while position < len(asked.chunks):
            if self._fenced():  # without END the asker knows that the rest is to be had elsewhere
                await response.write_eof()
                return
            parts, payload, position = await asyncio.to_thread(read_batch, volume, asked.chunks, position)
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                for part in parts:
                    await response.write(part)
            self._served(peer, payload)
        await response.write(HEADER.pack(Status.END, 0, 0))
        await response.write_eof()


async def _read_bounded(request: web.Request) -> bytes:
    body = bytearray()
    async with asyncio.timeout(PEER_TIMEOUT_S):
        async for part in request.content.iter_any():
            body += part
            if len(body) > REQUEST_MAX_BYTES:
                raise _Refusal(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"at most {REQUEST_MAX_BYTES} bytes"
                )
    return bytes(body)


def read_batch(volume: Volume, chunks: tuple[ChunkName, ...], position: int) -> tuple[list[bytes], int, int]:
    """Read chunks from `position` on, up to a batch. (records to send, payload bytes, next position)"""
    parts: list[bytes] = []
    payload = 0
    try:
        root_fd = volume.open_root()
    except (VolumeGone, OSError) as error:
        log.warning("can not serve chunks of %s: %s", volume.name, error)
        last = len(chunks)
        return [HEADER.pack(Status.MISSING, at, 0) for at in range(position, last)], 0, last
    try:
        last = min(len(chunks), position + BATCH_CHUNKS)
        while position < last and payload < BATCH_BYTES:
            data = _read_chunk(volume, root_fd, chunks[position])
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


def _read_chunk(volume: Volume, root_fd: int, chunk: ChunkName) -> bytes | None:
    """The chunk's bytes if they are what was asked for, read now; None otherwise."""
    record = volume.record(chunk.key)
    if record is None or entry_kind(record.value) is not Kind.FILE:
        return None
    size = entry_size(record.value)
    if chunk.index >= chunk_count(size, volume.chunk_bytes):
        return None
    offset, length = chunk_span(size, volume.chunk_bytes, chunk.index)
    try:
        data = read_span(root_fd, chunk.key, offset, length)
    except OSError as error:
        log.info("a chunk of volume %s could not be read for a peer: %s", volume.name, error.strerror)
        return None
    return data if volume.algorithm.of(data) == chunk.digest else None
