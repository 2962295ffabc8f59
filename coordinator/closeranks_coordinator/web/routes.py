"""The one table of routes: from it come what aiohttp serves and what the OpenAPI document says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.shapes import (
    ActionView,
    BaselineView,
    FleetView,
    HoldView,
    IncidentView,
    NodeView,
    ScrubView,
    SpeedView,
    VolumeView,
)
from . import acting, reading
from . import schemas as views
from . import stream as streaming
from .call import CURSOR, LIMIT, Endpoint, Param

Refusals = tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `gives` is the type of a JSON answer, or None with `media` for another kind.

    `refusals`: (status, code, when). `open`: answered without a token. `strict`: unknown query parameters are
    errors (machines in front of us append what they like, so not where they ask).
    """

    method: str
    path: str
    name: str
    text: str
    act: Endpoint
    gives: Any = None
    status: int = 200
    media: tuple[str, ...] = ("application/json",)
    query: tuple[Param, ...] = ()
    body: Any = None
    refusals: Refusals = ()
    also: tuple[tuple[int, str], ...] = ()  # other statuses with the same body
    open: bool = False
    strict: bool = True


_NO_NODE = (404, "unknown_node", "the fleet has no such node")
_NO_VOLUME = (404, "unknown_volume", "the fleet, or the node, has no such volume")
_NO_INCIDENT = (404, "unknown_incident", "no such incident is kept")
_NO_HOLD = (404, "unknown_hold", "no such hold is kept")
_NOT_HELD = (409, "not_held", "it was decided about already, or is over")
_NO_BASELINE = (404, "unknown_baseline", "there is no such baseline")
_BAD_CURSOR = (400, "bad_cursor", "the cursor is none of ours, or its item is gone")
_ORDER: Refusals = ((503, "not_durable", "the order could not be made durable in time; it may still happen"),)
_FENCED = (409, "not_quarantined", "the node is not fenced")
_NOT_VERIFIED = (409, "not_verified", "the node's root is not the truth's")
_QUORUM = (409, "quorum_would_be_lost", "with one node less no quorum could be reached")
_NO_TRUTH = (409, "no_truth", "the volume has no truth yet, or the node no root")
_AWAY = (503, "node_unreachable", "the node did not answer")
_PAGES = (LIMIT, CURSOR)

