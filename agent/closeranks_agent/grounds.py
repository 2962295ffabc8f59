"""What a volume stands on: its directory, file system, room and private directory. Can they bear what the agent does?

Nothing is written into a compared tree: what must be tried out is tried in the private directory if the agent has
made it already, else judged by permissions and the kernel's word.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from closeranks_proto.findings import Finding, fail, ok, warn
from closeranks_proto.lines import printable

from .config import AgentVolumeConfig
from .converge.workroom import ITEMS_NAME
from .disk.private import MARK_NAME, PRIVATE_NAME, TRASH_NAME
from .disk.taken import BLOCK_BYTES
from .watch.examined import examine_watching

MIN_FREE_SHARE = 0.05  # of a volume's file system: what a resync stages and the trash keeps must fit
MIN_FREE_INODES = 10_000
TRASH_READ_MAX = 100_000  # items whose size is looked up
FOLDING_FILESYSTEMS = ("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk", "hfsplus")
WEAK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "overlay", "fuseblk")
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_FS_IOC_GETFLAGS, _CASEFOLD = 0x80086601, 0x40000000
_MIB = 1024 * 1024
_STAGE = "the agent stages and keeps its trash there"


class FilesystemProbe(Protocol):
    """The general probe that the program hands in."""

    def filesystem(self, path: str) -> tuple[str, str]:
        """(kind, mount options)."""


def examine_volume(volume: AgentVolumeConfig, probe: FilesystemProbe) -> list[Finding]:
    """Everything about one tree."""
    subject = f"volume {volume.name}"
    try:
        status = os.lstat(volume.path)
    except OSError as error:
        return [_gone(subject, volume.path, error)]
    if stat.S_ISLNK(status.st_mode):
        target = printable(os.path.realpath(volume.path))
        return [
            fail(
                subject,
                f"{printable(volume.path)} is a symbolic link to {target}",
                "the agent walks by directory and follows no link, so that none can lead it out",
                f"write path = {target!r}",
            )
        ]
    if not stat.S_ISDIR(status.st_mode):
        return [
            fail(
                subject,
                f"{printable(volume.path)} is not a directory",
                "a volume is a tree",
                "name the tree's directory",
            )
        ]
    return [
        *_access(subject, volume),
        *_filesystem(subject, volume, probe),
        *_room(subject, volume),
        *_private(subject, volume),
        _folding(subject, volume, probe),
        *examine_watching(subject, volume.path, volume.watch),
    ]


def _gone(subject: str, path: str, error: OSError) -> Finding:
    reason = "does not exist" if error.errno == errno.ENOENT else error.strerror or type(error).__name__
    return fail(
        subject,
        f"{printable(path)}: {reason}",
        "the agent runs and reports not_mounted; this node has no vote in the volume",
        "mount the file system or make the directory; if it lies elsewhere, mend path",
    )


def _access(subject: str, volume: AgentVolumeConfig) -> list[Finding]:
    shown = printable(volume.path)
    try:
        with os.scandir(volume.path) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        return [
            fail(
                subject,
                f"{shown} can not be listed: {error.strerror}",
                "what can not be read can not be compared",
                "run the agent as a user that may read the whole tree (root, or the files' owner)",
            )
        ]
    if not os.access(volume.path, os.W_OK):
        return [
            warn(
                subject,
                f"{shown} is not writable for this user",
                "differences are found, but a resync can repair nothing",
                "run the doctor as the agent's user; if it is, let that user write the tree",
            )
        ]
    if empty and not os.path.ismount(volume.path):
        return [
            warn(
                subject,
                f"{shown} is empty and no mount point",
                "if a file system should be mounted there, the node would seem to have lost everything",
                "mount it, or ignore this if the tree is to be filled by the first resync",
            )
        ]
    return [ok(subject, f"{shown} can be read and written")]


def _filesystem(subject: str, volume: AgentVolumeConfig, probe: FilesystemProbe) -> Iterator[Finding]:
    kind, options = probe.filesystem(volume.path)
    if "ro" in options.split(","):
        yield fail(
            subject,
            "its file system is mounted read-only",
            "differences are found, but a resync can repair nothing",
            "mount it read-write, and look at dmesg for why it was not",
        )
    if kind in WEAK_FILESYSTEMS:
        yield warn(
            subject,
            f"lies on {kind}",
            "renames, inode numbers or flushes may not be what a local file system promises",
            "compare the disks themselves where you can",
        )
    elif kind:
        yield ok(subject, f"lies on {kind}")


def _room(subject: str, volume: AgentVolumeConfig) -> Iterator[Finding]:
    room = os.statvfs(volume.path)
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    scarce = total and free / total < MIN_FREE_SHARE
    trash = _trash_bytes(volume) if scarce else 0
    if scarce and trash > free:
        yield warn(
            subject,
            f"{free // 10**6:,} MB free ({100 * free // total}%), and its trash takes {trash // 10**6:,} MB",
            "a resync stages new files beside the old and keeps the old in the trash; without room it does not run",
            "restore what is still wanted to another file system (closeranks trash restore), then lower trash_keep_s "
            "in coordinator.toml: older items of closed incidents go by themselves; trash_max_bytes bounds what comes",
        )
    elif scarce:
        yield warn(
            subject,
            f"{free // 10**6:,} MB free ({100 * free // total}%)",
            "a resync stages new files beside the old and keeps the old in the trash; without room it does not run",
            "make room; trash_max_bytes and trash_keep_s in coordinator.toml bound the trash",
        )
    else:
        yield ok(subject, f"{free // 10**6:,} MB free")
    if room.f_files and room.f_favail < min(MIN_FREE_INODES, room.f_files // 20):
        yield warn(
            subject,
            f"{room.f_favail} inodes free",
            "new files fail with no space though bytes are free",
            "remove small files, or make the file system anew with more inodes",
        )


def _private_of(volume: AgentVolumeConfig) -> str:
    return volume.private_dir or f"{volume.path}/{os.fsdecode(PRIVATE_NAME)}"


def _trash_bytes(volume: AgentVolumeConfig) -> int:
    """What the trash takes of the disk, as far as its first TRASH_READ_MAX items tell."""
    items = f"{_private_of(volume)}/{os.fsdecode(TRASH_NAME)}/{os.fsdecode(ITEMS_NAME)}"
    try:
        with os.scandir(items) as found:
            return sum(
                one.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                for one in islice(found, TRASH_READ_MAX)
            )
    except OSError:
        return 0  # there is none yet, or it is not ours to read, which the private directory's finding tells


def _private(subject: str, volume: AgentVolumeConfig) -> Iterator[Finding]:
    """The private directory: on the same file system, ours, and able to do what an install needs."""
    private = _private_of(volume)
    shown = printable(private)
    try:
        status = os.lstat(private)
        foreign = not stat.S_ISDIR(status.st_mode) or _is_foreign(private)
    except FileNotFoundError:
        yield _can_be_made(subject, volume, private)
        return
    except OSError as error:
        yield fail(subject, f"{shown}: {error.strerror}", _STAGE, "let the agent's user reach it")
        return
    if foreign:
        yield fail(
            subject,
            f"{shown} is not the agent's: it does not have its mark",
            "the agent does not touch what belongs to somebody else, and does not start this volume",
            "rename it, or name another private_dir",
        )
    elif status.st_dev != os.stat(volume.path).st_dev:
        yield _on_another(subject, f"{shown} is")
    elif status.st_uid != os.geteuid():
        yield warn(
            subject,
            f"{shown} belongs to user {status.st_uid}, and the doctor runs as user {os.geteuid()}",
            "the agent refuses a private directory that is not its user's",
            "run the doctor as the agent's user; if it is, chown the directory to that user",
        )
    else:
        yield from _try_out(subject, private)


def _is_foreign(private: str) -> bool:
    """Whether somebody else keeps things there: not empty, and without the agent's mark."""
    names = os.listdir(private)
    return bool(names) and os.fsdecode(MARK_NAME) not in names


