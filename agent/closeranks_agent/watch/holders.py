"""Who has files of a filesystem open to write, by the descriptors that /proc shows of all processes.

No file is asked for anything before it is known that it lies on that filesystem: the stat of a file on a server that
does not answer would not come back. Descriptor's target, flags and mount are the kernel's own words. What can not be
looked at is left out: another user's processes without CAP_SYS_PTRACE, those of other pid namespaces.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_INFO_MAX_BYTES: Final = 256  # flags and mount stand in the first lines
_INFO: Final = re.compile(rb"flags:\s*([0-7]+)\nmnt_id:\s*(\d+)\n")
_NO_FILES: Final = ("/dev/", "/proc/", "/sys/", "/memfd:")


@dataclass(slots=True)
class Held:
    """A regular file: its stat, a descriptor's name in /proc, and the processes that have it open to write."""

    stat: os.stat_result
    link: str
    pids: set[int] = field(default_factory=set)


class Holders:
    """Of the filesystem that the directory at `path` lies on."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._device = ""
        self._mounts: dict[int, bool] = {}  # by mount: whether it is of that filesystem
        self._own = os.getpid()
        here = os.fsdecode(path) + "/"  # a volume in /dev/shm has files there
        self._no_files = tuple(place for place in _NO_FILES if not here.startswith(place))

    def find(self) -> dict[int, Held]:
        """All files by inode that other processes have open to write."""
        found: dict[int, Held] = {}
        self._learn()
        try:
            names = os.listdir("/proc")
        except OSError:
            return found  # this process may open no more files
        for name in names:
            if name.isdigit() and int(name) != self._own:
                self._look(int(name), found)
        return found

    def again(self, before: Mapping[int, Held]) -> dict[int, Held]:
        """Those of them that are still open, as they are now."""
        found: dict[int, Held] = {}
        self._learn()
        for inode, held in before.items():
            pid, _, number = held.link.removeprefix("/proc/").partition("/fd/")
            now = self._stat(pid, number, held.link)
            if now is not None and now.st_ino == inode:
                found[inode] = Held(now, held.link, held.pids)
        return found

    def _learn(self) -> None:
        """The mounts as they are now: a number may be another's by now."""
        self._mounts.clear()
        self._device = ""
        try:
            fd = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                info = _INFO.search(_read(f"/proc/self/fdinfo/{fd}"))
            finally:
                os.close(fd)
        except OSError:
            return  # it is gone, or this process may open no more files: nobody is found
        devices = _devices("self")
        self._device = "" if info is None else devices.get(int(info[2]), "")
        self._mounts.update((mount, device == self._device) for mount, device in devices.items())

    def _look(self, pid: int, found: dict[int, Held]) -> None:
        place = f"/proc/{pid}/fd/"
        try:
            numbers = os.listdir(place)
        except OSError:
            return
        for number in numbers:
            link = place + number
            now = self._stat(str(pid), number, link)
            if now is not None:
                held = found.get(now.st_ino)
                if held is None:
                    held = found[now.st_ino] = Held(now, link)
                held.pids.add(pid)

    def _stat(self, pid: str, number: str, link: str) -> os.stat_result | None:
        """None where it is not a regular file of this filesystem that is open to write and has a name."""
        try:
            target = os.readlink(link)
            if target[0] != "/" or target.startswith(self._no_files):
                return None
            if not self._is_ours(pid, _read(f"/proc/{pid}/fdinfo/{number}")):
                return None
            found = os.stat(link)
        except OSError:
            return None  # closed, or ended, meanwhile
        return found if stat.S_ISREG(found.st_mode) and found.st_nlink else None

    def _is_ours(self, pid: str, text: bytes) -> bool:
        """Whether it is open to write, and on this filesystem."""
        info = _INFO.search(text)
        if info is None or not self._device or int(info[1], 8) & os.O_ACCMODE == os.O_RDONLY:
            return False
        mount = int(info[2])
        if mount not in self._mounts:  # of another mount namespace
            devices = _devices(pid)
            self._mounts.update((one, device == self._device) for one, device in devices.items())
            self._mounts.setdefault(mount, False)
        return self._mounts[mount]


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _INFO_MAX_BYTES)
    finally:
        os.close(fd)


def _devices(pid: str) -> dict[int, str]:
    """By mount, as this process sees them: the filesystem's number."""
    found: dict[int, str] = {}
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            for line in file:
                fields = line.split(b" ", 3)
                found[int(fields[0])] = fields[2].decode("ascii")
    except OSError:
        return found  # ended meanwhile
    return found
