"""The coordinator's HTTP API, put together: `build_app(coordinator)` gives an aiohttp application.

Every request goes the same way: find the route, check the caller, read the query, act, and turn whatever
goes wrong into the one form of errors. The routes stand in `api_routes`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from aiohttp import web

from ..gate import AGENTS_PATH, misdirected
from .call import BODY_MAX_BYTES, ApiError, Call, Core, Param, answer
from .guard import add_headers, answers, check_caller, counted
from .openapi import document
from .routes import ROUTES, Route

# The first two show nothing that the core decides: whether it lives waits for no disk. A scrape waits by itself.
UNDECIDED = ("/-/healthy", "/-/ready", "/metrics")
OPENAPI_PATH = "/api/v1/openapi.json"


def build_app(core: Core) -> web.Application:
    """The application for `listen_api`. Its clean-up ends event streams and stores the last events."""
    open_paths = {route.path for route in ROUTES if route.open}

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else None
        began = time.monotonic()
        status = 500
        try:
            if path is None and request.path.startswith(AGENTS_PATH):
                raise misdirected()
            check_caller(request, core.config, needs_token=path not in open_paths)
            if path not in UNDECIDED:
                await core.settled()
            found = await handler(request)
            status = found.status
        except (ApiError, web.HTTPException) as error:
            status = error.status
            raise
        finally:
            counted(core, request, status, time.monotonic() - began)
        return found

    app = web.Application(middlewares=[answers, guard], client_max_size=BODY_MAX_BYTES)
    documented = (*ROUTES, _openapi_route())
    for route in documented:
        act = _acting(core, route)
        app.router.add_route(route.method, route.path, act)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, act)
    app.on_response_prepare.append(add_headers)

    async def hang_up(_: web.Application) -> None:
        core.events.hang_up()

    async def close(_: web.Application) -> None:
        await core.events.close()

    app.on_shutdown.append(hang_up)
    app.on_cleanup.append(close)
    return app


def _acting(core: Core, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def act(request: web.Request) -> web.StreamResponse:
        return await route.act(Call(core, request, _read_query(request, route)))

    return act


def _read_query(request: web.Request, route: Route) -> dict[str, str | int | bool | None]:
    """The route's parameters, read and defaulted. Raises ApiError 400."""
    known: dict[str, Param] = {param.name: param for param in route.query}
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if not route.strict:
            continue
        if name not in known:
            listed = f"; known are {', '.join(known)}" if known else ""
            raise ApiError(400, "bad_query", f"unknown query parameter {name[:100]!r}{listed}")
        if name in given:
            raise ApiError(400, "bad_query", f"the query parameter {name} is given twice")
        given[name] = value
    found: dict[str, str | int | bool | None] = {}
    for name, param in known.items():
        if name in given:
            found[name] = param.read(given[name])
        elif param.required:
            raise ApiError(400, "bad_query", f"the query parameter {name} is missing")
        else:
            found[name] = param.default
    return found


def _openapi_route() -> Route:
    async def openapi(call: Call) -> web.StreamResponse:
        return answer(document((*ROUTES, route), version("closeranks"), bool(call.core.config.tokens)))

    route = Route("GET", OPENAPI_PATH, "get_openapi", "This document", openapi, media=("application/json",))
    return route
