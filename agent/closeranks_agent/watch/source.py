"""The one interface of what tells of changes, and the choice among fanotify, inotify and nothing.

fanotify watches the whole filesystem with one mark, costs nothing per directory and names the process that
wrote; it needs root and a filesystem with handles. inotify needs neither, but a watch for every directory, and
never knows whose hand it was. Where neither may be trusted (other machines write to a network filesystem
unseen), there is no source and rescans find the changes. Every step down says why, in words.

Known blind spots of both, which only scans see: writes through a shared memory map give no event until the
file is closed by whoever opened it for writing; a change through another hard link is reported under that other name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from typing import Final, Protocol

from . import calls
from .events import Event, Lost
from .events import SourceKind as SourceKind
from .fanotify import FanotifySource
from .inotify import InotifySource
from .watches import watch_limit

# Filesystems that other machines write to without this kernel's knowing. Of FUSE, only what is local is trusted.
_SHARED: Final = frozenset(
    {
        *(
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "fuse",
            "gfs",
            "gfs2",
            "glusterfs",
            "gpfs",
            "lustre",
        ),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "vboxsf", "virtiofs"),
    }
)


class Source(Protocol):
    """A queue of changes below one volume's root, read by one thread.

    `read` never blocks and does a bounded piece of work: at most one buffer of events, and for inotify at most
    a bounded number of new directories. An empty list may also mean that what was queued concerns nobody here:
    `drained` tells. Wait with poll on `fileno()` for readable. A short pause between reads under load (5 to 20
    ms) lets the kernel merge repeated writes to one file, and costs the writer less.
    """

    @property
    def kind(self) -> SourceKind: ...

    @property
    def watches(self) -> int:
        """Marks or watches that the kernel holds for it."""

    @property
    def unwatched(self) -> int:
        """Directories with something below that can not be watched now; `watch(b"")` tries again (inotify)."""

    @property
    def drained(self) -> bool:
        """Whether the last read took everything that was queued."""

    @property
    def tells_hands(self) -> bool:
        """Whether events carry the pid of the writer."""

    @property
    def why_unknown(self) -> str:
        """Why an event with pid 0 has none."""

    @property
    def can_mute(self) -> bool:
        """Whether `mute` may work."""

    def mute(self, fd: int) -> bool:
        """Tell of no more writes to this open file (O_PATH) until `unmute`; False where they are told as before."""

    def unmute(self) -> None:
        """Tell of all writes again. Raises SourceBroken."""

    @property
    def path(self) -> bytes:
        """The volume's."""

    @property
    def writers(self) -> Collection[int]:
        """Processes that write into files of which the last read told: those that it named, wherever on the volume's
        filesystem, or, where it names none, those that have open what is told of on and on."""

    @property
    def hears_beside(self) -> bool:
        """Whether who writes beside the volume on its filesystem is told of, too, and pays for it."""

    @property
    def found(self) -> int:
        """Names that the last read found in new directories, and that nothing tells of (inotify)."""

    @property
    def can_hush(self) -> bool:
        """Whether `hush` makes writes cheap for those who write much."""

    def hush(self) -> None:
        """Tell of no writes until `unhush`, to any file or to those beside the hot ones.

        What else happens there is told as ever, or when one has asked. Raises SourceBroken.
        """

    def ask(self) -> None:
        """In a hush, find out what is told by no event; the next `read` tells. Raises SourceBroken."""

    def unhush(self) -> None:
        """Tell of writes again, of those from now on. Raises SourceBroken."""

    def key_of(self, fd: int) -> bytes | None:
        """The key of an open file (O_PATH will do); None for one that is not the volume's, or is not compared."""

    def pause(self) -> None:
        """Until `resume` be told of nothing, which costs those who write next to nothing. Raises SourceBroken."""

    def resume(self) -> None:
        """Be told again, of what happens from now on. Raises SourceBroken, also where the root is another one.

        Events from before may be told, too: read them first, and count what comes then.
        """

    @property
    def stale(self) -> bool:
        """What is told since `resume` is good for counting only: `pause` and `resume` until it is not."""

    def fileno(self) -> int:
        """What to poll for readability; closed with the source."""

    def read(self) -> list[Event | Lost]:
        """What is queued, at most a buffer of it. Raises SourceBroken."""

    def watch(self, key: bytes) -> list[Lost]:
        """Make sure that the subtree at directory `key` is watched, and say what of it can not be."""

    def close(self) -> None:
        """Give everything back to the kernel. Never raises; twice is once."""


