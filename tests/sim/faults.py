"""What breaks, each for a while and then again: see `swarm.FAULTS` for what each one does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .absences import Absences
from .disk import content_of, file_of, is_directory
from .images import Images
from .people import VOLUME
from .wires import COORDINATOR

if TYPE_CHECKING:
    from .agent import Agent
    from .fleet import World

FUSE_MAX = 25


class Faults:
    """Those that the plan enables, at random moments."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.time = world.time
        self.rng = world.time.stream("faults")
        self.images = Images(world)
        self.absences = Absences(world)
        self.on = False
        fewer = (len(world.plan.nodes) - 1) // 2
        self.liars = sorted(world.time.stream("liars").sample(world.plan.nodes, max(1, fewer)))

    def begin(self) -> None:
        self.on = True
        deeds: dict[str, tuple[float, Callable[[], None]]] = {
            "cut": (4.0, self._cut), "partition": (8.0, self._part), "crash": (5.0, self._crash),
            "power": (8.0, self._power), "coordinator_crash": (8.0, self._crash_coordinator),
            "slow_store": (6.0, self._slow_store),
            "store_full": (20.0, self._store_full), "freeze": (10.0, self._freeze), "clock": (10.0, self._clock),
            "rot": (5.0, self._rot), "eio": (6.0, self._eio), "enospc": (8.0, self._no_space),
            "slow_disk": (6.0, self._slow_disk), "unmount": (12.0, self._unmount),
            "filling": (15.0, self._fill), "mass": (12.0, self.world.people.mass),
            "identity": (20.0, self._identity), "second_agent": (15.0, self._second), "collect": (5.0, self._collect),
            "put_back": (4.0, self.images.deed), "coordinator_lost": (25.0, self._lose_coordinator),
            "liar": (12.0, self._lie), "decay": (5.0, self._decay), "straggler": (12.0, self._straggle),
            "relapse": (6.0, self._relapse), "absence": (12.0, self.absences.deed),
            "flood": (15.0, self.world.people.flood),
        }  # fmt: skip
        for name in sorted(self.world.plan.faults & deeds.keys()):
            mean_s, deed = deeds[name]
            self._every(name, mean_s, deed)
        for name in sorted(self.world.plan.late):
            self.time.later(30.0 * self.rng.random(), self.world.agents[name].start)

    def end(self) -> None:
        """Everything works again."""
        self.on = False
        world = self.world
        world.network.heal()
        world.network.slow = frozenset()
        coordinator = world.coordinator
        coordinator.full, coordinator.slow_s, coordinator.frozen_until, coordinator.fuse = (
            False,
            0.0,
            0.0,
            None,
        )
        if not coordinator.up:
            world.start_coordinator()
        for agent in world.agents.values():
            agent.frozen_until, agent.slow_s, agent.fuse, agent.filling = 0.0, 0.0, None, None
            agent.lies = 0
            for copy in agent.copies.values():
                copy.problem, copy.no_room, copy.no_room_for_state = None, False, False
                copy.unreadable.clear()
            agent.start()
            agent.emptied()

    def _every(self, name: str, mean_s: float, deed: Callable[[], None]) -> None:
        def again() -> None:
            if self.on:
                self.world.deeds[name] += 1
                deed()
                self._every(name, mean_s, deed)

        self.time.later(mean_s * (0.1 + 1.8 * self.rng.random()), again)

    def _while(self, most_s: float, end: Callable[[], None]) -> None:
        """It ends by itself after a while."""
        self.time.later(most_s * self.rng.random(), end)

    def _agent(self) -> Agent:
        return self.world.agents[self.rng.choice(self.world.plan.nodes)]

    # --- network -------------------------------------------------------------------------------

    def _cut(self) -> None:
        wires = self.world.network.wires
        if wires:
            self.rng.choice(wires).cut()

    def _part(self) -> None:
        network, one = self.world.network, self._agent().name
        other = self.rng.choice((COORDINATOR, COORDINATOR, self._agent().name))
        self.time.tell(f"{one} is parted from {other or 'the coordinator'}")
        for source, target in self.rng.choice(
            (((one, other),), ((other, one),), ((one, other), (other, one)))
        ):
            network.part(source, target)

        def join() -> None:
            network.parted.discard((one, other))
            network.parted.discard((other, one))
            network.kick()

        self._while(25.0, join)

    # --- processes -----------------------------------------------------------------------------

    def _crash(self) -> None:
        agent = self._agent()
        if self.rng.random() < 0.6:
            agent.fuse = self.rng.randrange(1, FUSE_MAX)
        else:
            agent.crash("at rest")
        self.time.later(8.0 * self.rng.random() + 0.5, agent.start)

    def _power(self) -> None:
        agent = self._agent()
        agent.crash("the power goes", power=True)
        self.time.later(8.0 * self.rng.random() + 0.5, agent.start)

    def _crash_coordinator(self) -> None:
        coordinator = self.world.coordinator
        self.world.checks.same_after_restart()
        if self.rng.random() < 0.7:
            coordinator.fuse = self.rng.randrange(1, FUSE_MAX)
        else:
            coordinator.crash("at rest")

        self.time.later(4.0 * self.rng.random() + 0.2, self._start_coordinator)

    def _lose_coordinator(self) -> None:
        """Its state directory is gone: it knows of no node, no truth, no fence and no number."""
        self.world.coordinator.crash("it loses its state")
        self.world.lose_coordinator()
        self.time.later(4.0 * self.rng.random() + 0.2, self._start_coordinator)

    def _straggle(self) -> None:
        """Late over a restart: what the truth was when is known only from what was durable."""
        self.world.people.straggle(self._agent().name)
        self.time.later(3.0, self._crash_at_rest)

    def _crash_at_rest(self) -> None:
        if self.on and self.world.coordinator.up:
            self.world.checks.same_after_restart()
            self.world.coordinator.crash("at rest")
            self.time.later(0.2 + self.rng.random(), self._start_coordinator)

    def _start_coordinator(self) -> None:
        if not self.world.coordinator.up:
            self.world.start_coordinator()

    def _lie(self) -> None:
        """Fewer than half, as nobody could tell otherwise; sometimes while hardly anybody else is there."""
        names = self.world.plan.nodes
        liars = self.liars[: self.rng.randrange(1, len(self.liars) + 1)]
        often = self.rng.choice((1, 1000))
        self.time.tell(f"{' '.join(liars)} lie {'once' if often == 1 else 'on'}")
        for name in liars:
            self.world.agents[name].lies = often
            self._while(20.0, partial(setattr, self.world.agents[name], "lies", 0))
        others = [one for one in names if one not in self.liars]
        for name in others[1:] if self.rng.random() < 0.5 else ():
            agent = self.world.agents[name]
            agent.crash("it is away while others lie")
            self.time.later(10.0 + 10.0 * self.rng.random(), agent.start)

    def _freeze(self) -> None:
        what = self.world.coordinator if self.rng.random() < 0.2 else self._agent()
        what.frozen_until = self.time.now + 30.0 * self.rng.random()

    def _clock(self) -> None:
        self.world.coordinator.skew_ms += self.rng.choice((-3_600_000, -5_000, 5_000, 3_600_000))

    def _slow_store(self) -> None:
        self.world.coordinator.slow_s = self.rng.choice((0.0, 0.1, 1.0))

    def _store_full(self) -> None:
        coordinator = self.world.coordinator
        coordinator.full = True
        self._while(8.0, lambda: setattr(coordinator, "full", False))

    def _collect(self) -> None:
        gone = self.world.coordinator.collect()
        self.time.mark(f"collected {gone}")

    # --- disks ---------------------------------------------------------------------------------

    def _rot(self) -> None:
        """A file's bytes are others, and nobody wrote."""
        agent = self._agent()
        copy = agent.copies[VOLUME]
        files = sorted(key for key, value in copy.disk.items() if not is_directory(value))
        if not files or agent.name in self.world.plan.writers:
            return
        key = self.rng.choice(files)
        value = file_of(f"rot {self.world.plan.seed} {self.time.now} {key!r}", 100)
        self.world.authors[content_of(value)] = agent.name
        self.world.oracles[VOLUME].rewritten(key, value)
        copy.disk[key] = value

    def _decay(self) -> None:
        """The same, on a writer too, and the stat of the file is what it was."""
        agent = self._agent()
        copy = agent.copies[VOLUME]
        files = sorted(
            key for key, value in copy.disk.items() if content_of(value) and copy.rows.get(key) == value
        )
        if not files:
            return
        key = self.rng.choice(files)
        value = file_of(f"decay {self.world.plan.seed} {self.time.now} {key!r}", 100)
        self.world.authors[content_of(value)] = agent.name
        self.world.decayed[content_of(value)] = content_of(copy.disk[key])
        copy.disk[key] = copy.decayed[key] = value

    def _relapse(self) -> None:
        """Whoever puts an old version back breaks ranks like any rogue, and is not late."""
        agent = self._agent()
        found = self.world.oracles[VOLUME].left_behind(agent.name)
        if found and agent.name not in self.world.plan.writers:
            self.world.people.write(agent, *self.rng.choice(found))

    def _eio(self) -> None:
        copy = self._agent().copies[VOLUME]
        files = sorted(key for key, value in copy.disk.items() if not is_directory(value))
        chosen = self.rng.sample(files, min(len(files), 2))
        copy.unreadable.update(chosen)
        self._while(15.0, lambda: copy.unreadable.difference_update(chosen))

    def _no_space(self) -> None:
        copy = self._agent().copies[VOLUME]
        if self.rng.random() < 0.5:
            copy.no_room = True
            self._while(15.0, lambda: setattr(copy, "no_room", False))
        else:
            copy.no_room_for_state = True
            self._while(10.0, lambda: setattr(copy, "no_room_for_state", False))

    def _slow_disk(self) -> None:
        agent = self._agent()
        agent.slow_s = self.rng.choice((0.5, 3.0))
        self._while(20.0, lambda: setattr(agent, "slow_s", 0.0))

    def _unmount(self) -> None:
        copy = self._agent().copies[VOLUME]
        copy.problem = "not_mounted"
        self._while(20.0, lambda: setattr(copy, "problem", None))

    def _fill(self) -> None:
        """Somebody else fills a disk; after a while there is room again."""
        agent = self._agent()
        if agent.filling is not None:
            return
        agent.filling = 4e8

        def go_on() -> None:
            if agent.filling is not None and self.on:
                agent.filling = max(1e6, agent.filling - 3e7)
                self.time.later(1.0, go_on)

        go_on()
        self._while(20.0, agent.emptied)

    # --- identities ----------------------------------------------------------------------------

    def _identity(self) -> None:
        """The state directory is gone: another identity, no index, no fence."""
        agent = self._agent()
        agent.crash("it loses its state")
        agent.lose_state()
        self.time.later(12.0 + 8.0 * self.rng.random(), agent.start)

    def _second(self) -> None:
        """A machine that was cloned claims the name, for as long as it is refused."""
        agent = self._agent()
        if agent.up:
            self.world.claim(agent)
