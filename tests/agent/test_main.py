"""The agent as a process: it ends in time, whatever it is doing, and takes its children with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from link_world import config_of

RUN = (
    "import sys\n"
    "from closeranks_agent.config import load_agent_config\n"
    "from closeranks_agent.logs import set_up_logging\n"
    "from closeranks_agent.main import run\n"
    "set_up_logging('text')\n"
    "{patch}\n"
    "sys.exit(run(load_agent_config(sys.argv[1], environ={{}})))\n"
)


def wait_for(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Daemon:
    def __init__(self, base: Path, extra: str = "", patch: str = "", known: bool = True) -> None:
        self.log = base / "log"
        config = config_of(base, 1, extra)
        if known:
            _know(base)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN.format(patch=patch), config.file], stderr=out, stdout=out
            )

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def stop(self) -> tuple[int, float]:
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20), time.monotonic() - started


def _know(base: Path) -> None:
    """Settings and a fence as an earlier process left them."""
    from closeranks_agent.state import AgentState, OwedHook
    from closeranks_proto.messages import FenceState
    from link_world import SETTINGS

    state = AgentState(base / "state")
    state.set_settings("xxh3-128", (SETTINGS,))
    state.set_fence(FenceState(1, "why", "i-1", 1), OwedHook(True, 1, "i-1", "why"))
    state.close()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path


def test_sigterm_is_0_and_quick(base: Path) -> None:
    daemon = Daemon(base)
    wait_for(lambda: daemon.says("process ready"))
    code, took_s = daemon.stop()
    assert (code, daemon.says("Traceback")) == (0, False), daemon.log.read_text()
    assert took_s < 5


def test_sigterm_ends_a_scan_that_runs(base: Path) -> None:
    """A scan that reads on until it is told to stop."""
    patch = (
        "import time\n"
        "from closeranks_agent.disk import volume\n"
        "def slow(self, findings, full, reread):\n"
        "    print('scanning', flush=True)\n"
        "    while not self._worker.is_stopped(): time.sleep(0.01)\n"
        "    raise volume.Stopped()\n"
        "volume.Volume._scan = slow\n"
    )
    daemon = Daemon(base, patch=patch)
    wait_for(lambda: daemon.says("scanning"))
    code, took_s = daemon.stop()
    assert code == 0, daemon.log.read_text()
    assert took_s < 5


def test_sigterm_does_not_wait_for_a_dead_disk(base: Path) -> None:
    patch = (
        "import time\n"
        "from closeranks_agent import main\n"
        "from closeranks_agent.disk import volume\n"
        "main.STOP_MAX_S = 2.0\n"
        "def dead(self, findings, full, reread):\n"
        "    print('scanning', flush=True)\n"
        "    time.sleep(60)\n"
        "volume.Volume._scan = dead\n"
    )
    daemon = Daemon(base, patch=patch)
    wait_for(lambda: daemon.says("scanning"))
    code, took_s = daemon.stop()
    assert code == 0, daemon.log.read_text()
    assert took_s < 5


def test_the_hook_of_a_killed_agent_ends_with_all_its_children(base: Path) -> None:
    pid = base / "pid"
    hook = f"['/bin/sh', '-c', 'sleep 600 & echo $! > {pid}; wait']"
    daemon = Daemon(base, f"[agent.hooks]\non_quarantine = {hook}\ntimeout_s = 600\n")
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    grandchild = int(pid.read_text())
    daemon.process.kill()
    daemon.process.wait()
    wait_for(lambda: not _lives(grandchild))


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_agent_on_one_state_directory_is_4(base: Path) -> None:
    first = Daemon(base)
    wait_for(lambda: first.says("process ready"))
    second = Daemon(base, known=False)
    assert second.process.wait(20) == 4
    assert not second.says("Traceback")
    assert first.stop()[0] == 0


def test_a_foreign_private_directory_is_2_at_the_start(base: Path) -> None:
    (base / "tree" / ".closeranks").mkdir(parents=True)
    (base / "tree" / ".closeranks" / "theirs").write_bytes(b"1")
    daemon = Daemon(base)
    assert daemon.process.wait(20) == 2
    assert daemon.says(".closeranks")
    assert not daemon.says("Traceback")


NO_THREADS = (
    "from closeranks_proto import heap\n"
    "heap.GIVE_BACK_EVERY_S = 0.02\n"
    'def none(): raise RuntimeError("can\'t start new thread")\n'
    "heap.give_back = none\n"
)


def test_an_agent_goes_on_where_the_heap_can_not_be_tended(base: Path) -> None:
    daemon = Daemon(base, patch=NO_THREADS)
    wait_for(lambda: daemon.log.read_text().count("can't start new thread") >= 2)
    wait_for(lambda: daemon.says("process ready"))
    assert daemon.process.poll() is None, "it did not end as if it had been told to"
    assert daemon.stop()[0] == 0
