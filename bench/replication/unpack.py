"""A process that writes much, as a program of its own: it says how long it took, and its own processor time.

`files`: as unpacking an archive does: files of 30 KB with mode and mtime, a hundred in a directory, a line in a log
for each. `large`: files of 10 MB in pieces of 64 KB.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

FILE_BYTES, PER_DIRECTORY = 30_000, 100
LARGE_BYTES, PIECE_BYTES = 10_485_760, 65_536


def unpack(place: Path, files: int) -> None:
    block = os.urandom(FILE_BYTES)
    log = os.open(place / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    directory = b""
    for number in range(files):
        if number % PER_DIRECTORY == 0:
            directory = b"%s/%04d" % (os.fsencode(place), number // PER_DIRECTORY)
            os.mkdir(directory)
        path = b"%s/%06d" % (directory, number)
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        os.write(fd, block)
        os.fchmod(fd, 0o644)
        os.utime(fd, (1e9, 1e9))
        os.close(fd)
        os.write(log, b"unpacked %s\n" % path)
    os.close(log)


def large(place: Path, files: int) -> None:
    piece = os.urandom(PIECE_BYTES)
    for number in range(files):
        fd = os.open(place / f"{number:04}.bin", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        for _ in range(LARGE_BYTES // PIECE_BYTES):
            os.write(fd, piece)
        os.close(fd)


def main() -> None:
    shape, place, files = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    place.mkdir()
    began = time.monotonic()
    (unpack if shape == "files" else large)(place, files)
    took = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(took, used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
