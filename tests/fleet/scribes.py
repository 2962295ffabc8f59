"""Writers of many kinds, each as it really writes: other programs, mapped memory, unnamed files, renamed trees.

Each takes the tree's root and a seeded generator, works below a directory of its own or on files of `small_tree`,
and returns when its writes are done. None knows of closeranks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

Scribe = Callable[[Path, random.Random], None]
MIB = 1 << 20


def rsync(tree: Path, rng: random.Random) -> None:
    """Twice: the second time some files have changed, some are gone."""
    with tempfile.TemporaryDirectory() as aside:
        source = Path(aside, "source")
        _some_files(source, rng)
        _run("rsync", "-a", f"{source}/", str(tree / "rsynced"))
        for path in sorted(source.rglob("*.bin"))[::3]:
            path.write_bytes(rng.randbytes(5000))
        sorted(source.rglob("*.bin"))[1].unlink()
        _run("rsync", "-a", "--delete", f"{source}/", str(tree / "rsynced"))


def rsync_in_place(tree: Path, rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as aside:
        source = Path(aside, "large.bin")
        data = bytearray((tree / "large.bin").read_bytes())
        data[MIB + 5 : MIB + 500] = rng.randbytes(495)
        source.write_bytes(data)
        _run("rsync", "--inplace", "--no-whole-file", "--checksum", str(source), str(tree / "large.bin"))


def tar(tree: Path, rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as aside:
        _some_files(Path(aside, "tarred"), rng)
        archive = Path(aside, "archive.tar")
        with tarfile.open(archive, "w") as file:
            file.add(Path(aside, "tarred"), "tarred")
        _run("tar", "-xf", str(archive), "-C", str(tree))


def git(tree: Path, rng: random.Random) -> None:
    """Two branches that differ much, and checkouts between them."""
    work = tree / "checkout"
    work.mkdir(exist_ok=True)
    base = ["git", "-C", str(work), "-c", "user.name=scribe", "-c", "user.email=scribe@example.org"]
    base += ["-c", "gc.auto=0", "-c", "init.defaultBranch=main"]
    _run(*base, "init", "-q")
    _some_files(work / "source", rng)
    _run(*base, "add", "-A")
    _run(*base, "commit", "-q", "-m", "one")
    _run(*base, "checkout", "-q", "-b", "other")
    shutil.rmtree(work / "source" / "sub-1")
    (work / "source" / "sub-2").rename(work / "source" / "renamed")
    (work / "source" / "new.txt").write_bytes(rng.randbytes(3000))
    _run(*base, "add", "-A")
    _run(*base, "commit", "-q", "-m", "two")
    for branch in ("main", "other", "main"):
        _run(*base, "checkout", "-q", branch)


def sqlite(tree: Path, rng: random.Random) -> None:
    """A database in WAL mode that is written in many transactions, then checkpointed and closed."""
    with contextlib.closing(sqlite3.connect(tree / "books.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS line (id INTEGER PRIMARY KEY, text BLOB)")
        for _ in range(40):
            with database:
                database.executemany(
                    "INSERT INTO line(text) VALUES (?)", [(rng.randbytes(200),) for _ in range(20)]
                )
        with database:
            database.execute("DELETE FROM line WHERE id % 3 = 0")
        database.execute("VACUUM")


def move_directories(tree: Path, rng: random.Random) -> None:
    """A directory into another, two that change places, one away and back."""
    (tree / "attic").mkdir(exist_ok=True)
    (tree / "dir-0").rename(tree / "attic" / "dir-0")
    (tree / "dir-1").rename(tree / "attic" / "aside")
    (tree / "dir-2").rename(tree / "dir-1")
    (tree / "attic" / "aside").rename(tree / "dir-2")
    (tree / "dir-3").rename(tree / "dir-3 away")
    (tree / "dir-3 away").rename(tree / "dir-3")


def truncate(tree: Path, rng: random.Random) -> None:
    for size in (0, 2 * MIB + 17, 100_000):
        path = tree / f"truncated-{size}.bin"
        path.write_bytes(rng.randbytes(MIB))
        os.truncate(path, size)


def mapped(tree: Path, rng: random.Random) -> None:
    """Writes through a shared mapping: no write() is ever called."""
    path = tree / "mapped.bin"
    path.write_bytes(bytes(2 * MIB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for _ in range(20):
            at = rng.randrange(len(view) - 100)
            view[at : at + 100] = rng.randbytes(100)
        view.flush()


def unnamed_then_linked(tree: Path, rng: random.Random) -> None:
    """O_TMPFILE, then linkat: a whole file appears at once, without a rename."""
    descriptor = os.open(tree, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(descriptor, rng.randbytes(70_000))
        # A directory descriptor, though unused, makes it linkat(), which can follow that link.
        os.link(f"/proc/self/fd/{descriptor}", tree / "was unnamed.bin", src_dir_fd=descriptor)
    finally:
        os.close(descriptor)


def hard_links(tree: Path, rng: random.Random) -> None:
    """Two names of one file, written through the second."""
    first = tree / "one of two names.bin"
    first.write_bytes(rng.randbytes(9000))
    second = tree / "other of two names.bin"
    second.unlink(missing_ok=True)
    os.link(first, second)
    with second.open("r+b") as file:
        file.write(rng.randbytes(500))


def attributes(tree: Path, rng: random.Random) -> None:
    """Modes, owners, times and extended attributes, of files and of a directory."""
    path = tree / "attributed.bin"
    path.write_bytes(rng.randbytes(2000))
    place = tree / "attributed directory"
    place.mkdir(exist_ok=True)
    for target, mode in ((path, 0o604), (place, 0o750)):
        target.chmod(mode)
        os.setxattr(target, "user.scribe", rng.randbytes(30))
        if os.geteuid() == 0:
            os.chown(target, 1234, 2345)
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_234_567_890_987_654_321))


def sparse(tree: Path, rng: random.Random) -> None:
    """40 MiB that hold a hundred bytes at each end and some in the middle."""
    with (tree / "sparse.bin").open("wb") as file:
        for at in (0, 17 * MIB + 11, 40 * MIB - 100):
            file.seek(at)
            file.write(rng.randbytes(100))


def symlinks(tree: Path, rng: random.Random) -> None:
    for name, target in (
        ("to a file", "large.bin"),
        ("to nothing", "nothing"),
        ("out", "/etc/hostname"),
        ("loop", "loop"),
    ):
        path = tree / f"symlink {name}"
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    path = tree / "symlink to a file"
    aside = tree / "symlink aside"
    aside.symlink_to("empty file")
    aside.rename(path)  # a link replaced by a rename, as deployments do


def logfile(tree: Path, rng: random.Random) -> None:
    """Lines appended one at a time by a file that stays open, then rotated."""
    path = tree / "service.log"
    with path.open("ab", buffering=0) as file:
        for number in range(300):
            file.write(b"%d %s\n" % (number, rng.randbytes(20).hex().encode()))
        path.rename(tree / "service.log.1")
        file.write(b"a line after the rotation\n")
    path.write_bytes(b"a new log\n")


def deep(tree: Path, rng: random.Random) -> None:
    """Directories made and filled faster than any watch can be added."""
    for number in range(10):
        place = tree / "deep" / "/".join(f"{number}{level}" for level in range(12))
        place.mkdir(parents=True, exist_ok=True)
        (place / "at the bottom.bin").write_bytes(rng.randbytes(1000))


def kinds(tree: Path, rng: random.Random) -> None:
    """A file becomes a directory, a directory a file, a file a link."""
    path = tree / "changes its kind"
    path.write_bytes(b"a file")
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")
    shutil.rmtree(path)
    path.symlink_to("empty file")
    path.unlink()
    path.mkdir()
    (path / "again").write_bytes(b"y")


def exchange_by_rename(tree: Path, rng: random.Random) -> None:
    """An editor's way, many times: write beside, rename over."""
    for _ in range(30):
        aside = tree / ".document.swp"
        aside.write_bytes(rng.randbytes(rng.randrange(20_000)))
        aside.rename(tree / "document.txt")


SCRIBES: tuple[Scribe, ...] = (
    rsync, rsync_in_place, tar, git, sqlite, move_directories, truncate, mapped, unnamed_then_linked, hard_links,
    attributes, sparse, symlinks, logfile, deep, kinds, exchange_by_rename,
)  # fmt: skip


def _some_files(root: Path, rng: random.Random) -> None:
    for number in range(24):
        place = root / f"sub-{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.bin").write_bytes(rng.randbytes(rng.randrange(1, 60_000)))
    (root / "link").symlink_to("sub-0")


def _run(*argv: str) -> None:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
