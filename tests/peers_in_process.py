"""Nodes in one process: real directories, real volumes, real chunk servers on loopback, no coordinator."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from closeranks_agent.chunks.serve import ChunkServer
from closeranks_agent.converge.converger import Converger
from closeranks_agent.disk.volume import Volume
from closeranks_agent.speed import Bucket
from closeranks_proto.digests import XXH3_128
from closeranks_proto.messages import (
    Commit,
    Converge,
    ConvergeProgress,
    ConvergeResult,
    Member,
    Mode,
    Push,
    PushEdit,
    PushResult,
    Verify,
    VolumeSettings,
)

KIB = 1024
CHUNK = 64 * KIB

SETTINGS = VolumeSettings("v", CHUNK, (), ("mode",), 60.0, False, None, 7 * 86400.0)


@dataclass
class Node:
    name: str
    root: Path
    volume: Volume
    runner: web.AppRunner
    address: str
    served: dict[str, int] = field(default_factory=dict)
    fenced: bool = False
    budget: Bucket = field(default_factory=Bucket)  # of what it serves


class Nodes:
    """The fleet of one test. `volume` settings are shared."""

    def __init__(self, base: Path, settings: VolumeSettings) -> None:
        self.base, self.settings = base, settings
        self.nodes: dict[str, Node] = {}
        self.members: dict[str, Member] = {}
        self.http: aiohttp.ClientSession | None = None
        self.convergers: dict[str, Converger] = {}
        self.progress: list[ConvergeProgress] = []
        self.incidents: tuple[str, ...] = ()

    async def add(self, name: str, root: Path | None = None, **changes: object) -> Node:
        """A node over `root` (made if missing), scanned once, with its chunk server running."""
        root = root or self.base / name
        root.mkdir(exist_ok=True)
        state = self.base / f"state-{name}"
        state.mkdir(exist_ok=True)
        settings = replace_settings(self.settings, **changes)
        volume = Volume("v", os.fsencode(root), state, settings, XXH3_128)
        await volume.run(volume.scan)
        served: dict[str, int] = {}

        def count(peer: str, payload: int) -> None:
            served[peer] = served.get(peer, 0) + payload

        node = Node(name, root, volume, None, "", served)  # type: ignore[arg-type]
        server = ChunkServer(
            lambda: {"v": volume}, lambda: self.members, lambda: 1, lambda: node.fenced, count, node.budget
        )
        app = web.Application()
        app.add_routes(server.routes())
        node.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await node.runner.setup()
        site = web.TCPSite(node.runner, "127.0.0.1", 0)
        await site.start()
        port = node.runner.addresses[0][1]
        node.address = f"127.0.0.1:{port}"
        self.nodes[name] = node
        self.members[name] = Member(name, node.address, False, True)
        return node

    def fence(self, name: str, may_fetch: bool = True) -> None:
        self.members[name] = Member(name, self.nodes[name].address, True, may_fetch)

    def converger(self, name: str, **options: object) -> Converger:
        if name not in self.convergers or options:
            assert self.http is not None
            self.convergers[name] = Converger(
                self.nodes[name].volume,
                name,
                lambda: self.members,
                self.want,
                self.http,
                open_incidents=lambda: self.incidents,
                **options,  # type: ignore[arg-type]
            )
        return self.convergers[name]

    async def want(self, digests: tuple[bytes, ...]) -> dict[bytes, bytes]:
        """What a coordinator that knows every node would answer."""
        found: dict[bytes, bytes] = {}
        for digest in digests:
            for node in self.nodes.values():
                blob = node.volume.object(digest)
                if blob is not None:
                    found[digest] = blob
        return found

    async def converge(
        self,
        name: str,
        to: str,
        sources: tuple[str, ...] | None = None,
        dry_run: bool = False,
        incident: str = "i1",
        base: bytes | None = None,
        ordinary: bool = False,
        **options: object,
    ) -> ConvergeResult:
        """Behind a fence; with `base` as one that is only late; `ordinary` where a writer says what is true."""
        target = self.nodes[to].volume.root
        assert target is not None
        chosen = sources if sources is not None else tuple(one for one in self.nodes if one != name)
        mode: Mode = "divergence" if base is None else "lag"
        token = int(base is None)
        order = Converge("a1", "v", target, mode, incident, token, chosen, dry_run, base, ordinary)
        return await self.converger(name, **options).run(order, self.progress.append)

    def edits(self, name: str, to: str) -> tuple[PushEdit, ...]:
        """What would make the tree of `name` that of `to`, by what both know of themselves."""
        ours, theirs = self.nodes[name].volume, self.nodes[to].volume
        known = dict(ours.tree.walk(self.root(name)))
        wanted = dict(theirs.tree.walk(self.root(to)))
        return tuple(
            PushEdit(key, known.get(key), wanted.get(key), self._list(theirs, key, key in wanted))
            for key in sorted({**known, **wanted})
            if known.get(key) != wanted.get(key)
        )

    @staticmethod
    def _list(volume: Volume, key: bytes, there: bool) -> bytes | None:
        record = volume.record(key) if there else None
        return None if record is None else record.chunks

    async def push(
        self,
        name: str,
        to: str,
        edits: tuple[PushEdit, ...] | None = None,
        sources: tuple[str, ...] | None = None,
        bodies: tuple[bytes, ...] = (),
        ago_s: float = 0.0,
    ) -> PushResult:
        """One that came so long ago."""
        chosen = sources if sources is not None else tuple(one for one in self.nodes if one != name)
        push = Push("v", 1, self.edits(name, to) if edits is None else edits, chosen)
        return await self.converger(name).push(push, time.monotonic() - ago_s, bodies)

    async def verify(self, name: str, incident: str = "i1"):
        return await self.converger(name).verify(Verify("a1", "v", incident, 1))

    def since(self, name: str, seq: int) -> list[tuple[str, dict[bytes, bytes | None]]]:
        """(cause, what it changed) of each commit behind `seq`."""
        found: list[tuple[str, dict[bytes, bytes | None]]] = []
        for step in self.nodes[name].volume.pending(seq, 1000):
            assert isinstance(step, Commit), step
            found.append((step.cause, {edit.key: edit.value for edit in step.edits}))
        return found

    async def scan(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            volume = self.nodes[name].volume
            report = await volume.run(volume.scan)
            assert report.complete, report

    def root(self, name: str) -> bytes:
        root = self.nodes[name].volume.root
        assert root is not None
        return root


def replace_settings(settings: VolumeSettings, **changes: object) -> VolumeSettings:
    return msgspec.structs.replace(settings, **changes)


@asynccontextmanager
async def nodes_in(base: Path, **changes: object) -> AsyncIterator[Nodes]:
    nodes = Nodes(base, replace_settings(SETTINGS, **changes))
    async with aiohttp.ClientSession() as http:
        nodes.http = http
        try:
            yield nodes
        finally:
            for converger in nodes.convergers.values():
                await converger.close()
            for node in nodes.nodes.values():
                await node.runner.cleanup()
                node.volume.close()


Described = dict[bytes, tuple[object, ...]]


def describe(root: Path | bytes) -> Described:
    """Every path below `root` with kind, mode and content, read by this test's own code."""
    found: Described = {}
    todo = [(os.open(root, os.O_RDONLY | os.O_DIRECTORY), b"")]
    while todo:
        fd, prefix = todo.pop()
        for entry in os.listdir(fd):
            name = os.fsencode(entry)
            if not prefix and name == b".closeranks":
                continue
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            path = prefix + name
            if stat.S_ISDIR(status.st_mode):
                found[path] = ("directory", stat.S_IMODE(status.st_mode))
                todo.append(
                    (os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), path + b"/")
                )
            elif stat.S_ISLNK(status.st_mode):
                found[path] = ("symlink", os.readlink(name, dir_fd=fd))
            elif stat.S_ISREG(status.st_mode):
                inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                with os.fdopen(inner, "rb") as file:
                    found[path] = ("file", stat.S_IMODE(status.st_mode), file.read())
            else:
                found[path] = ("special",)
        os.close(fd)
    return found


def sparse(path: Path, size: int, at: int = 0, data: bytes = b"") -> None:
    """A file of `size` zeros without blocks, but for `data`."""
    with open(path, "wb") as file:
        file.truncate(size)
        if data:
            file.seek(at)
            file.write(data)


def contents_below(root: Path) -> list[bytes]:
    """Every byte sequence that a file below `root` holds, private directory included."""
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found.append(file.read())
    return found


def fill(root: Path, tree: dict[str, bytes | None]) -> None:
    """Write files (bytes) and directories (None)."""
    for name, content in tree.items():
        path = root / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


Fault = Callable[[str], None]
__all__ = [
    "CHUNK",
    "KIB",
    "SETTINGS",
    "Fault",
    "Node",
    "Nodes",
    "contents_below",
    "describe",
    "fill",
    "nodes_in",
]
