"""Network namespaces: each node on a wire of its own to one bridge, and wires that can be cut. Needs root.

The coordinator stays outside, at the bridge's address. A cut wire loses packets silently, as a real one does:
no connection is closed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from types import TracebackType

from fleet.local import Fleet, Node


class Network:
    """`with Network(fleet) as network: fleet.start(); network.cut(node); network.mend(node)`"""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._id = f"{os.getpid() % 65536:04x}"
        low = os.getpid() % 250 + 1
        self._net = f"10.{os.getpid() // 250 % 200 + 20}.{low}"
        self.bridge = f"crb{self._id}"
        self._spaces: list[str] = []

    def __enter__(self) -> Network:
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("address", "add", f"{self._net}.1/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            self._fleet.host = f"{self._net}.1"
            for number, node in enumerate(self._fleet.nodes.values()):
                self._join(number, node)
        except OSError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for node in self._fleet.nodes.values():  # a namespace itself lives until its last process ends
            subprocess.run(["ip", "link", "delete", self._wire(node)], capture_output=True, check=False)
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)
        self._spaces = []

    def cut(self, node: Node) -> None:
        _ip("link", "set", self._wire(node), "down")

    def mend(self, node: Node) -> None:
        _ip("link", "set", self._wire(node), "up")

    def part(self, node: Node, others: Iterable[Node], mended: bool = False) -> None:
        """This node has no road to the others; to the coordinator it has."""
        space = self._spaces[list(self._fleet.nodes).index(node.name)]
        for other in others:
            _ip("-n", space, "route", "del" if mended else "add", "unreachable", f"{other.host}/32")

    def _wire(self, node: Node) -> str:
        return f"crv{self._id}-{list(self._fleet.nodes).index(node.name)}"

    def _join(self, number: int, node: Node) -> None:
        space, near, far = f"cr{self._id}-{number}", self._wire(node), f"crf{self._id}-{number}"
        _ip("netns", "add", space)
        self._spaces.append(space)
        _ip("link", "add", near, "type", "veth", "peer", "name", far)
        _ip("link", "set", near, "master", self.bridge, "up")
        _ip("link", "set", far, "netns", space)
        node.host = f"{self._net}.{number + 10}"
        _ip("-n", space, "address", "add", f"{node.host}/24", "dev", far)
        _ip("-n", space, "link", "set", far, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        node.agent_extra["insecure"] = True
        enter = shutil.which("nsenter") or "/usr/bin/nsenter"
        node.daemon.argv = [enter, f"--net=/run/netns/{space}", *node.daemon.argv]


def _ip(*argv: str) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
