"""What a resync moves, against the bytes of the chunks that differ: one-shot rogues of several seeds."""

from __future__ import annotations

from pathlib import Path

from fleet import Fleet, Rogue, VolumeSpec, photo_tree, tree_size
from frame.measured import Measured
from frame.registry import Bench

ROUNDS = 4
SLACK_BYTES = 64 * 1024


def tree(root: Path) -> None:
    photo_tree(root, files=800, videos=12)


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    results: list[Measured] = []
    volume = VolumeSpec(settle_s=1.0, scan_interval_s=0.5)
    with Fleet(
        base / "transfer", 4, [volume], {"auto_release_max": 100, "recurrence_max": 1000}, tree=tree
    ) as fleet:
        fleet.start()
        fleet.wait_in_rank(timeout_s=60)
        total = tree_size(fleet.pristine()).bytes
        for seed in range(ROUNDS):
            node = fleet[seed]
            log = fleet.base / f"rogue-{seed}.log"
            rogue = Rogue(node.path(), log, seed=seed, alter=4 + 6 * seed, add=5, delete=2 * seed)
            rogue.wait()
            incident = fleet.wait_incident(node=node.name, state="closed", timeout_s=60)
            fleet.wait_in_rank()
            fleet.assert_equal_trees(nodes=[node.name])
            needed = rogue.damaged_bytes(fleet.pristine())
            results.append(
                Measured(
                    f"resync {seed + 1}: bytes moved",
                    incident["bytes_moved"],
                    "B",
                    1.1 * needed + SLACK_BYTES + 1,
                    f"{needed:,} B of chunks differed; {incident['bytes_moved'] / total:.2%} of the tree",
                )
            )
    return results
