"""Second versions of a conflict that nobody but their own writer has: they must not be lost on their way to others.

Such a version lies under its plain name on its writer's disk, and is to lie under its conflict name. There it is put
first; only then is what came first brought to the plain name. The other way round the version would for a while be
in no tree, only in a trash, and whoever looks then must take it for one that its writer gave up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from closeranks_proto.entries import same_content
from closeranks_proto.paths import subtree_range

from .judge import Analysis
from .nodes import Node, Volume
from .records import ConflictRecord
from .values import above_of, is_directory

if TYPE_CHECKING:
    from .world import World


def lacking(world: World, analysis: Analysis, record: ConflictRecord) -> list[bytes]:
    """What of the second version its own writer has not got under the conflict name yet.

    In a directory that is kept there may be second versions of later conflicts: these are their writers' own.
    """
    kept = record.kept
    if kept is None:
        return []
    found = [kept] if kept in analysis.lagging else []
    if is_directory(record.ours):
        below = kept + b"\0"
        found += sorted(
            key for key in analysis.lagging if key.startswith(below) and not _is_anothers(world, record, key)
        )
    return found


def _is_anothers(world: World, record: ConflictRecord, key: bytes) -> bool:
    """Whether this path below a second version is, or lies in, the second version of another conflict."""
    return _record_of(world, record.volume, key) is not record


def _record_of(world: World, volume: str, key: bytes) -> ConflictRecord | None:
    """The open conflict whose second version this path is, or lies in."""
    names = (name for name in (key, *above_of(key)) if (volume, name) in world.kept)
    nearest = next(names, None)
    return None if nearest is None else world.conflicts[world.kept[volume, nearest]]


def lies_under_plain_name(world: World, volume: Volume, key: bytes) -> bool:
    """Whether the writer of a second version has this of it, as the truth has it, where it came from."""
    record = _record_of(world, volume.name, key)
    node = None if record is None else world.nodes.get(record.loser)
    if record is None or record.kept is None or node is None or volume.truth is None:
        return False
    root, theirs = node.volume(volume.name).root, world.tree.lookup(volume.truth, key)
    ours = None if root is None else world.tree.lookup(root, record.key + key[len(record.kept) :])
    return ours is not None and theirs is not None and same_content(ours, theirs, world.algorithm.width)


def _has(world: World, volume: Volume, name: str, record: ConflictRecord) -> bool:
    analysis = world.nodes[name].view(volume.name).analysis
    return analysis is not None and analysis.truth == volume.truth and not lacking(world, analysis, record)


def _is_elsewhere(world: World, volume: Volume, record: ConflictRecord) -> bool:
    return any(_has(world, volume, other, record) for other in volume.config.nodes if other != record.loser)


def unplaced(world: World, volume: Volume) -> list[ConflictRecord]:
    """Open conflicts whose second version nobody but its own writer is known to have."""
    found: list[ConflictRecord] = []
    for number in [one for one in world.unplaced if world.conflicts[one].volume == volume.name]:
        record = world.conflicts[number]
        node = world.nodes.get(record.loser)
        analysis = None if node is None else node.view(volume.name).analysis
        if analysis is None:
            continue
        if _is_elsewhere(world, volume, record):
            del world.unplaced[number]
        else:
            found.append(record)
    return found


def at_plain_names(world: World, volume: Volume, node: Node, truth: bytes) -> list[bytes]:
    """Where this node has second versions of its own that no writer has under their conflict names, as in `truth`."""
    told = (world.nodes[name].volume(volume.name).root for name in volume.config.writers)
    roots, tree = dict.fromkeys(root for root in told if root is not None), world.tree
    own, width = node.volume(volume.name).root, world.algorithm.width
    found: set[bytes] = set()
    for (name, kept), number in world.kept.items():
        record = world.conflicts[number]
        if own is None or (name, record.loser) != (volume.name, node.name):
            continue
        top = tree.lookup(truth, kept)
        below = tree.walk(truth, *subtree_range(kept)) if is_directory(top) else ()
        for key, theirs in () if top is None else ((kept, top), *below):
            plain = record.key + key[len(kept) :]
            ours = tree.lookup(own, plain)
            is_placed = any(tree.lookup(root, key) is not None for root in roots)
            is_its = (
                ours is not None
                and same_content(ours, theirs, width)
                and not _is_anothers(world, record, key)
            )
            if is_its and not is_placed:
                found.add(plain)
    return sorted(found)


def held_back(world: World, volume: Volume, node: Node, analysis: Analysis) -> tuple[bytes, ...]:
    """Paths whose version on this node must first be kept under its conflict name, there and nowhere else yet."""
    records = (world.conflicts[number] for number in world.unplaced)
    own = [one for one in records if one.loser == node.name and one.volume == volume.name]
    return tuple(
        one.key for one in own if lacking(world, analysis, one) and not _is_elsewhere(world, volume, one)
    )


def is_below(key: bytes, tops: Iterable[bytes]) -> bool:
    """Whether a path is one of these, or lies in one."""
    return any(key == top or key.startswith(top + b"\0") for top in tops)
