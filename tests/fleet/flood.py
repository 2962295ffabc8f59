"""A process that writes and writes, as a runaway job would, or that makes files at a given pace.

`python flood.py TREE --shape grow|large|small [--limit BYTES] [--rate FILES_PER_S --seconds S]`

`grow` is one file that gets longer, `large` are files of 10 MB, `small` of `--size` bytes, 500 to a directory.
With `--names N` the names begin again after so many: it writes for ever in a bounded space.
Without a rate it goes as fast as the disk takes it, until SIGTERM, a full disk or the limit. Fifty times a
second it says so in one JSON line: {"at": CLOCK_MONOTONIC in s, "bytes": n, "files": n}. Standard library only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
BLOCK = os.urandom(MIB)
TELL_S = 0.02


class Told:
    """What was written so far, said at most fifty times a second."""

    def __init__(self) -> None:
        self.bytes = self.files = 0
        self._next = 0.0

    def add(self, files: int, count: int) -> None:
        self.files += files
        self.bytes += count
        if time.monotonic() >= self._next:
            self.say()

    def say(self, **more: object) -> None:
        now = time.monotonic()
        self._next = now + TELL_S
        print(json.dumps({"at": now, "bytes": self.bytes, "files": self.files, **more}), flush=True)


def growing(tree: Path) -> Iterator[tuple[int, int]]:
    with open(tree / "runaway.log", "ab", buffering=0) as file:
        while True:
            yield 0, file.write(BLOCK)


def files_of(tree: Path, size: int, names: int) -> Iterator[tuple[int, int]]:
    """Each file differs from the others; 500 to a directory."""
    for number in itertools.count():
        named = number % names
        place = tree / f"flood-{named // 500:05}"
        if named % 500 == 0:
            place.mkdir(exist_ok=True)
        with open(place / f"{named:07}.dat", "wb", buffering=0) as file:
            file.write(b"%016d" % number)
            left = size - 16
            while left > 0:
                left -= file.write(BLOCK[: min(left, MIB)])
        yield 1, size


def paced(steps: Iterator[tuple[int, int]], rate: float, seconds: float) -> Iterator[tuple[int, int]]:
    """Each step at its time; a late one at once."""
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        wait = began + number / rate - time.monotonic()
        if wait > 0.002:
            time.sleep(wait)
        yield next(steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--shape", choices=("grow", "large", "small"), required=True)
    parser.add_argument("--size", type=int, default=64 * 1024)
    parser.add_argument("--limit", type=int, default=1 << 62)
    parser.add_argument("--names", type=int, default=1 << 62)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    given = parser.parse_args()
    stop = {"asked": False}
    signal.signal(signal.SIGTERM, lambda *_: stop.update(asked=True))
    shapes = {
        "grow": lambda: growing(given.tree),
        "large": lambda: files_of(given.tree, 10 * MIB, given.names),
    }
    steps = shapes.get(given.shape, lambda: files_of(given.tree, given.size, given.names))()
    if given.rate:
        steps = paced(steps, given.rate, given.seconds)
    told = Told()
    try:
        for files, count in steps:
            told.add(files, count)
            if stop["asked"] or told.bytes >= given.limit:
                break
    except OSError as error:
        told.say(error=str(error))
    told.say(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
