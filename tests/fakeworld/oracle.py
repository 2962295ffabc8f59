"""What must hold after every step, told from outside: by what agents streamed and what the core answers.

The oracle keeps its own history of the truth, path by path, and of how far each node has followed it;
it never asks the judge.
"""

from __future__ import annotations

from closeranks_coordinator.core.model import Event, QuarantineAsked, ResyncAsked, Send, Step
from closeranks_proto import messages as wire

from .world import FakeWorld

ACCUSING = ("divergence", "regression")


class Oracle:
    """Watches a world from its first step on. A broken rule fails the test at once."""

    def __init__(self, world: FakeWorld, keys: list[bytes], volume: str = "photos") -> None:
        self.world = world
        self.keys = keys
        self.volume = volume
        self.truths: dict[bytes, list[bytes | None]] = {key: [] for key in keys}
        self.reached: dict[tuple[str, bytes], int] = {}  # node, key: the newest truth that it has held
        self.tokens: dict[str, int] = {}
        self.token = 0
        self.accused: set[str] = set()
        self._last_truth: str | None = None
        world.after_step.append(self.check)

    def check(self, event: Event, step: Step) -> None:
        self._follow_truth()
        self._order(step)
        self._fences(event)
        for incident in self.world.incidents():
            if incident.id not in self.accused and incident.kind in ACCUSING:
                self.accused.add(incident.id)
                self._accusation(incident.node, [one.path for one in incident.paths])

    def value(self, node: str, key: bytes) -> bytes | None:
        root = self.world.node_roots.get((node, self.volume))
        return None if root is None else self.world.tree.lookup(root, key)

    def _follow_truth(self) -> None:
        world = self.world
        view = world.fleet.volume_view(world.now(), self.volume)
        assert view is not None
        if view.truth_root is None:
            return
        root = bytes.fromhex(view.truth_root)
        for key in self.keys:
            truth, seen = world.tree.lookup(root, key), self.truths[key]
            if not seen or seen[-1] != truth:
                seen.append(truth)
            for node in world.agents:
                if self.value(node, key) == truth:
                    self.reached[(node, key)] = len(seen) - 1

    def _accusation(self, node: str, paths: list[str]) -> None:
        """Only of paths that a quorum holds otherwise, and never of being late."""
        world = self.world
        need = len(world.agents) // 2 + 1
        for path in paths:
            key = path.encode().replace(b"/", b"\0")
            seen = self.truths[key]
            holders = sum(self.value(one, key) == seen[-1] for one in world.agents)
            assert holders >= need, f"{node} is accused of {path} and only {holders} hold the truth"
            mine, reached = self.value(node, key), self.reached.get((node, key))
            late = reached is not None and mine in seen[reached:]
            assert not late, f"{node} is accused of {path} and is only late"

    def _fences(self, event: Event) -> None:
        world = self.world
        fences = {name: world.view(name).quarantine for name in world.fleet.node_names()}
        by_person = isinstance(event, QuarantineAsked | ResyncAsked)
        for name, found in fences.items():
            if found is None:
                self.tokens.pop(name, None)
                continue
            if self.tokens.get(name) == found.fence_token:
                continue
            assert found.fence_token > self.token, "fence tokens grow"
            self.tokens[name], self.token = found.fence_token, found.fence_token
            if not by_person:
                assert sum(one is not None for one in fences.values()) <= world.config.max_quarantined
                accused = [one for one in world.incidents(state="open") if one.node == name]
                assert any(one.kind in ACCUSING for one in accused), f"{name} was fenced without a reason"

    def _order(self, step: Step) -> None:
        sent = [type(effect.message) for effect in step.effects if isinstance(effect, Send)]
        if wire.Fence in sent and wire.Membership in sent:
            last = len(sent) - 1 - sent[::-1].index(wire.Membership)
            assert last < sent.index(wire.Fence), "peers are told before the node"
