"""Where the programs meet their disk: the calls of `os` and `syscalls` that change something, and SQLite's own files.

Installed once in a process that plays a seed. A call by one of the simulated processes, on a path of its machine,
passes through that machine's drive, which counts it, may let it fail, may cut the power there, and remembers what is
not durable yet. What the world does (people, checks) passes by.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Final

import apsw

from closeranks_agent import syscalls
from closeranks_coordinator.storage import schema

from .drive import REAL, Drive, Image
from .loop import PROCESS

BASE_VFS: Final = schema.VFS
_FLAGS: Final = syscalls.RENAME_EXCHANGE
_rename_flags = syscalls.rename_flags
_sync_filesystem = syscalls.sync_filesystem
_allocate = syscalls.allocate


class Taps:
    """By machine ("" is the coordinator's) its drive, and the connections that are open to its databases."""

    def __init__(self) -> None:
        self.drives: dict[str, Drive] = {}
        self.connections: dict[str, list[apsw.Connection]] = {}

    def install(self) -> None:
        for name in REAL:
            setattr(os, name, getattr(self, f"_{name}", None) or getattr(self, "_" + _ALIASES[name]))
        for name in ("rename_flags", "sync_filesystem", "allocate"):
            setattr(syscalls, name, getattr(self, f"_{name}"))
        self._vfs = _Files(self)
        apsw.connection_hooks.append(self._connected)

    def drive_of(self, path: str) -> Drive | None:
        """The drive that holds this, if one of its processes asks."""
        process = PROCESS.get()
        drive = None if process is None else self.drives.get(process.node)
        return drive if drive is not None and path.startswith(drive.base + "/") else None

    def holding(self, path: str) -> str | None:
        """The machine that has this on its drive, whoever asks."""
        return next((node for node, one in self.drives.items() if path.startswith(one.base + "/")), None)

    def close(self, node: str) -> None:
        """The kernel closes what a dead process had open. Its drive is off: closing changes nothing."""
        for connection in self.connections.pop(node, ()):
            connection.close(True)
        drive = self.drives[node]
        for name in sorted(set(os.listdir("/proc/self/fd")) - drive.own_descriptors()):
            try:
                path = _of(int(name))
            except FileNotFoundError:
                continue  # of the listing itself
            if path.startswith(drive.base + "/") and path.endswith("/lock"):
                os.close(int(name))

    def _connected(self, connection: apsw.Connection) -> None:
        node = self.holding(connection.filename)
        if node is not None:
            self.connections.setdefault(node, []).append(connection)

    # --- contents ---------------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        drive = self.drive_of(full := _full(path, dir_fd)) if flags & (os.O_CREAT | os.O_TRUNC) else None
        if drive is None:
            return int(REAL["open"](path, flags, mode, dir_fd=dir_fd))
        is_new = not os.path.lexists(full)
        drive.check()
        if flags & os.O_TRUNC and not is_new:
            before = REAL["open"](path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            drive.written(before)
            os.close(before)
        fd = int(REAL["open"](path, flags, mode, dir_fd=dir_fd))
        if is_new:
            drive.did(lambda: REAL["unlink"](full), os.path.dirname(full))
            drive.written(fd, is_new=True)
        return fd

    def _pwrite(self, fd: int, data: Any, offset: int, /) -> int:
        self._about_to_write(fd)
        return int(REAL["pwrite"](fd, data, offset))

    def _write(self, fd: int, data: Any, /) -> int:
        self._about_to_write(fd)
        return int(REAL["write"](fd, data))

    def _ftruncate(self, fd: int, length: int, /) -> None:
        self._about_to_write(fd, errno.ENOSPC)
        REAL["ftruncate"](fd, length)

    def _allocate(self, fd: int, offset: int, length: int, keep_size: bool) -> bool:
        self._about_to_write(fd)
        return _allocate(fd, offset, length, keep_size)

    def _about_to_write(self, fd: int, *unless: int) -> None:
        drive = self.drive_of(_of(fd))
        if drive is not None:
            drive.check(*unless)
            drive.written(fd)

    def _fsync(self, fd: int) -> None:
        drive = self.drive_of(path := _of(fd))
        if drive is not None:
            drive.check()
            if os.path.isdir(path):
                drive.names_synced(path)
            else:
                drive.content_synced(fd)

    _fdatasync = _fsync

    def _sync_filesystem(self, fd: int) -> None:
        drive = self.drive_of(_of(fd))
        if drive is not None:
            drive.check()
            drive.all_synced()

    # --- names ------------------------------------------------------------------------------------

    def _rename_flags(self, old: bytes, new: bytes, old_dir_fd: int, new_dir_fd: int, flags: int) -> None:
        one, other = _full(old, old_dir_fd), _full(new, new_dir_fd)
        drive = self.drive_of(other)
        if drive is None:
            _rename_flags(old, new, old_dir_fd, new_dir_fd, flags)
            return
        drive.check(errno.ENOSPC, name=True)
        _rename_flags(old, new, old_dir_fd, new_dir_fd, flags)
        back = os.fsencode(one), os.fsencode(other)
        drive.did(
            lambda: _rename_flags(back[1], back[0], -100, -100, flags),
            os.path.dirname(one), os.path.dirname(other),
        )  # fmt: skip

    def _rename(
        self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        one, other = _full(old, src_dir_fd), _full(new, dst_dir_fd)
        drive = self.drive_of(other)
        if drive is None:
            REAL["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return
        drive.check(errno.ENOSPC, name=True)
        kept = drive.aside(other) if os.path.lexists(other) and not os.path.isdir(other) else None
        REAL["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        def undo() -> None:
            REAL["rename"](other, one)
            if kept is not None:
                REAL["rename"](kept, other)

        drive.did(undo, os.path.dirname(one), os.path.dirname(other))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        drive = self.drive_of(full := _full(path, dir_fd))
        if drive is None or not os.path.lexists(full) or (os.path.isdir(full) and not os.path.islink(full)):
            REAL["unlink"](path, dir_fd=dir_fd)
            return
        drive.check(errno.ENOSPC, name=True)
        kept = drive.aside(full)
        REAL["unlink"](path, dir_fd=dir_fd)
        drive.did(lambda: REAL["rename"](kept, full), os.path.dirname(full))

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._made(lambda: REAL["mkdir"](path, mode, dir_fd=dir_fd), REAL["rmdir"], _full(path, dir_fd), True)

    def _symlink(
        self, source: Any, path: Any, target_is_directory: bool = False, *, dir_fd: int | None = None
    ) -> None:
        self._made(lambda: REAL["symlink"](source, path, dir_fd=dir_fd), REAL["unlink"], _full(path, dir_fd))

    def _link(
        self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:  # fmt: skip
        def make() -> None:
            REAL["link"](
                old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks
            )

        self._made(make, REAL["unlink"], _full(new, dst_dir_fd))

    def _made(
        self, make: Callable[[], None], undo: Callable[[str], None], full: str, directory: bool = False
    ) -> None:
        drive = self.drive_of(full)
        if drive is not None:
            drive.check(name=True)
        make()
        if drive is not None:
            drive.did(lambda: undo(full), os.path.dirname(full), *([full] if directory else []))

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        drive = self.drive_of(full := _full(path, dir_fd))
        mode = 0
        if drive is not None:
            drive.check(errno.ENOSPC, name=True)
            mode = os.stat(full).st_mode & 0o7777 if os.path.isdir(full) else 0
        REAL["rmdir"](path, dir_fd=dir_fd)
        if drive is not None:
            drive.did(lambda: REAL["mkdir"](full, mode), os.path.dirname(full))


_ALIASES: Final = {"replace": "rename", "remove": "unlink"}


def _of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _full(path: Any, dir_fd: int | None) -> str:
    name = os.fsdecode(path)
    return name if os.path.isabs(name) or dir_fd is None else f"{_of(dir_fd)}/{name}"


class _Files(apsw.VFS):
    """Every database of the process is opened through this one."""

    def __init__(self, taps: Taps) -> None:
        self._taps = taps
        super().__init__("drives", BASE_VFS, makedefault=True)
        schema.VFS = "drives"  # the coordinator names its own

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        node = self._taps.holding(path or "")
        if path is None or node is None:
            return apsw.VFSFile(BASE_VFS, name, flags)
        drive = self._taps.drives[node]
        if path not in drive.images:
            is_there = os.path.exists(path)
            content = bytearray(_read(path) if is_there else b"")
            drive.images[path] = Image(content, named=is_there)
        return _File(drive, path, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        node = self._taps.holding(name)
        if node is not None:
            drive = self._taps.drives[node]
            if drive.is_off:
                return
            drive.point()
            drive.images.pop(name, None)
            if not syncdir and os.path.exists(name):
                drive.deleted[name] = _read(name)
        super().xDelete(name, syncdir)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class _File(apsw.VFSFile):
    """One file of a database. When the drive is off, whoever cleans up changes nothing."""

    def __init__(self, drive: Drive, path: str, name: Any, flags: list[int]) -> None:
        self._drive, self._path = drive, path
        super().__init__(BASE_VFS, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._about(apsw.SQLITE_IOERR_WRITE):
            self._image.pending.append((offset, bytes(data)))
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self._about(apsw.SQLITE_IOERR_TRUNCATE):
            self._image.pending.append((newsize, None))
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        if self._about(apsw.SQLITE_IOERR_FSYNC):
            self._drive.database_synced(self._path)

    @property
    def _image(self) -> Image:
        return self._drive.images[self._path]

    def _about(self, code: int) -> bool:
        """Whether the call goes on. Raises what it fails with."""
        if self._drive.is_off:
            return False
        self._drive.point()
        number = self._drive.failing()
        if number is None:
            return True
        if number == errno.ENOSPC and code == apsw.SQLITE_IOERR_WRITE:
            raise apsw.FullError("the disk is full")
        error: Any = apsw.IOError("the disk fails")
        error.extendedresult = code
        raise error
