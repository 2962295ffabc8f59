"""How fast chunks may come and go: two budgets that the coordinator sets while everything runs."""

from __future__ import annotations

from closeranks_proto import messages as wire


class Speed:
    """The limits in force on this node."""

    def __init__(self) -> None:
        self.limits = wire.Limits(None, None)

    def set(self, limits: wire.Limits) -> None:
        self.limits = limits
