"""A real coordinator and its load processes, and what is seen of them from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from fleet import Fleet, VolumeSpec
from fleet.process import LEASH, clean_environment
from scale.load import node_name

MB = 1_000_000
ANSWER_MAX_S = 280.0
LAGS = re.compile(r'^closeranks_event_loop_wake_delay_seconds_bucket\{le="([^"]+)"\} (\S+)', re.MULTILINE)


class LoadProcess:
    """One process of generated agents. Orders wait for their answer; `tell` and `hear` are its two halves."""

    def __init__(self, port: int, files: int, seed: int, first: int, count: int, log: Path) -> None:
        words = [sys.executable, "-m", "scale.load", *map(str, (port, files, seed, first, count))]
        self._log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", LEASH, str(os.getpid()), *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                env=clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip

    def tell(self, do: str, **order: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a load process ended: {self._log.read_text()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def do(self, do: str, **order: object) -> dict[str, Any]:
        self.tell(do, **order)
        return self.hear()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Rig:
    """`shares`: how many nodes each load process speaks for. The coordinator runs when it is entered."""

    def __init__(self, base: Path, shares: Iterable[int], files: int, volume: VolumeSpec) -> None:
        self.shares = tuple(shares)
        self._files = files
        names = [node_name(number) for number in range(sum(self.shares))]
        self.fleet = Fleet(base, names, [volume])
        self.fleet.api.timeout_s = 60.0  # how long an answer takes is what is measured
        self.loads: list[LoadProcess] = []

    def __enter__(self) -> Rig:
        self.fleet.start_coordinator()
        first = 0
        for number, count in enumerate(self.shares):
            log = self.fleet.logs / f"load-{number}.log"
            self.loads.append(LoadProcess(self.fleet.agents_port, self._files, 1, first, count, log))
            first += count
        for load in self.loads:
            load.hear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for load in self.loads:
                load.close()
            if kind is None:
                self.fleet.stop()
                self.fleet.check_logs()
            else:
                print(self.fleet.coordinator.log_tail(30), file=sys.stderr)
        finally:
            self.fleet.kill()

    # --- all load processes ------------------------------------------------------------------------

    def all(self, do: str, **order: object) -> list[dict[str, Any]]:
        """The same order for every load process, at the same time; their answers."""
        for load in self.loads:
            load.tell(do, **order)
        with ThreadPoolExecutor(len(self.loads)) as pool:
            return [future.result(ANSWER_MAX_S) for future in [pool.submit(load.hear) for load in self.loads]]

    def check(self) -> dict[str, int]:
        """Messages that the agents got, by kind. RuntimeError where one met what it should not."""
        kinds: dict[str, int] = {}
        for told in self.all("told"):
            if told["trouble"]:
                raise RuntimeError(f"agents met trouble: {told['trouble']}")
            for kind, count in told["kinds"].items():
                kinds[kind] = kinds.get(kind, 0) + count
        return kinds

    # --- the coordinator from outside ----------------------------------------------------------------

    @property
    def cpu_s(self) -> float:
        return self.fleet.coordinator.cpu_s()

    def resident_mb(self, most: bool = False) -> float:
        return self.fleet.coordinator.resident_bytes("VmHWM" if most else "VmRSS") / MB

    def metrics(self) -> str:
        return self.fleet.api.text("/metrics")

    def metric(self, name: str) -> float:
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def wakes(self) -> dict[float, float]:
        """How often the event loop was late by at most so much, since the start."""
        return {float(bound): float(count) for bound, count in LAGS.findall(self.metrics())}

    def in_rank(self) -> bool:
        """Every node in rank, asked as a program asks."""
        return bool(self.fleet.api.fleet()["in_rank"])

    def wait_in_rank(self, timeout_s: float = 120.0, every_s: float = 0.25) -> float:
        """Seconds until all are in rank."""
        began = time.monotonic()
        while not self.in_rank():
            self.fleet.check_alive()
            if time.monotonic() - began > timeout_s:
                states = {name: node["state"] for name, node in self.fleet.api.nodes().items()}
                raise TimeoutError(f"not in rank within {timeout_s} s: {states}")
            time.sleep(every_s)
        return time.monotonic() - began


def latest(wakes_before: dict[float, float], wakes: dict[float, float]) -> float:
    """The least bound of the histogram below which all wakes between two looks stayed; infinity included."""
    total = max(wakes.values()) - max(wakes_before.values(), default=0.0)
    for bound in sorted(wakes):
        if wakes[bound] - wakes_before.get(bound, 0.0) >= total:
            return bound
    return float("inf")
