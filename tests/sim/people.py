"""Those around the fleet: the site's own copying, the writers, the rogues, and the operators.

What the site or a writer does is meant; what a rogue does is not. Every content is new, so that whatever turns up
where it should not tells whose it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from closeranks_coordinator.core.model import (
    AllowAsked,
    BaselineCreateAsked,
    BaselineDeleteAsked,
    PinAsked,
    QuarantineAsked,
    Refusal,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
)
from closeranks_proto.entries import decode_entry, encode_entry

from .coordinator import without_faults
from .disk import DIRECTORY, WIDTH, Copy, Files, content_of, file_of, is_directory, key_of
from .invariants import hold
from .swarm import reconfigured

if TYPE_CHECKING:
    from .agent import Agent
    from .fleet import World

VOLUME = "photos"
PLACES = (
    "a/one.jpg",
    "a/two.jpg",
    "a/deep/three.jpg",
    "a/new.jpg",
    "b/four.jpg",
    "b",
    "c.txt",
    "d/e/f",
    "d/e",
    "d",
    "h.bin",
)
REASSERT_S = 60.0  # of paths without a majority, until the site writes what it means everywhere
LOST_S = 150.0  # until somebody gives up what nobody has any more
ANEW_S = 300.0
REWRITE_S = 0.3  # less than any settle_s
STRAGGLING_S = 3.0  # more than any settle_s, for others to have looked meanwhile
# Faults by which something that a writer wrote may be rejected, torn, or go to a trash on purpose.
SET_ASIDE = frozenset(
    (
        "operator",
        "mass",
        "filling",
        "power",
        "identity",
        "rot",
        "policy",
        "put_back",
        "coordinator_lost",
        "decay",
        "late_start",
    )
)
FLOODS_MAX = 2
GIVE_UP_S = 200.0  # until somebody writes the same on all nodes of a quorum


class People:
    """All of them."""

    def __init__(self, world: World, golden: Files) -> None:
        self.world = world
        self.time = world.time
        self.rng = world.time.stream("people")
        self.golden = dict(golden)
        self.log: list[tuple[bytes, bytes | None]] = []  # what the site has written, in order
        self.applied = dict.fromkeys(world.plan.nodes, 0)
        self.slow: dict[
            str, tuple[float, float]
        ] = {}  # who straggles: until when, and when its next step is due
        self.busy = False
        self.number = 0
        self.baselines = 0
        self.floods = 0
        self.anew = False
        self.mourned = False
        self.restless = False
        self.over_written: set[bytes] = (
            set()
        )  # contents that were gone from their writer before they were accepted

    # --- beginning and end ---------------------------------------------------------------------

    def begin(self) -> None:
        self.busy = True
        for name in self.world.plan.nodes:
            self._every(0.3, partial(self._copy_on, name))
        self._every(self.world.plan.pace_s, self._deed)
        if "operator" in self.world.plan.faults:
            self._every(3.0, self._operate)
        if "policy" in self.world.plan.faults:
            self._every(15.0, self._reconfigure)
        if self.world.policy == "baseline":
            self.time.later(2.0, self._pin_a_new_one)

    def end(self) -> None:
        """Nothing new is written; the site brings everybody what it has written."""
        self.busy = False
        for agent in self.world.agents.values():
            self._catch_up(agent)
        coordinator = self.world.coordinator
        coordinator.configure(without_faults(coordinator.config))

    def _every(self, mean_s: float, what: Callable[[], None]) -> None:
        def again() -> None:
            if self.busy:
                what()
                self._every(mean_s, what)

        self.time.later(mean_s * (0.2 + 1.6 * self.rng.random()), again)

    # --- what is written -----------------------------------------------------------------------

    def fresh(self, author: str) -> bytes:
        self.number += 1
        mode = self.rng.choice((0o644, 0o644, 0o600))
        return file_of(
            f"{self.world.plan.seed}/{author}/{self.number}", self.rng.choice((0, 10, 100, 5000)), mode
        )

    def _deed(self) -> None:
        world, rng = self.world, self.rng
        if world.plan.writers:
            if rng.random() < 0.85:
                self._write(world.agents[rng.choice(world.plan.writers)])
        elif rng.random() < (0.1 if world.policy == "baseline" else 0.6):
            self._publish()
        if "rogue" in world.plan.faults and rng.random() < 0.15:
            self._rogue(rng.choice(world.plan.nodes))
        if "many_rogues" in world.plan.faults and rng.random() < 0.04:
            for name in rng.sample(world.plan.nodes, rng.randrange(1, len(world.plan.nodes) + 1)):
                self._rogue(name)

    def write(self, agent: Agent, key: bytes, value: bytes | None) -> None:
        """On one disk, by somebody who is not us."""
        copy = agent.copies[VOLUME]
        if copy.problem is not None or (copy.no_room and value is not None):
            return
        oracle = self.world.oracles[VOLUME]
        self.world.taken_over(content_of(value))
        before = dict(copy.disk)
        copy.write(key, value, self.time.now)
        self.over_written.update(
            content_of(old) for name, old in before.items() if copy.disk.get(name) != old
        )
        oracle.rewritten(key, value, agent.name)
        self.world.deeds["written"] += 1
        agent.changed(VOLUME)

    # --- the site's own copying ----------------------------------------------------------------

    def _publish(self) -> None:
        key = key_of(self.rng.choice([one for one in PLACES if one not in ("b", "d", "d/e")]))
        value = None if self.rng.random() < 0.2 else self.fresh("site")
        self._say(key, value)

    def _say(self, key: bytes, value: bytes | None) -> None:
        self.log.append((key, value))
        model = Copy(VOLUME, self.world.tree, {}, self.golden)
        model.write(key, value, 0.0)

    def _copy_on(self, name: str) -> None:
        """A node takes the site's next steps; who is down takes them later."""
        agent = self.world.agents[name]
        if not agent.up and self.rng.random() < 0.8:
            return
        if "stale_site" in self.world.plan.faults and hash_of(name) % 3 == 0 and self.rng.random() < 0.9:
            return
        until, due = self.slow.get(name, (0.0, 0.0))
        if due > self.time.now:
            return
        if until > self.time.now:
            self.slow[name] = until, self.time.now + STRAGGLING_S
        while self.applied[name] < len(self.log):
            key, value = self.log[self.applied[name]]
            self.write(agent, key, value)
            self.applied[name] += 1
            if until > self.time.now or self.rng.random() < 0.5:
                return

    def straggle(self, name: str) -> None:
        """One path is written several times; this node takes what was written from then on late, and step by step."""
        if self.world.policy == "quorum" and self.busy:
            key = key_of(self.rng.choice([one for one in PLACES if one not in ("b", "d", "d/e")]))
            self.slow[name] = self.time.now + 8 * STRAGGLING_S, self.time.now + 2 * STRAGGLING_S
            for number in range(3):
                self.time.later(number * 0.8, partial(self._say_again, key))

    def _say_again(self, key: bytes) -> None:
        if self.busy:
            self._say(key, self.fresh("site"))

    def _catch_up(self, agent: Agent) -> None:
        for key, value in self.log[self.applied[agent.name] :]:
            self.write(agent, key, value)
        self.applied[agent.name] = len(self.log)

    # --- writers -------------------------------------------------------------------------------

    def _write(self, agent: Agent) -> None:
        rng, copy = self.rng, agent.copies[VOLUME]
        match rng.choices(("put", "both", "remove", "mode", "rename", "swap"), (10, 3, 4, 2, 2, 1))[0]:
            case "put":
                self.write(agent, key_of(rng.choice(PLACES)), self.fresh(agent.name))
            case "both":
                key = key_of(rng.choice(PLACES))
                for name in rng.sample(self.world.plan.writers, min(2, len(self.world.plan.writers))):
                    self.write(self.world.agents[name], key, self.fresh(name) if rng.random() < 0.8 else None)
            case "remove":
                self.write(agent, key_of(rng.choice((*PLACES, "a", "a/deep"))), None)
            case "mode":
                files = sorted(copy.disk.items())
                if files:
                    key, value = rng.choice(files)
                    entry = decode_entry(value, WIDTH)
                    self.write_in_place(
                        agent, key, encode_entry(replace(entry, mode=rng.choice((0o700, 0o750, 0o640))))
                    )
            case "rename":
                self._rename(
                    agent,
                    key_of(rng.choice(("a", "a/deep", "b", "d"))),
                    key_of(rng.choice(("moved", "b/in", "a/x"))),
                )
            case "swap":  # what editors do: away and back within a moment
                key = key_of(rng.choice(PLACES))
                before = copy.disk.get(key)
                self.write(agent, key, None)
                self.write(agent, key, before or self.fresh(agent.name))

    def write_in_place(self, agent: Agent, key: bytes, value: bytes) -> None:
        copy = agent.copies[VOLUME]
        if copy.problem is None:
            self.world.taken_over(content_of(value))
            self.world.oracles[VOLUME].kept(key, value)
            copy.unsynced.append((self.time.now, key, copy.disk.get(key)))
            copy.disk[key] = value
            agent.changed(VOLUME)

    def _rename(self, agent: Agent, old: bytes, new: bytes) -> None:
        disk = agent.copies[VOLUME].disk
        if disk.get(old) != DIRECTORY or new.startswith(old + b"\0") or new == old:
            return
        moved = {new + key[len(old) :]: disk[key] for key in sorted(disk) if key.startswith(old + b"\0")}
        self.write(agent, old, None)
        self.write(agent, new, DIRECTORY)
        for key, value in moved.items():
            self.write(agent, key, value)

    # --- rogues --------------------------------------------------------------------------------

    def _rogue(self, name: str) -> None:
        """Something writes where nobody may."""
        agent = self.world.agents[name]
        if name in self.world.plan.writers:
            return
        key = key_of(self.rng.choice(PLACES))
        self.world.deeds["rogue"] += 1
        if self.rng.random() < 0.25:
            self.write(agent, key, None)
            return
        value = self.fresh(f"rogue on {name}")
        if content_of(value):
            self.world.authors[content_of(value)] = name
        self.write(agent, key, value)

    def mass(self) -> None:
        """Somebody removes or rewrites most of a volume."""
        agent = self.world.agents[self.rng.choice(self.world.plan.writers or self.world.plan.nodes)]
        remove = self.rng.random() < 0.6
        rogue = agent.name not in self.world.plan.writers
        for key in sorted(agent.copies[VOLUME].disk):
            if self.rng.random() < 0.7 and not is_directory(agent.copies[VOLUME].disk.get(key)):
                value = None if remove else self.fresh(f"mass on {agent.name}")
                if rogue and value is not None and content_of(value):
                    self.world.authors[content_of(value)] = agent.name
                self.write(agent, key, value)

    def flood(self) -> None:
        """Many new files hide how much goes after them."""
        if not self.world.plan.writers or self.floods >= FLOODS_MAX:
            return
        agent = self.world.agents[self.rng.choice(self.world.plan.writers)]
        disk = agent.copies[VOLUME].disk
        old = sorted(
            key for key, value in disk.items() if not is_directory(value) and not key.startswith(b"new")
        )
        self.floods += 1
        for number in range(max(60, len(old))):
            self.write(agent, key_of(f"new{self.floods}/{number}"), self.fresh(f"flood on {agent.name}"))

        def remove() -> None:
            for key in old[: max(10, len(old) // 3)] if self.busy else ():
                self.write(agent, key, None)

        self.time.later(3.0 + 7.0 * self.rng.random(), remove)

    def corrupt(self) -> tuple[str, bytes] | None:
        """One file of one node whose own writes do not count: what must be named. None where all may write."""
        others = [one for one in self.world.plan.nodes if one not in self.world.plan.writers]
        files = [] if not others else sorted(
            key for key, value in self.world.agents[others[-1]].copies[VOLUME].disk.items() if not is_directory(value)
        )  # fmt: skip
        if not files:
            return None
        agent, key = self.world.agents[self.rng.choice(others)], self.rng.choice(files)
        value = self.fresh("canary")
        old = (
            self.world.oracles[VOLUME].left_behind(agent.name) if "relapse" in self.world.plan.faults else []
        )
        if old := [one for one in old if one[0] in files]:
            key, value = self.rng.choice(old)
        self.write_in_place(agent, key, value)
        return agent.name, key

    def rewrite(self, node: str, key: bytes) -> None:
        """It is written again and again: a file that never rests is named like any other."""
        self.restless = True

        def again() -> None:
            if self.restless:
                self.write_in_place(self.world.agents[node], key, self.fresh("canary"))
                self.time.later(REWRITE_S, again)

        self.time.later(REWRITE_S, again)

    def rest(self) -> None:
        self.restless = False

    # --- operators -----------------------------------------------------------------------------

    def _operate(self) -> None:
        """Something, whether or not it is wise."""
        coordinator, rng = self.world.coordinator, self.rng
        if not coordinator.up:
            return
        node = rng.choice(self.world.plan.nodes)
        holds = sorted(self.world.core.holds)
        self.world.deeds["asked"] += 1
        match rng.choice(
            ("quarantine", "release", "resync", "dry", "allow", "reject", "pin", "baseline", "unpin")
        ):
            case "quarantine":
                coordinator.ask(QuarantineAsked(node, "a person"))
            case "release":
                coordinator.ask(ReleaseAsked(node))
            case "resync":
                coordinator.ask(ResyncAsked(node, None, False))
            case "dry":
                coordinator.ask(ResyncAsked(node, VOLUME, True))
            case "allow" if holds:
                coordinator.ask(AllowAsked(rng.choice(holds), rng.choice((None, 5.0))))
            case "reject" if holds:
                coordinator.ask(RejectAsked(rng.choice(holds)))
            case "pin" if self.baselines:
                coordinator.ask(PinAsked(VOLUME, f"good-{rng.randrange(1, self.baselines + 1)}"))
            case "unpin" if rng.random() < 0.3:
                coordinator.ask(PinAsked(VOLUME, None))
            case "baseline":
                self._baseline(rng.choice((None, node)))
                if rng.random() < 0.2:
                    coordinator.ask(BaselineDeleteAsked(f"good-{rng.randrange(1, self.baselines + 1)}"))
            case _:
                pass

    def _baseline(self, node: str | None) -> str:
        self.baselines += 1
        name = f"good-{self.baselines}"
        if node is not None:  # whatever is on it is named as good
            known = self.world.oracles[VOLUME].values.get(node, {}).values()
            for value in (*self.world.agents[node].copies[VOLUME].disk.values(), *known):
                self.world.authors.pop(content_of(value), None)
        self.world.coordinator.ask(BaselineCreateAsked(name, VOLUME, node))
        return name

    def _pin_a_new_one(self) -> None:
        """Of the node that most others equal."""
        if not self.world.coordinator.up:
            return
        roots = {name: self.world.oracles[VOLUME].roots.get(name) for name in self.world.plan.nodes}
        known = [root for root in roots.values() if root is not None]
        if known:
            best = max(sorted(set(known)), key=known.count)
            name = self._baseline(next(node for node, root in roots.items() if root == best))
            self.world.coordinator.ask(PinAsked(VOLUME, name))

    def _reconfigure(self) -> None:
        self.time.tell("the configuration is read again")
        self.world.coordinator.configure(reconfigured(self.rng, self.world.coordinator.config))

    # --- when the faults have ended ------------------------------------------------------------

    def attend(self, passed_s: float) -> None:
        """What a person does who looks at the screen now and then."""
        coordinator, core = self.world.coordinator, self.world.core
        if not coordinator.up:
            return
        for hold_id, found in sorted(core.holds.items()):
            if found.state == "held":
                coordinator.ask(RejectAsked(hold_id) if self.rng.random() < 0.5 else AllowAsked(hold_id, 5.0))
        for name, node in core.nodes.items():
            if node.record.fence is not None:
                coordinator.ask(ReleaseAsked(name), partial(self._or_resync, name))
            elif any(one.kind == "audit" for one in core.accusing(node)):
                coordinator.ask(ReleaseAsked(name))
                coordinator.ask(ResyncAsked(name, None, False))
            elif node.record.phase == "suspect" and passed_s > 10:
                coordinator.ask(ResyncAsked(name, None, False))
        lost = core.volumes[VOLUME].record.pinned is None or (passed_s > 30 and not int(passed_s) % 30)
        if self.world.policy == "baseline" and lost:
            self._pin_a_new_one()  # nobody has what the old one names any more
        if self.world.plan.writers and passed_s > LOST_S:
            self._mourn()
        if passed_s > ANEW_S and not self.anew and (self.world.plan.writers or self._nobody_votes()):
            self._found_anew()
        if (
            self.world.policy == "quorum"
            and passed_s > REASSERT_S
            and (core.volumes[VOLUME].undetermined or passed_s > GIVE_UP_S)
        ):
            self._write_what_is_meant()

    def _or_resync(self, name: str, answer: object) -> None:
        if isinstance(answer, Refusal):
            self.world.coordinator.ask(ResyncAsked(name, None, False))

    def _mourn(self) -> None:
        """What the truth has and nobody: a writer's own state counts instead, or it writes it anew."""
        coordinator, core = self.world.coordinator, self.world.core
        volume = core.volumes[VOLUME]
        if volume.truth is None:
            return
        for name in self.world.plan.writers:
            node = core.nodes[name]
            if node.record.phase in ("joining", "resyncing", "lagging") and node.record.fence is None:
                self.mourned = True
                coordinator.ask(QuarantineAsked(name, "nobody has what it lacks"))
                coordinator.ask(ReleaseAsked(name))

    def _nobody_votes(self) -> bool:
        """Too few have ever been in rank, and the others wait for contents that nobody has any more."""
        volume = self.world.core.volumes[VOLUME]
        return self.world.policy == "quorum" and len(volume.voters) < volume.need

    def _found_anew(self) -> None:
        """The last resort where too much was lost at once: other settings make a new truth of what the nodes have."""
        self.time.tell("the truth is founded anew")
        self.anew = True
        config = self.world.coordinator.config
        volumes = tuple(replace(one, ignore=(*one.ignore, "*.never")) for one in config.volumes)
        self.world.coordinator.configure(replace(config, volumes=volumes))

    def _write_what_is_meant(self) -> None:
        """A person ends a disagreement: the same on all nodes."""
        self.time.tell("the site writes what it means on all nodes")
        for agent in self.world.agents.values():
            disk = agent.copies[VOLUME].disk
            for key in sorted(disk.keys() | self.golden.keys()):
                if disk.get(key) != self.golden.get(key):
                    self.write(agent, key, self.golden.get(key))

    def accepted_stays(self) -> None:
        """Where nobody rejected, wrote over or removed it first, what was accepted has been in the truth."""
        oracle = self.world.oracles[VOLUME]
        if self.world.policy not in ("writers", "any-writer"):
            return
        if self.world.plan.faults & SET_ASIDE or self.world.core.counters.hold:
            return  # what was rejected, torn or set aside on purpose is not lost
        lost = [
            where
            for content, where in oracle.accepted.items()
            if content not in oracle.ever and content not in self.over_written
        ]
        hold("accepted_stays", not lost, f"accepted and in no truth: {lost[:5]}")
        if not self.mourned and not self.anew:
            there = {content_of(value) for value in oracle.tree_values()}
            gone = [
                where
                for content, where in oracle.accepted.items()
                if content not in there and content not in self.over_written
            ]
            hold(
                "accepted_stays", not gone, f"accepted, given up by nobody, and not in the truth: {gone[:5]}"
            )
        if not self.world.plan.gathered and "unmount" not in self.world.plan.faults:
            kept = [where for where in oracle.removed.items() if oracle.truth(where[0][0]) == where[0][1]]
            hold("accepted_stays", not kept, f"removed by a writer and still in the truth: {kept[:5]}")


def hash_of(name: str) -> int:
    return sum(name.encode())
