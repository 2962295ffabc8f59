"""The tree of a million entries: building it, editing it, and what it holds, beside a plain dictionary of the same.

Seconds are processor seconds of this process. An isolated edit meets a random file of a tree that stands still, so
that most of the pages on its way are decoded anew; edits in one place are ten thousand files in a row.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from closeranks_proto.digests import XXH3_128
from closeranks_proto.tree import Tree
from frame.measured import Against, Measured
from frame.registry import Bench
from scale.generated import clustered, items, key_of, scattered, value_of
from scale.rig import MB

T = TypeVar("T")
EDITS = 10_000


def measure(bench: Bench) -> list[Measured]:
    files = bench.either(1_000_000, 200_000)
    entries = list(items(files))
    objects: dict[bytes, bytes] = {}
    tree = Tree(XXH3_128, objects.__getitem__)
    taken, made = _timed(lambda: tree.build(entries), bench.either(3, 1))
    plain_s, plain = _timed(lambda: dict(entries), bench.either(3, 1))
    objects.update(made.pages)
    gc.collect()
    gc.freeze()  # the entries are this bench's: no figure shall pay for looking at them
    count = f"{len(entries):,}"
    held, plain_held = _held(made.pages), _held(plain)
    rows = [
        Measured(
            f"tree: build {count} entries", round(taken, 2), "s", 4,
            f"{len(made.pages):,} pages, {sum(map(len, made.pages.values())) / len(entries):.0f} bytes an entry",
            Against("dict", round(plain_s, 3), round(plain_s / taken, 3)),
        ),
        Measured(
            f"tree: {count} entries in memory, encoded", round(held / MB, 1), "MB", None, "objects and their table",
            Against("dict", round(plain_held / MB, 1), round(plain_held / held, 2)),
        ),
    ]  # fmt: skip
    rng = random.Random(1)
    alone = [
        _timed(lambda: tree.edit(made.root, scattered(rng, files, 1, b"new")), 1)[0]
        for _ in range(bench.either(1000, 200))
    ]
    making = [_timed(lambda: scattered(rng, files, 1, b"new"), 1)[0] for _ in range(200)]
    alone_us = (statistics.median(alone) - statistics.median(making)) * 1e6
    rows.append(
        Measured(
            "tree: one isolated edit", round(alone_us, 1), "us", 200, "median; the tree is not kept warm"
        )
    )
    for kind, pick, bound in (("in one place", clustered, 5.0), ("anywhere", scattered, None)):
        edits = pick(rng, files, EDITS, b"many")
        spent, _ = _timed(lambda edits=edits: tree.edit(made.root, edits), bench.either(5, 2))  # type: ignore[misc]
        rows.append(
            Measured(f"tree: {EDITS:,} edits {kind}, each", round(spent / EDITS * 1e6, 2), "us", bound)
        )
    place = files // 2
    changed = [(key_of(place), value_of(place, b"%d" % turn)) for turn in range(200)]
    warm = [_timed(lambda edit=edit: tree.edit(made.root, [edit]), 1)[0] for edit in changed]  # type: ignore[misc]
    rows.append(
        Measured("tree: one edit of a page just edited", round(statistics.median(warm) * 1e6, 1), "us", None)
    )
    return rows


def _timed(work: Callable[[], T], rounds: int) -> tuple[float, T]:
    """The median of so many rounds, and what the last one gave."""
    taken: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        found = work()
        taken.append(time.process_time() - began)
    return statistics.median(taken), found


def _held(objects: Mapping[bytes, bytes]) -> int:
    return sys.getsizeof(objects) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in objects.items())
