"""What a source of changes says: that a name in a directory may have changed, or that it can not know.

Events are hints, never facts: whoever gets one looks at the disk. So events of one name may be merged, may
tell of what is over already, and their order carries no meaning, with one exception. The canary is reported
after everything that the kernel queued before it: who touched it and sees it has seen all that was written until
then. Rejected: passing content of events on (old and new name as a pair), which would have to be right.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

# The directory of canary events. No key contains a slash, so nothing in a volume can pass for it.
CANARY: Final = b"/canary"
CANARY_NAME: Final = b"canary"
ROOT_GONE: Final = "the volume's root was moved, removed or unmounted"
SourceKind = Literal["fanotify", "inotify"]


class What(enum.Flag):
    """What may have happened to a name. Several at once where events were merged."""

    CREATED = 1
    DELETED = 2
    MOVED_FROM = 4
    MOVED_TO = 8
    MODIFIED = 16
    CLOSED = 32  # closed after it was open for writing
    ATTRIBUTES = 64
    DIRECTORY = 128  # the subject is a directory
    SELF = 256  # the subject is the volume's root itself


class Event(NamedTuple):
    """The name `name` in the directory with key `directory` (b"": the root) should be looked at.

    A directory that was CREATED or MOVED_TO stands for everything below it. SELF (with name b"") comes for the
    root only: it was moved, removed or unmounted, and this source will not tell of its successor: open another.
    For the canary, `directory` is CANARY and `name` what follows "canary" in the file's name. A tuple, since a frozen
    dataclass takes three times as long to make, and storms make hundreds of thousands.
    """

    directory: bytes
    name: bytes
    what: What
    pid: int  # 0: unknown


@dataclass(frozen=True, slots=True)
class Lost:
    """Changes may have been missed: below the directory with key `below`, or anywhere where that is None."""

    reason: str
    below: bytes | None


class SourceBroken(Exception):
    """The kernel object gave what can not be understood or stopped working: close the source, open another."""
