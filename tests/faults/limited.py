"""`python limited.py N PROGRAM ARG…`: become PROGRAM with at most N open files."""

import os
import resource
import sys

if __name__ == "__main__":
    most = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.execv(sys.argv[2], sys.argv[2:])
