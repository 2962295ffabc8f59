"""Of which volumes an agent may still have something from before its session: until it has told, nothing is sent to it.

An agent has nothing to tell where its Hello names exactly the step that is stored. Beyond it are steps that nobody has
heard of. *Behind* it, or at another root, its state was put back, or is not open yet (a volume that is mounted
later): what it has then is known when it has held its journal against ours. That is when a step of it is accepted, or
when a beat, which it sends of such volumes only, says that there is none. Rejected: only what is beyond (a machine
that was put back was brought newer versions before it had said that all it has is old).
"""

from __future__ import annotations

from collections.abc import Iterable

from closeranks_proto.messages import VolumeHello


class Heard:
    """For one session."""

    def __init__(self, volumes: Iterable[VolumeHello]) -> None:
        self._had = {one.name: (one.last_seq, one.root) for one in volumes}
        self._waiting: dict[str, None] = {}

    def open(self, volume: str, seq: int, root: bytes | None) -> None:
        """This is what is stored of a volume as the session begins."""
        if self._had[volume] != (seq, root):
            self._waiting[volume] = None

    @property
    def waiting(self) -> tuple[str, ...]:
        return tuple(self._waiting)

    def accepted(self, volume: str, seq: int) -> bool:
        """A step with this number was accepted: whether all from before has been told."""
        if seq >= self._had[volume][0]:
            self._waiting.pop(volume, None)
        return volume not in self._waiting

    def beaten(self, volume: str, last_seq: int, seq: int) -> bool:
        """A beat names the agent's last step, `seq` is the last accepted one: whether there is no more."""
        if last_seq != seq or volume not in self._waiting:
            return False
        del self._waiting[volume]
        return True
