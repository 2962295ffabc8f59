"""The service that a process belongs to, from the paths of its control groups.

systemd names groups after units; container engines name them after containers. What neither named is told as
the path, which an operator can still look up.
"""

from __future__ import annotations

import re

_UNIT = re.compile(r"\.(?:service|scope|socket|mount|swap|timer)$")
_CONTAINER = re.compile(
    r"^(?:(?P<engine>docker|cri-containerd|crio|libpod|podman|containerd)[-.])?(?P<id>[0-9a-f]{64})(?:\.scope)?$"
)
_NAMED = re.compile(r"^(?:lxc\.payload\.|machine-)(?P<name>.+?)(?:\.scope)?$")
_ID_SHOWN = 12  # as the engines' own commands show it


def unit_of(text: str) -> str:
    """Of the text of /proc/PID/cgroup, either version; "" where the process is in no group."""
    path = _path(text)
    names = [name for name in path.split("/") if name not in ("", "..")]
    if not names:
        return ""
    unit = container = ""
    for at in range(len(names) - 1, -1, -1):
        container = _container(names, at)
        if container:
            break
        if not unit and _UNIT.search(names[at]):
            unit = names[at]
    if container:
        return f"{unit} in {container}" if unit else container
    return unit or path


def _path(text: str) -> str:
    """systemd's own hierarchy, else version 2, else whichever says something."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and path != "/":
            paths[controllers] = path
    if not paths:
        return ""
    for name in ("name=systemd", ""):
        if name in paths:
            return paths[name]
    return max(paths.values(), key=lambda path: (len(path), path))


def _container(names: list[str], at: int) -> str:
    found = _CONTAINER.match(names[at])
    if found:
        engine = found["engine"] or (names[at - 1] if at else "")
        engine = {"cri-containerd": "containerd", "crio": "cri-o", "libpod": "podman"}.get(engine, engine)
        known = engine if engine in ("docker", "containerd", "cri-o", "podman") else ""
        return f"{known} container {found['id'][:_ID_SHOWN]}".strip()
    named = _NAMED.match(names[at])
    if named:
        return f"container {named['name']}"
    if at and names[at - 1] in ("lxc", "lxc.payload"):
        return f"container {names[at]}"
    return ""
