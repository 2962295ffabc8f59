"""The database file: its tables, its settings, and whether it is ours.

One file, `coordinator.sqlite`. `user_version` is the format; a program that finds another one says so and
touches nothing. The fleet's digest stands inside, because a tree made with another one means nothing here.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from closeranks_proto.errors import UserError

from .seclusion import make

DATABASE_NAME = "coordinator.sqlite"
SCHEMA_VERSION = 1
BUSY_WAIT_MS = 10_000
# What SQLite's connections share is kept in memory, and the lock is the process's. As a mapped file, which even those
# who only read write to, it stopped the event loop for as long as the disk of the state directory stood still.
VFS = "unix-excl"
APPLICATION_ID = 0x636C7273  # "clrs"

SELECT_BODY = "SELECT bodies.body FROM objects JOIN bodies ON bodies.id = objects.body WHERE digest = ?"

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE objects (digest BLOB PRIMARY KEY, body INTEGER NOT NULL, bytes INTEGER NOT NULL,
    epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE node_roots (node TEXT NOT NULL, volume TEXT NOT NULL, agent_id TEXT NOT NULL,
    seq INTEGER NOT NULL, root BLOB NOT NULL, PRIMARY KEY (node, volume)) WITHOUT ROWID;
CREATE TABLE root_history (id INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, volume TEXT NOT NULL,
    seq INTEGER NOT NULL, root BLOB NOT NULL, wall_ms INTEGER NOT NULL);
CREATE INDEX root_history_by_node ON root_history (node, volume, id);
CREATE TABLE events (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, wall_ms INTEGER NOT NULL);
"""


def connect(path: Path, *, read_only: bool = False, look_only: bool = False) -> apsw.Connection:
    """A connection with the settings that the store's promises rest on. Raises apsw.Error.

    `look_only`: for a process that is not the coordinator; it creates nothing, and its end leaves the log as it is.
    """
    read_only = read_only or look_only
    # A file that is opened for reading alone takes no lock for the process, and is shared by a mapped file again.
    flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
    connection = apsw.Connection(str(path), flags=flags, vfs=VFS)
    connection.set_busy_timeout(0 if look_only else BUSY_WAIT_MS)
    # One statement a call: what follows one that gives a row would not run until that row was taken.
    for setting in ("mmap_size = 0", "temp_store = MEMORY", "cache_size = -4096"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    if look_only:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    else:
        if not path.stat().st_size:
            # Only a new file takes these: pages can be given back to the file system bit by bit.
            connection.execute("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL")
        limit = f"journal_size_limit = {16 * 1024 * 1024}"
        for setting in ("journal_mode = WAL", "synchronous = FULL", limit, "wal_autocheckpoint = 1000"):
            connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


def prepare(path: Path, digest: str) -> int:
    """Make or check the schema; the epoch that begins with this start."""
    make(path)
    connection = connect(path)
    try:
        if is_new(connection):
            with connection:
                connection.execute(_SCHEMA)
                connection.execute("INSERT INTO meta VALUES ('digest', ?)", (digest.encode(),))
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", SCHEMA_VERSION)
        judge(connection, path, digest)
        epoch = int(connection.execute("SELECT value FROM meta WHERE name = 'epoch'").get or b"0") + 1
        try:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (str(epoch).encode(),))
        except apsw.FullError:
            return epoch - 1  # a full disk must not keep us from starting: the last run's epoch goes on
        return epoch
    finally:
        connection.close()


def is_new(connection: apsw.Connection) -> bool:
    """Nothing was ever written to it."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    return bool(connection.pragma("user_version") == 0 and tables == 0)


def judge(connection: apsw.Connection, path: Path, digest: str) -> None:
    """Raises UserError where it is not ours, of another format, or of trees with another digest."""
    version = connection.pragma("user_version")
    if connection.pragma("application_id") != APPLICATION_ID:
        raise UserError(f"{path} is not a database of the closeranks coordinator; give another state_dir")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has format {version}; this program reads format {SCHEMA_VERSION}. "
            "Run the version of closeranks that wrote it, or give a new state_dir: "
            "the agents send everything again"
        )
    stored = bytes(connection.execute("SELECT value FROM meta WHERE name = 'digest'").get).decode()
    if stored != digest:
        raise UserError(
            f"{path} holds trees made with the digest {stored}, while fleet.digest is {digest}. "
            f'Set digest = "{stored}", or give a new state_dir: the agents send everything again'
        )


def damaged(path: Path, detail: object) -> UserError:
    """What a person can do about it."""
    return UserError(
        f"{path} is damaged ({detail}), and it holds the truth, the fences and the incidents. Restore it from a "
        "backup. Without one, move it away and start again: the truth is founded anew by what the nodes have, and "
        "fences are taken over from the agents; incidents, baselines, conflicts and holds are gone"
    )
