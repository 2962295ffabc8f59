"""Knowing that nobody writes to a file for a moment: a read lease of the kernel.

A file's ctime tells of every change, but ticks slowly: what somebody writes in the tick in which we renamed the
file, with its mtime set back afterwards, leaves the very stat that we see. So the lease is taken while the file
still lies in the stage, and kept until that tick is over. Who opens the file to write, or cuts it off, breaks the
lease, which we see, and waits until we let go: some hundredths of a second.

Where there are no leases (network filesystems, an agent that may not take one) nothing is claimed.
"""

from __future__ import annotations

import fcntl
import signal

_F_SETSIG = 10  # on every architecture; Python does not name it


def take(fd: int) -> bool:
    """Lease a file that is open for reading; False where somebody has it open to write, or this can not be had.

    The kernel tells its holder by a signal, by default one that ends processes: ours is one that is ignored.
    """
    try:
        fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    return True


def is_unbroken(fd: int) -> bool:
    """Whether nobody has opened the file to write since it was leased."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK
    except OSError:
        return False
