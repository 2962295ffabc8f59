"""The trees that are hashed. Contents are incompressible and differ from file to file.

All data is at rest when it is handed over: written to its disk, access times too. Else whoever syncs meanwhile (an
index is synced, a checksum on standard output is not) would wait until the filesystem's journal has taken the tree.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

MIB = 1 << 20
PER_DIRECTORY = 100
MEAN_BYTES = 30_000


def small_files(root: Path, count: int) -> int:
    """`count` files of 1 to 59 KB, a hundred in each directory; their bytes."""
    rng = random.Random(1)
    block = rng.randbytes(MIB)
    total = 0
    for number in range(count):
        if not number % PER_DIRECTORY:
            place = root / f"{number // 10_000:03}" / f"album-{number // PER_DIRECTORY:05}"
            place.mkdir(parents=True)
        size = rng.randrange(1_000, 2 * MEAN_BYTES - 1_000)
        start = rng.randrange(MIB - size)
        (place / f"img_{number % PER_DIRECTORY:05}.jpg").write_bytes(block[start : start + size])
        total += size
    os.sync()
    return total


def long_files(root: Path, count: int, size: int) -> list[Path]:
    """`count` files of `size` bytes, a multiple of 4 MiB. Made of little memory: what this process once held counts
    as its children's too.
    """
    root.mkdir(parents=True)
    rng = random.Random(2)
    block = bytearray(rng.randbytes(4 * MIB))
    made = [root / f"long-{number}" for number in range(count)]
    for path in made:
        with path.open("wb", buffering=0) as file:
            for _ in range(size // len(block)):
                block[:16] = rng.randbytes(16)
                file.write(block)
    os.sync()
    return made


def other_names(files: list[Path], root: Path, times: int) -> None:
    """Each file under `times` names: more to read, without more to keep."""
    root.mkdir()
    for turn in range(times):
        for path in files:
            os.link(path, root / f"{turn:03}-{path.name}")


def warm(root: Path) -> None:
    """Read everything once; the access times that this may have set are on the disk when it ends."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(MIB):
                    pass
    os.sync()
