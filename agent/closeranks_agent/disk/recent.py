"""What small files held a moment ago: so that one that is rewritten faster than it can be fetched gets through.

A file that is replaced every few milliseconds is committed about once a second, and by the time a peer asks
for that version it is gone from disk. The last versions of such files are kept here, in memory, for as long as
a fetch takes. For longer files that never rest see `versions`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Final

KEEP_S: Final = 10.0
FILE_MAX_BYTES: Final = 256 * 1024
ALL_MAX_BYTES: Final = 4 * 1024 * 1024


class Recent:
    """Contents by (key, content digest). Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[bytes, bytes], tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def keep(self, key: bytes, digest: bytes, content: bytes) -> None:
        now = time.monotonic()
        with self._lock:
            self._drop((key, digest))
            self._kept[key, digest] = (now, content)
            self._bytes += len(content)
            while self._kept:
                oldest = next(iter(self._kept))
                if self._bytes <= ALL_MAX_BYTES and now - self._kept[oldest][0] <= KEEP_S:
                    break
                self._drop(oldest)

    def get(self, key: bytes, digest: bytes) -> bytes | None:
        with self._lock:
            found = self._kept.get((key, digest))
        return None if found is None else found[1]

    def _drop(self, name: tuple[bytes, bytes]) -> None:
        dropped = self._kept.pop(name, None)
        if dropped is not None:
            self._bytes -= len(dropped[1])
