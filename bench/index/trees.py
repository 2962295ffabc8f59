"""Trees of many small files, made fast."""

from __future__ import annotations

import os
from pathlib import Path

FILES_A_DIRECTORY = 100


def many(root: Path, files: int, size: int = 1) -> int:
    """`files` files, FILES_A_DIRECTORY in each directory, 500 of these in each above. Gives the length of all paths."""
    length = 0
    for number in range(0, files, FILES_A_DIRECTORY):
        place = f"{number // 50_000:04}/album-{number // FILES_A_DIRECTORY:06}"
        (root / place).mkdir(parents=True)
        length += len(place)
        names = [f"img_{one:05}.jpg" for one in range(min(FILES_A_DIRECTORY, files - number))]
        _fill(root / place, names, size)
        length += sum(len(place) + 1 + len(name) for name in names)
    return length


def flat(root: Path, files: int) -> None:
    root.mkdir(parents=True)
    _fill(root, [f"img_{number:06}.jpg" for number in range(files)], 0)


def deep(root: Path, levels: int, files_each: int) -> None:
    """Each level below the other; by descriptors, for no path reaches the lowest."""
    root.mkdir(parents=True)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(levels):
            for number in range(files_each):
                os.close(os.open(f"f{number}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)


def _fill(place: Path, names: list[str], size: int) -> None:
    here, data = os.open(place, os.O_RDONLY | os.O_DIRECTORY), bytes(size)
    try:
        for name in names:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here)
            if size:
                os.write(fd, data)
            os.close(fd)
    finally:
        os.close(here)
