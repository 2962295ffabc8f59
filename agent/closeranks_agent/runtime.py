"""The agent as one running object: volumes, scans, the fence, and what the coordinator orders.

Everything that touches a volume's tree runs on that volume's own thread, one thing at a time. The event
loop only moves messages. The agent needs no coordinator to keep scanning, to keep its fence or to serve
chunks to peers: what it was told last is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Coroutine, Mapping

import aiohttp

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm, algorithm_named
from closeranks_proto.errors import UserError
from closeranks_proto.messages import Member

from .config import AgentConfig, AgentVolumeConfig
from .hooks import HookOutcome, run_hook
from .link import Link
from .metrics import AgentMetrics, disk_of
from .orders import Orders
from .state import AgentState
from .volume import Volume

log = logging.getLogger("closeranks.agent")

FIXED_KEYS = ("node", "coordinator", "listen", "advertise", "state_dir", "volumes")
PROBLEM_RETRY_S = 10.0  # a volume in trouble is looked at again at least this often
# A scan that takes longer than its interval still leaves the machine some air.
MIN_REST_SHARE = 0.2


class Agent:
    """One node's agent. `run` serves until it is cancelled."""

    def __init__(self, config: AgentConfig, state: AgentState, http: aiohttp.ClientSession) -> None:
        self.config = config
        self.state = state
        self.http = http
        self.metrics = AgentMetrics(self)
        self.algorithm: DigestAlgorithm | None = None
        self.volumes: dict[str, Volume] = {}
        self.address = ""
        self.link = Link(self, random.Random())
        self.orders = Orders(self)
        self._scanners: dict[str, asyncio.Task[None]] = {}
        self._kicks: dict[str, asyncio.Event] = {}
        self._group: asyncio.TaskGroup | None = None
        self._unassigned: tuple[str, ...] = ()
        self._anew = True  # the next membership is the first of its session

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            known = self.state.settings
            if known is not None:
                await self._configure(known.digest, known.volumes)
            group.create_task(self.link.run())

    async def close(self) -> None:
        await self.orders.close()
        for volume in self.volumes.values():
            volume.listener = None  # nobody listens any more
            await volume.run(volume.close)

    @property
    def ready(self) -> str | None:
        """None when this node may be used; otherwise why not."""
        if self.state.fence is not None:
            return f"fenced: {self.state.fence.reason}"
        waiting = sorted(name for name, volume in self.volumes.items() if volume.root is None)
        if waiting or not self.volumes:
            return "the first scan has not finished: " + (
                ", ".join(waiting) or "no settings from the coordinator yet"
            )
        return None

    def members(self) -> Mapping[str, Member]:
        return self.state.members

    # --- for the link --------------------------------------------------------------------------

    def hello(self, protocol: int, software: str, digests: tuple[str, ...]) -> wire.Hello:
        return wire.Hello(
            protocol,
            protocol,
            software,
            self.config.node,
            self.state.agent_id,
            digests,
            self.address,
            self.state.highest_token,
            self.state.fence,
            tuple(self._volume_hello(volume.name) for volume in self.config.volumes),
        )

    def _volume_hello(self, name: str) -> wire.VolumeHello:
        volume = self.volumes.get(name)
        if volume is None:
            return wire.VolumeHello(name, None, 0, 1, None)
        return wire.VolumeHello(name, volume.root, volume.last_seq, volume.first_seq, volume.base_root)

    async def welcomed(self, welcome: wire.Welcome) -> None:
        self._anew = True
        await asyncio.to_thread(self.state.set_settings, welcome.digest, welcome.volumes)
        await self._configure(welcome.digest, welcome.volumes)
        missing = tuple(
            sorted(
                {volume.name for volume in self.config.volumes} - {volume.name for volume in welcome.volumes}
            )
        )
        if missing != self._unassigned:
            self._unassigned = missing
            if missing:
                log.warning(
                    "the coordinator does not assign %s to %s: check [[volume]] name and nodes in coordinator.toml",
                    ", ".join(missing),
                    self.config.node,
                )

    def beat(self) -> wire.Beat:
        now = time.monotonic()
        beats: list[wire.VolumeBeat] = []
        for name, volume in sorted(self.volumes.items()):
            started = volume.last_scan_started()
            age = None if started is None or volume.problem is not None else int((now - started) * 1000) + 1
            beats.append(wire.VolumeBeat(name, volume.last_seq, age))
        return wire.Beat(tuple(beats))

    def status(self, name: str) -> wire.VolumeStatus | None:
        return self.volumes[name].status() if name in self.volumes else None

    def disk(self, name: str) -> tuple[int, int] | None:
        """(total, free) bytes of the filesystem that holds a volume; None while it can not be asked."""
        return disk_of(self.volumes[name].path) if name in self.volumes else None

    async def order(self, message: wire.CoordinatorMessage) -> None:
        """Carry out what the coordinator says. Orders that take long run beside the session."""
        match message:
            case wire.Membership():
                anew, self._anew = self._anew, False
                await asyncio.to_thread(self.state.set_membership, message, anew)
            case wire.Fence():
                self.spawn(self._fence(message))
            case wire.Unfence():
                self.spawn(self._unfence(message))
            case wire.Converge() | wire.Verify():
                self.orders.start(message)
            case wire.Cancel():
                self.orders.cancel(message.action)
            case wire.TrashList() | wire.TrashRestore():
                self.spawn(self.orders.trash(message))
            case _:
                raise AssertionError(f"{type(message).__name__} is the link's to handle")

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        assert self._group is not None
        return self._group.create_task(work)

    def reread(self) -> None:
        """SIGHUP: take over what may change while the agent runs (hooks), keep the old on an error."""
        try:
            fresh = self.config.reread()
        except UserError as error:
            log.error("configuration not changed: %s", error)
            return
        fixed = [key for key in FIXED_KEYS if getattr(fresh, key) != getattr(self.config, key)]
        if fixed:
            log.error(
                "configuration not changed: %s can not change while the agent runs; restart it",
                ", ".join(fixed),
            )
            return
        self.config = fresh
        log.info("configuration read again from %s", fresh.file)

    # --- volumes -------------------------------------------------------------------------------

    async def _configure(self, digest: str, settings: tuple[wire.VolumeSettings, ...]) -> None:
        self.algorithm = algorithm_named(digest)
        own = {volume.name: volume for volume in self.config.volumes}
        for one in settings:
            if one.name in own:
                await self._open(own[one.name], _effective(one, own[one.name]), self.algorithm)
        for name in sorted(set(self.volumes) - {one.name for one in settings}):
            self._scanners.pop(name).cancel()
            volume = self.volumes.pop(name)
            await volume.run(volume.close)

    async def _open(
        self, own: AgentVolumeConfig, settings: wire.VolumeSettings, algorithm: DigestAlgorithm
    ) -> None:
        volume = self.volumes.get(own.name)
        if volume is None:
            volume = await asyncio.to_thread(
                Volume,
                own.name,
                os.fsencode(own.path),
                self.config.state_dir,
                settings,
                algorithm,
                own.private_dir,
            )
            loop = asyncio.get_running_loop()

            def changed() -> None:
                loop.call_soon_threadsafe(self.link.notify)

            volume.listener = changed
            self.volumes[own.name] = volume
            self._kicks[own.name] = asyncio.Event()
            self._scanners[own.name] = self.spawn(self._scan_for_ever(volume))
        elif volume.settings != settings or volume.algorithm is not algorithm:
            await volume.run(volume.configure, settings, algorithm)
            self._kicks[own.name].set()

    async def _scan_for_ever(self, volume: Volume) -> None:
        kick = self._kicks[volume.name]
        while True:
            kick.clear()
            report = await volume.run(volume.scan)
            self.metrics.scanned(volume.name, report)
            self.link.scanned()
            interval = volume.settings.scan_interval_s
            if report.problem is not None:
                interval = min(interval, PROBLEM_RETRY_S)
            rest = max(report.started_mono + interval - time.monotonic(), report.duration_s * MIN_REST_SHARE)
            try:
                async with asyncio.timeout(rest):
                    await kick.wait()
            except TimeoutError:
                continue

    # --- the fence -----------------------------------------------------------------------------

    async def _fence(self, order: wire.Fence) -> None:
        """Persist the fence, then run the hook. An order older than what we have seen is refused."""
        current = self.state.fence
        if order.token < self.state.highest_token and (current is None or current.token != order.token):
            log.warning(
                "a late fence order (token %d, seen %d) is ignored", order.token, self.state.highest_token
            )
            return
        if current is None or current.token != order.token:
            fence = wire.FenceState(order.token, order.reason, order.incident, time.time_ns() // 1_000_000)
            await asyncio.to_thread(self.state.set_fence, fence)
            log.warning(
                "this node is quarantined: %s (incident %s, fence token %d)",
                order.reason,
                order.incident,
                order.token,
            )
            outcome = await self._hook(
                self.config.hooks.on_quarantine, order.incident, order.token, order.reason
            )
        else:
            outcome = HookOutcome(True, "")
        self.link.post(wire.FenceAnswer(order.token, True, outcome.text, outcome.ok))

    async def _unfence(self, order: wire.Unfence) -> None:
        current = self.state.fence
        if order.token < self.state.highest_token:
            log.warning(
                "a late release order (token %d, seen %d) is ignored", order.token, self.state.highest_token
            )
            return
        outcome = HookOutcome(True, "")
        if current is not None:
            await asyncio.to_thread(self.state.set_fence, None)
            log.info("this node is released from quarantine (incident %s)", order.incident)
            outcome = await self._hook(
                self.config.hooks.on_release, order.incident, order.token, current.reason
            )
        self.link.post(wire.FenceAnswer(order.token, False, outcome.text, outcome.ok))

    async def _hook(self, argv: tuple[str, ...], incident: str, token: int, reason: str) -> HookOutcome:
        environment = {
            "CLOSERANKS_NODE": self.config.node,
            "CLOSERANKS_INCIDENT": incident,
            "CLOSERANKS_FENCE_TOKEN": str(token),
            "CLOSERANKS_REASON": reason,
        }
        outcome = await run_hook(argv, environment, self.config.hooks.timeout_s)
        if outcome.text:
            log.log(logging.INFO if outcome.ok else logging.WARNING, "%s", outcome.text)
        return outcome


def _effective(settings: wire.VolumeSettings, own: AgentVolumeConfig) -> wire.VolumeSettings:
    """The coordinator's settings with what this node's own file overrides."""
    if own.scan_interval_s is None:
        return settings
    return wire.VolumeSettings(
        settings.name,
        settings.chunk_bytes,
        settings.ignore,
        settings.track,
        own.scan_interval_s,
        settings.special_bits,
        settings.trash_max_bytes,
        settings.trash_keep_s,
    )
