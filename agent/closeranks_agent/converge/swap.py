"""Taking entries out of the tree and putting entries into it, one at a time, without a moment in between.

Invariants. Readers find the old entry or the new one, never none and never a part. What is taken out lies in
the trash afterwards, or is back in its place. What is taken out is compared *after* it was taken, since
only then nobody can change it under its name any more: if it is not what the plan saw, it goes back.

`Taken` describes what the plan saw; `Surprise` says that the path held something else. On filesystems without
RENAME_EXCHANGE the old file is linked into the trash and replaced by rename. There a writer that replaces the
file between the two calls loses its version; and a directory that becomes a file is missing for a moment.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from closeranks_proto.entries import Kind

from .. import beneath
from ..beneath import Spot
from .items import Discard
from .workroom import Workroom


class Surprise(Exception):
    """The path holds something else than the plan saw; nothing was changed."""


class NotEmpty(Exception):
    """The directory holds entries that the plan does not know; it stays."""


class NoExchange(Exception):
    """The filesystem can neither exchange nor link: nothing can be replaced safely."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What is to be taken out, and the trash item that it becomes."""

    item: bytes
    discard: Discard


def take_out(room: Workroom, where: Spot, taken: Taken) -> None:
    """Move an entry to the trash. Raises Surprise, NotEmpty, OSError; the entry is then where it was."""
    if taken.discard.kind is Kind.DIRECTORY:
        with _empty_item(room, taken):
            try:
                os.rmdir(where.name, dir_fd=where.parent_fd)
            except OSError as error:
                raise _refined(error) from error
        return
    beneath.move_new(where.name, where.parent_fd, taken.item, room.items_fd)
    status = os.stat(taken.item, dir_fd=room.items_fd, follow_symlinks=False)
    if not is_what_was_seen(status, taken.discard):
        try:
            beneath.move_new(taken.item, room.items_fd, where.name, where.parent_fd)
        except FileExistsError:
            pass  # somebody has taken the name meanwhile: what was taken out stays an item
        raise Surprise


def put_new(stage_name: bytes, room: Workroom, where: Spot) -> None:
    """Move a staged entry to a free name. Raises Surprise where the name is taken."""
    try:
        beneath.move_new(stage_name, room.stage_fd, where.name, where.parent_fd)
    except FileExistsError as error:
        raise Surprise from error


def move_within(origin: Spot, where: Spot, seen: os.stat_result) -> None:
    """Rename a file inside the tree to a free name, if it is the one that was `seen`. Raises Surprise, OSError."""
    try:
        beneath.move_new(origin.name, origin.parent_fd, where.name, where.parent_fd)
    except FileExistsError as error:
        raise Surprise from error
    now = beneath.status(where)
    if now is not None and _is_same_file(now, seen):
        return
    try:
        beneath.move_new(where.name, where.parent_fd, origin.name, origin.parent_fd)
    except (FileExistsError, FileNotFoundError):
        pass  # both names were taken over meanwhile: what moved stays under the new one, for a scan to find
    raise Surprise


def _is_same_file(now: os.stat_result, seen: os.stat_result) -> bool:
    """A rename changes ctime and nothing else."""
    kept = (seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns)
    return (now.st_ino, now.st_mode, now.st_size, now.st_mtime_ns) == kept


def swap_in(stage_name: bytes, room: Workroom, where: Spot, taken: Taken) -> None:
    """Put a staged entry in the place of another, which goes to the trash.

    Raises Surprise, NotEmpty, NoExchange, OSError; then the old entry is in its place and the new one staged.
    """
    staged = os.stat(stage_name, dir_fd=room.stage_fd, follow_symlinks=False).st_ino
    if not beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd):
        _replace_without_exchange(stage_name, room, where, taken)
        return
    try:
        status = os.stat(stage_name, dir_fd=room.stage_fd, follow_symlinks=False)
        if not is_what_was_seen(status, taken.discard):
            raise Surprise
        if taken.discard.kind is Kind.DIRECTORY:
            with _empty_item(room, taken):
                try:
                    os.rmdir(stage_name, dir_fd=room.stage_fd)
                except OSError as error:
                    raise _refined(error) from error
        else:
            beneath.move_new(stage_name, room.stage_fd, taken.item, room.items_fd)
    except BaseException:
        _swap_back(stage_name, room, where, taken, staged)
        raise


