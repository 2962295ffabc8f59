"""The agent as one running object: volumes, the session, the fence, and what the coordinator orders.

Everything that touches a volume's tree runs on that volume's own thread, one thing at a time. The event
loop only moves messages. The agent needs no coordinator to keep scanning, to keep its fence or to serve
chunks to peers: what it was told last is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Mapping

import aiohttp
import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.changes import changes, told
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.errors import ProtocolError, UserError
from closeranks_proto.messages import Member

from .config import AgentConfig, AgentVolumeConfig
from .disk.records import ScanReport
from .disk.volume import Volume
from .fence import FenceGate
from .hands.activity import Activity
from .hands.attribution import Attribution
from .hands.disks import Disks
from .hands.own import OwnState
from .hands.reactions import Reactions
from .lag import LoopLag
from .link import Link
from .metrics import AgentMetrics
from .orders import Orders
from .scrub.audits import Audits
from .scrub.scrubber import Scrubber
from .speed import Speed
from .state import AgentState
from .volumes import Volumes, check_settings
from .watching import Watching

log = logging.getLogger("closeranks.agent")

FIXED_KEYS = ("node", "coordinator", "listen", "advertise", "state_dir")
TIDY_EVERY_S = 3600.0  # trash


class Agent:
    """One node's agent. `run` serves until it is cancelled."""

    def __init__(self, config: AgentConfig, state: AgentState, http: aiohttp.ClientSession) -> None:
        self.config = config
        self.state = state
        self.http = http
        self.metrics = AgentMetrics(self)
        self.address = ""
        self.link = Link(self, random.Random())
        self.orders = Orders(self)
        self.speed = Speed()
        self.lag = LoopLag()
        self.attribution = Attribution()
        self._own = OwnState(config.state_dir)
        disks = Disks(_places(config), taken=self._taken, trashed=self.orders.trashed)
        self.activity = Activity(self.attribution, disks, self.link.post, lambda: self.link.connected)
        self.reactions = Reactions(state, lambda: self.config, self.activity, self.link.post, self.spawn)
        self._gate = FenceGate(state, lambda: self.config, self.link.post, self.spawn)
        self._volumes = Volumes(
            config.volumes, config.state_dir, self.spawn, self._changed, self._scanned, self.orders.forget,
            self.link.scanned, self.attribution, self.activity,
        )  # fmt: skip
        self._audits = Audits(lambda: self.volumes, self.scrubbers, self.link.post, self.spawn)
        self._group: asyncio.TaskGroup | None = None
        self._unassigned: tuple[str, ...] = ()
        self._tidied: dict[str, float] = {}
        self._counted: dict[str, object] = {}  # by what settings a volume was scanned last
        self._anew = True  # the next membership is the first of its session

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._gate.resume()
            self.spawn(self.reactions.resume())
            self.spawn(self.activity.run())
            self.spawn(self.lag.run())
            known = self.state.settings
            if known is not None:
                try:
                    check_settings(known.digest, known.volumes)
                    await self._volumes.configure(known.digest, known.volumes)
                    await self._volumes.started()
                except ProtocolError as error:
                    log.warning(
                        "the settings on disk are of no use, waiting for the coordinator's: %s", error
                    )
            group.create_task(self.link.run())

    def stop(self) -> None:
        """Nothing long begins any more, and what runs ends soon. Before `run` is cancelled."""
        self._volumes.stop()

    async def close(self) -> None:
        await self._volumes.close()

    @property
    def ready(self) -> str | None:
        """None when this node may be used; otherwise why not."""
        if self.state.fence is not None:
            return f"fenced: {self.state.fence.reason}"
        waiting = self._volumes.waiting()
        if waiting or not self.volumes:
            return "the first scan has not finished: " + (
                ", ".join(waiting) or "no settings from the coordinator yet"
            )
        return None

    @property
    def volumes(self) -> Mapping[str, Volume]:
        """Those at hand, by name."""
        return self._volumes.open

    @property
    def algorithm(self) -> DigestAlgorithm | None:
        """The fleet's; None until a coordinator has ever answered."""
        return self._volumes.algorithm

    def _taken(self, volume: str) -> int:
        if not volume:
            return self._own.taken()
        known = self.volumes.get(volume)
        return 0 if known is None else known.taken.bytes

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
        """Take over what a session begins with. Raises ProtocolError for what no coordinator sends."""
        check_settings(welcome.digest, welcome.volumes)
        self._anew = True
        self.orders.welcomed()
        self.speed.set(wire.Limits(None, None))  # a new session is told of the limits that hold
        self._volumes.scrub(wire.Scrub(False, False, None))
        await self._volumes.configure(welcome.digest, welcome.volumes)
        await asyncio.to_thread(self.state.set_settings, welcome.digest, welcome.volumes)
        self.activity.anew()
        self.spawn(self.reactions.announce())
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

    def settled(self, name: str) -> Volume | None:
        """The volume when its root was made under the settings in force."""
        return self._volumes.settled(name)

    def watched(self, name: str) -> float | None:
        """Until when everything of a volume is seen and committed, monotonic; None where nothing watches."""
        return self._volumes.watched(name)

    def watching(self) -> Mapping[str, Watching]:
        """How each volume is watched, by name."""
        return self._volumes.watching()

    def scrubbers(self) -> Mapping[str, Scrubber]:
        """What re-reads each volume, by name."""
        return self._volumes.scrubbers()

    def status(self, name: str) -> wire.VolumeStatus | None:
        status = self._volumes.status(name)
        return (
            None if status is None else msgspec.structs.replace(status, unreached=self.orders.unreached(name))
        )

    def disk(self, name: str) -> tuple[int, int] | None:
        """(total, free) bytes of the filesystem that holds a volume ("": our state); None while not known."""
        return self.activity.disks.of(name)

    async def order(self, message: wire.CoordinatorMessage) -> None:
        """Carry out what the coordinator says. Orders that take long run beside the session."""
        match message:
            case wire.Membership():
                anew, self._anew = self._anew, False
                await asyncio.to_thread(self.state.set_membership, message, anew)
                self.metrics.keep_peers(self.state.members)
            case wire.Fence():
                await self._gate.raise_fence(message)
            case wire.Unfence():
                await self._gate.lift_fence(message)
            case wire.Converge() | wire.Verify():
                self.orders.start(message)
            case wire.Cancel():
                self.orders.cancel(message.action)
            case wire.TrashList() | wire.TrashRestore():
                self.spawn(self.orders.trash(message))
            case wire.Carried():
                self.orders.carried(message)
            case wire.Push():
                self.lag.stirred()
                self.orders.push(message)
            case wire.Ask():
                self._volumes.prove(message.volume)
            case wire.Limits():
                self.speed.set(message)
            case wire.Scrub():
                self._volumes.scrub(message)
            case wire.Audit():
                self._audits.take(message)
            case wire.Hold() | wire.Unhold():
                self.spawn(self.reactions.take(message))
            case _:
                raise AssertionError(f"{type(message).__name__} is the link's to handle")

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run beside everything else. A fault in it is told and ends nothing but it."""
        assert self._group is not None, "the agent runs"
        guarded = _guarded(work)
        try:
            task = self._group.create_task(guarded)
        except RuntimeError:  # the agent is stopping: what can not begin any more is given up in order
            guarded.close()
            work.close()
            raise
        task.add_done_callback(lambda _: work.close())  # it may have been cancelled before it began
        return task

    def _changed(self) -> None:
        """A volume has something new."""
        self.lag.stirred()
        self.link.notify()

    def _scanned(self, name: str, report: ScanReport) -> None:
        self.metrics.scanned(name, report)
        self._count(name, report)
        self.link.scanned()
        now = time.monotonic()
        if report.complete and now - self._tidied.get(name, -TIDY_EVERY_S) >= TIDY_EVERY_S:
            self._tidied[name] = now
            self.spawn(self.orders.tidy(name))

    def _count(self, name: str, report: ScanReport) -> None:
        """What a scan found was written, unless it looks different only because of how it is looked at."""
        volume = self.volumes.get(name)
        if volume is None or not report.complete:
            return
        seen = (volume.settings, volume.algorithm)
        if self._counted.get(name) == seen:
            self.activity.scanned(name, report)
        self._counted[name] = seen

    def reread(self) -> None:
        """SIGHUP: take over what may change while the agent runs, keep the old on an error.

        Volumes may come and go: the coordinator is told by the next Hello.
        """
        try:
            fresh = self.config.reread()
        except UserError as error:
            log.error("configuration not changed: %s", error)
            return
        fixed = [key for key in FIXED_KEYS if getattr(fresh, key) != getattr(self.config, key)]
        before, after = ({one.name: one for one in config.volumes} for config in (self.config, fresh))
        fixed += [
            f"{key} of [[volume]] {name}"
            for name, one in before.items()
            for key in AgentVolumeConfig.__slots__
            if getattr(after.get(name, one), key) != getattr(one, key)
        ]
        if fixed:
            log.error(
                "configuration not changed: %s can not change while the agent runs; restart it, or put it back",
                ", ".join(fixed),
            )
            return
        changed = changes(self.config, fresh)
        self.config = fresh
        if before.keys() != after.keys():
            self._volumes.own(fresh.volumes)
            self.activity.disks.keep(_places(fresh))
            self.metrics.keep_volumes(after)
            self.link.redial()
        self.spawn(self.reactions.permits_changed())
        for line in told(fresh.file, changed):
            log.info("%s", line)


def _places(config: AgentConfig) -> list[tuple[str, str]]:
    """Directories whose filesystems matter: our state's ("") and the volumes'."""
    return [("", config.state_dir), *((volume.name, volume.path) for volume in config.volumes)]


async def _guarded(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("a part of the agent ended by a fault of its own")
