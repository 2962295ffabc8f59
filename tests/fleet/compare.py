"""The independent comparison: walk two trees, read every byte, compare. No part of closeranks is used.

Compared: names as bytes, kind, permission bits, sha256 of contents, link targets, and where it is asked for
owners, times of files and extended attributes. Left out: `.closeranks` at a volume's root, which is never part
of the tree.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PRIVATE = b".closeranks"
# kind, mode, content digest or link target, the attributes that were asked for
Entry = tuple[str, int, bytes, str]


@dataclass(frozen=True, slots=True)
class Difference:
    path: bytes
    change: str  # missing, added, kind, mode, content, target, attributes

    def __str__(self) -> str:
        return f"{self.change} {os.fsdecode(self.path)!r}"


def walk(root: str | bytes | os.PathLike[str]) -> Iterator[tuple[bytes, os.stat_result, int]]:
    """Relative path, lstat, and the open directory that holds it, of everything below the root.

    By directory descriptors: relative paths near 4,096 bytes are legal, and a full path would be too long.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from _walk(top, b"")
    finally:
        os.close(top)


def _walk(directory: int, prefix: bytes) -> Iterator[tuple[bytes, os.stat_result, int]]:
    for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
        if not prefix and name == PRIVATE:
            continue
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield prefix + name, status, directory
        if stat.S_ISDIR(status.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                yield from _walk(below, prefix + name + b"/")
            finally:
                os.close(below)


def _digest(name: bytes, directory: int) -> bytes:
    digest = hashlib.sha256()
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory), "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _attributes(name: bytes, status: os.stat_result, directory: int, track: Collection[str]) -> str:
    """Owner, mtime in ns (not of a directory, whose time tells of its names), xattrs; "" for none asked."""
    found: list[object] = []
    if "owner" in track:
        found.append((status.st_uid, status.st_gid))
    if "mtime" in track and not stat.S_ISDIR(status.st_mode):
        found.append(status.st_mtime_ns)
    if "xattrs" in track and not stat.S_ISLNK(status.st_mode):
        path = b"/proc/self/fd/%d/%s" % (directory, name)
        names = sorted(os.listxattr(path, follow_symlinks=False))
        found.append([(x, os.getxattr(path, x, follow_symlinks=False)) for x in names])
    return repr(found) if found else ""


def _entry(path: bytes, status: os.stat_result, directory: int, track: Collection[str]) -> Entry | None:
    name = path.rpartition(b"/")[2]
    mode = stat.S_IMODE(status.st_mode)
    more = _attributes(name, status, directory, track)
    if stat.S_ISREG(status.st_mode):
        return "file", mode, _digest(name, directory), more
    if stat.S_ISDIR(status.st_mode):
        return "directory", mode, b"", more
    if stat.S_ISLNK(status.st_mode):
        return "symlink", 0, os.readlink(name, dir_fd=directory), more
    return None  # devices, sockets and fifos belong to nobody


def manifest(root: str | bytes | os.PathLike[str], track: Collection[str] = ()) -> dict[bytes, Entry]:
    """Every entry of a tree with its contents' sha256; `track` of owner, mtime, xattrs is compared too."""
    found: dict[bytes, Entry] = {}
    for path, status, directory in walk(root):
        entry = _entry(path, status, directory, track)
        if entry is not None:
            found[path] = entry
    return found


def compare(ours: dict[bytes, Entry], theirs: dict[bytes, Entry]) -> list[Difference]:
    """What `theirs` has differently from `ours`, by path."""
    found = []
    for path in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(path), theirs.get(path)
        if a == b:
            continue
        if a is None:
            found.append(Difference(path, "added"))
        elif b is None:
            found.append(Difference(path, "missing"))
        elif a[0] != b[0]:
            found.append(Difference(path, "kind"))
        elif a[2] != b[2]:
            found.append(Difference(path, "target" if a[0] == "symlink" else "content"))
        elif a[1] != b[1]:
            found.append(Difference(path, "mode"))
        else:
            found.append(Difference(path, "attributes"))
    return found


def compare_trees(
    pristine: str | os.PathLike[str] | dict[bytes, Entry],
    trees: dict[str, str],
    workers: int = 2,
    track: Collection[str] = (),
) -> dict[str, list[Difference]]:
    """For each named tree, how it differs from the pristine one; an empty list means equal."""
    reference = pristine if isinstance(pristine, dict) else manifest(pristine, track)
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda root: compare(reference, manifest(root, track)), trees.values())
        return dict(zip(trees, found, strict=True))


def differing_chunk_bytes(pristine: str, tree: str, chunk_bytes: int = 1 << 20) -> int:
    """Bytes of the chunks that `tree` lacks to become `pristine`, chunk by chunk at equal offsets.

    What a resync must move if it finds nothing of use elsewhere on its disk.
    """
    top, other = os.fsencode(pristine), os.fsencode(tree)
    total = 0
    for path, status, _ in walk(top):
        if not stat.S_ISREG(status.st_mode):
            continue
        there = os.path.join(other, path)
        if not os.path.isfile(there) or os.path.islink(there):
            total += status.st_size
            continue
        with open(os.path.join(top, path), "rb") as ours, open(there, "rb") as theirs:
            while block := ours.read(chunk_bytes):
                if theirs.read(chunk_bytes) != block:
                    total += len(block)
    return total
