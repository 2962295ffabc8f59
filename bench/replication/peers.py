"""What each of the others is run as: one writer's tree, some replicas' trees, real processes on loopback."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from fleet import Daemon
from fleet.process import clean_environment


class NotInstalled(Exception):
    """The peer's program is not on this machine."""


class Peer(Protocol):
    name: str
    writer: Path
    replicas: list[Path]
    daemons: list[Daemon]

    def start(self) -> None:
        """Running, with equal trees."""

    def stop(self) -> None: ...


def find(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise NotInstalled(f"{program} is not installed: bench/install_peers.sh")
    return path


def version(program: str) -> str:
    """The first line of what it says of its version, shortened."""
    asked = "-version" if program == "lsyncd" else "--version"
    done = subprocess.run([find(program), asked], capture_output=True, text=True, check=False)
    words = (done.stdout or done.stderr).replace("Version:", program).split()
    return " ".join(words[:3] if program == "rsync" else words[:2])


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
