"""One daemon as a real process: its log goes to a file, and it dies with us."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LEASH = str(Path(__file__).with_name("leash.py"))
# Below the kernel's ephemeral range, so that no outgoing connection takes a port between pick and bind.
PORTS = range(20_000, 32_000)
WORKERS = 8  # of a parallel test run that have ports of their own
_first = random.SystemRandom().randrange(len(PORTS))
_turns = itertools.count()


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other test process is about to choose.

    Between the choice and the daemon's start lie seconds: so each worker of a parallel run has ports of its
    own, and takes them in turn.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    share = PORTS[int(worker) % WORKERS :: WORKERS] if worker.isdigit() else PORTS
    for _ in range(len(share)):
        port = share[(_first + next(_turns)) % len(share)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 32000 on loopback")


def program() -> str:
    """The installed `closeranks` beside the running interpreter."""
    path = Path(sys.executable).with_name("closeranks")
    if not path.exists():
        raise FileNotFoundError(f"{path} is not installed; run make")
    return str(path)


def clean_environment() -> dict[str, str]:
    """Ours, without settings that would change what the program does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CLOSERANKS_")}
    return {k: v for k, v in kept.items() if k.lower() not in ("http_proxy", "https_proxy", "all_proxy")}


class Daemon:
    """A process that is started, signalled, stopped, and started again with the same command."""

    def __init__(self, name: str, argv: list[str], log: Path, leashed: bool = True) -> None:
        """`leashed` False: it outlives us (a fleet that a person wants to keep)."""
        self.name, self.argv, self.log_path, self.leashed = name, argv, log, leashed
        self.process: subprocess.Popen[bytes] | None = None
        self.expected_to_live = False
        self.exits: list[int] = []  # exit codes of ended runs
        self.environment: dict[str, str] = {}  # what it gets besides ours

    def start(self) -> None:
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        leash = [sys.executable, "-I", "-S", LEASH, str(os.getpid())] if self.leashed else []
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*leash, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment() | self.environment,
                start_new_session=True,  # Ctrl-C goes to us; we stop them in order
            )
        self.expected_to_live = True

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int:
        """The exit code; subprocess.TimeoutExpired if it does not end."""
        if self.process is None:
            raise RuntimeError(f"{self.name} was never started")
        code = self.process.wait(timeout_s)
        self.expected_to_live = False
        self.exits.append(code)
        return code

    def terminate(self) -> None:
        """Ask it to stop, without waiting."""
        self.expected_to_live = False
        self.signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM and the exit code."""
        self.terminate()
        return self.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.expected_to_live = False
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP, and wait until none of its threads is in the middle of a call any more."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while self.alive and not all(state in "TtZX" for state in _states(self.pid)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not stand still: {_states(self.pid)}")
            time.sleep(0.001)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def check_alive(self) -> None:
        if self.expected_to_live and not self.alive:
            code = self.process.returncode if self.process else None
            raise AssertionError(
                f"{self.name} ended by itself with exit code {code}; its log ends:\n{self.log_tail()}"
            )

    # --- what it uses, from /proc ----------------------------------------------------------------

    def family(self) -> list[int]:
        """Its pid and those of all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += children.get(pid, [])
        return found

    def resident_bytes(self, field: str = "VmRSS") -> int:
        """Resident memory of the process and its descendants; `VmHWM` for the most there ever was."""
        total = 0
        for pid in self.family():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        return total

    def cpu_s(self) -> float:
        """Processor seconds of the process, its living descendants and those they waited for, so far."""
        ticks = sum(sum(map(int, fields[11:15])) for pid in self.family() if (fields := _stat(pid)))
        return ticks / os.sysconf("SC_CLK_TCK")


def _states(pid: int) -> list[str]:
    """Of each thread, the kernel's letter for what it does."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.append(path.read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # that thread has ended
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; [] when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def run_program(
    *args: str, timeout_s: float = 30.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One run of the `closeranks` program to its end."""
    return subprocess.run(
        [program(), *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout_s,
        env=clean_environment() | {"NO_COLOR": "1"} | (env or {}),
        check=False,
    )
