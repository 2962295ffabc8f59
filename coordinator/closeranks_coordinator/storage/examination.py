"""Would a coordinator start with the store that is there? Asked by `closeranks doctor`, beside whatever runs.

It is looked at only where no process has the state directory, without creating, writing or carrying over anything:
the same settings as the coordinator's own (so no shared-memory file is made), queries only, and the log left as it is
at the end. A coordinator that starts meanwhile waits for us, as for any lock of SQLite. Pages that no query of a start
comes by are gone through as well, for a few seconds: damage there is found when it is needed most.

Rejected: `immutable`, which leaves out what stands in the log alone, and takes a file for damaged that a crash left so.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw

from closeranks_proto.errors import UserError

from .schema import DATABASE_NAME, connect, damaged, is_new, judge

CHECK_S = 5.0  # for pages nobody asks for; some 2 GB from memory
OPCODES = 20_000  # of SQLite's machine between two looks at the clock: under a millisecond


@dataclass(frozen=True, slots=True)
class Examined:
    """`broken`: a coordinator does not start with it. `unknown`: this user can not look."""

    verdict: Literal["sound", "broken", "unknown"]
    text: str


def examine_store(state_dir: Path, digest: str) -> Examined:
    """What can be said of the store in `state_dir` for a fleet of this digest."""
    path = state_dir / DATABASE_NAME
    try:
        path.stat()
        holder = _holder(state_dir / "lock")
        if holder is not None:
            return Examined("sound", f"{path} is in use by a running coordinator{holder}")
        return Examined("sound", _look(path, digest))
    except FileNotFoundError:
        return Examined("sound", f"{path} does not exist yet: a first start makes it")
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return Examined("broken", str(damaged(path, error)))
    except UserError as error:
        return Examined("broken", str(error))
    except apsw.BusyError:
        return Examined("sound", f"{path} is in use by a coordinator that has just started")
    except (apsw.Error, OSError) as error:
        return Examined("unknown", f"{path}: {error}")


def _holder(lock: Path) -> str | None:
    """Who has the state directory, as words to append; None: nobody. The lock is taken for this moment only."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return f" (process {pid})" if pid.isdigit() else ""
    finally:
        os.close(fd)
    return None


def _look(path: Path, digest: str) -> str:
    connection = connect(path, look_only=True)
    try:
        if is_new(connection):
            return f"{path} is empty: a first start fills it"
        judge(connection, path, digest)
        nodes = connection.execute("SELECT count(*) FROM node_roots").get
        whole = _check(connection, path)
    finally:
        connection.close()
    extent = "" if whole else f"; not all of it was read within {CHECK_S:g} s"
    return f"{path} can be read, and has {nodes} trees of nodes{extent}"


def _check(connection: apsw.Connection, path: Path) -> bool:
    """Whether all pages were gone through. Raises UserError where one is damaged."""
    ends = time.monotonic() + CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > ends, OPCODES)
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").get)
    except apsw.InterruptError:
        return False
    finally:
        connection.set_progress_handler(None)
    if found != "ok":
        raise damaged(path, found.splitlines()[-1])
    return True
