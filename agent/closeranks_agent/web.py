"""What an agent serves: chunks to its peers, metrics and health to operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .chunks.serve import ChunkServer

if TYPE_CHECKING:
    from .runtime import Agent

BODY_MAX_BYTES = 4 * 1024 * 1024  # a request for CHUNK_REQUEST_MAX_CHUNKS chunks of paths of 4,095 bytes


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

    app.add_routes([web.get("/-/healthy", healthy), web.get("/-/ready", ready), web.get("/metrics", metrics)])
    chunks = ChunkServer(
        lambda: agent.volumes,
        lambda: agent.state.members,
        lambda: agent.state.membership_term,
        lambda: agent.state.fence is not None,
        lambda peer, payload: agent.metrics.served.labels(peer).inc(payload),
        agent.speed.serve,
    )
    app.add_routes(chunks.routes())
    return app
