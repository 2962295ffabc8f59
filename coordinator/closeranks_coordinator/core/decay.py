"""Files on writers' disks whose bytes nobody wrote: their scrubs found other ones than were there.

What a writer changes becomes the truth, and rot must not. Its agent tells of it in two ways: a scrub's commit by its
cause, and an announcement, which states a tree and not how it came about, by naming these files with their entries of
before. Either way that is kept with the node's root, for as long as the root has them so, over a restart too: a
change may wait for a guard, and a founding for other nodes.

- Where the entry of before was the truth, or has its content, nobody wrote what is there now: the writer is late.
- Where it never was, the writer's own change has decayed before anybody had heard of it. If it was a *move* of what
  others have still under the old name, the truth is what was there: the good content goes to the new name, and the
  writer gets it back from the others. If the truth is remembered to have had the content under some other name, the
  change is dropped, and told: others have moved or removed it meanwhile, and rot is nobody's wish. Else what is left
  of that change is its change: nobody knows better bytes.
- Whoever writes over rot has changed what was there before it.
- A truth is founded on what was there, wherever another node has that.

Bounded as announcements are: the newest DECAYED_MAX. Rejected: looking for the content in all of the truth (a copy
that decays takes nothing from anybody: the original stays where it is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from closeranks_proto.entries import content_digest, same_content
from closeranks_proto.limits import DECAYED_MAX

from .holders import lies_there
from .judge import Made
from .merging import Merged
from .model import RootStored
from .nodes import Node, Volume
from .records import NodeVolume
from .truth import Values
from .values import is_file
from .world import World


def follow(world: World, node: Node, event: RootStored, before: bytes | None, is_commit: bool) -> None:
    """The node has come from the root `before` to this one.

    What is left of a change may have become the truth. From then on that is what was there before: what becomes of it
    later is no change.
    """
    stored, volume = node.volume(event.volume), world.volumes[event.volume]
    if stored.decayed and before is not None and event.cause != "scrub":
        _write_over(world, stored, before, event)
    if node.name not in volume.config.writers:
        stored.decayed = {}
    elif not is_commit or before is None:
        known = dict(event.decayed)
        again = [key for key in known if key in stored.decayed]
        for key in again:
            old = None if before is None else world.tree.lookup(before, key)
            if old is not None and _was_truth(world, volume, key, old):
                known[key] = old
        stored.decayed = known
    elif stored.decayed or event.cause == "scrub":
        changed = world.differ.diff(before, event.root)
        known = {key: value for key, value in stored.decayed.items() if key not in changed}
        if event.cause == "scrub":
            for key, (old, new) in changed.items():
                if old is not None and is_file(old) and is_file(new):
                    is_base = key not in stored.decayed or _was_truth(world, volume, key, old)
                    known[key] = old if is_base else stored.decayed[key]
        stored.decayed = dict(islice(known.items(), max(0, len(known) - DECAYED_MAX), None))


def _write_over(world: World, stored: NodeVolume, before: bytes, event: RootStored) -> None:
    """Whoever writes over rot changes what was there before it: from that, and not from the rot, its change begins.

    Else it would clash with what its own disk had lost, as if another writer had been first. Who changes attributes
    alone has the rot still, and wishes it on nobody.
    """
    tree, told, width = world.tree, dict(event.decayed), world.algorithm.width
    whole: dict[bytes, bytes | None] = {}
    for key, was in stored.decayed.items():
        rot, now = tree.lookup(before, key), tree.lookup(event.root, key)
        if rot is None or key in told or (now is not None and same_content(now, rot, width)):
            continue
        if stored.held is not None and tree.lookup(stored.held, key) == rot:
            whole[key] = was
    if whole and stored.held is not None:
        edited = tree.edit(stored.held, sorted(whole.items()))
        world.keep(edited.pages)
        stored.held = edited.root


def _was_truth(world: World, volume: Volume, key: bytes, value: bytes) -> bool:
    truth = volume.truth
    return truth is not None and (
        world.tree.lookup(truth, key) == value or volume.history.latest_order(key, value) is not None
    )


def or_decayed(world: World, volume: Volume, node: Node, made: Made) -> Made:
    """`made`, and that nobody wrote what has become of what the truth had there."""
    decayed, history, width = node.volume(volume.name).decayed, volume.history, world.algorithm.width
    truth = volume.truth
    assert truth is not None, "a node is held against a truth"

    def made_or_decayed(key: bytes, step: Values) -> bool:
        before, (held, value) = decayed.get(key), step
        if before is None or before == value:
            return made(key, step)
        was = (held, world.tree.lookup(truth, key))
        return (
            any(one is not None and same_content(before, one, width) for one in was)
            or history.latest_order(key, before) is not None
            or made(key, step)
        )

    return made_or_decayed


# --- a merge --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moved:
    """What a writer has moved, and its disk spoilt then: the entry of before, and the names that it had."""

    before: bytes
    names: tuple[bytes, ...]


def moved(world: World, volume: Volume, node: Node, own: Mapping[bytes, Values]) -> dict[bytes, Moved]:
    """Of a writer's own changes those that are a move of a content which somebody has still under the old name."""
    analysis, width = node.view(volume.name).analysis, world.algorithm.width
    assert analysis is not None, "asked of an analysed node"
    found: dict[bytes, Moved] = {}
    for key, before in node.volume(volume.name).decayed.items():
        if key not in own or own[key][0] is None or not is_file(before):
            continue
        names = tuple(
            name
            for name, (_, theirs) in own.items()
            if theirs is not None and name != key and same_content(before, theirs, width)
        )
        if any(lies_there(world, volume, name) for name in names):
            found[key] = Moved(before, names)
    return found


