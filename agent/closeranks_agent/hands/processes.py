"""One process as /proc tells of it, read through a descriptor of its directory.

The descriptor stands for that process alone: when the process ends, reading fails, also where its number has
been given to another one meanwhile. A number and its start time together name a process until the next boot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

STAT_MAX_BYTES = 1024
COMMAND_READ_MAX_BYTES = 2048
STATUS_MAX_BYTES = 4096
CGROUP_MAX_BYTES = 8192
_KERNEL_THREAD = 0x0020_0000
_NO_LOGIN = 4294967295


class Gone(Exception):
    """The process has ended."""


@dataclass(frozen=True, slots=True)
class Stat:
    """Of /proc/PID/stat. `started` is in clock ticks since the boot; `state` one letter, T stopped, Z ended."""

    name: str
    state: str
    parent: int
    kernel_thread: bool
    started: int


class ProcessDirectory:
    """Use in a `with`. Raises Gone where there is no such process, OSError where /proc can not be used."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise Gone from None

    def __enter__(self) -> ProcessDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def stat(self) -> Stat:
        line = self.read("stat", STAT_MAX_BYTES)
        head, _, tail = line.rpartition(b")")
        fields = tail.split()
        if len(fields) < 20:
            raise Gone
        return Stat(
            os.fsdecode(head.partition(b"(")[2]),
            fields[0].decode("ascii"),
            int(fields[1]),
            bool(int(fields[6]) & _KERNEL_THREAD),
            int(fields[19]),
        )

    def executable(self) -> str | None:
        """None where there is none (a kernel thread, a process that ends) or it is not ours to see."""
        try:
            return os.readlink("exe", dir_fd=self._fd)
        except OSError:
            return None

    def arguments(self) -> list[str]:
        """Its arguments, cut at COMMAND_READ_MAX_BYTES."""
        raw = self.read("cmdline", COMMAND_READ_MAX_BYTES)
        return [os.fsdecode(one) for one in raw.rstrip(b"\0").split(b"\0")] if raw else []

    def user(self) -> int | None:
        """The one by whose rights it touches files."""
        for line in self.read("status", STATUS_MAX_BYTES).splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[4])
        return None

    def login_user(self) -> int | None:
        """Who logged in at the beginning of its session, through every sudo since."""
        try:
            found = int(self.read("loginuid", 32) or _NO_LOGIN)
        except (OSError, ValueError):
            return None  # a kernel without audit
        return None if found == _NO_LOGIN else found

    def cgroups(self) -> str:
        try:
            return os.fsdecode(self.read("cgroup", CGROUP_MAX_BYTES))
        except OSError:
            return ""  # a kernel without cgroups

    def written_bytes(self) -> int | None:
        """What it gave to disks in its life; None where that is not ours to know."""
        try:
            for line in self.read("io", STATUS_MAX_BYTES).splitlines():
                if line.startswith(b"write_bytes:"):
                    return int(line.split()[1])
        except (OSError, ValueError):
            return None
        return None

    def read(self, name: str, limit_bytes: int) -> bytes:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                return os.read(fd, limit_bytes)
            finally:
                os.close(fd)
        except ProcessLookupError:
            raise Gone from None
        except FileNotFoundError:
            if name == "stat":
                raise Gone from None
            raise


def stat_of(pid: int) -> Stat | None:
    """None when there is no such process or it can not be seen."""
    try:
        with ProcessDirectory(pid) as process:
            return process.stat()
    except (Gone, OSError, ValueError):
        return None
