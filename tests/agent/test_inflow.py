"""How long a source may keep us waiting for how little."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from closeranks_agent.chunks.inflow import Inflow, PeerFailed
from closeranks_agent.speed import Bucket

BYTES = 1000


def inflow(content: aiohttp.StreamReader, **options: float) -> Inflow:
    return Inflow(content, Bucket(), lambda length: None, timeout_s=0.3, **options)


async def slow(content: aiohttp.StreamReader) -> None:
    for _ in range(BYTES // 100):
        await asyncio.sleep(0.05)  # 2,000 bytes/s: the fault itself
        content.feed_data(bytes(100))


@pytest.mark.parametrize(("least_bytes_s", "fails"), [(10.0, False), (20_000.0, True)])
async def test_a_source_must_send_what_is_asked_of_it(least_bytes_s: float, fails: bool) -> None:
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.transport = asyncio.Transport()
    content = aiohttp.StreamReader(protocol, 1 << 20, loop=loop)
    sending = asyncio.create_task(slow(content))
    taking = inflow(content, least_bytes_s=least_bytes_s).payload(BYTES)
    if fails:
        with pytest.raises(PeerFailed, match="it sent"):
            await taking
    else:
        assert await taking == bytes(BYTES)
    sending.cancel()


async def test_a_body_that_never_was_is_at_its_end() -> None:
    empty = inflow(aiohttp.streams.EMPTY_PAYLOAD)
    assert await empty.ended()
    assert await empty.ended()
