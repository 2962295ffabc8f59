"""Reading alone: the files named, by as many processes as asked for, `readv` into one buffer each.

    python -m hotpath.reading PROCESSES DEPTH FILE...

DEPTH 0: nothing is asked for ahead; else so many MiB are, by `posix_fadvise`. All files are shared among all
processes, in pieces of 64 MiB.
"""

from __future__ import annotations

import mmap
import os
import sys

MIB = 1 << 20
PIECE = 64 * MIB


def read(files: list[str], turn: int, processes: int, depth: int) -> None:
    buffer = memoryview(mmap.mmap(-1, MIB))
    pieces = [(path, at) for path in files for at in range(0, os.stat(path).st_size, PIECE)]
    for path, start in pieces[turn::processes]:
        fd = os.open(path, os.O_RDONLY)
        for at in range(start, min(start + PIECE, os.fstat(fd).st_size), MIB):
            if depth and not at % (depth * MIB):
                os.posix_fadvise(fd, at, 2 * depth * MIB, os.POSIX_FADV_WILLNEED)
            os.preadv(fd, [buffer], at)
        os.close(fd)


def main() -> int:
    processes, depth = int(sys.argv[1]), int(sys.argv[2])
    children = []
    for turn in range(1, processes):
        pid = os.fork()
        if not pid:
            read(sys.argv[3:], turn, processes, depth)
            os._exit(0)
        children.append(pid)
    read(sys.argv[3:], 0, processes, depth)
    return max((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
