"""Our side of the observer process: write, wait until every replica has it, say how long each took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from fleet.process import LEASH


class Late(Exception):
    """A write that did not reach every replica in time."""


class Observer:
    """`with Observer(directories) as observer: observer.timed(number, write)`"""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.replicas = len(directories)
        leash = [sys.executable, "-I", "-S", LEASH, str(os.getpid())]
        argv = [*leash, sys.executable, "-m", "replication.observer", *map(str, directories)]
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        self._seen: dict[int, dict[int, float]] = defaultdict(dict)
        self._news = threading.Condition()
        if self._line() != "ready":
            raise RuntimeError("the observer did not start")
        self._thread = threading.Thread(target=self._follow, name="observer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _follow(self) -> None:
        while line := self._line():
            told = json.loads(line)
            with self._news:
                self._seen[told["number"]][told["replica"]] = told["at"]
                self._news.notify_all()

    def timed(self, number: int, write: Callable[[], None], timeout_s: float = 60.0) -> list[float]:
        """Seconds from just before the write until each replica could be read, in the replicas' order."""
        began = time.monotonic()
        write()
        with self._news:
            if not self._news.wait_for(lambda: len(self._seen[number]) == self.replicas, timeout_s):
                missing = sorted(set(range(self.replicas)) - set(self._seen[number]))
                raise Late(f"write {number} was not on the replicas {missing} after {timeout_s:.0f} s")
            return [self._seen[number][replica] - began for replica in range(self.replicas)]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000) * len(ordered) // 1000) - 1))]
