"""One step at work: what it takes, and how it ended.

The world's errors become results of their step, in words for an operator; only what stops every step is raised: a disk
that fails, is mounted read-only, or is gone.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import Enum, auto

from .. import beneath
from .items import Discard
from .plan import Step

FATAL_ERRNOS = frozenset({errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EUCLEAN})
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


class Outcome(Enum):
    """How a step may end."""

    DONE = auto()
    CHANGED = auto()  # the path is not what the plan saw: plan it again
    STALE = auto()  # the tree's shape is not what the index says: scan, then plan again
    WAITS = auto()  # for other steps below the same directory
    HEIRLESS = auto()  # its content is to be at another path first, and is not there
    OVER = auto()  # the push that asked for it is not good any more
    UNLIKE = auto()  # made, but what lies there now is not what it was to be
    BLOCKED = auto()  # can not be applied; `why` and `detail` say so
    NO_ROOM = auto()
    NO_SOURCE = auto()  # no healthy peer has the bytes
    TRASH_FULL = auto()


@dataclass(frozen=True, slots=True)
class Result:
    """How a step ended."""

    step: Step
    outcome: Outcome
    why: str = ""  # a word of messages.Unreadable
    detail: str = ""
    trashed: bool = False


@dataclass(slots=True)
class Work:
    """A step that may be made: what lies at its path now, and what of it goes to the trash, under which id."""

    step: Step
    status: os.stat_result | None
    discard: Discard | None = None
    item: bytes = b""


def failed(step: Step, error: OSError) -> Result:
    """The result of a step that the world refused; what stops every step is raised."""
    if error.errno in FATAL_ERRNOS:
        raise error
    if error.errno in FULL_ERRNOS:
        return Result(step, Outcome.NO_ROOM)
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return Result(step, Outcome.BLOCKED, "other_filesystem", "another filesystem is mounted there")
    if error.errno in beneath.DETOUR_ERRNOS:
        return Result(step, Outcome.STALE)
    text = os.strerror(error.errno) if error.errno else str(error)
    return Result(step, Outcome.BLOCKED, "unwritable", f"it could not be changed: {text}{_hint(error)}")


def _hint(error: OSError) -> str:
    """What most often stands behind an operation that is not permitted."""
    if error.errno != errno.EPERM:
        return ""
    if os.geteuid() != 0:
        return "; the agent does not run as root, and only root gives files to other owners or changes those of others"
    return "; `lsattr` tells whether it was made immutable"
