"""Trees to replicate: a photo library made from a seed, a small one for tests, copies of any directory."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALBUMS = (
    "Alps in autumn", "Anna's wedding", "Birthday", "Camera uploads", "Christmas market", "Conference",
    "Garden", "Grandparents", "Harbour", "Hiking", "House move", "Museum night", "Oma's slides", "Regatta",
    "School play", "Sea", "Snow", "Street portraits", "Summer fête", "Zürich",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TreeSize:
    entries: int
    files: int
    bytes: int
    allocated_bytes: int


class NoRoom(Exception):
    """The copies would not fit."""


def photo_tree(root: Path, files: int = 2400, videos: int = 8, seed: int = 7) -> None:
    """Albums of incompressible files of 10 to 200 KB with side files, and a few of several MB.

    The same seed gives the same bytes. The default is about 100 MB.
    """
    rng = random.Random(seed)
    root.mkdir(parents=True)
    (root / "albums.txt").write_text("".join(f"{name}\n" for name in ALBUMS))
    per_album = max(1, files // (len(ALBUMS) * 2))
    made = 0
    for year in (2023, 2024):
        for name in ALBUMS:
            album = root / str(year) / name
            album.mkdir(parents=True)
            for number in range(per_album):
                size = min(200_000, 10_000 + int(rng.expovariate(1 / 26_000)))
                (album / f"IMG_{1000 + made:05}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + rng.randbytes(size))
                made += 1
                if number % 20 == 0:
                    (album / f"IMG_{1000 + made:05}.xmp").write_text(
                        f"<rating>{rng.randint(1, 5)}</rating>\n"
                    )
            (album / "cover.jpg").symlink_to(f"IMG_{1000 + made - 1:05}.jpg")
    clips = root / "Videos"
    clips.mkdir()
    for number in range(videos):
        clip = clips / f"MVI_{2000 + number}.mp4"
        clip.write_bytes(b"\0\0\0\x18ftypmp42" + rng.randbytes(rng.randint(2_000_000, 6_500_000)))
        clip.chmod(0o640)


def small_tree(root: Path, seed: int = 1, files: int = 40) -> None:
    """Some dozens of files in nested directories, a file of several chunks, links, odd but legal names."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    for number in range(files):
        place = root / f"dir-{number % 5}" / ("deep/er" if number % 3 == 0 else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file-{number:03}.bin").write_bytes(rng.randbytes(rng.randint(0, 20_000)))
    (root / "large.bin").write_bytes(rng.randbytes(3 * (1 << 20) + 12_345))
    (root / "empty file").write_bytes(b"")
    (root / "empty directory").mkdir()
    (root / "executable.sh").write_text("#!/bin/sh\nexit 0\n")
    (root / "executable.sh").chmod(0o755)
    (root / "link to a file").symlink_to("large.bin")
    (root / "link to nowhere").symlink_to("/nonexistent/target")
    with open(os.fsencode(root) + b"/not utf-8 \xff\xfe.txt", "wb") as file:
        file.write(b"bytes are names\n")


def tree_size(root: str | os.PathLike[str]) -> TreeSize:
    entries = files = total = allocated = 0
    for directory, directories, names in os.walk(os.fsencode(root)):
        entries += len(directories) + len(names)
        for name in (*directories, *names):
            status = os.lstat(os.path.join(directory, name))
            allocated += status.st_blocks * 512
            if stat.S_ISREG(status.st_mode):
                files += 1
                total += status.st_size
    return TreeSize(entries, files, total, allocated)


def check_room(size: TreeSize, copies: int, where: Path) -> None:
    """Raise NoRoom unless that many copies fit with a tenth to spare, in bytes and in inodes."""
    disk = os.statvfs(where)
    # A file takes whole blocks, whatever the source's filesystem packed it into.
    one = max(size.allocated_bytes, size.bytes + size.entries * disk.f_bsize // 2)
    needed = int(one * copies * 1.1) + 64 * 1024 * 1024
    free = disk.f_bavail * disk.f_frsize
    if needed > free:
        raise NoRoom(
            f"{copies} copies of this tree need {needed / 1e9:.1f} GB on {where}, "
            f"and {free / 1e9:.1f} GB are free. "
            "Choose a smaller TREE=, or another place with DEMO_DIR=."
        )
    if disk.f_files and size.entries * copies > disk.f_favail:
        raise NoRoom(
            f"{copies} copies of this tree need {size.entries * copies} inodes on {where}, "
            f"and {disk.f_favail} are free. Choose a smaller TREE=, or another place with DEMO_DIR=."
        )


def copy_tree(
    source: str | os.PathLike[str], target: str | os.PathLike[str], tolerant: bool = False
) -> list[str]:
    """A real copy (shared blocks where the filesystem offers them), made by cp; its complaints, one a line.

    `tolerant` accepts a copy from which unreadable files are missing.
    """
    return copy_trees(source, [target], tolerant)


def copy_trees(
    source: str | os.PathLike[str], targets: Sequence[str | os.PathLike[str]], tolerant: bool = False
) -> list[str]:
    """Copies of one tree, two at a time."""
    complaints: list[str] = []
    waiting = list(targets)
    while waiting:
        batch, waiting = waiting[:2], waiting[2:]
        running = [_start_copy(source, target) for target in batch]
        for process in running:
            _, errors = process.communicate()
            lines = [line for line in errors.splitlines() if line]
            if process.returncode and not tolerant:
                raise OSError(f"cp failed: {lines[:3]}")
            complaints += lines
    return complaints


def _start_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> subprocess.Popen[str]:
    os.makedirs(target, exist_ok=True)
    argv = ["cp", "-a", "--reflink=auto", os.path.join(os.fspath(source), "."), os.fspath(target)]
    return subprocess.Popen(
        argv, stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
    )


def link_trees(source: str | os.PathLike[str], targets: Iterable[str | os.PathLike[str]]) -> None:
    """Trees whose files are hard links to the source's: for measurements of many entries, never of writes."""
    for target in targets:
        subprocess.run(["cp", "-al", os.fspath(source), os.fspath(target)], check=True)


def many_files(root: Path, entries: int) -> None:
    """At least that many entries: files of 90 bytes, 500 to a directory."""
    per_directory = 500
    for number in range(-(-entries // (per_directory + 1))):
        place = root / f"{number // 20:02}" / f"{number:04}"
        place.mkdir(parents=True)
        base = os.fspath(place)
        for index in range(per_directory):
            with open(f"{base}/{index:03}-{number:04}.dat", "wb", buffering=0) as file:
                file.write(b"%08d %08d " % (number, index) * 5)


def remove_tree(root: str | os.PathLike[str]) -> None:
    """Remove a tree even if a rogue made its directories read-only."""
    for directory, directories, _ in os.walk(root):
        for name in directories:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(root)
