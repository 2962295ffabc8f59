"""A coordinator and its agents as real processes under one directory, on loopback.

Layout: `pristine/VOLUME`, `nodes/NODE/VOLUME`, `nodes/NODE/state`, `coordinator/`, `logs/`, `*.toml`.
At the end every log is read: a traceback or an abandoned task anywhere fails the test that used it.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from fleet.api import Api
from fleet.compare import Difference, compare_trees, manifest
from fleet.config import CoordinatorSpec, Value, VolumeSpec, agent_toml
from fleet.process import Daemon, free_port, program, run_program
from fleet.trees import copy_trees, small_tree
from fleet.waiting import wait_until

T = TypeVar("T")
FAULTS = re.compile(
    r"Traceback \(most recent call last\)|Task exception was never retrieved|was never awaited"
    r"|Unclosed client session|Fatal Python error|Task was destroyed but it is pending"
)


class Node:
    """One node: its agent's process, its trees, its state."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet, self.name = fleet, name
        self.base = fleet.base / "nodes" / name
        self.state_dir = self.base / "state"
        self.port = free_port()
        self.paths: dict[str, Path] = {}
        self.hooks: dict[str, Value] = {}
        self.volume_extra: dict[str, dict[str, Value]] = {}
        self.agent_extra: dict[str, Value] = {}
        self.reactions: dict[str, Value] = {}
        self.host = "127.0.0.1"
        self.coordinator_port: int | None = None  # another door to the coordinator: a proxy
        self.config = fleet.base / f"{name}.toml"
        log = fleet.logs / f"{name}.log"
        self.daemon = Daemon(name, [program(), "agent", "--config", str(self.config)], log, fleet.leashed)

    def path(self, volume: str | None = None) -> Path:
        """The root of a volume's tree here; the fleet's first volume by default."""
        return self.paths[volume or self.fleet.volumes[0].name]

    @property
    def api(self) -> Api:
        """The agent's own port."""
        return Api(self.port, self.host)

    def metric(self, name: str) -> float:
        """The sum over all labels of a metric that its agent serves; 0 where it does not."""
        found = re.findall(
            rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", self.api.text("/metrics"), re.MULTILINE
        )
        return sum(map(float, found))

    def served_bytes(self) -> float:
        """Chunk payload that it has given to peers."""
        return self.metric("closeranks_agent_served_bytes_total")

    def write_config(self) -> None:
        door = self.coordinator_port or self.fleet.agents_port
        text = agent_toml(
            self.name, door, self.port, self.state_dir, self.paths, self.hooks, self.volume_extra,
            self.agent_extra, self.reactions, self.fleet.host, self.host,
        )  # fmt: skip
        self.config.write_text(text)

    def start(self) -> None:
        self.write_config()
        self.daemon.start()

    def restart(self) -> None:
        self.daemon.stop()
        self.start()


