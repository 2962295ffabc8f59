"""Where converge works: descriptors of the volume's root, of the stage and of the trash.

They are open for as long as they are used and no longer, so that an idle agent never keeps a filesystem
busy. All lie on one filesystem, or nothing is opened: else no rename could be atomic.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from closeranks_proto.messages import Problem

from ..disk.private import STAGE_NAME, TRASH_NAME, open_private
from ..disk.records import VolumeGone
from ..disk.taken import Taken
from ..disk.volume import Volume

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ITEMS_NAME = b"items"


@dataclass(frozen=True, slots=True)
class Workroom:
    """`items_fd` is the trash's directory of items: one file for each, named by its id. `taken` counts the stage."""

    root_fd: int
    stage_fd: int
    trash_fd: int
    items_fd: int
    taken: Taken

    def close(self) -> None:
        for fd in (self.root_fd, self.stage_fd, self.trash_fd, self.items_fd):
            os.close(fd)


def open_workroom(volume: Volume) -> Workroom:
    """Open everything, making what is missing below the private directory. Raises VolumeGone and OSError."""
    fds = [volume.open_root()]
    try:
        top = open_private(volume.private)
        try:
            if os.fstat(fds[0]).st_dev != os.fstat(top).st_dev:
                raise VolumeGone(_elsewhere(volume))
            fds.append(_open_made(STAGE_NAME, top))
            fds.append(_open_made(TRASH_NAME, top))
        finally:
            os.close(top)
        fds.append(_open_made(ITEMS_NAME, fds[2]))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return Workroom(fds[0], fds[1], fds[2], fds[3], volume.taken)


def _elsewhere(volume: Volume) -> Problem:
    private, path = os.fsdecode(volume.private), os.fsdecode(volume.path)
    return Problem(
        "private_dir",
        f"{private} is on another filesystem than {path}: files could not be moved there and back in one "
        "step. Name a private_dir on the volume's filesystem.",
    )


def _open_made(name: bytes, parent_fd: int) -> int:
    try:
        return os.open(name, _FLAGS, dir_fd=parent_fd)
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        os.fsync(parent_fd)
        return os.open(name, _FLAGS, dir_fd=parent_fd)
