"""Whose hand: who wrote what on which node, as agents tell it; bounded, and shown with everything that is told."""

from __future__ import annotations

from .model import RootStored
from .nodes import Node
from .world import World


def note(world: World, node: Node, event: RootStored) -> None:
    """Remember the hands of a step."""
