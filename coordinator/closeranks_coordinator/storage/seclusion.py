"""The coordinator's state is for its owner alone: directory 0700, files 0600.

A new database would get whatever the umask leaves, which is readable for everybody: names of files, who wrote them,
every incident. So it is made before SQLite opens it, which gives its log the mode of the file, and what an earlier
version left open is closed at start. A directory that its owner has opened to a group, and to nobody else, is a choice
and stays readable for that group (0750). Writing is for the owner alone: whoever may write there can lift a fence.

Whatever is changed is held by a descriptor from the look to the change: where a directory was open to others, they may
have put a link to another file there in between. O_PATH, since closing any other descriptor of a database would drop
the locks that SQLite holds on it.

Rejected: the process's umask, which hooks would inherit; a look and a change that both go by the name.
The agent has the same of its own, as neither side imports the other and `proto` touches no files.
"""

from __future__ import annotations

import logging
import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path

log = logging.getLogger("closeranks.store")

OURS = ("lock", "reserve", "*.sqlite", "*.sqlite-wal", "*.sqlite-shm", "*.sqlite-journal")
_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700


def close_to_others(state_dir: Path) -> None:
    """Bring the directory and what we keep in it to the modes they should have. What is not ours to change is told."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(directory).st_mode)
        of_a_group = not mode & 0o007
        wanted = mode & ~0o027 if of_a_group else (mode & 0o7000) | _DIRECTORY_MODE
        if mode != wanted and _is_shared(directory, mode):
            log.warning(
                "%s is open to others (mode %04o), and stays so: it has more in it than what is ours. Name a directory "
                "of its own as state_dir",
                state_dir,
                mode,
            )
        elif mode != wanted:
            _change(directory, state_dir, mode, wanted)
        for name in _ours(directory, state_dir):
            _close_file(directory, name, state_dir / name)
    finally:
        os.close(directory)


def _is_shared(directory: int, mode: int) -> bool:
    """Whether it is a place like /tmp or /srv, where others have theirs, too: we make no directory in it."""
    with os.scandir(_held(directory)) as found:
        return bool(mode & stat.S_ISVTX) or any(
            one.is_dir(follow_symlinks=False) for one in found if one.name != "lost+found"
        )


def _ours(directory: int, shown: Path) -> list[str]:
    try:
        names = os.listdir(_held(directory))
    except PermissionError as error:
        log.warning("%s can not be listed, so nothing in it is closed to others: %s", shown, error.strerror)
        return []
    return sorted(name for name in names if any(fnmatchcase(name, one) for one in OURS))


def _close_file(directory: int, name: str, shown: Path) -> None:
    try:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
            _change(file, shown, stat.S_IMODE(found.st_mode), _FILE_MODE)
    finally:
        os.close(file)


def make(file: Path) -> None:
    """An empty file for its owner alone, unless there is one."""
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    except FileExistsError:
        return  # `close_to_others` has seen to it


def _change(held: int, shown: Path, mode: int, wanted: int) -> None:
    try:
        os.chmod(_held(held), wanted)
    except OSError as error:
        log.warning("%s is open to others (mode %04o) and can not be closed: %s", shown, mode, error.strerror)
    else:
        log.info("%s was open to others (mode %04o); it has mode %04o now", shown, mode, wanted)


def _held(descriptor: int) -> str:
    """A path to what this descriptor holds, whatever its name leads to by now."""
    return f"/proc/self/fd/{descriptor}"
