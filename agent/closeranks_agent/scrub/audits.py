"""Answers to audits: one chunk is read from the disk itself, and what the seed makes of it is the proof.

The index only says where to look and under which stat: the proof is made of the bytes alone, so an index that is
stale, or that was written by whoever means to hide something, fails. Bytes that are others than the index says are
told as `decayed`, and the scrub looks into it at once; a file that changed is looked at like any other change, and
asked about once more.

One audit of a volume at a time, on a thread of its own that lives for that one question: a disk that does not answer
keeps that one, and not those that everything else shares.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future

from closeranks_proto.audits import seeded_digest
from closeranks_proto.content import chunk_count, chunk_span, decode_chunk_list
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size
from closeranks_proto.errors import CloseranksError
from closeranks_proto.lines import printable
from closeranks_proto.messages import Audit, AuditAnswer
from closeranks_proto.paths import check_key, escape, path_of

from ..disk.index import Index
from ..disk.rows import Row
from ..disk.volume import Volume
from .reading import MOVED, read_chunk
from .scrubber import Scrubber

log = logging.getLogger("closeranks.audits")


class Audits:
    """Takes the coordinator's audits. `post` sends the answers; `spawn` runs beside everything else."""

    def __init__(
        self,
        volumes: Callable[[], Mapping[str, Volume]],
        scrubbers: Callable[[], Mapping[str, Scrubber]],
        post: Callable[[AuditAnswer], None],
        spawn: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._volumes, self._scrubbers, self._post, self._spawn = volumes, scrubbers, post, spawn
        self._busy: set[str] = set()  # volumes whose disk is being asked

    def take(self, audit: Audit) -> None:
        volume = self._volumes().get(audit.volume)
        if volume is None:
            self._post(_failed(audit, f"this node has no volume {audit.volume}"))
        elif audit.volume in self._busy:
            self._post(_failed(audit, "its disk has not answered the audit before"))
        else:
            self._busy.add(audit.volume)
            self._spawn(self._answer(volume, audit))

    async def _answer(self, volume: Volume, audit: Audit) -> None:
        try:
            check_key(audit.key)
            answer = await _apart(volume, audit)
            if answer.why == "moved":
                parent, _, name = audit.key.rpartition(b"\0")
                looked = volume.look_soon({parent: frozenset({name})}, {}, time.monotonic())
                await asyncio.wrap_future(looked)
                answer = await _apart(volume, audit)
        except (CloseranksError, OSError) as error:
            answer = _failed(audit, str(error))
        finally:
            self._busy.discard(audit.volume)
        scrubber = self._scrubbers().get(audit.volume)
        if answer.why == "decayed":
            log.warning("%s: %s: %s", volume.name, printable(escape(path_of(audit.key))), answer.detail)
            if scrubber is not None:
                scrubber.doubt(audit.key, audit.chunk)
        self._post(answer)


async def _apart(volume: Volume, audit: Audit) -> AuditAnswer:
    """`prove`, on a thread that may hang for ever."""
    asked: Future[AuditAnswer] = Future()
    asked.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            asked.set_result(prove(volume, audit))
        except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
            asked.set_exception(error)

    threading.Thread(target=ask, name=f"audit-{volume.name}", daemon=True).start()
    return await asyncio.wrap_future(asked)


def prove(volume: Volume, audit: Audit) -> AuditAnswer:
    """Read the chunk. Raises VolumeGone, StateUnavailable, Damaged, OSError where nothing can be read at all."""
    if volume.root is None or volume.history.rederive:
        return _failed(audit, "the volume is being read anew")
    index, algorithm = volume.history.index, volume.algorithm
    row = index.row(audit.key)
    place = None if row is None else _place(index, row, audit.chunk, volume.chunk_bytes, algorithm.width)
    if row is None or place is None or place[2] != audit.digest:
        return AuditAnswer(audit.volume, audit.audit, None, "moved", "")
    offset, length, digest = place
    root_fd = volume.open_root()
    try:
        data = read_chunk(root_fd, path_of(audit.key), row.stat, offset, length)
    finally:
        os.close(root_fd)
    if data == MOVED:
        return AuditAnswer(audit.volume, audit.audit, None, "moved", "")
    if isinstance(data, int):
        return _failed(audit, f"it can not be read: {os.strerror(data)}")
    if algorithm.of(data) != digest:
        # The stat may be that of the bytes before: the next scan, in a storm the one behind it, reads it anyway.
        if not row.settled or volume.is_stormy:
            return AuditAnswer(audit.volume, audit.audit, None, "moved", "")
        detail = f"chunk {audit.chunk} has other bytes on disk than when it was read last"
        return AuditAnswer(audit.volume, audit.audit, None, "decayed", detail)
    return AuditAnswer(audit.volume, audit.audit, seeded_digest(algorithm, audit.seed, data), "", "")


def _place(index: Index, row: Row, chunk: int, chunk_bytes: int, width: int) -> tuple[int, int, bytes] | None:
    """(offset, length, digest) of a chunk of the file as the index has it."""
    if entry_kind(row.value) is not Kind.FILE:
        return None
    size, digest = entry_size(row.value), row.value[DIGEST_AT : DIGEST_AT + width]
    if chunk >= chunk_count(size, chunk_bytes):
        return None
    if size > chunk_bytes:
        encoded = index.chunk_list(digest)
        if encoded is None:
            return None
        digest = decode_chunk_list(encoded)[chunk]
    return *chunk_span(size, chunk_bytes, chunk), digest


def _failed(audit: Audit, detail: str) -> AuditAnswer:
    return AuditAnswer(audit.volume, audit.audit, None, "failed", detail)
