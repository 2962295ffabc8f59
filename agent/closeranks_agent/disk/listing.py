"""A directory's names and stats, and the digest by which the next scan sees that none of them changed.

The digest covers each name in the kernel's order (which stays while nothing changes; another order only
costs a comparison) with the stats that tell a change: of files size, times, inode and mode; of directories
mode, owner and inode, for what happens *in* them is their own listing's matter.

A directory of any size takes bounded memory: up to KEEP_ENTRIES stats are kept from the first look; a longer
one is listed again in blocks when it has to be compared, and looked at once more to see that it held still.
"""

from __future__ import annotations

import marshal
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from .rows import Row  # not where only directories are listed

KEEP_ENTRIES: Final = 4096  # about 600 bytes each
BLOCK_ENTRIES: Final = 512
_MARSHAL_VERSION: Final = 2  # later ones encode references, which depend on more than the values

file_state = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")
_directory_state = attrgetter("st_mode", "st_uid", "st_gid", "st_ino", "st_dev")
_directory_state_with_ctime = attrgetter("st_mode", "st_uid", "st_gid", "st_ino", "st_dev", "st_ctime_ns")

Status = os.stat_result | OSError


@dataclass(frozen=True, slots=True)
class Look:
    """What one pass over a directory saw. `stats` is None where there were too many to keep."""

    digest: bytes
    directories: Sequence[bytes]  # names, ascending
    stats: Sequence[tuple[str, Status]] | None
    whole: bool  # every name could be looked at

    @property
    def entries_least(self) -> int:
        """How many names there are at least."""
        return KEEP_ENTRIES if self.stats is None else len(self.stats)


def look(fd: int, skip: str | None, with_ctime: bool, keep: bool = True) -> Look:
    """List the open directory, leaving out the name `skip`. Raises OSError where it can not be listed.

    `with_ctime`: a directory's extended attributes matter, which only its ctime tells about. `keep`: the stats
    will be wanted.
    """
    directory_state = _directory_state_with_ctime if with_ctime else _directory_state
    hasher = xxhash.xxh3_128()
    directories: list[str] = []
    stats: list[tuple[str, Status]] | None = [] if keep else None
    block: list[tuple[object, ...]] = []
    whole = True
    with os.scandir(fd) as entries:
        for entry in entries:
            name = entry.name
            if name == skip:
                continue
            status: Status
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                whole = False  # gone since it was listed
                continue
            except OSError as error:
                whole, status = False, error
            else:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(name)
                    block.append((name, directory_state(status)))
                else:
                    block.append((name, file_state(status)))
            if stats is not None:
                stats.append((name, status))
            if len(block) >= BLOCK_ENTRIES:
                hasher.update(marshal.dumps(block, _MARSHAL_VERSION))
                block.clear()
                if stats is not None and len(stats) > KEEP_ENTRIES:
                    stats = None
    hasher.update(marshal.dumps(block, _MARSHAL_VERSION))
    return Look(hasher.digest(), sorted(map(os.fsencode, directories)), stats, whole)


def state_of(status: os.stat_result) -> tuple[object, ...]:
    """What of a name's stat the digest covers, where directories' extended attributes do not matter."""
    return _directory_state(status) if stat.S_ISDIR(status.st_mode) else file_state(status)


def digest_of(states: Sequence[tuple[object, ...]]) -> bytes:
    """The digest that a look gives: of (name, state), in the kernel's order."""
    hasher = xxhash.xxh3_128()
    last = len(states) - len(states) % BLOCK_ENTRIES
    for start in range(0, last, BLOCK_ENTRIES):
        hasher.update(marshal.dumps(list(states[start : start + BLOCK_ENTRIES]), _MARSHAL_VERSION))
    hasher.update(marshal.dumps(list(states[last:]), _MARSHAL_VERSION))
    return hasher.digest()


def statuses(fd: int, seen: Look, skip: str | None) -> Iterator[tuple[bytes, Status]]:
    """Every name with its status, names ascending: those of the look, or taken anew where it kept none."""
    if seen.stats is not None:
        yield from sorted(((os.fsencode(name), status) for name, status in seen.stats), key=_name_of)
        return
    for encoded in sorted(os.fsencode(name) for name in os.listdir(fd) if name != skip):
        try:
            yield encoded, os.stat(encoded, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue  # gone since it was listed: the second look differs
        except OSError as error:
            yield encoded, error


def beside(
    found: Iterator[tuple[bytes, Status]], rows: Iterator[Row]
) -> Iterator[tuple[bytes, Status | None, Row | None]]:
    """Names on disk beside rows of the index, both ascending."""
    row = next(rows, None)
    for name, status in found:
        while row is not None and row.name < name:
            yield row.name, None, row
            row = next(rows, None)
        if row is not None and row.name == name:
            yield name, status, row
            row = next(rows, None)
        else:
            yield name, status, None
    while row is not None:
        yield row.name, None, row
        row = next(rows, None)


def _name_of(pair: tuple[bytes, Status]) -> bytes:
    return pair[0]
