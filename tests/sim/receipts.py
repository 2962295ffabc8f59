"""What goes with an event into the core's queue: a node's root, stored in one write with what the core makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .stored import NodeRoot


@dataclass(frozen=True, slots=True)
class Receipt:
    """`name` is (node, volume); `durable` is called when the write has ended."""

    name: tuple[str, str]
    root: NodeRoot
    durable: Callable[[], None]
