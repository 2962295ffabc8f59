"""Every access below a volume's root: by directory descriptor, component by component, never through a symlink.

Owned here: opening, making, renaming and removing entries named by tree keys. Invariant: whatever a rogue
plants in the tree while we work (a symlink for a directory, `..`, a mount), no call in here reads or
writes outside the volume and its filesystem. The kernel checks it at once where it has openat2; otherwise
the path is walked one O_NOFOLLOW component after the other, each compared with the root's device. Relative
paths of 4,095 bytes work whatever the length of the root's own path, since no absolute path is ever built.

Rejected: realpath and a prefix check (a race with whoever renames directories), and keeping descriptors of
directories between steps (one renamed out of the volume would take our writes along).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from closeranks_proto.paths import path_of

from . import syscalls

# A parent that is missing, is no directory, is a symlink or lies on another filesystem: the tree on disk
# is not what the index says, and only a scan can tell what it is.
DETOUR_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV})

_openat2_works = True


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an entry lives: its parent directory's descriptor and its own name in it."""

    parent_fd: int
    name: bytes


def open_beneath(root_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open the relative `path` below `root_fd` (b"" is the root itself). O_NOFOLLOW is implied.

    Raises OSError; errors of DETOUR_ERRNOS also mean that a component on the way was not a directory of
    this filesystem. Opening the last component as a symlink works with O_PATH only.
    """
    global _openat2_works
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    assert not path.startswith(b"/"), "paths below a root are relative"
    if not path:
        return os.open(b".", flags, mode, dir_fd=root_fd)
    if _openat2_works:
        try:
            return syscalls.openat2_beneath(root_fd, path, flags, mode)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG):
                raise
            if error.errno == errno.ENOSYS:
                _openat2_works = False
    return _open_walking(root_fd, path, flags, mode)


def _open_walking(root_fd: int, path: bytes, flags: int, mode: int) -> int:
    device = os.fstat(root_fd).st_dev
    *directories, last = path.split(b"/")
    assert b".." not in (*directories, last), "keys are checked before they become paths"
    here = root_fd
    try:
        for name in directories:
            deeper = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            if here != root_fd:
                os.close(here)
            here = deeper
            _check_device(here, device)
        found = os.open(last, flags, mode, dir_fd=here)
    finally:
        if here != root_fd:
            os.close(here)
    try:
        _check_device(found, device)
    except OSError:
        os.close(found)
        raise
    return found


def _check_device(fd: int, device: int) -> None:
    if os.fstat(fd).st_dev != device:
        raise OSError(errno.EXDEV, "another filesystem is mounted there")


def open_directory(root_fd: int, path: bytes) -> int:
    """A descriptor of the directory `path`, good for *at() calls; for fsync too where it may be read."""
    try:
        return open_beneath(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return open_beneath(root_fd, path, os.O_PATH | os.O_DIRECTORY)


@contextmanager
def spot(root_fd: int, key: bytes) -> Iterator[Spot]:
    """The parent directory and name of `key`, for as long as the block lasts."""
    directory, _, name = path_of(key).rpartition(b"/")
    fd = open_directory(root_fd, directory)
    try:
        yield Spot(fd, name)
    finally:
        os.close(fd)


def status(where: Spot) -> os.stat_result | None:
    """lstat of the entry; None where there is none."""
    try:
        return os.stat(where.name, dir_fd=where.parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def sync_directory(root_fd: int, path: bytes) -> None:
    """Make the names in directory `path` durable. One that is gone meanwhile needs no more than this; for one
    that this process may search but not read, the whole filesystem is synced."""
    try:
        fd = open_beneath(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in DETOUR_ERRNOS:
            return
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        syscalls.sync_filesystem(root_fd)
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def move_new(old: bytes, old_dir_fd: int, new: bytes, new_dir_fd: int) -> None:
    """Rename without ever replacing: FileExistsError where `new` exists."""
    try:
        syscalls.rename_flags(old, new, old_dir_fd, new_dir_fd, syscalls.RENAME_NOREPLACE)
        return
    except OSError as error:
        if error.errno not in syscalls.UNSUPPORTED:
            raise
    status_of_old = os.stat(old, dir_fd=old_dir_fd, follow_symlinks=False)
    if stat.S_ISDIR(status_of_old.st_mode):
        # rename of a directory replaces an empty directory only: mkdir claims the name first.
        os.mkdir(new, 0o700, dir_fd=new_dir_fd)
        os.rename(old, new, src_dir_fd=old_dir_fd, dst_dir_fd=new_dir_fd)
        return
    os.link(old, new, src_dir_fd=old_dir_fd, dst_dir_fd=new_dir_fd, follow_symlinks=False)
    os.unlink(old, dir_fd=old_dir_fd)


def exchange(one: bytes, one_dir_fd: int, other: bytes, other_dir_fd: int) -> bool:
    """Swap two names atomically, of whatever kinds; False where kernel or filesystem can not."""
    try:
        syscalls.rename_flags(one, other, one_dir_fd, other_dir_fd, syscalls.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in syscalls.UNSUPPORTED:
            return False
        raise
    return True


def read_span(dir_fd: int, key: bytes, offset: int, length: int) -> bytes:
    """At most `length` bytes of the file `key` from `offset`; fewer where it ends. Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a fifo in its place must not make us wait
    fd = open_beneath(dir_fd, path_of(key), flags)
    try:
        return pread_full(fd, offset, length)
    finally:
        os.close(fd)


def read_span_into(dir_fd: int, key: bytes, offset: int, view: memoryview) -> int:
    """`read_span` of as many bytes as `view` is long, into it; how many there were. Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    fd = open_beneath(dir_fd, path_of(key), flags)
    try:
        return pread_into(fd, view, offset)
    finally:
        os.close(fd)


def pread_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from an open file; how many bytes there were. Raises OSError."""
    count = 0
    while count < len(view):
        more = os.preadv(fd, [view[count:]], offset + count)
        if not more:
            break
        count += more
    return count


def pread_full(fd: int, offset: int, length: int) -> bytes:
    """`read_span` of an open file."""
    data = os.pread(fd, length, offset)
    while data and len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
