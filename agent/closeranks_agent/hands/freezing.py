"""Making a volume read-only and writable again, where it is a mount of its own.

Only the mount is changed, never the filesystem below it: what else shows it stays writable, and so does the
disk. The kernel refuses while a file is open for writing there. The agent can write as little as everybody else:
whoever wants a repair ends the hold first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from dataclasses import dataclass

_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_FLAGS = {
    "nosuid": 2, "nodev": 4, "noexec": 8, "nosymfollow": 256, "noatime": 1024, "nodiratime": 2048,
    "relatime": 1 << 21,
}  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


class NotFrozen(Exception):
    """In words, why not. `busy`: it may be possible a moment later."""

    def __init__(self, text: str, busy: bool = False) -> None:
        super().__init__(text)
        self.busy = busy


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        return "ro" in self.options


def mount_at(path: str) -> Mount | None:
    """The mount that begins at `path`, the uppermost where several do; None where none begins there."""
    place = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        found = None
        for line in lines:
            fields = line.split(" ")
            if len(fields) > 5 and _plain(fields[4]) == place:
                found = Mount(place, tuple(fields[5].split(",")))
        return found


def why_not(path: str) -> str:
    """Why this volume can not be frozen; "" when it may be tried."""
    try:
        mount = mount_at(path)
    except OSError as error:
        return f"the table of mounts can not be read: {error.strerror}"
    if mount is None:
        return (
            "it is not a mount of its own, and what lies beside it must stay writable. To make it one: "
            f"mount --bind {path} {path}"
        )
    if _elsewhere():
        return (
            "the agent runs in a mount namespace of its own, where a mount made read-only is so for it alone"
        )
    if os.geteuid() != 0:
        return "only root may change a mount, and the agent does not run as root"
    return ""


def freeze(path: str) -> str:
    """Make the mount at `path` read-only; its mount point. Raises NotFrozen."""
    reason = why_not(path)
    if reason:
        raise NotFrozen(reason)
    mount = mount_at(path)
    if mount is None or mount.read_only:
        raise NotFrozen("it was read-only already")
    try:
        _remount(mount, read_only=True)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise NotFrozen("files in it are open for writing", busy=True) from None
        raise NotFrozen(f"the kernel refused: {error.strerror}") from None
    return mount.point


def thaw(point: str) -> str:
    """Make the mount there writable again; "" or why that was not done."""
    try:
        mount = mount_at(point)
        if mount is None:
            return "it is not mounted any more"
        if not mount.read_only:
            return "it was writable again already"
        _remount(mount, read_only=False)
    except OSError as error:
        return f"the kernel refused: {error.strerror}. By hand: mount -o remount,bind,rw {point}"
    return ""


def _remount(mount: Mount, read_only: bool) -> None:
    flags = _MS_REMOUNT | _MS_BIND | (_MS_RDONLY if read_only else 0)
    for option in mount.options:
        flags |= _FLAGS.get(option, 0)
    if _libc.mount(None, os.fsencode(mount.point), None, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _elsewhere() -> bool:
    """Whether what is mounted here is mounted for the rest of the machine too."""
    try:
        return os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt")
    except OSError:
        return False  # not root: refused for that


def _plain(field: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)
