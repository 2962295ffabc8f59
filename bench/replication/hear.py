"""Who is told of a filesystem's changes and does nothing with them: `hear.py PLACE FLAGS MASK`.

`FLAGS` as for `fanotify_init`, `MASK` what is told; 0: nothing is, and a fifth of the time goes into a loop instead.
Says "ready" once it hears, and how many events it read once its input has ended.
"""

from __future__ import annotations

import os
import select
import struct
import sys
import time

from closeranks_agent.watch import calls

PAUSE_S = 0.05  # as the watcher rests in a storm
BUSY_S = 0.01
BUFFER_BYTES = 1 << 20


def ended(pause_s: float) -> bool:
    return bool(select.select([sys.stdin], [], [], pause_s)[0])


def busy() -> None:
    numbers = bytearray(1 << 20)
    while not ended(PAUSE_S - BUSY_S):
        until = time.monotonic() + BUSY_S
        while time.monotonic() < until:
            numbers[: 1 << 19] = numbers[1 << 19 :]


def hear(fd: int) -> int:
    count = 0
    while not ended(PAUSE_S):
        count += drained(fd)
    return count + drained(fd)


def drained(fd: int) -> int:
    count = 0
    while True:
        try:
            data = os.read(fd, BUFFER_BYTES)
        except BlockingIOError:
            return count
        at = 0
        while at < len(data):
            at += struct.unpack_from("=I", data, at)[0]
            count += 1


def main() -> None:
    place, flags, mask = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if not mask:
        print("ready", flush=True)
        busy()
        print(0)
        return
    fd = calls.fanotify_init(calls.FAN_CLOEXEC | calls.FAN_NONBLOCK | calls.FAN_UNLIMITED_QUEUE | flags)
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    calls.fanotify_mark_filesystem(fd, mask, directory)
    print("ready", flush=True)
    print(hear(fd))


if __name__ == "__main__":
    main()
