"""Chunks that this node has already, in a file of the tree or an item of the trash.

Where the filesystem can share blocks between files, whole runs are taken without copying a byte: one changed
mebibyte in a long file then costs a mebibyte, in time and in room. Elsewhere chunks are read, compared with
their digests and written again. What is shared can only be read afterwards, for only then nobody can change it
any more: that is the caller's to do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.paths import path_of

from .. import beneath, syscalls
from ..beneath import read_span
from .plan import Copy, FileNeed, Place
from .workroom import Workroom

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


class Local:
    """Of one converge. `moved` says under which trash item a key's bytes lie now. Thread-safe."""

    def __init__(
        self, workroom: Workroom, algorithm: DigestAlgorithm, moved: Callable[[bytes], bytes | None]
    ) -> None:
        self._workroom, self._algorithm, self._moved = workroom, algorithm, moved
        self._shares = True  # until the filesystem says that it does not

    def share(self, fd: int, need: FileNeed) -> list[int]:
        """Let the open staged file share the blocks of whole chunks; those that must be proved now. Raises OSError."""
        shared: list[int] = []
        if need.chunks is None:
            return shared
        for copy in need.copies:
            count = min(copy.count, need.size // need.chunk_bytes - copy.first)
            if count > 0 and self._shares and self._share_run(fd, need, copy, count):
                shared += range(copy.first, copy.first + count)
        return shared

    def _share_run(self, fd: int, need: FileNeed, copy: Copy, count: int) -> bool:
        size = need.chunk_bytes
        for candidate in self._candidates(copy.place):
            try:
                source = beneath.open_beneath(self._top_fd(candidate), path_of(candidate.name), _FLAGS)
            except OSError:
                continue  # gone or unreadable: it is read, or fetched
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    continue  # something else has its name now: what it was may lie in the trash
                self._shares = syscalls.clone_range(
                    source, copy.there * size, count * size, fd, copy.first * size
                )
            finally:
                os.close(source)
            return self._shares
        return False

    def read(self, place: Place, need: FileNeed, index: int, there: int) -> bytes | None:
        """Chunk `index`, which is chunk `there` of that place, if it is still what the plan took it for."""
        offset, length = there * need.chunk_bytes, need.span(index)[1]
        for candidate in self._candidates(place):
            try:
                data = read_span(self._top_fd(candidate), candidate.name, offset, length)
            except OSError:
                continue  # gone or unreadable: it will be fetched
            if self._algorithm.of(data) == need.chunk_digest(index):
                return data
        return None

    def _top_fd(self, place: Place) -> int:
        return self._workroom.items_fd if place.in_trash else self._workroom.root_fd

    def _candidates(self, place: Place) -> Iterator[Place]:
        yield place
        if not place.in_trash:
            moved = self._moved(place.name)
            if moved is not None:
                yield Place(True, moved)
