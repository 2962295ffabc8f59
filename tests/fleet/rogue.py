"""A rogue: a process of its own that damages a tree, as a broken job or a wrong deployment would.

`python rogue.py TREE --log FILE [--seed N] [--alter N] [--add N] [--delete N] [--rewrite] [--every S]`

It alters bytes inside existing files in place, adds files, deletes some, and with --rewrite writes one
file again and again until it gets SIGTERM. It knows nothing of closeranks. Each deed is a JSON line in
the log, with the clock's time before the write. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


class Deeds:
    """The log of what was done; the tree is damaged in the order of the lines."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - open for the life of the process

    def note(self, deed: str, path: Path, **more: Any) -> None:
        line = {"at": time.time(), "deed": deed, "path": str(path), **more}
        self._file.write(json.dumps(line) + "\n")


def choose(rng: random.Random, tree: Path) -> tuple[list[Path], list[Path]]:
    """Files of the tree in a random but repeatable order: large ones (several chunks), the rest.

    Of files that are hard links of each other only the first: altering both would undo it.
    """
    inodes: set[tuple[int, int]] = set()
    large: list[Path] = []
    small: list[Path] = []
    for directory, directories, names in os.walk(tree):
        directories[:] = sorted(name for name in directories if name != ".closeranks")
        if not os.access(directory, os.W_OK):
            continue
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file() or not os.access(path, os.W_OK):
                continue
            status = path.stat()
            if (status.st_dev, status.st_ino) not in inodes:
                inodes.add((status.st_dev, status.st_ino))
                (large if status.st_size > 2 * CHUNK else small).append(path)
    rng.shuffle(large)
    rng.shuffle(small)
    return large, small


def alter(rng: random.Random, path: Path, deeds: Deeds) -> None:
    """Overwrite some bytes in place, in one or two places, at the same length."""
    size = path.stat().st_size
    places = sorted(rng.sample(range(size), min(size, 2 if size > CHUNK else 1))) or [0]
    deeds.note("alter", path, chunks=sorted({place // CHUNK for place in places}))
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            old = file.read(64) or b"\0"
            file.seek(place)
            file.write(bytes(byte ^ 0x55 for byte in old))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--log", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alter", type=int, default=0)
    parser.add_argument("--add", type=int, default=0)
    parser.add_argument("--delete", type=int, default=0)
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("--every", type=float, default=0.3)
    given = parser.parse_args()

    stop = {"asked": False}
    signal.signal(signal.SIGTERM, lambda *_: stop.update(asked=True))
    rng = random.Random(given.seed)
    deeds = Deeds(given.log)
    large, small = choose(rng, given.tree)
    victims = large[: max(1, given.alter // 4)] if given.alter else []
    victims += small[: given.alter - len(victims)]
    small = small[given.alter :]
    beside = sorted({path.parent for path in victims}) or [given.tree]

    for path in victims:
        alter(rng, path, deeds)
    for number in range(given.add):
        path = rng.choice(beside) / f"thumb-{number:02}.cache"
        deeds.note("add", path)
        path.write_bytes(rng.randbytes(rng.randint(1_000, 60_000)))
    for path in small[: given.delete]:
        deeds.note("delete", path)
        path.unlink()
    target = beside[0] / "index.lock"
    turn = 0
    while given.rewrite and not stop["asked"]:
        turn += 1
        deeds.note("rewrite", target, turn=turn)
        try:
            target.write_text(f"written again, turn {turn}\n")
        except OSError as error:
            deeds.note("could not write", target, error=str(error))
        time.sleep(given.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
