"""Giving back what lies in the trash: to a directory outside every volume, or to its place in the tree.

Nothing is ever overwritten, and the trash keeps what it gives: a restore that goes wrong costs nothing, and goes on
when it is asked for again: what lies outside already as it would be written is left as it is.
Outside a volume, files come without special mode bits. In place, a copy is staged, synced and moved to
the free name; the volume's index learns of it as cause `restore`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence

from closeranks_proto.entries import Kind
from closeranks_proto.errors import UserError
from closeranks_proto.messages import TrashItem
from closeranks_proto.paths import escape, path_of

from .. import beneath
from ..disk.records import Change, problem_of
from ..disk.volume import Volume
from .items import Kept, item_of
from .trash import Trash
from .workroom import Workroom

IDS_MAX = 10_000
ID_DIGITS = 12  # as `Kept.id` writes them
COPY_BYTES = 1024 * 1024
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def restore_to(
    volume: Volume, trash: Trash, ids: Sequence[str], to: str, outside: Sequence[bytes]
) -> tuple[TrashItem, ...]:
    """Copy items to their paths below the directory `to`, which is made if missing.

    `outside` are the roots of all volumes of this node and other directories that `to` must not lie in.
    What is there already with the same content counts as copied. Raises UserError where that can not or must not be;
    what was copied before stays.
    """
    target = os.fsencode(to)
    if not target.startswith(b"/"):
        raise UserError(f"{to!r} is not an absolute path: name a directory of this node, beginning with /")
    with trash.opened() as room:
        found = _find(trash, ids)
        _refuse_inside(target, [volume.path, volume.private, *outside])
        try:
            os.makedirs(target, 0o700, exist_ok=True)
            fd = os.open(target, _DIRECTORY)
        except OSError as error:
            raise UserError(f"{escape(target)} can not be made or opened: {error.strerror}") from error
        try:
            _refuse_inside(target, [volume.path, volume.private, *outside])
            names = _names(found)
            pairs = zip(found, names, strict=True)
            missing = [(kept, path) for kept, path in pairs if not _is_there(room, fd, path, target, kept)]
            for kept, path in missing:
                _copy_out(room, kept, fd, path, target)
            os.fsync(fd)
        finally:
            os.close(fd)
    return tuple(item_of(volume.name, kept) for kept in found)


def restore_in_place(volume: Volume, trash: Trash, ids: Sequence[str]) -> tuple[TrashItem, ...]:
    """Copy items back to where they were, parents first. On the volume's thread. Raises UserError."""
    observed = time.monotonic()
    with trash.opened() as room:
        found = sorted(_find(trash, ids), key=lambda one: one.discard.key)
        if len({one.discard.key for one in found}) < len(found):
            raise UserError("two of these items were at the same path: only one can be put back in place")
        changes: list[Change] = []
        try:
            for kept in found:
                _put_back(room, kept)
                key = kept.discard.key
                changes.append(Change(key, volume.read_entry(room.root_fd, key)))
        finally:
            if changes:
                volume.apply(changes, "restore", observed)
    return tuple(item_of(volume.name, kept) for kept in found)


def _find(trash: Trash, ids: Sequence[str]) -> list[Kept]:
    if not ids or len(ids) > IDS_MAX:
        raise UserError(f"name 1 to {IDS_MAX} items of the trash")
    wanted = {_full_id(one) for one in ids}
    found = [kept for kept in trash.kept() if kept.id in wanted]
    unknown = sorted(wanted - {kept.id for kept in found})
    if unknown:
        raise UserError(
            f"the trash of this volume has no item {', '.join(unknown[:5])}: `closeranks trash list` has them"
        )
    return found


def _full_id(text: str) -> str:
    """The id with its leading zeros, which people leave out."""
    return text.strip().lower().rjust(ID_DIGITS, "0")


def _names(found: Sequence[Kept]) -> list[bytes]:
    """Relative paths to write to; of several items of one path the later ones carry their id."""
    taken: set[bytes] = set()
    names: list[bytes] = []
    for kept in found:
        path = path_of(kept.discard.key)
        if path in taken and kept.discard.kind is not Kind.DIRECTORY:
            path += b"~" + kept.id.encode()
        taken.add(path)
        names.append(path)
    return names


def _refuse_inside(target: bytes, roots: Sequence[bytes]) -> None:
    """By inode of every existing ancestor, so that no symlink or bind mount leads into a volume."""
    forbidden = set()
    for root in roots:
        try:
            status = os.stat(root)
        except OSError:
            continue  # not there, so nothing lies in it
        forbidden.add((status.st_dev, status.st_ino))
    path = os.path.realpath(target)
    while True:
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in forbidden:
                raise UserError(
                    f"{escape(target)} lies in {escape(path)}, which closeranks compares or works in. Name a "
                    "directory outside every volume."
                )
        except FileNotFoundError:
            pass  # will be made
        except OSError as error:
            raise UserError(f"{escape(target)} can not be used: {error.strerror}") from error
        if path == b"/":
            return
        path = os.path.dirname(path)


