"""Pushing the truth's steps to the nodes of replicated volumes, as they happen."""

from __future__ import annotations

from closeranks_proto import messages as wire

from .nodes import Node
from .world import World


def drive(world: World) -> None:
    """Send what is due: at most one push for each node and volume is under way."""


def answered(world: World, node: Node, result: wire.PushResult) -> None:
    """A node has made of a push what it could."""
