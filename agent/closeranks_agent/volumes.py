"""This node's volumes: those that agent.toml names and the coordinator assigns, opened and scanned for ever.

One task keeps one volume: it opens it, brings it under the settings in force and scans it, one after the
other on the volume's own thread, so settings never change below a scan. What goes wrong with one volume is
told in that volume's status and tried again; it never ends the agent, which must stay reachable to be
fenced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.digests import DigestAlgorithm, algorithm_named
from closeranks_proto.errors import CloseranksError, ProtocolError
from closeranks_proto.limits import MAX_CHUNK_BYTES, MAX_TEXT_BYTES, MIN_CHUNK_BYTES
from closeranks_proto.lines import shortened

from .config import AgentVolumeConfig
from .disk.database import Damaged
from .disk.listers import Listers
from .disk.records import ScanReport, StateUnavailable
from .disk.volume import Volume
from .hands.attribution import Attribution
from .hands.written import Written
from .scrub.scrubber import Scrubber
from .watching import Watching

log = logging.getLogger("closeranks.agent")

PROBLEM_RETRY_S = 10.0  # a volume in trouble is looked at again at least this often
# A scan that takes longer than its interval still leaves the machine some air.
MIN_REST_SHARE = 0.2
MIN_REST_S = 0.05
# A scan that somebody asked for comes at once, but scans never take more than half of the time.
ASKED_REST_SHARE = 1.0
# While a watcher misses nothing, scans only guard against what no event tells: they get this share of the time,
# so that a large tree at rest costs little, and come at least so often.
WATCHED_SCAN_SHARE = 0.001
WATCHED_SCAN_MAX_S = 3600.0
# While writes into open files are not told, scans prove instead. They get this share of the time, asked for or not:
# more would cost whoever writes what not telling it has spared.
HUSHED_SCAN_SHARE = 0.02


@dataclass(slots=True)
class _Kept:
    """A volume, what it is to be, and the task that keeps it."""

    own: AgentVolumeConfig
    settings: wire.VolumeSettings
    algorithm: DigestAlgorithm
    watching: Watching
    volume: Volume | None = None
    scrubber: Scrubber | None = None
    applied: wire.VolumeSettings | None = None  # the settings that `volume` goes by
    problem: wire.Problem | None = None
    looked: bool = False  # a scan has ended since the agent started
    asked: bool = False  # a scan is wanted soon
    scanned_mono: float = 0.0  # when the last scan ended
    scan_took_s: float | None = None  # None: there was none
    kick: asyncio.Event = field(default_factory=asyncio.Event)
    tried: asyncio.Event = field(default_factory=asyncio.Event)  # opening it has succeeded or failed once
    task: asyncio.Task[None] | None = None


class Volumes:
    """`open` are those at hand by name.

    `changed` is called on the loop, `scanned` after each scan, `proven` when a watcher has proven something.
    """

    def __init__(
        self,
        own: tuple[AgentVolumeConfig, ...],
        state_dir: str,
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        changed: Callable[[], None],
        scanned: Callable[[str, ScanReport], None],
        dropped: Callable[[str], Coroutine[None, None, None]],
        proven: Callable[[], None],
        attribution: Attribution,
        written: Written,
    ) -> None:
        self.open: dict[str, Volume] = {}
        self.algorithm: DigestAlgorithm | None = None
        self._own = {volume.name: volume for volume in own}
        self._state_dir = state_dir
        self._spawn, self._changed, self._scanned, self._dropped = spawn, changed, scanned, dropped
        self._proven, self._attribution, self._written = proven, attribution, written
        self._kept: dict[str, _Kept] = {}
        self._listers = Listers()
        self._scrub = wire.Scrub(False, False, None)  # what an operator said last

    def own(self, own: tuple[AgentVolumeConfig, ...]) -> None:
        """The node's file has others now; the next `configure` goes by them."""
        self._own = {volume.name: volume for volume in own}

    async def configure(self, digest: str, settings: tuple[wire.VolumeSettings, ...]) -> None:
        """Keep exactly these, by these settings, which `check_settings` has accepted."""
        algorithm = self.algorithm = algorithm_named(digest)
        own = self._own  # as it is now: the file may be read again while something is closed
        wanted = {one.name: one for one in settings if one.name in own}
        for name in sorted(self._kept):
            if name not in wanted:
                await self._drop(name, "is not assigned to this node any more")
            elif self._kept[name].own != own[name]:  # it has gone and come again since the last session
                await self._drop(name, "has other settings in agent.toml now; it is opened anew")
        for name, one in sorted(wanted.items()):
            effective = _effective(one, own[name])
            kept = self._kept.get(name)
            if kept is None:
                kept = self._kept[name] = _Kept(own[name], effective, algorithm, self._watching(own[name]))
                kept.task = self._spawn(self._keep(kept))
            elif kept.settings != effective or kept.algorithm is not algorithm:
                kept.settings, kept.algorithm = effective, algorithm
                kept.kick.set()

    def prove(self, name: str) -> None:
        """See what was written until now and commit it; the beat that says so comes soon."""
        kept = self._kept.get(name)
        if kept is not None and not kept.watching.prove() and not kept.watching.stormy:
            self._scan_soon(name)

    def _scan_soon(self, name: str) -> None:
        kept = self._kept.get(name)
        if kept is not None:
            kept.asked = True
            kept.kick.set()

    def _watching(self, own: AgentVolumeConfig) -> Watching:
        return Watching(
            own.name, own.watch, self._attribution, self._written, lambda: self._scan_soon(own.name),
            self._proven,
        )  # fmt: skip

    def watching(self) -> dict[str, Watching]:
        """How each volume is watched, by name."""
        return {name: kept.watching for name, kept in self._kept.items()}

    def watched(self, name: str) -> float | None:
        """Until when everything of a volume is seen and committed, monotonic; None where nothing watches."""
        kept = self._kept.get(name)
        return None if kept is None else kept.watching.proven

    async def started(self) -> None:
        """Every volume was tried once."""
        for kept in list(self._kept.values()):
            await kept.tried.wait()

    def scrub(self, word: wire.Scrub) -> None:
        """An operator's word on re-reading contents."""
        self._scrub = msgspec.structs.replace(word, now=False)
        for kept in self._kept.values():
            if kept.scrubber is not None:
                kept.scrubber.order(word)

    def scrubbers(self) -> dict[str, Scrubber]:
        """By volume."""
        return {name: kept.scrubber for name, kept in self._kept.items() if kept.scrubber is not None}

    def stop(self) -> None:
        """End the scans that run; none begins any more."""
        for volume in self.open.values():
            volume.stop()

    async def close(self) -> None:
        self.stop()
        for volume in self.open.values():
            volume.listener = None  # nobody listens any more
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in self.scrubbers().values()))
        await asyncio.gather(*(kept.watching.close() for kept in self._kept.values()))
        await asyncio.gather(*(volume.run(volume.close) for volume in self.open.values()))
        await asyncio.to_thread(self._listers.close)

    # --- what is known -------------------------------------------------------------------------

    def waiting(self) -> list[str]:
        """Those whose first scan has not finished."""
        return sorted(
            name for name, kept in self._kept.items() if kept.volume is None or kept.volume.root is None
        )

    def settled(self, name: str) -> Volume | None:
        """The volume when its root was made under the settings in force; None until then."""
        kept = self._kept.get(name)
        if kept is None or kept.volume is None or kept.volume.root is None:
            return None
        if kept.applied != kept.settings or kept.volume.algorithm is not kept.algorithm:
            return None
        try:
            return None if kept.volume.history.rederive or kept.volume.is_comparing else kept.volume
        except StateUnavailable:
            return None  # its problem says so

    def status(self, name: str) -> wire.VolumeStatus | None:
        """For the coordinator; None while there is nothing to say. Asks the file system."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        if kept.volume is not None:
            if not kept.looked and kept.volume.root is not None:
                return None  # what the coordinator was told before the restart stands until we have looked
            status = kept.volume.status()
            watching = kept.watching
            return msgspec.structs.replace(
                status,
                problem=status.problem or kept.problem,
                watch=watching.kind,
                watch_detail=shortened(watching.shown_detail, MAX_TEXT_BYTES),
                watch_dropped=watching.tally.dropped + watching.tally.canary_misses,
                scrub=None if kept.scrubber is None else kept.scrubber.state(),
                storm=watching.stormy,
                hush=watching.is_proven_by_scans,
            )
        if kept.problem is None:
            return None
        return wire.VolumeStatus(name, kept.problem, None, None, None, (), 0, 0, 0, None)

    # --- keeping one ---------------------------------------------------------------------------

    async def _keep(self, kept: _Kept) -> None:
        told = ""
        while True:
            kept.kick.clear()
            try:
                rest_s = await self._round(kept)
                told = ""
            except (CloseranksError, OSError) as error:
                told = self._trouble(kept, str(error), told)
                rest_s = PROBLEM_RETRY_S
            except Exception as error:
                # One volume's fault must not take the others, nor the fence, with it.
                if repr(error) != told:
                    log.exception("%s: a fault of the agent; it is tried again", kept.own.name)
                told = repr(error)
                rest_s = PROBLEM_RETRY_S
            finally:
                kept.tried.set()
            await self._rest(kept, time.monotonic() + rest_s)

    async def _rest(self, kept: _Kept, until: float) -> None:
        """Until then, until the settings change, or until a scan that is wanted soon may begin."""
        while True:
            due = min(until, free_mono(kept)) if kept.asked else until
            if time.monotonic() >= due:
                return
            try:
                async with asyncio.timeout(due - time.monotonic()):
                    await kept.kick.wait()
            except TimeoutError:
                return
            if kept.volume is None or kept.applied != kept.settings or not kept.asked:
                return
            kept.kick.clear()

    def _trouble(self, kept: _Kept, text: str, told: str) -> str:
        if text != told:
            log.error("%s: %s", kept.own.name, text)
            kept.problem = wire.Problem("set_up" if kept.volume is None else "settings", text)
            self._changed()
        return text

    async def _round(self, kept: _Kept) -> float:
        """Open or configure it where that is due, and scan; how long to rest."""
        wanted, algorithm = kept.settings, kept.algorithm
        if kept.volume is None:
            kept.volume = await self._open(kept.own, wanted, algorithm)
            self.open[kept.own.name] = kept.volume
            kept.scrubber = self._scrubber(kept.volume, wanted)
        elif kept.applied != wanted or kept.volume.algorithm is not algorithm:
            await kept.volume.run(kept.volume.configure, wanted, algorithm)
            if kept.applied is None or kept.applied.ignore != wanted.ignore:
                await kept.watching.anew()  # what was ignored had no watch, or is remembered as nobody's
        assert kept.scrubber is not None, "opened with the volume"
        kept.scrubber.configure(wanted)
        kept.applied, kept.problem = wanted, None
        kept.tried.set()
        await kept.watching.ensure(kept.volume)
        kept.asked = False
        report = await kept.volume.run(kept.volume.scan)
        kept.looked = True
        kept.scrubber.scanned()
        if report.complete:
            kept.watching.scanned(report.started_mono)
        elif report.problem is not None and report.problem.code == "not_mounted":
            await kept.watching.close(report.problem.message)
        self._scanned(kept.own.name, report)
        now = time.monotonic()
        kept.scanned_mono, kept.scan_took_s = now, report.duration_s
        interval_s = kept.settings.scan_interval_s
        if report.problem is not None:
            interval_s = min(interval_s, PROBLEM_RETRY_S)
        else:
            interval_s = scan_interval_s(
                interval_s, report.duration_s, kept.watching.covered, kept.watching.hushed
            )
        return max(report.started_mono + interval_s - now, report.duration_s * MIN_REST_SHARE, MIN_REST_S)

    async def _open(
        self, own: AgentVolumeConfig, settings: wire.VolumeSettings, algorithm: DigestAlgorithm
    ) -> Volume:
        path, state_dir = os.fsencode(own.path), self._state_dir
        loop = asyncio.get_running_loop()

        def make() -> Volume:
            try:
                return Volume(own.name, path, state_dir, settings, algorithm, own.private_dir)
            except Damaged as error:  # found while it was read; opened again, it is set aside
                log.error("%s; it is opened once more", error)
                return Volume(own.name, path, state_dir, settings, algorithm, own.private_dir)

        opening = asyncio.ensure_future(asyncio.to_thread(make))
        try:
            volume = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise

        def changed() -> None:
            loop.call_soon_threadsafe(self._changed)

        volume.listener, volume.listers = changed, self._listers
        return volume

    def _scrubber(self, volume: Volume, settings: wire.VolumeSettings) -> Scrubber:
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._changed)

        scrubber = Scrubber(volume, settings, changed)
        scrubber.order(self._scrub)
        scrubber.start()
        return scrubber

    async def _drop(self, name: str, why: str) -> None:
        """Close a volume."""
        kept = self._kept.pop(name)
        if kept.task is not None:
            kept.task.cancel()
            await asyncio.wait({kept.task})
        await kept.watching.close()
        if kept.scrubber is not None:
            await asyncio.to_thread(kept.scrubber.stop)
        volume = self.open.pop(name, None)
        if volume is not None:
            volume.stop()
            await self._dropped(name)
            volume.listener = None
            await volume.run(volume.close)
        log.info("%s %s", name, why)


def free_mono(kept: _Kept) -> float:
    """From when on a scan that is wanted soon may begin: behind a hush sooner than it was to while that lasted."""
    if kept.scan_took_s is None:
        return 0.0
    return kept.scanned_mono + asked_rest_s(kept.scan_took_s, kept.watching.hushed)


def asked_rest_s(took_s: float, hushed: bool) -> float:
    """How long after a scan that took so long another one that somebody asks for does not begin."""
    return max(took_s / HUSHED_SCAN_SHARE if hushed else took_s * ASKED_REST_SHARE, MIN_REST_S)


def scan_interval_s(wanted_s: float, took_s: float, covered: bool, hushed: bool) -> float:
    """How often a volume is scanned whose last scan took so long, where nobody asks for it."""
    if not covered and not hushed:
        return wanted_s
    share = WATCHED_SCAN_SHARE if covered else HUSHED_SCAN_SHARE
    return max(wanted_s, min(took_s / share, WATCHED_SCAN_MAX_S))


def _close_unwanted(opening: asyncio.Future[Volume]) -> None:
    """It was opened after nobody wanted it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def check_settings(digest: str, settings: tuple[wire.VolumeSettings, ...]) -> None:
    """What a correct coordinator never sends is refused before anything goes by it. Raises ProtocolError."""
    algorithm_named(digest)
    for one in settings:
        if not MIN_CHUNK_BYTES <= one.chunk_bytes <= MAX_CHUNK_BYTES or one.chunk_bytes % MIN_CHUNK_BYTES:
            raise ProtocolError(f"volume {one.name!r} with chunks of {one.chunk_bytes} bytes")


def _effective(settings: wire.VolumeSettings, own: AgentVolumeConfig) -> wire.VolumeSettings:
    """The coordinator's settings with what this node's own file overrides."""
    given = {
        "scan_interval_s": own.scan_interval_s,
        "scrub_interval_s": own.scrub_interval_s,
        "scrub_bytes_s": own.scrub_bytes_s,
        "scrub_files_s": own.scrub_files_s,
    }
    found: dict[str, float | None] = {name: value for name, value in given.items() if value is not None}
    for name in ("scrub_bytes_s", "scrub_files_s"):
        if found.get(name) == 0:
            found[name] = None  # no limit
    return msgspec.structs.replace(settings, **found) if found else settings
