"""What the coordinator's core keeps of replicas that are far behind, and what a step of one of them costs it.

The differences alone, as the judge follows them: three replicas lack the same new files and catch up 512 at a time,
each at another place. Memory is what tracemalloc counts, in a run of its own.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Mapping

from closeranks_coordinator.core.truth import Differ, Values
from closeranks_proto.digests import XXH3_128
from closeranks_proto.tree import Tree
from frame.measured import Measured
from frame.registry import Bench
from scale.generated import items

REPLICAS, STEPS, STEP_KEYS = 3, 20, 512


def measure(bench: Bench) -> list[Measured]:
    files = bench.either(200_000, 50_000)
    followed = _Followed(files)
    spent = followed.run()
    del followed
    gc.collect()
    tracemalloc.start()
    try:
        followed = _Followed(files)
        empty = tracemalloc.get_traced_memory()[0]
        followed.run()
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    lacking = sum(map(len, followed.known))
    work = f"core, {REPLICAS} replicas {files:,} files behind, each at another place"
    return [
        Measured(f"{work}: kept", round(kept / lacking, 1), "B", 250, f"a path and replica; {kept / 1e6:.1f} MB"),
        Measured(
            f"{work}: a step of {STEP_KEYS} paths", round(spent * 1000, 2), "ms", None,
            "processor time, the mean",
        ),
    ]  # fmt: skip


class _Followed:
    """`known` of each replica, as it follows."""

    def __init__(self, files: int) -> None:
        self._objects: dict[bytes, bytes] = {}
        self._tree = Tree(XXH3_128, self._objects.__getitem__, cache_pages=512)
        self._objects.update(self._tree.empty.pages)
        self._made = list(items(files))
        built = self._tree.build(self._made)
        self._objects.update(built.pages)
        self._truth = built.root
        self._steps: list[bytes] = [self._tree.empty.root]
        for number in range(REPLICAS * STEPS):
            part = self._made[number * STEP_KEYS : (number + 1) * STEP_KEYS]
            edited = self._tree.edit(self._steps[-1], part)
            self._objects.update(edited.pages)
            self._steps.append(edited.root)
        self._made.clear()
        self._differ = Differ(self._tree)
        self.known: list[Mapping[bytes, Values]] = []

    def run(self) -> float:
        """All of them lack the same at first; each goes further than the one before. Processor seconds of a step."""
        truth, steps, follow = self._truth, self._steps, self._differ.follow
        self.known = [self._differ.diff(steps[0], truth)] * REPLICAS
        turns = [(at, number) for at in range(REPLICAS) for number in range((at + 1) * STEPS)]
        began = time.process_time()
        for at, number in turns:
            before, after = (steps[number], truth), (steps[number + 1], truth)
            self.known[at], _ = follow(self.known[at], before, after)
        return (time.process_time() - began) / len(turns)
