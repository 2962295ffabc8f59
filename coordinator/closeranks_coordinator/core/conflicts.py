"""Conflicts: two writers changed one path, neither knew of the other. Who won, who lost, and where both versions are.

A conflict is open while the second version lies under its conflict name in the truth: whoever removes or renames
it there has decided. The records are bounded; those that are resolved give way first. One incident is open for
each loser and volume while a conflict of theirs is.
"""

from __future__ import annotations

from closeranks_proto.lines import timestamp

from . import hands, incidents, writers
from .diffs import row
from .incidents import Incident
from .judge import Differing
from .merging import Clash
from .nodes import Node, Volume
from .records import ConflictRecord
from .shapes import ConflictView
from .views import named_path
from .world import World

CONFLICTS_MAX = 1000  # of one volume


def add(world: World, volume: Volume, loser: Node, clash: Clash, winner: str) -> None:
    """Record one conflict, and tell of it."""
    world.counters.conflict += 1
    world.touch("counters", "")
    number = f"x-{world.counters.conflict:06d}"
    record = ConflictRecord(
        volume.name, clash.key, clash.kept, winner, loser.name, world.now.wall_ms, clash.ours, clash.theirs,
        is_open=clash.kept is not None,
    )  # fmt: skip
    world.conflicts[number] = record
    world.touch("conflict", number)
    if clash.kept is not None:
        world.kept[(volume.name, clash.kept)] = number
        world.unplaced[number] = None
    _make_room(world, volume)
    _tell(world, volume, loser, clash, winner)
    world.publish("volume", volume.name)


def follow(world: World, volume: Volume, changed: Differing) -> None:
    """The truth has moved: conflicts whose second version is gone from it are resolved."""
    if not world.kept:
        return
    losers: dict[str, None] = {}
    for key, (_, value) in changed.items():
        number = world.kept.get((volume.name, key))
        if number is not None and value is None:
            _resolve(world, number)
            losers[world.conflicts[number].loser] = None
    if losers:
        close_resolved(world, volume)


def founded(world: World, volume: Volume, root: bytes) -> None:
    """There is a new first truth: conflicts of before go on where it has their second version still."""
    kept = [key for name, key in world.kept if name == volume.name]
    follow(world, volume, {key: (None, None) for key in kept if world.tree.lookup(root, key) is None})


def open_of(world: World, volume: Volume, loser: str) -> list[ConflictRecord]:
    """The open conflicts that this node has lost."""
    if not world.kept:
        return []
    found = (world.conflicts[number] for (name, _), number in world.kept.items() if name == volume.name)
    return [one for one in found if one.loser == loser]


def close_resolved(world: World, volume: Volume) -> None:
    """Close the incidents of losers that have no open conflict any more."""
    for incident in world.open_incidents():
        if incident.kind != "conflict" or incident.volume != volume.name or incident.node is None:
            continue
        if not open_of(world, volume, incident.node):
            incident.note(world.now.wall_ms, "note", "No second version is left beside a first one.")
            world.close(incident)


def views(world: World, volume: str) -> tuple[ConflictView, ...]:
    """Newest first."""
    return tuple(_view(one) for one in reversed(world.conflicts.values()) if one.volume == volume)


def open_count(world: World, volume: str) -> int:
    return sum(name == volume for name, _ in world.kept)


def _resolve(world: World, number: str) -> None:
    record = world.conflicts[number]
    assert record.kept is not None, "only what was kept is resolved"
    record.is_open = False
    del world.kept[(record.volume, record.kept)]
    world.unplaced.pop(number, None)
    world.touch("conflict", number)


def _make_room(world: World, volume: Volume) -> None:
    numbers = [number for number, one in world.conflicts.items() if one.volume == volume.name]
    for _ in range(len(numbers) - CONFLICTS_MAX):
        gone = next((one for one in numbers if not world.conflicts[one].is_open), numbers[0])
        if world.conflicts[gone].is_open:
            _resolve(world, gone)
            text = "too many conflicts are open; the oldest is no longer listed, both its versions stay"
            world.log("warning", f"{volume.name}: {text}")
        del world.conflicts[gone]
        world.touch("conflict", gone)
        numbers.remove(gone)


def _tell(world: World, volume: Volume, loser: Node, clash: Clash, winner: str) -> None:
    rows = [
        row(
            clash.key,
            clash.ours,
            clash.theirs,
            world.object,
            world.algorithm.width,
            volume.config.chunk_bytes,
        )
    ]
    known = world.open_incident("conflict", loser.name, volume.name)
    named = winner or "another writer"
    incident: Incident = known or incidents.conflict(
        id=world.next_incident(),
        node=loser.name,
        winner=named,
        volume=volume.name,
        now_ms=world.now.wall_ms,
        rows=rows,
        path_count=1,
    )
    incident.evidence = {"decided_by": "order of arrival, path by path; the timeline says whose came first"}
    if known is not None:
        incident.observe_paths(rows, incident.path_count + (clash.key not in incident.paths))
    by = hands.of_key(world, loser, volume.name, clash.key)
    second_by = writers.who(by) if by.pid else ""
    first = world.nodes.get(winner)
    first_by = "" if first is None else hands.of_settled(first, volume.name, clash.key)
    text = incidents.conflict_words(
        clash.key,
        clash.kept,
        named,
        loser.name,
        first_by,
        second_by,
        removed=clash.ours is None,
        first_removed=clash.theirs is None,
    )
    incident.note(world.now.wall_ms, "note" if known is not None else "detected", text)
    hands.tell(incident, [hands.once(world, loser, volume.name, clash.key)])
    world.log("warning", f"{volume.name}: {text} ({incident.id})")
    if known is None:
        world.open(incident)
    else:
        world.touch_incident(incident)


def _view(record: ConflictRecord) -> ConflictView:
    path = named_path(record.key)
    kept = None if record.kept is None else named_path(record.kept)
    if record.kept is None:
        did = "had deleted it" if record.ours is None else "had changed only its attributes"
        what = f"{record.loser} {did}; nothing had to be kept"
    elif record.theirs is None:
        what = f"it had been deleted already; the version of {record.loser} is kept"
    elif record.is_open:
        what = f"both versions are kept; remove or rename the version of {record.loser} to resolve it"
    else:
        what = f"the version of {record.loser} is no longer there"
    return ConflictView(
        volume=record.volume,
        path=path["path"],
        path_b64=path["path_b64"],
        kept_path=None if kept is None else kept["path"],
        kept_path_b64=None if kept is None else kept["path_b64"],
        winner=record.winner or "another writer",
        loser=record.loser,
        at=timestamp(record.at_ms),
        state="open" if record.is_open else "resolved",
        what=what,
    )
