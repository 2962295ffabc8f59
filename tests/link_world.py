"""An agent with a small real volume, and a coordinator on loopback that says what a test wants it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
from aiohttp import web

from closeranks_agent.config import AgentConfig, load_agent_config
from closeranks_agent.runtime import Agent
from closeranks_agent.state import AgentState
from closeranks_proto import messages as wire
from closeranks_proto.wire import decode_agent_message, encode_message

T = TypeVar("T", bound=wire.Message)
SETTINGS = wire.VolumeSettings("photos", 4096, (), ("mode",), 0.2, False, None, 604800.0)


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


class Talk:
    """One session as the coordinator sees it."""

    def __init__(self, socket: web.WebSocketResponse, hello: wire.Hello) -> None:
        self.socket, self.hello = socket, hello
        self.heard: list[wire.AgentMessage] = []
        self.bytes = 0
        self.ended = False

    async def say(self, *messages: wire.Message) -> None:
        for message in messages:
            await self.socket.send_bytes(encode_message(message))

    async def hear(self, kind: type[T], where: Callable[[T], object] = lambda _: True, after: int = 0) -> T:
        """The first message of this kind behind the `after` first, waited for."""
        found: list[T] = []

        def look() -> bool:
            found[:] = [one for one in self.heard[after:] if isinstance(one, kind) and where(one)]
            return bool(found)

        try:
            await until(look)
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} among {self.heard}") from None
        return found[0]

    def all(self, kind: type[T]) -> list[T]:
        return [one for one in self.heard if isinstance(one, kind)]


class Coordinator:
    """Welcomes whoever dials with `settings` and `acked`, and does nothing else by itself."""

    def __init__(self) -> None:
        self.settings: tuple[wire.VolumeSettings, ...] = (SETTINGS,)
        self.acked: tuple[tuple[str, int, bytes | None], ...] = (("photos", 0, None),)
        self.digest = "xxh3-128"
        self.carry: tuple[str, ...] = ()
        self.first: wire.Message | None = None  # said instead of Welcome
        self.talks: list[Talk] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        hello = decode_agent_message(await socket.receive_bytes())
        assert isinstance(hello, wire.Hello)
        talk = Talk(socket, hello)
        welcome = wire.Welcome(1, "s", self.digest, 16, 5.0, self.settings, self.acked, self.carry)
        await talk.say(self.first or welcome)
        self.talks.append(talk)
        async for frame in socket:
            talk.bytes += len(frame.data)
            talk.heard.append(decode_agent_message(frame.data))
        talk.ended = True
        return socket

    async def talk(self, number: int) -> Talk:
        """The session of that number, waited for."""
        await until(lambda: len(self.talks) > number)
        return self.talks[number]


def config_of(base: Path, port: int, extra: str = "", watch: str = "rescan") -> AgentConfig:
    (base / "tree").mkdir(exist_ok=True)
    file = base / "agent.toml"
    file.write_text(
        f'[agent]\nnode = "n1"\ncoordinator = "http://127.0.0.1:{port}"\nlisten = "127.0.0.1:0"\n'
        f'state_dir = "{base}/state"\n{extra}\n'
        # The tests write in the agent's own process, which fanotify takes for the agent's doing.
        f'[[volume]]\nname = "photos"\npath = "{base}/tree"\nwatch = "{watch}"\n'
    )
    return load_agent_config(file, environ={})


class World:
    def __init__(self, base: Path, coordinator: Coordinator, port: int) -> None:
        self.base, self.coordinator, self.port = base, coordinator, port
        self.tree = base / "tree"
        self.tree.mkdir(exist_ok=True)

    @asynccontextmanager
    async def agent(self, extra: str = "", watch: str = "rescan") -> AsyncIterator[Agent]:
        """A running agent; at the end it is stopped as SIGTERM stops it."""
        state = AgentState(self.base / "state")
        async with aiohttp.ClientSession() as http:
            agent = Agent(config_of(self.base, self.port, extra, watch), state, http)
            agent.address = "127.0.0.1:1"
            work = asyncio.create_task(agent.run())
            try:
                yield agent
                assert not work.done(), work
            finally:
                agent.stop()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                await agent.close()
                state.close()


@asynccontextmanager
async def world_of(base: Path) -> AsyncIterator[World]:
    coordinator = Coordinator()
    app = web.Application()
    app.add_routes([web.get("/v1/agent", coordinator.serve)])
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield World(base, coordinator, runner.addresses[0][1])
    finally:
        await runner.cleanup()
