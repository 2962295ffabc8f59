"""Whether a program has a file mapped for writing: its stores change content and, for a while, no time."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def mapped_by(status: os.stat_result, proc: Path = PROC) -> int | None:
    """The pid of a process that maps this inode shared and writable, as far as this user may see; None for none."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    inode = str(status.st_ino)
    for place in proc.iterdir():
        if not place.name.isdigit():
            continue
        try:
            lines = (place / "maps").read_text(errors="surrogateescape").splitlines()
        except OSError:
            continue  # gone, or not ours to see
        for line in lines:
            words = line.split(maxsplit=5)
            if words[4] == inode and words[3] == device and words[1][1] == "w" and words[1][3] == "s":
                return int(place.name)
    return None
