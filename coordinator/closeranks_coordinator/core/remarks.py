"""What a fence takes from the others where closeranks carries the writes: said with the fence, and while it stands.

A fenced node gives nothing to anybody. Under `quorum` most others hold the same; under `writers` and `any-writer` it
may be the only one that has what was written last, or the only one that may write. The fence stands all the same: who
fences knows why. But nobody should learn of it by wiping that node. Looked at anew whenever somebody asks, within
KEYS_MAX paths.
"""

from __future__ import annotations

from itertools import islice

from .nodes import Node, Volume
from .values import is_file
from .words import join, path_list, plural
from .world import World

KEYS_MAX = 10_000  # of the other node that lacks least


def of_fence(world: World, node: Node) -> tuple[str, ...]:
    """One printable sentence for each volume that pays for this node's fence."""
    found: list[str] = []
    for volume in world.volumes_of(node):
        if not volume.config.replicated:
            continue
        others = [
            one for one in world.members(volume) if one is not node and not one.fenced and one.session is not None
        ]  # fmt: skip
        name = volume.name
        if volume.config.may_write(node.name) and not any(
            volume.config.may_write(one.name) for one in others
        ):
            found.append(
                f"No other writer of volume {name} is in service: nothing new is carried there until {node.name} is "
                f"released."
            )
        only = _only_here(node, volume, others)
        if only:
            more = "at least " if len(only) >= KEYS_MAX else ""
            found.append(
                f"{node.name} alone has the present version of {more}{plural(len(only), 'path')} of volume {name} "
                f"({path_list(only, len(only))}): {join([one.name for one in others], 8)} can not fetch it while "
                f"{node.name} is fenced. Do not wipe {node.name} before it is released and the others have caught up."
            )
    return tuple(found)


def _only_here(node: Node, volume: Volume, others: list[Node]) -> list[bytes]:
    """Files of the truth that this node has and none of these."""
    own = node.view(volume.name).analysis
    known = [one.view(volume.name).analysis for one in others]
    there = list(dict.fromkeys(one for one in known if one is not None))  # nodes that stand alike have one
    if own is None or not there:
        return []  # nobody was compared: nothing is known
    least = min(there, key=lambda one: len(one.differing))
    found: list[bytes] = []
    for key, (_, truth) in islice(least.differing.items(), KEYS_MAX):
        if is_file(truth) and key not in own.differing and all(key in one.differing for one in there):
            found.append(key)
    return sorted(found)
