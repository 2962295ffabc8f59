"""A process that writes much, as a program of its own: `unpack.py SHAPE AMOUNT PLACE`.

`files`: so many files of 30 KB, or of as many bytes as a fourth word says, with mode and mtime, a hundred in a
directory. `database`: so many transactions of SQLite, each of a row changed and a row added.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

FILE_BYTES, PER_DIRECTORY = 30_000, 100
ROWS = 1000


def files(place: Path, count: int, size: int = FILE_BYTES) -> None:
    block = os.urandom(size)
    directory = b""
    for number in range(count):
        if number % PER_DIRECTORY == 0:
            directory = b"%s/%04d" % (os.fsencode(place), number // PER_DIRECTORY)
            os.mkdir(directory)
        fd = os.open(b"%s/%06d" % (directory, number), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        os.write(fd, block)
        os.fchmod(fd, 0o644)
        os.utime(fd, (1e9, 1e9))
        os.close(fd)


def database(place: Path, count: int) -> None:
    base = sqlite3.connect(place / "base.sqlite", isolation_level=None)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA synchronous = NORMAL")
    base.execute("CREATE TABLE changed (id INTEGER PRIMARY KEY, value TEXT)")
    base.execute("CREATE TABLE added (id INTEGER PRIMARY KEY, value TEXT)")
    base.executemany("INSERT INTO changed VALUES (?, ?)", [(row, "x" * 200) for row in range(ROWS)])
    for number in range(count):
        base.execute("BEGIN")
        base.execute("UPDATE changed SET value = ? WHERE id = ?", (f"{number:0200}", number % ROWS))
        base.execute("INSERT INTO added (value) VALUES (?)", (f"{number:0100}",))
        base.execute("COMMIT")
    base.close()


def main() -> None:
    shape, amount, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    place.mkdir(exist_ok=True)
    if shape == "files":
        files(place, amount, *map(int, sys.argv[4:]))
    else:
        database(place, amount)


if __name__ == "__main__":
    main()
