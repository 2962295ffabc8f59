"""What the HTTP API takes and gives beyond the core's views: pages, errors, request bodies.

Bodies refuse fields that they do not know: a typing mistake in an order must not become another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from ..core.shapes import (
    ActionView,
    BaselineView,
    ConflictView,
    HoldView,
    IncidentView,
    NodeView,
    View,
    VolumeView,
)
from ..core.speed import LEAST_BYTES_S, MOST_BYTES_S

REASON_MAX = 500
RESTORE_MAX = 1000

Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,62}$", max_length=63)]


class ErrorBody(View, frozen=True):
    """`code` is for programs, `message` for people, `detail` says more where there is more."""

    code: str
    message: str
    detail: Any = None


class ErrorView(View, frozen=True):
    """Every answer of 400 and more."""

    error: ErrorBody


class NodePage(View, frozen=True):
    items: tuple[NodeView, ...]
    next_cursor: str | None


class VolumePage(View, frozen=True):
    items: tuple[VolumeView, ...]
    next_cursor: str | None


class IncidentPage(View, frozen=True):
    """Newest first."""

    items: tuple[IncidentView, ...]
    next_cursor: str | None


class ActionPage(View, frozen=True):
    """Newest first."""

    items: tuple[ActionView, ...]
    next_cursor: str | None


class BaselinePage(View, frozen=True):
    items: tuple[BaselineView, ...]
    next_cursor: str | None


class ConflictPage(View, frozen=True):
    """Newest first."""

    items: tuple[ConflictView, ...]
    next_cursor: str | None


class HoldPage(View, frozen=True):
    """Newest first."""

    items: tuple[HoldView, ...]
    next_cursor: str | None


class DiffEntryView(View, frozen=True):
    """One path. `chunks` are inclusive index ranges that differ, `bytes` their length.

    A `withheld` path is no difference: only set-uid, set-gid or sticky bits are not written there.
    """

    path: str
    path_b64: str
    change: Literal["modified", "added", "missing", "unreadable", "withheld", "same"]
    aspects: tuple[str, ...]
    chunks: tuple[tuple[int, int], ...]
    bytes: int


class DiffPage(View, frozen=True):
    """In the tree's order: a directory comes before what is in it.

    `total` paths differ in all; `undetermined` ones are left out, `withheld` ones listed and not counted. `stale`
    are nodes of which this is only what they reported last.
    """

    entries: tuple[DiffEntryView, ...]
    next_cursor: str | None
    undetermined: int
    total: int
    stale: tuple[str, ...]
    withheld: int


class TrashItemView(View, frozen=True):
    """`why`: replaced or removed."""

    id: str
    volume: str
    path: str
    path_b64: str
    kind: str
    bytes: int
    trashed_at: str | None
    incident: str | None
    why: str


class TrashPage(View, frozen=True):
    items: tuple[TrashItemView, ...]
    next_cursor: str | None


class RestoredView(View, frozen=True):
    """What came back."""

    node: str
    items: tuple[TrashItemView, ...]


class AcceptedView(View, frozen=True):
    """Ask `/api/v1/actions/{id}` how it goes."""

    action: str


class RotationView(View, frozen=True):
    """Whether a load balancer may send requests to the node."""

    node: str
    in_rotation: bool


class ReloadedView(View, frozen=True):
    reloaded: bool


class DeletedView(View, frozen=True):
    deleted: str


Contradictions = tuple[Mapping[str, Mapping[str, object]], ...]
_TRUE: Final = {"const": True}
_NUMBER: Final = {"type": "integer"}


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of request bodies. `contradictions`: what fields (by name, as JSON Schema) may not say together."""

    contradictions: ClassVar[Contradictions] = ()


class QuarantineBody(Body, frozen=True):
    reason: Annotated[str, Meta(min_length=1, max_length=REASON_MAX)]


class ReleaseBody(Body, frozen=True):
    """A fence is the whole node's: `volume` is only checked to be one of its volumes."""

    volume: Name | None = None
    dry_run: bool = False


class ResyncBody(Body, frozen=True):
    """`volume` absent: all of the node's. `dry_run`: the action's `plan` says what would be done."""

    volume: Name | None = None
    dry_run: bool = False


class BaselineBody(Body, frozen=True):
    """`node` absent: the truth of the moment."""

    name: Name
    volume: Name
    node: Name | None = None


class AllowBody(Body, frozen=True):
    """`seconds` absent: as the volume's guards say."""

    seconds: Annotated[float, Meta(ge=1, le=30 * 86400)] | None = None


class PinBody(Body, frozen=True):
    """`baseline` null unpins."""

    baseline: Name | None


class RestoreBody(Body, frozen=True):
    """Either `to`, an absolute directory on the node outside every volume, or `in_place`."""

    volume: Name
    ids: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...],
        Meta(min_length=1, max_length=RESTORE_MAX),
    ]
    to: Annotated[str, Meta(min_length=1, max_length=4095)] | None = None
    in_place: bool = False


class SpeedBody(Body, frozen=True):
    """`node` absent: the fleet's sum. `bytes_s` null: as the configuration says again. `unlimited`: no limit at all."""

    contradictions: ClassVar[Contradictions] = ({"bytes_s": _NUMBER, "unlimited": _TRUE},)
    node: Name | None = None
    bytes_s: Annotated[int, Meta(ge=LEAST_BYTES_S, le=MOST_BYTES_S)] | None = None
    unlimited: bool = False


class ScrubBody(Body, frozen=True):
    """`node` absent: all nodes. Of `bytes_s`, `unlimited` and `auto` (as the configuration says again) at most one."""

    contradictions: ClassVar[Contradictions] = (
        {"bytes_s": _NUMBER, "unlimited": _TRUE},
        {"bytes_s": _NUMBER, "auto": _TRUE},
        {"unlimited": _TRUE, "auto": _TRUE},
        {"now": _TRUE, "paused": _TRUE},
    )
    node: Name | None = None
    now: bool = False
    paused: bool | None = None
    bytes_s: Annotated[int, Meta(ge=LEAST_BYTES_S, le=MOST_BYTES_S)] | None = None
    unlimited: bool = False
    auto: bool = False


class NoBody(Body, frozen=True):
    """Nothing to say."""
