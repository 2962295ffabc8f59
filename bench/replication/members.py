"""What each of the others is run as: one writer's tree, some replicas' trees, real processes on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

from fleet import Daemon
from fleet.process import clean_environment


class Peer(Protocol):
    name: str
    writer: Path
    replicas: list[Path]
    daemons: list[Daemon]

    def start(self) -> None:
        """Running, with equal trees."""

    def stop(self) -> None: ...


def run(*argv: str) -> str:
    """A command to its end; what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=clean_environment())
    if done.returncode:
        raise OSError(f"{argv[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def usage(daemons: list[Daemon]) -> tuple[float, int]:
    """Processor seconds so far and resident bytes of them all."""
    return sum(d.cpu_s() for d in daemons), sum(d.resident_bytes() for d in daemons)


def stop_all(daemons: list[Daemon]) -> None:
    for daemon in daemons:
        daemon.terminate()
    for daemon in daemons:
        if daemon.process is not None:
            try:
                daemon.process.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
