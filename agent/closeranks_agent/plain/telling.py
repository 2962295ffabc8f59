"""What both commands say of a tree on standard error."""

from __future__ import annotations

from closeranks_proto.paths import escape, path_of

from .commands import say
from .snapshot import Snapshot


def counted(count: int, what: str) -> str:
    """Like `1 path`, `2 paths`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def tell_never_compared(path: bytes, snapshot: Snapshot) -> None:
    """A whole filesystem that is no part of the root, or one special file, must not be missed in silence."""
    mounts = [one for one in snapshot.never_compared if one.why == "other_filesystem"]
    for one in mounts:
        say(f"{escape(path)}: {escape(path_of(one.key))} is another filesystem, and no part of the root")
    others = snapshot.findings.never_compared - len(mounts)
    if others:
        are = "is" if others == 1 else "are"
        say(
            f"{escape(path)}: {counted(others, 'special file')} (device, socket, fifo) {are} no part of the root"
        )
