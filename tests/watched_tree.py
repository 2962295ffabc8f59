"""A volume that a source watches, read up to the canary; and a mirror that knows it from the source's hints alone."""

from __future__ import annotations

import os
import select
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from closeranks_agent.watch.events import CANARY, Event, Lost, What
from closeranks_agent.watch.source import Source
from closeranks_proto.paths import path_of

TIMEOUT_S = 30.0


@contextmanager
def fast_tree(tmp_path: Path) -> Iterator[Path]:
    """A volume's root in memory where there is such a place: storms need many files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as base:
        yield make_tree(Path(base))


def make_tree(base: Path) -> Path:
    """A volume's root with its private directory."""
    (base / "tree/.closeranks").mkdir(parents=True)
    return base / "tree"


def fill(directory: Path, subdirectories: int, files_each: int) -> None:
    """`directory/d0/0` and so on, all empty."""
    for number in range(subdirectories):
        inner = directory / f"d{number}"
        inner.mkdir(parents=True)
        fd = os.open(inner, os.O_PATH)
        for name in range(files_each):
            os.close(os.open(str(name), os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)


def wait(source: Source, timeout_s: float = TIMEOUT_S) -> None:
    poll = select.poll()
    poll.register(source.fileno(), select.POLLIN)
    poll.poll(timeout_s * 1000)


def touch_canary(private: Path, generation: str) -> None:
    with open(private / f"canary{generation}", "w"):
        pass


def drain(source: Source, private: Path, generation: str = "") -> list[Event | Lost]:
    """Everything that was done until now: up to a canary touched now, without it.

    A queue that is full loses the canary as well, and says so: then it is touched again.
    """
    touch_canary(private, generation)
    told: list[Event | Lost] = []
    deadline = time.monotonic() + TIMEOUT_S
    canary = os.fsencode(generation)
    while time.monotonic() < deadline:
        wait(source, 1.0)
        for one in source.read():
            if isinstance(one, Event) and one.directory == CANARY:
                if one.name == canary:
                    return told
            else:
                told.append(one)
                if isinstance(one, Lost) and one.below is None:
                    touch_canary(private, generation)
    raise AssertionError(f"no canary; told {len(told)}: {told[:20]}")


def names(told: Iterable[Event | Lost]) -> set[tuple[bytes, bytes]]:
    return {(one.directory, one.name) for one in told if isinstance(one, Event)}


def paths(told: Iterable[Event | Lost]) -> set[str]:
    return {os.fsdecode(path_of(where + b"\0" + name if where else name)) for where, name in names(told)}


def what_of_path(told: Iterable[Event | Lost], path: str) -> What:
    """All that was told of one path."""
    found = What(0)
    for one in told:
        if isinstance(one, Event) and path in paths([one]):
            found |= one.what
    return found


def losses(told: Iterable[Event | Lost]) -> list[Lost]:
    return [one for one in told if isinstance(one, Lost)]


@dataclass
class Mirror:
    """What an observer knows who looks only where a source points."""

    root: bytes
    entries: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    def take(self, told: Iterable[Event | Lost]) -> None:
        for one in told:
            if isinstance(one, Lost):
                self.look_below(self._path(one.below or b"", b""))
                continue
            path = self._path(one.directory, one.name)
            if one.what & What.DIRECTORY:
                self.look_below(path)
            self.look(path)

    def _path(self, directory: bytes, name: bytes) -> bytes:
        return b"/".join(part for part in (path_of(directory), name) if part)

    def look(self, path: bytes) -> None:
        seen = fingerprint(os.path.join(self.root, path))
        if seen is None:
            self.entries.pop(path, None)
        else:
            self.entries[path] = seen

    def look_below(self, path: bytes) -> None:
        for known in [one for one in self.entries if one.startswith(path + b"/" if path else b"")]:
            del self.entries[known]
        self.entries.update(read_below(self.root, path))


def fingerprint(path: bytes) -> tuple[int, ...] | None:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return (stat.S_IFMT(status.st_mode), status.st_ino)
    return (status.st_mode, status.st_ino, status.st_size)


def read_below(root: bytes, path: bytes = b"") -> dict[bytes, tuple[int, ...]]:
    found: dict[bytes, tuple[int, ...]] = {}
    for directory, inner, files in os.walk(os.path.join(root, path)):
        if directory.rstrip(b"/") == root:
            inner[:] = [name for name in inner if name != b".closeranks"]
        for name in inner + files:
            whole = os.path.join(directory, name)
            seen = fingerprint(whole)
            if seen is not None:
                found[os.path.relpath(whole, root)] = seen
    return found
