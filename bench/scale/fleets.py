"""Fleets of 100 and of 1,000 nodes over real sessions: storms of connecting, changes that come at once, one after the
other and in masses, rest, the API.

The loop's longest block is what the coordinator tells of its own event loop, which it looks at fifty times a second
while anything happens; the figure is the least bound of its histogram that no look went beyond. The slowest answer to
a stream of small questions is measured from outside, all the time: it has the network and the other processes in it.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fleet import Api, VolumeSpec
from frame.measured import Measured
from frame.registry import Bench
from scale.rig import Rig, latest

FILES = 10_000
SETTLE_S = 0.5
REST_S = 15.0
ASK_EVERY_S = 0.02
PROCESSES = 2
VERDICT_MAX_S = 1 + SETTLE_S
BLOCK_MAX_MS = 101  # the histogram's bound of 100 ms is within it
ROLL_S = 8.0
MASS_STEPS = 10
MASS_EDITS = 64


class Slowest:
    """Asks `/-/healthy` all the time; the longest that an answer took, in seconds."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()
        self._most = 0.0
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def take(self) -> float:
        """The most since the last time."""
        found, self._most = self._most, 0.0
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._api.host, self._api.port, timeout=30)
        while not self._stop.wait(ASK_EVERY_S):
            began = time.monotonic()
            connection.request("GET", "/-/healthy")
            connection.getresponse().read()
            self._most = max(self._most, time.monotonic() - began)
        connection.close()


def measure(bench: Bench) -> list[Measured]:
    sizes = (100,) if bench.quick else (100, 1000)
    return [row for nodes in sizes for row in _fleet(bench.base / str(nodes), nodes)]


