"""`python leash.py PROGRAM ARG…`: become PROGRAM, and die with the process that started it.

PR_SET_PDEATHSIG survives exec. It is set here, and not in a `preexec_fn`, because that runs Python code
between fork and exec of a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def hold(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


if __name__ == "__main__":
    hold(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
