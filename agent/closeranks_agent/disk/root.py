"""The volume's root directory: opened, and proved to be the one that the index was made from.

A filesystem that is not mounted shows an empty or another directory. Taking that for deletions would spread
them, so a root that changed its identity, or that is empty while the index is not, is a problem and nothing
else happens. An index without entries proves nothing, and any directory will do for it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from closeranks_proto.messages import Problem
from closeranks_proto.paths import escape

from .index import Index
from .private import PRIVATE_NAME, Identity, ensure_private
from .records import VolumeGone, problem_of

_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def index_path(state_dir: str | os.PathLike[str], volume: str) -> Path:
    """Where the index of a volume is kept."""
    return Path(state_dir) / f"volume-{volume}.sqlite"


@dataclass(frozen=True, slots=True)
class VolumeRoot:
    """Where volume `name` lies, and which file an operator removes to found it anew.

    `private_dir` None means the root's own `.closeranks`.
    """

    name: str
    path: bytes
    index_path: Path
    private_dir: bytes | None

    @property
    def private(self) -> bytes:
        """Where the private directory is."""
        return self.private_dir or self.path + b"/" + PRIVATE_NAME

    def ensure_private(self, index: Index | None) -> None:
        """Make or find the private directory. Raises UserError, OSError, VolumeGone."""
        fd = self.open(index)
        try:
            ensure_private(fd, self.path, self.private_dir, self.name)
        finally:
            os.close(fd)

    def glance(self) -> int:
        """A descriptor of whatever is there, without a question to an index that may be locked while a disk writes.

        For who asks for sizes and believes nothing. Raises OSError.
        """
        return os.open(self.path, _FLAGS)

    def open(self, index: Index | None) -> int:
        """A descriptor of the root. Raises VolumeGone where it can not be opened or is not that of `index`."""
        try:
            fd = os.open(self.path, _FLAGS)
        except OSError as error:
            raise VolumeGone(self._not_opened(error)) from error
        try:
            problem = None if index is None or index.is_empty() else self._mismatch(fd, index)
        except OSError as error:
            os.close(fd)
            what = f"{escape(self.path)} can not be read"
            raise VolumeGone(problem_of(error, what)) from error
        except BaseException:
            os.close(fd)
            raise
        if problem is not None:
            os.close(fd)
            raise VolumeGone(problem)
        return fd

    def _not_opened(self, error: OSError) -> Problem:
        shown = escape(self.path)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return Problem(
                "not_mounted", f"{shown} is not a directory. Give its real path, without symbolic links."
            )
        return problem_of(error, f"{shown} can not be opened")

    def _mismatch(self, fd: int, index: Index) -> Problem | None:
        stored = index.meta("identity")
        if isinstance(stored, dict) and not Identity(**stored).is_of(Identity.of(fd)):
            return self._gone(
                f"is not the directory that volume {self.name} was read from: its device or inode changed",
                f"it was replaced on purpose, stop the agent, remove {self.index_path} and start it again",
            )
        with os.scandir(fd) as entries:
            if any(entry.name != os.fsdecode(PRIVATE_NAME) for entry in entries):
                return None
        return self._gone(
            f"is empty, but volume {self.name} had files when it was last read",
            "all was deleted, make a file in it: then it counts as deleted, and is let through or brought back",
        )

    def _gone(self, what: str, otherwise: str) -> Problem:
        return Problem(
            "not_mounted",
            f"{escape(self.path)} {what}. Nothing is written. Mount the filesystem that belongs there; if {otherwise}.",
        )
