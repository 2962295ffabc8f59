"""Files that are being written all the time, of which the kernel tells no more: they are asked instead.

Each write makes an event in the writer's own time, a microsecond and more: 8% of what it takes to write a long file in
pieces of 64 KB, more than the write itself where a database writes 4 KB. Once a file is known to be written it is
enough to look at its stat ten times a second. So where the source can (fanotify), a hot file's writes are muted;
opening, closing, moving and deleting it are told as before.

Nothing is missed: the stat that later ones are compared with is taken before the file is muted; all marks are
taken back before the last comparison; and a proof compares all of them after its canary was seen. What has just
been written may be written again under the same time stamp, so such a stat is never the last word.

A muted file that moved is written on under a name that is not asked for, until the marks are taken back: so what
arrived anywhere meanwhile is looked at once more then. Files with several names are never muted.

Bounded: MUTED_MAX files; whatever is not clear (gone, moved, replaced, quiet for QUIET_LOOKS) takes all marks back at
once, and what is still hot is muted again by the next look. Where a third of the cost is still too much, no writes are
told at all (`hush`). Rejected: that for all hot files (nobody tells that an existing file was opened, so only a scan
proves), a descriptor for each (the filesystem could not be unmounted).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from closeranks_proto.messages import Hand
from closeranks_proto.paths import path_of

from ..beneath import open_beneath
from ..disk.volume import Volume
from .dirty import Dirty
from .source import Source
from .stamps import Stamp, settled, stamp_of

MUTED_MAX: Final = 64
ARRIVED_MAX: Final = 4096  # names; beyond it the volume's root stands for all of them
EVERY_S: Final = 0.1
# Reads of the queue that told of a file between two looks, of about ten: a log with ten lines a second stays below it,
# and is committed as promptly as ever.
HOT_READS: Final = 5
QUIET_LOOKS: Final = 20
_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _File:
    """`stamp`: as it was looked at last; None: anything is news."""

    inode: int
    stamp: Stamp | None
    hand: Hand | None
    quiet: int = 0


class Muted:
    """Of one volume. In the watcher's thread."""

    def __init__(self, volume: Volume, source: Source) -> None:
        self._volume, self._source = volume, source
        self._files: dict[bytes, _File] = {}
        self._heard: dict[bytes, int] = {}  # of growing files: how often they were heard of by the last look
        self._arrived: dict[bytes, bool] = {}  # moved to since the last look; True: with all that lies below

    def __len__(self) -> int:
        return len(self._files)

    @property
    def writers(self) -> set[int]:
        """The processes whose hands were seen at them."""
        return {file.hand.pid for file in self._files.values() if file.hand is not None and file.hand.pid}

    def arrived(self, key: bytes, tree: bool) -> None:
        """Something was moved to this name."""
        if self._files:
            if len(self._arrived) >= ARRIVED_MAX:
                key, tree = b"", True
            self._arrived[key] = tree or self._arrived.get(key, False)

    def look(self, dirty: Dirty, now: float) -> None:
        """Compare what is muted, take the marks back where something is not clear, mute what is hot."""
        if self._files and self.ask(dirty, now):
            self.speak(dirty, now)
        self._arrived.clear()
        if self._source.can_mute:
            self._mute_hot(dirty)

    def ask(self, dirty: Dirty, now: float) -> bool:
        """Note which of them have changed; whether marks should be taken back."""
        if not self._files:
            return False
        try:
            root_fd = self._volume.glance_root()
        except OSError:
            return True  # the volume is gone: whoever looks at it says so
        try:
            unclear = [self._asked(root_fd, key, file, dirty, now) for key, file in self._files.items()]
        finally:
            os.close(root_fd)
        return any(unclear)

    def _asked(self, root_fd: int, key: bytes, file: _File, dirty: Dirty, now: float) -> bool:
        try:
            stamp = stamp_of(os.stat(path_of(key), dir_fd=root_fd, follow_symlinks=False))
        except OSError:
            stamp = None
        if stamp is None or stamp[:2] != (file.inode, 1):
            dirty.note(key, now, file.hand)
            return True
        if stamp != file.stamp:
            dirty.note(key, now, file.hand, open=True)
            file.stamp, file.quiet = settled(stamp), 0
        else:
            file.quiet += 1
        return file.quiet >= QUIET_LOOKS

    def speak(self, dirty: Dirty, now: float) -> None:
        """Take all marks back, and note what changed until then."""
        self._source.unmute()
        self.ask(dirty, now)
        self._files.clear()
        for key, tree in self._arrived.items():
            dirty.note(key, now, None, tree=tree)

    def _mute_hot(self, dirty: Dirty) -> None:
        heard = dirty.heard(MUTED_MAX)
        hot = [key for key, times in heard.items() if times - self._heard.get(key, 0) >= HOT_READS]
        self._heard = heard
        if not hot or len(self._files) >= MUTED_MAX:
            return
        try:
            root_fd = self._volume.glance_root()
        except OSError:
            return
        try:
            for key in hot[: MUTED_MAX - len(self._files)]:
                if key not in self._files:
                    self._mute(root_fd, key, dirty.hand(key))
        finally:
            os.close(root_fd)

    def _mute(self, root_fd: int, key: bytes, hand: Hand | None) -> None:
        try:
            fd = open_beneath(root_fd, path_of(key), _FLAGS)
        except OSError:
            return  # gone, or never to be reached: it is told of as before
        try:
            stamp = stamp_of(os.fstat(fd))
            if stamp[1] == 1 and self._source.mute(fd):
                self._files[key] = _File(stamp[0], settled(stamp), hand)
        finally:
            os.close(fd)
