"""The agent's session with the coordinator, dialled again for ever.

What must arrive is in the volumes' journals, numbered; this module only moves a window over them: at
most `credit` commits are under way, an announcement travels alone, and everything not acknowledged is
sent again after a reconnect. Ages are computed when a frame is written, not when it is queued.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.digests import ALGORITHMS
from closeranks_proto.errors import ProtocolError
from closeranks_proto.messages import PROTOCOL
from closeranks_proto.wire import decode_coordinator_message, encode_message

if TYPE_CHECKING:
    from .runtime import Agent
    from .volume import Volume

log = logging.getLogger("closeranks.link")

SOFTWARE = "closeranks/0.1.0"
STATUS_MIN_S = 1.0  # between two statuses of one volume
OUTBOX_MAX_MESSAGES = 4096


class Refusal(Exception):
    """The coordinator answered Hello with Refused."""

    def __init__(self, refused: wire.Refused) -> None:
        super().__init__(refused.message)
        self.code = refused.code
        self.retry_after_s = refused.retry_after_s


@dataclass(slots=True)
class _Window:
    """What of a volume's journal is under way: sent up to `sent`, acknowledged up to `acked`."""

    acked: int
    sent: int
    announcing: int | None = None  # seq of an announcement under way
    announced: int = 0  # seq of the last announcement that the coordinator asked for
    checked: bool = False  # the journal was held against what the coordinator has


@dataclass(slots=True)
class _Wanted:
    answer: asyncio.Future[dict[bytes, bytes]]
    digests: frozenset[bytes]
    found: dict[bytes, bytes] = field(default_factory=dict)


class Link:
    """Dials, greets, streams and listens. `connected` is what the metrics show."""

    def __init__(self, agent: Agent, rng: random.Random) -> None:
        self._agent = agent
        self._rng = rng
        self._session: _Session | None = None
        self._last_trouble = ""

    @property
    def connected(self) -> bool:
        return self._session is not None

    def post(self, message: wire.AgentMessage) -> None:
        """Send when connected; otherwise the coordinator asks again after the next Hello."""
        if self._session is not None:
            self._session.post(message)

    def notify(self) -> None:
        """A volume has something new."""
        if self._session is not None:
            self._session.wake.set()

    def scanned(self) -> None:
        """A scan has completed: say so."""
        if self._session is not None:
            self._session.beat_due = 0.0
            self._session.wake.set()

    async def want(self, volume: str, digests: tuple[bytes, ...]) -> dict[bytes, bytes]:
        """Objects from the coordinator, verified; those that it lacks are absent.

        Raises ConnectionError without a session.
        """
        if self._session is None:
            raise ConnectionError("not connected to the coordinator")
        found: dict[bytes, bytes] = {}
        for start in range(0, len(digests), limits.WANT_MAX_DIGESTS):
            found.update(await self._session.want(volume, digests[start : start + limits.WANT_MAX_DIGESTS]))
        return found

    async def flushed(self, volume: str, timeout_s: float) -> None:
        """Wait until the coordinator has everything of this volume's journal, for so long at most."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._session is not None and not self._session.flushed(volume):
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Until cancelled: connect, serve, back off with jitter (decorrelated, up to RECONNECT_MAX_S)."""
        delay = limits.RECONNECT_MIN_S
        while True:
            pause, started = 0.0, time.monotonic()
            try:
                pause = await self._once()
            except Refusal as refusal:
                self._trouble(f"the coordinator refused this agent: {refusal}")
                pause = refusal.retry_after_s
            except (aiohttp.ClientError, OSError, TimeoutError, ProtocolError) as error:
                self._trouble(
                    f"no session with the coordinator at {self._agent.config.coordinator}: {_why(error)}"
                )
            if time.monotonic() - started > limits.RECONNECT_MAX_S:
                delay = limits.RECONNECT_MIN_S
            else:
                delay = min(limits.RECONNECT_MAX_S, self._rng.uniform(limits.RECONNECT_MIN_S, delay * 3))
            await asyncio.sleep(max(pause, delay))

    def _trouble(self, text: str) -> None:
        """One line when the trouble changes, not one a try."""
        if text != self._last_trouble:
            log.warning("%s; trying again", text)
        self._last_trouble = text

    async def _once(self) -> float:
        url = self._agent.config.coordinator.rstrip("/") + "/v1/agent"
        timeout = aiohttp.ClientWSTimeout(ws_close=2.0)
        async with self._agent.http.ws_connect(
            url, max_msg_size=limits.MAX_FRAME_BYTES, heartbeat=20.0, timeout=timeout, compress=0
        ) as socket:
            session = await self._greet(socket)
            self._last_trouble = ""
            self._session = session
            try:
                return await session.run()
            finally:
                self._session = None
                session.close()

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> _Session:
        await socket.send_bytes(
            encode_message(self._agent.hello(PROTOCOL, SOFTWARE, tuple(sorted(ALGORITHMS))))
        )
        frame = await socket.receive(timeout=limits.HANDSHAKE_TIMEOUT_S)
        if frame.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionError("the coordinator closed the connection before it answered")
        answer = decode_coordinator_message(frame.data)
        if isinstance(answer, wire.Refused):
            raise Refusal(answer)
        if not isinstance(answer, wire.Welcome):
            raise ProtocolError(f"the coordinator answered Hello with a {type(answer).__name__}")
        await self._agent.welcomed(answer)
        log.info("connected to the coordinator; session %s", answer.session)
        return _Session(self._agent, socket, answer)


