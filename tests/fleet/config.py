"""Configuration files as an operator writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
    """One volume of the fleet. `nodes` None: all. `extra` are further keys of its coordinator.toml table."""

    name: str = "photos"
    on_divergence: str = "resync"
    policy: str = "quorum"
    settle_s: float = 0.5
    scan_interval_s: float = 0.4
    nodes: list[str] | None = None
    ignore: list[str] = field(default_factory=list)
    extra: dict[str, Value] = field(default_factory=dict)

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
        return table("[[volume]]", values | self.extra)


@dataclass(slots=True)
class CoordinatorSpec:
    """coordinator.toml. `fleet` are further keys of its [fleet] table."""

    agents_port: int
    api_port: int
    state_dir: Path
    nodes: list[str]
    volumes: list[VolumeSpec]
    fleet: dict[str, Value] = field(default_factory=dict)

    def toml(self) -> str:
        coordinator: dict[str, Value] = {
            "listen_agents": f"127.0.0.1:{self.agents_port}",
            "listen_api": f"127.0.0.1:{self.api_port}",
            "state_dir": str(self.state_dir),
        }
        fleet: dict[str, Value] = {"nodes": self.nodes}
        return (
            table("[coordinator]", coordinator)
            + table("[fleet]", fleet | self.fleet)
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
) -> str:
    agent: dict[str, Value] = {
        "node": node,
        "coordinator": f"http://127.0.0.1:{coordinator_port}",
        "listen": f"127.0.0.1:{listen_port}",
        "state_dir": str(state_dir),
    }
    text = table("[agent]", agent)
    if hooks:
        text += table("[agent.hooks]", hooks)
    for name, path in volumes.items():
        text += table("[[volume]]", {"name": name, "path": str(path)} | (volume_extra or {}).get(name, {}))
    return text
