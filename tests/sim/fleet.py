"""One seed's world: a fleet, its people and its faults, from the first scan until it has come back.

Two phases. In the first anything that the plan enables may happen, and nothing that is promised may break. Then the
faults end, and within a bound the fleet must have come back: in rank, with equal trees, and still able to name a
corruption. A world is deterministic: no clock, no thread, no set is iterated unsorted, chance comes from the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from closeranks_coordinator.core import layers, pace
from closeranks_coordinator.core.model import Event, Persist, Send, Step
from closeranks_coordinator.core.world import World as Core
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.errors import MissingObject
from closeranks_proto.tree import Tree
from closeranks_proto.wire import encode_message

from .agent import Agent
from .brake import Brake
from .checks import Checks
from .coordinator import Coordinator
from .disk import DIRECTORY, SHORT_JOURNAL, Copy, Files, Values, content_of, file_of, key_of
from .faults import Faults
from .invariants import Violation, hold
from .obeyed import Obeyed
from .oracle import Oracle
from .people import People
from .rules import Rules
from .stored import Stored
from .swarm import Plan
from .timeline import Timeline
from .wires import COORDINATOR, Network, Wire

FOUND_MAX_S = 60.0
GOAL_MAX_S = 600.0
NAMED_MAX_S = 60.0
STORY_SHOWN = 60
FOREST_FILES = 280
PATIENT = ("recurrence", "duplicate_node", "conflict")  # those that end by a person or by time alone
PACE = (pace.PROMPT_NODES, pace.PAUSE_S_A_NODE)
LAYERS = (layers.LAYER_MIN_KEYS, layers.LAYER_SHARE)
PATHS = (
    "a/one.jpg", "a/two.jpg", "a/deep/three.jpg", "b/four.jpg", "b/five.jpg", "c.txt", "d/e/f", "d/g", "h.bin", "i.bin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a seed ended. `seconds` are simulated."""

    plan: Plan
    seconds: float
    events: int
    steps: int
    digest: str
    deeds: Counter[str]
    accused: int
    fenced: int


class Failed(AssertionError):
    """A seed broke something: the way to play it again, and its story."""

    def __init__(self, world: World, cause: BaseException) -> None:
        name = cause.name if isinstance(cause, Violation) else "no_fault_of_our_own"
        detail = cause.detail if isinstance(cause, Violation) else repr(cause)
        story = "\n".join(list(world.time.story)[-STORY_SHOWN:])
        plan = world.plan
        super().__init__(
            f"{name}: {detail}\nagain: {plan.command()}\n{len(plan.nodes)} nodes, {plan.policy}, "
            f"faults: {' '.join(sorted(plan.faults)) or 'none'}\n{story}"
        )
        self.name = name


