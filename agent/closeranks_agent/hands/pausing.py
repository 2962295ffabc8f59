"""Stopping a writing process and letting it go on, and which ones are never touched.

A process is held by a descriptor while it is judged and signalled, so no signal can reach another one that got
its number. Only what ran is stopped: a process that somebody else had stopped is none of ours, and stays so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..state import PausedProcess
from .processes import stat_of

ANCESTORS_MAX = 64
_ENDED = "ZXx"
_STOPPED = "Tt"


def boot_id() -> str:
    """Of this boot of the kernel; "" where it can not be read."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def why_not(process: PausedProcess, own_pid: int | None = None) -> str:
    """Why this process may not be stopped; "" when it may. Touches nothing."""
    own = os.getpid() if own_pid is None else own_pid
    if process.pid <= 1:
        return "it is the system's first process"
    if process.pid == own or process.pid in set(_ancestors(own)):
        return "this agent runs under it"
    if own in set(_ancestors(process.pid)):
        return "this agent started it"
    stat = stat_of(process.pid)
    if stat is None or stat.started != process.started or stat.state in _ENDED:
        return "it had ended"
    if stat.kernel_thread:
        return "it is the kernel's"
    if stat.state in _STOPPED:
        return "somebody else had stopped it"
    return ""


def pause(process: PausedProcess) -> str:
    """Stop it; "" or why not."""
    return why_not(process) or _signal(process, signal.SIGSTOP)


def let_go(process: PausedProcess) -> str:
    """Let it go on; "" or why that was not done.

    Also one that seems to run: it stops only when it comes out of the kernel, perhaps after this look at it.
    """
    return _signal(process, signal.SIGCONT)


def _signal(process: PausedProcess, number: signal.Signals) -> str:
    try:
        with _held(process.pid) as fd:
            stat = stat_of(process.pid)
            if stat is None or stat.started != process.started or stat.state in _ENDED:
                return "it had ended"
            signal.pidfd_send_signal(fd, number)
            return ""
    except ProcessLookupError:
        return "it had ended"
    except OSError as error:
        return f"the kernel refused: {error.strerror}; the agent needs to be root or its user"


@contextmanager
def _held(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _ancestors(pid: int) -> Iterator[int]:
    for _ in range(ANCESTORS_MAX):
        stat = stat_of(pid)
        if stat is None or stat.parent <= 0:
            return
        pid = stat.parent
        yield pid
