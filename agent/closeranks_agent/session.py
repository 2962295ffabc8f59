"""One connection with the coordinator, from Welcome to its end: a window over each volume's journal.

What must arrive is in the journals, numbered; at most `credit` commits are under way, an announcement travels
alone, and everything not acknowledged is sent again by the next session. One task writes, and only it moves
the windows' sending ends; one reads; one answers questions for objects. Before a volume's window opens, its
journal is held against what the coordinator has; where it does not follow, the present root is announced.
Until then nothing is said of its scans either: they would vouch for a root that is not this tree's.

A process that was stopped or suspended for as long as it takes the coordinator to give it up ends the session before it
reads on: what lay in the connection meanwhile, such as a push, is of a fleet that has gone on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.errors import ProtocolError
from closeranks_proto.wire import clipped, decode_coordinator_message, encode_message

from .disk.database import Damaged
from .disk.records import StateUnavailable
from .statuses import Statuses
from .wants import Wants

if TYPE_CHECKING:
    from .disk.volume import Volume
    from .runtime import Agent

log = logging.getLogger("closeranks.link")

BEAT_MIN_S = 0.5
FORGET_EVERY_S = 0.25  # what was acknowledged is forgotten in the journal: not at each of many small commits
RAN_EVERY_S = 1.0  # how often it is noted that this process runs
OUTBOX_MAX_MESSAGES = 4096
OBJECTS_AHEAD = 16  # frames of FRAME_TARGET_BYTES that wait for the wire before more objects are read
CREDIT_MAX = 1024
GOODBYE_MAX_S = 60.0


@dataclass(slots=True)
class _Window:
    """What of a volume's journal is under way: sent up to `sent`, acknowledged up to `acked`."""

    acked: int
    sent: int
    root: bytes | None  # what the coordinator has as of `acked`, when the window opens
    announcing: int | None = None  # seq of an announcement under way
    announced: int = 0  # seq of the last announcement that the coordinator asked for
    open: bool = False  # the journal was held against what the coordinator has
    resync: bool = False  # the coordinator asks for an announcement
    trouble: str = ""
    beaten: tuple[float | None, float | None, int] = (None, None, -1)  # scan, proof and seq of the last beat


