"""Starting the flood as a separate process, and reading what it wrote by when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from fleet.process import LEASH

SCRIPT = str(Path(__file__).with_name("flood.py"))


class Flood:
    """`Flood(tree, log, "grow")` begins at once. Keywords are the script's options. Stopped at the end of a `with`."""

    def __init__(self, tree: Path, log: Path, shape: str, **options: object) -> None:
        self.tree, self.log_path = tree, log
        argv = [sys.executable, "-I", "-S", LEASH, str(os.getpid()), sys.executable, "-I", SCRIPT, str(tree)]
        argv += ["--shape", shape]
        for option, value in options.items():
            argv += [f"--{option}", str(value)]
        self.argv = argv[5:]
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def told(self) -> list[dict[str, Any]]:
        """What it said so far, oldest first."""
        lines = self.log_path.read_text().splitlines()
        found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]
        return found

    def written_by(self, moment: float) -> int:
        """Bytes that it had written by then (CLOCK_MONOTONIC), rounded up to what it said next."""
        for line in self.told():
            if line["at"] >= moment:
                return int(line["bytes"])
        said = self.told()
        return int(said[-1]["bytes"]) if said else 0

    def wait(self, timeout_s: float) -> None:
        """Until it has ended by itself."""
        if self.process.wait(timeout_s):
            raise RuntimeError(f"the flood failed: {self.log_path.with_suffix('.err').read_text()}")

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM (and SIGCONT, should somebody have paused it), and wait."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)
        self.process.wait(timeout_s)
