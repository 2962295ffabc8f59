"""Answers of peers as they come over a bare socket: however they are cut, and whatever a peer makes of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from closeranks_agent.chunks.straight import ASIDE_BYTES, Answer, Connections
from closeranks_proto.errors import ProtocolError

PAYLOAD = bytes(range(256)) * 300
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def in_chunks(*sizes: int) -> bytes:
    """PAYLOAD in HTTP's chunks of these sizes, the last one of what is left."""
    parts, at = [], 0
    for size in (*sizes, len(PAYLOAD)):
        piece = PAYLOAD[at : at + size]
        at += len(piece)
        parts.append(b"%X;x=y\r\n%b\r\n" % (len(piece), piece))
    return b"".join(parts) + b"0\r\nTrailer: t\r\n\r\n"


@asynccontextmanager
async def peer(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    tasks: list[asyncio.Task[None]] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the asker has gone
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def body_of(answer: Answer) -> bytes:
    """Taken alternately as the records of a bundle are: pieces for heads, memory for payload."""
    found = bytearray()
    memory = memoryview(bytearray(7001))
    while True:
        piece, _ = await answer.readchunk()
        found += piece
        got = await answer.read_into(memory)
        found += memory[:got]
        if not piece and not got:
            return bytes(found)


async def asked(address: str) -> tuple[int, bytes, bool]:
    connections = Connections(5.0)
    try:
        async with asyncio.timeout(20), connections.post(address, "/p", {"X-A": "b"}, b"question") as answer:
            return answer.status, await body_of(answer), answer.is_clean()
    finally:
        connections.close()


@pytest.mark.parametrize("step", [1, 977, 1 << 20])
@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + in_chunks(),
        CHUNKED + in_chunks(1, 20_000, 3),
        b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + in_chunks(40_000),
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(PAYLOAD), PAYLOAD),
    ],
    ids=["one", "several", "interim", "length"],
)
async def test_a_body_is_what_was_sent_however_it_is_cut(answer: bytes, step: int) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        heard.append(await reader.readexactly(len(b"question")))
        end = 400 * step  # the beginning is what is parsed
        for at in range(0, min(end, len(answer)), step):
            writer.write(answer[at : at + step])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(answer[end:])
        await writer.drain()
        await reader.read()

    async with peer(serve) as address:
        assert await asked(address) == (200, PAYLOAD, True)
    assert heard[0].startswith(b"POST /p HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 8\r\n" in heard[0]
    assert b"\r\nX-A: b\r\n" in heard[0]
    assert heard[1] == b"question"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProtocolError),
        (b"HTTP/1.0 200 OK\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, ProtocolError),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, ProtocolError),
        (CHUNKED + b"-5\r\n", ProtocolError),
        (CHUNKED + b"\r\n", ProtocolError),
        (CHUNKED + b"5;" + b"x" * 100_000, ProtocolError),
        (CHUNKED + b"5\r\nhello!\r\n", ProtocolError),
        (CHUNKED + b"1" * 16 + b"\r\n", ProtocolError),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * 100, ProtocolError),
        (CHUNKED + b"5\r\nhel", ConnectionError),
        (CHUNKED, ConnectionError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel", ConnectionError),
        (b"", ConnectionError),
    ],
)
async def test_what_is_not_framed_as_it_should_be_is_refused(answer: bytes, error: type[Exception]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"question")
        writer.write(answer)
        await writer.drain()

    async with peer(serve) as address:
        with pytest.raises(error):
            await asked(address)


async def test_a_body_of_no_length_ends_when_the_peer_hangs_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"question")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + PAYLOAD)
        await writer.drain()

    async with peer(serve) as address:
        assert await asked(address) == (200, PAYLOAD, True)


async def test_a_connection_is_used_again_and_replaced_where_the_peer_has_closed_it() -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(3):
            await reader.readuntil(b"question")
            writer.write(CHUNKED + in_chunks())
            await writer.drain()

    connections = Connections(5.0)
    async with peer(serve) as address:
        for turn in range(7):
            async with connections.post(address, "/", {}, b"question") as answer:
                assert await body_of(answer) == PAYLOAD
            assert opened == turn // 3 + 1
    connections.close()


async def test_a_body_that_was_not_read_to_its_end_costs_the_connection() -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.readuntil(b"question")
        writer.write(CHUNKED + in_chunks())
        await writer.drain()
        await reader.read()

    connections = Connections(5.0)
    async with peer(serve) as address:
        for turn in range(3):
            async with connections.post(address, "/", {}, b"question") as answer:
                assert (await answer.readchunk())[0]
            assert opened == turn + 1
    connections.close()


async def test_where_nobody_listens_it_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match="it can not be reached: connection refused"):
            await asked(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("address", [":7340", "host:port", "127.0.0.1"])
async def test_an_address_that_leads_nowhere_is_a_failure_of_the_peer(address: str) -> None:
    with pytest.raises(ConnectionError):
        await asked(address)


async def test_tiny_chunks_of_a_peer_leave_the_loop_to_others() -> None:
    """What has come already is given without waiting: nobody else would have a turn until it ends."""
    count = 16_384
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    with near, far:
        sender = asyncio.create_task(asyncio.to_thread(far.sendall, b"1\r\nx\r\n" * count))
        await sender  # all of it waits in the socket now
        answer = Answer(near, 200, None, b"")
        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        turns, memory, got = 0, memoryview(bytearray(1)), 0
        while got < count:
            got += await answer.read_into(memory)
        beside.cancel()
    assert turns >= 6 * count // ASIDE_BYTES - 1


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """An address that never answers: whoever listens there takes nobody any more."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        where: tuple[str, int] = listener.getsockname()
        for _ in range(64):
            one = opened.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(where)
            if not select.select([], [one], [], 0.5)[1]:
                break
        else:
            pytest.fail("everybody is taken")
        yield where


async def test_a_dead_address_of_a_peer_does_not_hide_the_others(
    dead: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        await reader.read()

    async with peer(serve) as address:
        host, _, port = address.partition(":")
        places = [dead, dead, (host, int(port))]

        async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", to) for to in places]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        assert await asked("peer.example:7342") == (200, b"ok", True)


async def test_where_no_address_answers_the_limit_ends_it(
    dead: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", dead)] * 3

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    connections = Connections(0.6)
    with pytest.raises(TimeoutError):
        async with connections.post("peer.example:7342", "/p", {}, b""):
            pytest.fail("nobody answers")
    assert asyncio.all_tasks() == {asyncio.current_task()}
