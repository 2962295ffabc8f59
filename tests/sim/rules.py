"""What RULES.md says of names, fences and releases, held against what the core does: told from outside.

`checks` looks at a step for itself; what is here needs to know what was before: how long a difference has lasted, which
release was whose, what a person has rejected.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from closeranks_coordinator.core.incidents import Incident
from closeranks_coordinator.core.model import (
    Event,
    FromAgent,
    QuarantineAsked,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    Send,
    Step,
)
from closeranks_proto import messages as wire

from .disk import content_of
from .invariants import hold
from .oracle import DATED_SLACK_S, HOLD_BACK, Oracle

if TYPE_CHECKING:
    from .fleet import World

ACCUSING = ("divergence", "regression")
ROUNDING_S = 1e-6
LIES_OF_AN_AUDIT = 2  # before anybody is accused of them


@dataclass(frozen=True, slots=True)
class Release:
    """One that the coordinator made by itself."""

    at: float
    token: int


class Rules:
    """Looks at a world after every step, with a memory of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.named: set[str] = set()
        self.fences: dict[str, int] = {}
        self.suspects: frozenset[str] = frozenset()
        # By node: where states were lost, numbers of others are as low.
        self.lifted: set[tuple[str, int]] = set()
        self.releases: defaultdict[str, list[Release]] = defaultdict(list)
        self.own_at: dict[str, float] = {}  # of fenced nodes: when something of their own differed last
        self.proven_at: dict[str, float] = {}  # when a verification was answered last
        self.rejected: dict[str, dict[bytes, str]] = {}  # by hold: contents, to whose they are
        self.undetermined: dict[str, frozenset[bytes]] = {}  # by volume, before the step under way
        self.present: frozenset[str] = frozenset()  # before the step under way
        world.coordinator.after_step.append(self.after_step)

    def restarted(self) -> None:
        """Another process, from what was durable."""
        core = self.world.core
        self.named = set(core.incidents)
        self.fences = {
            name: node.record.fence.token for name, node in core.nodes.items() if node.record.fence
        }
        self.suspects = self.present = frozenset()
        self.undetermined = {}
        self.lifted -= set(self.fences.items())
        for name, token in self.fences.items():
            self.releases[name] = [one for one in self.releases[name] if one.token != token]
        if not core.counters.token:
            self.lifted.clear()  # it has lost its state, and its numbers begin again
            self.releases.clear()
        self.rejected = {
            name: found
            for name, found in self.rejected.items()
            if name in core.holds and core.holds[name].state == "rejected"
        }

    def after_step(self, event: Event, step: Step) -> None:
        if isinstance(event, FromAgent) and isinstance(event.message, wire.VerifyResult):
            self.proven_at[event.node] = self.world.time.now
        self._incidents()
        self._rejects(event)
        self._fences(event)
        self._targets(step)
        self._unclear()
        self.present = self._present()

    def _present(self) -> frozenset[str]:
        """Who is there, and has its tree as far as it says."""
        core = self.world.core
        return frozenset(
            name for name, node in core.nodes.items()
            if node.session is not None and not any(core.untrusted(node, one) for one in core.volumes)
        )  # fmt: skip

    def _unclear(self) -> None:
        """What a quorum of those who vote holds can be judged, and somebody breaks ranks there."""
        if self.world.plan.gathered:
            return  # a root may have come that was not judged yet
        for name, volume in self.world.core.volumes.items():
            oracle = self.world.oracles[name]
            for key in volume.undetermined if self.world.policy == "quorum" and oracle.moves else ():
                holders = [
                    one for one in volume.voters if oracle.values.get(one, {}).get(key) == oracle.truth(key)
                ]
                hold(
                    "undetermined_rightly", len(holders) < volume.need,
                    f"{key!r} is undetermined, and {holders} hold the truth",
                )  # fmt: skip

    # --- names ---------------------------------------------------------------------------------

    def _incidents(self) -> None:
        core = self.world.core
        if len(core.incidents) == len(self.named):
            return
        for incident in core.incidents.values():
            if incident.id in self.named or incident.node is None or incident.volume is None:
                self.named.add(incident.id)
                continue
            self.named.add(incident.id)
            if incident.kind in ACCUSING:
                hold(
                    "named_present", incident.node in self.present | self._present(),
                    f"{incident.node} is named, and is away or without its tree",
                )  # fmt: skip
                self._settled(self.world.oracles[incident.volume], incident, incident.node)
            elif incident.kind == "audit" and len(incident.paths) == 1:
                lies = [key for key in self.world.agents[incident.node].lied if key in incident.paths]
                hold(
                    "audit_is_right", len(lies) >= LIES_OF_AN_AUDIT,
                    f"{incident.node} is accused by an audit of {list(incident.paths)}, and lied {len(lies)} times",
                )  # fmt: skip

    def _settled(self, oracle: Oracle, incident: Incident, node: str) -> None:
        if self.world.plan.gathered:
            return  # several steps of the truth may lie between two looks
        config = self.world.core.volumes[oracle.volume].config
        now = self.world.time.now
        lasted = [self._lasted(oracle, node, key, config.settle_max_s) for key in incident.paths]
        hold(
            "settled", max(lasted, default=0.0) >= config.settle_s - ROUNDING_S,
            f"{node} is named at {now - 1000:.3f} for what has lasted {max(lasted, default=0.0):.3f} s",
        )  # fmt: skip

    def _lasted(self, oracle: Oracle, node: str, key: bytes, most_s: float) -> float:
        """How long a difference has lasted; of what spreads, since one more node came to hold the same."""
        now = self.world.time.now
        since = oracle.differs.get((node, key), now)
        if self.world.policy != "quorum" or now - since >= most_s:
            return now - since
        return now - max(since, oracle.spread_at(node, key))

    # --- what was rejected ---------------------------------------------------------------------

    def _rejects(self, event: Event) -> None:
        core = self.world.core
        if not self.world.plan.writers:
            return  # a majority may hold the same
        if isinstance(event, RejectAsked):
            found = core.holds.get(event.hold)
            if found is not None and event.hold not in self.rejected and core.nodes[found.node].record.fence:
                own: dict[bytes, str] = {}
                for oracle in self.world.oracles.values():
                    own |= dict.fromkeys(oracle.own_contents(found.node), found.node)
                self.rejected[event.hold] = own
        elif isinstance(event, ReleaseAsked):
            for found_own in self.rejected.values():
                for content in [one for one, node in found_own.items() if node == event.node]:
                    del found_own[content]
        for oracle in self.world.oracles.values():
            moved = {content_of(new) for move in oracle.last_moves for _, new in move.changes.values()}
            wrong = [one for own in self.rejected.values() for one in own if one in moved]
            hold(
                "rejected_stays_out", not wrong, f"{len(wrong)} contents that a person rejected are the truth"
            )

    # --- fences --------------------------------------------------------------------------------

    def _fences(self, event: Event) -> None:
        core = self.world.core
        suspects = frozenset(
            name
            for name, node in core.nodes.items()
            if node.record.phase == "suspect" and node.record.fence is None and core.accusing(node)
        )
        fresh: list[str] = []
        for name, node in core.nodes.items():
            fence = node.record.fence
            before = self.fences.get(name)
            if fence is None:
                if before is not None:
                    del self.fences[name]
                    self._released(name, before, event)
                continue
            for oracle in self.world.oracles.values():
                undetermined = core.volumes[oracle.volume].undetermined
                if name in oracle.roots and any(key not in undetermined for key in oracle.own(name)):
                    self.own_at[name] = self.world.time.now
            if before == fence.token:
                continue
            self.fences[name] = fence.token
            if fence.by_hand and not isinstance(event, QuarantineAsked):
                self._came_along(name, fence.token)
                continue
            self._is_heard(name, fence.token)
            if before is not None:
                continue
            self._leaves_enough(name)
            if not isinstance(event, QuarantineAsked | ResyncAsked | RejectAsked):
                fresh.append(name)
                self._repeats(name, fence.release)
        if fresh:
            at_once = len(suspects | set(fresh))
            hold(
                "few_fenced", at_once <= core.config.max_quarantined + 1,
                f"{fresh} were fenced while {at_once} were suspect at once",
            )  # fmt: skip
        self.suspects = suspects

    def _came_along(self, name: str, token: int) -> None:
        """A node has told of a fence that is on no record."""
        if "put_back" not in self.world.plan.faults:  # an image may be of when it was fenced
            hold(
                "lifted_stays",
                (name, token) not in self.lifted,
                f"{name} came with fence {token}, which was lifted",
            )

    def _is_heard(self, name: str, token: int) -> None:
        """Whoever is there would refuse a token below one that it has seen."""
        for other, node in self.world.core.nodes.items():
            seen = self.world.agents[other].kept.highest_token
            hold(
                "token_grows", node.session is None or token > seen or other == name or token >= seen,
                f"{name} is fenced with {token}, and {other} has seen {seen}",
            )  # fmt: skip

    def _leaves_enough(self, name: str) -> None:
        core = self.world.core
        for oracle in self.world.oracles.values():
            volume = core.volumes[oracle.volume]
            left = [one for one in core.members(volume) if not one.fenced]
            if volume.config.replicated:
                hold("few_fenced", left, f"{name} is fenced, and nobody is left")
            if volume.config.policy != "quorum":
                continue
            heard = [one for one in left if not core.unreachable(one)]
            was_heard = not core.unreachable(core.nodes[name])
            hold("few_fenced", len(left) >= volume.need, f"{name} is fenced, and {len(left)} are left")
            lost = was_heard and len(heard) + 1 == volume.need
            hold("few_fenced", not lost, f"{name} is fenced, and {len(heard)} that are heard are left")

    def _repeats(self, name: str, release: str) -> None:
        config = self.world.core.config
        if self.world.plan.faults & {"clock", "operator"}:
            return  # the window goes by the wall; a person's fence ends what was automatic
        recent = [
            one for one in self.releases[name] if self.world.time.now - one.at < config.auto_release_window_s
        ]
        often = len(recent) >= config.auto_release_max
        hold(
            "repeats_wait", not often or release == "by_hand",
            f"{name} was released {len(recent)} times, {config.auto_release_max} may be, and would be again",
        )  # fmt: skip

    # --- releases ------------------------------------------------------------------------------

    def _released(self, name: str, token: int, event: Event) -> None:
        world, now = self.world, self.world.time.now
        self.lifted.add((name, token))
        own_at = self.own_at.pop(name, float("-inf"))
        if isinstance(event, ReleaseAsked) and event.node == name:
            is_there = name in self.present | self._present()
            is_judged = any(one.truth is not None for one in world.core.volumes.values())
            told = f"a person released {name}, which is away or without its tree"
            hold("released_equal", is_there or not is_judged, told)
            for oracle in world.oracles.values():
                self._by_a_person(oracle, name)
            return
        self.releases[name].append(Release(now, token))
        if world.plan.gathered or world.plan.faults & {*HOLD_BACK, "policy"}:
            return
        for oracle in world.oracles.values():
            settle_s = world.core.volumes[oracle.volume].config.settle_s
            quiet = now - own_at >= settle_s - ROUNDING_S
            hold(
                "released_clean",
                quiet,
                f"{name} is released {now - own_at:.3f} s after a difference of its own",
            )
            looked, proven = world.agents[name].looked_at[oracle.volume], self.proven_at.get(name, 0.0)
            hold(
                "released_clean", looked > proven - DATED_SLACK_S,
                f"{name} is released, it was proven at {proven - 1000:.3f} and looked at {looked - 1000:.3f}",
            )  # fmt: skip

    def _by_a_person(self, oracle: Oracle, name: str) -> None:
        """It equals the truth; a writer may be released without, where nobody can give it what it lacks."""
        if name in self.world.plan.writers:
            return
        core = self.world.core
        if core.nodes[name].record.phase == "joining" or not oracle.moves or name not in oracle.roots:
            return
        undetermined = core.volumes[oracle.volume].undetermined
        lacking = [key for key in oracle.lacking(name) if key not in undetermined]
        hold("released_equal", not lacking, f"a person released {name}, and {lacking[:5]} differ")

    # --- targets -------------------------------------------------------------------------------

    def _targets(self, step: Step) -> None:
        """What nobody can judge is left to people.

        A dry run changes nothing, and is planned by what is known when it is asked for, before its step judges.
        """
        core = self.world.core
        for effect in step.effects:
            if not isinstance(effect, Send) or not isinstance(effect.message, wire.Converge):
                continue
            order = effect.message
            volume, root = core.volumes[order.volume], core.nodes[effect.node].volume(order.volume).root
            if not volume.undetermined or root is None or self.world.plan.gathered:
                continue
            unclear = volume.undetermined
            if order.dry_run:
                unclear &= self.undetermined.get(order.volume, frozenset())
            changed = {one.key for one in self.world.tree.diff(root, order.target_root)}
            wrong = sorted(changed & unclear)
            hold(
                "undetermined_stays",
                not wrong,
                f"{effect.node} is to change {wrong[:5]}, which have no majority",
            )
        self.undetermined = {name: volume.undetermined for name, volume in core.volumes.items()}
