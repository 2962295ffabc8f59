"""Chunks between peers: who may ask, what is sent, and what happens when a peer lets us down."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from closeranks_agent.chunks.fetch import ChunkWant, Fetcher
from closeranks_agent.chunks.outflow import Outflow
from closeranks_agent.chunks.serve import ChunkServer, send_batch
from closeranks_agent.chunks.wire import (
    HEADER,
    NODE_HEADER,
    PATH,
    ChunkName,
    ChunkRequest,
    Status,
    decode_request,
    encode_request,
)
from closeranks_agent.memory import aligned
from closeranks_agent.speed import Bucket
from closeranks_proto.digests import XXH3_128
from closeranks_proto.errors import ProtocolError
from closeranks_proto.limits import CHUNK_STREAMS_MAX
from closeranks_proto.messages import Member
from peers_in_process import CHUNK, Nodes, fill, nodes_in

OF = XXH3_128.of


def request_for(*names: tuple[bytes, int, bytes], volume: str = "v", chunk_bytes: int = CHUNK) -> bytes:
    chunks = tuple(ChunkName(*name) for name in names)
    return encode_request(ChunkRequest(volume, "xxh3-128", chunk_bytes, chunks))


async def ask(nodes: Nodes, server: str, body: bytes, asker: str = "n2") -> tuple[int, bytes]:
    assert nodes.http is not None
    url = f"http://{nodes.nodes[server].address}{PATH}"
    async with nodes.http.post(url, data=io.BytesIO(body), headers={NODE_HEADER: asker}) as answer:
        return answer.status, await answer.read()


def records(stream: bytes) -> list[tuple[Status, int, bytes]]:
    found = []
    at = 0
    while at < len(stream):
        status, position, length = HEADER.unpack_from(stream, at)
        at += HEADER.size
        found.append((Status(status), position, stream[at : at + length]))
        at += length
    return found


# --- the server ----------------------------------------------------------------------------------


async def test_it_sends_what_matches_and_says_missing_for_everything_else(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        large = os.urandom(CHUNK + 10)
        fill(
            tmp_path / "n1",
            {"f": b"content", "large": large, "d": None, ".hidden": b"h", "changed": b"before"},
        )
        os.symlink("/etc/passwd", tmp_path / "n1/link")
        await nodes.add("n1")
        await nodes.add("n2")
        (tmp_path / "n1/changed").write_bytes(b"after!")
        (tmp_path / "n1/unscanned").write_bytes(b"new")
        status, stream = await ask(
            nodes,
            "n1",
            request_for(
                (b"f", 0, OF(b"content")),
                (b"large", 1, OF(large[CHUNK:])),
                (b"f", 0, OF(b"other")),
                (b"large", 7, OF(b"")),
                (b"changed", 0, OF(b"before")),
                (b"changed", 0, OF(b"after!")),
                (b"unscanned", 0, OF(b"new")),
                (b"link", 0, OF(Path("/etc/passwd").read_bytes()[:CHUNK])),
                (b"d", 0, OF(b"")),
                (b"nowhere\0at\0all", 0, OF(b"")),
                (b".closeranks\0OWNER", 0, OF((tmp_path / "n1/.closeranks/OWNER").read_bytes())),
            ),
        )
        assert status == 200
        assert records(stream) == [
            (Status.CHUNK, 0, b"content"),
            (Status.CHUNK, 1, large[CHUNK:]),
            (Status.MISSING, 2, b""),
            (Status.MISSING, 3, b""),
            (Status.MISSING, 4, b""),
            (Status.CHUNK, 5, b"after!"),
            *((Status.MISSING, at, b"") for at in range(6, 11)),
            (Status.END, 0, b""),
        ]
        assert nodes.nodes["n1"].served == {"n2": 7 + 10 + 6}


@pytest.mark.parametrize(
    ("arrange", "asker", "body", "status"),
    [
        (lambda nodes: None, "stranger", None, 403),
        (lambda nodes: None, "", None, 403),
        (lambda nodes: nodes.fence("n2", may_fetch=False), "n2", None, 403),
        (lambda nodes: nodes.fence("n2", may_fetch=True), "n2", None, 200),
        (lambda nodes: setattr(nodes.nodes["n1"], "fenced", True), "n2", None, 409),
        (lambda nodes: None, "n2", request_for((b"f", 0, b"x" * 16), volume="other"), 404),
        (lambda nodes: None, "n2", request_for((b"f", 0, b"x" * 16), chunk_bytes=4096), 409),
        (lambda nodes: None, "n2", b"\xc1 not msgpack", 400),
        (lambda nodes: None, "n2", request_for((b"..\0etc\0passwd", 0, b"x" * 16)), 400),
        (lambda nodes: None, "n2", b"\x00" * 2_000_000, 413),
    ],
)
async def test_whom_it_refuses(
    tmp_path: Path, arrange: Callable[[Nodes], None], asker: str, body: bytes | None, status: int
) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"content"})
        await nodes.add("n1")
        await nodes.add("n2")
        arrange(nodes)
        found, answer = await ask(nodes, "n1", body or request_for((b"f", 0, OF(b"content"))), asker)
        assert found == status
        assert status == 200 or b'"error"' in answer


@pytest.mark.parametrize("damage", [b"", b"\x90", b"\x95\x01\xa1v\xa1d\x10\x90", b"\xdd\xff\xff\xff\xff"])
def test_a_damaged_request_raises_a_typed_error(damage: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(damage)


def test_every_truncation_of_a_request_raises_a_typed_error() -> None:
    body = request_for((b"f", 0, OF(b"content")), (b"g\0h", 3, OF(b"x")))
    assert decode_request(body).chunks[1] == ChunkName(b"g\0h", 3, OF(b"x"))
    for length in range(len(body)):
        with pytest.raises(ProtocolError):
            decode_request(body[:length])


async def test_more_streams_than_its_bound_are_told_to_come_again(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"large": os.urandom(200 * CHUNK)})
        node = await nodes.add("n1")
        await nodes.add("n2")
        data = (tmp_path / "n1/large").read_bytes()
        names = [(b"large", at, OF(data[at * CHUNK : (at + 1) * CHUNK])) for at in range(200)]
        body = request_for(*names)
        url = f"http://{node.address}{PATH}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            held = []
            for _ in range(CHUNK_STREAMS_MAX):  # held open: nobody reads them
                answer = await http.post(url, data=body, headers={NODE_HEADER: "n2"})
                assert answer.status == 200
                held.append(answer)
            async with http.post(url, data=body, headers={NODE_HEADER: "n2"}) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
            for answer in held:
                answer.close()


async def test_askers_beyond_the_bound_wait_a_moment_for_a_place(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"large": os.urandom(200 * CHUNK), "small": b"small"})
        node = await nodes.add("n1")
        await nodes.add("n2")
        data = (tmp_path / "n1/large").read_bytes()
        names = [(b"large", at, OF(data[at * CHUNK : (at + 1) * CHUNK])) for at in range(200)]
        url, headers = f"http://{node.address}{PATH}", {NODE_HEADER: "n2"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            held = [
                await http.post(url, data=request_for(*names), headers=headers)
                for _ in range(CHUNK_STREAMS_MAX)
            ]
            waiting = asyncio.ensure_future(
                http.post(url, data=request_for((b"small", 0, OF(b"small"))), headers=headers)
            )
            await asyncio.sleep(0.1)
            assert not waiting.done()
            held.pop().close()
            async with await waiting as answer:
                assert answer.status == 200
            for one in held:
                one.close()


async def test_a_peer_that_leaves_before_its_answer_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare = web.StreamResponse.prepare

    async def left(response: web.StreamResponse, request: web.Request) -> object:
        if isinstance(response, web.Response):
            return await prepare(response, request)
        assert request.transport is not None
        request.transport.close()
        return await prepare(response, request)

    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"content"})
        await nodes.add("n1")
        await nodes.add("n2")
        monkeypatch.setattr(web.StreamResponse, "prepare", left)
        with pytest.raises(aiohttp.ClientError):
            await ask(nodes, "n1", request_for((b"f", 0, OF(b"content"))))
    assert [one for one in caplog.records if one.name == "aiohttp.server"] == []


async def test_a_peer_that_leaves_in_the_middle_of_its_question_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads, began, ended = ChunkServer._asked, asyncio.Event(), asyncio.Event()

    async def watched(server: ChunkServer, request: web.Request) -> object:
        began.set()
        try:
            return await reads(server, request)
        finally:
            ended.set()

    monkeypatch.setattr(ChunkServer, "_asked", watched)
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {})
        await nodes.add("n1")
        await nodes.add("n2")
        host, port = nodes.nodes["n1"].address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {PATH} HTTP/1.1\r\nHost: n1\r\n{NODE_HEADER}: n2\r\nContent-Length: 99\r\n\r\n"
        writer.write(head.encode() + b"half of it")
        async with asyncio.timeout(20):
            await began.wait()
            writer.transport.abort()
            await ended.wait()
        await asyncio.sleep(0)  # what would be said of it is said now
    assert [one for one in caplog.records if one.name == "aiohttp.server"] == []


async def test_a_connection_serves_many_requests(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {})
        await nodes.add("n1")
        await nodes.add("n2")
        made: list[object] = []
        assert nodes.http is not None
        connector = nodes.http.connector
        assert connector is not None
        inner = connector._create_connection

        async def counted(*args: object, **kwargs: object) -> object:
            made.append(args)
            return await inner(*args, **kwargs)  # type: ignore[arg-type]

        connector._create_connection = counted  # type: ignore[method-assign, assignment]
        for version in range(5):
            fill(tmp_path / "n1", {"f": b"version %d" % version})
            await nodes.scan("n1")
            assert (await nodes.push("n2", "n1")).applied == 1
        assert len(made) == 1


@pytest.mark.parametrize("side", ["receive", "serve"])
async def test_a_budget_slows_the_streams_that_are_under_way(tmp_path: Path, side: str) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": os.urandom(40 * CHUNK)})
        await nodes.add("n1")
        (tmp_path / "n2").mkdir()
        await nodes.add("n2")
        bucket = Bucket()
        if side == "receive":
            nodes.converger("n2", budget=bucket)
        else:
            nodes.nodes["n1"].budget.set(None)
            bucket = nodes.nodes["n1"].budget
        bucket.set(0)
        pushing = asyncio.ensure_future(nodes.push("n2", "n1"))
        await asyncio.sleep(0.3)
        assert not pushing.done()
        bucket.set(None)
        assert (await asyncio.wait_for(pushing, 20)).applied == 1


async def test_under_a_limit_all_that_was_asked_for_is_sent_and_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(5 * CHUNK)
    pieces = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": content, "small": b"small"})
        node = await nodes.add("n1")
        await nodes.add("n2")
        node.budget.set(1 << 30)
        paid: list[int] = []
        take = node.budget.take

        async def noted(count: int) -> None:
            paid.append(count)
            await take(count)

        monkeypatch.setattr(node.budget, "take", noted)
        names = [(b"f", at, OF(piece)) for at, piece in enumerate(pieces)]
        status, stream = await ask(nodes, "n1", request_for(*names, (b"small", 0, OF(b"small"))))
        assert status == 200
        assert records(stream) == [
            *((Status.CHUNK, at, piece) for at, piece in enumerate(pieces)),
            (Status.CHUNK, len(pieces), b"small"),
            (Status.END, 0, b""),
        ]
        assert sum(paid) >= len(content)
        assert max(paid) <= node.budget.slice_bytes
        assert node.served == {"n2": len(content) + len(b"small")}, "what is counted is what was sent"


async def test_a_fence_ends_a_batch_that_is_under_way(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {f"f{at}": b"content" for at in range(5)})
        node = await nodes.add("n1")
        chunks = tuple(ChunkName(b"f%d" % at, 0, OF(b"content")) for at in range(5))
        ours, theirs = socket.socketpair()
        looks = iter([False, False, True])
        with ours, theirs:
            flow = Outflow(os.dup(ours.fileno()), 5.0)
            sent = await asyncio.to_thread(send_batch, flow, node.volume, chunks, 0, lambda: next(looks))
            flow.close()
        assert sent == (2 * len(b"content"), 2)


async def test_an_old_client_is_answered_without_chunked_coding(tmp_path: Path) -> None:
    async with nodes_in(tmp_path) as nodes:
        fill(tmp_path / "n1", {"f": b"content"})
        node = await nodes.add("n1")
        await nodes.add("n2")
        body = request_for((b"f", 0, OF(b"content")))
        host, _, port = node.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {PATH} HTTP/1.0\r\n{NODE_HEADER}: n2\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()
        assert records(answer.partition(b"\r\n\r\n")[2]) == [
            (Status.CHUNK, 0, b"content"),
            (Status.END, 0, b""),
        ]


# --- the fetcher ---------------------------------------------------------------------------------


class Sources:
    """Made-up peers, and a fetcher that asks them."""

    def __init__(self, lends: bool = False) -> None:
        self.lends = lends
        self.members: dict[str, Member] = {}
        self.runners: list[web.AppRunner] = []
        self.servers: list[asyncio.Server] = []
        self.serving: list[asyncio.Task[None]] = []
        self.got: dict[int, bytes] = {}
        self.moved = 0
        self.asked: dict[str, int] = {}
        self.write_s = 0.0  # how slow our own disk is
        self.write_fails = 0  # how often it will not write

    async def add(
        self, name: str, behave: Callable[[web.Request, web.StreamResponse, ChunkRequest], Awaitable[None]]
    ) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked = decode_request(await request.read())
            self.asked[name] = self.asked.get(name, 0) + len(asked.chunks)
            response = web.StreamResponse()
            await response.prepare(request)
            await behave(request, response, asked)
            return response

        app = web.Application(client_max_size=4 << 20)
        app.router.add_post(PATH, handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.runners.append(runner)
        self.members[name] = Member(name, f"127.0.0.1:{runner.addresses[0][1]}", False, True)

    async def add_raw(self, name: str, answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
        """A peer that need not speak HTTP as it should."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving = asyncio.current_task()
            assert serving is not None
            self.serving.append(serving)
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await reader.readuntil(b"\r\n\r\n")
                self.asked[name] = self.asked.get(name, 0) + 1
                await answer(writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.servers.append(server)
        self.members[name] = Member(name, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", False, True)

    async def fetch(self, count: int, patience_s: float = 2.0, again: int = 0) -> list[ChunkWant]:
        """`again`: how often more, where our own disk fails."""
        wants = [ChunkWant(b"f", at, OF(content(at)), len(content(at))) for at in range(count)]

        async def write(parts: Sequence[tuple[ChunkWant, bytes | memoryview]]) -> Sequence[ChunkWant]:
            await asyncio.sleep(self.write_s)
            if self.write_fails:
                self.write_fails -= 1
                raise OSError(errno.EIO, "our disk")
            bad = [want for want, data in parts if OF(data) != want.digest]
            self.got.update((want.index, bytes(data)) for want, data in parts if want not in bad)
            return bad

        def received(length: int) -> None:
            self.moved += length

        async with (
            aiohttp.ClientSession() as http,
            Fetcher(
                "v",
                "xxh3-128",
                CHUNK,
                "me",
                [*self.members, "me", "absent"],
                lambda: self.members,
                lambda: 1,
                http,
                received,
                timeout_s=0.3,
                patience_s=patience_s,
            ) as fetcher,
        ):
            try:
                for _ in range(again):
                    with contextlib.suppress(OSError):
                        return await asyncio.wait_for(fetcher.fetch(wants, write, self.lends), 20)
                return await asyncio.wait_for(fetcher.fetch(wants, write, self.lends), 20)
            finally:
                for server in self.servers:
                    server.close()
                for task in self.serving:
                    task.cancel()
                await asyncio.gather(*self.serving)
                for runner in self.runners:
                    await runner.cleanup()


@pytest.fixture(params=[False, True], ids=["library", "straight"])
def lends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Through the client library, or as long chunks are fetched, straight into their memory."""
    monkeypatch.setattr("closeranks_agent.chunks.fetch.LENT_MIN_BYTES", 1)
    return bool(request.param)


def content(at: int) -> bytes:
    return b"%d" % at * (at % 50 + 1)


async def honest(_: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    for position, name in enumerate(asked.chunks):
        data = content(name.index)
        await response.write(HEADER.pack(Status.CHUNK, position, len(data)) + data)
    await response.write(HEADER.pack(Status.END, 0, 0))


async def lying(_: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    for position, name in enumerate(asked.chunks):
        length = len(content(name.index))
        await response.write(HEADER.pack(Status.CHUNK, position, length) + b"?" * length)
    await response.write(HEADER.pack(Status.END, 0, 0))


async def denying(_: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    for position in range(len(asked.chunks)):
        await response.write(HEADER.pack(Status.MISSING, position, 0))
    await response.write(HEADER.pack(Status.END, 0, 0))


async def silent(_: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    data = content(asked.chunks[0].index)
    await response.write(HEADER.pack(Status.CHUNK, 0, len(data)) + data)
    await asyncio.sleep(5)


async def hanging_up(request: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    await response.write(HEADER.pack(Status.CHUNK, 0, 10) + b"half")
    assert request.transport is not None
    request.transport.close()


async def babbling(_: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    await response.write(HEADER.pack(9, 60000, 1 << 30) + os.urandom(100))


async def endless(_: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
    await response.write(HEADER.pack(Status.CHUNK, 0, (1 << 32) - 1))
    await asyncio.sleep(1)


@pytest.mark.parametrize("bad", [lying, denying, silent, hanging_up, babbling, endless])
async def test_what_one_peer_fails_to_give_another_gives(
    lends: bool, bad: Callable[..., Awaitable[None]]
) -> None:
    sources = Sources(lends)
    await sources.add("bad", bad)
    await sources.add("good", honest)
    assert await sources.fetch(500) == []
    assert sources.got == {at: content(at) for at in range(500)}
    assert sources.asked["bad"] > 0


@pytest.mark.parametrize("broken", ["by the peer", "by our disk"])
async def test_memory_of_what_breaks_off_is_used_again(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr("closeranks_agent.chunks.fetch.LENT_MIN_BYTES", 1)
    slabs: list[int] = []

    def counted(size: int) -> memoryview:
        slabs.append(size)
        return aligned(size)

    monkeypatch.setattr("closeranks_agent.chunks.inflow.aligned", counted)
    monkeypatch.setattr("closeranks_agent.chunks.inflow.SLAB_BYTES", CHUNK)  # one chunk each
    rounds = 20
    left = rounds

    async def breaking(request: web.Request, response: web.StreamResponse, asked: ChunkRequest) -> None:
        nonlocal left
        left -= 1
        if left < 0 or broken == "by our disk":
            await honest(request, response, asked)
            return
        position = next(at for at, name in enumerate(asked.chunks) if len(content(name.index)) > 1)
        data = content(asked.chunks[position].index)
        await response.write(HEADER.pack(Status.CHUNK, position, len(data)) + data[:1])
        assert request.transport is not None
        request.transport.close()

    sources = Sources(lends=True)
    sources.write_fails = rounds if broken == "by our disk" else 0
    await sources.add("n1", breaking)
    monkeypatch.setattr("closeranks_agent.chunks.peers.Peers.failed", lambda *_: None)  # asked again at once
    assert await sources.fetch(10, patience_s=20, again=rounds) == []
    assert sources.got == {at: content(at) for at in range(10)}
    assert left <= 0
    assert len(slabs) <= 10


async def test_memory_from_which_a_thread_still_writes_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run is cancelled while its disk is slow: the call is over for us, and the thread that writes goes on."""
    monkeypatch.setattr("closeranks_agent.chunks.fetch.LENT_MIN_BYTES", 1)
    writing, goes_on, written = threading.Event(), threading.Event(), list[bytes]()

    def slow_disk(parts: Sequence[tuple[ChunkWant, bytes | memoryview]]) -> Sequence[ChunkWant]:
        writing.set()
        assert goes_on.wait(20)
        written.extend(bytes(data) for _, data in parts)
        return []

    async def write(parts: Sequence[tuple[ChunkWant, bytes | memoryview]]) -> Sequence[ChunkWant]:
        return await asyncio.to_thread(slow_disk, parts)

    sources = Sources()
    await sources.add("n1", honest)
    wants = [ChunkWant(b"f", at, OF(content(at)), len(content(at))) for at in range(10)]
    async with aiohttp.ClientSession() as http:
        fetcher = Fetcher(
            "v", "xxh3-128", CHUNK, "me", ["n1"], lambda: sources.members, lambda: 1, http, lambda _: None
        )  # fmt: skip
        async with fetcher:
            fetching = asyncio.create_task(fetcher.fetch(wants, write, True))
            assert await asyncio.to_thread(writing.wait, 20)
            fetching.cancel()
        for _ in range(2 * len(wants)):  # what the next chunks to come would do
            fetcher._buffers.take(CHUNK)[:] = b"?" * CHUNK
        goes_on.set()
        await asyncio.get_running_loop().shutdown_default_executor()
    await sources.runners[0].cleanup()
    assert written == [content(at) for at in range(10)]


async def immeasurable(writer: asyncio.StreamWriter) -> None:
    """Of a length that the client takes for no body at all."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(5)


def dripping(head: bytes, drop: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """Never silent, and never a byte of payload."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.05)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "bad",
    [
        immeasurable,
        dripping(CHUNKED + b"5;", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        dripping(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x"),
    ],
    ids=["immeasurable", "extension", "headers", "interim", "refusal"],
)
async def test_what_is_no_payload_keeps_nobody_waiting(
    lends: bool, monkeypatch: pytest.MonkeyPatch, bad: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> None:
    monkeypatch.setattr("closeranks_agent.chunks.fetch.CONNECT_TIMEOUT_S", 0.5)
    sources = Sources(lends)
    await sources.add_raw("bad", bad)
    await sources.add("good", honest)
    assert await sources.fetch(500) == []
    assert sources.got == {at: content(at) for at in range(500)}
    assert sources.asked["bad"] > 0


async def test_what_waits_for_our_own_disk_is_not_held_against_the_peer(
    lends: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer's rest is in our buffers while what came before is written for longer than a peer may be silent."""
    for name, value in (("READ_BUFFER_BYTES", 2048), ("REQUEST_MIN_CHUNKS", 200), ("BATCH_CHUNKS", 8)):
        monkeypatch.setattr(f"closeranks_agent.chunks.fetch.{name}", value)
    sources = Sources(lends)
    sources.write_s = 0.15
    await sources.add("good", honest)
    with caplog.at_level("INFO", "closeranks.fetch"):
        assert await sources.fetch(200) == []
    assert sources.asked == {"good": 200}
    assert "failed" not in caplog.text


async def test_several_peers_share_the_work_and_nothing_is_asked_twice(lends: bool) -> None:
    sources = Sources(lends)
    for name in ("p1", "p2", "p3", "p4"):
        await sources.add(name, honest)
    assert await sources.fetch(3000) == []
    assert sources.moved == sum(len(content(at)) for at in range(3000))
    assert min(sources.asked.values()) > 100
    assert sum(sources.asked.values()) == 3000


@pytest.mark.parametrize("bad", [lying, denying, hanging_up])
async def test_what_nobody_gives_is_given_back(lends: bool, bad: Callable[..., Awaitable[None]]) -> None:
    sources = Sources(lends)
    await sources.add("bad", bad)
    assert len(await sources.fetch(20, patience_s=0.5)) == 20
    assert sources.got == {}


async def test_without_any_usable_peer_it_ends_soon(lends: bool) -> None:
    sources = Sources(lends)
    assert len(await sources.fetch(5, patience_s=0.2)) == 5


async def test_a_fenced_peer_is_left_at_once_and_never_asked(lends: bool) -> None:
    sources = Sources(lends)
    await sources.add("fenced", honest)
    await sources.add("good", honest)
    sources.members["fenced"] = Member("fenced", sources.members["fenced"].address, True, True)
    assert await sources.fetch(200) == []
    assert set(sources.asked) == {"good"}