_READING: tuple[Route, ...] = (
    Route("GET", "/api/v1/fleet", "get_fleet", "The whole fleet at a glance", reading.fleet, FleetView),
    Route(
        "GET", "/api/v1/nodes", "list_nodes", "The nodes, by name", reading.nodes, views.NodePage,
        query=_PAGES, refusals=(_BAD_CURSOR,),
    ),
    Route(
        "GET", "/api/v1/nodes/{node}", "get_node", "One node", reading.node, NodeView, refusals=(_NO_NODE,)
    ),
    Route(
        "GET", "/api/v1/nodes/{node}/trash", "list_trash",
        "What converge set aside on the node, asked of the node itself", reading.trash, views.TrashPage,
        query=(
            Param("volume", "Only this volume's."),
            Param("incident", "Only what this incident set aside."),
            *_PAGES,
        ),
        refusals=(_NO_NODE, _NO_VOLUME, _AWAY, (409, "trash_refused", "the node says why")),
    ),
    Route(
        "GET", "/api/v1/volumes", "list_volumes", "The volumes, by name", reading.volumes, views.VolumePage,
        query=_PAGES, refusals=(_BAD_CURSOR,),
    ),
    Route(
        "GET", "/api/v1/volumes/{volume}", "get_volume", "One volume", reading.volume, VolumeView,
        refusals=(_NO_VOLUME,),
    ),
    Route(
        "GET", "/api/v1/volumes/{volume}/diff", "get_diff",
        "The paths in which a node differs from the truth, another node or a baseline", reading.diff,
        views.DiffPage,
        query=(
            Param("node", "Whose tree.", required=True),
            Param("against", "`truth`, a node or a baseline.", default="truth"),
            Param("all", "List equal paths too, with `change` same.", "boolean", default=False),
            *_PAGES,
        ),
        refusals=(
            _NO_VOLUME, _NO_NODE, (404, "unknown_against", "neither truth nor a node nor a baseline of the volume"),
            _BAD_CURSOR, _NO_TRUTH, (409, "not_scanned", "the node has not finished its first scan"),
        ),
    ),
    Route(
        "GET", "/api/v1/volumes/{volume}/conflicts", "list_conflicts",
        "Paths that two writers changed without knowing of each other, newest first", reading.conflicts,
        views.ConflictPage,
        query=(Param("state", "Only these.", choices=("open", "resolved")), *_PAGES),
        refusals=(_NO_VOLUME, _BAD_CURSOR),
    ),
    Route(
        "GET", "/api/v1/speed", "get_speed", "How fast nodes may transfer now, and why", reading.speed,
        SpeedView,
    ),
    Route(
        "GET", "/api/v1/scrub", "get_scrub", "How far the re-reading of contents is on every node", reading.scrub,
        ScrubView,
    ),
    Route(
        "GET", "/api/v1/incidents", "list_incidents", "The incidents, newest first", reading.incidents,
        views.IncidentPage,
        query=(
            Param("state", "Only these.", choices=("open", "closed")),
            Param("node", "Only this node's."),
            Param("volume", "Only this volume's."),
            Param("kind", "Only this kind."),
            *_PAGES,
        ),
        refusals=(_BAD_CURSOR,),
    ),
    Route(
        "GET", "/api/v1/incidents/{id}", "get_incident", "One incident", reading.incident, IncidentView,
        refusals=(_NO_INCIDENT,),
    ),
    Route(
        "GET", "/api/v1/incidents/{id}/report", "get_incident_report", "One incident, told for people",
        reading.incident_report, media=("text/markdown", "text/plain", "text/html", "application/json"),
        query=(Param("format", "In what form.", choices=("md", "text", "html", "json"), default="md"),),
        refusals=(_NO_INCIDENT,),
    ),
    Route(
        "GET", "/api/v1/actions", "list_actions", "What was asked of nodes, newest first", reading.actions,
        views.ActionPage, query=_PAGES, refusals=(_BAD_CURSOR,),
    ),
    Route(
        "GET", "/api/v1/actions/{id}", "get_action", "How an action goes", reading.action, ActionView,
        refusals=((404, "unknown_action", "no such action is kept"),),
    ),
    Route(
        "GET", "/api/v1/baselines", "list_baselines", "The baselines, by name", reading.baselines,
        views.BaselinePage, query=(Param("volume", "Only this volume's."), *_PAGES), refusals=(_BAD_CURSOR,),
    ),
    Route(
        "GET", "/api/v1/baselines/{name}", "get_baseline", "One baseline", reading.baseline, BaselineView,
        refusals=(_NO_BASELINE,),
    ),
    Route(
        "GET", "/api/v1/held", "list_held", "What guards hold or held, newest first", reading.held,
        views.HoldPage,
        query=(
            Param("state", "Only these.", choices=("held", "allowed", "rejected", "over")),
            Param("node", "Only this node's."), *_PAGES,
        ),
        refusals=(_BAD_CURSOR,),
    ),
    Route("GET", "/api/v1/held/{id}", "get_held", "One hold", reading.hold, HoldView, refusals=(_NO_HOLD,)),
    Route(
        "GET", "/api/v1/events", "follow_events",
        "Server-sent events: `node`, `volume`, `incident`, `action`, each with what its GET answers, and `reset` "
        "when everything must be looked at again. Resumes behind the Last-Event-ID header.",
        streaming.events, media=("text/event-stream",),
        refusals=((503, "too_many_streams", "too many clients follow already"),), strict=False,
    ),
)  # fmt: skip