def is_what_was_seen(status: os.stat_result, discard: Discard) -> bool:
    """Whether a stat taken after a rename (which changes ctime) is of the very entry that was discarded."""
    if status.st_ino != discard.inode:
        return False
    if discard.kind is Kind.DIRECTORY:
        return stat.S_ISDIR(status.st_mode)
    same_size = discard.kind is not Kind.FILE or status.st_size == discard.size
    return same_size and status.st_mtime_ns == discard.mtime_ns


def _swap_back(stage_name: bytes, room: Workroom, where: Spot, taken: Taken, staged: int) -> None:
    """Undo an exchange. `staged` is the inode of our own entry: any other that comes back is somebody's."""
    try:
        beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd)
        if os.stat(stage_name, dir_fd=room.stage_fd, follow_symlinks=False).st_ino == staged:
            return
        # Somebody renamed a newer version over ours meanwhile: it stays, and what it replaced is kept.
        beneath.exchange(stage_name, room.stage_fd, where.name, where.parent_fd)
        beneath.move_new(stage_name, room.stage_fd, taken.item, room.items_fd)
    except FileNotFoundError:
        # Somebody removed the new entry at once: the old one simply returns, or is kept as an item.
        try:
            beneath.move_new(stage_name, room.stage_fd, where.name, where.parent_fd)
        except FileExistsError:
            beneath.move_new(stage_name, room.stage_fd, taken.item, room.items_fd)


class _empty_item:
    """A directory's place in the trash: there before the directory goes, and gone if that fails."""

    def __init__(self, room: Workroom, taken: Taken) -> None:
        self._fd, self._name = room.items_fd, taken.item

    def __enter__(self) -> None:
        os.mkdir(self._name, 0o700, dir_fd=self._fd)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            os.rmdir(self._name, dir_fd=self._fd)


def _refined(error: OSError) -> Exception:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return NotEmpty()
    if error.errno == errno.ENOTDIR:
        return Surprise()
    return error


def _replace_without_exchange(stage_name: bytes, room: Workroom, where: Spot, taken: Taken) -> None:
    if taken.discard.kind is Kind.DIRECTORY:
        take_out(room, where, taken)
        put_new(stage_name, room, where)
        return
    try:
        os.link(
            where.name,
            taken.item,
            src_dir_fd=where.parent_fd,
            dst_dir_fd=room.items_fd,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise NoExchange from error
        raise
    status = os.stat(taken.item, dir_fd=room.items_fd, follow_symlinks=False)
    if not is_what_was_seen(status, taken.discard):
        os.unlink(taken.item, dir_fd=room.items_fd)
        raise Surprise
    try:
        _rename_over(stage_name, room, where)
    except BaseException:
        _give_back(room, where, taken)
        raise


def _give_back(room: Workroom, where: Spot, taken: Taken) -> None:
    """Undo the item's link, unless it has become the only one: then the name returns, or the item stays."""
    try:
        still_there = (
            os.stat(where.name, dir_fd=where.parent_fd, follow_symlinks=False).st_ino == taken.discard.inode
        )
    except FileNotFoundError:
        still_there = False
    if still_there:
        os.unlink(taken.item, dir_fd=room.items_fd)
        return
    try:
        beneath.move_new(taken.item, room.items_fd, where.name, where.parent_fd)
    except FileExistsError:
        pass  # somebody has taken the name meanwhile: what was there stays an item


def _rename_over(stage_name: bytes, room: Workroom, where: Spot) -> None:
    staged = os.stat(stage_name, dir_fd=room.stage_fd, follow_symlinks=False)
    if stat.S_ISDIR(staged.st_mode):
        os.unlink(where.name, dir_fd=where.parent_fd)  # a directory can not be renamed over a file
    os.rename(stage_name, where.name, src_dir_fd=room.stage_fd, dst_dir_fd=where.parent_fd)
