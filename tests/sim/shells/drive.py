"""One machine's disk, whose power can be cut: what was not synced is gone, in part or as a whole.

*Names.* Every step that changes a directory is kept with its undoing until a sync of a directory that it touched, or
of the file system, makes it and all earlier ones durable: in their order, as journals keep them. A cut keeps a part of
those that are left, from the first on. A sync of a file makes no name durable; real file systems are kinder there.

*Contents.* Of each file that was written since its last sync, what it held then is kept. A cut leaves that, what was
written, or sectors of both, of either length; where neither had bytes, zeros.

*Databases.* SQLite writes through `taps`; each write since a file's last sync is kept by itself, and a cut drops and
tears any of them, in whatever order.

Not modelled: attributes of files (they count as durable), disks that lie about a sync, and decay.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512
REAL: Final = {
    name: getattr(os, name)
    for name in (
        "open", "pwrite", "write", "ftruncate", "fsync", "fdatasync", "rename", "replace", "unlink", "remove",
        "mkdir", "rmdir", "link", "symlink",
    )
}  # fmt: skip


class PowerCut(BaseException):
    """The machine is off: whoever was about to change its disk goes no further."""


@dataclass(frozen=True, slots=True)
class Step:
    """A change of names, how it is undone, and the directories whose sync makes it durable."""

    undo: Callable[[], None]
    places: frozenset[str]


@dataclass(slots=True)
class Dirty:
    """A file that was written since its last sync: a descriptor of it, and what it held then."""

    fd: int
    durable: bytes


@dataclass(slots=True)
class Image:
    """A database file: what is durable of it, and the writes since, as (offset, bytes); None for bytes: cut there."""

    durable: bytearray
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    named: bool = True  # its name is durable

    def sync(self) -> None:
        for offset, data in self.pending:
            write(self.durable, offset, data)
        self.pending.clear()
        self.named = True


def write(content: bytearray, offset: int, data: bytes | None) -> None:
    """As a file takes it: beyond the end there are zeros first."""
    if data is None:
        del content[offset:]
        return
    content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(data)] = data


class Drive:
    """`cut` is called in the middle of what is cut off; nothing changes the disk from then on, until `mend`."""

    def __init__(self, base: Path, rng: random.Random, cut: Callable[[], None]) -> None:
        self.base, self.rng, self._cut = str(base), rng, cut
        self.limbo = base / "limbo"
        self.limbo.mkdir(parents=True)
        self.is_off = False
        self.points = 0  # calls that changed something
        self.cut_in: int | None = None
        self.names_only = False  # only changes of names count for the cut
        self.fails: int | None = None  # errno
        self.share = 0.0  # of the calls that fail
        self._steps: list[Step] = []
        self._dirty: dict[int, Dirty] = {}  # by inode
        self.images: dict[str, Image] = {}
        self.deleted: dict[str, bytes] = {}  # databases' files that are gone, and may come back
        self._limbo_count = 0

    # --- what happens to it -----------------------------------------------------------------------

    def arm(self, cut_in: int, names_only: bool) -> None:
        """Cut the power at the change that comes so many from now."""
        self.cut_in, self.names_only = cut_in, names_only

    def point(self, name: bool = False) -> None:
        """Something is about to change. Raises PowerCut."""
        if self.is_off:
            raise PowerCut
        self.points += 1
        if self.cut_in is not None and (name or not self.names_only):
            self.cut_in -= 1
            if self.cut_in <= 0:
                self.turn_off()
                self._cut()
                raise PowerCut

    def failing(self) -> int | None:
        """The errno that this call fails with, if it does."""
        if self.fails is None or self.rng.random() >= self.share:
            return None
        return self.fails

    def check(self, *unless: int, name: bool = False) -> None:
        """A point that may fail. Raises PowerCut, OSError."""
        self.point(name)
        number = self.failing()
        if number is not None and number not in unless:
            raise OSError(number, os.strerror(number))

    def turn_off(self) -> None:
        self.is_off, self.cut_in, self.fails = True, None, None

    def mend(self) -> None:
        """Power is back, and the disk is in order."""
        self.is_off, self.cut_in, self.fails = False, None, None

    def forget(self) -> None:
        """Everything on it was put there by somebody, and is durable."""
        self.mend()
        for dirty in self._dirty.values():
            os.close(dirty.fd)
        self._dirty.clear()
        self._steps.clear()
        self.deleted.clear()
        self.images.clear()

    # --- names ------------------------------------------------------------------------------------

    def did(self, undo: Callable[[], None], *places: str) -> None:
        self._steps.append(Step(undo, frozenset(places)))

    def aside(self, path: str) -> str:
        """Another name for what is about to lose its own."""
        self._limbo_count += 1
        kept = str(self.limbo / str(self._limbo_count))
        REAL["link"](path, kept, follow_symlinks=False)
        return kept

    def names_synced(self, place: str) -> None:
        last = max((number for number, one in enumerate(self._steps) if place in one.places), default=-1)
        del self._steps[: last + 1]

    # --- contents ---------------------------------------------------------------------------------

    def written(self, fd: int, is_new: bool = False) -> None:
        """A file is about to be written."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino in self._dirty:
            return
        own = REAL["open"](f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._dirty[found.st_ino] = Dirty(own, b"" if is_new else os.pread(own, found.st_size, 0))

    def own_descriptors(self) -> set[str]:
        return {str(dirty.fd) for dirty in self._dirty.values()}

    def content_synced(self, fd: int) -> None:
        dirty = self._dirty.pop(os.fstat(fd).st_ino, None)
        if dirty is not None:
            os.close(dirty.fd)

    def all_synced(self) -> None:
        self._steps.clear()
        for dirty in self._dirty.values():
            os.close(dirty.fd)
        self._dirty.clear()

    def written_by_others(self, path: Path) -> None:
        """Somebody else's writes are durable at once, and with them all names."""
        self._steps.clear()
        if path.is_file():
            dirty = self._dirty.pop(path.stat().st_ino, None)
            if dirty is not None:
                os.close(dirty.fd)

    # --- databases --------------------------------------------------------------------------------

    def database_synced(self, path: str) -> None:
        image = self.images[path]
        if not image.named:  # its directory is synced with the first sync of a new file
            place = os.path.dirname(path)
            self.names_synced(place)
            self.deleted = {one: held for one, held in self.deleted.items() if os.path.dirname(one) != place}
        image.sync()

    # --- the cut ----------------------------------------------------------------------------------

    def lose(self) -> None:
        """What a cut takes: now everything on the disk is as it is found at the next start."""
        rng = self.rng
        count = len(self._steps)
        kept = rng.choice((0, count, max(0, count - 1), rng.randint(0, count)))
        for dirty in self._dirty.values():
            self._tear(dirty)
            os.close(dirty.fd)
        for step in reversed(self._steps[kept:]):
            step.undo()
        self._steps.clear()
        self._dirty.clear()
        for path, content in self.deleted.items():
            if rng.random() < 0.5:
                Path(path).write_bytes(content)
        self.deleted.clear()
        for path, image in sorted(self.images.items()):
            if not image.named and rng.random() < 0.5:
                Path(path).unlink(missing_ok=True)
                continue
            self._lose_some(image)
            Path(path).write_bytes(image.durable)
        self.images.clear()

    def _lose_some(self, image: Image) -> None:
        """All of its unsynced writes, none, the last of them, or any sectors of any."""
        rng, count = self.rng, len(image.pending)
        how = rng.choice(("lost", "whole", "torn"))
        last = count if how == "torn" else 0 if how == "lost" else rng.choice((count, rng.randint(0, count)))
        for offset, data in image.pending[:last]:
            for start, part in _sectors(offset, data):
                if how == "whole" or rng.random() < 0.5:
                    write(image.durable, start, part)

    def _tear(self, dirty: Dirty) -> None:
        rng = self.rng
        written = os.pread(dirty.fd, os.fstat(dirty.fd).st_size, 0)
        how = rng.choice(("lost", "torn", "whole"))
        if how == "whole":
            return
        content = dirty.durable
        if how == "torn":
            size = rng.choice((len(dirty.durable), len(written)))
            parts = []
            for start in range(0, size, SECTOR_BYTES):
                source = rng.choice((dirty.durable, written))
                parts.append(source[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0"))
            content = b"".join(parts)[:size]
        REAL["ftruncate"](dirty.fd, 0)
        REAL["pwrite"](dirty.fd, content, 0)


def _sectors(offset: int, data: bytes | None) -> list[tuple[int, bytes | None]]:
    """A write in pieces that a disk writes whole."""
    if data is None:
        return [(offset, None)]
    found: list[tuple[int, bytes | None]] = []
    at = 0
    while at < len(data):
        size = SECTOR_BYTES - (offset + at) % SECTOR_BYTES
        found.append((offset + at, data[at : at + size]))
        at += size
    return found
