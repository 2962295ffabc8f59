"""`GET /api/v1/events`: what changed, as server-sent events.

Each event's data is what a GET of that thing answers at the moment of sending, to SHARED_S. The first thing sent is the
newest id, so that a client that is cut off before its first event resumes from there all the same. A client
that does not read is cut off: it comes back with its last id and loses nothing.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from ..storage.store import StoredEvent
from .call import ApiError, Call, Core
from .events import Listener, TooManyListeners

KEEP_ALIVE_S = 10.0
STUCK_AFTER_S = 30.0
RETRY_MS = 2000


async def events(call: Call) -> web.StreamResponse:
    stream = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    )
    if call.request.method == "HEAD":
        await stream.prepare(call.request)
        return stream
    log = call.core.events
    try:
        listener = log.listen(_last_id(call.request))
    except TooManyListeners:
        error = ApiError(
            503, "too_many_streams", "too many clients follow the events already; try again later"
        )
        error.headers["Retry-After"] = "10"
        raise error from None
    try:
        await stream.prepare(call.request)
        await _send(stream, f"retry: {RETRY_MS}\n".encode())
        await _follow(call.core, listener, stream, call.request)
    except (ConnectionError, TimeoutError):
        return stream  # the client went away or does not read; it resumes from its last id
    finally:
        log.leave(listener)
    return stream


def _last_id(request: web.Request) -> int | None:
    given = request.headers.get("Last-Event-ID", "")
    if not given:
        return None
    # An id that is not a number of ours is answered like one that is too old.
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else -1


async def _follow(core: Core, listener: Listener, stream: web.StreamResponse, request: web.Request) -> None:
    if request.headers.get("Last-Event-ID") is None:
        await _send(stream, f"id: {listener.latest}\n\n".encode())
    else:
        await _send(stream, b"\n")
    following = aiter(listener)
    waiting: asyncio.Future[StoredEvent | None] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(following))
            done, _ = await asyncio.wait({waiting}, timeout=KEEP_ALIVE_S)
            if not done:
                await _send(stream, b": still here\n\n")
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            finally:
                waiting = None
            if event is None:
                await _send(stream, f"event: reset\nid: {listener.latest}\ndata: {{}}\n\n".encode())
            else:
                await _send(stream, await _shared(core, event))
    finally:
        if waiting is not None:
            waiting.cancel()


async def _shared(core: Core, event: StoredEvent) -> bytes:
    """The event as bytes of the stream: made once for all who send it in these moments."""
    data = core.events.shared.get(event)
    if data is None:
        await core.settled()  # what it looks like now may wait for the disk yet
        data = core.events.shared.get(event)  # somebody else may have waited as well
    if data is None:
        data = render(core, event)
        core.events.shared.put(event, data)
    return data


async def _send(stream: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STUCK_AFTER_S):
        await stream.write(data)


def render(core: Core, event: StoredEvent) -> bytes:
    """The event as bytes of the stream."""
    data = msgspec.json.encode(_look(core, event))
    return b"event: %s\nid: %d\ndata: %s\n\n" % (event.kind.encode(), event.id, data)


def _look(core: Core, event: StoredEvent) -> object:
    fleet = core.fleet
    match event.kind:
        case "node":
            found: object | None = fleet.node_view(core.now(), event.ref)
        case "volume":
            found = fleet.volume_view(core.now(), event.ref)
        case "incident":
            found = fleet.incident_view(event.ref)
        case _:
            found = fleet.action_view(event.ref)
    if found is not None:
        return found
    return {
        "error": {
            "code": f"unknown_{event.kind}",
            "message": f"{event.kind} {event.ref} is gone",
            "detail": None,
        }
    }
