"""A writer is away while the settings of its volume change: what others removed meanwhile it still has, and what it
wrote itself nobody has heard of. It returns before the next truth is founded, or after.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from .disk import is_directory, key_of
from .people import PLACES, VOLUME
from .wires import COORDINATOR

if TYPE_CHECKING:
    from .agent import Agent
    from .fleet import World

IGNORED = "*.tmp"  # none of `people.PLACES`


class Absences:
    """One after the other, where several nodes write."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.time = world.time
        self.rng = world.time.stream("absences")
        self.away: Agent | None = None

    def deed(self) -> None:
        """It leaves, others go on, the configuration is read again, and it returns."""
        agents = [self.world.agents[name] for name in self.world.plan.writers]
        there = [one for one in agents if one.welcomed]
        if self.away is not None or len(there) < 2:
            return
        agent = self.away = self.rng.choice(there)
        self._leave(agent)
        for number in range(self.rng.randrange(3)):
            self.time.later(number * self.rng.random(), partial(self._write, agent))
        seconds = self.rng.random()
        for other in self.rng.sample([one for one in there if one is not agent], min(2, len(there) - 1)):
            for _ in range(self.rng.randrange(1, 4)):
                seconds += 0.3 * self.rng.random()
                self.time.later(seconds, partial(self._take_away, other, agent))
        # A moment later, or once all that is told and pushed.
        seconds += self.rng.choice((0.2, 2.0, 5.0)) * self.rng.random()
        self.time.later(seconds, self._reconfigure)
        seconds += self.rng.choice((2.0, 15.0)) * self.rng.random()
        self.time.later(seconds, partial(self._return, agent))

    def _leave(self, agent: Agent) -> None:
        if self.rng.random() < 0.5:
            agent.crash("it is away while settings change")
            return
        self.time.tell(f"{agent.name} is parted while settings change")
        for pair in ((agent.name, COORDINATOR), (COORDINATOR, agent.name)):
            self.world.network.part(*pair)

    def _return(self, agent: Agent) -> None:
        network = self.world.network
        network.parted -= {(agent.name, COORDINATOR), (COORDINATOR, agent.name)}
        for wire in [one for one in network.wires if one.agent == agent.name]:
            wire.cut()
        network.kick()
        agent.start()
        self.away = None
        self.time.tell(f"{agent.name} is back")

    def _write(self, agent: Agent) -> None:
        """Something of its own, or it removes what it has."""
        key = key_of(self.rng.choice(PLACES))
        if not self.world.calm:
            removes = self.rng.random() < 0.3
            self.world.people.write(agent, key, None if removes else self.world.people.fresh(agent.name))

    def _take_away(self, other: Agent, agent: Agent) -> None:
        """What both have is removed, or written anew."""
        mine, theirs = other.copies[VOLUME].disk, agent.copies[VOLUME].disk
        keys = sorted(
            key for key, value in mine.items() if theirs.get(key) == value and not is_directory(value)
        )
        if keys and not self.world.calm:
            removes = self.rng.random() < 0.7
            value = None if removes else self.world.people.fresh(other.name)
            self.world.people.write(other, self.rng.choice(keys), value)

    def _reconfigure(self) -> None:
        if self.world.calm:
            return
        self.time.tell("other files are ignored from now on")
        config = self.world.coordinator.config
        volumes = tuple(
            replace(one, ignore=tuple(sorted({*one.ignore} ^ {IGNORED}))) for one in config.volumes
        )
        self.world.coordinator.configure(replace(config, volumes=volumes))
