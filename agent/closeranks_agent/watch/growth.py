"""What was written, told before and after it is committed.

A file that grows for minutes would be told of only when it rests; a guard must hear of it at once. So files that
are still being written are asked for their size now and then, and what they grew is told; the commit then tells
only what is left.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final

from closeranks_proto.entries import entry_size
from closeranks_proto.errors import CloseranksError
from closeranks_proto.messages import Hand
from closeranks_proto.paths import path_of

from ..disk.look import LookReport
from ..disk.volume import Volume, hand_finder
from ..hands.written import Written
from .dirty import Batch, Dirty

FILES_A_LOOK: Final = 256
TOLD_MAX: Final = 4096


class Growth:
    """Of one volume. In the watcher's thread."""

    def __init__(self, volume: Volume, written: Written) -> None:
        self._volume, self._written = volume, written
        # Of a growing file its size before, and the size up to which it was told of.
        self._told: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def look(self, dirty: Dirty) -> None:
        """Tell how much grew since the last look."""
        growing = dirty.growing(FILES_A_LOOK)
        if not growing:
            return
        try:
            root_fd = self._volume.open_root()
        except (CloseranksError, OSError):
            return  # the look at it says so
        try:
            for key, hand in growing:
                self._grown(root_fd, key, hand)
        finally:
            os.close(root_fd)

    def _grown(self, root_fd: int, key: bytes, hand: Hand | None) -> None:
        try:
            size = os.stat(path_of(key), dir_fd=root_fd, follow_symlinks=False).st_size
        except OSError:
            return  # gone, or too deep to be asked for like this
        new = key not in self._told
        base, before = (self._known_size(key),) * 2 if new else self._told[key]
        if size > before:
            self._told[key] = (base, size)
            self._told.move_to_end(key)
            if len(self._told) > TOLD_MAX:
                self._told.popitem(last=False)
            self._written.note(self._volume.name, int(new), size - before, hand)

    def _known_size(self, key: bytes) -> int:
        try:
            row = self._volume.history.index.row(key)
        except CloseranksError:
            return 0
        return 0 if row is None else entry_size(row.value)

    def committed(self, report: LookReport, batch: Batch) -> None:
        """Tell of what a look committed, without what was told of it before."""
        hand_of = hand_finder(batch.hands)
        counts: dict[Hand | None, list[int]] = {}
        for key, size in report.sizes.items():
            base, told = self._told.pop(key, (-1, -1))
            count = counts.setdefault(hand_of(key), [0, 0])
            count[0] += told < 0
            count[1] += max(0, size - (told - base))
        if report.changed > len(report.sizes):
            count = counts.setdefault(report.hands[0] if report.hands else None, [0, 0])
            count[0] += report.changed - len(report.sizes)
        for hand, (files, size) in counts.items():
            self._written.note(self._volume.name, files, size, hand)
