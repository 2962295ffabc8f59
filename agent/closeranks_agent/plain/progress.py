"""What is done and what is left, on a terminal, in one line that is written again.

How much there is to read is counted beside the reading. Until that has ended the line says only what was done:
an estimate from half a count is none. A file costs about as much as FILE_BYTES of content, so that a tree of
small files and one of long ones have honest estimates alike; it is given when MEASURED_S have been seen.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from closeranks_proto.lines import printable

INTERVAL_S: Final = 0.5
MEASURED_S: Final = 2.0
FILE_BYTES: Final = 64 * 1024

Done = Callable[[], tuple[int, int]]  # (files, bytes) so far


class Progress:
    """While the context lasts. Nothing is written unless standard error is a terminal."""

    def __init__(self, path: bytes, done: Done, total: tuple[int, int] | None = None) -> None:
        """`total`, (files, bytes), is counted where it is not known."""
        self._path, self._done, self._total = path, done, total
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        if self._live:
            self._threads = [threading.Thread(target=self._show, daemon=True)]
            if self._total is None:
                self._threads.append(threading.Thread(target=self._size, daemon=True))
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._threads:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            text = progress_line(self._done(), self._total, time.monotonic() - self._began)
            sys.stderr.write(f"\r\x1b[K{printable(text)}")
            sys.stderr.flush()

    def _size(self) -> None:
        """Count what is there; a directory that can not be listed is not counted."""
        files = size = 0
        todo = [self._path]
        while todo and not self._ended.is_set():
            try:
                with os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            files += 1
                            size += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
        self._total = files, size


def progress_line(done: tuple[int, int], total: tuple[int, int] | None, spent_s: float) -> str:
    """Like `12,345 of 60,000 files, 1.20 of 6.00 GB, 310 MB/s, about 15 s left`."""
    files, size = done
    rate = f"{amount(size / spent_s if spent_s else 0)}/s"
    if total is None:
        return f"{files:,} files, {amount(size)}, {rate}"
    text = f"{amount(size)} of {amount(total[1])}, {rate}"
    if total[0] > 1:
        text = f"{files:,} of {total[0]:,} files, {text}"
    share = (size + files * FILE_BYTES) / max(1, total[1] + total[0] * FILE_BYTES)
    if spent_s < MEASURED_S or not 0 < share < 1:
        return text
    return f"{text}, about {duration(spent_s * (1 - share) / share)} left"


def amount(size: float) -> str:
    """In decimal units."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.3g} {unit}" if size < 999.5 * step else f"{size / step:,.0f} {unit}"
    return f"{size:.0f} B"


def duration(seconds: float) -> str:
    """As coarse as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