def _on_another(subject: str, what: str) -> Finding:
    return fail(
        subject,
        f"{what} on another file system than the volume",
        "a file is installed by a rename, which works within one file system only",
        "name a private_dir on the volume's own file system",
    )


def _can_be_made(subject: str, volume: AgentVolumeConfig, private: str) -> Finding:
    parent = os.path.dirname(private)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        return fail(
            subject,
            f"{printable(private)} can not be made by this user",
            _STAGE,
            f"as root: install -d -m 700 -o USER {printable(private)} (USER is who runs the agent)",
        )
    if os.stat(parent).st_dev != os.stat(volume.path).st_dev:
        return _on_another(subject, f"{printable(private)} would lie")
    return ok(subject, f"{printable(private)} does not exist yet and can be made")


def _try_out(subject: str, private: str) -> Iterator[Finding]:
    """Exchange and sparse files, in a directory that is never compared, once the agent has marked it."""
    if not os.path.exists(f"{private}/{os.fsdecode(MARK_NAME)}"):
        return
    try:
        with tempfile.TemporaryDirectory(dir=private, prefix="doctor-") as place:
            yield from _try_in(subject, place)
    except OSError as error:
        mends = {
            errno.ENOSPC: "make room on its file system",
            errno.EDQUOT: "raise the quota of the agent's user, or make room",
            errno.EROFS: "remount its file system for writing, once it is known why it is read-only",
        }
        yield fail(
            subject,
            f"{printable(private)} can not be written: {error.strerror}",
            _STAGE,
            mends.get(
                error.errno or 0,
                "run the doctor as the agent's user; if it is, chown the directory to that user",
            ),
        )


