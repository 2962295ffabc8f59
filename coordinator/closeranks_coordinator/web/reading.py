"""Questions: what the API shows and never changes."""

from __future__ import annotations

import base64
import hashlib

import msgspec
from aiohttp import web

from closeranks_proto import messages as wire
from closeranks_proto.kinds import is_name
from closeranks_proto.lines import timestamp
from closeranks_proto.paths import escape, path_of

from ..core.model import Refusal
from ..core.shapes import ConflictView, HoldView, IncidentView, NodeView
from .call import ApiError, Call, answer, decode_cursor, encode_cursor, page, text_answer
from .plain import as_text
from .report import as_html, as_json, as_markdown
from .schemas import TrashItemView, TrashPage
from .telling import tell

LATEST_MS = 253_402_300_799_999  # the last moment of the year 9999: a node may say anything


async def fleet(call: Call) -> web.StreamResponse:
    view, problem = call.core.fleet.fleet_view(call.now), call.core.problem
    if problem is not None:  # what agents tell waits: nothing is proven by what was known before
        view = msgspec.structs.replace(view, in_rank=False, problem=problem)
    return answer(view)


async def nodes(call: Call) -> web.StreamResponse:
    now = call.now
    return page(call, call.core.fleet.node_names(), lambda name: call.core.fleet.node_view(now, name))


async def node(call: Call) -> web.StreamResponse:
    return answer(call.node())


async def volumes(call: Call) -> web.StreamResponse:
    now = call.now
    return page(call, call.core.fleet.volume_names(), lambda name: call.core.fleet.volume_view(now, name))


async def volume(call: Call) -> web.StreamResponse:
    return answer(call.volume())


async def conflicts(call: Call) -> web.StreamResponse:
    name, state = call.volume().name, call.text("state")
    found = {_conflict_id(one): one for one in call.core.fleet.conflicts(name) if state in (None, one.state)}
    return page(call, list(found), found.get)


def _conflict_id(one: ConflictView) -> str:
    """A conflict is known by what it was and when; a path may be too long for a cursor."""
    text = f"{one.at} {one.path_b64} {one.kept_path_b64} {one.loser}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


async def speed(call: Call) -> web.StreamResponse:
    return answer(call.core.fleet.speed_view(call.now))


async def scrub(call: Call) -> web.StreamResponse:
    return answer(call.core.fleet.scrub_view())


async def diff(call: Call) -> web.StreamResponse:
    volume_name = call.volume().name
    node_name = call.text("node")
    against = call.text("against")
    assert node_name is not None
    cursor = call.text("cursor")
    found = call.core.fleet.diff(
        volume_name,
        node_name,
        None if against in (None, "truth") else against,
        b"" if cursor is None else decode_cursor(cursor),
        call.limit,
        same=call.query["all"] is True,
    )
    if isinstance(found, Refusal):
        raise ApiError(found.status, found.code, found.message)
    return answer(
        {
            "entries": [row.view() for row in found.rows],
            "next_cursor": None if found.next_key is None else encode_cursor(found.next_key),
            "undetermined": found.undetermined,
            "total": found.total,
            "stale": found.stale,
            "withheld": found.withheld,
        }
    )


async def incidents(call: Call) -> web.StreamResponse:
    state, node_name, volume_name, kind = (call.text(name) for name in ("state", "node", "volume", "kind"))

    def named(identity: str) -> bool:
        return call.core.fleet.incident_is(identity, state, node_name, volume_name, kind)

    return page(call, call.core.fleet.incident_ids(), call.core.fleet.incident_view, named=named)


def _incident(call: Call) -> IncidentView:
    identity = call.segment("id")
    found = call.core.fleet.incident_view(identity)
    if found is None:
        raise ApiError(
            404,
            "unknown_incident",
            f"no incident {identity!r} is kept: `closeranks incidents` lists those that are",
        )
    return found


async def incident(call: Call) -> web.StreamResponse:
    return answer(_incident(call))


async def incident_report(call: Call) -> web.StreamResponse:
    found = _incident(call)
    digest = call.core.config.fleet.digest
    match call.text("format"):
        case "html":
            page_html = as_html(found, digest, call.now.wall_ms)
            made = text_answer(page_html.text, content_type="text/html")
            made.headers["Content-Security-Policy"] = page_html.policy
            return made
        case "text":
            return text_answer(as_text(tell(found, digest, call.now.wall_ms)), content_type="text/plain")
        case "json":
            return web.Response(body=as_json(found), content_type="application/json")
        case _:
            return text_answer(as_markdown(found, digest, call.now.wall_ms), content_type="text/markdown")