class Fleet:
    """`with Fleet(base, nodes=4) as fleet: fleet.start(); fleet.wait_in_rank()`."""

    def __init__(
        self,
        base: Path,
        nodes: int | list[str] = 4,
        volumes: list[VolumeSpec] | None = None,
        fleet: dict[str, Value] | None = None,
        tree: Callable[[Path], None] = small_tree,
        api_port: int | None = None,
        leashed: bool = True,
        guards: dict[str, Value] | None = None,
        speed: dict[str, Value] | None = None,
    ) -> None:
        """`guards` and `speed` are coordinator.toml's tables of these names."""
        self.base, self.leashed = base, leashed
        self.logs = base / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        names = [f"node-{n + 1:02}" for n in range(nodes)] if isinstance(nodes, int) else nodes
        self.volumes = volumes or [VolumeSpec()]
        self.fleet_keys: dict[str, Value] = fleet or {}
        self.tables = {name: keys for name, keys in (("guards", guards), ("speed", speed)) if keys}
        self.host = "127.0.0.1"  # where agents reach the coordinator
        self.listed = list(names)  # the nodes that coordinator.toml names
        self.agents_port = free_port()
        self.api = Api(api_port or free_port())
        self.state_dir = base / "coordinator"
        self.config = base / "coordinator.toml"
        argv = [program(), "coordinator", "--config", str(self.config)]
        self.coordinator = Daemon("coordinator", argv, self.logs / "coordinator.log", leashed)
        self.nodes: dict[str, Node] = {name: Node(self, name) for name in names}
        self._tree = tree
        self.started_mono = 0.0
        self.allowed_faults: list[str] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
            self.check_logs()
        else:
            self.kill()

    def __getitem__(self, number: int) -> Node:
        return list(self.nodes.values())[number]

    @property
    def daemons(self) -> list[Daemon]:
        return [self.coordinator, *(node.daemon for node in self.nodes.values())]

    # --- set-up ------------------------------------------------------------------------------------

    def pristine(self, volume: str | None = None) -> Path:
        """What the volume's tree is to be; made once, never given to an agent."""
        name = volume or self.volumes[0].name
        place = self.base / "pristine" / name
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            self._tree(place)
        return place

    def volume_nodes(self, volume: VolumeSpec) -> list[str]:
        return volume.nodes if volume.nodes is not None else list(self.nodes)

    def lay_trees(self) -> None:
        """A copy of each volume's tree on each of its nodes, unless the node has it already."""
        for volume in self.volumes:
            targets = []
            for name in self.volume_nodes(volume):
                node = self.nodes[name]
                place = node.paths.setdefault(volume.name, node.base / volume.name)
                if not place.exists():
                    targets.append(place)
            copy_trees(self.pristine(volume.name), targets)

    def write_coordinator_config(self) -> None:
        spec = CoordinatorSpec(
            self.agents_port, self.api.port, self.state_dir, self.listed, self.volumes, self.fleet_keys,
            self.tables, self.host,
        )  # fmt: skip
        self.config.write_text(spec.toml())

    def start_coordinator(self) -> None:
        self.write_coordinator_config()
        self.coordinator.start()
        self.wait(
            "the coordinator is ready", lambda: self.api.status("/-/ready"), lambda status: status == 200
        )

    def start(self, nodes: Iterable[str] | None = None) -> None:
        """Trees, coordinator, agents (all, or those named)."""
        self.lay_trees()
        self.start_coordinator()
        self.started_mono = time.monotonic()
        for name in nodes if nodes is not None else self.nodes:
            self.nodes[name].start()

    def add_node(self, name: str, tree: bool = True) -> Node:
        """A node that coordinator.toml will list at the next reload; not started."""
        node = self.nodes[name] = Node(self, name)
        self.listed.append(name)
        for volume in self.volumes:
            if volume.nodes is not None and name not in volume.nodes:
                continue
            place = node.paths[volume.name] = node.base / volume.name
            if tree:
                copy_trees(self.pristine(volume.name), [place])
            else:
                place.mkdir(parents=True)
        return node

    def reload(self) -> None:
        self.write_coordinator_config()
        self.api.post("/-/reload")

    # --- waiting -----------------------------------------------------------------------------------

    def check_alive(self) -> None:
        for daemon in self.daemons:
            daemon.check_alive()

    def wait(
        self, what: str, look: Callable[[], T], accept: Callable[[T], Any] = bool, timeout_s: float = 30.0
    ) -> T:
        return wait_until(what, look, accept, timeout_s, every_s=0.1, guard=self.check_alive)

    def wait_in_rank(self, timeout_s: float = 40.0) -> Any:
        """Every node in rank, everything compared."""

        def brief() -> dict[str, Any]:
            fleet = self.api.fleet()
            states = {node["node"]: node["state"] for node in fleet["nodes"]}
            return {"in_rank": fleet["in_rank"], "coverage": fleet["coverage"], "states": states}

        self.wait("all nodes in rank", brief, lambda seen: seen["in_rank"], timeout_s)
        return self.api.fleet()

    def wait_state(self, node: Node | str, *states: str, timeout_s: float = 30.0) -> Any:
        name = node if isinstance(node, str) else node.name
        what = f"{name} is {' or '.join(states)}"
        return self.wait(what, lambda: self.api.node(name), lambda seen: seen["state"] in states, timeout_s)

    def wait_incident(self, timeout_s: float = 30.0, **match: object) -> Any:
        """An incident with these fields; the newest of them."""
        shown = ", ".join(f"{k}={v}" for k, v in match.items())

        def look() -> tuple[list[Any], list[str]]:
            every = self.api.incidents()
            fitting = [i for i in every if all(i[k] == v for k, v in match.items())]
            return fitting, [f"{i['kind']} {i['state']} {i['node']} {i['volume']}" for i in every]

        seen = self.wait(f"an incident with {shown}", look, lambda found: bool(found[0]), timeout_s)
        return seen[0][-1]

    def wait_action(self, identity: str, timeout_s: float = 30.0) -> Any:
        """An action until it is done; its failure is an error here."""
        done = self.wait(
            f"action {identity} ends",
            lambda: self.api.action(identity),
            lambda seen: seen["state"] in ("done", "failed"),
            timeout_s,
        )
        assert done["state"] == "done", done
        return done

    def wait_equal(self, to: Node, timeout_s: float = 40.0, track: Collection[str] = ()) -> Any:
        """All in rank, and every node's tree equal to that node's as the independent comparison sees it."""

        def look() -> tuple[bool, dict[str, str], dict[str, list[str]]]:
            fleet = self.api.fleet()
            states = {node["node"]: node["state"] for node in fleet["nodes"]}
            if not fleet["in_rank"]:
                return False, states, {}
            places = {n.name: str(n.path()) for n in self.nodes.values() if n is not to}
            found = compare_trees(manifest(to.path(), track), places, track=track)
            return True, states, {n: [str(d) for d in each[:8]] for n, each in found.items() if each}

        what = f"all in rank and equal to {to.name}"
        return self.wait(what, look, lambda seen: seen[0] and not seen[2], timeout_s)

    # --- judging -----------------------------------------------------------------------------------

    def compare(
        self, volume: str | None = None, nodes: Iterable[str] | None = None
    ) -> dict[str, list[Difference]]:
        """How each node's tree differs from the pristine one, by the independent comparison."""
        name = volume or self.volumes[0].name
        holders = [n for n in (nodes or self.nodes) if name in self.nodes[n].paths]
        return compare_trees(self.pristine(name), {n: str(self.nodes[n].path(name)) for n in holders})

    def assert_equal_trees(self, volume: str | None = None, nodes: Iterable[str] | None = None) -> None:
        wrong = {n: [str(d) for d in found[:10]] for n, found in self.compare(volume, nodes).items() if found}
        assert not wrong, f"trees differ from the pristine one: {wrong}"

    def accused(self) -> set[str]:
        """Every node that any incident so far has accused."""
        blaming = ("divergence", "regression", "recurrence", "runaway", "audit")
        return {i["node"] for i in self.api.incidents() if i["kind"] in blaming and i["node"] is not None}

    def check_logs(self) -> None:
        for daemon in self.daemons:
            text = daemon.log()
            for allowed in self.allowed_faults:
                text = text.replace(allowed, "")
            if found := FAULTS.search(text):
                start = max(0, found.start() - 500)
                raise AssertionError(
                    f"{daemon.name}'s log has a fault:\n{text[start : found.start() + 4000]}"
                )

    # --- the end -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """SIGTERM to all at once; each must end with 0 within 10 s (and a little for a busy machine)."""
        running = [daemon for daemon in self.daemons if daemon.alive]
        for daemon in running:
            daemon.resume()
            daemon.terminate()
        deadline = time.monotonic() + 15
        codes = {d.name: d.wait(max(0.1, deadline - time.monotonic())) for d in running}
        wrong = {name: code for name, code in codes.items() if code != 0}
        assert not wrong, f"exit codes after SIGTERM: {wrong}"

    def kill(self) -> None:
        for daemon in self.daemons:
            daemon.kill()

    def remove(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def run(self, *args: str, timeout_s: float = 30.0) -> Any:
        """The operator's program against this fleet."""
        return run_program(*args, timeout_s=timeout_s, env={"CLOSERANKS_URL": self.api.url})

    def story(self, lines: int = 25) -> str:
        """The ends of all logs, for a failed test."""
        return "\n".join(f"--- {d.name} (exit codes {d.exits})\n{d.log_tail(lines)}" for d in self.daemons)


MakeFleet = Callable[..., Fleet]


def finish(fleet: Fleet, failed: bool) -> None:
    """The end of a test: orderly and with every log read, or with the logs' ends shown."""
    try:
        if failed:
            print(fleet.story())
        else:
            fleet.stop()
            fleet.check_logs()
    finally:
        fleet.kill()
        fleet.remove()
