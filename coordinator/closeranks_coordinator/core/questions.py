"""What the core is asked: every answer that only reads. `fleet.Fleet` is the other half, which changes what is read.

Nobody sees a step half done: whoever asks in the middle of one (`stepping`) has the rest of it done first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from . import advising, conflicts, holds, scrubbing, speed, views
from .diffs import DiffRow, diff_page
from .incidents import Incident
from .judge import excused_of
from .model import Now, Refusal
from .nodes import Volume
from .shapes import (
    ActionView,
    BaselineView,
    ConflictView,
    FleetView,
    HoldView,
    IncidentView,
    NodeView,
    ScrubView,
    SpeedView,
    VolumeView,
)
from .states import State
from .stepping import Stepping
from .world import World


@dataclass(frozen=True, slots=True)
class FleetDiff:
    """A page of a node's difference. `total` paths differ in all; `undetermined` ones are left out.

    `withheld` ones differ in special mode bits that the node may not write: they are listed, and not counted.

    `stale` are nodes of which this is only what they reported last: it proves nothing about now.
    """

    rows: tuple[DiffRow, ...]
    next_key: bytes | None
    undetermined: int
    total: int
    stale: tuple[str, ...]
    withheld: int


class Questions:
    """The views of one world. They only read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: Stepping | None = None
        self._down: tuple[Now, frozenset[str]] | None = None

    @property
    def _still(self) -> World:
        """The world with no step under way."""
        if self._under_way is not None:
            self._under_way.rest()
        return self._world

    def root_of(self, node: str, volume: str) -> bytes | None:
        """The root that the core goes by: it changes with the event that tells of it, not in what follows."""
        found = self._world.nodes.get(node)
        stored = None if found is None else found.record.volumes.get(volume)
        return None if stored is None else stored.root

    def fleet_view(self, now: Now) -> FleetView:
        found = msgspec.structs.replace(views.fleet_view(self._at(now)), limits=speed.limits(self._at(now)))
        allowed = [holds.view(self._world, one) for one in self._still.live_holds if one.state == "allowed"]
        return msgspec.structs.replace(found, allowed=tuple(allowed)) if allowed else found

    def node_names(self) -> list[str]:
        return list(self._still.nodes)

    def node_view(self, now: Now, node: str) -> NodeView | None:
        world = self._at(now)
        if node not in world.nodes:
            return None
        return views.node_view(world, world.nodes[node], lambda: self._out_of_service(now))

    def _out_of_service(self, now: Now) -> frozenset[str]:
        """Who lists many nodes asks with one `now`: looked for once, and only if some node would not serve."""
        if self._down is None or self._down[0] is not now:
            self._down = now, views.out_of_service(self._world)
        return self._down[1]

    def volume_names(self) -> list[str]:
        return list(self._still.volumes)

    def volume_view(self, now: Now, volume: str) -> VolumeView | None:
        world = self._at(now)
        return views.volume_view(world, world.volumes[volume]) if volume in world.volumes else None

    def incident_ids(self) -> list[str]:
        """Newest first."""
        return list(reversed(self._still.incidents))

    def incident_view(self, incident: str) -> IncidentView | None:
        world = self._still
        found: Incident | None = world.incidents.get(incident)
        return None if found is None else advising.view(world, found)

    def incident_is(
        self, incident: str, state: str | None, node: str | None, volume: str | None, kind: str | None
    ) -> bool:
        """Whether it is one of those asked for; None: any. Nothing is made for it."""
        found = self._world.incidents.get(incident)
        return (
            found is not None
            and state in (None, "open" if found.is_open else "closed")
            and node in (None, found.node)
            and volume in (None, found.volume)
            and kind in (None, found.kind)
        )

    def action_ids(self) -> list[str]:
        """Newest first."""
        return list(reversed(self._still.actions))

    def action_view(self, action: str) -> ActionView | None:
        return views.action_view(self._still, action)

    def hold_ids(self) -> list[str]:
        """Newest first."""
        return list(reversed(self._still.holds))

    def hold_view(self, hold: str) -> HoldView | None:
        found = self._still.holds.get(hold)
        return None if found is None else holds.view(self._world, found)

    def baseline_names(self) -> list[str]:
        return sorted(self._still.baselines)

    def baseline_view(self, name: str) -> BaselineView | None:
        found = self._still.baselines.get(name)
        return None if found is None else views.baseline_view(self._still, found)

    def conflicts(self, volume: str) -> tuple[ConflictView, ...]:
        """The conflicts of a volume, newest first."""
        return conflicts.views(self._still, volume)

    def speed_view(self, now: Now) -> SpeedView:
        return speed.view(self._at(now))

    def scrub_view(self) -> ScrubView:
        return scrubbing.view(self._still)

    def lb_status(self, now: Now, node: str) -> Literal[200, 503] | None:
        return views.lb_status(self._at(now), node)

    def diff(
        self,
        volume: str,
        node: str,
        against: str | None,
        low: bytes = b"",
        limit: int = 100,
        same: bool = False,
    ) -> FleetDiff | Refusal:
        """How a node differs from the truth (`against` None or "truth"), another node or a baseline."""
        world = self._still
        found = world.volumes.get(volume)
        if node not in world.nodes:
            text = f"There is no node {node!r} in this fleet: `closeranks nodes` lists those that are."
            return Refusal(404, "unknown_node", text)
        if found is None or node not in found.config.nodes:
            return Refusal(404, "unknown_node", f"{node!r} has no volume {volume!r}.")
        stored = world.nodes[node].volume(volume)
        root, status = stored.root, stored.status
        other = self._root_named(found, against)
        if isinstance(other, Refusal):
            return other
        if root is None:
            return Refusal(409, "not_scanned", f"{node} has not finished its first scan of {volume}.")
        to_truth = against in (None, "truth")
        skipped = found.undetermined if to_truth else frozenset()
        differing = {
            key: values for key, values in world.differ.diff(root, other).items() if key not in skipped
        }
        excused = excused_of(differing, stored.withheld if to_truth else (), world.algorithm.width)
        page = diff_page(
            world.tree, root, other, width=world.algorithm.width, chunk_bytes=found.config.chunk_bytes,
            chunk_list=world.object, skip=skipped.__contains__,
            unreadable={one.key: one.detail for one in status.unreadable if one.why == "unreadable"} if status else {},
            withheld=excused, low=low, limit=limit, same=same,
        )  # fmt: skip
        stale = tuple(
            one
            for one in (node, against)
            if one in found.config.nodes and not world.compared(world.nodes[one], found)
        )
        return FleetDiff(
            page.rows, page.next_key, len(skipped), len(differing) - len(excused),
            tuple(one for one in stale if one is not None), len(excused),
        )  # fmt: skip

    def _root_named(self, volume: Volume, against: str | None) -> bytes | Refusal:
        world = self._still
        if against in (None, "truth"):
            return volume.truth or Refusal(409, "no_truth", f"{volume.name} has no truth yet.")
        assert against is not None
        if against in volume.config.nodes:
            root = world.nodes[against].volume(volume.name).root
            return root or Refusal(409, "not_scanned", f"{against} has not finished its first scan.")
        baseline = world.baselines.get(against)
        if baseline is not None and baseline.volume == volume.name:
            return baseline.root
        return Refusal(
            404, "unknown_against", f"{against!r} is neither truth nor a node nor a baseline of this volume."
        )

    def live_roots(self, now: Now) -> set[bytes]:
        """Every root whose tree must be kept: present, held, the truth's past, baselines, open evidence."""
        world = self._at(now)
        live: list[bytes | None] = []
        for volume in world.volumes.values():
            volume.history.forget_left(now.mono - world.config.history_keep_s)
            first = volume.history.roots[0][0] if volume.history.roots else 0
            if volume.record.roots and volume.record.roots[0][0] < first:
                volume.record.roots = [one for one in volume.record.roots if one[0] >= first]
                world.touch("volume", volume.name)
            live += [volume.record.before, *(root for _, root in volume.history.roots)]
        for node in world.nodes.values():
            for stored in node.record.volumes.values():
                live += [stored.root, stored.held, stored.before]
            live.append(None if node.recovery is None else node.recovery.target)
            live += [root for view in node.views.values() for order in view.orders for root in order]
            live += [view.analysis.truth for view in node.views.values() if view.analysis is not None]
        live += world.targets()
        live += [baseline.root for baseline in world.baselines.values()]
        live += [root for incident in world.incidents.values() if incident.is_open for root in incident.roots]
        return {root for root in live if root is not None}

    def state(self, now: Now, node: str) -> State | None:
        """Only the state of a node; None for one that does not exist."""
        world = self._at(now)
        return views.state_of(world, world.nodes[node]) if node in world.nodes else None

    def _at(self, now: Now) -> World:
        world = self._still
        world.now = now
        return world
