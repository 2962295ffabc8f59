"""Generated agents: the protocol of the real ones, for a volume that exists in memory only.

They dial, announce, answer what is wanted, commit within their credit, prove that they have seen everything
when they are asked, and beat. What no generated agent may meet (a resync, a fence, a converge) is counted as
trouble, and a measurement with trouble fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp

from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.messages import PROTOCOL
from closeranks_proto.wire import decode_coordinator_message, encode_message
from scale.generated import Forest, Step

VOLUME = "photos"
DIALS_AT_ONCE = 64  # of one load process


class Agent:
    """One node's session. `seq`: made so far; `acked`: known to be durable at the coordinator."""

    def __init__(self, name: str, number: int, forest: Forest) -> None:
        self.name = name
        self.forest = forest
        self.root = forest.root
        self.seq = self.acked = 0
        self.credit = limits.CREDIT_COMMITS
        self._common = forest.root  # what the nodes in sync have
        self._strayed = b""
        self.welcome_at = 0.0
        self.trouble: list[str] = []
        self.told: dict[str, int] = {}  # messages that came, by kind
        self._hand = wire.Hand(
            1000 + number, "/usr/bin/rsync", f"rsync --server {number}", 0, 0, "rsync.service", (), 1, 1
        )
        self._moved = asyncio.Event()
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._scanned_at: float | None = None

    # --- the session -----------------------------------------------------------------------------

    async def connect(self, http: aiohttp.ClientSession, port: int) -> None:
        """Dial, and return once our root is known to the coordinator."""
        socket = await http.ws_connect(
            f"http://127.0.0.1:{port}/v1/agent", max_msg_size=0, autoping=True, compress=0
        )
        self._socket = socket
        hello = wire.VolumeHello(VOLUME, self.root, self.seq, self.seq + 1, self.root)
        await self._say(
            wire.Hello(
                PROTOCOL, PROTOCOL, "generated", self.name, f"id-{self.name}", ("xxh3-128",), "127.0.0.1:9",
                0, None, (hello,),
            )
        )  # fmt: skip
        welcome = decode_coordinator_message(await socket.receive_bytes())
        if not isinstance(welcome, wire.Welcome):
            raise ConnectionError(f"{self.name} is not welcome: {welcome}")
        self.welcome_at = time.monotonic()
        self.credit = welcome.credit_commits
        ((_, seq, root),) = welcome.acked
        self.seq = self.acked = seq
        self._tasks = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._beat())]
        await self._say(self._status())
        if root != self.root:
            self.seq += 1
            await self._say(wire.Announce(VOLUME, self.seq, self.root, "scan", 0))
            await self.settled()
        self._scanned_at = time.monotonic()
        await self._say(self._beat_now(scan=True))

    async def settled(self) -> None:
        """Everything that was sent is acknowledged."""
        await self._until(lambda: self.acked >= self.seq)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    # --- what it does ----------------------------------------------------------------------------

    async def follow(self, step: Step) -> None:
        """Commit what the others commit, as soon as the credit allows: from our own root, if we have strayed."""
        await self._until(lambda: self.seq - self.acked < self.credit)
        root = step.root
        if self.root != step.base:
            root = self.forest.edited(self.root, [(edit.key, edit.value) for edit in step.edits])
        self._common = step.root
        await self._commit(root, step.edits)

    async def stray(self, key: bytes, value: bytes) -> float:
        """Commit a change that no other node makes; when it was sent, on the wall clock."""
        await self._until(lambda: self.seq - self.acked < self.credit)
        self._strayed = key
        at = time.time()
        await self._commit(self.forest.edited(self.root, [(key, value)]), (wire.Edit(key, value),))
        return at

    async def heal(self) -> None:
        """Take back the last change of our own."""
        await self._until(lambda: self.seq - self.acked < self.credit)
        key = self._strayed
        value = self.forest.tree.lookup(self._common, key)
        await self._commit(self.forest.edited(self.root, [(key, value)]), (wire.Edit(key, value),))

    async def _commit(self, root: bytes, edits: tuple[wire.Edit, ...]) -> None:
        base, self.root = self.root, root
        self.seq += 1
        hands, by = (self._hand,), (1,) * len(edits)
        await self._say(wire.Commit(VOLUME, self.seq, base, root, edits, "watch", 1, hands, by))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self.trouble:
                raise ConnectionError(f"{self.name}: {'; '.join(self.trouble[:5])}")
            self._moved.clear()
            await self._moved.wait()

    # --- what it says and hears ------------------------------------------------------------------

    async def _say(self, message: wire.AgentMessage) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(encode_message(message))

    def _status(self) -> wire.VolumeStatus:
        entries = self.forest.entries
        return wire.VolumeStatus(
            VOLUME, None, entries, entries, entries * 40_000, (), 0, 10**13, 5 * 10**12, 1000, "fanotify"
        )

    def _beat_now(self, scan: bool = False) -> wire.Beat:
        age_ms = None if not scan or self._scanned_at is None else 50
        return wire.Beat((wire.VolumeBeat(VOLUME, self.seq, age_ms, 0),))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(limits.BEAT_INTERVAL_S)
            await self._say(wire.Beat(()) if self._scanned_at is None else self._beat_now())

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            if frame.type is aiohttp.WSMsgType.BINARY:
                message = decode_coordinator_message(frame.data)
                kind = type(message).__name__
                self.told[kind] = self.told.get(kind, 0) + 1
                await self._take(message)
        self.trouble.append(f"the session ended: {socket.close_code}")
        self._moved.set()

    async def _take(self, message: wire.CoordinatorMessage) -> None:
        match message:
            case wire.Ack():
                self.acked = max(self.acked, message.seq)
            case wire.Want():
                await self._give(message)
            case wire.Ask():
                await self._say(self._beat_now())
            case wire.Membership() | wire.Limits():
                return
            case _:
                self.trouble.append(f"a {type(message).__name__} came: {message}"[:300])
        self._moved.set()

    async def _give(self, want: wire.Want) -> None:
        found: list[bytes] = []
        size = 0
        for digest in want.digests:
            blob = self.forest.objects[digest]
            if found and size + len(blob) > limits.FRAME_TARGET_BYTES:
                await self._say(wire.Objects(VOLUME, want.request, tuple(found), (), False))
                found, size = [], 0
            found.append(blob)
            size += len(blob)
        await self._say(wire.Objects(VOLUME, want.request, tuple(found), (), True))
