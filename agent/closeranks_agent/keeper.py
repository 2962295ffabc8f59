"""Runs one hook and ends it with its agent. Started by `hooks` as a program of its own, by path.

The kernel tells a child when its parent dies, but not the child's own children: a shell would go and what
it waits for would stay. So the agent starts this in a process group of its own; it starts the hook in the
same group, and when the agent has died it kills the group. It needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
NOT_STARTED = b"\0closeranks: "  # then the errno: what a hook that could not be started has said


def main(agent: int, argv: list[str]) -> NoReturn:
    signal.signal(signal.SIGTERM, _end)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != agent:
        _end()  # it died before the kernel knew whom to tell
    child = os.fork()
    if not child:
        _become(argv)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _end(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)


def _become(argv: list[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGTERM):  # Python ignores one, we catch the other
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(1, NOT_STARTED + str(error.errno).encode())
    os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
