"""Starting the reader as a separate process, and what it has to say at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from fleet.process import LEASH

SCRIPT = str(Path(__file__).with_name("reader.py"))


class Reader:
    """`Reader(paths)` reads from when it is made until `stop`, which gives its counts; `with` ends it in any case."""

    def __init__(self, *paths: Path) -> None:
        argv = [sys.executable, "-I", "-S", LEASH, str(os.getpid()), sys.executable, "-I", SCRIPT]
        self._process = subprocess.Popen(
            [*argv, *map(str, paths)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("the reader did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self, timeout_s: float = 10.0) -> dict[str, int]:
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=timeout_s)
        told: dict[str, Any] = json.loads(out)
        return {name: int(count) for name, count in told.items()}
