"""Paths that nobody can judge: counted, shown once they have lasted, accused of nobody.

Undetermined belongs to paths, not to nodes. An incident is open while any path has been without a
majority for `settle_s`; it closes when enough nodes are compared and agree. A volume that goes by a
baseline and has none pinned is undetermined as a whole.
"""

from __future__ import annotations

import math
from itertools import islice

from closeranks_proto.limits import INCIDENT_MAX_PATHS

from . import incidents, words
from .diffs import DiffRow
from .incidents import Incident
from .nodes import Volume
from .world import World

HOLDERS_SHOWN = 20  # paths of which is told who holds what
NAMES_SHOWN = 8  # nodes named in one group


def watch(world: World, volume: Volume) -> None:
    """Open, follow and close what tells of undetermined paths."""
    if volume.config.policy == "baseline":
        _watch_pin(world, volume)
        return
    incident = world.open_incident("undetermined", None, volume.name)
    changed = _run_clocks(volume, world.now.mono)
    if not volume.undetermined:
        volume.unclear_count = 0
        if incident is not None and volume.truth is not None and len(volume.voters) >= volume.need:
            incident.note(world.now.wall_ms, "note", "A majority agrees again on every path.")
            world.close(incident)
            world.publish("volume", volume.name)
        return
    config = volume.config
    found = volume.unclear.confirm(world.now.mono, config.settle_s, config.settle_s, math.inf)
    if found.next_at is not None:
        world.wake(found.next_at)
    if found.confirmed != volume.unclear_count:
        volume.unclear_count = found.confirmed
        world.publish("volume", volume.name)
        changed = True
    if not found.confirmed:
        return
    if incident is None:
        assert found.since is not None, "what is confirmed was first seen at some time"
        world.open(_new_incident(world, volume, found.since))
    elif changed:
        rows = _rows(world, volume)
        incident.observe_paths(rows, found.confirmed)
        incident.evidence.update(_holders(world, volume, rows))
        world.touch_incident(incident)


def shown_count(world: World, volume: Volume) -> int:
    """How many paths people are told of. After a restart what was known before, until enough nodes vote."""
    incident = world.open_incident("undetermined", None, volume.name)
    if incident is None:
        return volume.unclear_count
    if volume.config.policy == "baseline" or len(volume.voters) < volume.need:
        return max(incident.path_count, 1)
    return max(len(volume.undetermined), 1)


def _run_clocks(volume: Volume, now: float) -> bool:
    """Whether other paths are undetermined than before."""
    if len(volume.unclear) == len(volume.undetermined) and volume.unclear_of is volume.undetermined:
        return False
    volume.unclear_of = volume.undetermined
    volume.unclear.watch(sorted(volume.undetermined), now)
    return True


def _rows(world: World, volume: Volume) -> list[DiffRow]:
    found = volume.unclear.lasting(world.now.mono - volume.config.settle_s)
    return [DiffRow(key, "modified") for key in islice(found, INCIDENT_MAX_PATHS)]


def _holders(world: World, volume: Volume, rows: list[DiffRow]) -> dict[str, list[str]]:
    """Who holds what, for the first paths: the groups between which a person has to choose.

    `sides`: one node of each group of the first path, for whoever wants to compare them.
    """
    keys = [one.key for one in rows[:HOLDERS_SHOWN]]
    held = {
        name: world.tree.lookup_many(root, keys)
        for name in volume.voters
        if (root := world.nodes[name].volume(volume.name).root) is not None
    }
    told: list[str] = []
    sides: list[str] = []
    for key in keys:
        groups: dict[bytes | None, list[str]] = {}
        for name, values in held.items():
            groups.setdefault(values.get(key), []).append(name)
        ordered = sorted(groups.items(), key=lambda one: (-len(one[1]), one[1]))
        sides = sides or [names[0] for _, names in ordered]
        parts = [
            f"{words.join(names, NAMES_SHOWN)} {'has' if len(names) == 1 else 'have'} "
            + words.value_words(value, world.algorithm)
            for value, names in ordered
        ]
        told.append(words.line(f"{words.path_words(key)}: {'; '.join(parts)}"))
    return {"entries": told, "sides": sides}


def _new_incident(world: World, volume: Volume, since: float) -> Incident:
    rows = _rows(world, volume)
    return incidents.undetermined(
        id=world.next_incident(),
        volume=volume.name,
        now_ms=world.now.wall_ms,
        first_seen_ms=world.now.wall_ms - int((world.now.mono - since) * 1000),
        rows=rows,
        path_count=volume.unclear_count,
        voted=len(volume.voters),
        assigned=len(volume.config.nodes),
        need=volume.need,
        evidence={"voters": list(volume.voters), **_holders(world, volume, rows)},
    )


def _watch_pin(world: World, volume: Volume) -> None:
    """A baseline volume without a pin: nobody can be judged (RULES 1.12)."""
    incident = world.open_incident("undetermined", None, volume.name)
    if volume.truth is not None:
        volume.unpinned_since = None
        if incident is not None:
            incident.note(world.now.wall_ms, "note", f"The baseline {volume.record.pinned} is pinned.")
            world.close(incident)
        return
    if volume.unpinned_since is None:
        volume.unpinned_since = world.now.mono
    due = volume.unpinned_since + volume.config.settle_s
    if world.now.mono < due:
        world.wake(due)
    if incident is not None or world.now.mono < due:
        return
    roots = [node.volume(volume.name).root for node in world.members(volume)]
    entries = max((world.tree.summary(root).entries for root in roots if root is not None), default=0)
    name = volume.name
    incident = Incident(
        world.next_incident(), "undetermined", None, name, world.now.wall_ms,
        f"Volume {name} goes by a baseline and none is pinned: nobody can tell what is right in it",
        f"Nothing of {name} is judged or repaired until a known good state is named: `closeranks baseline create "
        f"NAME --volume {name} --node NODE`, then `closeranks baseline pin {name} NAME`.",
        path_count=entries,
    )  # fmt: skip
    incident.note(world.now.wall_ms, "detected", incident.summary)
    world.open(incident)
