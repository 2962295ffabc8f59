"""A volume in a process of its own, as the agent has it, so that times and memory are its own.

Commands come by line: `open`, `scan`, `close`. Each answer is a line of JSON. It imports the agent's package: there is
no command that makes one scan and keeps its index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

KIB = 1024


class VolumeProcess:
    """Drives one such process. `peak_bytes`: the most that it and its children held at once."""

    def __init__(self, tree: Path, state: Path) -> None:
        state.mkdir(exist_ok=True)
        self.index = state / "volume-bench.sqlite"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(tree), str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        self.peak_bytes = 0
        self.base_bytes = self._held()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def ask(self, command: str) -> dict[str, Any]:
        """The answer. Raises RuntimeError where the process has ended or the scan was not whole."""
        assert self._process.stdin is not None, "a pipe"
        assert self._process.stdout is not None, "a pipe"
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the volume ended at {command!r}")
        found: dict[str, Any] = json.loads(line)
        if found.get("problem"):
            raise RuntimeError(f"{command}: {found['problem']}")
        return found

    def __enter__(self) -> VolumeProcess:
        self.ask("ready")
        self.base_bytes = self._held()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._sampler.join()
        self._process.communicate("close\n" if error is None else "")

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self.peak_bytes = max(self.peak_bytes, self._held())

    def _held(self) -> int:
        return sum(held_bytes(pid) for pid in family(self._process.pid))


def family(pid: int) -> list[int]:
    """A process and everything that descends from it."""
    found = [pid]
    for one in found:
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            for task in tasks:
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it has ended
    return found


def held_bytes(pid: int) -> int:
    """Memory that is resident, what is shared with others by its share (PSS); 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in text.splitlines() if line.startswith("Pss:")), 0)


def serve(tree: str, state: str) -> None:
    from closeranks_agent.disk.listers import Listers
    from closeranks_agent.disk.volume import Volume
    from closeranks_proto.digests import XXH3_128
    from closeranks_proto.messages import VolumeSettings

    settings = VolumeSettings("bench", 1 << 20, (), ("mode",), 60.0, False, None, 604800.0)
    volume: Volume | None = None
    listers = Listers()
    for line in sys.stdin:
        command, began = line.strip(), time.perf_counter()
        answer: dict[str, Any] = {}
        if command == "open":
            volume = Volume("bench", os.fsencode(tree), state, settings, XXH3_128)
            volume.listers = listers
        elif command == "scan" and volume is not None:
            report = volume.scan()
            answer = {
                "entries": report.entries, "hashed": report.hashed_files, "changed": report.changed,
                "problem": None if report.complete else str(report.problem),
            }  # fmt: skip
        elif command == "close":
            listers.close()
            if volume is not None:
                volume.close()
            return
        print(json.dumps(answer | {"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
