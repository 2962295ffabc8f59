"""The agent's own directory on the volume's filesystem, and the proof that a root is the one it was.

Staging and trash must lie on the volume's filesystem, so that a rename moves files there. By default they
are `.closeranks` at the volume's root, which is never scanned. A file in it says whose it is: a directory of
that name without the mark belongs to somebody else and is never touched.

An unmounted filesystem looks like a tree whose files are all gone. So the index remembers its root: same
inode, and same device or filesystem id; where the kernel numbers devices anew after a reboot, the mark in
the root's own `.closeranks` decides. Rejected: the device number alone, which tmpfs and loop devices reuse.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from closeranks_proto.errors import UserError
from closeranks_proto.paths import escape

PRIVATE_NAME: Final = b".closeranks"
MARK_NAME: Final = b"OWNER"
STAGE_NAME: Final = b"stage"
TRASH_NAME: Final = b"trash"
_MARK_HEAD: Final = b"closeranks private directory"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Identity:
    """What a volume's root was when its index was made. `mark` is None with the private directory elsewhere."""

    device: int
    inode: int
    filesystem: int  # 0 where the filesystem has no id
    mark: str | None

    @classmethod
    def of(cls, root_fd: int) -> Identity:
        status = os.fstat(root_fd)
        return cls(status.st_dev, status.st_ino, os.fstatvfs(root_fd).f_fsid, _mark_in(root_fd))

    def is_of(self, now: Identity) -> bool:
        """Whether `now` is the same directory of the same filesystem."""
        if now.inode != self.inode:
            return False
        if self.mark is not None and now.mark == self.mark:
            return True
        if self.filesystem and now.filesystem:
            return now.filesystem == self.filesystem
        return now.device == self.device


def ensure_private(root_fd: int, root: bytes, elsewhere: bytes | None, volume: str) -> None:
    """Make the private directory with `stage` and `trash`, or find ours.

    Raises UserError where the place belongs to somebody else or is unfit, OSError where it can not be made.
    """
    if elsewhere is not None:
        _refuse_foreign(root_fd, root)
        _ensure_elsewhere(root_fd, root, elsewhere, volume)
        return
    where = root + b"/" + PRIVATE_NAME
    fd = _make(PRIVATE_NAME, root_fd, where)
    try:
        _check(fd, root_fd, where)
        _mark(fd, where, volume)
        _make_inner(fd)
    finally:
        os.close(fd)


def open_private(where: bytes) -> int:
    """A descriptor of a private directory that is there; whatever lies in it is opened by that.

    Raises OSError; also where it belongs to somebody else, who may write to the volume's root and has put it there.
    """
    fd = os.open(where, _DIRECTORY)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(errno.EPERM, "it belongs to another user than the agent's", where)
    return fd


def _ensure_elsewhere(root_fd: int, root: bytes, elsewhere: bytes, volume: str) -> None:
    inside = os.path.realpath(root) + b"/"
    if (os.path.realpath(elsewhere) + b"/").startswith(inside):
        raise UserError(
            f"private_dir {escape(elsewhere)} lies inside volume {volume}: it would be compared and replicated. "
            "Name a directory of the same filesystem outside the volume, or leave private_dir out."
        )
    parent = os.path.dirname(elsewhere.rstrip(b"/")) or b"/"
    parent_fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _make(os.path.basename(elsewhere.rstrip(b"/")), parent_fd, elsewhere)
    finally:
        os.close(parent_fd)
    try:
        _check(fd, root_fd, elsewhere)
        found = _mark(fd, elsewhere, volume)
        if found != volume:
            raise UserError(
                f"private_dir {escape(elsewhere)} is used by volume {found}; give volume {volume} one of its own."
            )
        _make_inner(fd)
    finally:
        os.close(fd)


def _refuse_foreign(root_fd: int, root: bytes) -> None:
    """A `.closeranks` in the tree is never compared: one that is not ours must not hide there."""
    try:
        fd = os.open(PRIVATE_NAME, _DIRECTORY, dir_fd=root_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _foreign(root + b"/" + PRIVATE_NAME) from error
        raise
    try:
        if os.listdir(fd) and _read_mark(fd) is None:
            raise _foreign(root + b"/" + PRIVATE_NAME)
    finally:
        os.close(fd)


def _make(name: bytes, parent_fd: int, where: bytes) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        pass  # ours from before, or somebody else's: the mark tells
    except OSError as error:
        error.filename = where
        raise
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise _foreign(where) from error
        raise


def _check(fd: int, root_fd: int, where: bytes) -> None:
    status = os.fstat(fd)
    if status.st_dev != os.fstat(root_fd).st_dev:
        raise UserError(
            f"{escape(where)} is not on the volume's filesystem: files could not be moved there and back in one "
            "step. Name a private_dir on the same filesystem."
        )
    if status.st_uid != os.geteuid():
        raise UserError(
            f"{escape(where)} belongs to user {status.st_uid}, the agent runs as user {os.geteuid()}. "
            "Run the agent as its owner, or move the directory away."
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.fchmod(fd, 0o700)


def _mark(fd: int, where: bytes, volume: str) -> str:
    """Find our mark, or set it in a directory without content; the volume that it names."""
    found = _read_mark(fd)
    if found is not None:
        return found.get("volume", volume)
    names = os.listdir(fd)
    if names not in ([], [os.fsdecode(MARK_NAME)]) or (names and os.stat(MARK_NAME, dir_fd=fd).st_size):
        raise _foreign(where)
    # An empty mark alone is what a crash leaves between its making and its writing.
    flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    mark_fd = os.open(MARK_NAME, flags, 0o600, dir_fd=fd)
    try:
        os.write(mark_fd, _MARK_HEAD + f"\nvolume {volume}\nid {os.urandom(16).hex()}\n".encode())
        os.fsync(mark_fd)
    finally:
        os.close(mark_fd)
    os.fsync(fd)
    return volume


def _read_mark(fd: int) -> dict[str, str] | None:
    """What the mark in the open private directory says; None where there is none of ours."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        mark_fd = os.open(MARK_NAME, flags, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        head, *lines = os.read(mark_fd, 4096).split(b"\n")
    finally:
        os.close(mark_fd)
    if head != _MARK_HEAD:
        return None
    pairs = (line.decode("utf-8", "replace").partition(" ") for line in lines)
    return {name: value for name, _, value in pairs if name}


def _mark_in(root_fd: int) -> str | None:
    try:
        fd = os.open(PRIVATE_NAME, _DIRECTORY, dir_fd=root_fd)
    except OSError:
        return None  # none there, or none that could be ours: the other signs decide
    try:
        found = _read_mark(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if found is None else found.get("id")


def _make_inner(fd: int) -> None:
    for name in (STAGE_NAME, TRASH_NAME):
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except FileExistsError:
            continue


def _foreign(where: bytes) -> UserError:
    return UserError(
        f"{escape(where)} exists already and is not closeranks's (it has no {os.fsdecode(MARK_NAME)} file of "
        "ours). Its content would never be compared. Move it away or rename it, then start the agent again."
    )
