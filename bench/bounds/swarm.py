"""One full node, fifteen empty ones: they must not be served one after another by the one source.

On one machine all sixteen share two cores and a disk, so the time says little about a network; who served how much
says what a network would see. The fifteen learn of the coordinator at the same moment. The clock runs from the
first node that is *resyncing* to the last that is *in rank*.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from bounds.converge import MIB, NO_GUARDS, many_files
from fleet import EventReader, Fleet, replicated, tree_size
from frame.measured import Measured
from frame.registry import Bench

JOINERS = 15
SOURCE = "source"
PATIENCE_S = 250.0


def measure(bench: Bench) -> list[Measured]:
    files, large = bench.either(3000, 1000), bench.either(60, 20)

    def tree(root: Path) -> None:
        many_files(root, files)
        rng = random.Random(11)
        for number in range(large):
            (root / f"large-{number:03}.bin").write_bytes(rng.randbytes(2 * MIB))

    names = [f"joiner-{number + 1:02}" for number in range(JOINERS)]
    volumes = [replicated(SOURCE)]
    with Fleet(bench.base / "swarm", [SOURCE, *names], volumes, tree=tree, guards=NO_GUARDS) as fleet:
        for name in names:
            place = fleet.nodes[name].paths[fleet.volumes[0].name] = fleet.nodes[name].base / "photos"
            place.mkdir(parents=True)
        fleet.start(nodes=[SOURCE])
        fleet.wait_state(SOURCE, "in_rank", timeout_s=60)
        fleet.coordinator.stop()
        for name in names:
            fleet.nodes[name].start()
        fleet.wait(
            "all agents listen",
            lambda: [fleet.nodes[name].api.status("/-/healthy") for name in names],
            lambda found: all(status == 200 for status in found),
            timeout_s=60,
        )
        took = _together(fleet)
        fleet.assert_equal_trees()
        size = tree_size(fleet.pristine()).bytes
        served = {name: node.served_bytes() for name, node in fleet.nodes.items()}
    return _rows(took, size, served)


def _together(fleet: Fleet) -> float:
    """From the first that is resyncing to the last that is in rank."""
    waiting, began = set(fleet.nodes) - {SOURCE}, 0.0
    deadline = time.monotonic() + PATIENCE_S
    fleet.start_coordinator()
    events = EventReader(fleet.api)
    try:
        while waiting:
            found = events.take(0.5)
            now = time.monotonic()
            if found is not None and found[0] == "node" and found[1]["node"] in waiting:
                if found[1]["state"] == "resyncing" and not began:
                    began = now
                if found[1]["state"] == "in_rank":
                    waiting.discard(found[1]["node"])
            fleet.check_alive()
            if now > deadline:
                raise TimeoutError(f"not in rank after {PATIENCE_S:.0f} s: {sorted(waiting)}")
        return time.monotonic() - began
    finally:
        events.close()


def _rows(took: float, size: int, served: dict[str, float]) -> list[Measured]:
    moved = sum(served.values())
    givers = [count for name, count in served.items() if count and name != SOURCE]
    work = f"one source, {JOINERS} empty nodes"
    most = max(givers, default=0) / 1e6
    note = f"{size / 1e6:.0f} MB each; {len(givers)} of the {JOINERS} gave too, {most:.0f} MB at most"
    return [
        Measured(f"{work}: copies that the source gave", served[SOURCE] / size, "copies", JOINERS / 2, note),
        Measured(
            f"{work}: moved in all, against what was missing", moved / (JOINERS * size), "x", 1.1,
            "of each node every byte once",
        ),
        Measured(f"{work}: until all are in rank", took, "s", None, "all on this machine"),
    ]  # fmt: skip
