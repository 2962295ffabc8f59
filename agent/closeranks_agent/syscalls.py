"""The Linux calls that Python does not offer, through ctypes: openat2, renameat2, fallocate, cloning, sync_file_range.

Each function raises the same OSError that its counterpart in `os` would. What a kernel, a sandbox or a
filesystem does not know ends in ENOSYS, EINVAL, EPERM or EOPNOTSUPP: callers have a slower way then.
Rejected: a compiled extension (one wheel for every machine is worth more than a microsecond a call).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
import sys
from functools import lru_cache

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
# What the kernel or the filesystem answers when it can not do what was asked at all.
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY})

_libc = ctypes.CDLL(None, use_errno=True)
_F_SETSIG = 10  # on every architecture; Python does not name it
_SYS_OPENAT2 = 437  # the same number on every architecture
_MACHINE = os.uname().machine
_OPENAT2_KNOWN = _MACHINE in {"x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "armv7l", "i686"}
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 1, 2, 4, 8
_RESOLVE = _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_FICLONERANGE = 0x4020940D  # as most architectures number it; the others answer ENOTTY
_SYNC_FILE_RANGE_WAIT_BEFORE, _SYNC_FILE_RANGE_WRITE, _SYNC_FILE_RANGE_WAIT_AFTER = 1, 2, 4
_SYS_IOPRIO_SET = {"x86_64": 251, "i686": 289, "armv7l": 314, "s390x": 282, "ppc64le": 273}.get(_MACHINE, 30)
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE = 1, 3 << 13


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@lru_cache(maxsize=64)
def _how(flags: int, mode: int) -> _OpenHow:
    """The kernel only reads it."""
    return _OpenHow(flags, mode, _RESOLVE)


# With its types told once: to make each argument an object of its own took more than the call itself.
_openat2 = ctypes.CFUNCTYPE(
    ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t,
    use_errno=True,
)(("syscall", _libc))  # fmt: skip


def _check(result: int, path: bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def openat2_beneath(dir_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open `path` below `dir_fd`; never through a symlink, never onto another filesystem.

    ELOOP: a symlink stood in the way. EXDEV: another filesystem. ENOSYS: this kernel has no openat2.
    """
    if not _OPENAT2_KNOWN:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    how = _how(flags | os.O_CLOEXEC, mode)
    while True:
        try:
            return _check(_openat2(_SYS_OPENAT2, dir_fd, path, how, ctypes.sizeof(_OpenHow)), path)
        except InterruptedError:
            continue
        except (
            BlockingIOError
        ):  # EAGAIN: a rename elsewhere raced with the walk; the kernel asks to try again
            continue


def rename_flags(old: bytes, new: bytes, old_dir_fd: int, new_dir_fd: int, flags: int) -> None:
    """renameat2: RENAME_NOREPLACE raises FileExistsError, RENAME_EXCHANGE swaps the two atomically."""
    _check(_libc.renameat2(old_dir_fd, old, new_dir_fd, new, flags), new)


def allocate(fd: int, offset: int, length: int, keep_size: bool) -> bool:
    """Reserve room for a range; False where the filesystem has no such promise. ENOSPC raises."""
    try:
        _check(
            _libc.fallocate(
                ctypes.c_int(fd),
                ctypes.c_int(FALLOC_KEEP_SIZE if keep_size else 0),
                ctypes.c_int64(offset),
                ctypes.c_int64(length),
            )
        )
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make a range inside the file a hole, which reads as zeros; False where the filesystem has none."""
    try:
        _check(
            _libc.fallocate(
                ctypes.c_int(fd),
                ctypes.c_int(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE),
                ctypes.c_int64(offset),
                ctypes.c_int64(length),
            )
        )
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def clone_range(from_fd: int, from_offset: int, length: int, to_fd: int, to_offset: int) -> bool:
    """Let a range of one file share the blocks of another, until either is written.

    False where the filesystem shares no blocks, or not these: nothing was changed then.
    """
    try:
        fcntl.ioctl(to_fd, _FICLONERANGE, struct.pack("=qQQQ", from_fd, from_offset, length, to_offset))
    except OSError as error:
        if error.errno in UNSUPPORTED | {errno.EXDEV, errno.EPERM, errno.ETXTBSY}:
            return False
        raise
    return True


def sync_filesystem(fd: int) -> None:
    """syncfs: everything on the filesystem of `fd` is on disk when it returns."""
    _check(_libc.syncfs(ctypes.c_int(fd)))


def start_writeback(fd: int, offset: int = 0, length: int = 0) -> None:
    """Begin to write a file's dirty pages without waiting: the fsync that follows finds little to do.

    `length` 0: from `offset` to the end.
    """
    _sync_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def write_out(fd: int) -> None:
    """Write a file's dirty pages and wait until they are clean. Promises nothing about power loss: see fsync."""
    every = _SYNC_FILE_RANGE_WAIT_BEFORE | _SYNC_FILE_RANGE_WRITE | _SYNC_FILE_RANGE_WAIT_AFTER
    if not _sync_range(fd, 0, 0, every):
        os.fdatasync(fd)


def _sync_range(fd: int, offset: int, length: int, flags: int) -> bool:
    """sync_file_range; False where kernel or filesystem have none. Raises OSError."""
    result = _libc.sync_file_range(
        ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(flags)
    )
    if result < 0:
        if ctypes.get_errno() in UNSUPPORTED | {errno.ESPIPE}:
            return False
        _check(result)
    return True


def set_idle_io() -> bool:
    """Let this thread read only when nobody else wants the disk, where its scheduler knows classes; whether it took."""
    return bool(
        _libc.syscall(
            ctypes.c_long(_SYS_IOPRIO_SET),
            ctypes.c_int(_IOPRIO_WHO_PROCESS),
            ctypes.c_int(0),
            ctypes.c_int(_IOPRIO_CLASS_IDLE),
        )
        == 0
    )


# ext2 to ext4, XFS, btrfs, F2FS, tmpfs: no other machine writes there.
_STAMPED_HERE = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994})


def stamped_here(fd: int) -> bool:
    """Whether this machine's own clock makes the times of the files of that filesystem, as far as is known."""
    found = ctypes.create_string_buffer(512)  # more than any `struct statfs`, which begins with the type
    if _libc.fstatfs(ctypes.c_int(fd), found) != 0:
        return False
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) in _STAMPED_HERE


def is_open_to_write(fd: int) -> bool:
    """Whether anybody has the file behind a descriptor for reading open to write, or mapped so; False where unknown.

    A lease for reading is refused then (EAGAIN). It is given back at once: who opens the file to write in these
    microseconds (milliseconds, where other threads of ours are busy) waits for that, or is refused, where it asked not
    to wait: rare enough in a storm, too much otherwise. The signal of it is one that is ignored by default.
    """
    try:
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
