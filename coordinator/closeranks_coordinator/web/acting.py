"""Orders: quarantine, release, resync, baselines, the trash, the configuration. Each is the core's to refuse."""

from __future__ import annotations

from aiohttp import web

from closeranks_proto import messages as wire
from closeranks_proto.errors import UserError

from ..core.model import (
    AllowAsked,
    BaselineCreateAsked,
    BaselineDeleteAsked,
    Event,
    PinAsked,
    QuarantineAsked,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    ScrubAsked,
    SpeedAsked,
)
from ..core.shapes import ActionView, BaselineView, ScrubView, SpeedView, VolumeView
from .call import ApiError, Call, answer
from .reading import check_volume, trash_answer, trash_item
from .schemas import (
    AcceptedView,
    AllowBody,
    BaselineBody,
    DeletedView,
    NoBody,
    PinBody,
    QuarantineBody,
    ReleaseBody,
    ReloadedView,
    RestoreBody,
    RestoredView,
    ResyncBody,
    ScrubBody,
    SpeedBody,
)


async def quarantine(call: Call) -> web.StreamResponse:
    node = call.node()
    body = await call.body(QuarantineBody)
    reason = body.reason.strip()
    if not reason:
        raise ApiError(400, "bad_body", "a quarantine needs a reason: others will read it in the incident")
    return await _accepted(call, QuarantineAsked(node.node, reason))


async def release(call: Call) -> web.StreamResponse:
    node = call.node()
    body = await call.body(ReleaseBody)
    check_volume(node, body.volume)
    if body.dry_run:
        raise ApiError(
            400, "no_dry_run", "a release moves nothing, so there is nothing to try out; see the node's state"
        )
    return await _accepted(call, ReleaseAsked(node.node))


async def resync(call: Call) -> web.StreamResponse:
    node = call.node()
    body = await call.body(ResyncBody)
    check_volume(node, body.volume)
    return await _accepted(call, ResyncAsked(node.node, body.volume, body.dry_run))


async def _accepted(call: Call, event: Event) -> web.StreamResponse:
    done = await call.ask(event)
    assert isinstance(done, ActionView)
    return answer(AcceptedView(done.id), 202)


async def set_speed(call: Call) -> web.StreamResponse:
    body = await call.body(SpeedBody)
    if body.unlimited and body.bytes_s is not None:
        raise ApiError(400, "bad_body", "give either bytes_s or unlimited: true")
    done = await call.ask(SpeedAsked(body.node, body.bytes_s, body.unlimited))
    assert isinstance(done, SpeedView)
    return answer(done)


async def set_scrub(call: Call) -> web.StreamResponse:
    body = await call.body(ScrubBody)
    if (body.bytes_s is not None) + body.unlimited + body.auto > 1:
        raise ApiError(400, "bad_body", "give one of bytes_s, unlimited: true and auto: true")
    if body.now and body.paused:
        raise ApiError(400, "bad_body", "a scrub can not be paused and begin now")
    done = await call.ask(
        ScrubAsked(body.node, body.now, body.paused, body.bytes_s, body.unlimited, body.auto)
    )
    assert isinstance(done, ScrubView)
    return answer(done)


async def allow(call: Call) -> web.StreamResponse:
    hold = call.segment("id")
    body = await call.body(AllowBody)
    return await _accepted(call, AllowAsked(hold, body.seconds))


async def reject(call: Call) -> web.StreamResponse:
    hold = call.segment("id")
    await call.body(NoBody)
    return await _accepted(call, RejectAsked(hold))


async def create_baseline(call: Call) -> web.StreamResponse:
    body = await call.body(BaselineBody)
    made = await call.ask(BaselineCreateAsked(body.name, body.volume, body.node))
    assert isinstance(made, BaselineView)
    created = answer(made, 201)
    created.headers["Location"] = f"/api/v1/baselines/{made.name}"
    return created


async def delete_baseline(call: Call) -> web.StreamResponse:
    await call.body(NoBody)
    name = call.segment("name")
    if call.core.fleet.baseline_view(name) is None:
        raise ApiError(404, "unknown_baseline", f"there is no baseline {name!r}")
    await call.ask(BaselineDeleteAsked(name))
    return answer(DeletedView(name))


async def pin(call: Call) -> web.StreamResponse:
    volume = call.volume().name
    body = await call.body(PinBody)
    return await _pin(call, volume, body.baseline)


async def unpin(call: Call) -> web.StreamResponse:
    volume = call.volume().name
    await call.body(NoBody)
    return await _pin(call, volume, None)


async def _pin(call: Call, volume: str, baseline: str | None) -> web.StreamResponse:
    done = await call.ask(PinAsked(volume, baseline))
    assert isinstance(done, VolumeView)
    return answer(done)


async def restore(call: Call) -> web.StreamResponse:
    node = call.node()
    body = await call.body(RestoreBody)
    check_volume(node, body.volume)
    if body.in_place == (body.to is not None):
        raise ApiError(400, "bad_body", "give either to, a directory on the node, or in_place: true")
    if body.to is not None and (not body.to.startswith("/") or "\0" in body.to):
        raise ApiError(400, "bad_body", f"to must be an absolute path on {node.node}")
    if body.in_place and (node.quarantine is None or not node.quarantine.by_hand):
        raise ApiError(
            409,
            "not_quarantined_by_hand",
            f"files go back in place only while {node.node} is quarantined by hand: otherwise they would be "
            f"taken for a divergence and removed again. Quarantine it first, or restore to another directory.",
        )
    asked = wire.TrashRestore(0, body.volume, body.ids, body.to or "", body.in_place)
    found = await trash_answer(call, node.node, asked)
    return answer(RestoredView(node.node, tuple(trash_item(item) for item in found.items)))


async def reload(call: Call) -> web.StreamResponse:
    await call.body(NoBody)
    try:
        await call.core.reload()
    except UserError as error:
        raise ApiError(409, "configuration_refused", f"the configuration was not changed: {error}") from None
    return answer(ReloadedView(True))
