"""What must be true right after a daemon died, before anything has repaired anything.

Nothing of closeranks is imported: contents are read by a plain walk, databases by Python's own sqlite3. The names
of tables and facts are those that the two programs keep on disk.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

PRIVATE = b".closeranks"


def contents(root: Path, aside_since_ns: int | None = None) -> set[str]:
    """Digests of all files below, and the targets of all symlinks; of what was set aside, only if it was since then.

    A rename changes a file's ctime, so it tells when something came into the trash.
    """
    found: set[str] = set()
    top = os.fsencode(root)
    private = os.path.join(top, PRIVATE, b"")
    for place, directories, names in os.walk(top):
        if aside_since_ns is None and PRIVATE in directories:
            directories.remove(PRIVATE)
        for name in (*directories, *names):
            path = os.path.join(place, name)
            if path.startswith(private) and os.lstat(path).st_ctime_ns < (aside_since_ns or 0):
                continue
            if os.path.islink(path):
                found.add("link " + os.fsdecode(os.readlink(path)))
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


@contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the database with its logs, as the next start will find them. The original stays untouched.

    A database that is just being made has no WAL yet but a rollback journal.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / database.name
        for suffix in ("", "-wal", "-journal"):
            source = database.with_name(database.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        with closing(sqlite3.connect(copy)) as connection:
            yield connection


def databases(state_dir: Path) -> list[Path]:
    return sorted(
        path for path in state_dir.rglob("*.sqlite*") if not path.name.endswith(("-wal", "-shm", "-journal"))
    )


def damaged_databases(state_dir: Path) -> list[str]:
    """What SQLite's own check finds wrong in any database below."""
    found: list[str] = []
    for path in databases(state_dir):
        with opened(path) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                found.append(f"{path.name}: {verdict}")
    return found


def shape(root: Path) -> dict[str, str]:
    """Every path below but what was set aside: the digest of a file, "dir", or a link's target."""
    found: dict[str, str] = {}
    top = os.fsencode(root)
    for place, directories, names in os.walk(top):
        if PRIVATE in directories:
            directories.remove(PRIVATE)
        for name in (*directories, *names):
            path = os.path.join(place, name)
            key = os.fsdecode(os.path.relpath(path, top))
            if os.path.islink(path):
                found[key] = "link " + os.fsdecode(os.readlink(path))
            elif os.path.isdir(path):
                found[key] = "dir"
            else:
                with open(path, "rb") as file:
                    found[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def strangers(root: Path, *allowed: dict[str, str]) -> dict[str, str | None]:
    """Paths that hold what none of these shapes has there: a part of a file, a renamed empty one, or nothing.

    Nothing may be where one of the shapes has nothing, or another kind: a directory gives way in two steps.
    """
    now = shape(root)
    wrong: dict[str, str | None] = {}
    for path in sorted(set().union(now, *allowed)):
        values = {each.get(path) for each in allowed}
        if len({_kind(value) for value in values}) > 1:
            values.add(None)
        if now.get(path) not in values:
            wrong[path] = now.get(path)
    return wrong


def _kind(value: str | None) -> str:
    return "none" if value is None else value.split()[0] if value.startswith(("dir", "link ")) else "file"


def sync_filesystem(path: Path) -> None:
    """syncfs of the filesystem that holds `path`, and of no other."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


# --- what the two sides promised each other --------------------------------------------------------


def highest_token(agent_state: Path) -> int:
    """The highest fence token that an agent has on disk."""
    with opened(agent_state / "agent.sqlite") as connection:
        found = connection.execute("SELECT value FROM facts WHERE name = 'highest_token'").fetchone()
    return 0 if found is None else msgspec.msgpack.decode(found[0], type=int)


def journal_of(agent_state: Path, volume: str = "photos") -> tuple[int, int]:
    """(acknowledged, last): the highest step that the agent no longer keeps, and the last one that it numbered."""
    with opened(agent_state / f"volume-{volume}.sqlite") as connection:
        (first,) = connection.execute("SELECT min(seq) FROM journal").fetchone()
        found = connection.execute("SELECT value FROM meta WHERE name = 'last_seq'").fetchone()
    last = int(found[0]) if found else 0
    return (last if first is None else first - 1), last


def recorded(coordinator_state: Path, volume: str = "photos") -> dict[str, int]:
    """By node, the last step that the coordinator has on disk."""
    with opened(coordinator_state / "coordinator.sqlite") as connection:
        rows = connection.execute("SELECT node, seq FROM node_roots WHERE volume = ?", (volume,)).fetchall()
    return dict(rows)