class World:
    """Everything of one seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.policy = plan.policy
        self.time = Timeline(plan.seed)
        pace.PROMPT_NODES, pace.PAUSE_S_A_NODE = (0, 0.02) if plan.gathered else PACE
        layers.LAYER_MIN_KEYS, layers.LAYER_SHARE = (1, 1) if plan.seed % 2 else LAYERS
        self.pages: dict[bytes, bytes] = {}
        self.tree = Tree(XXH3_128, self._page, cache_pages=256)
        self.pages.update(self.tree.empty.pages)
        self.network = Network(self.time, "jitter" in plan.faults, plan.slow)
        self.sessions_made = 0
        self.identities = 0
        self.sent_token = 0
        self.calm = False
        self.deeds: Counter[str] = Counter()
        self.authors: dict[bytes, str] = {}  # contents that rogues wrote where nobody may write: whose
        self.decayed: dict[bytes, bytes] = {}  # contents that nobody wrote, to those of before
        self.lost = False  # whether the coordinator has ever begun with nothing
        self.restored: set[bytes] = set()  # contents that machines were put back to, with all that they knew
        self.replaced_in_truth: set[bytes] = set()
        start = {key_of(path): file_of(path, 100) for path in PATHS}
        start |= {key_of(path): DIRECTORY for path in ("a", "a/deep", "b", "d", "d/e")}
        for number in range(FOREST_FILES if plan.forest else 0):
            start[key_of(f"m{number % 7}")] = DIRECTORY
            start[key_of(f"m{number % 7}/{number:03d}")] = file_of(f"tree {number}", 10)
        self.agents: dict[str, Agent] = {}
        for name in plan.nodes:
            copies = {one.name: self.copy(one.name, start) for one in plan.config.volumes}
            self.agents[name] = Agent(self, name, copies, name in plan.watching)
        self.coordinator = Coordinator(self, plan.config)
        self.oracles = {one.name: Oracle(self, one.name) for one in plan.config.volumes}
        self.checks = Checks(self)
        self.rules = Rules(self)
        self.obeyed = Obeyed(self)
        self.brake = Brake(self)
        self.people = People(self, start)
        self.faults = Faults(self)

    def _page(self, digest: bytes) -> bytes:
        found = self.pages.get(digest)
        if found is None:
            raise MissingObject(digest)
        return found

    def copy(self, volume: str, files: Files) -> Copy:
        made = Copy(volume, self.tree, self.pages, dict(files))
        if "short_journal" in self.plan.faults:
            made.journal_max = SHORT_JOURNAL
        return made

    @property
    def core(self) -> Core:
        return self.coordinator.fleet._world

    # --- what the parts tell -------------------------------------------------------------------

    def trace(self, event: Event, step: Step) -> None:
        """What makes two runs alike: every event and every effect of the core."""
        self.time.mark(f"{self.coordinator.now().wall_ms} {event!r}")
        for effect in step.effects:
            if isinstance(effect, Persist):
                self.pages.update(effect.objects)
            elif isinstance(effect, Send):
                self.time.mark(repr(effect))
        if step.answer is not None:
            self.time.mark(repr(step.answer))

    def start_coordinator(self) -> None:
        self.coordinator.start()
        for oracle in self.oracles.values():
            oracle.restarted()
        self.checks.restarted()
        self.rules.restarted()
        self.obeyed.restarted()
        self.brake.restarted()

    def lose_coordinator(self) -> None:
        """Nothing is left of what it stored; people put it up again with the same configuration."""
        self.lost = True
        self.coordinator.stored = Stored()
        self.coordinator.acked.clear()
        self.sent_token = 0

    def claim(self, agent: Agent) -> None:
        """A second machine with the name of this one dials."""
        self.identities += 1
        link = Wire(self.network, agent.name)
        link.takes[agent.name], link.ended[agent.name] = (lambda _: None), (lambda: None)
        if not self.coordinator.up:
            link.cut()
            return
        self.coordinator.accept(link)
        volumes = tuple(wire.VolumeHello(name, None, 0, 1, None) for name in sorted(agent.copies))
        hello = wire.Hello(
            wire.PROTOCOL, wire.PROTOCOL, "model", agent.name, f"second-{self.identities}", ("xxh3-128",), "x:1", 0,
            None, volumes,
        )  # fmt: skip
        link.send(COORDINATOR, encode_message(hello))
        self.time.later(4.0, lambda: link.drop(agent.name))

    def taken_over(self, content: bytes) -> None:
        """Somebody has moved a file, or changed its attributes, or said that it stands: what it holds is meant."""
        if content in self.decayed:
            self.authors.pop(content, None)

    def damaged(self, agent: Agent, copy: Copy, before: Files, keys: list[bytes]) -> None:
        """The power went: what is there now is what somebody wrote.

        Also what had decayed and was written over, where that write was taken back: by its stat it is another file.
        """
        for key, value in copy.disk.items():
            self.oracles[copy.volume].rewritten(key, value)
            if before.get(key) != value:
                self.taken_over(content_of(value))
        if keys:
            self.time.tell(f"{agent.name}: {len(keys)} files are torn")

    def fetched(self, agent: Agent, peer: Agent, content: bytes) -> None:
        """A chunk travels."""
        member = agent.kept.members.get(peer.name)
        hold(
            "fence_isolates",
            member is None or not member.fenced,
            f"{agent.name} took from {peer.name}, which is fenced",
        )
        self.time.mark(content)

    def push_ended(self, agent: Agent, push: wire.Push) -> None:
        self.oracles[push.volume].pushes.pop((agent.name, push.push), None)

    def repair_ended(self, agent: Agent, order: wire.Converge) -> None:
        """It brings nothing any more."""
        oracle = self.oracles[order.volume]
        oracle.repairs = [one for one in oracle.repairs if one != (agent.name, order)]

    def orders_lost(self, agent: Agent) -> None:
        """What was on its way to this agent is lost with its connection; what it has in hand goes on."""
        for volume, oracle in self.oracles.items():
            under_way = agent.orders.under_way
            oracle.repairs = [
                (name, order) for name, order in oracle.repairs if name != agent.name or order in under_way
            ]
            kept = {one.push.push for one in agent.orders.pushes[volume]}
            for name, number in list(oracle.pushes):
                if name == agent.name and number not in kept:
                    del oracle.pushes[name, number]

    def takes(self, agent: Agent, order: wire.Converge | wire.Push, key: bytes, before: bytes | None) -> None:
        """A path is about to be changed by us."""
        content = content_of(before)
        if content and isinstance(order, wire.Converge) and order.mode == "lag":
            told = self.oracles[order.volume].held.get((agent.name, key), ())
            hold(
                "unheard_stays", content in told, f"{agent.name} loses its {key!r}, which it has not told of"
            )

    def brought(
        self, agent: Agent, copy: Copy, key: bytes, before: bytes | None, value: bytes | None
    ) -> None:
        """A converge or a push has changed a path."""
        hold(
            "trash_keeps",
            before is None or (key, before) in copy.trash[-2:],
            f"{agent.name} {key!r} is in no trash",
        )
        content, gone = content_of(value), content_of(before)
        if gone and gone != content:
            kept = any(content_of(old) == gone for _, old in copy.trash)
            hold("last_copy", kept, f"the last copy of {key!r} was removed on {agent.name}")
        if content:
            author = self.authors.get(content)
            oracle = self.oracles[copy.volume]
            if self.decayed.get(content, b"") not in (oracle.ever - oracle.undone) | {b""}:
                author = None  # nobody else has ever had other bytes: what is left of a writer's change is its change
            told = f"{agent.name} got {key!r}, which a rogue on {author} wrote"
            hold("rogue_isolated", author in (None, agent.name), told)
            dead = (key, content) in oracle.dead
            hold("deleted_stays", not dead, f"{key!r} came back on {agent.name}")

    def reached(self, agent: Agent, copy: Copy, root: bytes, left: list[bytes]) -> None:
        """An agent is about to say that it has reached a root, but for what it was told to leave."""
        wanted = dict(self.tree.walk(root))
        wrong = sorted(
            key for key in wanted.keys() | copy.rows.keys() if wanted.get(key) != copy.rows.get(key)
        )
        wrong = [key for key in wrong if key not in left]
        hold("target_reached", not wrong, f"{agent.name} says done, and {wrong[:5]} differ")

    # --- the play ------------------------------------------------------------------------------

    def play(self) -> Outcome:
        """Both phases. Raises Failed."""
        try:
            self._play()
        except Exception as error:
            raise Failed(self, error) from error
        accused = sum(one.kind in ("divergence", "regression") for one in self.core.incidents.values())
        return Outcome(
            self.plan, self.time.now - 1000.0, self.time.events, self.coordinator.steps, self.time.digest, self.deeds,
            accused, self.core.counters.token,
        )  # fmt: skip

    def _play(self) -> None:
        self.start_coordinator()
        for name, agent in self.agents.items():
            if name not in self.plan.late:
                agent.start()
        self.time.run(5.0)
        self.people.begin()
        self.faults.begin()
        self.time.run(self.plan.safety_s)
        self._calm_down()
        self._come_back("the faults have ended")
        self.people.accepted_stays()
        canary = self.people.corrupt()
        if canary is not None:
            restless = random.Random(f"{self.plan.seed}/canary").random() < 0.5
            if restless:
                self.people.rewrite(*canary)
            self._named(*canary)
            self.people.rest()
            self._come_back("a corruption was named")
        self.checks.same_after_restart()

    def _calm_down(self) -> None:
        self.time.tell("the faults end")
        self.calm = True
        self.faults.end()
        self.people.end()

    def _come_back(self, why: str) -> None:
        """Until the goal, with people who do what the screen says."""
        started = self.time.now
        while self.time.now < started + GOAL_MAX_S:
            self.time.run(2.0)
            self.people.attend(self.time.now - started)
            if self.is_goal():
                self.time.tell(f"all is well {self.time.now - started:.0f} s after {why}")
                return
        hold("comes_back", False, f"{GOAL_MAX_S:.0f} s after {why}: {self.stands()}")

    def is_goal(self) -> bool:
        """In rank, with equal trees by a comparison of their entries, and nothing left open."""
        if not self.coordinator.up or not self.coordinator.fleet.fleet_view(self.coordinator.now()).in_rank:
            return False
        if any(one.is_open and one.kind not in PATIENT for one in self.core.incidents.values()):
            return False
        for volume, oracle in self.oracles.items():
            if not oracle.moves:
                return False
            wanted: Values = dict(self.tree.walk(oracle.moves[-1].root))
            if any(agent.copies[volume].disk != wanted for agent in self.agents.values()):
                return False
        return True

    def _named(self, node: str, key: bytes) -> None:
        def is_named() -> bool:
            return any(
                one.node == node
                and one.kind in ("divergence", "regression")
                and one.is_open
                and key in one.paths
                for one in self.core.incidents.values()
            )

        self.time.tell(f"{node}: {key!r} is corrupted")
        hold(
            "named_in_time",
            self.time.run(NAMED_MAX_S, is_named),
            f"{node} {key!r} is not named: {self.stands()}",
        )

    def stands(self) -> str:
        """Where everybody is, for a failure."""
        core = self.core
        told = [
            f"{name} {node.record.phase}{' fenced' if node.record.fence else ''}{'' if node.session else ' away'}"
            f" {[(view.differing, view.behind) for view in node.views.values()]}"
            for name, node in core.nodes.items()
        ]
        opened = [f"{one.id} {one.kind} {one.node}" for one in core.incidents.values() if one.is_open]
        holds = [(one.id, one.guard, one.state) for one in core.live_holds]
        return f"{'; '.join(told)}; open: {opened}; holds: {holds}"

    def spread(self, volume: str) -> Iterator[tuple[str, Copy]]:
        for name, agent in self.agents.items():
            yield name, agent.copies[volume]
