"""A hundred files that differ between two trees of ten million: bytes on the wire until they are found.

One tree is in the coordinator's store, made there page by page; it was never in memory as a whole. Agents whose
trees are edits of it dial through a proxy that counts, announce, and answer what is asked. Then the
coordinator has to name exactly the paths that were changed.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp

from closeranks_coordinator.storage.sqlite import SqliteStore, open_store
from closeranks_coordinator.storage.store import Batch
from closeranks_proto.digests import XXH3_128
from closeranks_proto.edits import Press
from closeranks_proto.pages import Page
from closeranks_proto.tree import Tree
from fleet import CountingProxy, Fleet, VolumeSpec
from frame.measured import Measured
from frame.registry import Bench
from scale.agents import Agent
from scale.generated import Change, Forest, clustered, items, scattered
from scale.load import node_name

DIFFERENCES = 100
SPILL_BYTES = 8_000_000
BOUNDS = {"clustered": 50_000, "scattered": 2_000_000}


class Spill(dict[bytes, bytes]):
    """The pages of a tree that is being built, given to the store when they are many."""

    def __init__(self, store: SqliteStore, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._store, self._loop = store, loop
        self._size = 0

    def __setitem__(self, digest: bytes, blob: bytes) -> None:
        super().__setitem__(digest, blob)
        self._size += len(blob)
        if self._size > SPILL_BYTES:
            self.spill()

    def spill(self) -> None:
        """From the building thread; returns once all is on disk."""
        pages, self._size = dict(self), 0
        asyncio.run_coroutine_threadsafe(self._store.write(Batch(objects=pages)), self._loop).result()
        self.clear()


def measure(bench: Bench) -> list[Measured]:
    files = bench.either(10_000_000, 500_000)
    names = [node_name(number) for number in range(5)]
    volume = VolumeSpec(on_divergence="alert", settle_s=0.5, scan_interval_s=60.0, extra={"on_lag": "wait"})
    with Fleet(bench.base / "wire", names, [volume]) as fleet:
        same, others = asyncio.run(_grow(fleet.state_dir, files))
        fleet.start_coordinator()
        proxy = CountingProxy(fleet.agents_port)
        try:
            return asyncio.run(_exchange(fleet, proxy, same, others))
        finally:
            proxy.close()


async def _grow(state_dir: Path, files: int) -> tuple[Forest, dict[str, tuple[Forest, list[Change]]]]:
    """The tree in the store; and by kind another one, of which only the pages that differ are held."""
    store = open_store(state_dir, XXH3_128.name)
    loop = asyncio.get_running_loop()

    def build() -> bytes:
        press = Press(XXH3_128, _no_page)
        press.pages = spill = Spill(store, loop)
        root = press.build(items(files))
        spill.spill()
        return root

    try:
        root = await asyncio.to_thread(build)
        tree = Tree(XXH3_128, store.object)
        entries = tree.summary(root).entries
        rng = random.Random(7)
        others: dict[str, tuple[Forest, list[Change]]] = {}
        for kind, pick in (("clustered", clustered), ("scattered", scattered)):
            changes = pick(rng, files, DIFFERENCES, b"changed")
            made = tree.edit(root, changes)
            others[kind] = Forest(made.root, entries, made.pages, files, 0), changes
        return Forest(root, entries, {}, files, 0), others
    finally:
        await store.close()


def _no_page(_: bytes) -> Page:
    raise AssertionError("a tree that is built reads no page")


async def _exchange(
    fleet: Fleet, proxy: CountingProxy, same: Forest, others: dict[str, tuple[Forest, list[Change]]]
) -> list[Measured]:
    results: list[Measured] = []
    async with aiohttp.ClientSession() as http:
        agents = [Agent(node_name(number), number, same) for number in range(3)]
        for agent in agents:  # a majority has the tree that is stored
            await agent.connect(http, proxy.port)
        first = proxy.total
        for number, (kind, (forest, changes)) in enumerate(others.items(), 3):
            proxy.reset()
            agent = Agent(node_name(number), number, forest)
            await agent.connect(http, proxy.port)
            said = proxy.total
            agents.append(agent)
            await asyncio.to_thread(_check, fleet, agent.name, changes)
            results.append(
                Measured(
                    f"{DIFFERENCES} of {forest.entries:,} entries differ, {kind}: bytes to find them", said, "B",
                    BOUNDS[kind] + 1, "both directions, from connect to acknowledged",
                )
            )  # fmt: skip
        await asyncio.gather(*(agent.close() for agent in agents))
    results.append(Measured("three nodes whose tree is known already", first, "B", None, "in all"))
    return results


def _check(fleet: Fleet, node: str, changes: list[Change]) -> None:
    """The coordinator names exactly what was changed."""
    fleet.wait(
        "its difference is known",
        lambda: fleet.api.node(node)["volumes"][0]["differing_paths"],
        lambda count: count == len(changes),
        timeout_s=60,
    )
    found = {one["path"] for one in fleet.api.diff("photos", node)}
    assert found == {key.replace(b"\0", b"/").decode() for key, _ in changes}, f"{node}: {sorted(found)[:5]}"
