"""Who may ask, and what every answer has in common.

With configured tokens everything but health and the load balancers' question needs one; they are compared
in constant time. Without tokens the API listens on loopback only, and the danger is the browser of somebody
on this machine: an order (POST, DELETE) whose Host is not a name of this machine (a rebound DNS name) or
whose Origin is another site is refused, and so is one that a proxy on this machine hands on for others, unless
its Host is one of `public_hosts`: there the proxy decides who may. With tokens Host may be any name, since no
browser sends a token by itself; a foreign Origin is refused all the same.
"""

from __future__ import annotations

import hmac
import logging
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from closeranks_proto.kinds import is_loopback, was_forwarded

from ..config import CoordinatorConfig
from .call import ApiError, Core, error_answer

log = logging.getLogger("closeranks.api")

READING = ("GET", "HEAD", "OPTIONS")
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def check_caller(request: web.Request, config: CoordinatorConfig, needs_token: bool) -> None:
    """Raises ApiError 401 or 403."""
    if request.method not in READING:
        _check_origin(request, config)
    if needs_token and config.tokens:
        _check_token(request, config)


def _check_token(request: web.Request, config: CoordinatorConfig) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    sent = given.strip().encode("utf-8", "surrogateescape")
    known = [hmac.compare_digest(sent, token.secret.encode()) for token in config.tokens]
    if scheme.lower() == "bearer" and any(known):
        return
    if not request.headers.get("Authorization"):
        error = ApiError(401, "token_missing", "this coordinator wants a token: Authorization: Bearer TOKEN")
    else:
        error = ApiError(401, "token_wrong", "the token is none of those that this coordinator knows")
    error.headers["WWW-Authenticate"] = 'Bearer realm="closeranks"'
    raise error


def _check_origin(request: web.Request, config: CoordinatorConfig) -> None:
    host = request.headers.get("Host", "")
    if not config.tokens and not _is_ours(request, host, config):
        raise ApiError(
            403,
            "foreign_host",
            "an order must be addressed to this machine by its own name or address, and not come through a proxy; "
            "name others under [coordinator] public_hosts, which a proxy then has to pass on as Host",
        )
    origin = request.headers.get("Origin")
    if origin is None:
        return
    site = urlsplit(origin).netloc
    if not site or (site.lower() != host.lower() and site.lower() not in _public(config)):
        raise ApiError(403, "foreign_origin", "an order from the page of another site is refused")


def _is_ours(request: web.Request, host: str, config: CoordinatorConfig) -> bool:
    if host.lower() in _public(config):
        return True
    if was_forwarded(request.headers):
        return False  # it came from elsewhere, whatever name the proxy has given it
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return False
    own = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if name is None or not own:
        return False
    return (is_loopback(name) or name == own[0]) and (port is None or port == own[1])


def _public(config: CoordinatorConfig) -> set[str]:
    return {name.lower() for name in config.public_hosts}


def as_error(error: web.HTTPException) -> ApiError:
    """aiohttp's own refusals in our form."""
    message = {
        404: "there is nothing here; the routes are listed at /api/v1/openapi.json",
        405: "this can not be done here; the Allow header says what can",
        413: "a request body may have 64 KiB at most",
    }.get(error.status, error.reason)
    made = ApiError(error.status, _CODES.get(error.status, "refused"), message)
    if "Allow" in error.headers:
        made.headers["Allow"] = error.headers["Allow"]
    return made


@web.middleware
async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal and every fault becomes JSON; a fault says nothing of our inside, the log says all."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_answer(as_error(error))
    except Exception:
        log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        return error_answer(
            ApiError(500, "fault", "the coordinator met a fault of its own; its log says more")
        )


async def add_headers(_: web.Request, found: web.StreamResponse) -> None:
    """Nothing is kept by caches, nothing is guessed by browsers."""
    for name, value in {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    }.items():
        found.headers.setdefault(name, value)
    found.headers["Server"] = "closeranks"


def counted(core: Core, request: web.Request, status: int, seconds: float) -> None:
    resource = request.match_info.route.resource
    core.metrics.answered(
        request.method, resource.canonical if resource is not None else "none", status, seconds
    )
