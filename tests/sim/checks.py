"""The invariants as they are checked: after every step of the core, and at what agents do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.history import HISTORY_MAX_ROOTS
from closeranks_coordinator.core.model import (
    Event,
    QuarantineAsked,
    Refusal,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    Send,
    Step,
)
from closeranks_coordinator.core.nodes import View
from closeranks_coordinator.core.truth import MEMO_MAX_KEYS, MEMO_MAX_PAIRS
from closeranks_coordinator.core.world import ACTIONS_MAX, INCIDENTS_MAX
from closeranks_coordinator.core.world import World as Core
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128

from .disk import JOURNAL_MAX
from .invariants import hold
from .obeyed import held_in
from .pins import Pins

if TYPE_CHECKING:
    from .fleet import World

DIVERGED = ("divergence", "regression")
ACCUSING = (*DIVERGED, "audit")
SOMETIMES = 150  # steps between two looks at what costs much
LAG_SLACK_S = 1.5


class Checks:
    """Looks at a world after every step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: set[str] = set()  # incidents
        self.fences: dict[str, int] = {}
        self.token = 0
        self.pins = Pins(world)
        world.coordinator.after_step.append(self.after_step)

    def restarted(self) -> None:
        """The coordinator has begun anew from what was durable."""
        core = self.world.core
        self.known &= set(core.incidents)
        self.fences = {
            name: node.record.fence.token for name, node in core.nodes.items() if node.record.fence
        }
        self.token = core.counters.token
        hold(
            "token_grows", self.token >= self.world.sent_token,
            f"after a restart tokens go on from {self.token}, {self.world.sent_token} was sent",
        )  # fmt: skip
        self.pins.restarted()
        self._acknowledged(deep=True)

    def after_step(self, event: Event, step: Step) -> None:
        world = self.world
        world.trace(event, step)
        for oracle in world.oracles.values():
            if isinstance(event, ReleaseAsked) and not isinstance(step.answer, Refusal):
                oracle.learned(event.node)
            oracle.follow(step.judged_first)
        self.pins.after_step(event, step)
        self._accusations()
        self._fences(event)
        self._sends(event, step)
        if world.coordinator.steps % SOMETIMES == 0:
            self._bounds()
            self._acknowledged(deep=False)
            self._replays()
            self._lag()
            self._conflicts()

    # --- verdicts ------------------------------------------------------------------------------

    def _accusations(self) -> None:
        core = self.world.core
        if len(core.incidents) == len(self.known):
            return
        for incident in core.incidents.values():
            if incident.id in self.known:
                continue
            self.known.add(incident.id)
            self.world.time.tell(f"{incident.id} {incident.kind} {incident.node or '-'}")
            if incident.kind in DIVERGED and incident.node is not None and incident.volume is not None:
                oracle = self.world.oracles[incident.volume]
                oracle.accused(incident.node, list(incident.paths), incident.kind == "regression")
                if self.world.policy in ("writers", "any-writer"):
                    hold(
                        "no_false_accusation", incident.node not in self.world.plan.writers,
                        f"the writer {incident.node} is accused",
                    )  # fmt: skip

    def _fences(self, event: Event) -> None:
        core = self.world.core
        config = core.config  # what it was told last: what people have set since may still be queued
        by_person = isinstance(event, QuarantineAsked | ResyncAsked | RejectAsked)
        for name, node in core.nodes.items():
            fence = node.record.fence
            if fence is None:
                if self.fences.pop(name, None) is not None:
                    self._released(name, event)
                continue
            if self.fences.get(name) == fence.token:
                continue
            was, self.fences[name] = self.fences.get(name), fence.token
            if fence.by_hand and not isinstance(event, QuarantineAsked):
                continue  # one that the node brought along
            hold(
                "token_grows",
                fence.token > self.token or was is not None,
                f"{name} has {fence.token} after {self.token}",
            )
            if by_person or fence.by_hand or was is not None:
                continue
            self.world.time.tell(f"{name} is fenced, token {fence.token}")
            ours = sum(one.record.fence is not None for one in core.nodes.values())
            hold(
                "few_fenced",
                ours <= config.max_quarantined,
                f"{ours} are fenced, {config.max_quarantined} may be",
            )
            left = len(core.nodes) - ours
            need = len(core.nodes) // 2 + 1
            hold(
                "few_fenced",
                self.world.policy != "quorum" or left >= need,
                f"{left} of {need} are left for a quorum",
            )
            accused = [
                one
                for one in core.incidents.values()
                if one.is_open and one.node == name and one.kind in ACCUSING
            ]
            hold("fenced_for_a_reason", accused, f"{name} was fenced and nothing accuses it")
        hold(
            "token_grows",
            core.counters.token >= self.token,
            f"tokens go on from {core.counters.token}, {self.token} was given",
        )
        self.token = core.counters.token

    def _released(self, name: str, event: Event) -> None:
        self.world.time.tell(f"{name} is released")
        by_person = isinstance(event, ReleaseAsked) and event.node == name
        if by_person or self.world.core.nodes[name].record.phase == "joining":
            return  # a person said so, or it is brought to the truth before anything is taken from it
        for oracle in self.world.oracles.values():
            if name in oracle.roots and self.world.policy == "quorum":
                core = self.world.core
                undetermined = core.volumes[oracle.volume].undetermined
                own = [key for key in oracle.own(name, judged=True) if key not in undetermined]
                hold("released_clean", not own, f"{name} is released and {own} are its own")
                open_yet = [key for key in oracle.lacking(name, judged=True) if key in undetermined]
                hold(
                    "released_clean", not open_yet, f"{name} is released and nobody can judge its {open_yet}"
                )

    def _sends(self, event: Event, step: Step) -> None:
        core = self.world.core
        # What came before a person's request may have been judged in its step: all that was sent before its fence.
        asked = event.node if step.judged_first and isinstance(event, QuarantineAsked) else None
        fenced_now = False
        held_there = held_in(core)
        sends = [effect for effect in step.effects if isinstance(effect, Send)]
        kinds = [type(one.message) for one in sends]
        if wire.Fence in kinds and wire.Membership in kinds:
            last = len(kinds) - 1 - kinds[::-1].index(wire.Membership)
            hold(
                "membership_first",
                last < kinds.index(wire.Fence),
                "a node was told of its fence before its peers",
            )
        for one in sends:
            message = one.message
            fenced_now |= one.node == asked and isinstance(message, wire.Fence)
            before = None if fenced_now else asked
            if isinstance(message, wire.Converge) and message.dry_run:
                continue  # it fetches nothing
            if isinstance(message, wire.Converge | wire.Push):
                for source in message.sources:
                    fenced = core.nodes[source].record.fence is not None and source != before
                    held = {(source, message.volume), (source, "")} & held_there
                    hold(
                        "fence_isolates",
                        not fenced and not held,
                        f"{one.node} is sent to {source}, which is fenced or held",
                    )
            if isinstance(message, wire.Converge):
                self.world.oracles[message.volume].ordered(one.node, message)
            if isinstance(message, wire.Push):
                self.world.oracles[message.volume].pushed(one.node, message)
                fenced = core.nodes[one.node].record.fence is not None and one.node != before
                hold("fence_isolates", not fenced, f"{one.node} is fenced and pushed to")

    # --- what costs more -----------------------------------------------------------------------

    def _bounds(self) -> None:
        core, coordinator = self.world.core, self.world.coordinator
        for what, count, most in (
            ("incidents", len(core.incidents), INCIDENTS_MAX + len(core.nodes)),
            ("actions", len(core.actions), ACTIONS_MAX + len(core.nodes)),
            ("effects that wait", len(core.effects), 0),
            ("objects that are not durable", len(coordinator.unsaved), 10_000),
            ("differences remembered", len(core.differ._memo), MEMO_MAX_PAIRS),
            ("keys remembered", core.differ._keys, MEMO_MAX_KEYS + 10_000),
        ):
            hold("bounded", count <= most, f"{count} {what}, at most {most}")
        for volume in core.volumes.values():
            hold(
                "bounded",
                len(volume.history.roots) <= HISTORY_MAX_ROOTS + 1,
                f"{len(volume.history.roots)} roots",
            )
        for agent in self.world.agents.values():
            for copy in agent.copies.values():
                hold(
                    "bounded",
                    len(copy.journal) <= JOURNAL_MAX + 1,
                    f"{agent.name} has {len(copy.journal)} records",
                )

    def _acknowledged(self, deep: bool) -> None:
        stored = self.world.coordinator.stored
        for (node, volume), (agent, seq) in self.world.coordinator.acked.items():
            owner, have, root = stored.roots.get((node, volume), ("", 0, None))
            if owner != agent:
                continue  # another identity has its place
            hold("acknowledged_survives", have >= seq, f"{node} was told that {seq} is durable, {have} is")
            if deep and root is not None:
                for digest, _ in stored.tree.pages(root, lambda _: False):
                    hold("acknowledged_survives", digest in stored.objects, f"a page of {node} is not stored")

    def _replays(self) -> None:
        coordinator = self.world.coordinator
        if not coordinator.deciding or len(coordinator.stored.queued) == 0:
            for agent in self.world.agents.values():
                for copy in agent.copies.values():
                    led = copy.replayed()
                    hold(
                        "journal_replays", led in (None, copy.root), f"{agent.name}'s journal leads elsewhere"
                    )

    def same_after_restart(self) -> None:
        """A new core from what is durable knows what this one knows. Only while nothing waits for the disk."""
        coordinator = self.world.coordinator
        if not coordinator.up or coordinator.deciding or coordinator.stored.queued or coordinator.unsaved:
            return
        if coordinator.fleet_unjudged:
            return  # a root that was not judged yet is known to this one only, and was not acknowledged
        other = Fleet(
            coordinator.config,
            XXH3_128,
            coordinator.page,
            coordinator.stored.rows(),
            coordinator.now(),
            random.Random(0),
        )
        mine, theirs = durable(coordinator.fleet), durable(other)
        wrong = [name for name in mine if mine[name] != theirs[name]]
        detail = "; ".join(f"{name}: {mine[name]} was {theirs[name]}" for name in wrong)
        hold("journal_replays", not wrong, f"otherwise after a restart: {detail[:2000]}")

    def _lag(self) -> None:
        """Where closeranks carries the writes: what is shown as lag, held against the truth's own steps."""
        if self.world.policy not in ("writers", "any-writer"):
            return
        core, now = self.world.core, self.world.time.now
        for name, node in core.nodes.items():
            for oracle in self.world.oracles.values():
                view = node.views.get(oracle.volume)
                if view is None or view.analysis is None or view.lag_since is None or node.session is None:
                    continue
                oldest = oracle.oldest_lacking(name)
                if (
                    oldest is not None
                    and view.analysis.truth == oracle.moves[-1].root
                    and view.analysis.root == oracle.roots[name]  # in a large fleet what follows is gathered
                    and _is_remembered(core, view)
                ):
                    hold(
                        "lag_is_true", view.lag_since >= oldest - LAG_SLACK_S,
                        f"{name} is said to be {now - view.lag_since:.1f} s behind, it is {now - oldest:.1f} s",
                    )  # fmt: skip

    def _conflicts(self) -> None:
        """Whoever removes or renames the second version has decided: nobody is asked to decide again."""
        core = self.world.core
        for record in core.conflicts.values():
            truth = core.volumes[record.volume].truth
            if record.is_open and record.kept is not None and truth is not None:
                there = core.tree.lookup(truth, record.kept) is not None
                hold(
                    "conflicts_end", there, f"a conflict is open, and {record.kept!r} is in the truth no more"
                )


def _is_remembered(core: Core, view: View) -> bool:
    """Whether the step that the lag goes back to is one that the history still has."""
    history = next(iter(core.volumes.values())).history
    return bool(view.late.steps) and history.changed(view.late.steps[0][0]) is not None


def durable(fleet: Fleet) -> dict[str, object]:
    """What of a core's knowledge survives a restart."""
    core = fleet._world
    records = {name: node.record for name, node in core.nodes.items()}
    return {
        "nodes": {name: (one.phase, one.fence, one.unfence, one.recovery) for name, one in records.items()},
        "truths": {name: one.truth for name, one in core.volumes.items()},
        "held": {
            name: {volume: (kept.root, kept.held) for volume, kept in one.volumes.items() if kept.root}
            for name, one in records.items()
        },
        "incidents": [
            (one.id, one.kind, one.node, one.is_open, one.path_count, len(one.timeline))
            for one in core.incidents.values()
        ],
        "holds": [(one.id, one.state, one.node) for one in core.holds.values()],
        "baselines": sorted(core.baselines),
        "counters": core.counters,
    }
