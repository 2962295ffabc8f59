"""fanotify: one mark for the whole filesystem, every change with directory, name and the writer's pid.

The queue has no limit where the kernel permits that; this process then pays for what it does not read in time.
Our own changes are dropped by their pid before anything is made of them, except for the canary. Since masks are
united and repetition folded, events of one read carry no order; the canary comes last of its read.

Rejected: inode marks (a mark per directory, as costly as inotify), mount marks (they tell no names, and
nothing of writes through another mount), FAN_RENAME (two events of a rename are both hints, and older kernels
lack it), pidfds (a descriptor per event; /proc is read at once anyway), a mask that leaves writes and attributes out
while very many files are made (what the writer pays would still be above the bound: see bench/README.md).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from closeranks_proto.paths import parent_key

from ..disk.private import PRIVATE_NAME
from . import calls
from .events import CANARY, CANARY_NAME, ROOT_GONE, Event, Lost, SourceBroken, SourceKind, What
from .handles import Directories, Place, RootGone
from .records import fields_of, parse_fanotify, what_of

# About 4,000 events of 64 bytes: some 10 ms of work at most between two waits.
BUFFER_BYTES: Final = 256 * 1024
EVENT_MAX_BYTES: Final = 1024  # of one record with a handle, a long name and the file's own handle
# The file's own handle is of no use, but without it, writes to a file that has no name yet are not told at all.
_REPORT: Final = calls.FAN_REPORT_DFID_NAME | calls.FAN_REPORT_FID
_FLAGS: Final = calls.FAN_CLOEXEC | calls.FAN_NONBLOCK | _REPORT
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOVES: Final = calls.MOVED_FROM | calls.MOVED_TO
_LEAVES: Final = _MOVES | calls.DELETE
_ROOT_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
NAMELESS: Final = (
    "a file was changed through a handle without a name, as an NFS server does for a file opened long ago: "
    "only a scan tells which"
)
OVERFLOWN: Final = "the kernel's queue of fanotify events overflowed: changes came faster than they were read"


class FanotifySource:
    """Changes of a volume by a mark on its filesystem."""

    kind: SourceKind = "fanotify"
    tells_hands = True
    why_unknown = "the writer lives in another pid namespace, or the kernel itself wrote"
    watches = 1
    unwatched = 0
    can_mute = True
    can_hush = True
    hears_beside = True
    stale = False
    found = 0

    def __init__(
        self, path: bytes, private: bytes, ignored: Callable[[bytes], bool], own_pid: int | None = None
    ) -> None:
        """Raises OSError where the kernel or the filesystem does not permit it."""
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._directories = Directories(path, private, ignored)
        self.path = path
        self.writers: set[int] = set()
        self._root_gone = False
        self.drained = True
        try:
            self._fd = calls.fanotify_init(_FLAGS | calls.FAN_UNLIMITED_QUEUE)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            self._fd = calls.fanotify_init(_FLAGS)
        try:
            self._mark(path)
        except BaseException:
            self.close()
            raise

    def _mark(
        self, path: bytes, mask: int = calls.CHANGES | calls.ON_DIRECTORY, remove: bool = False
    ) -> None:
        mark = calls.fanotify_unmark_filesystem if remove else calls.fanotify_mark_filesystem
        directory = os.open(path, _DIRECTORY)
        try:
            mark(self._fd, mask, directory)
        finally:
            os.close(directory)

    def fileno(self) -> int:
        return self._fd

    def watch(self, key: bytes) -> list[Lost]:
        return []  # the mark covers the filesystem

    def mute(self, fd: int) -> bool:
        try:
            calls.fanotify_ignore(self._fd, calls.MODIFY, fd)
        except OSError:
            return False  # no more marks are allowed, or the file is gone: its writes are told as before
        return True

    def unmute(self) -> None:
        try:
            calls.fanotify_flush(self._fd)
        except OSError as error:
            raise SourceBroken(f"fanotify's marks can not be taken back: {error.strerror}") from error

    def pause(self) -> None:
        try:
            calls.fanotify_flush_filesystems(self._fd)
        except OSError as error:
            raise SourceBroken(f"fanotify's mark can not be taken back: {error.strerror}") from error

    def resume(self) -> None:
        self._directories.forget()  # any of them may have moved meanwhile, and the root may be another one
        try:
            self._mark(self.path)
            self._directories.anchor()
        except OSError as error:
            if error.errno in _ROOT_GONE:
                raise SourceBroken(ROOT_GONE) from error
            raise SourceBroken(f"fanotify's mark can not be set again: {error.strerror}") from error
        except RootGone as error:
            raise SourceBroken(ROOT_GONE) from error
        finally:
            self._directories.release()

    def hush(self) -> None:
        self._ask_for_writes(False)

    def ask(self) -> None:
        pass  # the mark tells all but writes

    def unhush(self) -> None:
        self._ask_for_writes(True)

    def _ask_for_writes(self, wanted: bool) -> None:
        try:
            self._mark(self.path, calls.MODIFY, remove=not wanted)
        except OSError as error:
            if error.errno in _ROOT_GONE:
                raise SourceBroken(ROOT_GONE) from error
            raise SourceBroken(f"fanotify's mark can not be changed: {error.strerror}") from error

    def key_of(self, fd: int) -> bytes | None:
        try:
            return self._directories.key_of(fd)
        except (RootGone, OSError):
            return None  # the events say so of a root that is gone; of all else a scan does
        finally:
            self._directories.release()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self) -> list[Event | Lost]:
        self.writers.clear()
        try:
            data = os.read(self._fd, BUFFER_BYTES)
        except BlockingIOError:
            self.drained = True
            return []
        except OSError as error:
            raise SourceBroken(f"fanotify can not be read: {error.strerror}") from error
        self.drained = len(data) < BUFFER_BYTES - EVENT_MAX_BYTES
        batch = parse_fanotify(data, self._own_pid, CANARY_NAME)
        out: list[Event | Lost] = []
        if batch.union & calls.OVERFLOW:
            out.append(Lost(OVERFLOWN, None))
        directories_moved = batch.union & calls.ON_DIRECTORY and batch.union & _MOVES
        if directories_moved or batch.union & calls.OVERFLOW:
            self._directories.forget()
        if self._root_gone:
            return out
        if batch.nameless:
            out.append(Lost(NAMELESS, None))
        try:
            if batch.union & calls.ON_DIRECTORY and batch.union & _LEAVES:
                self._directories.anchor()
            self._tell(batch.masks, out)
        except RootGone:
            self._root_gone = True
            out.append(Event(b"", b"", What.SELF | What.DIRECTORY | What.MOVED_FROM, 0))
        except OSError as error:
            raise SourceBroken(f"fanotify's handles can not be resolved: {error.strerror}") from error
        finally:
            self._directories.release()
        return out

    def _tell(self, masks: dict[bytes, int], out: list[Event | Lost]) -> None:
        place_of = self._directories.place_of
        places: dict[bytes, Place] = {}
        lost: dict[Lost, None] = {}
        canaries: list[Event] = []
        for folded, mask in masks.items():
            pid, handle, name = fields_of(folded)
            if mask & calls.MODIFY and pid != self._own_pid:
                self.writers.add(pid)
            if handle in places:
                place = places[handle]
            else:
                place = places[handle] = place_of(handle)
            if place is None:
                continue
            if place is CANARY:
                if mask & calls.CLOSE_WRITE and name.startswith(CANARY_NAME):
                    canaries.append(Event(CANARY, name[len(CANARY_NAME) :], What.CLOSED, pid))
                continue
            if pid == self._own_pid:
                continue  # a name of ours that merely contains the canary's
            if isinstance(place, Lost):
                lost[place] = None
                continue
            if name == b".":  # the directory itself: its entry in its parent
                if not place:
                    continue  # the root's own attributes are not part of the tree
                place, name = parent_key(place), place.rpartition(b"\0")[2]
            if place or name != PRIVATE_NAME:
                out.append(Event(place, name, what_of(mask), pid))
        out.extend(lost)
        out.extend(canaries)
