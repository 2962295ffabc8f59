"""How much is written in a storm, of which only samples are told: by how much the disk's room shrinks.

`Growth` asks files for their sizes, and in a storm hardly any file is heard of. What a disk loses is exact on ext4 and
tmpfs, costs 4 us to ask and is asked twenty times a second. But it says neither where nor who: so no more of it counts
than the samples let expect, and twice that, since ten milliseconds are short: the sizes of some of the names in it,
times the pace of the names. Until the first sample a storm is taken for as fast as one can be. What converges and
pushes of ours take is none of it.

A scan finds the same files later: `Written.ahead` leaves out there what was told here.

Where no room is lost nothing is told: what is written over in place, and on btrfs before it writes, is told of by
scans, as all of it was. Rejected: the samples alone (half a second old, and a program that makes nothing but a few
large files beside many small ones is ten times as much in one as in the next).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from closeranks_proto.paths import path_of

from ..disk.taken import written_bytes
from ..disk.volume import Volume
from ..hands.written import Written

ASKED_MAX: Final = 64  # names of a sample; 3 us each
NAMES_MAX_S: Final = 60_000.0  # as many files are made in a second at most, as far as we have seen
BEYOND: Final = 2.0  # times what the samples suggest

Room = Callable[[], tuple[int, int]]  # which filesystem it is, and how much of it is free. Raises OSError


class Flood:
    """Of one volume, in the watcher's thread."""

    def __init__(
        self, volume: Volume, written: Written, clock: Callable[[], float] = time.monotonic, room: Room | None = None,
    ) -> None:  # fmt: skip
        self._volume, self._written, self._clock = volume, written, clock
        self._room = room or self._ask_room
        self._filesystem = self._free = self._taken = 0
        self._pace = 0.0  # bytes a second, at most
        self._at = self._sampled_at = 0.0
        # Bytes that can have been written: until now, until the last sample.
        self._may = self._may_before = 0.0
        self._lost = self._told = 0

    def begin(self, keys: Sequence[bytes]) -> None:
        """A storm begins behind these names."""
        self._at = self._sampled_at = self._clock()
        self._may = self._may_before = 0.0
        self._lost = self._told = 0
        self._pace = NAMES_MAX_S * self._mean(keys)
        self._start()

    def sampled(self, keys: Sequence[bytes], names: int, seconds: float) -> None:
        """A sample showed so many changed names in so many seconds; `keys` are some of them."""
        self.look()
        self._pace = BEYOND * self._mean(keys) * names / seconds
        elapsed_s = self._at - self._sampled_at
        self._may = self._may_before = max(self._may, self._may_before + self._pace * elapsed_s)
        self._sampled_at = self._at
        self._tell()

    def look(self) -> None:
        """Tell how much was written since the last look."""
        now = self._clock()
        self._may += self._pace * (now - self._at)
        self._at = now
        taken = self._volume.taken.bytes
        try:
            filesystem, free = self._room()
        except OSError:
            return  # the watcher hears of it
        if filesystem != self._filesystem:
            self._start()  # something else is mounted there
            return
        self._lost += self._free - free - (taken - self._taken)
        self._free, self._taken = free, taken
        self._tell()

    def _tell(self) -> None:
        grown = int(min(self._lost, self._may)) - self._told
        if grown > 0:
            self._told += grown
            self._written.note(self._volume.name, 0, grown)
            self._written.ahead(self._volume.name, grown)

    def _start(self) -> None:
        self._taken = self._volume.taken.bytes
        try:
            self._filesystem, self._free = self._room()
        except OSError:
            self._filesystem = -1

    def _ask_room(self) -> tuple[int, int]:
        found = os.statvfs(self._volume.path)
        return found.f_fsid, found.f_bfree * found.f_frsize

    def _mean(self, keys: Sequence[bytes]) -> float:
        """Of the files among these, those that are gone count as empty."""
        asked = keys[-ASKED_MAX:]
        if not asked:
            return 0.0
        try:
            root_fd = self._volume.glance_root()
        except OSError:
            return 0.0
        try:
            return sum(_size(root_fd, key) for key in asked) / len(asked)
        finally:
            os.close(root_fd)


def _size(root_fd: int, key: bytes) -> int:
    try:
        found = os.stat(path_of(key), dir_fd=root_fd, follow_symlinks=False)
    except OSError:
        return 0
    return written_bytes(found) if stat.S_ISREG(found.st_mode) else 0
