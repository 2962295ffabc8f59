"""What happens to the fleet meanwhile: steady writes by a writer, rogues on other nodes, restarts of one of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fleet import Fleet, Node, Rogue, replicated
from fleet.config import Value
from soak.samples import is_full

WRITES_S: Final = 8.0  # changes by the writer, a second
FILES: Final = 400  # the tree stays about this large: as much goes as comes
# The coordinator's cache of pages is bounded by 32 MiB and takes some 9,000 changes to fill; an agent's first repair
# takes 5 MB for good (stacks and buffers of the threads that fetch), the store's first garbage collection, five minutes
# after the start, 6 MB. Judged before that, each looks like a leak. So the first part of a run writes faster until the
# cache is full, has a rogue on every node, waits for that collection, and is not judged.
FILL_WRITES_S: Final = 60.0
FILL_MAX_SHARE: Final = 0.5
FILL_MAX_S: Final = 420.0  # where the half is less: that collection, and two minutes for a slow machine
LEAST_S: Final = 600.0  # what is left of it says something
FILL_ROGUE_EVERY_S: Final = 15.0
COLLECTED: Final = "garbage collection: "  # as the coordinator's log says at the end of one
ROGUE_EVERY_S: Final = 20.0
RESTART_EVERY_S: Final = 45.0
SAMPLE_EVERY_S: Final = 1.0


def fleet_of(base: Path, nodes: int) -> Fleet:
    """One writer; the rest are replicas on which a change is undone. No brake: the writes are meant."""
    quiet: dict[str, Value] = {
        "auto_release_max": 1000,
        "auto_release_window_s": 60.0,
        "recurrence_max": 1000,
    }
    extra = {"trash_max_bytes": 1 << 30, "trash_keep_s": 60.0}
    volume = replicated("node-01", extra=extra, guards={"enabled": False}, scan_interval_s=20.0)
    return Fleet(base, nodes=nodes, volumes=[volume], fleet=quiet)


class Life:
    """Everything is drawn from one seed. `deeds` counts."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.deeds = {"writes": 0, "rogues": 0, "restarts": 0}
        self._rng = random.Random(seed)
        self._files: list[Path] = []
        self._rogue_at = ROGUE_EVERY_S
        self._restart_at = RESTART_EVERY_S

    @property
    def writer(self) -> Node:
        return self.fleet[0]

    @property
    def restarted(self) -> Node:
        """The last node: the others run through."""
        return self.fleet[len(self.fleet.nodes) - 1]

    def fill(self, seconds: float) -> float:
        """Until what comes once has come, for a part of these seconds (LEAST_S or more) at most; how many are left.

        RuntimeError where that was not enough: what would be sampled then says nothing about memory.
        """
        most = max(seconds * FILL_MAX_SHARE, FILL_MAX_S)
        started, wrote_at, looked, rogue_at = time.monotonic(), 0.0, 0.0, 0.0
        waiting = list(self.fleet.nodes.values())[1:]
        full = collected = False
        while not full or not collected or waiting:
            passed = time.monotonic() - started
            if passed > most:
                raise RuntimeError(f"what is bounded was not full after {passed:.0f} s: ask for more minutes")
            if passed >= wrote_at:
                wrote_at = passed + 1 / (WRITES_S if full else FILL_WRITES_S)
                self._write()
            if waiting and passed >= rogue_at:
                rogue_at = passed + FILL_ROGUE_EVERY_S
                self._rogue(waiting.pop())
            if passed >= looked:
                looked = passed + SAMPLE_EVERY_S
                collected = COLLECTED in self.fleet.coordinator.log()
                full = full or is_full(self.fleet.api.text("/metrics"))
            time.sleep(0.005)
        return seconds - (time.monotonic() - started)

    def live(self, seconds: float, sample: Callable[[], None]) -> None:
        started = time.monotonic()
        written, sampled = 0, 0.0
        while (passed := time.monotonic() - started) < seconds:
            if passed * WRITES_S > written:
                self._write()
                written += 1
            if passed >= self._rogue_at:
                self._rogue_at += ROGUE_EVERY_S
                nodes = list(self.fleet.nodes.values())[1:]
                self._rogue(self._rng.choice(nodes))
            if passed >= self._restart_at:
                self._restart_at += RESTART_EVERY_S
                self.restarted.daemon.kill()
                self.restarted.start()
                self.deeds["restarts"] += 1
            if passed >= sampled:
                sampled = passed + SAMPLE_EVERY_S
                self.fleet.check_alive()
                sample()
            time.sleep(0.02)

    def _write(self) -> None:
        """A new file, a rewrite, or a removal."""
        self.deeds["writes"] += 1
        chosen = self._rng.random()
        if self._files and (len(self._files) >= FILES or chosen < 0.2):
            self._files.pop(self._rng.randrange(len(self._files))).unlink()
        elif self._files and chosen < 0.5:
            self._rng.choice(self._files).write_bytes(self._rng.randbytes(self._size()))
        else:
            place = self.writer.path() / f"day-{self._rng.randrange(20):02}"
            place.mkdir(exist_ok=True)
            path = place / f"written-{self.deeds['writes']:07}"
            path.write_bytes(self._rng.randbytes(self._size()))
            self._files.append(path)

    def _size(self) -> int:
        return int(min(2_000_000, self._rng.expovariate(1 / 30_000)))

    def _rogue(self, node: Node) -> None:
        """Another program damages the tree of a node that may not write; it is undone and the node named."""
        log = self.fleet.base / f"rogue-{self.deeds['rogues']}.log"
        Rogue(node.path(), log, alter=3, add=2, delete=1).wait(60)
        self.deeds["rogues"] += 1
