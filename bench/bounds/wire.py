"""One agent with 100,000 entries: what it says on the wire, what it holds in memory, what it costs at rest.

The agent reaches its coordinator through a proxy that counts TCP payload of both directions.
"""

from __future__ import annotations

import re
import time

from fleet import CountingProxy, Fleet, Node, VolumeSpec, tree_size
from fleet.trees import link_trees, many_files
from frame.measured import Measured
from frame.registry import Bench

ENTRIES = 100_000
REST_S = 20.0
MB = 1_000_000


def measure(bench: Bench) -> list[Measured]:
    base = bench.base
    volume = VolumeSpec(on_divergence="alert", settle_s=1.0, scan_interval_s=30.0)
    with Fleet(base / "wire", 3, [volume], tree=lambda root: many_files(root, ENTRIES)) as fleet:
        proxy = CountingProxy(fleet.agents_port)
        node = fleet[0]
        node.coordinator_port = proxy.port
        _link(fleet)
        entries = tree_size(fleet.pristine()).entries
        fleet.start()
        fleet.wait_in_rank(timeout_s=180)
        first = proxy.total
        results = [
            Measured(
                f"first contact, {entries:,} entries", first, "B", None, "pages that nobody had sent yet"
            )
        ]
        results += _rest(fleet, node, proxy)
        results.append(_reconnect(fleet, node, proxy))
        results.append(_one_change(fleet, node, proxy))
        proxy.close()
    return results


def _link(fleet: Fleet) -> None:
    """Hard links instead of copies: nothing here writes into a file in place."""
    pristine = fleet.pristine()
    for node in fleet.nodes.values():
        place = node.paths["photos"] = node.base / "photos"
        place.parent.mkdir(parents=True)
        link_trees(pristine, [place])


def _scans(node: Node) -> int:
    """Complete scans of this agent since it started, by its own /metrics."""
    found = re.search(
        r"^closeranks_agent_scan_seconds_count\S* (\S+)", node.api.text("/metrics"), re.MULTILINE
    )
    return int(float(found[1])) if found else 0


def _await_scan(fleet: Fleet, node: Node) -> None:
    before = _scans(node)
    fleet.wait("the next scan", lambda: _scans(node), lambda seen: seen > before, timeout_s=90)


def _rest(fleet: Fleet, node: Node, proxy: CountingProxy) -> list[Measured]:
    _await_scan(fleet, node)
    time.sleep(3)  # what follows a scan, such as its beat and status, is over
    scans = _scans(node)
    proxy.reset()
    cpu, started = node.daemon.cpu_s(), time.monotonic()
    time.sleep(REST_S)
    spent = time.monotonic() - started
    share = (node.daemon.cpu_s() - cpu) / spent * 100
    said = proxy.total / spent
    assert _scans(node) == scans, "no scan may fall into the time of rest"
    resident = node.daemon.resident_bytes() / MB
    return [
        Measured(
            "agent at rest, resident", round(resident, 1), "MB", 80, f"{ENTRIES:,} entries, after two scans"
        ),
        Measured(
            "agent, most resident so far", round(node.daemon.resident_bytes("VmHWM") / MB, 1), "MB", None
        ),
        Measured("agent at rest, of a core", round(share, 2), "%", 1, f"{REST_S:.0f} s between two scans"),
        Measured("agent at rest, on the wire", round(said), "B/s", 200, "both directions"),
    ]


def _reconnect(fleet: Fleet, node: Node, proxy: CountingProxy) -> Measured:
    node.daemon.stop()
    fleet.wait_state(node, "unreachable")
    proxy.reset()
    node.start()
    fleet.wait_state(node, "in_rank", timeout_s=90)
    return Measured(
        "reconnect, nothing changed", proxy.total, "B", 10_000,
        f"{ENTRIES:,} entries; both directions, from connect to in rank",
    )  # fmt: skip


def _one_change(fleet: Fleet, node: Node, proxy: CountingProxy) -> Measured:
    _await_scan(fleet, node)
    time.sleep(3)
    victim = node.path() / "01" / "0021" / "007-0021.dat"
    replacement = victim.with_suffix(".new")
    replacement.write_bytes(b"one changed file")
    proxy.reset()
    replacement.rename(victim)
    fleet.wait(
        "one path differs",
        lambda: fleet.api.node(node.name)["volumes"][0],
        lambda volume: (volume["differing_paths"] or 0) + (volume["unconfirmed_paths"] or 0) > 0,
        timeout_s=90,
    )
    time.sleep(1)
    return Measured(
        "one changed file, to the coordinator", proxy.up, "B", 2_000, "with the beats of the wait"
    )
