"""Guards: what no sane writer does is held before the truth moves. See `GuardRules` for the numbers."""

from __future__ import annotations

from collections.abc import Mapping

from closeranks_proto import messages as wire

from .model import AllowAsked, Refusal, RejectAsked
from .nodes import Node, Volume
from .shapes import HoldView
from .truth import Values
from .world import World


def may_merge(world: World, volume: Volume, node: Node, own: Mapping[bytes, Values]) -> bool:
    """Whether a writer's own changes (key to (its entry, the truth's)) may become the truth now.

    False while they are held or observed; the core asks again at every step and at what `world.wake` set.
    """
    return True


def active(world: World, node: Node, activity: wire.Activity) -> None:
    """What a node says it is writing, and how full its disks are."""


def answered(world: World, node: Node, answer: wire.HoldAnswer) -> None:
    """What a node did about a Hold."""


def watch(world: World) -> None:
    """Trip and end holds as time goes by; after every event."""


def allow(world: World, event: AllowAsked) -> HoldView | Refusal:
    return Refusal(404, "unknown_hold", f"there is no hold {event.hold!r}")


def reject(world: World, event: RejectAsked) -> HoldView | Refusal:
    return Refusal(404, "unknown_hold", f"there is no hold {event.hold!r}")
