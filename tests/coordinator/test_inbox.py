"""Frames are dated when they come, wait in order and in bounds, and outlive the connection that brought them."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import WSMessage, WSMsgType

from closeranks_coordinator import inbox as inbox_module
from closeranks_coordinator.inbox import IDLE_S, INBOX_MAX_BYTES, INBOX_MAX_FRAMES, Inbox, Waiting


class Socket:
    """Frames that come when a test says so, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self._frames: asyncio.Queue[WSMessage | TimeoutError] = asyncio.Queue()
        self.received = 0

    def clock(self) -> float:
        return self.now

    async def come(self, data: bytes, after_s: float = 1.0) -> None:
        """A frame comes after so much time, and whoever waits for it is woken."""
        self.now += after_s
        self._frames.put_nowait(WSMessage(WSMsgType.BINARY, data, None))
        await settle()

    async def end(self) -> None:
        self._frames.put_nowait(WSMessage(WSMsgType.CLOSED, None, None))
        await settle()

    async def fall_silent(self) -> None:
        self._frames.put_nowait(TimeoutError())
        await settle()

    async def receive(self, timeout: float) -> WSMessage:
        found = await self._frames.get()
        if isinstance(found, TimeoutError):
            raise found
        self.received += 1
        return found


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def started(socket: Socket, waiting: Waiting | None = None) -> tuple[Inbox, asyncio.Task[None]]:
    inbox = Inbox(socket, socket.clock, waiting)  # type: ignore[arg-type]
    return inbox, asyncio.create_task(inbox.run())


async def test_a_frame_is_dated_when_it_comes_however_long_the_one_before_it_takes() -> None:
    socket = Socket()
    inbox, running = started(socket)
    await settle()
    await socket.come(b"commit")
    assert await inbox.take() == (101.0, b"commit")
    await socket.come(b"proof")
    socket.now += 60.0  # the disk is slow
    assert await inbox.take() == (102.0, b"proof")
    running.cancel()


async def test_what_came_at_once_is_as_old_as_what_it_came_with() -> None:
    socket = Socket()
    inbox, running = started(socket)
    await settle()
    await socket.come(b"one")
    await socket.come(b"two", IDLE_S / 2)
    assert [await inbox.take(), await inbox.take()] == [(101.0, b"one"), (101.0, b"two")]
    running.cancel()


async def test_what_need_not_wait_is_taken_out_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came before anybody knew that the frame under way would take so long."""
    socket, waiting = Socket(), Waiting()
    inbox, running = started(socket, waiting)
    taken: list[bytes] = []

    def take(frame: bytes) -> bool:
        if frame.startswith(b"now"):
            taken.append(frame)
        return frame.startswith(b"now")

    for frame in (b"a", b"now 1", b"b"):
        await socket.come(frame)
    with inbox.ahead(take):
        assert taken == [b"now 1"]
        for frame in (b"now 2", b"c"):
            await socket.come(frame)
        assert taken == [b"now 1", b"now 2"]
    await socket.come(b"now 3")
    left = [await inbox.take() for _ in range(4)]
    assert [one[1] for one in left if one is not None] == [b"a", b"b", b"c", b"now 3"]
    assert (waiting.bytes, taken) == (0, [b"now 1", b"now 2"])
    running.cancel()


@pytest.mark.parametrize(
    ("frame", "most"), [(b"x", INBOX_MAX_FRAMES + 1), (bytes(INBOX_MAX_BYTES // 4 + 1), 4)]
)
async def test_the_socket_is_left_alone_while_too_much_waits(frame: bytes, most: int) -> None:
    socket = Socket()
    inbox, running = started(socket)
    await settle()
    for _ in range(most + 5):
        await socket.come(frame)
    assert socket.received == most
    assert await inbox.take() == (101.0, frame)
    await settle()
    assert socket.received == most + 1
    running.cancel()


async def test_all_sessions_together_hold_no_more_than_a_few_and_all_get_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the common bound each holds one frame; who has emptied its own is read on, whatever the others hold."""
    monkeypatch.setattr(inbox_module, "INBOXES_MAX_BYTES", 1000)
    frame, waiting = bytes(100), Waiting()
    sockets = [Socket() for _ in range(20)]
    inboxes = [started(socket, waiting) for socket in sockets]
    await settle()
    for socket in sockets:
        for _ in range(50):
            await socket.come(frame)
    assert waiting.bytes == 100 * sum(socket.received for socket in sockets)
    assert waiting.bytes <= 1000 + 100 * len(sockets)
    assert all(socket.received >= 1 for socket in sockets)
    last, (inbox, _) = sockets[-1], inboxes[-1]
    for number in range(2, 10):  # it gets on while the others stand still
        await inbox.take()
        await settle()
        assert last.received >= number
    for inbox, running in inboxes:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        inbox.close()
    assert waiting.bytes == 0


async def test_what_waits_is_taken_before_the_end_is_told() -> None:
    socket = Socket()
    inbox, running = started(socket)
    await settle()
    await socket.come(b"last words")
    await socket.end()
    assert running.done()
    assert await inbox.take() == (101.0, b"last words")
    assert await inbox.take() is None
    assert await inbox.take() is None


async def test_silence_is_told_in_words_behind_what_came_before_it() -> None:
    socket = Socket()
    inbox, running = started(socket)
    await settle()
    await socket.come(b"one")
    await socket.fall_silent()
    assert await inbox.take() == (101.0, b"one")
    assert await inbox.take() is None
    with pytest.raises(TimeoutError, match=f"nothing heard for {inbox_module.limits.SILENT_AFTER_S:.0f} s"):
        await running
