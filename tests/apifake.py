"""A coordinator for the API's tests: the real core, store, event log and metrics, without sessions or sockets.

`three_nodes` is a fleet of node-01 to node-03 with one volume, `photos`; `break_ranks` makes node-02 differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yarl
from aiohttp.test_utils import TestServer

from closeranks_coordinator.config import CoordinatorConfig, Token
from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import (
    Connected,
    Event,
    FleetConfig,
    FromAgent,
    Now,
    Observe,
    Persist,
    Policy,
    Publish,
    RootStored,
    Scanned,
    Tick,
    VolumeConfig,
)
from closeranks_coordinator.storage.sqlite import open_store
from closeranks_coordinator.web.app import build_app
from closeranks_coordinator.web.events import EventLog
from closeranks_coordinator.web.metrics import Metrics
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.kinds import Address
from closeranks_proto.paths import key_of
from closeranks_proto.tree import Tree

NODES = ("node-01", "node-02", "node-03")
WALL_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z


def volume_config(name: str = "photos", policy: Policy = "quorum") -> VolumeConfig:
    return VolumeConfig(
        name, policy, NODES, "quarantine", 1.0, 600.0, 1.0, "resync", 10.0, 1 << 20, (), ("mode",), False, None,
        604800.0,
    )  # fmt: skip


def fleet_config(*volumes: VolumeConfig) -> FleetConfig:
    return FleetConfig("xxh3-128", NODES, 1, 3, 3600.0, 300.0, 30.0, volumes or (volume_config(),), 604800.0)


def value_of(content: bytes) -> bytes:
    return encode_entry(Entry(Kind.FILE, len(content), XXH3_128.of(content), 0o644))


class FakeCore:
    """What `api_core.Core` asks for."""

    def __init__(self, state_dir: Path, config: FleetConfig, tokens: tuple[str, ...] = ()) -> None:
        self.config = CoordinatorConfig(
            "coordinator.toml", Address("127.0.0.1", 0), Address("127.0.0.1", 0), str(state_dir), "text",
            tuple(Token(f"file{n}", secret) for n, secret in enumerate(tokens)), ("ranks.example",), config, (), (),
        )  # fmt: skip
        self.mono = 1000.0
        self.store = open_store(state_dir, "xxh3-128")
        self.events = EventLog(self.store)
        self.metrics = Metrics()
        self.fleet = Fleet(
            config, XXH3_128, self.read_object, self.store.records(), self.now(), random.Random(1)
        )
        self.metrics.attach(self)
        self.ready = True
        self.problem: str | None = None
        self.unsaved: dict[bytes, bytes] = {}
        self.tree = Tree(XXH3_128, self.read_object)
        self.trash_answer: Callable[[str, object], wire.TrashAnswer | None] = lambda node, asked: None
        self.reloading: Callable[[], None] = lambda: None
        self.asked: list[Event] = []

    def read_object(self, digest: bytes) -> bytes:
        found = self.unsaved.get(digest)
        return self.store.object(digest) if found is None else found

    def now(self) -> Now:
        return Now(self.mono, WALL_MS + int((self.mono - 1000) * 1000))

    async def settled(self, step_max_s: float | None = None) -> bool:
        return True

    async def ask(self, event: Event) -> object:
        self.asked.append(event)
        return await self.step(event)

    async def step(self, event: Event, after_s: float = 0.0) -> object:
        self.mono += after_s
        step = self.fleet.step(self.now(), event)
        for effect in step.effects:
            match effect:
                case Persist():
                    self.unsaved.update(effect.objects)  # the store has its own tests: no fsync a step here
                case Publish():
                    self.events.publish(effect.kind, effect.id)
                case Observe():
                    self.metrics.observe(effect)
                case _:
                    pass
        return step.answer

    async def trash(self, node: str, message: wire.TrashList | wire.TrashRestore) -> wire.TrashAnswer | None:
        return self.trash_answer(node, message)

    async def reload(self) -> None:
        self.reloading()

    async def give_root(self, node: str, files: dict[bytes, bytes], volume: str = "photos") -> bytes:
        """The node's tree is now these files; a complete scan says so."""
        made = self.tree.build(sorted((key_of(path), value_of(content)) for path, content in files.items()))
        self.unsaved.update(made.pages)
        await self.step(RootStored(node, volume, made.root, "scan", self.mono))
        await self.step(Scanned(node, volume, self.mono))
        return made.root

    async def close(self) -> None:
        await self.events.close()
        await self.store.close()


FILES = {b"a.jpg": b"a", b"b.jpg": b"b", b"sub/c.jpg": b"c"}


async def three_nodes(core: FakeCore) -> None:
    for number, node in enumerate(NODES, 1):
        for volume in core.config.fleet.volumes:
            volumes = tuple(found.name for found in core.config.fleet.volumes)
            await core.step(
                Connected(
                    node, f"s{number}", f"agent-{number}", f"127.0.0.1:{7000 + number}", 0, None, volumes
                )
            )
            await core.give_root(node, FILES, volume.name)
            status = wire.VolumeStatus(volume.name, None, 4, 3, 3, (), 0, 10**9, 5 * 10**8, 12)
            await core.step(FromAgent(node, status))
    for _ in range(4):
        await core.step(Tick(), 1.0)


async def break_ranks(core: FakeCore, changes: dict[bytes, bytes] | None = None) -> None:
    """node-02 holds something else, for long enough to be named."""
    await core.give_root("node-02", {**FILES, **(changes or {b"a.jpg": b"evil", b"<b>x</b>.jpg": b"new"})})
    for _ in range(5):
        await core.step(Tick(), 1.0)
        for node in NODES:
            await core.step(Scanned(node, "photos", core.mono))
    await core.step(Tick(), 1.0)


class Client:
    """The application on a socket, asked over HTTP."""

    def __init__(self, core: FakeCore) -> None:
        self.core = core
        self.server = TestServer(build_app(core))
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        await self.server.start_server()
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self.server.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    async def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, aiohttp.ClientResponse]:
        """(status, body, answer); a body that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        target = yarl.URL(self.url(path), encoded=True)
        async with self.session.request(
            method, target, data=data, headers=sent, skip_auto_headers=["Content-Type"], allow_redirects=False
        ) as answer:
            return answer.status, await answer.read(), answer

    async def json(self, path: str) -> Any:
        status, body, _ = await self.ask("GET", path)
        assert status == 200, body
        return msgspec.json.decode(body)
