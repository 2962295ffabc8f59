"""`python impatient.py PROGRAM ARG…`: become the closeranks in PROGRAM, an agent that comes back within half a second.

An agent whose last session was short waits up to fifteen seconds before the next: in a sweep that ends the
coordinator every few seconds, that wait was two thirds of all time. It is the one limit that is another one here.
"""

import runpy
import sys

from closeranks_proto import limits

if __name__ == "__main__":
    limits.RECONNECT_MAX_S = 0.5
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
