"""Making many files or names durable at once.

An fsync costs a flush of the disk's cache, some milliseconds, whatever it has to write. For more than a few
files one syncfs does the same for all of them with one flush (it reports errors since Linux 5.8). It also
writes what others have dirtied on that filesystem, so where the machine has much unwritten, each file is
synced alone instead. Rejected: ordering tricks with one fsync for many files, which only ext4 and XFS honour.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack

from .. import beneath, syscalls

FEW = 3
OPEN_MAX = 64
BACKLOG_MAX_KIB = 512 * 1024


def sync_files(fds: Sequence[int], filesystem_fd: int) -> None:
    """Returns when the content and size of these open files are on disk. Raises OSError."""
    if len(fds) > FEW and _backlog_kib() <= BACKLOG_MAX_KIB:
        syscalls.sync_filesystem(filesystem_fd)
        return
    for fd in fds:
        syscalls.start_writeback(fd)
    for fd in fds:
        os.fsync(fd)


def sync_names(names: Sequence[bytes], directory_fd: int) -> None:
    """The same of files in one directory that are not open any more; names that are gone are left out."""
    if len(names) > FEW and _backlog_kib() <= BACKLOG_MAX_KIB:
        syscalls.sync_filesystem(directory_fd)
        return
    for start in range(0, len(names), OPEN_MAX):
        if not _sync_some(names[start : start + OPEN_MAX], directory_fd):
            syscalls.sync_filesystem(directory_fd)
            return


def _sync_some(names: Sequence[bytes], directory_fd: int) -> bool:
    """False where one has its final mode already, which forbids us to open it."""
    with ExitStack() as opened:
        fds: list[int] = []
        for name in names:
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
            except FileNotFoundError:
                continue
            except PermissionError:
                return False
            opened.callback(os.close, fd)
            fds.append(fd)
        for fd in fds:
            syscalls.start_writeback(fd)
        for fd in fds:
            os.fsync(fd)
    return True


def sync_directories(root_fd: int, paths: Collection[bytes], others: Sequence[int]) -> None:
    """Returns when the names in these directories below `root_fd`, and in the open `others`, are on disk."""
    if len(paths) + len(others) > FEW and _backlog_kib() <= BACKLOG_MAX_KIB:
        syscalls.sync_filesystem(root_fd)
        return
    for path in sorted(paths):
        beneath.sync_directory(root_fd, path)
    for fd in others:
        os.fsync(fd)


def _backlog_kib() -> int:
    """What the machine has not written yet, in KiB; 0 where it does not say."""
    try:
        with open("/proc/meminfo", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith((b"Dirty:", b"Writeback:")))
