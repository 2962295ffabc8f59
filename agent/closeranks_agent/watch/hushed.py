"""The directories of which inotify tells no writes in a hush: they are compared, or watched for all else.

Compared are those with few entries (`polled`). A watch with another mask would cost whoever writes there a fifth of a
microsecond each time all the same. Without one nothing is lost between the two: what was there is noted before a watch
is taken away, and compared once more after it is given back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from . import calls
from .polled import ENTRIES_MAX, Polled
from .records import InotifyBatch
from .spread import MASK, QUIET, Spread

POLLED_MAX: Final = 4096  # entries of all that are compared


class Hushed:
    """Of one tree of watches. Raises what `Spread` raises: RootGone, OSError."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread
        self._told: list[tuple[int, int, bytes]] = []  # (watch, mask, name), for the next read

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._told)

    def hush(self, keys: Iterable[bytes]) -> None:
        """Be told by events of no writes into the files of these directories."""
        spread = self._spread
        spread.release()
        for key in keys:
            node = spread.tree.find(key)
            if node is None or node.watch in spread.polled or node.watch in spread.quiet:
                continue
            fd = spread.directory(node)
            if fd is None:
                continue  # it moved meanwhile and is told of as before until it is found
            polled = Polled.of(fd)
            if polled is None or len(polled) + sum(map(len, spread.polled.values())) > POLLED_MAX:
                spread.quiet.add(node.watch)
                calls.inotify_add(spread.fd, fd, QUIET)
            else:
                spread.polled[node.watch] = polled
                spread.remove(node.watch)
        spread.release()

    def poll(self) -> None:
        """Compare the directories without a watch. One that has become large gets its watch back."""
        spread = self._spread
        spread.release()
        for watch, polled in list(spread.polled.items()):
            node = spread.tree.get(watch)
            if node is None:
                del spread.polled[watch]
                continue
            fd = spread.directory(node)
            if fd is None:
                continue  # it moved meanwhile: it is compared again when it is found
            if len(polled) > ENTRIES_MAX and spread.watch_again(node, fd, QUIET):
                spread.quiet.add(node.watch)
            self._tell(node.watch, polled, fd)
        spread.release()

    def unhush(self) -> None:
        """Be told of all writes again; what can not be found now is told of as a whole when it is."""
        spread = self._spread
        quiet, spread.quiet = spread.quiet, set()
        spread.release()
        for watch in sorted(quiet):
            node = spread.tree.get(watch)
            if node is not None and spread.directory(node) is None:
                spread.put_off(node)
        # Those above come first: what lies below one that is not found is watched when that is.
        for watch in sorted(spread.polled, key=self._depth):
            node, polled = spread.tree.get(watch), spread.polled.get(watch)
            if node is None or polled is None:
                continue
            fd = spread.directory(node)
            if fd is not None and spread.watch_again(node, fd, MASK):
                self._tell(node.watch, polled, fd)
                continue
            if fd is None:
                spread.put_off(node)
            spread.unwatch(spread.tree.drop(node))
        spread.polled.clear()
        spread.release()

    def join(self, batch: InotifyBatch) -> None:
        """What was found stands beside what the kernel tells."""
        told, self._told = self._told, []
        for watch, mask, name in told:
            batch.masks[watch, name] = batch.masks.get((watch, name), 0) | mask
            if mask & calls.ON_DIRECTORY:
                batch.structure.append((watch, mask, 0, name))

    def _tell(self, watch: int, polled: Polled, fd: int) -> None:
        self._told.extend((watch, mask, name) for mask, name in polled.changes(fd))

    def _depth(self, watch: int) -> int:
        node, depth = self._spread.tree.get(watch), 0
        while node is not None:
            node, depth = node.parent, depth + 1
        return depth
