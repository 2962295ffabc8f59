"""Going over a volume of which little has changed: other processes list it, the scan compares digests.

Directories are handed out by path, the most recent first, so what waits is bounded by the depth of the tree
times the width of its levels, as in a walk. Each answer is a digest; where the index has the same, only the
subdirectories are left to be handed out. Every other directory is visited here as a walk visits it, on what
is on disk at that moment: an answer may be old by then, and is only ever believed where it agrees.

The order is not that of the tree's keys, but parents come before their children.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Sequence
from typing import Final, Protocol

from closeranks_proto.paths import key_of

from ..beneath import open_beneath
from .lister import Glance
from .listers import BATCH_MAX_BYTES, UNDER_WAY, Lister
from .walk import DIRECTORY_FLAGS, Visitor

log = logging.getLogger("closeranks.volume")

PATIENCE_S: Final = 0.02  # then whoever waits for the scan gets a moment


class SweepVisitor(Visitor, Protocol):
    """What happens at each directory."""

    def pause(self) -> None:
        """Between answers. May raise to end the sweep."""

    def agree(self, keys: Sequence[bytes], glances: Sequence[Glance]) -> Sequence[Sequence[bytes] | None]:
        """For each directory the names below it to go on with, or None where it must be visited."""


class Sweep:
    """One pass below `root_fd`, which stays the caller's."""

    def __init__(
        self, root_fd: int, listers: Sequence[Lister], visitor: SweepVisitor, skip: str, with_ctime: bool
    ) -> None:
        self._root_fd, self._visitor = root_fd, visitor
        self._skip, self._with_ctime = skip, with_ctime
        self._listers = {lister.channel.fileno(): lister for lister in listers}
        self._todo: list[tuple[bytes, list[bytes]]] = [
            (b"", [b""])
        ]  # (prefix, names descending), never empty

    def run(self) -> None:
        """Raises what the visitor raises."""
        poll = select.poll()
        for fd in self._listers:
            poll.register(fd, select.POLLIN)
        while True:
            self._hand_out(poll)
            if any(lister.batches for lister in self._listers.values()):
                for fd, _ in poll.poll(PATIENCE_S * 1000):
                    self._take(poll, fd)
            elif self._todo:
                self._visit(self._next())  # nobody is left to help
            else:
                return
            self._visitor.pause()

    # --- what waits ----------------------------------------------------------------------------

    def _next(self) -> bytes:
        prefix, names = self._todo[-1]
        path = prefix + names.pop()
        if not names:
            self._todo.pop()
        return path

    def _put(self, path: bytes, names: Sequence[bytes]) -> None:
        if names:
            self._todo.append((path and path + b"/", list(reversed(names))))

    def _hand_out(self, poll: select.poll) -> None:
        for fd, lister in list(self._listers.items()):
            while self._todo and len(lister.batches) < UNDER_WAY:
                batch: list[bytes] = []
                size = 0
                while self._todo and len(batch) < lister.appetite and size < BATCH_MAX_BYTES:
                    batch.append(self._next())
                    size += len(batch[-1])
                try:
                    lister.ask(self._skip, self._with_ctime, batch)
                except OSError as error:
                    self._lost(poll, fd, error)
                    break

    # --- answers -------------------------------------------------------------------------------

    def _take(self, poll: select.poll, fd: int) -> None:
        try:
            paths, found = self._listers[fd].answer()
        except OSError as error:
            self._lost(poll, fd, error)
            return
        seen: list[tuple[bytes, Glance]] = []
        for path, glance in zip(paths, found, strict=True):
            if isinstance(glance, int):
                self._visit(path)  # what is wrong with it shows again
            else:
                seen.append((path, glance))
        agreed = self._visitor.agree([key_of(path) for path, _ in seen], [glance for _, glance in seen])
        for (path, _), names in zip(seen, agreed, strict=True):
            if names is None:
                self._visit(path)
            else:
                self._put(path, names)

    def _lost(self, poll: select.poll, fd: int, error: OSError) -> None:
        """A process is gone: what it was asked goes back to what waits."""
        lister = self._listers.pop(fd)
        poll.unregister(fd)
        log.warning("a process that lists directories is gone (%s); the scan goes on without it", error)
        for batch in lister.batches:
            self._todo.append((b"", batch))

    def _visit(self, path: bytes) -> None:
        try:
            fd = open_beneath(self._root_fd, path, DIRECTORY_FLAGS)
        except OSError as error:
            if not path:
                raise  # without its root nothing is known of the volume
            self._visitor.closed(key_of(path), error)
            return
        try:
            self._put(path, self._visitor.directory(key_of(path), fd))
        finally:
            os.close(fd)
