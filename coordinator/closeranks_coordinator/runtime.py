"""The coordinator as one running object: feeds the core, carries out its effects in their order.

What the core decides, in which order and how it becomes durable, is `deciding`'s; here is what comes of it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from closeranks_proto import messages as wire
from closeranks_proto.changes import changes, told
from closeranks_proto.digests import algorithm_named
from closeranks_proto.errors import MissingObject, UserError

from .carrying import Carrying
from .config import CoordinatorConfig
from .core.model import (
    Configured,
    Effect,
    Event,
    FleetConfig,
    Log,
    Now,
    Observe,
    Persist,
    Publish,
    Send,
    Tick,
    VolumeConfig,
    WakeAt,
)
from .deciding import Deciding, clock
from .session import Receipt
from .sessions import Sessions
from .slices import Rounds
from .storage.store import Batch, Store, StoreFault, StoreFull
from .web.events import EventLog
from .web.metrics import Metrics

log = logging.getLogger("closeranks.coordinator")

TICK_S = 1.0
LAG_EVERY_S = 0.02  # the loop is looked at so often while there is something to decide
CAUGHT_UP_MAX_S = 3.0
COLLECT_FIRST_S = 300.0
COLLECT_EVERY_S = 3600.0
TRASH_TIMEOUT_S = 30.0


def volume_settings(volume: VolumeConfig) -> wire.VolumeSettings:
    """What an agent must know of a volume."""
    return wire.VolumeSettings(
        volume.name,
        volume.chunk_bytes,
        volume.ignore,
        volume.track,
        volume.scan_interval_s,
        volume.special_bits,
        volume.trash_max_bytes,
        volume.trash_keep_s,
        volume.scrub_interval_s,
        volume.scrub_bytes_s,
        volume.scrub_files_s,
    )


class Coordinator:
    """Core, store, sessions and event log of one running coordinator."""

    def __init__(self, config: CoordinatorConfig, store: Store) -> None:
        self.config = config
        self.store = store
        self.ready = False  # both ports listen
        self.algorithm = algorithm_named(config.fleet.digest)
        self._deciding = Deciding(config.fleet, self.algorithm, store, self._carry_out)
        self.fleet = self._deciding.fleet
        self.carrying = Carrying(self.algorithm)
        self.sessions = Sessions(self)
        self.events = EventLog(store)
        self.metrics = Metrics()
        self.metrics.attach(self)
        self._wake: tuple[float, asyncio.TimerHandle] | None = None
        self._foresights = Rounds()
        self._foreseeing: dict[tuple[str, bytes], asyncio.Task[None]] = {}  # by volume and root
        self._busy = asyncio.Event()  # something was fed within the last second, other than the time
        self._fed_at = 0.0
        self._reloading: set[asyncio.Task[None]] = set()

    # --- for sessions and the API --------------------------------------------------------------

    @property
    def fleet_config(self) -> FleetConfig:
        return self.config.fleet

    def now(self) -> Now:
        return clock()

    def settings_of(self, volume: str) -> wire.VolumeSettings:
        return next(volume_settings(found) for found in self.config.fleet.volumes if found.name == volume)

    def carried(self, node: str, message: wire.Carried) -> None:
        """Contents that came with a commit, for the other nodes. Raises ProtocolError."""
        volume = next((one for one in self.config.fleet.volumes if one.name == message.volume), None)
        if volume is not None and volume.may_write(node):
            self.carrying.keep(message, len(volume.nodes) - 1, time.monotonic())

    def known_root(self, node: str, volume: str) -> bytes | None:
        """The root of this node's volume that the core goes by."""
        return self.fleet.root_of(node, volume)

    async def foreseen(self, volume: str, root: bytes) -> None:
        """Find out in slices how an announced tree differs from the truth. Equal ones of many nodes: once."""
        task = self._foreseeing.get((volume, root))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._foresee(volume, root))
            self._foreseeing[(volume, root)] = task
            task.add_done_callback(lambda _: self._foreseeing.pop((volume, root), None))
        await asyncio.shield(task)

    async def _foresee(self, volume: str, root: bytes) -> None:
        try:
            await self._foresights.turn()  # a thousand nodes may announce a thousand trees at once
            for _ in self.fleet.foresee(volume, root):
                await asyncio.sleep(0)
                await self._foresights.turn()
        except MissingObject as error:
            log.info("%s: what an announced tree is held against is gone by now: %s", volume, error)

    def feed(self, event: Event, receipt: Receipt | None = None) -> None:
        """Queue an event for the core. What it decides and the receipt's root become durable together."""
        self._deciding.feed(event, receipt)
        if not isinstance(event, Tick):
            self._fed_at = time.monotonic()
            self._busy.set()

    def overtake(self, event: Event) -> bool:
        """Decide it while the disk keeps waiting what came before; False where it has to wait as well."""
        taken = self._deciding.overtake(event)
        if taken:
            self._fed_at = time.monotonic()
            self._busy.set()
        return taken

    async def room(self) -> None:
        """Wait while too much is queued for the core: agents are read no faster than they are judged."""
        await self._deciding.room()

    async def settled(self, step_max_s: float | None = None) -> bool:
        """Wait until what the core decided last is durable: no answer shows what a crash could take back.

        `step_max_s`: the longest to wait for the end of a step; False where it has not ended, and nobody may look.
        """
        return await self._deciding.settled(step_max_s)

    async def ask(self, event: Event) -> object:
        """The core's answer to an operator's request, once everything it promised is durable."""
        return await self._deciding.ask(event)

    async def caught_up(self) -> bool:
        """Whether all that was fed so far is decided and durable, after waiting CAUGHT_UP_MAX_S for it at most."""
        try:
            async with asyncio.timeout(CAUGHT_UP_MAX_S):
                await self._deciding.ask(None)
        except TimeoutError:
            return False
        return True

    @property
    def problem(self) -> str | None:
        """Why nothing can be made durable: for the core, or for anybody else."""
        return self._deciding.problem or self.store.counts().fault

    async def trash(self, node: str, message: wire.TrashList | wire.TrashRestore) -> wire.TrashAnswer | None:
        """What the node answers; None while it has no session or when it does not answer in time."""
        answer: asyncio.Future[wire.TrashAnswer] = asyncio.get_running_loop().create_future()
        request = self.sessions.answer_trash(node, answer)
        if request is None:
            return None
        match message:
            case wire.TrashList():
                self.sessions.send(
                    node,
                    wire.TrashList(request, message.volume, message.incident, message.limit, message.cursor),
                )
            case wire.TrashRestore():
                self.sessions.send(
                    node,
                    wire.TrashRestore(request, message.volume, message.ids, message.to, message.in_place),
                )
        try:
            return await asyncio.wait_for(answer, TRASH_TIMEOUT_S)
        except (TimeoutError, ConnectionError) as error:
            log.warning("%s did not answer about its trash: %s", node, error or "no answer in time")
            return None

    async def reload(self) -> None:
        """Read the configuration file again. UserError leaves everything as it was."""
        fresh = self.config.reread()
        for key in ("listen_agents", "listen_api", "state_dir"):
            if getattr(fresh, key) != getattr(self.config, key):
                raise UserError(f"{fresh.file}: {key} can not change while the coordinator runs; restart it")
        if fresh.fleet.digest != self.config.fleet.digest:
            raise UserError(
                f"{fresh.file}: fleet.digest can not change while the coordinator runs; restart it"
            )
        changed = changes(self.config, fresh)
        retired = sorted(set(self.config.fleet.nodes) - set(fresh.fleet.nodes))
        before = {node: self._settings_for(node) for node in self.sessions.connected()}
        assigned = self._assigned()
        self.config = fresh
        await self.ask(Configured(fresh.fleet))
        self.sessions.retire(retired)
        self._forget_counts(assigned - self._assigned())
        gone = sorted(set(self.store.node_roots()) - self._assigned())
        if gone:
            await self.store.write(Batch(forget=gone))
        # A session begins with the settings: whom they changed for dials again.
        self.sessions.restart(node for node, old in before.items() if old != self._settings_for(node))
        for line in told(fresh.file, changed):
            log.info("%s", line)
        for warning in fresh.warnings:
            log.warning("%s", warning)

    def _forget_counts(self, gone: set[tuple[str, str]]) -> None:
        """Of nodes and volumes that were removed: a scrape would show them for ever."""
        volumes = {volume.name for volume in self.config.fleet.volumes}
        for node, volume in gone:
            self.metrics.forget(node=node, volume=volume)
            if volume not in volumes:
                self.metrics.forget(volume=volume)

    def reload_soon(self) -> None:
        """SIGHUP: read the configuration again, keeping the old one on an error."""

        async def reload() -> None:
            try:
                await self.reload()
            except (UserError, OSError) as error:
                log.error("configuration not changed: %s", error)

        task = asyncio.get_running_loop().create_task(reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    def _assigned(self) -> set[tuple[str, str]]:
        return {(node, volume.name) for volume in self.config.fleet.volumes for node in volume.nodes}

    def _settings_for(self, node: str) -> tuple[wire.VolumeSettings, ...]:
        return tuple(volume_settings(volume) for volume in self.config.fleet.volumes if node in volume.nodes)

    # --- what comes of it ----------------------------------------------------------------------

    async def run(self) -> None:
        """Decide and carry out, for ever."""
        self.feed(Tick())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deciding.run())
            group.create_task(self._tick())
            group.create_task(self._watch_loop())
            group.create_task(self._collect())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case Publish():
                self.events.publish(effect.kind, effect.id)
            case Observe():
                self.metrics.observe(effect)
            case Log():
                getattr(log, effect.level)("%s", effect.text)
            case WakeAt():
                self._wake_at(effect.mono)
            case Persist():
                pass  # done before

    def _send(self, effect: Send) -> None:
        if isinstance(effect.message, wire.Push):
            frame = self.carrying.frame_for(effect.message, time.monotonic())
            if frame is not None:
                self.sessions.send_carried(effect.node, frame)
        self.sessions.send(effect.node, effect.message)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            if not self._busy.is_set():
                self.metrics.loop_lag(time.monotonic() - due)
            self.carrying.expire(time.monotonic())
            if not self._deciding.queued:
                self.feed(Tick())

    async def _watch_loop(self) -> None:
        """How late the loop is, often while there is something to decide: no longest block is to be missed."""
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            now = time.monotonic()
            self.metrics.loop_lag(now - due)
            if now - self._fed_at > TICK_S:
                self._busy.clear()
                await self._busy.wait()

    def _wake_at(self, mono: float) -> None:
        """One timer: the earliest moment that the core asked for."""
        if self._wake is not None and not self._wake[1].cancelled() and self._wake[0] <= mono:
            return
        if self._wake is not None:
            self._wake[1].cancel()
        delay = max(mono - time.monotonic(), 0.001)
        self._wake = (mono, asyncio.get_running_loop().call_later(delay, self._woken))

    def _woken(self) -> None:
        self._wake = None
        self.feed(Tick())

    async def _collect(self) -> None:
        """Give back what nothing needs any more."""
        await asyncio.sleep(COLLECT_FIRST_S)
        while True:
            now = clock()
            before_ms = now.wall_ms - int(self.config.fleet.history_keep_s * 1000)
            assigned = {(node, one.name) for one in self.config.fleet.volumes for node in one.nodes}
            gone = sorted(set(self.store.node_roots()) - assigned)
            try:
                if gone:  # retired nodes and volumes: nothing is kept for their sake
                    await self.store.write(Batch(forget=gone))
                report = await self.store.collect(self.fleet.live_roots(now), before_ms)
            except (StoreFull, StoreFault) as error:
                log.error("nothing was collected: %s", error)
            else:
                log.info(
                    "garbage collection: %d objects in use, %d removed (%d bytes), %d of history removed, %.2f s%s",
                    report.live, report.removed, report.removed_bytes, report.history_removed, report.duration_s,
                    "" if report.complete else "; given up on the way",
                )  # fmt: skip
            await asyncio.sleep(COLLECT_EVERY_S)
