"""Configuration files as an operator writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Scalar = str | int | float | bool
Value = Scalar | list[str]


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "[" + ", ".join(_toml(item) for item in value) + "]"


def table(header: str, values: dict[str, Value]) -> str:
    return header + "\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items()) + "\n"


@dataclass(slots=True)
class VolumeSpec:
    """One volume of the fleet. `nodes` None: all. `extra` are further keys of its coordinator.toml table.

    `guards` are keys of its own `[volume.guards]`.
    """

    name: str = "photos"
    on_divergence: str = "resync"
    policy: str = "quorum"
    settle_s: float = 0.5
    scan_interval_s: float = 0.4
    nodes: list[str] | None = None
    ignore: list[str] = field(default_factory=list)
    extra: dict[str, Value] = field(default_factory=dict)
    guards: dict[str, Value] = field(default_factory=dict)

    def toml(self) -> str:
        values: dict[str, Value] = {
            "name": self.name,
            "policy": self.policy,
            "settle_s": self.settle_s,
            "scan_interval_s": self.scan_interval_s,
            "on_divergence": self.on_divergence,
        }
        if self.nodes is not None:
            values["nodes"] = self.nodes
        if self.ignore:
            values["ignore"] = self.ignore
        guards = table("[volume.guards]", self.guards) if self.guards else ""
        return table("[[volume]]", values | self.extra) + guards


def replicated(*writers: str, **more: Any) -> VolumeSpec:
    """A volume that closeranks carries: policy `writers` with these, `any-writer` without any.

    Scans are rare: what arrives in time was seen by a watcher, unless `scan_interval_s` says otherwise.
    """
    extra: dict[str, Value] = {"writers": list(writers)} if writers else {}
    extra |= more.pop("extra", {})
    settings: dict[str, Any] = {"settle_s": 0.5, "scan_interval_s": 60.0} | more
    return VolumeSpec(policy="writers" if writers else "any-writer", extra=extra, **settings)


@dataclass(slots=True)
class CoordinatorSpec:
    """coordinator.toml. `fleet` are further keys of its [fleet] table, `tables` whole further tables."""

    agents_port: int
    api_port: int
    state_dir: Path
    nodes: list[str]
    volumes: list[VolumeSpec]
    fleet: dict[str, Value] = field(default_factory=dict)
    tables: dict[str, dict[str, Value]] = field(default_factory=dict)
    host: str = "127.0.0.1"  # where agents reach it

    def toml(self) -> str:
        coordinator: dict[str, Value] = {
            "listen_agents": f"{self.host}:{self.agents_port}",
            "listen_api": f"127.0.0.1:{self.api_port}",
            "state_dir": str(self.state_dir),
        }
        fleet: dict[str, Value] = {"nodes": self.nodes}
        return (
            table("[coordinator]", coordinator)
            + table("[fleet]", fleet | self.fleet)
            + "".join(table(f"[{name}]", values) for name, values in self.tables.items())
            + "".join(volume.toml() for volume in self.volumes)
        )


def agent_toml(
    node: str,
    coordinator_port: int,
    listen_port: int,
    state_dir: Path,
    volumes: dict[str, Path],
    hooks: dict[str, Value] | None = None,
    volume_extra: dict[str, dict[str, Value]] | None = None,
    agent_extra: dict[str, Value] | None = None,
    reactions: dict[str, Value] | None = None,
    coordinator_host: str = "127.0.0.1",
    host: str = "127.0.0.1",
) -> str:
    agent: dict[str, Value] = {
        "node": node,
        "coordinator": f"http://{coordinator_host}:{coordinator_port}",
        "listen": f"{host}:{listen_port}",
        "state_dir": str(state_dir),
    }
    agent |= agent_extra or {}
    text = table("[agent]", agent)
    if hooks:
        text += table("[agent.hooks]", hooks)
    if reactions:
        text += table("[agent.reactions]", reactions)
    for name, path in volumes.items():
        text += table("[[volume]]", {"name": name, "path": str(path)} | (volume_extra or {}).get(name, {}))
    return text
