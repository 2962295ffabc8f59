"""Starting the rogue as a separate process, and reading what it did from its own log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fleet.process import LEASH

SCRIPT = str(Path(__file__).with_name("rogue.py"))


class Rogue:
    """`Rogue(tree, log, alter=6, add=4, delete=3, rewrite=True)` begins at once."""

    def __init__(
        self, tree: Path, log: Path, rewrite: bool = False, every_s: float = 0.3, seed: int = 0, **deeds: int
    ):
        self.tree, self.log_path = tree, log
        argv = [sys.executable, "-I", "-S", LEASH, str(os.getpid()), sys.executable, SCRIPT]
        argv += [str(tree), "--log", str(log), "--seed", str(seed), "--every", str(every_s)]
        for deed, count in deeds.items():
            argv += [f"--{deed}", str(count)]
        if rewrite:
            argv.append("--rewrite")
        self._start(argv)

    @classmethod
    def running(cls, script: str, log: Path) -> Rogue:
        """A rogue with a way of its own: this Python text. It logs no deeds."""
        rogue = cls.__new__(cls)
        rogue.tree, rogue.log_path = log.parent, log
        rogue._start([sys.executable, "-I", "-S", LEASH, str(os.getpid()), sys.executable, "-c", script])
        return rogue

    def _start(self, argv: list[str]) -> None:
        log = self.log_path
        with log.with_suffix(".err").open("wb") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout_s: float = 20.0) -> None:
        """Until it has ended by itself."""
        code = self.process.wait(timeout_s)
        if code:
            raise RuntimeError(f"the rogue failed: {self.log_path.with_suffix('.err').read_text()}")

    def stop(self, timeout_s: float = 5.0) -> int:
        """SIGTERM, as an operator would; its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def deeds(self) -> list[dict[str, Any]]:
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text().splitlines()
        found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]
        return found

    def first_write_at(self) -> float | None:
        """Unix seconds just before its first write, by its own clock."""
        deeds = self.deeds()
        return float(deeds[0]["at"]) if deeds else None

    def paths(self) -> list[str]:
        """What it touched, relative to the tree, each once."""
        return sorted({os.path.relpath(deed["path"], self.tree) for deed in self.deeds()})

    def damaged_bytes(self, pristine: Path, chunk: int = 1 << 20) -> int:
        """Bytes of the pristine chunks that its alterations and deletions made necessary."""
        needed: dict[tuple[Path, int], int] = {}
        for deed in self.deeds():
            original = pristine / os.path.relpath(deed["path"], self.tree)
            if deed["deed"] not in ("alter", "delete"):
                continue
            size = original.stat().st_size
            every = range((size + chunk - 1) // chunk)
            for number in every if deed["deed"] == "delete" else deed["chunks"]:
                needed[original, number] = min(chunk, size - number * chunk)
        return sum(needed.values())
