"""Owner, mode, mtime and extended attributes as the target has them, put on files, directories and symlinks.

What the volume tracks is set exactly. What it does not track is kept where a file is replaced (its owner,
its ACL and labels) and follows the parent directory where it is new, so that a repaired file can be used by
whoever used it before. Special mode bits are written only where `mode_to_write` allows.

What tracking carries: owner and mtime of files and symlinks, owner of directories (a directory's mtime tells
about its names, changes with every one, and is never compared), `user.*` attributes, and POSIX ACLs
(`system.posix_acl_access` and `_default`), with what they make of the mode. Not `security.capability`: a
capability gives power on a machine, so it is its operator's, and a file that is replaced loses it.

Everything works on descriptors (also O_PATH ones, through /proc/self/fd), never on names: a name could
become a symlink between the check and the change.
"""

from __future__ import annotations

import errno
import os
import stat

from closeranks_proto.entries import Entry, Kind

from ..disk.hashing import XATTR_PREFIXES
from .plan import mode_to_write

# Of a replaced file whose xattrs are not tracked, these stay behind: they vouch for content or give power.
_NOT_CARRIED = (b"security.capability", b"security.ima", b"security.evm")
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL})


def set_new(
    fd: int, target: Entry, replaced: os.stat_result | None, parent: os.stat_result, special_bits: bool
) -> None:
    """Attributes of a staged file or directory, before it appears in the tree. `fd` is a real descriptor."""
    model = replaced if replaced is not None else parent
    if target.owner is not None:
        _own(fd, target.owner)
    elif os.geteuid() == 0:
        _own(fd, (model.st_uid, model.st_gid))
    if target.xattrs is not None:
        _set_xattrs(fd, target.xattrs)
    os.fchmod(fd, new_mode(target, replaced, special_bits, os.fstat(fd).st_mode))
    if target.mode is None and target.xattrs:
        _set_xattrs(fd, target.xattrs)  # an ACL's mask went along with the mode: what is tracked counts
    if target.mtime_ns is not None:
        os.utime(fd, ns=(target.mtime_ns, target.mtime_ns))


def new_mode(target: Entry, replaced: os.stat_result | None, special_bits: bool, present: int) -> int:
    """The mode of something new; where modes are not tracked, that of what it replaces, or the usual one."""
    if target.mode is not None:
        inherited = present if target.kind is Kind.DIRECTORY else 0  # set-gid directories pass theirs on
        return mode_to_write(target.mode, inherited & 0o7777, special_bits)
    usual = 0o755 if target.kind is Kind.DIRECTORY else 0o644
    same_kind = replaced is not None and stat.S_ISDIR(replaced.st_mode) == (target.kind is Kind.DIRECTORY)
    if replaced is None or not same_kind or stat.S_ISLNK(replaced.st_mode):
        return usual
    return replaced.st_mode & 0o777


def set_existing(path_fd: int, target: Entry, special_bits: bool) -> None:
    """Attributes of a file or directory in the tree, content untouched. `path_fd` may be an O_PATH one."""
    where = b"/proc/self/fd/%d" % path_fd
    if target.owner is not None:
        _own(where, target.owner)
    if target.xattrs is not None:
        _set_xattrs(where, target.xattrs)
    if target.mode is not None:
        present = os.fstat(path_fd).st_mode & 0o7777
        wanted = mode_to_write(target.mode, present, special_bits)
        if wanted != present:
            os.chmod(where, wanted)
    if target.mtime_ns is not None:
        os.utime(where, ns=(target.mtime_ns, target.mtime_ns))


def set_symlink(name: bytes, dir_fd: int, target: Entry, model: os.stat_result) -> None:
    """Attributes of a symlink, never of what it points to."""
    if target.owner is not None:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if (status.st_uid, status.st_gid) != target.owner:
            os.chown(name, *target.owner, dir_fd=dir_fd, follow_symlinks=False)
    elif os.geteuid() == 0:
        os.chown(name, model.st_uid, model.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    if target.mtime_ns is not None:
        os.utime(name, ns=(target.mtime_ns, target.mtime_ns), dir_fd=dir_fd, follow_symlinks=False)


def carry_xattrs(from_fd: int, to_fd: int) -> None:
    """Copy what can be copied of the untracked attributes of a file that is being replaced."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(from_fd)]
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return
        raise
    for name in names:
        if name in _NOT_CARRIED:
            continue
        try:
            os.setxattr(to_fd, name, os.getxattr(from_fd, name))
        except OSError as error:
            if error.errno not in _UNSUPPORTED | {errno.ENODATA}:
                raise


def entry_now(target: Entry, status: os.stat_result) -> Entry:
    """The entry that a scan would read now of what was just made from `target`."""
    return Entry(
        target.kind,
        target.size,
        target.digest,
        status.st_mode & 0o7777 if target.mode is not None else None,
        target.target,
        (status.st_uid, status.st_gid) if target.owner is not None else None,
        status.st_mtime_ns if target.mtime_ns is not None else None,
        target.xattrs,
    )


def _own(where: int | bytes, owner: tuple[int, int]) -> None:
    status = os.stat(where)
    if (status.st_uid, status.st_gid) != owner:
        os.chown(where, *owner)


def _set_xattrs(where: int | bytes, wanted: tuple[tuple[bytes, bytes], ...]) -> None:
    names = {name for name, _ in wanted}
    try:
        present = [os.fsencode(name) for name in os.listxattr(where)]
    except OSError as error:
        if error.errno == errno.ENOTSUP and not wanted:
            return
        raise
    for name in present:
        if name.startswith(XATTR_PREFIXES) and name not in names:
            os.removexattr(where, name)
    for name, value in wanted:
        if name not in present or os.getxattr(where, name) != value:
            os.setxattr(where, name, value)
