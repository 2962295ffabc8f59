"""What an agent serves: chunks to its peers, metrics and health to operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from closeranks_proto.kinds import was_forwarded

from .chunks.serve import ChunkServer

if TYPE_CHECKING:
    from .runtime import Agent

PROBLEMS_PATH = "/-/problems"
BODY_MAX_BYTES = 4 * 1024 * 1024  # a request for CHUNK_REQUEST_MAX_CHUNKS chunks of paths of 4,095 bytes


class Said(msgspec.Struct):
    """What an agent says of itself to this machine: (volume, code, message) of each problem.

    `trouble`: why it has no session with its coordinator, "" where it has one or has not tried yet.
    """

    node: str
    connected: bool
    trouble: str
    problems: tuple[tuple[str, str, str], ...]
    storms: tuple[str, ...] = ()  # volumes in which so much is written that the agent listens in samples


def build_app(agent: Agent) -> web.Application:
    """The agent's one listening application."""
    app = web.Application(client_max_size=BODY_MAX_BYTES)

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="closeranks agent is alive\n")

    async def ready(_: web.Request) -> web.Response:
        reason = agent.ready
        return (
            web.Response(text="ready\n")
            if reason is None
            else web.Response(status=503, text=f"not ready: {reason}\n")
        )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(agent.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def problems(request: web.Request) -> web.Response:
        if not _is_local(request):  # paths of this machine are told to this machine alone
            return web.Response(status=403, text="only this machine is told\n")
        config, link = agent.config, agent.link
        statuses = [(volume.name, agent.status(volume.name)) for volume in config.volumes]
        known = [
            (name, (None if status is None else status.problem) or agent.orders.waits_for(name))
            for name, status in statuses
        ]
        found = tuple((name, one.code, one.message) for name, one in known if one is not None)
        storms = tuple(name for name, watching in sorted(agent.watching().items()) if watching.stormy)
        said = Said(config.node, link.connected, link.trouble, found, storms)
        return web.Response(body=msgspec.json.encode(said), content_type="application/json")

    app.add_routes(
        [
            web.get("/-/healthy", healthy), web.get("/-/ready", ready), web.get(PROBLEMS_PATH, problems),
            web.get("/metrics", metrics),
        ]
    )  # fmt: skip
    chunks = ChunkServer(
        lambda: agent.volumes,
        lambda: agent.state.members,
        lambda: agent.state.membership_term,
        lambda: agent.state.fence is not None,
        agent.metrics.sent,
        agent.speed.serve,
    )
    app.add_routes(chunks.routes())
    return app


def _is_local(request: web.Request) -> bool:
    """Whether who asks is on this machine: its address is the one that it asked, and no proxy here asks for others."""
    if request.transport is None or was_forwarded(request.headers):
        return False
    own, peer = (request.transport.get_extra_info(name) for name in ("sockname", "peername"))
    return bool(own and peer and own[0] == peer[0])
