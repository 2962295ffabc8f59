"""What the configuration and people have said, held against what the core does of its own accord.

RULES 1.6, 1.7 and 1.10 say what may happen without anybody's order. Whether a guard holds a node is read from the
records of holds here, never from what the core has made of them: an index of its own can be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from closeranks_coordinator.core.model import (
    Connected,
    Event,
    QuarantineAsked,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    Send,
    Step,
)
from closeranks_coordinator.core.nodes import Node
from closeranks_coordinator.core.records import HoldRecord, RecoveryRecord
from closeranks_coordinator.core.world import World as Core
from closeranks_proto import messages as wire

from .invariants import hold

if TYPE_CHECKING:
    from .fleet import World

Places = frozenset[tuple[str, str]]  # (node, volume); "" is all of the node


def held_in(core: Core) -> Places:
    """Where a guard holds a node's changes."""
    return _places(core.holds.values())


def muted_in(core: Core) -> Places:
    """Where it has taken the node's vote."""
    return _places(one for one in core.holds.values() if not one.keeps_vote)


def _places(holds: Iterable[HoldRecord]) -> Places:
    stand = [one for one in holds if one.state == "held" and one.ended_ms is None]
    return frozenset((one.node, name) for one in stand for name in one.names or ("",))


@dataclass(frozen=True, slots=True)
class Fenced:
    """A fence as it was after the last step: what may become of it by itself."""

    token: int
    waits: bool  # for a person


class Obeyed:
    """Looks at a world after every step, with a memory of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fences: dict[str, Fenced] = {}
        self.works: dict[str, str] = {}  # by node: the action of its recovery
        world.coordinator.after_step.append(self.after_step)

    def restarted(self) -> None:
        """Another process, from what was durable."""
        nodes = self.world.core.nodes
        self.fences = {name: found for name, node in nodes.items() if (found := _fenced(node))}
        self.works = {
            name: node.record.recovery.action for name, node in nodes.items() if node.record.recovery
        }

    def after_step(self, event: Event, step: Step) -> None:
        asked = self._asked(event)
        for name, node in self.world.core.nodes.items():
            before, after = self.fences.get(name), _fenced(node)
            if before != after:
                self._fence(node, before, asked == name)
            self._work(node, asked == name, step)
            if after is None:
                self.fences.pop(name, None)
            else:
                self.fences[name] = after
        if isinstance(event, Connected):
            self._told(event, step)

    def _asked(self, event: Event) -> str | None:
        """The node of which a person has asked something that fences, repairs or releases."""
        match event:
            case QuarantineAsked() | ReleaseAsked() | ResyncAsked():
                return event.node
            case RejectAsked():
                found = self.world.core.holds.get(event.hold)
                return None if found is None else found.node
            case _:
                return None

    # --- fences --------------------------------------------------------------------------------

    def _fence(self, node: Node, before: Fenced | None, asked: bool) -> None:
        core, fence = self.world.core, node.record.fence
        if fence is None:
            waited = before is not None and before.waits
            hold(
                "person_releases",
                asked or not waited,
                f"{node.name} waited for a person and is released by itself",
            )
            return
        doubted = any(one.kind == "audit" for one in core.accusing(node))
        hold(
            "person_releases", fence.release == "by_hand" or not doubted,
            f"{node.name} has failed an audit, and its own word is to release it",
        )  # fmt: skip
        work = node.record.recovery
        hold(
            "policy_obeyed", work is None or work.purpose == "divergence",
            f"{node.name} is fenced, and what was begun before goes on",
        )  # fmt: skip
        if before is not None or asked or fence.by_hand:
            return
        said = {
            volume.config.on_divergence
            for volume in core.volumes_of(node)
            if core.accusing(node, volume.name)
        }
        hold("policy_obeyed", said != {"alert"}, f"{node.name} was fenced, and people want to be told alone")
        hold(
            "policy_obeyed", said != {"quarantine"} or fence.release == "by_hand",
            f"{node.name} was fenced for a person to look at, and is to be released by itself",
        )  # fmt: skip

    # --- repairs -------------------------------------------------------------------------------

    def _work(self, node: Node, asked: bool, step: Step) -> None:
        work, before = node.record.recovery, self.works.get(node.name)
        if before is not None and (work is None or work.action != before):
            del self.works[node.name]
            self._ended(node, before, step)
        if work is not None and work.action != before:
            self.works[node.name] = work.action
            if not asked:
                self._begun(node, work)

    def _ended(self, node: Node, action: str, step: Step) -> None:
        """What was given up must not go on: the node may be fenced, held or another's by now."""
        found = self.world.core.actions.get(action)
        given_up = found is not None and found.state == "failed" and node.session is not None
        told = any(isinstance(one, Send) and one.message == wire.Cancel(action) for one in step.effects)
        hold("cancelled", told or not given_up, f"{node.name} is not told that {action} is given up")

    def _begun(self, node: Node, work: RecoveryRecord) -> None:
        core, fence = self.world.core, node.record.fence
        configs = [core.volumes[name].config for name in work.volumes]
        if work.purpose != "divergence":
            waits = [one.name for one in configs if one.on_lag == "wait"]
            hold("policy_obeyed", not waits, f"{node.name} is brought on, and on_lag says that it waits")
            return
        assert fence is not None, "a divergence is repaired behind a fence"
        hold("policy_obeyed", not fence.by_hand, f"{node.name} was fenced by hand, and is repaired unasked")
        repairs = fence.release == "automatic" or any(one.on_divergence == "resync" for one in configs)
        hold("policy_obeyed", repairs, f"{node.name} is repaired unasked, and on_divergence does not say so")

    # --- who dials -----------------------------------------------------------------------------

    def _told(self, event: Connected, step: Step) -> None:
        """Its process may be another one, or an elder state of it: it is told what stands."""
        core, node = self.world.core, self.world.core.nodes[event.node]
        told = [one.message for one in step.effects if isinstance(one, Send) and one.node == event.node]
        holds = {one.hold for one in told if isinstance(one, wire.Hold)}
        untold = [
            one.id for one in core.holds.values()
            if one.node == event.node and one.state == "held" and one.ended_ms is None and one.id not in holds
        ]  # fmt: skip
        hold("told_again", not untold, f"{event.node} has dialled and does not hear of {untold}")
        fence = node.record.fence
        known = fence is None or (event.fence is not None and event.fence.token >= fence.token)
        tokens = [one.token for one in told if isinstance(one, wire.Fence)]
        hold(
            "told_again", known or (fence is not None and fence.token in tokens),
            f"{event.node} has dialled and does not hear of its fence",
        )  # fmt: skip


def _fenced(node: Node) -> Fenced | None:
    fence = node.record.fence
    return None if fence is None else Fenced(fence.token, fence.by_hand or fence.release == "by_hand")
