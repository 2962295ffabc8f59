"""Sixteen nodes with 100,000 entries each: the coordinator's memory, and what its store holds.

The trees are hard links of one: contents and entries are equal, as in a fleet in rank.
"""

from __future__ import annotations

import re
import time

from fleet import Fleet, VolumeSpec, tree_size
from fleet.trees import link_trees, many_files
from frame.measured import Measured
from frame.registry import Bench

NODES = 16
ENTRIES = 100_000
MB = 1_000_000


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    volume = VolumeSpec(on_divergence="alert", settle_s=30.0, scan_interval_s=120.0)
    with Fleet(base / "memory", NODES, [volume], tree=lambda root: many_files(root, ENTRIES)) as fleet:
        pristine = fleet.pristine()
        entries = tree_size(pristine).entries
        for node in fleet.nodes.values():
            place = node.paths["photos"] = node.base / "photos"
            place.parent.mkdir(parents=True)
            link_trees(pristine, [place])
        names = list(fleet.nodes)
        fleet.start(nodes=names[:1])
        fleet.wait(
            "the first node's tree is stored",
            lambda: fleet.api.node(names[0])["volumes"][0]["root"],
            timeout_s=120,
        )
        one = stored(fleet)
        began = time.monotonic()
        for name in names[1:]:
            fleet.nodes[name].start()
        fleet.wait_in_rank(timeout_s=600)
        took = time.monotonic() - began
        all_of_them = stored(fleet)
        most = fleet.coordinator.resident_bytes("VmHWM") / MB
        agents = [node.daemon.resident_bytes() / MB for node in fleet.nodes.values()]
    return [
        Measured(
            "coordinator, most resident", round(most, 1), "MB", 300,
            f"{NODES} nodes of {entries:,} entries, from start to all in rank ({took:.0f} s)",
        ),
        Measured("objects stored after one node", one, "objects", None),
        Measured("objects stored more for fifteen others", all_of_them - one, "objects", 1, "each page is stored once"),
        Measured("agents, most resident of all", round(max(agents), 1), "MB", 80),
    ]  # fmt: skip


def stored(fleet: Fleet) -> int:
    """The store's own count, from /metrics."""
    found = re.search(r"^closeranks_store_objects (\S+)", fleet.api.text("/metrics"), re.MULTILINE)
    if found is None:
        raise RuntimeError("/metrics has no closeranks_store_objects")
    return int(float(found[1]))
