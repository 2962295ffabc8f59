"""Collecting the pages and chunk lists of the root that a volume is to become.

They come from the coordinator, are checked in full (`closeranks_proto.closure`) and are kept beside the
volume's own objects until the run is over. What the volume has itself is not asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from closeranks_proto.closure import Closure
from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import decode_entry, entry_size
from closeranks_proto.errors import MissingObject
from closeranks_proto.limits import WANT_MAX_DIGESTS

from ..disk.volume import Volume

Want = Callable[[tuple[bytes, ...]], Awaitable[dict[bytes, bytes]]]


async def collect(volume: Volume, root: bytes, want: Want) -> None:
    """Stage everything below `root` that the volume lacks.

    Raises MissingObject where the coordinator lacks it too, CodecError or PathError for damaged or forged
    objects, and what `want` raises.
    """
    closure = Closure(
        volume.algorithm, root, lambda digest: volume.object(digest) is not None, volume.chunk_bytes
    )
    while not closure.done:
        digests = closure.wants()
        assert digests, "nothing is outstanding between two calls"
        found = await want(digests)
        lacking = [digest for digest in digests if digest not in found]
        if lacking:
            raise MissingObject(lacking[0])
        ready = await asyncio.to_thread(closure.receive, [found[digest] for digest in digests])
        volume.stage_objects(dict(ready))
    await _collect_lists(volume, root, want)


async def _collect_lists(volume: Volume, root: bytes, want: Want) -> None:
    """Stage chunk lists of pages that are still at hand while their lists are not.

    Pages of an earlier root stay in memory for a while; the index forgets their chunk lists at once.
    """
    lacking = await asyncio.to_thread(_lists_lacking, volume, root)
    for start in range(0, len(lacking), WANT_MAX_DIGESTS):
        digests = tuple(lacking[start : start + WANT_MAX_DIGESTS])
        found = await want(digests)
        for digest in digests:
            if digest not in found:
                raise MissingObject(digest)
            decode_chunk_list(found[digest])
        volume.stage_objects(found)


def _lists_lacking(volume: Volume, root: bytes) -> list[bytes]:
    own = volume.root
    assert own is not None
    lacking: dict[bytes, None] = {}
    for difference in volume.tree.diff(own, root):
        if difference.theirs is None or entry_size(difference.theirs) <= volume.chunk_bytes:
            continue
        digest = decode_entry(difference.theirs, volume.algorithm.width).digest
        if volume.object(digest) is None:
            lacking[digest] = None
    return list(lacking)
