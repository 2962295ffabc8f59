"""One SQLite database that belongs to this process alone: opened, written in transactions, its errors named.

One connection behind one lock, in WAL mode with `locking_mode = EXCLUSIVE`: there is no shared-memory file,
so a full disk can still be read from, and no second process can write. A transaction is durable when it
returns (`synchronous = FULL`), unless it is said to be repeatable: then power loss may take it back, but
never a part of it, and never one that a durable one built on.

What the world does to the file (full, read-only, failing) comes out as StateUnavailable with the problem in
words. A file that is no database or is damaged raises Damaged: its owner decides.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from closeranks_proto.errors import CloseranksError
from closeranks_proto.messages import Problem

from . import seclusion
from .records import StateUnavailable

log = logging.getLogger("closeranks.volume")

Value = None | int | float | str | bytes
Row = tuple[Value, ...]

CACHE_KIB = 2048
TEMPORARY_CACHE_KIB = 64 * 1024  # beyond it, a file without a name
WAL_KEEP_BYTES = 8 * 1024 * 1024
# The log is carried into the file, with two syncs, at so many pages of 4 KiB: SQLite's own number, and 32 MiB.
CHECKPOINT_PAGES, MASS_CHECKPOINT_PAGES = 1000, 8192


class Damaged(CloseranksError):
    """The file is not a database, or a damaged one."""


class Database:
    """A file with a schema of `version`; a file of another version counts as damaged. None: one that nobody keeps.

    `upgrades` lead from older versions to the next one, each in statements.
    """

    def __init__(
        self, path: Path | None, schema: str, version: int, upgrades: Mapping[int, str] | None = None
    ) -> None:
        self.kept = path is not None
        self.path = _temporary_directory() / "(temporary)" if path is None else path
        self._lock = threading.RLock()
        self._durable = True
        with self._named_errors():
            if path is not None:
                _claim(path)
            self._connection = apsw.Connection("" if path is None else str(path))
            try:
                self._prepare(schema, version, upgrades or {})
            except BaseException:
                self._connection.close(True)
                raise

    def _prepare(self, schema: str, version: int, upgrades: Mapping[int, str]) -> None:
        connection = self._connection
        connection.set_busy_timeout(2000)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA journal_mode = {'WAL' if self.kept else 'OFF'}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.kept else 'OFF'}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB if self.kept else TEMPORARY_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEEP_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        found = connection.pragma("user_version")
        while found in upgrades:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(upgrades[found])
            found += 1
            connection.execute(f"PRAGMA user_version = {found}")
            connection.execute("COMMIT")
        if found not in (0, version):
            raise Damaged(f"{self.path} was written by another version of closeranks (format {found})")
        if found == 0:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(schema)
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close(True)

    @property
    def lock(self) -> threading.RLock:
        """Held by every call; hold it to make several reads one."""
        return self._lock

    def rows(self, statement: str, bindings: Sequence[Value] = ()) -> list[Row]:
        with self._lock, self._named_errors():
            return self._connection.execute(statement, tuple(bindings)).fetchall()

    def row(self, statement: str, bindings: Sequence[Value] = ()) -> Row | None:
        found = self.rows(statement, bindings)
        return found[0] if found else None

    def execute(self, statement: str, bindings: Sequence[Value] = ()) -> None:
        """Inside a transaction."""
        assert self._connection.in_transaction
        self._connection.execute(statement, tuple(bindings))

    def execute_many(self, statement: str, bindings: Iterable[tuple[Value, ...]]) -> None:
        """Inside a transaction."""
        assert self._connection.in_transaction
        self._connection.executemany(statement, bindings)

    def fill_blob(self, table: str, column: str, rowid: int, content: bytes | bytearray) -> None:
        """Write a blob of that length, which is there already, without another copy. Inside a transaction."""
        assert self._connection.in_transaction
        with self._connection.blob_open("main", table, column, rowid, True) as blob:
            blob.write(content)

    def reserve(self, size_bytes: int) -> None:
        """Take room on the disk that later small transactions use again, even when it is full by then."""
        with self.transaction():
            self._connection.execute("CREATE TABLE IF NOT EXISTS reserve (ballast BLOB)")
            self._connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (size_bytes,))
        with self.transaction():
            self._connection.execute("DROP TABLE reserve")
        # Now file and log have their length; the log begins anew without being cut.
        with self._lock, self._named_errors():
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)

    def gather(self, mass: bool) -> None:
        """During a mass change the log may grow: its pages come again and again, and each sync holds the change up."""
        with self._lock, self._named_errors():
            self._connection.wal_autocheckpoint(MASS_CHECKPOINT_PAGES if mass else CHECKPOINT_PAGES)

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[None]:
        """Everything within, or nothing. Raises StateUnavailable when it could not be written."""
        with self._lock, self._named_errors():
            if durable is not self._durable and self.kept:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise Damaged(f"{self.path} is damaged: {error}") from error
        except apsw.FullError as error:
            raise StateUnavailable(self._full()) from error
        except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
            text = f"{self.path} can not be written: {error}. Mount the state directory read-write."
            raise StateUnavailable(Problem("read_only", text)) from error
        except apsw.ConnectionClosedError as error:
            raise StateUnavailable(Problem("io_error", f"{self.path} was closed")) from error
        except (apsw.IOError, apsw.CantOpenError, apsw.BusyError, apsw.LockedError) as error:
            if _free_bytes(self.path) == 0:
                raise StateUnavailable(self._full()) from error
            text = f"{self.path} can not be used: {error}. Look at the state directory's disk and owner."
            raise StateUnavailable(Problem("io_error", text)) from error

    def _full(self) -> Problem:
        text = (
            f"The disk with {self.path.parent} is full: what this node saw can not be recorded. "
            "Free some room there; the agent tries again by itself."
        )
        return Problem("no_space", text, free_bytes=_free_bytes(self.path))


def _claim(path: Path) -> None:
    """Make it for its owner alone; why that is not possible SQLite says in the words of `_named_errors`."""
    try:
        seclusion.make(path)
    except OSError as error:
        log.debug("%s can not be made: %s", path, error)


def _temporary_directory() -> Path:
    """Where SQLite puts a file without a name, by its own rules."""
    wanted = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")
    return Path(next((place for place in wanted if place and os.access(place, os.W_OK | os.X_OK)), "."))


def _free_bytes(path: Path) -> int | None:
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
