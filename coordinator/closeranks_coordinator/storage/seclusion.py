"""The coordinator's state is for its owner alone: directory 0700, files 0600.

A new database would get whatever the umask leaves, which is readable for everybody: names of files, who wrote them,
every incident. So it is made before SQLite opens it, which gives its log the mode of the file, and what an earlier
version left open is closed at start. A directory that its owner has opened to a group, and to nobody else, is a choice
and stays readable for that group (0750). Writing is for the owner alone: whoever may write there can lift a fence.

Rejected: the process's umask, which hooks would inherit.
The agent has the same of its own, as neither side imports the other and `proto` touches no files.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger("closeranks.store")

OURS = ("lock", "reserve", "*.sqlite", "*.sqlite-wal", "*.sqlite-shm", "*.sqlite-journal")
_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700


def close_to_others(state_dir: Path) -> None:
    """Bring the directory and what we keep in it to the modes they should have. What is not ours to change is told."""
    mode = stat.S_IMODE(state_dir.stat().st_mode)
    of_a_group = not mode & 0o007
    wanted = mode & ~0o027 if of_a_group else (mode & 0o7000) | _DIRECTORY_MODE
    if mode != wanted and _is_shared(state_dir, mode):
        log.warning(
            "%s is open to others (mode %04o), and stays so: it has more in it than what is ours. Name a directory of "
            "its own as state_dir",
            state_dir,
            mode,
        )
    elif mode != wanted:
        _change(state_dir, mode, wanted)
    for pattern in OURS:
        for file in sorted(state_dir.glob(pattern)):
            found = file.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                _change(file, stat.S_IMODE(found.st_mode), _FILE_MODE)


def _is_shared(state_dir: Path, mode: int) -> bool:
    """Whether it is a place like /tmp or /srv, where others have theirs, too: we make no directory in it."""
    return bool(mode & stat.S_ISVTX) or any(
        one.is_dir(follow_symlinks=False) for one in os.scandir(state_dir) if one.name != "lost+found"
    )


def make(file: Path) -> None:
    """An empty file for its owner alone, unless there is one."""
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    except FileExistsError:
        return  # `close_to_others` has seen to it


def _change(path: Path, mode: int, wanted: int) -> None:
    try:
        path.chmod(wanted)
    except OSError as error:
        log.warning("%s is open to others (mode %04o) and can not be closed: %s", path, mode, error)
    else:
        log.info("%s was open to others (mode %04o); it has mode %04o now", path, mode, wanted)
