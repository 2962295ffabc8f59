"""The fault library seen from a test: compiled once, loaded into one daemon, steered through shared memory.

`Shim` belongs to one `Daemon` of the harness. What it does is told in `shim.c`; here stands how a test says
so. Nothing of it is in the product: a daemon without the library has no fault point, and costs nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

from fleet import Daemon, wait_until

SOURCE = Path(__file__).with_name("shim.c")
WATCHED, PATH_SIZE = 4, 512
HEADER = struct.Struct("=QQQQqIIiIQii")
FIELDS = (
    "points", "kill_at", "killed_at", "failed", "clock_ns", "kill_how", "fail_calls", "fail_errno", "fail_every",
    "matched", "daemon", "trace",
)  # fmt: skip
SIZE = HEADER.size + (WATCHED + 1) * PATH_SIZE


class How(IntEnum):
    """Where at its fault point a daemon ends. TORN: in the middle of a write; elsewhere the same as AFTER."""

    BEFORE = 0
    AFTER = 1
    TORN = 2


class Calls(IntFlag):
    """Kinds of calls that may be let fail."""

    READ = 1
    WRITE = 2
    SYNC = 4
    NAME = 8
    OPEN = 16


@dataclass(frozen=True, slots=True)
class Point:
    """One fault point of a trace."""

    number: int
    call: str
    path: str
    source: str = ""  # of a rename: the name that it had


def build(directory: Path) -> Path:
    """The library, compiled. CalledProcessError where there is no C compiler."""
    library = directory / "shim.so"
    command = [
        "cc",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
    ]
    subprocess.run([*command, "-ldl"], check=True, capture_output=True)
    return library


class Shim:
    """The faults of one daemon. They stay as they are set when it is started again."""

    def __init__(self, daemon: Daemon, library: Path, control: Path, watch: Sequence[Path] = ()) -> None:
        assert len(watch) <= WATCHED
        self.daemon, self.control = daemon, control
        self._traced: list[Point] = []
        self._traced_bytes = 0
        with control.open("wb") as file:
            file.truncate(SIZE)
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SIZE)
        for place, path in enumerate(watch):
            self._text(place, path)
        daemon.environment |= {"LD_PRELOAD": str(library), "CLOSERANKS_FAULT_CONTROL": str(control)}

    def close(self) -> None:
        self._shared.close()
        del self.daemon.environment["LD_PRELOAD"], self.daemon.environment["CLOSERANKS_FAULT_CONTROL"]

    def _text(self, place: int, path: Path | str) -> None:
        text = os.fsencode(path)
        assert len(text) < PATH_SIZE
        start = HEADER.size + place * PATH_SIZE
        self._shared[start : start + len(text) + 1] = text + b"\0"

    def _get(self, field: str) -> int:
        value: int = HEADER.unpack_from(self._shared)[FIELDS.index(field)]
        return value

    def _set(self, field: str, value: int) -> None:
        """One field alone: the daemon counts in others meanwhile."""
        place = FIELDS.index(field)
        code = HEADER.format[1:]
        struct.pack_into("=" + code[place], self._shared, struct.calcsize("=" + code[:place]), value)

    # --- fault points ------------------------------------------------------------------------------

    @property
    def points(self) -> int:
        """How many there were so far."""
        return self._get("points")

    def arm(self, ahead: int, how: How) -> None:
        """End the daemon at the point that comes `ahead` (from 1) after those there were; it must run."""
        self._set("killed_at", 0)
        self._set("kill_how", how)
        self._set("daemon", self.daemon.pid)
        self.daemon.expected_to_live = False
        self._set("kill_at", self.points + ahead)

    def arm_start(self, ahead: int, how: How) -> None:
        """The same for a daemon that is about to be started."""
        self._set("killed_at", 0)
        self._set("kill_how", how)
        self._set("daemon", 0)
        self._set("kill_at", self.points + ahead)

    def disarm(self) -> bool:
        """Nothing is to come any more; whether it has come, also at this very moment. It is gone then."""
        self._set("kill_at", 0)
        time.sleep(0.05)  # a call that was passing its point has said so by now
        if not self._get("killed_at"):
            return False
        self.daemon.kill()  # reaps
        return True

    @property
    def killed(self) -> bool:
        """It died at its point (and is gone)."""
        return self._get("killed_at") != 0 and not self.daemon.alive

    def trace(self, on: bool = True) -> None:
        self._set("trace", on)

    def traced(self) -> list[Point]:
        """What was written while tracing was on. Of a long sweep only what is new is read again."""
        with self.control.with_name(self.control.name + ".trace").open("rb") as file:
            file.seek(self._traced_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._traced_bytes += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            number, call, rest = line.split(" ", 2)
            self._traced.append(Point(int(number), call, *rest.split("\t", 1)))
        return self._traced

    # --- failing calls and the clock ---------------------------------------------------------------

    def fail(self, calls: Calls, path: str, error: int = errno.EIO, every: int = 1) -> None:
        """From now on each `every`-th of these calls on a path that contains `path` fails with `error`."""
        self._set("fail_calls", 0)
        self._text(WATCHED, path)
        self._set("fail_errno", error)
        self._set("fail_every", every)
        self._set("fail_calls", calls)

    def heal(self) -> None:
        self._set("fail_calls", 0)

    @property
    def failed(self) -> int:
        """How many calls were let fail."""
        return self._get("failed")

    def wait_failed(self, more: int = 1) -> None:
        start = self.failed
        wait_until(f"{more} more failed calls", lambda: self.failed, lambda seen: seen >= start + more)

    def step_clock(self, seconds: float) -> None:
        """The daemon's wall clock is that far ahead of the machine's (or behind it)."""
        self._set("clock_ns", int(seconds * 1e9))
