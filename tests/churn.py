"""Turn a directory tree over at random: `python churn.py ROOT OUTSIDE SEED STEPS`."""

import ctypes
import os
import random
import shutil
import sys

RENAME_EXCHANGE = 2


def directories(root: bytes) -> list[bytes]:
    found = [root]
    for directory, names, _ in os.walk(root):
        names[:] = [name for name in names if name != b".closeranks"]
        found.extend(os.path.join(directory, name) for name in names)
    return found


def step(rng: random.Random, root: bytes, outside: bytes, libc: ctypes.CDLL) -> None:
    everywhere = directories(root)
    where = rng.choice(everywhere)
    name = b"%d" % rng.randrange(6)
    other = os.path.join(rng.choice(everywhere), b"%d" % rng.randrange(6))
    kind = rng.random()
    if kind < 0.30:
        os.makedirs(os.path.join(where, name, *[b"%d" % rng.randrange(6) for _ in range(rng.randrange(3))]))
    elif kind < 0.50:
        with open(os.path.join(where, b"f" + name), "ab") as file:
            file.write(b"x")
    elif kind < 0.65 and where != root:
        os.rename(where, other)
    elif kind < 0.72 and where != root:
        libc.renameat2(-100, where, -100, other, RENAME_EXCHANGE)
    elif kind < 0.79 and where != root:
        os.rename(where, os.path.join(outside, name))
    elif kind < 0.86:
        os.rename(os.path.join(outside, name), os.path.join(where, name))
    elif kind < 0.92 and where != root:
        shutil.rmtree(where)
    else:
        os.unlink(os.path.join(where, b"f" + name))


def churn(root: bytes, outside: bytes, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(steps):
        try:
            step(rng, root, outside, libc)
        except OSError:
            continue  # the tree did not allow it; the next step may be another


if __name__ == "__main__":
    churn(os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
