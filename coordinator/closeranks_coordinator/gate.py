"""What `listen_agents` answers besides sessions: whether a node is known here, and that this is not the API.

An agent's machine is set up before anybody looks at the fleet, so its doctor must be able to ask. A session would
tell, but a second one of a node that is connected ends the first or opens an incident. Nothing is told that a Hello
would not tell; who reaches this port and knows a name may speak for that node anyhow.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from .core.model import FleetConfig
from .web.call import ApiError, answer, error_answer

WRONG_PORT = 421  # Misdirected Request: what was asked is answered on another port of this program
_API_ELSEWHERE = (
    "this is listen_agents, where agents dial in; the API, for operators and load balancers, is at listen_api "
    "(by default port 7341)"
)
_AGENTS_ELSEWHERE = (
    "this is listen_api, for operators and load balancers; agents dial listen_agents (by default port 7340)"
)
AGENTS_PATH = "/v1/agent"  # how what agents and their doctors ask for begins


def routes(config: Callable[[], FleetConfig]) -> list[web.RouteDef]:
    """Behind those of the sessions: whatever they do not answer."""

    async def known(request: web.Request) -> web.Response:
        fleet, name = config(), request.match_info["node"]
        if name not in fleet.nodes:
            return error_answer(
                ApiError(404, "unknown_node", "this node is not in the coordinator's [fleet] nodes")
            )
        volumes = [volume.name for volume in fleet.volumes if name in volume.nodes]
        return answer({"node": name, "volumes": volumes})

    async def elsewhere(_: web.Request) -> web.Response:
        return error_answer(ApiError(WRONG_PORT, "wrong_port", _API_ELSEWHERE))

    return [web.get(AGENTS_PATH + "s/{node}", known), web.route("*", "/{rest:.*}", elsewhere)]


def misdirected() -> ApiError:
    """What the API says to an agent: it is what somebody named as `coordinator` in agent.toml."""
    return ApiError(WRONG_PORT, "wrong_port", _AGENTS_ELSEWHERE)
