"""What happens to whole machines and to the store by people's hands: images, lost indexes, collected garbage."""

from __future__ import annotations

import asyncio
import contextvars
import random
from pathlib import Path
from typing import TYPE_CHECKING

from closeranks_coordinator.storage.store import StoreClosed, StoreFault, StoreFull
from closeranks_proto import messages as wire

from ..invariants import hold
from .loop import PROCESS

if TYPE_CHECKING:
    from closeranks_coordinator.runtime import Coordinator

    from .host import Host
    from .world import World

LISTED_MAX = 1000
DEED_SHARE = 0.15  # of the moments at which anything happens


class Later:
    """Of one seed. Its dice are its own."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.chosen: frozenset[str] = frozenset()
        self.images: dict[str, Path] = {}
        self.back: set[str] = (
            set()
        )  # nodes that were put back: fewer than half, as their contents must be somewhere

    def deed(self) -> None:
        """Perhaps."""
        if not self.chosen or self.rng.random() >= DEED_SHARE:
            return
        host = self.world.hosts[self.rng.choice(self.world.names)]
        match self.rng.choice(sorted(self.chosen)):
            case "collect" if self.world.coordinator is not None:
                self.world.deeds["collect"] += 1
                context = contextvars.copy_context()
                context.run(PROCESS.set, self.world.process)
                self.world.graves.append(
                    self.world.loop.create_task(_collect(self.world.coordinator), context=context)
                )
            case "put_back" if host.running is not None:
                self._put_back(host)
            case "index_lost" if host.running is not None:
                self.world.deeds["index_lost"] += 1
                self.world.note(f"{host.name} has lost its index")
                host.lose_index()
                self._start(host)
            case _:
                pass

    def _put_back(self, host: Host) -> None:
        world, image = self.world, self.images.get(host.name)
        if image is None:
            image = self.images[host.name] = world.base / "images" / host.name
            host.image(image)
            return
        if 2 * len(self.back | {host.name}) >= len(world.names) or world.writers == (host.name,):
            return  # what only it had would be gone, and with it every way but a new founding
        self.back.add(host.name)
        there = {content for one in world.hosts.values() for _, content in one.files().values()}
        world.deeds["put_back"] += 1
        world.note(f"{host.name} is put back")
        host.put_back(image)
        if world.writers:
            came = {content for _, content in host.files().values()} - there
            world.stale |= dict.fromkeys(came, host.name)
        self._start(host)

    def _start(self, host: Host) -> None:
        self.world.loop.call_later(0.2 + 5 * self.rng.random(), host.start)


def ask_for_trash(world: World, host: Host) -> None:
    """A person looks what lies in a node's trash, and has the newest of it restored beside the volume."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, world.process)
    world.graves.append(world.loop.create_task(_restore(world, host), context=context))


async def _restore(world: World, host: Host) -> None:
    coordinator = world.coordinator
    assert coordinator is not None, "it was asked while it ran"
    found = await coordinator.trash(host.name, wire.TrashList(0, "photos", "", LISTED_MAX, ""))
    if found is None or not found.items:
        return
    place = host.base / f"restored-{world.deeds['trash']}"
    order = wire.TrashRestore(0, "photos", (found.items[-1].id,), str(place), False)
    answer = await coordinator.trash(host.name, order)
    if answer is not None and not answer.error:
        world.deeds["restored"] += len(answer.items)
        world.loop.call_soon(_check_restored, world, host, place, context=contextvars.Context())


def _check_restored(world: World, host: Host, place: Path) -> None:
    """What comes out of a trash is what somebody wrote, as a whole. Not where the power went just now."""
    if host.running is None:
        return
    wrong = [path for path in place.rglob("*") if path.is_file() and path.read_bytes() not in world.written]
    world.checked(
        hold, "trash_keeps", not wrong, f"{host.name} restored {len(wrong)} files that nobody wrote"
    )


async def _collect(coordinator: Coordinator) -> None:
    """As it does every hour."""
    try:
        await coordinator.store.collect(coordinator.fleet.live_roots(coordinator.now()), None)
    except (StoreFull, StoreFault, StoreClosed):
        await asyncio.sleep(0)  # its disk fails, or it ends: the next round will do
