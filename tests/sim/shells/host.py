"""One machine of the simulated fleet: its disk, its agent's process while it runs, and how both end."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from closeranks_agent.config import load_agent_config
from closeranks_agent.disk.private import PRIVATE_NAME
from closeranks_agent.main import _check_volumes
from closeranks_agent.runtime import Agent
from closeranks_agent.state import AgentState, OwedHook
from closeranks_agent.web import build_app
from closeranks_proto.messages import FenceState

from ..invariants import hold
from .drive import Drive
from .loop import PROCESS, Loop, Process

if TYPE_CHECKING:
    from .world import World

COORDINATOR = ("10.0.0.1", 7340)


class Connector(aiohttp.BaseConnector):
    """aiohttp's connections, over the network in memory."""

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        try:
            return await loop.connect(self._factory, req.url.host, req.url.port)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error


class Host:
    """One machine: its disk, and the agent's process while it runs."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.world, self.name = world, name
        self.address = f"10.0.0.{number + 10}"
        self.base = world.base / name
        self.drive = Drive(self.base, random.Random(f"{world.seed}/{name}/drive"), self._cut)
        world.taps.drives[name] = self.drive
        self.tree = self.base / "tree"
        self.tree.mkdir(parents=True)
        self.process: Process | None = None
        self.agent: Agent | None = None
        self.state: AgentState | None = None
        self.work: asyncio.Task[None] | None = None
        self._imaged: tuple[int, list[FenceState | None]] = 0, []
        self.kept_token = 0  # the highest that its state directory has taken
        self.kept_fence: list[FenceState | None] = [
            None
        ]  # what it may hold: more than one where a write was cut off
        self.owed: set[bytes] = set()  # written here by others, and by nobody but closeranks taken away
        world.loop.network.hosts[name] = self.address
        (self.base / "agent.toml").write_text(
            f'[agent]\nnode = "{name}"\ncoordinator = "http://{COORDINATOR[0]}:{COORDINATOR[1]}"\ninsecure = true\n'
            f'listen = "{self.address}:7342"\nstate_dir = "{self.base}/state"\n'
            f'[[volume]]\nname = "photos"\npath = "{self.tree}"\nwatch = "rescan"\n'
        )

    def start(self) -> None:
        if self.process is not None and not self.process.dead:
            return
        self.process = Process(self.name)
        self.drive.mend()
        context = contextvars.copy_context()
        context.run(PROCESS.set, self.process)
        self.work = self.world.loop.create_task(self._run(), context=context)

    async def _run(self) -> None:
        config = load_agent_config(self.base / "agent.toml", environ={})
        _check_volumes(config)
        self.state = AgentState(Path(config.state_dir))
        self.world.checked(self._check_state, self.state)
        self._watch_state(self.state)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False, connector=Connector()) as http:
            self.agent = Agent(config, self.state, http)
            runner = web.AppRunner(build_app(self.agent), access_log=None, shutdown_timeout=2.0)
            await runner.setup()
            await web.TCPSite(runner, self.address, 7342).start()
            self.agent.address = f"{self.address}:7342"
            await self.agent.run()

    def _check_state(self, state: AgentState) -> None:
        """Right after a start, before anybody could tell it again."""
        token, fence = state.highest_token, state.fence
        hold(
            "token_grows",
            token >= self.kept_token,
            f"{self.name} goes on from {token}, it had kept {self.kept_token}",
        )
        hold(
            "token_grows", fence in self.kept_fence, f"{self.name} starts with {fence}, not {self.kept_fence}"
        )
        self.kept_fence = [fence]

    def _watch_state(self, state: AgentState) -> None:
        """Write down what it has promised to keep: what was asked of it, once that has returned."""
        keeps = state.set_fence

        @functools.wraps(keeps)
        def set_fence(fence: FenceState | None, owed: OwedHook | None = None) -> None:
            self.kept_fence.append(fence)
            keeps(fence, owed)
            self.kept_fence = [fence]
            self.kept_token = max(self.kept_token, state.highest_token)

        state.set_fence = set_fence  # type: ignore[method-assign]

    def kill(self) -> None:
        """It is killed where it is; the kernel closes its files and connections, and writes what it was given."""
        if self.process is not None and not self.process.dead:
            self.process.dead = True
            self._bury()
            self.drive.mend()

    def _bury(self) -> None:
        assert self.process is not None
        self.world.loop.network.killed(self.process)
        self.world.graves.append((self.agent, self.work))
        self.drive.turn_off()
        if self.agent is not None:
            for volume in self.agent.volumes.values():
                volume.listener = None
                volume.close()
        if self.state is not None:
            self.state.close()
        self.world.taps.close(self.name)
        self.agent = self.state = None

    @property
    def running(self) -> Agent | None:
        """Its program, once it has started."""
        return self.agent

    def _cut(self) -> None:
        """In the middle of what changes the disk: the machine is off, and comes back after a while."""
        assert self.process is not None
        self.process.dead = True
        self.world.loop.call_soon(self._lost_power, context=contextvars.Context())

    def _lost_power(self) -> None:
        self.world.note(f"{self.name} has lost its power")
        self.world.deeds["cut off"] += 1
        live = self.files()
        self._bury()
        self.drive.lose()
        self.drive.mend()
        self.world.checked(self.world.promises.check_index, self, live)
        self.world.checked(self.world.check_disks)
        self.world.loop.call_later(0.2 + 5 * self.world.rng.random(), self.start)

    # --- its machine -------------------------------------------------------------------------------

    def image(self, place: Path) -> None:
        """As a snapshot of the machine has it: the volume and the agent's state of one moment."""
        shutil.rmtree(place, ignore_errors=True)
        for one in (self.tree, self.base / "state"):
            shutil.copytree(one, place / one.name, symlinks=True)
        self._imaged = self.kept_token, list(self.kept_fence)

    def put_back(self, place: Path) -> None:
        """The machine is as it was when the image was made. The directory of the volume is the same one."""
        self.kill()
        for one in (self.tree, self.base / "state"):
            _empty(one)
            shutil.copytree(place / one.name, one, symlinks=True, dirs_exist_ok=True)
        self.kept_token, self.kept_fence = self._imaged[0], list(self._imaged[1])
        self._begin_anew()

    def lose_index(self) -> None:
        """Somebody has removed what the agent knows of its volume."""
        self.kill()
        for path in (self.base / "state").glob("volume-*"):
            path.unlink()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.drive.forget()
        self.world.promises.anew(self.name)
        self.owed = {content for _, content in self.files().values()} & self.world.written

    # --- its disk ------------------------------------------------------------------------------

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every file and directory: mode and content."""
        found: dict[str, tuple[int, bytes]] = {}
        for path in sorted(self.tree.rglob("*")):
            name = str(path.relative_to(self.tree))
            if name.split("/")[0] != os.fsdecode(PRIVATE_NAME):
                found[name] = (path.stat().st_mode & 0o7777, b"" if path.is_dir() else path.read_bytes())
        return found

    def kept(self) -> set[bytes]:
        """Every content in the tree, in the trash, or on its way in."""
        return {path.read_bytes() for path in self.tree.rglob("*") if path.is_file()}

    def content(self, name: str) -> bytes | None:
        path = self.tree / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes | None) -> None:
        path = self.tree / name
        self.drive.written_by_others(path)
        if path.is_file() and self.name in self.world.writers:
            self.world.given_up.add(path.read_bytes())
        if content is None:
            if path.is_file():
                self.owed.discard(path.read_bytes())
                path.unlink()
            return
        if any(one.is_file() for one in path.parents if one != self.tree and self.tree in one.parents):
            return
        if path.is_dir():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self.owed.discard(path.read_bytes())
        path.write_bytes(content)
        self.owed.add(content)
        self.world.written.add(content)
        path.chmod(0o644)
        self.world.note(f"{self.name} {name} is written")


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
