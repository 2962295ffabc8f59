"""A directory that is too costly to watch for a while: its entries are compared instead.

Who reads or writes a file in a directory with an inotify watch pays for it each time, whatever the watch asks for: 150
to 200 ns, where the call itself takes 750 to 850 (`pread` and `pwrite` of 4 KB on ext4 and tmpfs, Linux 6.18). So in a
hush (`hush`) the directories of hot files have no watch at all, and what lies in them is told by its stat, up to ten
times a second. What comes and goes between two looks is not told, nor whose hand it was: a scan follows each hush.

Only directories with few entries, on filesystems with handles, by which one is known again after it has moved.
"""

from __future__ import annotations

import os
import stat
from typing import Final, Self

from . import calls
from .stamps import Stamp, settled, stamp_of

ENTRIES_MAX: Final = 1024
Change = tuple[int, bytes]  # as inotify would tell it: mask and name
# Whether it is a directory (a bit of the mask), what it is: its inode, or its handle, for the inode of a removed
# directory is soon another's; its stamp (None: anything is news).
_Entry = tuple[int, int | bytes, Stamp | None]


class Polled:
    """Use `of`."""

    def __init__(self, handle: bytes, entries: dict[bytes, _Entry]) -> None:
        self.unchanged = 0  # times in a row that nothing was found to have changed
        self._handle, self._entries = handle, entries

    @classmethod
    def of(cls, fd: int, entries_max: int = ENTRIES_MAX) -> Self | None:
        """The open directory as it is now; None where it can not be compared, or has more entries."""
        try:
            handle, entries = calls.handle_of(fd), _entries(fd, entries_max)
        except OSError:
            return None  # no handles, or it is gone: who asks next finds out
        return None if entries is None else cls(handle, entries)

    def __len__(self) -> int:
        return len(self._entries)

    def is_it(self, fd: int) -> bool:
        """Whether the open directory is this one."""
        try:
            return calls.handle_of(fd) == self._handle
        except OSError:
            return False

    def changes(self, fd: int) -> list[Change] | None:
        """What is not as it was the time before; what has gone comes first. None: too much by now. Raises OSError."""
        now, before = _entries(fd, ENTRIES_MAX), self._entries
        if now is None:
            return None
        self._entries = now
        gone = [name for name, was in before.items() if name not in now or now[name][:2] != was[:2]]
        found = [(calls.DELETE | before[name][0], name) for name in gone]
        for name, (kind, identity, stamp) in now.items():
            was = before.get(name)
            if was is None or was[:2] != (kind, identity):
                found.append(((calls.CREATE if was is None else calls.MOVED_TO) | kind, name))
            elif stamp is None or was[2] != stamp:
                found.append((calls.ATTRIB | kind if kind else calls.MODIFY, name))
        self.unchanged = 0 if found else self.unchanged + 1
        return found


def _entries(fd: int, entries_max: int) -> dict[bytes, _Entry] | None:
    """None where there are more. Raises OSError."""
    found: dict[bytes, _Entry] = {}
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone meanwhile
            name = os.fsencode(entry.name)
            if stat.S_ISDIR(status.st_mode):
                found[name] = calls.ON_DIRECTORY, _identity(fd, name, status), settled(_of_directory(status))
            else:
                found[name] = 0, status.st_ino, settled(stamp_of(status))
            if len(found) > entries_max:
                return None
    return found


def _identity(fd: int, name: bytes, status: os.stat_result) -> int | bytes:
    try:
        return calls.handle_of(fd, name)
    except OSError:
        return status.st_ino  # gone meanwhile, or a filesystem without handles is mounted there


def _of_directory(status: os.stat_result) -> Stamp:
    """Nothing that its own entries change: it is watched, or compared, for itself."""
    own_ns = status.st_ctime_ns if status.st_ctime_ns != status.st_mtime_ns else 0
    return status.st_mode, status.st_uid, status.st_gid, 0, own_ns
