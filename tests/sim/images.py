"""Machines that are put back to an image of themselves: the volume, the agent's state, or both, as they once were.

A person does that, with backups or snapshots of a virtual machine. Where the state goes back, or is made anew, the
product can tell, and must not take what is old for a change. Where only the volume does, somebody wrote its files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from closeranks_proto import messages as wire

from .agent import Kept
from .disk import Copy, Files, Values, content_of
from .people import VOLUME

if TYPE_CHECKING:
    from .agent import Agent
    from .fleet import World

TAKEN_AFTER_S = 12.0  # another agent is taken when the one before has been gone for so long
PUT_BACK_SHARE = 0.3  # of the deeds; the others make images


@dataclass(frozen=True, slots=True)
class Image:
    """Of one machine, at one moment."""

    disk: Files
    decayed: Files
    trash: list[tuple[bytes, bytes]]
    rows: Files
    found: dict[bytes, tuple[bytes, bytes]]
    brought: Values
    root: bytes | None
    journal: list[wire.Commit | wire.Announce]
    last_seq: int
    seen_at: dict[int, float]
    kept: Kept


class Images:
    """The newest image of each machine."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.time = world.time
        self.rng = world.time.stream("images")
        self.images: dict[str, Image] = {}

    def deed(self) -> None:
        """An image is made, or a machine is put back to its own."""
        agent = self.world.agents[self.rng.choice(self.world.plan.nodes)]
        image = self.images.get(agent.name)
        if image is None or self.rng.random() >= PUT_BACK_SHARE:
            self.images[agent.name] = _image_of(agent)
            return
        what = self.rng.choice(("both", "both", "state", "volume", "index", "restored", "rebuilt"))
        agent.crash(f"it is put back: {what}")
        copy = agent.copies[VOLUME]
        if what in ("both", "volume", "restored", "rebuilt"):
            self._put_back_volume(copy, image, what == "volume")
        if what in ("both", "state"):
            _put_back_state(agent, copy, image)
            if what == "state":
                agent.forget_decayed(copy)
        if what in ("index", "restored"):
            agent.lose_index()
        elif what == "rebuilt":
            agent.lose_state()
        if copy.root is None:
            agent.forget_decayed(copy)  # an index that was lost before
        self.time.later((TAKEN_AFTER_S if what == "rebuilt" else 0.5) + 8.0 * self.rng.random(), agent.start)

    def _put_back_volume(self, copy: Copy, image: Image, by_somebody: bool) -> None:
        before = copy.disk
        copy.disk, copy.decayed, copy.trash = dict(image.disk), dict(image.decayed), list(image.trash)
        copy.unsynced.clear()
        if not by_somebody:
            self.world.restored.update(content_of(value) for value in copy.disk.values())
        oracle = self.world.oracles[VOLUME]
        for key in sorted(before.keys() | copy.disk.keys()) if by_somebody else ():
            if before.get(key) != copy.disk.get(key):
                oracle.rewritten(key, copy.disk.get(key))
                if key not in copy.rows:
                    copy.decayed.pop(key, None)  # what is new there is told as it is
                if key not in copy.decayed:
                    self.world.taken_over(content_of(copy.disk.get(key)))


def _image_of(agent: Agent) -> Image:
    copy = agent.copies[VOLUME]
    return Image(
        dict(copy.disk), dict(copy.decayed), list(copy.trash), dict(copy.rows), dict(copy.found),
        dict(copy.brought), copy.root, list(copy.journal), copy.last_seq, dict(copy.seen_at),
        replace(agent.kept, members=dict(agent.kept.members)),
    )  # fmt: skip


def _put_back_state(agent: Agent, copy: Copy, image: Image) -> None:
    copy.rows, copy.root, copy.journal = dict(image.rows), image.root, list(image.journal)
    copy.last_seq, copy.seen_at, copy.found = image.last_seq, dict(image.seen_at), dict(image.found)
    copy.brought = dict(image.brought)
    agent.kept = replace(image.kept, members=dict(image.kept.members))