class _Session:
    """One connection, after Welcome."""

    def __init__(self, agent: Agent, socket: aiohttp.ClientWebSocketResponse, welcome: wire.Welcome) -> None:
        self._agent = agent
        self._socket = socket
        self._credit = welcome.credit_commits
        self._beat_interval_s = min(welcome.beat_interval_s, limits.BEAT_INTERVAL_S)
        self._windows = {name: _Window(seq, seq) for name, seq, _ in welcome.acked}
        self._stored = {name: (seq, root) for name, seq, root in welcome.acked}
        self._outbox: deque[wire.AgentMessage] = deque()
        self._wanted: dict[int, _Wanted] = {}
        self._requests = 0
        self._statuses: dict[str, tuple[float, wire.VolumeStatus]] = {}
        self._retry_after_s = 0.0
        self._stuck = False
        self.beat_due = 0.0
        self.wake = asyncio.Event()

    def flushed(self, name: str) -> bool:
        volume, window = self._agent.volumes.get(name), self._windows.get(name)
        return volume is None or window is None or window.acked >= volume.last_seq

    def post(self, message: wire.AgentMessage) -> None:
        if len(self._outbox) >= OUTBOX_MAX_MESSAGES:
            self._stuck = True  # the writer ends the session; what matters is asked for again
        else:
            self._outbox.append(message)
        self.wake.set()

    def close(self) -> None:
        for wanted in self._wanted.values():
            if not wanted.answer.done():
                wanted.answer.set_exception(ConnectionError("the session with the coordinator ended"))

    async def run(self) -> float:
        """Until the connection ends; how many seconds the coordinator asks to wait before the next try."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        log.info("the session with the coordinator ended")
        return self._retry_after_s

    async def want(self, volume: str, digests: tuple[bytes, ...]) -> dict[bytes, bytes]:
        self._requests += 1
        request = self._requests
        wanted = _Wanted(asyncio.get_running_loop().create_future(), frozenset(digests))
        self._wanted[request] = wanted
        self.post(wire.Want(volume, request, digests))
        try:
            return await wanted.answer
        finally:
            del self._wanted[request]

    # --- out -----------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            self.wake.clear()
            if self._stuck:
                raise ConnectionError("the coordinator does not read what it is sent")
            while self._outbox:
                await self._send(self._outbox.popleft())
            sent = [await self._pump(name, window) for name, window in self._windows.items()]
            await self._send_statuses()
            if time.monotonic() >= self.beat_due:
                self.beat_due = time.monotonic() + self._beat_interval_s
                await self._send(self._agent.beat())
            if any(sent):
                continue
            try:
                async with asyncio.timeout(max(0.01, self.beat_due - time.monotonic())):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def _send(self, message: wire.AgentMessage) -> None:
        async with asyncio.timeout(limits.SILENT_AFTER_S):
            await self._socket.send_bytes(encode_message(message))

    async def _pump(self, name: str, window: _Window) -> bool:
        """Send what the window allows of one journal; whether anything was sent."""
        volume = self._agent.volumes.get(name)
        if volume is None:
            return False
        if not window.checked:
            await asyncio.to_thread(self._reconcile, volume, window)
        room = self._credit - (window.sent - window.acked)
        if window.announcing is not None or room <= 0 or volume.last_seq <= window.sent:
            return False
        records = await asyncio.to_thread(volume.pending, window.sent, room)
        for record in records:
            await self._send(record)
            window.sent = record.seq
            if isinstance(record, wire.Announce):
                window.announcing = record.seq
                break
        return bool(records)

    def _reconcile(self, volume: Volume, window: _Window) -> None:
        """Hold the journal against what the coordinator has stored; announce where it does not follow."""
        seq, root = self._stored[volume.name]
        window.checked = True
        volume.acknowledge(min(seq, volume.last_seq))
        if volume.root is None:
            window.checked = False  # before the first scan there is nothing to compare
            return
        if not volume.follows(seq, root):
            log.info(
                "%s: what the coordinator has does not match our journal; announcing the present root",
                volume.name,
            )
            volume.announce(after_seq=seq)
            window.sent = window.acked = volume.last_seq - 1

    async def _send_statuses(self) -> None:
        now = time.monotonic()
        for name in self._windows:
            at, last = self._statuses.get(name, (0.0, None))
            status = self._agent.status(name)
            if (
                status is None
                or now - at < STATUS_MIN_S
                or (last is not None and not worth_telling(last, status))
            ):
                continue
            self._statuses[name] = (now, status)
            await self._send(status)

    # --- in ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            frame = await self._socket.receive()
            if frame.type is not aiohttp.WSMsgType.BINARY:
                return
            message = decode_coordinator_message(frame.data)
            match message:
                case wire.Ack():
                    await self._acknowledged(message)
                case wire.Resync():
                    await self._announce_again(message)
                case wire.Objects():
                    self._received(message)
                case wire.Want():
                    await self._give(message)
                case wire.Goodbye():
                    self._retry_after_s = message.retry_after_s
                case wire.Welcome() | wire.Refused():
                    raise ProtocolError(f"a {type(message).__name__} in the middle of a session")
                case _:
                    await self._agent.order(message)

    async def _acknowledged(self, ack: wire.Ack) -> None:
        window, volume = self._windows.get(ack.volume), self._agent.volumes.get(ack.volume)
        if window is None or volume is None:
            raise ProtocolError(f"an Ack for volume {ack.volume!r}, which is not ours")
        window.acked = max(window.acked, ack.seq)
        window.sent = max(window.sent, ack.seq)
        if window.announcing is not None and ack.seq >= window.announcing:
            window.announcing = None
        await asyncio.to_thread(volume.acknowledge, ack.seq)
        self.wake.set()

    async def _announce_again(self, resync: wire.Resync) -> None:
        window, volume = self._windows.get(resync.volume), self._agent.volumes.get(resync.volume)
        if window is None or volume is None:
            raise ProtocolError(f"a Resync for volume {resync.volume!r}, which is not ours")
        if resync.seq < window.announced:
            return  # about a commit sent before the announcement that answers it
        log.warning("%s: the coordinator asks for an announcement: %s", resync.volume, resync.reason)
        await asyncio.to_thread(volume.announce)
        window.announcing = None
        window.announced = volume.last_seq
        window.sent = window.acked = volume.last_seq - 1
        self.wake.set()

    def _received(self, objects: wire.Objects) -> None:
        wanted = self._wanted.get(objects.request)
        if wanted is None:
            return  # its asker was cancelled
        algorithm = self._agent.algorithm
        assert algorithm is not None
        for blob in objects.objects:
            digest = algorithm.of(blob)
            if digest not in wanted.digests:
                raise ProtocolError("the coordinator sent an object that was not asked for")
            wanted.found[digest] = blob
        if objects.last and not wanted.answer.done():
            wanted.answer.set_result(wanted.found)

    async def _give(self, want: wire.Want) -> None:
        """Answer the coordinator's Want in frames of about FRAME_TARGET_BYTES."""
        volume = self._agent.volumes.get(want.volume)
        if volume is None or len(want.digests) > limits.WANT_MAX_DIGESTS:
            raise ProtocolError("a Want that can not be answered")
        blobs = await asyncio.to_thread(lambda: [(digest, volume.object(digest)) for digest in want.digests])
        bundle: list[bytes] = []
        size = 0
        for _, blob in blobs:
            if blob is None:
                continue
            if bundle and size + len(blob) > limits.FRAME_TARGET_BYTES:
                self.post(wire.Objects(want.volume, want.request, tuple(bundle), (), False))
                bundle, size = [], 0
            bundle.append(blob)
            size += len(blob)
        missing = tuple(digest for digest, blob in blobs if blob is None)
        self.post(wire.Objects(want.volume, want.request, tuple(bundle), missing, True))


def _why(error: Exception) -> str:
    """A failed connection in words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "it can not be reached"
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"what answers there is no closeranks coordinator (HTTP status {error.status})"
    return str(error) or "no answer in time"


def worth_telling(last: wire.VolumeStatus, now: wire.VolumeStatus) -> bool:
    """Whether a status differs enough: anything but the duration, and free space by more than 1% of the disk."""
    if abs(last.disk_free_bytes - now.disk_free_bytes) * 100 > max(1, now.disk_total_bytes):
        return True
    return _without_noise(last) != _without_noise(now)


def _without_noise(status: wire.VolumeStatus) -> tuple[object, ...]:
    problem = status.problem
    steady = None if problem is None else (problem.code, problem.message)
    return (steady, status.entries, status.files, status.bytes, status.unreadable, status.unreadable_count)
