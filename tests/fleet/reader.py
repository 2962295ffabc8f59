"""A process that reads some files again and again and holds what it saw against the ordering promise.

`python reader.py FILE…` reads until SIGTERM, then prints one JSON line: reads, versions (different ones seen),
torn (not one whole version), missing (the name was not there), back (an older version after a newer one).
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time

HEAD = 12 + 1 + 64 + 1


def versioned(number: int, body: bytes) -> bytes:
    """A version that vouches for itself: its number, the digest of the rest, the rest."""
    return b"%012d %s\n" % (number, hashlib.sha256(body).hexdigest().encode()) + body


def number_of(data: bytes) -> int | None:
    """The number of a whole version, None for anything else."""
    head, body = data[:HEAD], data[HEAD:]
    if len(head) < HEAD or head[13:-1] != hashlib.sha256(body).hexdigest().encode():
        return None
    return int(head[:12])


def main(paths: list[str]) -> None:
    stop = {"asked": False}
    signal.signal(signal.SIGTERM, lambda *_: stop.update(asked=True))
    newest = dict.fromkeys(paths, 0)
    seen: dict[str, set[int]] = {path: set() for path in paths}
    count = {"reads": 0, "torn": 0, "missing": 0, "back": 0}
    print("ready", flush=True)
    while not stop["asked"]:
        for path in paths:
            count["reads"] += 1
            try:
                with open(path, "rb", buffering=0) as file:
                    size = os.fstat(file.fileno()).st_size
                    data = file.read(size // 2) + file.readall()  # a swap in the middle would show
            except FileNotFoundError:
                count["missing"] += 1
                continue
            number = number_of(data)
            if number is None:
                count["torn"] += 1
                continue
            count["back"] += number < newest[path]
            newest[path] = max(newest[path], number)
            seen[path].add(number)
        time.sleep(0.002)
    print(json.dumps(count | {"versions": min(len(found) for found in seen.values())}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