def _nothing_ignored(key: bytes) -> bool:
    return False


def open_source(
    path: bytes,
    private: bytes,
    *,
    prefer: str | None = None,
    ignored: Callable[[bytes], bool] = _nothing_ignored,
    own_pid: int | None = None,
) -> tuple[Source | None, str]:
    """The best source for the volume at `path` that the kernel permits, and in words why not a better one (or "").

    `private` is the volume's private directory, wherever it lies. `prefer`: "auto" or None, "fanotify",
    "inotify", "rescan" (no source at all); a preference that can not be had falls back to the next. `ignored`
    answers for the key of a directory, whose parents are not ignored, whether it is not compared; it is asked in
    the reading thread.
    Events of `own_pid` (this process unless told otherwise) are dropped where the source knows the pid.
    Never raises; inotify walks the whole tree here, so call it off the event loop.
    """
    if prefer == "rescan":
        return None, "this volume's `watch` asks for scans only"
    reasons: list[str] = []
    foreign = _shared_filesystem(path) if prefer in (None, "auto") else None
    if foreign is not None:
        return None, foreign
    if prefer != "inotify":
        try:
            return FanotifySource(path, private, ignored, own_pid), ""
        except OSError as error:
            reasons.append(_why_no_fanotify(error))
    try:
        source = InotifySource(path, private, ignored)
    except OSError as error:
        reasons.append(_why_no_inotify(error))
        return None, "; ".join(reasons)
    asked = ["this volume's `watch` asks for inotify"] if prefer == "inotify" else []
    return source, "; ".join(asked + reasons)


def permitted(path: bytes) -> list[tuple[SourceKind, bool, str]]:
    """For `doctor`: each source, whether it would work for the volume at `path`, and why (not)."""
    found: list[tuple[SourceKind, bool, str]] = []
    foreign = _shared_filesystem(path)
    try:
        FanotifySource(path, path, _nothing_ignored).close()
        found.append(
            ("fanotify", foreign is None, foreign or "one mark covers the filesystem; the writer is known")
        )
    except OSError as error:
        found.append(("fanotify", False, _why_no_fanotify(error).removeprefix("no fanotify: ")))
    try:
        os.close(calls.inotify_init())
        found.append(("inotify", foreign is None, foreign or f"a watch for each directory; {_watch_limit()}"))
    except OSError as error:
        found.append(("inotify", False, _why_no_inotify(error)))
    return found


def _watch_limit() -> str:
    limit = watch_limit()
    return f"fs.inotify.max_user_watches allows {limit} of them for all programs of this user"


def _shared_filesystem(path: bytes) -> str | None:
    """Why events would not tell everything on this filesystem, or None."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None  # opening the source says what is wrong
    try:
        kind = calls.filesystem_of(fd)
    finally:
        os.close(fd)
    if kind.split(".")[0] in _SHARED:
        return f"{kind} is written by other machines, too, and the kernel does not tell of their changes"
    return None


def _why_no_fanotify(error: OSError) -> str:
    why = {
        errno.EPERM: "it needs root (CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH)",
        errno.EACCES: "the volume's root may not be read",
        errno.ENOSYS: "this kernel has none, or a seccomp filter keeps it from this service",
        errno.EINVAL: "this kernel does not report names (Linux 5.9 does)",
        errno.EXDEV: "this is a btrfs subvolume, which can not be marked as a filesystem",
        errno.EOPNOTSUPP: "this filesystem has no file handles (overlayfs has them with nfs_export=on)",
        errno.ENODEV: "this filesystem has no id that events could name",
        errno.EMFILE: "the limit fs.fanotify.max_user_groups, or that of open files, is reached",
        errno.ENOSPC: "the limit fs.fanotify.max_user_marks is reached",
        errno.ENOENT: "the volume's root is not there",
    }.get(error.errno or 0, error.strerror or "unknown error")
    return f"no fanotify: {why}"


def _why_no_inotify(error: OSError) -> str:
    why = {
        errno.EMFILE: "the limit fs.inotify.max_user_instances, or that of open files, is reached",
        errno.ENOSPC: "fs.inotify.max_user_watches is reached",
        errno.ENOSYS: "this kernel has none, or a seccomp filter keeps it from this service",
        errno.ENOENT: "the volume's root is not there",
        errno.EACCES: "the volume's root may not be read",
    }.get(error.errno or 0, error.strerror or "unknown error")
    return f"no inotify: {why}"
