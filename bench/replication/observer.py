"""A process that watches directories and says when a file in one of them can be read with the right bytes.

`python -m replication.observer DIRECTORY…` prints "ready", then one JSON line for each (directory, number)
when it first reads the whole right contents: {"replica": index, "number": n, "at": CLOCK_MONOTONIC in s}. It
sleeps in inotify between, so that it takes no processor time from those whom it measures. Names that begin
with a dot are somebody's half-written files and do not count.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import time

from replication.contents import number_of

IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x8, 0x80, 0x100
HEADER = struct.Struct("iIII")


def events(descriptor: int) -> list[tuple[int, bytes]]:
    """(watch, name) of what happened; waits for at least one."""
    data = os.read(descriptor, 1 << 16)
    found, at = [], 0
    while at < len(data):
        watch, _, _, length = HEADER.unpack_from(data, at)
        at += HEADER.size
        found.append((watch, data[at : at + length].rstrip(b"\0")))
        at += length
    return found


def look(path: bytes) -> int | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return number_of(file.readall())
    except OSError:
        return None  # gone again


def main(directories: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    places: dict[int, tuple[int, bytes]] = {}
    for index, directory in enumerate(map(os.fsencode, directories)):
        watch = libc.inotify_add_watch(descriptor, directory, IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE)
        if watch < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", directory)
        places[watch] = (index, directory)
    seen: set[tuple[int, int]] = set()
    print("ready", flush=True)
    while True:
        for watch, name in events(descriptor):
            if watch not in places or name.startswith(b"."):
                continue
            replica, directory = places[watch]
            number = look(directory + b"/" + name)
            if number is not None and (replica, number) not in seen:
                seen.add((replica, number))
                print(json.dumps({"replica": replica, "number": number, "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
