"""Processes that keep files open and write into them: as fast as they can, or a line when they are told to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Writes 4 KiB into each of the files again and again until it is stopped for good; all stay open.
WRITE = """
import os, sys
fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o644) for path in sys.argv[1:]]
number = 0
while True:
    number += 1
    os.pwrite(fds[number % len(fds)], b"%08d" % number * 512, number % 16 * 4096)
"""
# Opens the files, and writes a line to the next of them for each line that it gets; answers when it is written.
OBEY = """
import os, sys
fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644) for path in sys.argv[1:]]
print("open", flush=True)
for number, line in enumerate(sys.stdin):
    os.write(fds[number % len(fds)], line.encode())
    print("written", flush=True)
"""


@contextmanager
def running(script: str, *paths: Path, wrapped: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    argv = [*wrapped, sys.executable, "-c", script, *map(str, paths)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], line: str) -> None:
    """It has written that when this returns."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


@contextmanager
def obedient(*paths: Path, wrapped: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    with running(OBEY, *paths, wrapped=wrapped) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