def _try_in(subject: str, place: str) -> Iterator[Finding]:
    first, second = os.fsencode(f"{place}/first"), os.fsencode(f"{place}/second")
    for path in (first, second):
        with open(path, "wb") as stream:
            stream.write(path)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) != 0:
        reason = os.strerror(ctypes.get_errno())
        yield warn(
            subject,
            f"two files can not be exchanged in one step ({reason})",
            "a file that is replaced by a directory is absent for a moment while it changes",
            "nothing is lost by it; ext4, XFS, btrfs and tmpfs can do it",
        )
    else:
        yield ok(subject, "files can be exchanged in one step")
    with open(first, "wb") as stream:
        stream.truncate(8 * _MIB)
        stream.flush()
        os.fsync(stream.fileno())
        if os.fstat(stream.fileno()).st_blocks * 512 >= 8 * _MIB:
            yield warn(
                subject,
                "files with holes take their full size",
                "sparse files grow when they are converged",
                "leave room for them",
            )


def _folding(subject: str, volume: AgentVolumeConfig, probe: FilesystemProbe) -> Finding:
    kind, _ = probe.filesystem(volume.path)
    if kind in FOLDING_FILESYSTEMS or _casefold_flag(volume.path) or _folds(volume.path):
        return fail(
            subject,
            "names that differ only in case are one file here",
            "the other nodes may have both; this node could never hold what they hold",
            "use a case-sensitive file system (ext4 without casefold, XFS, btrfs)",
        )
    return ok(subject, "upper and lower case are different names")


def _casefold_flag(path: str) -> bool:
    """ext4 and f2fs mark directories that fold case."""
    flags = array.array("L", [0])
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False  # said elsewhere: it can not be listed
    try:
        fcntl.ioctl(directory, _FS_IOC_GETFLAGS, flags, True)
    except OSError:
        return False  # a file system without such flags
    finally:
        os.close(directory)
    return bool(flags[0] & _CASEFOLD)


def _folds(path: str, tries: int = 50) -> bool:
    """Whether an existing name is also found under the other case, without writing anything."""
    try:
        with os.scandir(path) as entries:
            for _, entry in zip(range(tries), entries, strict=False):
                other = entry.name.swapcase()
                if other == entry.name:
                    continue
                try:
                    return os.path.samestat(os.lstat(f"{path}/{other}"), entry.stat(follow_symlinks=False))
                except OSError:
                    return False  # the other case is another name: absent
    except OSError:
        return False  # said elsewhere: it can not be listed
    return False
