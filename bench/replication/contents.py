"""What a measured file holds: its number in the first bytes, the rest made from the number.

So an observer needs to be told nothing: it reads a file, and knows whether these are the right bytes.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

SIZE = 100_000
HEAD = 12


def contents(number: int, size: int = SIZE) -> bytes:
    return b"%0*d" % (HEAD, number) + random.Random(number).randbytes(size - HEAD)


def number_of(data: bytes) -> int | None:
    """The number of a whole and right file, else None."""
    head = data[:HEAD]
    if not head.isdigit():
        return None
    number = int(head)
    return number if data == contents(number, len(data)) and len(data) == SIZE else None


def write_by_rename(place: Path, number: int) -> None:
    """A new file: written under another name in the same directory, then renamed."""
    aside = place / f".{number:06}.part"
    aside.write_bytes(contents(number))
    os.rename(aside, place / f"{number:06}.bin")


def write_in_place(place: Path, number: int) -> None:
    """The same file again, over its old bytes."""
    path = place / "in place.bin"
    with open(path, "r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(contents(number))
