"""Sessions over real sockets: a core that records what it is told, and agents that are driven by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from closeranks_coordinator.core.model import Event, FleetConfig, RootStored, VolumeConfig
from closeranks_coordinator.runtime import volume_settings
from closeranks_coordinator.session import Receipt
from closeranks_coordinator.sessions import Sessions
from closeranks_coordinator.storage.sqlite import open_store
from closeranks_coordinator.storage.store import Batch, Store
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128, DigestAlgorithm
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.tree import Edited, Tree
from closeranks_proto.wire import decode_coordinator_message, encode_message

VOLUME = VolumeConfig(
    "photos", "quorum", ("n1", "n2"), "alert", 1.0, 60.0, 1.0, "resync", 10.0, 4096, (), ("mode",), False, None, 60.0
)  # fmt: skip
CONFIG = FleetConfig("xxh3-128", ("n1", "n2"), 1, 3, 3600.0, 300.0, 30.0, (VOLUME,), 3600.0)
HELLO = wire.Hello(
    wire.PROTOCOL,
    wire.PROTOCOL,
    "test",
    "n1",
    "agent-a",
    ("xxh3-128",),
    ":7342",
    0,
    None,
    (wire.VolumeHello("photos", None, 0, 1, None),),
)


class Core:
    """Records what the sessions report."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.algorithm: DigestAlgorithm = XXH3_128
        self.fleet_config = CONFIG
        self.events: list[Event] = []
        self.forgot = False
        self.foresaw: list[tuple[str, bytes]] = []
        self.bodies: list[tuple[str | bytes, ...]] = []

        self.prompt = True  # what is told becomes durable by itself
        self.on_caught_up: Callable[[], bool] | None = None
        self.receipts: list[Receipt] = []
        self._writing: set[asyncio.Task[None]] = set()

    def feed(self, event: Event, receipt: Receipt | None = None) -> None:
        self.events.append(event)
        if receipt is not None:
            self.receipts.append(receipt)
            if self.prompt:
                self._writing.add(asyncio.get_running_loop().create_task(self.write()))

    def overtake(self, event: Event) -> bool:
        self.feed(event)
        return True

    async def write(self) -> None:
        """Make durable what waits for it."""
        waiting, self.receipts = self.receipts, []
        await self.store.write(Batch(node_roots=[receipt.root for receipt in waiting]))
        for receipt in waiting:
            receipt.durable()

    async def caught_up(self) -> bool:
        if self.on_caught_up is not None:
            return self.on_caught_up()
        await asyncio.gather(*self._writing)
        await self.write()
        return True

    async def room(self) -> None:
        return

    async def foreseen(self, volume: str, root: bytes) -> None:
        self.foresaw.append((volume, root))

    def known_root(self, node: str, volume: str) -> bytes | None:
        """What RootStored has told last, unless a test made us forget."""
        roots = [event.root for event in self.events if isinstance(event, RootStored) and event.node == node]
        return roots[-1] if roots and not self.forgot else None

    def settings_of(self, volume: str) -> wire.VolumeSettings:
        return volume_settings(VOLUME)

    def carried(self, node: str, message: wire.Carried) -> None:
        self.bodies.append((node, *message.bodies))

    async def saw(self, kind: type[Event], count: int = 1) -> list[Event]:
        """Wait until `count` events of this kind have come."""
        async with asyncio.timeout(10):
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                await asyncio.sleep(0.005)
        return found


class Agent:
    """A hand-driven agent on a real WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, *messages: wire.Message) -> None:
        for message in messages:
            await self.socket.send_bytes(encode_message(message))

    async def hear(self) -> wire.CoordinatorMessage:
        return decode_coordinator_message(await self.socket.receive_bytes(timeout=10))

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            while not self.socket.closed:
                await self.socket.receive()
        return True


class World:
    def __init__(
        self, core: Core, sessions: Sessions, client: TestClient[web.Request, web.Application]
    ) -> None:
        self.core, self.sessions, self.client = core, sessions, client
        self.agents: list[Agent] = []

    async def dial(self) -> Agent:
        self.agents.append(Agent(await self.client.ws_connect("/v1/agent")))
        return self.agents[-1]

    async def hang_up(self) -> None:
        await asyncio.gather(*(agent.socket.close() for agent in self.agents))

    async def join(self, hello: wire.Hello = HELLO) -> tuple[Agent, wire.Welcome]:
        agent = await self.dial()
        await agent.say(hello)
        welcome = await agent.hear()
        assert isinstance(welcome, wire.Welcome), welcome
        return agent, welcome


@asynccontextmanager
async def world_of(base: Path, clock: Callable[[], float] | None = None) -> AsyncIterator[World]:
    """Sessions on loopback over a store below `base`, by their own clock unless one is given."""
    store = open_store(base, "xxh3-128")
    core = Core(store)
    sessions = Sessions(core) if clock is None else Sessions(core, clock)
    app = web.Application()
    app.add_routes(sessions.routes())
    async with TestClient(TestServer(app)) as client:
        world = World(core, sessions, client)
        yield world
        await world.hang_up()
        await sessions.drain()
    await store.close()


def tree(count: int = 10) -> tuple[Tree, Edited, dict[bytes, bytes]]:
    pages: dict[bytes, bytes] = {}
    made = Tree(XXH3_128, pages.__getitem__)
    items = [
        (b"f%05d" % n, encode_entry(Entry(Kind.FILE, 1, XXH3_128.of(b"%d" % n), 0o644))) for n in range(count)
    ]
    built = made.build(items)
    pages.update(built.pages)
    return made, built, pages


async def announce(agent: Agent, built: Edited, pages: dict[bytes, bytes], seq: int = 1) -> None:
    """Announce a root and answer until it is acknowledged."""
    await agent.say(wire.Announce("photos", seq, built.root, "scan", 0))
    while True:
        message = await agent.hear()
        if isinstance(message, wire.Ack):
            return
        assert isinstance(message, wire.Want)
        objects = tuple(pages[digest] for digest in message.digests)
        await agent.say(wire.Objects("photos", message.request, objects, (), True))