def dropped(
    world: World, volume: Volume, node: Node, own: Mapping[bytes, Values], kept: Mapping[bytes, Moved]
) -> dict[bytes, bytes]:
    """Of a writer's own changes, to what lies there now, those of contents that the truth has had under other names."""
    width = world.algorithm.width
    found: dict[bytes, bytes] = {}
    asked: dict[bytes, list[bytes]] = {}
    for key, before in node.volume(volume.name).decayed.items():
        value = own[key][0] if key in own and key not in kept else None
        if value is not None and is_file(before) and value != before:
            found[key] = value
            asked.setdefault(content_digest(before, width), []).append(key)
    known = {content_digest(one, width) for one in volume.history.entries()} if found else set()
    return {key: found[key] for content, keys in asked.items() if content in known for key in keys}


def taken_back(own: Mapping[bytes, Values], moves: Mapping[bytes, Moved]) -> Mapping[bytes, Values]:
    """The writer's own changes with what was there before its disk spoilt it."""
    return {**own, **{key: (one.before, own[key][1]) for key, one in moves.items()}} if moves else own


def done(merged: Merged, moves: Mapping[bytes, Moved], width: int) -> dict[bytes, Moved]:
    """Those of the moves whose content leaves one of its old names with this merge: whoever has it there is late."""

    def leaves(before: bytes, name: bytes) -> bool:
        if name not in merged.changes:
            return False
        value = merged.changes[name]
        return value is None or not same_content(before, value, width)

    return {key: one for key, one in moves.items() if any(leaves(one.before, name) for name in one.names)}


# --- the first truth ------------------------------------------------------------------------------


def sound(world: World, volume: Volume, node: Node, root: bytes) -> bytes:
    """A writer's tree with what was there before its disk decayed, wherever another node has that content still.

    A coordinator that lost its state would else replace good copies everywhere by what is known to be rot.
    """
    width, whole = world.algorithm.width, dict[bytes, bytes]()
    others = [one.volume(volume.name).root for one in world.members(volume) if one is not node]
    for key, before in node.volume(volume.name).decayed.items():
        theirs = (world.tree.lookup(one, key) for one in others if one is not None)
        if any(value is not None and same_content(value, before, width) for value in theirs):
            whole[key] = before
    if not whole:
        return root
    edited = world.tree.edit(root, sorted(whole.items()))
    world.keep(edited.pages)
    return edited.root
