"""Who has, or could give, what the truth has: asked before something is called lost.

A content lies mostly where the truth has it. It may lie elsewhere for a while: under its plain name on the disk of its
own writer, where it came second (`seconds`), and under the name that it had before, on nodes that have yet to follow a
rename, when its writer's disk has spoilt it since (`decay`). Whoever has it under a name that is about to go needs
nobody to give it.

Rejected: an index of the truth by content. What lies under two names of the truth is given under both; what is asked
for here is on its way from one name to another, and stands among the few paths in which a node is late.
"""

from __future__ import annotations

from collections.abc import Iterator

from closeranks_proto.entries import content_digest, same_content

from . import seconds
from .judge import Analysis
from .nodes import Volume
from .truth import Values
from .world import World


def somebody_gives(world: World, volume: Volume, key: bytes) -> bool:
    """Whether any node, silent ones included, was last known to have the content that the truth has there.

    It may lie elsewhere: a second version under its plain name, before its writer was told of the other one, and what
    was renamed under the name that it had.
    """
    return (
        seconds.lies_under_plain_name(world, volume, key)
        or lies_there(world, volume, key)
        or lies_under_another_name(world, volume, key)
    )


def lies_there(world: World, volume: Volume, key: bytes) -> bool:
    """The same of this path alone. An entry that was merged of two changes lies on no disk as it is."""
    width = world.algorithm.width
    return any(
        ours == theirs or (ours is not None and theirs is not None and same_content(ours, theirs, width))
        for ours, theirs in versions(world, volume, key)
    )


def versions(world: World, volume: Volume, key: bytes) -> Iterator[Values]:
    """(a node's, the truth's) entry, of every node that told of its tree."""
    truth = volume.truth
    for node in world.members(volume):
        root = node.volume(volume.name).root
        if root is None or truth is None:
            continue
        analysis = node.view(volume.name).analysis
        if analysis is None or (analysis.root, analysis.truth) != (root, truth):
            yield world.tree.lookup(root, key), world.tree.lookup(truth, key)
        elif key in analysis.raw:
            yield analysis.raw[key]
        else:
            yield None, None


def lies_under_another_name(world: World, volume: Volume, key: bytes) -> bool:
    """Whether a node that is late has the truth's content under a name at which the truth has something else now."""
    value = None if volume.truth is None else world.tree.lookup(volume.truth, key)
    content = content_digest(value, world.algorithm.width)
    return bool(content) and any(
        analysis is not None and content in going(world, analysis)
        for analysis in (node.view(volume.name).analysis for node in world.members(volume))
    )


def going(world: World, analysis: Analysis) -> frozenset[bytes]:
    """Contents of files that this node has yet to remove or replace, since the truth has; made once an analysis."""
    known = world.going.get(analysis)
    if known is None:
        raw, width = analysis.raw, world.algorithm.width
        found = (content_digest(raw[key][0], width) for key in analysis.lagging)
        known = world.going[analysis] = frozenset(found) - {b""}
    return known