class Session:
    """Use once: `run` until the connection ends, then `close`."""

    def __init__(self, agent: Agent, socket: aiohttp.ClientWebSocketResponse, welcome: wire.Welcome) -> None:
        if any(seq > limits.SEQ_MAX for _, seq, _ in welcome.acked):
            raise ProtocolError("the coordinator counts beyond all commits")
        self._agent = agent
        self._socket = socket
        self._credit = max(1, min(welcome.credit_commits, CREDIT_MAX))
        self._beat_interval_s = max(BEAT_MIN_S, min(welcome.beat_interval_s, limits.BEAT_INTERVAL_S))
        self._windows = {name: _Window(seq, seq, root) for name, seq, root in welcome.acked}
        self._carry = frozenset(welcome.carry)
        self._outbox: deque[wire.AgentMessage] = deque()
        self.wants = Wants(agent, len(self._windows), self.post, self._room)
        self._statuses = Statuses(agent, tuple(self._windows), self._send)
        self._goodbye_s = 0.0
        self._stuck = self._over = False
        self._sent_some = asyncio.Event()
        self._acks = asyncio.Event()  # set and replaced at every one
        self._forget = asyncio.Event()
        self._beat_due = self._full_beat_due = 0.0
        self._ran_at = _now_s()  # when this process was last known to run
        self.wake = asyncio.Event()

    def flushed(self, name: str, seq: int | None = None) -> bool:
        volume, window = self._agent.volumes.get(name), self._windows.get(name)
        if volume is None or window is None:
            return True
        last = volume.last_seq if seq is None else min(seq, volume.last_seq)
        return window.open and window.acked >= last

    async def acknowledgement(self, limit_s: float) -> None:
        """Wait for the next one, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._acks.wait()

    def post(self, message: wire.AgentMessage) -> None:
        if len(self._outbox) >= OUTBOX_MAX_MESSAGES:
            self._stuck = True  # the writer ends the session; what matters is asked for again
        else:
            self._outbox.append(message)
        self.wake.set()

    def end(self) -> None:
        """Soon, and in order."""
        self._over = True
        self.wake.set()

    def scanned(self) -> None:
        """A scan has completed: say so soon."""
        self._beat_due = 0.0
        self.wake.set()

    def close(self) -> None:
        for volume in self._agent.volumes.values():
            volume.carrying.set(False)
        self.wants.close()

    async def run(self) -> float:
        """Until the connection ends; how many seconds the coordinator asks to wait before the next try."""
        parts = (
            self._read(), self._write(), self.wants.answer(), self._forget_acknowledged(), self._note_running(),
        )  # fmt: skip
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        log.info("the session with the coordinator ended")
        return self._goodbye_s

    # --- out -----------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            self.wake.clear()
            if self._over:
                return
            if self._stuck:
                raise ConnectionError("the coordinator does not read what it is sent")
            while self._outbox:
                await self._send(clipped(self._outbox.popleft()))
            self._sent_some.set()
            sent = [await self._pump(name, window) for name, window in self._windows.items()]
            await self._statuses.tell()
            await self._send_beat()
            if any(sent):
                continue
            due = min(self._beat_due, self._full_beat_due, self._statuses.due or self._full_beat_due)
            try:
                async with asyncio.timeout(max(0.01, due - time.monotonic())):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def _send(self, message: wire.AgentMessage) -> None:
        frame = encode_message(message)
        try:
            async with asyncio.timeout(limits.SILENT_AFTER_S):
                await self._socket.send_bytes(frame)
        except TimeoutError:
            raise TimeoutError("the coordinator does not read what it is sent") from None

    async def _room(self) -> None:
        """Wait until what is queued has left, but for OBJECTS_AHEAD."""
        while len(self._outbox) > OBJECTS_AHEAD:
            self._sent_some.clear()
            await self._sent_some.wait()

    async def _pump(self, name: str, window: _Window) -> bool:
        """Send what the window allows of one journal; whether anything was sent."""
        volume = self._agent.volumes.get(name)
        if volume is None:
            return False
        if window.open and volume.last_seq < window.sent:
            window.open, window.root = False, None  # a damaged index was made anew: its numbers begin again
            window.acked, window.announcing = window.sent, None
        if not window.open and self._agent.settled(name) is None:
            return False
        try:
            sent = await self._send_journal(volume, window)
        except (StateUnavailable, Damaged) as error:
            if str(error) != window.trouble:
                log.warning("%s: its journal can not be used now: %s", name, error)
            window.trouble = str(error)
            return False
        window.trouble = ""
        return sent

    async def _send_journal(self, volume: Volume, window: _Window) -> bool:
        if not window.open:
            await asyncio.to_thread(self._open_window, volume, window)
            if not window.open:
                return False
        elif window.resync:
            await asyncio.to_thread(self._announce, volume, window, 0)
            window.announced = window.sent + 1
        room = self._credit - (window.sent - window.acked)
        if window.announcing is not None or room <= 0 or volume.last_seq <= window.sent:
            return False
        records: Sequence[wire.Commit | wire.Announce] = volume.fresh(window.sent, room)
        if not records:
            records = await asyncio.to_thread(volume.pending, window.sent, room)
        for record in records:
            if window.resync:
                break  # it would not be believed
            window.sent = record.seq
            if isinstance(record, wire.Announce):
                window.announcing = record.seq
            else:
                await self._send_along(volume, record)
            await self._send(record)
            if window.announcing is not None:
                break
        return bool(records)

    async def _send_along(self, volume: Volume, commit: wire.Commit) -> None:
        """The contents of small files before the commit that names them, unless bytes are counted here."""
        if not volume.carrying.on or self._agent.speed.limited:
            return
        bodies = volume.carrying.take(commit.edits, volume.algorithm.width)
        if bodies:
            await self._send(wire.Carried(volume.name, bodies))

    def _open_window(self, volume: Volume, window: _Window) -> None:
        """Hold the journal against what the coordinator has stored; announce where it does not follow.

        A state directory that was put back, of a volume that is not mounted yet, says nothing before that is.
        """
        if volume.went_back(window.acked, window.root):
            if volume.is_unwitnessed:
                return
            log.warning("%s: this machine was put back to an earlier state; announcing its tree", volume.name)
            self._announce(volume, window, window.acked, wire.PUT_BACK)
        elif not volume.follows(window.acked, window.root):
            log.info(
                "%s: what the coordinator has does not match our journal; announcing the present root",
                volume.name,
            )
            self._announce(volume, window, window.acked)
        else:
            volume.acknowledge(min(window.acked, volume.last_seq))
        window.open, window.resync = True, False
        volume.carrying.set(volume.name in self._carry)

    def _announce(self, volume: Volume, window: _Window, after_seq: int, cause: str = "scan") -> None:
        volume.announce(after_seq, cause)
        # Scans go on meanwhile: the announcement is the journal's first record, not always its last.
        window.sent = window.acked = volume.first_seq - 1
        window.resync, window.announcing = False, None

    async def _send_beat(self) -> None:
        """At rest all volumes; after a scan only those with news, so that many volumes cost little."""
        now = time.monotonic()
        full = now >= self._full_beat_due
        if not full and now < self._beat_due:
            return
        if full:
            self._full_beat_due = now + self._beat_interval_s
        self._beat_due = self._full_beat_due
        beats: list[wire.VolumeBeat] = []
        for name, window in self._windows.items():
            volume = self._agent.volumes.get(name)
            if volume is None or not window.open:
                continue
            started, proven = volume.condition.last_scan_started, self._agent.watched(name)
            stands = (started, proven, volume.last_seq)  # in this order: what was found is numbered
            if not full and stands == window.beaten:
                continue
            window.beaten = stands
            in_order = volume.condition.problem is None
            beats.append(
                wire.VolumeBeat(
                    name, stands[2], _age_ms(started, now) if in_order else None,
                    _age_ms(proven, now) if in_order else None,
                )
            )  # fmt: skip
        if full or beats:
            await self._send(wire.Beat(tuple(beats)))

    # --- in ------------------------------------------------------------------------------------

    async def _note_running(self) -> None:
        while True:
            self._ran_at = _now_s()
            await asyncio.sleep(RAN_EVERY_S)
            self._check_running()

    def _check_running(self) -> None:
        stood_s = _now_s() - self._ran_at
        if stood_s > limits.SILENT_AFTER_S:
            raise ConnectionError(f"this process stood still for {stood_s:.0f} s, so the session is over")

    async def _read(self) -> None:
        while True:
            frame = await self._socket.receive()
            self._check_running()
            if frame.type is aiohttp.WSMsgType.ERROR:
                raise ConnectionError(f"the connection failed: {frame.data}")
            if frame.type is not aiohttp.WSMsgType.BINARY:
                return
            message = decode_coordinator_message(frame.data)
            match message:
                case wire.Ack():
                    self._acknowledged(message)
                case wire.Resync():
                    self._resync(message)
                case wire.Objects():
                    self.wants.received(message)
                case wire.Want():
                    self.wants.ask(message)
                case wire.Goodbye():
                    self._goodbye_s = min(message.retry_after_s, GOODBYE_MAX_S)
                case wire.Welcome() | wire.Refused():
                    raise ProtocolError(f"a {type(message).__name__} in the middle of a session")
                case _:
                    await self._agent.order(message)

    def _window_of(self, message: wire.Ack | wire.Resync) -> tuple[_Window, Volume]:
        window, volume = self._windows.get(message.volume), self._agent.volumes.get(message.volume)
        if window is None or volume is None:
            raise ProtocolError(
                f"{type(message).__name__} for volume {message.volume!r}, of which nothing was sent"
            )
        return window, volume

    def _acknowledged(self, ack: wire.Ack) -> None:
        window, _ = self._window_of(ack)
        if ack.seq > window.sent:
            raise ProtocolError(f"an Ack of commit {ack.seq} of {ack.volume}, sent was {window.sent}")
        window.acked = max(window.acked, ack.seq)
        if window.announcing is not None and ack.seq >= window.announcing:
            window.announcing = None
        self._acks.set()
        self._acks = asyncio.Event()
        self._forget.set()
        self.wake.set()

    async def _forget_acknowledged(self) -> None:
        """The next session would hear of it again, so it may come late, and once for many."""
        while True:
            await self._forget.wait()
            self._forget.clear()
            for name, window in self._windows.items():
                volume = self._agent.volumes.get(name)
                if volume is None or not window.open or volume.last_seq < window.sent:
                    continue
                if volume.first_seq <= window.acked:
                    await asyncio.to_thread(volume.acknowledge, min(window.acked, volume.last_seq))
            await asyncio.sleep(FORGET_EVERY_S)

    def _resync(self, resync: wire.Resync) -> None:
        window, _ = self._window_of(resync)
        if resync.seq < window.announced or not window.open:
            return  # about a commit sent before the announcement that answers it
        log.warning("%s: the coordinator asks for an announcement: %s", resync.volume, resync.reason)
        window.resync, window.announcing = True, None
        self.wake.set()


def _now_s() -> float:
    """A clock that runs on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _age_ms(moment: float | None, now: float) -> int | None:
    """How long ago, rounded up."""
    return None if moment is None else max(0, int((now - moment) * 1000) + 1)
