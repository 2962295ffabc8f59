"""What the store keeps of the world: each record by its kind and key, and how a new process takes it up again.

A recovery goes on after a restart: it is the node's as much as ours. Any other action that was running has ended with
the process that ran it, and is stored as failed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

import msgspec

from .incidents import Incident
from .model import Persist
from .nodes import Node, Recovery
from .records import (
    ActionRecord,
    BaselineRecord,
    ConflictRecord,
    Counters,
    HoldRecord,
    NodeRecord,
    RepairsRecord,
    ScrubRecord,
    SpeedRecord,
    VolumeRecord,
)
from .windows import Usual
from .writers import WritersRecord

if TYPE_CHECKING:
    from .world import World

STARTUP_GRACE_S = 10.0  # after a start nodes keep their stored state for so long


def persist(world: World, unjudged: frozenset[str] = frozenset()) -> Persist | None:
    """What the step under way must make durable; None when nothing. Unjudged nodes wait for a later one."""
    waiting = {one: None for one in world.dirty if one[0] == "node" and one[1] in unjudged}
    seal(world, waiting)
    records = tuple((kind, key, blob) for (kind, key), blob in world.sealed.items())
    objects, world.fresh, world.sealed = world.fresh, {}, {}
    world.published = {}
    return Persist(objects, records) if objects or records else None


def seal(world: World, waiting: Container[tuple[str, str]] = ()) -> None:
    """What changed so far is made durable as it is now by the step under way, whatever it still withholds.

    The effects gathered so far stand on it: a fence is sent, and the root that comes next leaves its node unjudged.
    """
    world.sealed.update(
        ((kind, key), encoded(world, kind, key)) for kind, key in world.dirty if (kind, key) not in waiting
    )
    world.dirty = {one: None for one in world.dirty if one in waiting}


def encoded(world: World, kind: str, key: str) -> bytes | None:
    """A record as it is now; None where it is gone."""
    found: object | None
    match kind:
        case "node":
            found = world.nodes[key].record if key in world.nodes else None
        case "volume":
            found = world.volumes[key].record if key in world.volumes else None
        case "incident":
            incident = world.incidents.get(key)
            return None if incident is None else incident.encode()
        case "action":
            found = world.actions.get(key)
        case "baseline":
            found = world.baselines.get(key)
        case "conflict":
            found = world.conflicts.get(key)
        case "hold":
            found = world.holds.get(key)
        case "usual":
            found = world.usuals.get(key)
        case "counters":
            found = world.counters
        case "writers":
            node = world.nodes.get(key)
            found = None if node is None else WritersRecord(node.writing.top(world.now.mono))
        case "speed":
            found = world.speed
        case "scrubs":
            found = world.scrubs
        case "repairs":
            found = world.repairs.get(key)
        case _:
            raise AssertionError(f"no record of kind {kind}")
    return None if found is None else msgspec.msgpack.encode(found)


def load(world: World, records: Iterable[tuple[str, str, bytes]]) -> dict[str, VolumeRecord]:
    """Take back what was persisted; the volumes' records for the caller to place."""
    volumes: dict[str, VolumeRecord] = {}
    remembered: dict[str, WritersRecord] = {}
    for kind, key, blob in sorted(records, key=lambda record: (record[0], len(record[1]), record[1])):
        match kind:
            case "node":
                world.nodes[key] = _loaded_node(world, key, msgspec.msgpack.decode(blob, type=NodeRecord))
            case "volume":
                volumes[key] = msgspec.msgpack.decode(blob, type=VolumeRecord)
            case "incident":
                incident = world.incidents[key] = Incident.decode(blob)
                if incident.is_open:
                    world.opened(incident)
                if incident.is_open and incident.kind == "duplicate_node" and incident.node is not None:
                    world.duplicates[incident.node] = world.now.mono
            case "action":
                world.actions[key] = msgspec.msgpack.decode(blob, type=ActionRecord)
            case "baseline":
                world.baselines[key] = msgspec.msgpack.decode(blob, type=BaselineRecord)
            case "conflict":
                conflict = world.conflicts[key] = msgspec.msgpack.decode(blob, type=ConflictRecord)
                if conflict.is_open and conflict.kept is not None:
                    world.kept[(conflict.volume, conflict.kept)] = key
                    world.unplaced[key] = None
            case "hold":
                world.holds[key] = msgspec.msgpack.decode(blob, type=HoldRecord)
            case "usual":
                world.usuals[key] = msgspec.msgpack.decode(blob, type=Usual)
            case "counters":
                world.counters = msgspec.msgpack.decode(blob, type=Counters)
            case "writers":
                remembered[key] = msgspec.msgpack.decode(blob, type=WritersRecord)
            case "speed":
                world.speed = msgspec.msgpack.decode(blob, type=SpeedRecord)
            case "scrubs":
                world.scrubs = msgspec.msgpack.decode(blob, type=ScrubRecord)
            case "repairs":
                world.repairs[key] = msgspec.msgpack.decode(blob, type=RepairsRecord)
            case _:
                world.log("warning", f"a stored record of unknown kind {kind!r} is left alone")
    for name, record in remembered.items():
        for hand in record.hands if name in world.nodes else ():
            world.nodes[name].writing.reported.add(hand, world.now.mono)
    _take_up(world)
    world.index_holds()
    return volumes


def _loaded_node(world: World, name: str, record: NodeRecord) -> Node:
    now = world.now.mono
    return Node(name, record, gone_at=now, grace_s=STARTUP_GRACE_S, suspect_since=now)


def _take_up(world: World) -> None:
    """Go on with recoveries; what else was running has ended with the former process."""
    running: dict[str, None] = {}
    for node in world.nodes.values():
        work = node.record.recovery
        if work is not None:
            node.recovery = Recovery(interrupted=True)
            running[work.action] = None
            if work.action in world.actions:
                node.recovery.bytes_before = world.actions[work.action].bytes_moved
    for action in world.actions.values():
        if action.state in ("queued", "running") and action.id not in running:
            action.state, action.error = "failed", "the coordinator was restarted"
            world.touch_action(action)