_ACTING: tuple[Route, ...] = (
    Route(
        "POST", "/api/v1/nodes/{node}/quarantine", "quarantine_node", "Fence a node by hand",
        acting.quarantine, views.AcceptedView, 202, body=views.QuarantineBody,
        refusals=(_NO_NODE, (409, "already_quarantined", "the node is quarantined by hand"), _QUORUM, *_ORDER),
    ),
    Route(
        "POST", "/api/v1/nodes/{node}/release", "release_node", "Lift the fence of a verified node",
        acting.release, views.AcceptedView, 202, body=views.ReleaseBody,
        refusals=(
            _NO_NODE, _NO_VOLUME, (400, "no_dry_run", "a release moves nothing"), _FENCED, _NOT_VERIFIED,
            *_ORDER,
        ),
    ),
    Route(
        "POST", "/api/v1/nodes/{node}/resync", "resync_node", "Bring a node to the truth", acting.resync,
        views.AcceptedView, 202, body=views.ResyncBody,
        refusals=(
            _NO_NODE, _NO_VOLUME, _NO_TRUTH, (409, "unreachable", "the node is not connected"),
            (409, "unconfirmed", "the node differs, but not for long enough to be judged"), _QUORUM, *_ORDER,
        ),
    ),
    Route(
        "POST", "/api/v1/held/{id}/allow", "allow_held", "Let it through; for a while it is not held again",
        acting.allow, views.AcceptedView, 202, body=views.AllowBody,
        refusals=(_NO_HOLD, _NOT_HELD, (400, "bad_seconds", "no time that an allowance can last"), *_ORDER),
    ),
    Route(
        "POST", "/api/v1/held/{id}/reject", "reject_held", "Bring the writer of what is held back to the truth",
        acting.reject, views.AcceptedView, 202, body=views.NoBody,
        refusals=(_NO_HOLD, _NOT_HELD, _NO_TRUTH, _QUORUM, *_ORDER),
    ),
    Route(
        "POST", "/api/v1/nodes/{node}/trash/restore", "restore_trash", "Bring trashed entries back",
        acting.restore, views.RestoredView, body=views.RestoreBody,
        refusals=(
            _NO_NODE, _NO_VOLUME, _AWAY, (409, "trash_refused", "the node says why"),
            (409, "not_quarantined_by_hand", "in_place, while the node is not quarantined by hand"),
        ),
    ),
    Route(
        "POST", "/api/v1/speed", "set_speed", "Faster or slower, until it is taken back", acting.set_speed,
        SpeedView, body=views.SpeedBody,
        refusals=(_NO_NODE, (400, "bad_speed", "no number of bytes/s that could be a limit"), *_ORDER),
    ),
    Route(
        "POST", "/api/v1/scrub", "set_scrub", "Re-read contents now, faster, slower or not at all",
        acting.set_scrub, ScrubView, body=views.ScrubBody,
        refusals=(_NO_NODE, _AWAY, (400, "bad_speed", "no number of bytes/s that could be a limit"), *_ORDER),
    ),
    Route(
        "POST", "/api/v1/volumes/{volume}/pin", "pin_baseline", "Make a baseline a volume's pinned one",
        acting.pin, VolumeView, body=views.PinBody, refusals=(
            _NO_VOLUME, _NO_BASELINE, (409, "wrong_policy", "only policy baseline has a pin"),
            (409, "other_volume", "the baseline is another volume's"), *_ORDER,
        ),
    ),
    Route(
        "DELETE", "/api/v1/volumes/{volume}/pin", "unpin_baseline", "Take a volume's pin away",
        acting.unpin, VolumeView, refusals=(_NO_VOLUME, *_ORDER),
    ),
    Route(
        "POST", "/api/v1/baselines", "create_baseline", "Name a state as known good", acting.create_baseline,
        BaselineView, 201, body=views.BaselineBody,
        refusals=(
            _NO_VOLUME, _NO_NODE, (409, "name_taken", "there is one of this name"), _NO_TRUTH,
            (409, "undetermined", "paths of the volume have no majority"), (409, "too_many", "delete one first"),
            *_ORDER,
        ),
    ),
    Route(
        "DELETE", "/api/v1/baselines/{name}", "delete_baseline", "Forget a baseline", acting.delete_baseline,
        views.DeletedView, refusals=(_NO_BASELINE, (409, "pinned", "a volume has it pinned"), *_ORDER),
    ),
    Route(
        "POST", "/-/reload", "reload", "Read the configuration file again", acting.reload, views.ReloadedView,
        refusals=((409, "configuration_refused", "the file has a mistake; everything stays as it was"),),
    ),
)  # fmt: skip

_MACHINES: tuple[Route, ...] = (
    Route(
        "GET", "/lb/{node}", "get_rotation", "For load balancers: 200 take the node, 503 leave it out",
        reading.rotation, views.RotationView, also=((503, "Leave it out."),), refusals=(_NO_NODE,),
        open=True, strict=False,
    ),
    Route(
        "GET", "/metrics", "get_metrics", "For Prometheus", reading.metrics,
        media=("text/plain", "application/openmetrics-text"), strict=False,
    ),
    Route(
        "GET", "/-/healthy", "get_healthy", "200 as long as the process lives", reading.healthy,
        media=("text/plain",), open=True, strict=False,
    ),
    Route(
        "GET", "/-/ready", "get_ready", "200 once everything is open and can be written", reading.ready,
        media=("text/plain",), also=((503, "Not ready; the text says why."),), open=True, strict=False,
    ),
)  # fmt: skip

ROUTES: tuple[Route, ...] = _READING + _ACTING + _MACHINES
