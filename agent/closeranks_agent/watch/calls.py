"""fanotify, inotify and file handles through ctypes: the calls that Python does not offer.

Each raises the OSError that its counterpart in `os` would. Nothing here knows what a volume is.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Final

# Bits of masks; fanotify and inotify use the same values.
MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000  # inotify
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000  # inotify: the watch is gone
ON_DIRECTORY: Final = 0x40000000
ADD_TO_MASK: Final = 0x20000000  # inotify
ONLY_DIRECTORY: Final = 0x01000000  # inotify
EXCLUDE_UNLINKED: Final = 0x04000000  # inotify
# OPEN and ACCESS are never among them: our own scans would flood the queue.
CHANGES: Final = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE

FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_UNLIMITED_QUEUE: Final = 0x10
FAN_REPORT_FID: Final = 0x200
FAN_REPORT_DFID_NAME: Final = 0xC00
_FAN_MARK_ADD: Final = 0x1
_FAN_MARK_REMOVE: Final = 0x2
_FAN_MARK_IGNORED_MASK: Final = 0x20
_FAN_MARK_IGNORED_SURV_MODIFY: Final = 0x40
_FAN_MARK_FLUSH: Final = 0x80
_FAN_MARK_FILESYSTEM: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_HANDLE_MAX: Final = 128  # MAX_HANDLE_SZ

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def fanotify_init(flags: int) -> int:
    """A new notification group's descriptor (FAN_CLASS_NOTIF)."""
    return _check(_libc.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(os.O_RDONLY | os.O_CLOEXEC)))


def fanotify_mark_filesystem(fd: int, mask: int, directory_fd: int) -> None:
    """Report `mask` of the whole filesystem that the directory lies on, besides what is reported already."""
    _mark_filesystem(fd, _FAN_MARK_ADD, mask, directory_fd)


def fanotify_unmark_filesystem(fd: int, mask: int, directory_fd: int) -> None:
    """Report `mask` no more. ENOENT where nothing of the filesystem is reported."""
    _mark_filesystem(fd, _FAN_MARK_REMOVE, mask, directory_fd)


def _mark_filesystem(fd: int, what: int, mask: int, directory_fd: int) -> None:
    _check(
        _libc.fanotify_mark(
            ctypes.c_int(fd),
            ctypes.c_uint(what | _FAN_MARK_FILESYSTEM),
            ctypes.c_uint64(mask),
            ctypes.c_int(directory_fd),
            ctypes.c_char_p(b"."),
        )
    )


def fanotify_ignore(fd: int, mask: int, file_fd: int) -> None:
    """Report `mask` no more of the file behind an open descriptor, O_PATH will do, until `fanotify_flush`."""
    path = b"/proc/self/fd/%d" % file_fd
    flags = _FAN_MARK_ADD | _FAN_MARK_IGNORED_MASK | _FAN_MARK_IGNORED_SURV_MODIFY
    at_fdcwd = ctypes.c_int(-100)
    _check(
        _libc.fanotify_mark(
            ctypes.c_int(fd), ctypes.c_uint(flags), ctypes.c_uint64(mask), at_fdcwd, ctypes.c_char_p(path)
        )
    )


def fanotify_flush(fd: int) -> None:
    """Take back all marks on files and directories; those on filesystems stay."""
    _flush(fd, _FAN_MARK_FLUSH)


def fanotify_flush_filesystems(fd: int) -> None:
    """Take back all marks on filesystems; those on files and directories stay. What is queued stays, too."""
    _flush(fd, _FAN_MARK_FLUSH | _FAN_MARK_FILESYSTEM)


def _flush(fd: int, flags: int) -> None:
    nothing = ctypes.c_uint64(0)
    _check(
        _libc.fanotify_mark(
            ctypes.c_int(fd),
            ctypes.c_uint(flags),
            nothing,
            ctypes.c_int(-100),
            ctypes.c_char_p(b"/"),
        )
    )


def inotify_init() -> int:
    """A new inotify instance's descriptor, non-blocking."""
    return _check(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)))


def inotify_add(fd: int, directory_fd: int, mask: int) -> int:
    """Watch the directory behind an open descriptor; its watch descriptor, the old one if it had one."""
    path = b"/proc/self/fd/%d" % directory_fd
    flags = ctypes.c_uint32(mask | ONLY_DIRECTORY | EXCLUDE_UNLINKED)
    return _check(_libc.inotify_add_watch(ctypes.c_int(fd), ctypes.c_char_p(path), flags))


def inotify_remove(fd: int, watch: int) -> None:
    """Stop a watch; EINVAL where it is gone already."""
    _check(_libc.inotify_rm_watch(ctypes.c_int(fd), ctypes.c_int(watch)))


def handle_of(fd: int, name: bytes = b"") -> bytes:
    """The file handle of an open file, or of `name` in an open directory (no link is followed), as fanotify reports it:
    two words of length and type, then the bytes."""
    buffer = ctypes.create_string_buffer(8 + _HANDLE_MAX)
    ctypes.c_uint32.from_buffer(buffer).value = _HANDLE_MAX
    mount = ctypes.c_int()
    _check(
        _libc.name_to_handle_at(
            ctypes.c_int(fd),
            ctypes.c_char_p(name),
            ctypes.byref(buffer),
            ctypes.byref(mount),
            ctypes.c_int(0 if name else _AT_EMPTY_PATH),
        )
    )
    return buffer.raw[: 8 + ctypes.c_uint32.from_buffer(buffer).value]


def open_handle(mount_fd: int, handle: bytes) -> int:
    """An O_PATH descriptor of what a handle names. ESTALE: it was deleted. EPERM: needs CAP_DAC_READ_SEARCH."""
    flags = ctypes.c_int(os.O_PATH | os.O_CLOEXEC)
    return _check(_libc.open_by_handle_at(ctypes.c_int(mount_fd), ctypes.c_char_p(handle), flags))


def path_of_descriptor(fd: int) -> bytes:
    """Where an open file lies now, as this process sees it. ENAMETOOLONG above a page."""
    return os.readlink(b"/proc/self/fd/%d" % fd)


def filesystem_of(fd: int) -> str:
    """The name of the type of the filesystem that an open file lies on; "unknown" where /proc does not say."""
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            mount = re.search(r"^mnt_id:\s*(\d+)$", file.read(), re.MULTILINE)
        if mount is None:
            return "unknown"
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            for line in file:
                if line.startswith(mount[1] + " "):
                    return line.rpartition(" - ")[2].split(" ")[0]
    except OSError:
        return "unknown"  # no /proc: what follows from the type is only advice
    return "unknown"
