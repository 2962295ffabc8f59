"""Who does not answer when chunks are fetched: told by name and address, and no more once somebody answers there."""

from __future__ import annotations

import socket

import aiohttp
import aiohttp.web

from closeranks_agent.chunks.fetch import ChunkWant, Fetcher
from closeranks_agent.chunks.reach import MISSED_MIN_S, Reach, why_missed
from closeranks_proto.messages import Member, Unreached


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def member(name: str, address: str, fenced: bool = False) -> dict[str, Member]:
    return {name: Member(name, address, fenced, True)}


def test_who_is_missed_again_and_again_is_told_until_it_answers() -> None:
    clock, rung = Clock(), list[float]()
    reach = Reach(lambda: rung.append(clock.now), clock)
    there = member("a", "10.0.0.1:7342")
    reach.missed("a", "10.0.0.1:7342", "connection refused")
    assert reach.told(there) == (), "it may just be starting"
    clock.now = MISSED_MIN_S
    reach.missed("a", "10.0.0.1:7342", "no route to host")
    assert reach.told(there) == (Unreached("a", "10.0.0.1:7342", "no route to host"),)
    assert reach.told({}) == reach.told(member("a", "10.0.0.1:7342", fenced=True)) == ()
    assert reach.told(member("a", "10.0.0.9:7342")) == (), "it has another address by now"
    reach.answered("a")
    assert reach.told(there) == ()
    assert rung == [MISSED_MIN_S, MISSED_MIN_S]


def test_the_words_say_what_the_kernel_said() -> None:
    assert why_missed(TimeoutError(), 5.0) == "no answer within 5 s"
    assert why_missed(ConnectionRefusedError(111, "x"), 5.0) == "connection refused"
    assert why_missed(aiohttp.ServerDisconnectedError(), 5.0) == "Server disconnected"


async def _fetch(address: str, reach: Reach, lends: bool) -> list[ChunkWant]:
    members = member("a", address)

    async def write(parts: object) -> list[ChunkWant]:
        raise AssertionError("nothing comes")

    async with (
        aiohttp.ClientSession() as http,
        Fetcher(
            "v", "xxh3-128", 2**20, "me", ["a"], lambda: members, lambda: 1, http, lambda length: None,
            timeout_s=0.3, patience_s=1.5, reach=reach,
        ) as fetcher,
    ):  # fmt: skip
        return await fetcher.fetch([ChunkWant(b"f", 0, bytes(16), 2**20)], write, lends)


async def test_a_port_where_nobody_listens_is_told_and_one_that_answers_is_not() -> None:
    for lends in (False, True):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            clock = Clock()
            reach = Reach(clock=clock)
            assert len(await _fetch(address, reach, lends)) == 1, "it is given back"
            clock.now = 10.0
            assert len(await _fetch(address, reach, lends)) == 1
            (one,) = reach.told(member("a", address))
            assert (one.node, one.address) == ("a", address)
            assert "refused" in one.detail
            app = aiohttp.web.AppRunner(aiohttp.web.Application())
            await app.setup()
        host, port = address.split(":")
        await aiohttp.web.TCPSite(app, host, int(port)).start()
        try:
            await _fetch(address, reach, lends)  # 404: it is there, and says something
        finally:
            await app.cleanup()
        assert reach.told(member("a", address)) == ()
