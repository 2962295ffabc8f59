"""Files that were read so soon after a change that a memory map may have changed them since, and no stat tells.

A store into a mapped page gives its file new times only when the page is clean. Until the kernel has written the page
back, some half a minute later, further stores leave the very stat under which the file was read; what ends them is the
close, which is heard of. So a file that is heard of, and looks as it did when it was read in that time, is read once
more. Read later, its pages were clean: the next store shows. In a storm no close is heard of: its scans read all
of them once more.

Rejected: leaving it to scrubs (a scrub takes what a writer's program has stored for decay, and puts the bytes of before
in its place); reading whatever is closed (a database is closed by each of its readers); a lease, which tells whether
somebody has the file open to write (whoever opens it in that moment without waiting is refused).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

WRITEBACK_NS: Final = 60_000_000_000  # twice the kernel's own time for dirty pages: it is late under load
KEPT_MAX: Final = 4096  # about 200 bytes each; the oldest is forgotten


class Lately:
    """Keys of files. Belongs to one volume's thread; outlives scans and looks."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._keys)

    def read(self, key: bytes, ctime_ns: int, at_ns: int) -> None:
        """A file with that ctime was read at `at_ns` (see `clock_ns`)."""
        self._keys.pop(key, None)
        if at_ns - ctime_ns < WRITEBACK_NS:
            self.note(key)

    def note(self, key: bytes) -> None:
        """A file was read within WRITEBACK_NS of a change, by a process that reads for a scan."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > KEPT_MAX:
            self._keys.popitem(last=False)