def _is_there(room: Workroom, fd: int, path: bytes, target: bytes, kept: Kept) -> bool:
    """Whether it was copied there before. Raises UserError where something else is."""
    try:
        there = os.open(path, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise UserError(f"{escape(target + b'/' + path)}: {error.strerror}") from error
    try:
        is_same = _is_same(room, kept, there)
    except OSError as error:
        raise UserError(f"{escape(target + b'/' + path)} could not be read: {error.strerror}") from error
    finally:
        os.close(there)
    if not is_same:
        raise UserError(
            f"{escape(target + b'/' + path)} exists and is never overwritten. Name another directory."
        )
    return True


def _is_same(room: Workroom, kept: Kept, there: int) -> bool:
    """Whether what is open there (O_PATH) has the kind and the content of the item."""
    item, mode = kept.id.encode(), os.fstat(there).st_mode
    match kept.discard.kind:
        case Kind.DIRECTORY:
            return stat.S_ISDIR(mode)
        case Kind.SYMLINK:
            return stat.S_ISLNK(mode) and os.readlink(b"", dir_fd=there) == os.readlink(
                item, dir_fd=room.items_fd
            )
        case Kind.FILE:
            if not stat.S_ISREG(mode):
                return False
    with (
        open(os.open(item, _FILE, dir_fd=room.items_fd), "rb") as ours,
        open(os.open(f"/proc/self/fd/{there}", os.O_RDONLY | os.O_CLOEXEC), "rb") as theirs,
    ):
        if os.fstat(ours.fileno()).st_size != os.fstat(theirs.fileno()).st_size:
            return False
        while part := ours.read(COPY_BYTES):
            if theirs.read(COPY_BYTES) != part:
                return False
        return True


def _copy_out(room: Workroom, kept: Kept, fd: int, path: bytes, target: bytes) -> None:
    *directories, name = path.split(b"/")
    here = os.dup(fd)
    try:
        for directory in directories:
            here = _enter(here, directory)
        if kept.discard.kind is Kind.DIRECTORY:
            os.close(_enter(os.dup(here), name))
        else:
            copy_item(room, kept, name, here)
        os.fsync(here)
    except FileExistsError as error:
        raise UserError(f"{escape(target + b'/' + path)} exists and is never overwritten.") from error
    except OSError as error:
        raise UserError(f"{escape(target + b'/' + path)} could not be written: {error.strerror}") from error
    finally:
        os.close(here)


def _enter(fd: int, name: bytes) -> int:
    """The subdirectory `name`, made if missing; takes over `fd`."""
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            pass  # made for an earlier item; if it is no directory, opening says so
        return os.open(name, _DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def copy_item(room: Workroom, kept: Kept, name: bytes, dir_fd: int) -> None:
    """A synced copy of a file's or symlink's item under a new name. Holes stay holes. Raises OSError."""
    item = kept.id.encode()
    if kept.discard.kind is Kind.SYMLINK:
        os.symlink(os.readlink(item, dir_fd=room.items_fd), name, dir_fd=dir_fd)
        return
    source = os.open(item, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=room.items_fd)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(name, flags, 0o600, dir_fd=dir_fd)
        try:
            _copy_bytes(source, copy)
            status = os.fstat(source)
            if os.geteuid() == 0:
                os.fchown(copy, status.st_uid, status.st_gid)
            os.fchmod(copy, status.st_mode & 0o777)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(copy)
        except BaseException:
            os.unlink(name, dir_fd=dir_fd)
            raise
        finally:
            os.close(copy)
    finally:
        os.close(source)


def _copy_bytes(source: int, copy: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(copy, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole is left
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            data = os.pread(source, min(COPY_BYTES, end - at), at)
            if not data:
                return
            view = memoryview(data)
            while view:
                count = os.pwrite(copy, view, at)
                view, at = view[count:], at + count


def _put_back(room: Workroom, kept: Kept) -> None:
    discard = kept.discard
    shown = escape(path_of(discard.key))
    staged = b"restore-" + kept.id.encode()
    try:
        with beneath.spot(room.root_fd, discard.key) as where:
            if discard.kind is Kind.DIRECTORY:
                os.mkdir(where.name, discard.mode & 0o777, dir_fd=where.parent_fd)
            else:
                copy_item(room, kept, staged, room.stage_fd)
                try:
                    beneath.move_new(staged, room.stage_fd, where.name, where.parent_fd)
                except BaseException:
                    os.unlink(staged, dir_fd=room.stage_fd)
                    raise
            beneath.sync_directory(room.root_fd, path_of(discard.key).rpartition(b"/")[0])
    except FileExistsError as error:
        raise UserError(f"{shown} exists in the volume and is never overwritten: use --to DIR") from error
    except OSError as error:
        if error.errno in beneath.DETOUR_ERRNOS:
            raise UserError(f"the directory of {shown} is not there any more: use --to DIR") from error
        raise UserError(problem_of(error, f"{shown} could not be put back").message) from error
