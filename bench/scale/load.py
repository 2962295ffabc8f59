"""One load process: many generated agents in one event loop, told what to do by lines of JSON on stdin.

    python -m scale.load PORT FILES SEED FIRST COUNT

Answers each line with one line. Ends when stdin does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from typing import Any

import aiohttp
import uvloop

from scale.agents import DIALS_AT_ONCE, Agent
from scale.generated import Forest, key_of, value_of


class Load:
    def __init__(self, port: int, files: int, seed: int, first: int, count: int) -> None:
        self._port = port
        self.forest = Forest.generated(files, seed)
        gc.collect()
        gc.freeze()  # a million objects that stay: the collector need not look at them again and again
        self.agents = [Agent(node_name(n), n, self.forest) for n in range(first, first + count)]
        self._strays = 0
        self._aside: asyncio.Task[None] | None = None  # commits that go on while other orders come

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            say({"ready": True, "entries": self.forest.entries, "root": self.forest.root.hex()})
            while line := await reader.readline():
                order = json.loads(line)
                say(await self._do(http, order))
            await asyncio.gather(*(agent.close() for agent in self.agents))

    async def _do(self, http: aiohttp.ClientSession, order: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        match order.pop("do"):
            case "connect":
                await self._connect(http)
            case "drop":
                await asyncio.gather(*(agent.close() for agent in self.agents))
            case "roll":
                await self._roll(**order)
            case "prepare":
                self._prepare(**order)
            case "commit" if order.pop("aside", False):
                self._aside = asyncio.create_task(self._commit(**order))
            case "commit":
                await self._commit(**order)
            case "finish":
                assert self._aside is not None
                await self._aside
            case "stray":
                return {"at": await self._stray()}
            case "heal":
                await self.agents[0].heal()
            case "told":
                return self._told()
            case other:
                raise ValueError(f"unknown order {other!r}")
        return {"seconds": time.monotonic() - began}

    async def _connect(self, http: aiohttp.ClientSession) -> None:
        """All agents, so many at once."""
        gate = asyncio.Semaphore(DIALS_AT_ONCE)

        async def dial(agent: Agent) -> None:
            async with gate:
                await agent.connect(http, self._port)

        await asyncio.gather(*(dial(agent) for agent in self.agents))

    def _prepare(self, steps: int, edits: int, spread: bool) -> None:
        """Make the steps before the clock runs."""
        for number in range(steps):
            self.forest.step(number, edits, spread)

    async def _commit(self, first: int, steps: int, edits: int, rate: float | None, spread: bool) -> None:
        """Every agent takes these steps; `rate`: so many edits/s of each agent, None: as fast as acknowledged."""
        began = time.monotonic()

        async def follow(agent: Agent) -> None:
            for number in range(first, first + steps):
                if rate is not None:
                    due = began + (number - first) * edits / rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await agent.follow(self.forest.step(number, edits, spread))
            await agent.settled()

        await asyncio.gather(*(follow(agent) for agent in self.agents))

    async def _roll(self, number: int, edits: int, apart_s: float) -> None:
        """One agent after the other takes a step."""
        began = time.monotonic()
        for turn, agent in enumerate(self.agents):
            await asyncio.sleep(max(0.0, began + turn * apart_s - time.monotonic()))
            await agent.follow(self.forest.step(number, edits))
        await asyncio.gather(*(agent.settled() for agent in self.agents))

    async def _stray(self) -> float:
        """One file that only our first agent changes; when it said so, on the wall clock."""
        self._strays += 1
        number = random.Random(self._strays).randrange(self.forest.files)
        return await self.agents[0].stray(key_of(number), value_of(number, b"stray %d" % self._strays))

    def _told(self) -> dict[str, Any]:
        kinds: dict[str, int] = {}
        for agent in self.agents:
            for kind, count in agent.told.items():
                kinds[kind] = kinds.get(kind, 0) + count
        return {"kinds": kinds, "trouble": [text for agent in self.agents for text in agent.trouble][:20]}


def node_name(number: int) -> str:
    return f"n-{number:04d}"


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    port, files, seed, first, count = map(int, sys.argv[1:])
    uvloop.run(Load(port, files, seed, first, count).run())
