"""What the guards of shares promise, told from the truth's own steps: more than its share by one writer waits.

And nobody is held for more files than it has changed and left there: what it has removed since counts as removed alone.

A lower bound of what a writer took, held against an upper bound of what it may: files that it brought itself count as
neither, what lies elsewhere was moved, and whatever begins the guard's count anew begins it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from closeranks_coordinator.core.model import Event, Step

from .disk import content_of
from .invariants import hold

if TYPE_CHECKING:
    from .fleet import World
    from .oracle import Oracle


class Brake:
    """Looks at a world after every step, with a memory of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: set[str] = (
            set()
        )  # writers about which a person was asked: what was allowed is not counted
        # By writer and volume: paths that it has changed or made, and not removed since.
        self.touched: dict[tuple[str, str], set[bytes]] = {}
        self.looked: set[str] = set()  # holds
        self.restarted()
        world.coordinator.after_step.append(self.after_step)

    def restarted(self) -> None:
        """What was counted is forgotten."""
        self.made: dict[str, set[bytes]] = {}  # by writer: contents that it brought
        self.taken: dict[str, set[bytes]] = {}  # by writer: contents of others that it removed
        self.most: dict[str, int] = {}  # by writer: the most entries that there were without its own

    def after_step(self, event: Event, step: Step) -> None:
        core = self.world.core
        if self.world.policy not in ("writers", "any-writer") or "policy" in self.world.plan.faults:
            return
        self.asked |= {one.node for one in core.holds.values()}
        for oracle in self.world.oracles.values():
            if oracle.last_moves:
                self._follow(oracle)
        self._look()

    def _look(self) -> None:
        """Whether those that were held in this step have changed as many paths as their holds say."""
        core = self.world.core
        for place, meter in core.brake.meters.items():
            touched = self.touched.setdefault(place, set())
            touched |= {key for key, (value, _) in meter.passed.items() if value is not None}
            for key, change in meter.pending.items():
                if change[0] is None:
                    touched.discard(key)
                else:
                    touched.add(key)
        for hold_id in [one for one in core.holds if one not in self.looked]:
            self.looked.add(hold_id)
            found = core.holds[hold_id]
            if found.guard in ("changed_share", "type_changes"):
                count = len(self.touched.get((found.node, found.volume or ""), ()))
                hold("held_rightly", found.paths <= count, f"{found.reason}: it has changed {count}")

    def _follow(self, oracle: Oracle) -> None:
        volume = self.world.core.volumes[oracle.volume]
        rules = volume.config.guards
        if oracle.last_moves[0].founding or not rules.enabled:
            self.restarted()
            return
        for move in oracle.last_moves:
            author = volume.record.authors.get(move.order, "")
            made = self.made.setdefault(author, set())
            taken = self.taken.setdefault(author, set())
            touched = self.touched.setdefault((author, oracle.volume), set())
            touched |= {key for key, (_, new) in move.changes.items() if new is not None}
            for old, new in move.changes.values():
                content = content_of(old)
                if new is None and content and content not in made:
                    taken.add(content)
                made |= {content_of(new)} - {b""}
        there = [content_of(value) for value in oracle.tree_values()]
        for author in [one for one in self.world.plan.writers if one not in self.asked]:
            taken = self.taken.get(author, set())
            taken.difference_update(there)
            others = sum(one not in self.made.get(author, set()) for one in there)
            self.most[author] = max(self.most.get(author, 0), others + len(taken))
            limit = max(rules.share_min_paths, rules.deleted_share * self.most[author])
            hold(
                "share_held", len(taken) <= limit,
                f"{author} removed {len(taken)} of at most {self.most[author]}, and no guard held it",
            )  # fmt: skip
