"""One long file, read in ranges by a process for each core, as a scan reads it.

Only what holds still is answered for: the file's stat is the same before and after each range. Whatever else
happens (it changes, no reader survives it) gives no digest, and whoever asked reads the file by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from closeranks_proto.content import CHUNK_LIST_HEAD_BYTES, begun_chunk_list, chunk_count
from closeranks_proto.limits import MIB

from ..disk.fresh import RANGE_BYTES, WAIT_S, reading_setup
from ..disk.listing import file_state
from ..disk.signature import pack_state
from ..hotpath.readers import Readers
from ..hotpath.wire import RANGES
from .snapshot import How

MIN_BYTES: Final = 64 * MIB  # a shorter one is read before a second process has begun


def open_readers(parent_fd: int, how: How) -> Readers:
    """Forked where this process has one thread still."""
    setup = reading_setup(how.settings(), how.algorithm, os.fstat(parent_fd).st_dev)
    readers = Readers(parent_fd, setup, forked=True)
    readers.start()
    return readers


def read_long(
    readers: Readers, name: bytes, status: os.stat_result, how: How, came: Callable[[int], None]
) -> bytes | None:
    """The content digest of the file `name` that had this status; None where it can not be told so."""
    size, width = status.st_size, how.algorithm.width
    _, *state = file_state(status)
    signature = pack_state(*state)
    chunks = chunk_count(size, how.chunk_bytes)
    found = begun_chunk_list(size, how.chunk_bytes, width)
    step = max(1, RANGE_BYTES // how.chunk_bytes)
    starts = iter(range(0, chunks, step))
    first = next(starts, None)
    while first is not None or readers.busy:
        while first is not None and readers.has_room:
            readers.ask(RANGES, [(name, signature, size, first, min(step, chunks - first), True)])
            first = next(starts, None)
        for question, parts in readers.answers(WAIT_S):
            begin, count = question.items[0][3:5]
            digests = None if parts is None else parts[0]
            if not isinstance(digests, bytes) or len(digests) != count * width:
                return None
            at = CHUNK_LIST_HEAD_BYTES + begin * width
            found[at : at + len(digests)] = digests
            came(min(size, (begin + count) * how.chunk_bytes) - begin * how.chunk_bytes)
    return how.algorithm.of(found)