def _fleet(base: Path, nodes: int) -> list[Measured]:
    volume = VolumeSpec(
        on_divergence="alert",
        settle_s=SETTLE_S,
        scan_interval_s=60.0,
        extra={"on_lag": "wait", "audit_interval_s": 0},
    )
    shares = [nodes // PROCESSES] * PROCESSES
    with Rig(base, shares, FILES, volume) as rig:
        slowest = Slowest(rig.fleet.api)
        empty_mb = rig.resident_mb()
        try:
            return [
                *_storm(rig, slowest, empty_mb),
                *_rest(rig, slowest),
                *_blocks(
                    rig, slowest, f"one change on all {nodes} nodes, until all are in rank again", _change
                ),
                *_blocks(rig, slowest, f"all {nodes} nodes connect anew, until all are in rank", _reconnect),
                *_blocks(rig, slowest, f"a change rolls over {nodes} nodes, until all are in rank", _roll),
                *_blocks(
                    rig, slowest, f"{MASS_STEPS} commits of {MASS_EDITS} files on all {nodes} nodes", _mass
                ),
                *_verdict(rig, slowest),
                *_answers(rig),
            ]
        finally:
            slowest.close()
            rig.check()


def _storm(rig: Rig, slowest: Slowest, empty_mb: float) -> list[Measured]:
    nodes = sum(rig.shares)
    wakes, began, cpu = rig.wakes(), time.monotonic(), rig.cpu_s
    rig.all("connect")
    connected = time.monotonic() - began
    rig.wait_in_rank()
    took, spent = time.monotonic() - began, rig.cpu_s - cpu
    each = (rig.resident_mb() - empty_mb) / nodes * 1000
    return [
        Measured(
            f"{nodes} nodes connect at once, until all are in rank", round(took, 2), "s", None,
            f"connected after {connected:.1f} s; {spent:.2f} processor seconds of the coordinator; slowest answer "
            f"meanwhile {slowest.take() * 1000:.0f} ms",
        ),
        Measured("  the loop's longest block", round(latest(wakes, rig.wakes()) * 1000), "ms", BLOCK_MAX_MS),
        Measured(
            f"{nodes} nodes, coordinator's memory for each session", round(each), "kB", 200,
            f"{rig.resident_mb():.0f} MB in all, {empty_mb:.0f} MB before",
        ),
    ]  # fmt: skip


def _rest(rig: Rig, slowest: Slowest) -> list[Measured]:
    nodes = sum(rig.shares)
    time.sleep(2)
    slowest.take()
    wakes, cpu, began = rig.wakes(), rig.cpu_s, time.monotonic()
    time.sleep(REST_S)
    share = (rig.cpu_s - cpu) / (time.monotonic() - began)
    return [
        Measured(
            f"{nodes} nodes at rest, of a core", round(share * 100, 1), "%", 25,
            f"slowest answer meanwhile {slowest.take() * 1000:.0f} ms",
        ),
        Measured("  the loop's longest block", round(latest(wakes, rig.wakes()) * 1000), "ms", BLOCK_MAX_MS),
    ]  # fmt: skip


def _blocks(rig: Rig, slowest: Slowest, work: str, do: Callable[[Rig], None]) -> list[Measured]:
    """How long something takes, and the longest block of the coordinator's loop meanwhile."""
    slowest.take()
    wakes, began, cpu = rig.wakes(), time.monotonic(), rig.cpu_s
    do(rig)
    took, spent = time.monotonic() - began, rig.cpu_s - cpu
    note = f"{spent:.2f} processor seconds; slowest answer meanwhile {slowest.take() * 1000:.0f} ms"
    late_ms = latest(wakes, rig.wakes()) * 1000
    return [
        Measured(work, round(took, 2), "s", None, note),
        Measured("  the loop's longest block", round(late_ms), "ms", BLOCK_MAX_MS),
    ]


def _change(rig: Rig) -> None:
    """One file changes on all nodes, as the site's own replication brings it."""
    rig.all("prepare", steps=1, edits=1, spread=False)
    truth = _truth(rig)
    rig.all("commit", first=0, steps=1, edits=1, rate=None, spread=False)
    _moved_from(rig, truth)


def _reconnect(rig: Rig) -> None:
    """As after a restart of a switch."""
    rig.all("drop")
    rig.all("connect")
    rig.wait_in_rank(every_s=0.05)


def _roll(rig: Rig) -> None:
    """The same files, node after node."""
    truth = _truth(rig)
    rig.all("prepare", steps=2, edits=MASS_EDITS, spread=False)
    rig.all("roll", number=1, edits=MASS_EDITS, apart_s=ROLL_S / max(rig.shares))
    _moved_from(rig, truth)


def _mass(rig: Rig) -> None:
    truth = _truth(rig)
    rig.all("prepare", steps=2 + MASS_STEPS, edits=MASS_EDITS, spread=False)
    rig.all("commit", first=2, steps=MASS_STEPS, edits=MASS_EDITS, rate=None, spread=False)
    _moved_from(rig, truth)


def _truth(rig: Rig) -> object:
    return rig.fleet.api.get("/api/v1/volumes/photos")["truth_root"]


def _moved_from(rig: Rig, truth: object) -> None:
    """The truth is another one, and all are in rank."""
    rig.fleet.wait("the truth has moved", lambda: _truth(rig), lambda root: root != truth, timeout_s=60)
    rig.wait_in_rank(every_s=0.05)


def _verdict(rig: Rig, slowest: Slowest) -> list[Measured]:
    nodes = sum(rig.shares)
    slowest.take()
    began = time.monotonic()
    rig.loads[0].do("stray")
    rig.fleet.wait("the rogue is named", lambda: rig.fleet.api.incidents(kind="divergence"), timeout_s=60)
    took = time.monotonic() - began
    return [
        Measured(
            f"{nodes} nodes, a rogue's write right after that -> named", round(took, 2), "s", VERDICT_MAX_S,
            f"settle_s = {SETTLE_S:g}; every other node is asked to look; slowest answer meanwhile "
            f"{slowest.take() * 1000:.0f} ms",
        )
    ]  # fmt: skip


def _answers(rig: Rig) -> list[Measured]:
    """What people and programs ask; a small question asked beside it tells how long it holds up the rest."""
    nodes = sum(rig.shares)
    rows: list[Measured] = []
    for path in ("/api/v1/fleet", "/metrics"):
        beside = Slowest(rig.fleet.api)
        taken: list[float] = []
        for _ in range(5):
            began = time.monotonic()
            size = len(rig.fleet.api.text(path))
            taken.append(time.monotonic() - began)
        beside.close()
        note = f"{size:,} B; slowest small answer beside it {beside.take() * 1000:.0f} ms"
        rows.append(Measured(f"{nodes} nodes, {path}", round(sorted(taken)[2] * 1000, 1), "ms", None, note))
    began = time.monotonic()
    rig.fleet.run("status")
    rows.append(
        Measured(
            f"{nodes} nodes, closeranks status",
            round(time.monotonic() - began, 2),
            "s",
            2,
            "the whole command",
        )
    )
    return rows
