"""Answers of peers as they come over a bare socket: however they are cut, and whatever a peer makes of HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from closeranks_agent.chunks.straight import Answer, Connections
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
        with pytest.raises(ConnectionError, match="it can not be reached: Connection refused"):
            await asked(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("address", [":7340", "host:port", "127.0.0.1"])
async def test_an_address_that_leads_nowhere_is_a_failure_of_the_peer(address: str) -> None:
    with pytest.raises(ConnectionError):
        await asked(address)
