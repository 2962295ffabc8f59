"""The play: sixteen in rank, a rogue, the naming, the fence, the way back. Every act is checked.

`Unexpected` says what was to happen and what was seen instead. Times come from the incident's timeline
and from the rogue's own log; both are this machine's clock.
"""

from __future__ import annotations

import base64
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from demo.screen import Screen, amount
from demo.stage import VOLUME, scan_interval_s
from demo.watch import StateChange, TimelineEvent, Watch
from fleet import EventReader, Fleet, Rogue
from fleet.trees import TreeSize

STYLES = {
    "detected": "yellow",
    "named": "bold yellow",
    "fenced": "bold red",
    "resync_started": "blue",
    "resynced": "bold blue",
    "recurrence": "bold yellow",
    "verified": "magenta",
    "released": "bold green",
}
SHOWN_PATHS = 8


class Unexpected(Exception):
    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected: {expected}; seen: {seen}")
        self.expected, self.seen = expected, seen


@dataclass(slots=True)
class Outcome:
    """What happened, for the table and the verdict. Times are Unix seconds."""

    node: str = ""
    incident: Any = None
    written_at: float = 0.0
    rogue_stopped_at: float = 0.0
    at: dict[str, float] = field(default_factory=dict)  # the first of each timeline event
    lb_while_fenced: int | None = None
    fence_token: int | None = None
    differing_bytes: int | None = None  # as the coordinator counted them when the node was named
    seconds: float = 0.0  # from the first agent's start to the last release
    states_seen: list[str] = field(default_factory=list)


