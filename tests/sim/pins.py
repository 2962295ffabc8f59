"""Where a pinned baseline rules: what was named as good, when it was named, and that nothing else makes the truth.

Told from what people asked and from the roots that stood then, not from what the core keeps of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from closeranks_coordinator.core.model import BaselineCreateAsked, Event, PinAsked, Refusal, Step

from .invariants import hold

if TYPE_CHECKING:
    from .fleet import World


class Pins:
    """Of a fleet with one volume."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.named: dict[str, bytes] = {}  # baselines by name: the root that was named
        self.pinned: str | None = None
        self.before: dict[
            str, bytes | None
        ] = {}  # roots and, as "", the truth, as they stood before the step

    def restarted(self) -> None:
        """What a crash took back was promised to nobody: the pin that is durable is one that was asked for."""
        self.pinned = self._record()
        self._holds()

    def after_step(self, event: Event, step: Step) -> None:
        if isinstance(event, BaselineCreateAsked) and not isinstance(step.answer, Refusal):
            root = self.before.get(event.node or "")
            assert root is not None, "a baseline was made of nothing"
            self.named.setdefault(event.name, root)
        if isinstance(event, PinAsked) and not isinstance(step.answer, Refusal):
            self.pinned = event.baseline
        self._holds()
        core = self.world.core
        for volume in core.volumes.values():
            self.before = {name: node.volume(volume.name).root for name, node in core.nodes.items()}
            self.before[""] = volume.truth

    def _record(self) -> str | None:
        return next(one.record.pinned for one in self.world.core.volumes.values())

    def _holds(self) -> None:
        if self.world.policy != "baseline":
            return
        pinned = self._record()
        hold(
            "baseline_decides", pinned == self.pinned, f"{pinned} is pinned, and {self.pinned} was asked for"
        )
        wanted = None if self.pinned is None else self.named.get(self.pinned)
        for volume in self.world.core.volumes.values():
            hold(
                "baseline_decides",
                volume.truth in (None, wanted),
                f"the truth is not what was named as {self.pinned}",
            )
