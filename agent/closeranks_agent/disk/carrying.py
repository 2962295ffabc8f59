"""What a look has just read of small files, until the commit that names it is sent: then it travels along.

Only while a session says that the coordinator wants it (`on`), only files up to CARRY_FILE_MAX_BYTES, and no more than
CARRY_SENT_BYTES_S: what is beyond that is fetched by its replicas, from each other as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from closeranks_proto.carried import Allowance, Carried
from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size
from closeranks_proto.limits import (
    CARRY_AGENT_BYTES,
    CARRY_FILE_MAX_BYTES,
    CARRY_KEEP_S,
    CARRY_MAX_BYTES,
    CARRY_SENT_BYTES_S,
)
from closeranks_proto.messages import Edit


class Carrying:
    """Of one volume. Any thread."""

    def __init__(self) -> None:
        self.on = False
        self._lock = threading.Lock()
        self._kept = Carried(CARRY_AGENT_BYTES, CARRY_KEEP_S)
        self._allowance = Allowance(CARRY_SENT_BYTES_S, CARRY_MAX_BYTES)

    def set(self, on: bool) -> None:
        """Whether commits are wanted with contents from now on."""
        with self._lock:
            self.on = on
            if not on:
                self._kept.clear()

    def keep(self, digest: bytes, body: bytes) -> None:
        with self._lock:
            if self.on:
                self._kept.keep(digest, body, time.monotonic())

    def take(self, edits: Iterable[Edit], width: int) -> tuple[bytes, ...]:
        """The bodies that are at hand for these edits and may travel now. None of them is kept any longer."""
        now = time.monotonic()
        bodies: list[bytes] = []
        size = 0
        with self._lock:
            if not len(self._kept):
                return ()
            for edit in edits:
                if edit.value is None or entry_kind(edit.value) is not Kind.FILE:
                    continue
                if not 0 < entry_size(edit.value) <= CARRY_FILE_MAX_BYTES:
                    continue
                digest = edit.value[DIGEST_AT : DIGEST_AT + width]
                body = self._kept.find(digest)
                if body is None:
                    continue
                self._kept.used(digest)
                if size + len(body) <= CARRY_MAX_BYTES and self._allowance.take(len(body), now):
                    bodies.append(body)
                    size += len(body)
        return tuple(bodies)
