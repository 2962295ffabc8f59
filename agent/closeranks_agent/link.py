"""The agent's way to the coordinator: dials, greets, and dials again for ever.

Nothing that a coordinator sends, and nothing that goes wrong in a session, ends the agent: the session is
dropped, one line says why, and the next try comes after a pause that grows with jitter (`pauses`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from typing import TYPE_CHECKING

import aiohttp

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.digests import ALGORITHMS
from closeranks_proto.errors import CloseranksError, ProtocolError
from closeranks_proto.messages import PROTOCOL
from closeranks_proto.wire import decode_coordinator_message, encode_message

from .pauses import Pauses
from .session import GOODBYE_MAX_S, Session

if TYPE_CHECKING:
    from .runtime import Agent

log = logging.getLogger("closeranks.link")

SOFTWARE = "closeranks/0.3.0"
CLOSE_MAX_S = 3.0
WRONG_PORT = 421  # what the coordinator's other port answers to a session
FLUSHED_LOOK_S = 0.1  # whoever waits for acknowledgements looks so often whether the session is another one


class Refusal(Exception):
    """The coordinator answered Hello with Refused."""

    def __init__(self, refused: wire.Refused) -> None:
        super().__init__(refused.message)
        self.code = refused.code
        self.retry_after_s = min(refused.retry_after_s, GOODBYE_MAX_S)


class Link:
    """Dials, greets, streams and listens. `connected` is what the metrics show."""

    def __init__(self, agent: Agent, rng: random.Random) -> None:
        self._agent = agent
        self._rng = rng
        self._session: Session | None = None
        self._last_trouble = ""
        self._outdated = False  # what the last Hello said is not so any more
        self._welcomes = False  # the coordinator has taken this session
        self._joined = asyncio.Event()  # while there is a session

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def trouble(self) -> str:
        """Why there is no session; "" while there is one, or before the first try has failed."""
        return "" if self.connected else self._last_trouble

    def post(self, message: wire.AgentMessage) -> None:
        """Send when connected; otherwise the coordinator asks again after the next Hello."""
        if self._session is not None:
            self._session.post(message)

    def notify(self) -> None:
        """A volume has something new."""
        if self._session is not None:
            self._session.wake.set()

    def redial(self) -> None:
        """A new session, whose Hello says what is so now."""
        self._outdated = True
        if self._session is not None:
            self._session.end()

    def scanned(self) -> None:
        """A scan has completed: say so."""
        if self._session is not None:
            self._session.scanned()

    async def want(self, volume: str, digests: tuple[bytes, ...]) -> dict[bytes, bytes]:
        """Objects from the coordinator, verified; those that it lacks are absent.

        Raises ConnectionError without a session.
        """
        found: dict[bytes, bytes] = {}
        for start in range(0, len(digests), limits.WANT_MAX_DIGESTS):
            if self._session is None:
                raise ConnectionError("not connected to the coordinator")
            found.update(
                await self._session.wants.want(volume, digests[start : start + limits.WANT_MAX_DIGESTS])
            )
        return found

    async def joined(self) -> None:
        """Wait for a session, however long it takes."""
        await self._joined.wait()

    async def flushed(self, volume: str, timeout_s: float, seq: int | None = None) -> None:
        """Wait until the coordinator has this volume's journal, up to `seq` if given, for so long at most."""
        deadline = time.monotonic() + timeout_s
        while (session := self._session) is not None and not session.flushed(volume, seq):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            await session.acknowledgement(min(left_s, FLUSHED_LOOK_S))

    async def run(self) -> None:
        """Until cancelled: connect, serve, pause."""
        pauses = Pauses(self._rng)
        while True:
            pause, started, self._welcomes = 0.0, time.monotonic(), False
            try:
                pause = await self._once()
            except Refusal as refusal:
                self._trouble(f"the coordinator refused this agent: {refusal}")
                pause = refusal.retry_after_s
            except (aiohttp.ClientError, OSError, TimeoutError, CloseranksError) as error:
                self._trouble(
                    f"no session with the coordinator at {self._agent.config.coordinator}: {_why(error)}"
                )
            except Exception as error:
                if self._trouble(f"the session ended by a fault of the agent: {error!r}"):
                    log.exception("the fault was")
            lived_s = time.monotonic() - started if self._welcomes else None
            await asyncio.sleep(max(pause, pauses.after(lived_s)))

    def _trouble(self, text: str) -> bool:
        """One line when the trouble changes, not one a try; whether it was told."""
        new = text != self._last_trouble
        if new:
            log.warning("%s; trying again", text.rstrip("."))
        self._last_trouble = text
        return new

    async def _once(self) -> float:
        socket, welcome = await self._dial()
        self._welcomes = True
        try:
            await self._agent.welcomed(welcome)
            session = Session(self._agent, socket, welcome)
            log.info("connected to the coordinator; session %s", welcome.session)
            self._last_trouble = ""
            self._session = session
            self._joined.set()
            if self._outdated:
                session.end()
            try:
                return await session.run()
            finally:
                self._session = None
                self._joined.clear()
                session.close()
        finally:
            await _hang_up(socket)

    async def _dial(self) -> tuple[aiohttp.ClientWebSocketResponse, wire.Welcome]:
        """A connection and its Welcome, in bounded time: a stopped coordinator's kernel still accepts."""
        url = self._agent.config.coordinator.rstrip("/") + "/v1/agent"
        self._outdated = False
        hello = encode_message(
            await asyncio.to_thread(self._agent.hello, PROTOCOL, SOFTWARE, tuple(sorted(ALGORITHMS)))
        )
        async with asyncio.timeout(limits.HANDSHAKE_TIMEOUT_S):
            socket = await self._agent.http.ws_connect(
                url,
                max_msg_size=limits.MAX_FRAME_BYTES,
                heartbeat=20.0,
                timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
                compress=0,
            )
            try:
                await socket.send_bytes(hello)
                return socket, self._welcome(await socket.receive())
            except BaseException:
                await _hang_up(socket)
                raise

    def _welcome(self, frame: aiohttp.WSMessage) -> wire.Welcome:
        if frame.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionError("the coordinator closed the connection before it answered")
        answer = decode_coordinator_message(frame.data)
        if isinstance(answer, wire.Refused):
            raise Refusal(answer)
        if not isinstance(answer, wire.Welcome):
            raise ProtocolError(f"the coordinator answered Hello with a {type(answer).__name__}")
        return answer


async def _hang_up(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Also where the other side reads nothing any more."""
    try:
        async with asyncio.timeout(CLOSE_MAX_S):
            await socket.close()
    except TimeoutError:
        log.debug("the connection did not close in time")


def _why(error: Exception) -> str:
    """A failed connection in words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientSSLError):
        return (
            "what listens there does not speak TLS. This version's coordinator does not by itself: put a TLS proxy "
            "before it, or use http:// (beyond loopback with insecure = true)"
        )
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, socket.gaierror):
        return (
            f"the host name is not known ({error.os_error.strerror}). Mend `coordinator` in agent.toml, or make the "
            f"name known (DNS, /etc/hosts)"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return "it can not be reached" if number is None else os.strerror(number).lower()
    if isinstance(error, aiohttp.WSServerHandshakeError) and error.status == WRONG_PORT:
        return (
            "that is the coordinator's listen_api, for operators. Write its listen_agents (by default port 7340) as "
            "`coordinator` in agent.toml"
        )
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"what answers there is no closeranks coordinator (HTTP status {error.status})"
    return str(error) or "no answer in time"