class Play:
    def __init__(self, fleet: Fleet, size: TreeSize, screen: Screen, seed: int) -> None:
        self.fleet, self.size, self.screen = fleet, size, screen
        self.rng = random.Random(seed)
        self.seed = seed
        self.outcome = Outcome()
        self.rogue: Rogue | None = None
        # Scans, hashing and the judge's waiting all grow with the tree.
        self.patience_s = 60.0 + 12 * scan_interval_s(size.entries) + size.bytes * 17 / 200e6
        self.watch = Watch(fleet.api, EventReader(fleet.api))
        self._started = 0.0
        self._paths_shown: set[str] = set()
        self._unconfirmed_told = False

    def close(self) -> None:
        self.watch.reader.close()
        if self.rogue is not None:
            self.rogue.stop()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._started if self._started else 0.0

    # --- acts --------------------------------------------------------------------------------------

    def form_ranks(self) -> None:
        """Sixteen agents scan their copies; all must come to one root."""
        self.screen.clock()
        self._started = time.monotonic()
        for node in self.fleet.nodes.values():
            node.start()
        self.screen.say(f"{len(self.fleet.nodes)} agents started; each scans its own copy")
        self._follow(
            "all sixteen in rank",
            lambda: bool(self.watch.fleet and self.watch.fleet["in_rank"]),
            lambda: "first scans",
            lambda: f"states {self._states()}",
        )
        roots = {v["root"] for node in self.watch.nodes.values() for v in node["volumes"]}
        if len(roots) != 1 or None in roots:
            raise Unexpected("one root on all sixteen", f"roots {roots}")
        compared = self.watch.fleet["coverage"]
        self.screen.say(
            f"all sixteen in rank: root {roots.pop()[:16]}…, {compared['compared']}/{compared['expected']} compared",
            "bold green",
        )

    def break_ranks(self) -> None:
        """A process of its own begins to write on one node chosen at random."""
        node = self.rng.choice(list(self.fleet.nodes.values()))
        self.outcome.node = node.name
        log = self.fleet.base / "rogue.log"
        self.rogue = Rogue(
            node.path(VOLUME), log, rewrite=True, every_s=0.3, seed=self.seed, alter=6, add=4, delete=3
        )
        rogue = self.rogue
        self._follow(
            "the rogue writes", lambda: rogue.first_write_at() is not None, lambda: "", lambda: "no write"
        )
        self.outcome.written_at = rogue.first_write_at() or 0.0
        self.screen.say(
            f"a rogue process (pid {rogue.process.pid}) writes into the tree of {node.name}", "bold red"
        )
        self.screen.detail(
            "alters bytes inside 6 files, adds 4, deletes 3, and writes index.lock every 0.3 s"
        )

    def name_and_fence(self) -> None:
        self._follow(
            f"{self.outcome.node} named and fenced",
            lambda: "fenced" in self.outcome.at and self._fenced_seen(),
            lambda: "unconfirmed, or being judged",
            self._about_node,
        )

    def see_recurrence(self) -> None:
        """The rogue still writes: what was repaired comes back, and is to be named as a recurrence."""
        rogue = self._running_rogue()
        self._follow(
            "a resync, and the rogue's file named as a recurrence",
            lambda: "resynced" in self.outcome.at and self._recurred(),
            self._progress,
            self._about_node,
        )
        code = rogue.stop()
        self.outcome.rogue_stopped_at = time.time()
        if code != 0:
            raise Unexpected("the rogue ends at SIGTERM", f"exit code {code}")
        turns = sum(1 for deed in rogue.deeds() if deed["deed"] == "rewrite")
        self.screen.say(f"the rogue is stopped; it had written its file {turns} times", "bold")

    def return_to_rank(self) -> None:
        def done() -> bool:
            return (
                "released" in self.outcome.at
                and bool(self.watch.fleet and self.watch.fleet["in_rank"])
                and all(state == "in_rank" for state in self.watch.states.values())
                and self._incident() is not None
                and self._incident()["state"] == "closed"
            )

        self._follow("verification, release, and all sixteen in rank", done, self._progress, self._about_node)
        # Up to the release itself; noticing it takes us a moment longer.
        late_s = max(0.0, time.time() - self.outcome.at["released"])
        self.outcome.seconds = time.monotonic() - self._started - late_s
        self.outcome.incident = self.fleet.api.incident(self._incident()["id"])
        self.screen.say("all sixteen in rank again", "bold green")

    # --- following ---------------------------------------------------------------------------------

    def _follow(
        self,
        expected: str,
        done: Callable[[], bool],
        note: Callable[[], str],
        seen: Callable[[], str],
    ) -> None:
        """Tell the news until `done`."""
        deadline = time.monotonic() + self.patience_s
        while True:
            for news in self.watch.turn():
                self._tell(news)
            self._tell_unconfirmed()
            if done():
                self.screen.still()
                return
            self.fleet.check_alive()
            if time.monotonic() > deadline:
                self.screen.still()
                raise Unexpected(f"{expected}, within {self.patience_s:.0f} s", seen())
            self.screen.show(self.watch.states, note())

    def _tell(self, news: StateChange | TimelineEvent) -> None:
        if isinstance(news, StateChange):
            self._tell_state(news)
            return
        if news.node != self.outcome.node:
            self.screen.say(f"{news.node or 'the fleet'}: {news.kind}: {news.text}", "yellow")
            return
        self.outcome.at.setdefault(news.event, unix(news.at))
        self.screen.say(f"{news.event.replace('_', ' ')}: {news.text}", STYLES.get(news.event, ""))
        if news.event in ("named", "recurrence"):
            self._tell_paths(news.incident)

    def _tell_unconfirmed(self) -> None:
        """Once, before the naming: something differs, and nobody is accused yet."""
        view = self.watch.nodes.get(self.outcome.node)
        if view is None or self._unconfirmed_told or "named" in self.outcome.at:
            return
        count = view["volumes"][0]["differing_paths"]
        if count:
            self._unconfirmed_told = True
            self.screen.say(
                f"divergence seen: {view['node']} differs in {count} paths; unconfirmed while it settles"
            )

    def _tell_state(self, news: StateChange) -> None:
        if news.node != self.outcome.node:
            return
        self.outcome.states_seen.append(news.after)
        view = self.watch.nodes[news.node]
        if news.after == "suspect" or self.outcome.differing_bytes is None:
            self.outcome.differing_bytes = view["volumes"][0]["differing_bytes"]

    def _tell_paths(self, identity: str) -> None:
        incident = self.fleet.api.incident(identity)
        fresh = [p for p in incident["paths"] if p["path"] not in self._paths_shown]
        for path in fresh[:SHOWN_PATHS]:
            self.screen.detail(f"{path['change']:<9} {path['path']}{_chunks(path)}", "")
        if len(fresh) > SHOWN_PATHS:
            self.screen.detail(f"and {len(fresh) - SHOWN_PATHS} more")
        self._paths_shown.update(p["path"] for p in incident["paths"])

    # --- what is known -----------------------------------------------------------------------------

    def _incident(self) -> Any:
        """The divergence incident about the rogue's node."""
        mine = [i for i in self.watch.incidents.values() if i["node"] == self.outcome.node]
        kinds = [i for i in mine if i["kind"] in ("divergence", "regression")]
        return kinds[0] if kinds else None

    def _recurred(self) -> bool:
        mine = [i for i in self.watch.incidents.values() if i["node"] == self.outcome.node]
        return "recurrence" in self.outcome.at or any(i["recurrences"] for i in mine)

    def _fenced_seen(self) -> bool:
        """Note the fence and what a load balancer is told, while it stands."""
        view = self.watch.nodes[self.outcome.node]
        fence = view["quarantine"]
        if fence is None:
            return False
        self.outcome.fence_token = fence["fence_token"]
        self.outcome.lb_while_fenced = self.fleet.api.lb(self.outcome.node)
        return True

    def _progress(self) -> str:
        view = self.watch.nodes.get(self.outcome.node)
        if view is None:
            return ""
        running = next((v["progress"] for v in view["volumes"] if v["progress"]), None)
        if running is None:
            return str(view["state"]).replace("_", " ")
        moved, left = running.get("bytes_moved", 0), running.get("bytes_remaining", 0)
        share = f"{moved / self.size.bytes:.2%}" if self.size.bytes else "0%"
        return (
            f"{running.get('phase', '')}: {amount(moved)} moved, {amount(left)} to go; "
            f"{share} of the tree's {amount(self.size.bytes)}"
        )

    def _running_rogue(self) -> Rogue:
        if self.rogue is None or not self.rogue.alive:
            raise Unexpected("the rogue writes until it is stopped", "it has ended")
        return self.rogue

    def _states(self) -> str:
        count: dict[str, int] = {}
        for state in self.watch.states.values():
            count[state] = count.get(state, 0) + 1
        return ", ".join(f"{n} {state}" for state, n in sorted(count.items())) or "no answer"

    def _about_node(self) -> str:
        view = self.watch.nodes.get(self.outcome.node, {})
        volume = (view.get("volumes") or [{}])[0]
        told = ", ".join(self.outcome.at) or "none"
        return (
            f"{self.outcome.node} is {view.get('state')}, {volume.get('differing_paths')} paths differ, "
            f"{volume.get('unconfirmed_paths')} unconfirmed, problem {volume.get('problem')}; "
            f"events so far: {told}; fleet: {self._states()}"
        )


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _chunks(path: Any) -> str:
    ranges = path.get("chunks") or []
    if not ranges:
        return ""
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges[:6])
    return f"  (chunk{'' if shown.isdigit() else 's'} {shown})"


def named_paths(incident: Any) -> set[bytes]:
    return {base64.b64decode(path["path_b64"]) for path in incident["paths"]}


def seconds_up(value: float) -> int:
    return math.ceil(value)
