"""Sixteen nodes of a million entries each in sync: the coordinator's memory and database; what churn leaves behind.

Memory counts from the first connection until all are in rank, and again at rest. Churn is measured on the store
alone, whose garbage collection is what it asks for: thousands of commits, each a root that a day later nobody
needs, and then how much of the database is left.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from closeranks_coordinator.storage.sqlite import open_store
from closeranks_coordinator.storage.store import Batch
from closeranks_proto.digests import XXH3_128
from closeranks_proto.tree import Tree
from fleet import VolumeSpec
from frame.measured import Measured
from frame.registry import Bench
from scale.generated import items, scattered
from scale.rig import MB, Rig

NODES = (8, 8)
REST_S = 10.0
CHURN_EDITS = 64
COMMITS_AT_ONCE = 50


def measure(bench: Bench) -> list[Measured]:
    return [*_in_sync(bench), *asyncio.run(_churn(bench))]


def _in_sync(bench: Bench) -> list[Measured]:
    volume = VolumeSpec(
        on_divergence="alert", settle_s=30.0, scan_interval_s=60.0, extra={"audit_interval_s": 0}
    )  # fmt: skip
    files = bench.either(1_000_000, 200_000)
    with Rig(bench.base / "memory", NODES, files, volume) as rig:
        began, cpu = time.monotonic(), rig.cpu_s
        rig.all("connect")
        rig.wait_in_rank()
        took, spent = time.monotonic() - began, rig.cpu_s - cpu
        time.sleep(REST_S)
        rig.check()
        files = round(rig.metric("closeranks_node_files") / sum(rig.shares))
        work = f"coordinator, {sum(rig.shares)} x {files:,} files in sync"
        return [
            Measured(
                f"{work}, most resident", round(rig.resident_mb(most=True), 1), "MB", 400,
                f"from connect to all in rank: {took:.1f} s, {spent:.1f} processor seconds",
            ),
            Measured(f"{work}, resident at rest", round(rig.resident_mb(), 1), "MB", 400),
            Measured(
                f"{work}, database", round(rig.metric("closeranks_store_database_bytes") / MB, 1), "MB", 150,
                f"{rig.metric('closeranks_store_objects'):,.0f} objects, with the write-ahead log",
            ),
        ]  # fmt: skip


async def _churn(bench: Bench) -> list[Measured]:
    files, commits = bench.either(200_000, 50_000), bench.either(1_000, 250)
    clock = [1000.0]
    directory = bench.base / "churn"
    store = open_store(directory, XXH3_128.name, mono=lambda: clock[0], wall_ms=lambda: int(clock[0] * 1000))
    try:
        tree = Tree(XXH3_128, store.object)
        made = tree.build(items(files))
        root = made.root
        await store.write(Batch(objects=made.pages, node_roots=[("n-0000", "photos", "id", 1, root)]))
        before = _megabytes(directory)
        rng = random.Random(3)
        objects: dict[bytes, bytes] = {}
        fresh = Tree(XXH3_128, lambda digest: objects.get(digest) or store.object(digest))
        for number in range(0, commits, COMMITS_AT_ONCE):
            objects.clear()
            roots: list[tuple[str, str, str, int, bytes]] = []
            for commit in range(number, number + COMMITS_AT_ONCE):
                edited = fresh.edit(root, scattered(rng, files, CHURN_EDITS, b"%d" % commit))
                objects.update(edited.pages)
                root = edited.root
                roots.append(("n-0000", "photos", "id", commit + 2, root))
            await store.write(Batch(objects=dict(objects), node_roots=roots))
        grown = _megabytes(directory)
        clock[0] += 2 * 86_400  # two epochs later nothing of it is young
        await store.collect([root], None)
        clock[0] += 86_400
        began = time.monotonic()
        report = await store.collect([root], int(clock[0] * 1000))
        took = time.monotonic() - began
        left = _megabytes(directory)
    finally:
        await store.close()
    note = (
        f"{before:,.0f} MB before, {grown:,.0f} MB after {commits:,} commits of {CHURN_EDITS} scattered edits; "
        f"{report.removed:,} objects removed in {took:.1f} s"
    )
    work = "database after churn and collection, of its size before"
    return [Measured(work, round(left / before, 2), "x", 1.5, note)]


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.glob("coordinator.sqlite*")) / MB
