"""How fast chunks may travel: rules, the weekly schedule and an operator's word, divided among those who fetch."""

from __future__ import annotations

from .model import Refusal, SpeedAsked
from .shapes import SpeedView
from .world import World


def drive(world: World) -> None:
    """Tell nodes of limits that have changed for them."""


def ask(world: World, event: SpeedAsked) -> SpeedView | Refusal:
    return view(world)


def view(world: World) -> SpeedView:
    return SpeedView(None, "no limit is set", ())