async def actions(call: Call) -> web.StreamResponse:
    return page(call, call.core.fleet.action_ids(), call.core.fleet.action_view)


async def action(call: Call) -> web.StreamResponse:
    identity = call.segment("id")
    found = call.core.fleet.action_view(identity)
    if found is None:
        raise ApiError(404, "unknown_action", f"no action {identity!r} is kept")
    return answer(found)


async def held(call: Call) -> web.StreamResponse:
    state, node_name = call.text("state"), call.text("node")

    def wanted(found: HoldView) -> bool:
        return state in (None, found.state) and node_name in (None, found.node)

    return page(call, call.core.fleet.hold_ids(), call.core.fleet.hold_view, wanted)


async def hold(call: Call) -> web.StreamResponse:
    identity = call.segment("id")
    found = call.core.fleet.hold_view(identity)
    if found is None:
        raise ApiError(
            404, "unknown_hold", f"no hold {identity!r} is kept: `closeranks held --all` lists those that are"
        )
    return answer(found)


async def baselines(call: Call) -> web.StreamResponse:
    of_volume = call.text("volume")
    return page(
        call,
        call.core.fleet.baseline_names(),
        call.core.fleet.baseline_view,
        lambda found: of_volume in (None, found.volume),
    )


async def baseline(call: Call) -> web.StreamResponse:
    name = call.segment("name")
    found = call.core.fleet.baseline_view(name) if is_name(name) else None
    if found is None:
        raise ApiError(404, "unknown_baseline", f"there is no baseline {name!r}")
    return answer(found)


async def trash(call: Call) -> web.StreamResponse:
    node = call.node()
    of_volume, of_incident, cursor = (call.text(key) for key in ("volume", "incident", "cursor"))
    check_volume(node, of_volume)
    asked = wire.TrashList(0, of_volume or "", of_incident or "", call.limit, cursor or "")
    found = await trash_answer(call, node.node, asked)
    items = tuple(trash_item(item) for item in found.items)
    return answer(TrashPage(items, found.next_cursor))


def check_volume(node: NodeView, volume: str | None) -> None:
    """Raises ApiError where the node has no such volume: the node itself would only call its trash empty."""
    if volume is not None and all(found.name != volume for found in node.volumes):
        known = ", ".join(found.name for found in node.volumes)
        raise ApiError(
            404, "unknown_volume", f"{node.node} has no volume {volume!r}; it has: {known or 'none'}"
        )


async def trash_answer(call: Call, name: str, asked: wire.TrashList | wire.TrashRestore) -> wire.TrashAnswer:
    """What the node says about its trash. Raises ApiError when it says nothing or no."""
    found = await call.core.trash(name, asked)
    if found is None:
        raise ApiError(
            503,
            "node_unreachable",
            f"{name} did not answer, and its trash lies on its own disk: ask again when it is back",
        )
    if found.error:
        raise ApiError(409, "trash_refused", found.error, {"restored": [item.id for item in found.items]})
    return found


def trash_item(item: wire.TrashItem) -> TrashItemView:
    path = path_of(item.key)
    return TrashItemView(
        item.id,
        item.volume,
        escape(path),
        base64.b64encode(path).decode("ascii"),
        item.kind,
        item.size_bytes,
        timestamp(min(max(item.trashed_unix_ms, 0), LATEST_MS)),
        item.incident or None,
        item.why,
    )


# --- for machines in front and beside ---------------------------------------------------------------


async def rotation(call: Call) -> web.StreamResponse:
    name = call.segment("node")
    status = call.core.fleet.lb_status(call.now, name) if is_name(name) else None
    if status is None:
        raise ApiError(404, "unknown_node", f"no node {name!r} is in the fleet's configuration")
    return answer({"node": name, "in_rotation": status == 200}, status)


async def metrics(call: Call) -> web.StreamResponse:
    body, content_type = await call.core.metrics.exposition(call.request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def healthy(call: Call) -> web.StreamResponse:
    return text_answer("the coordinator lives\n")


async def ready(call: Call) -> web.StreamResponse:
    if call.core.problem is not None:
        return text_answer(f"not ready: {call.core.problem}\n", 503)
    if not call.core.ready:
        return text_answer("not ready: the coordinator is starting or stopping\n", 503)
    return text_answer("ready\n")
