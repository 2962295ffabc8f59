"""What a writer lacks of the truth and no node has any more: only a person can say that its own state counts instead.

A writer's machine that was put back joins: what it has of its own goes to its trash, and the truth is brought to it.
But where nobody else had fetched what it had written since, the truth names contents that lie nowhere, and it would
wait for ever, with everybody who needs it as a source. No rule decides that, for the old versions may be wanted by
nobody; and behind a fence it can not go where all others are already. `release` of that node then says: in these paths
it has changed what was there, as of now. In all others it stays late, and gets them when somebody can give them.

Rejected: its whole tree as its change (it would take away what fenced nodes still have), the truth of before (it may
never have been one state on any disk), founding anew (deletions are forgotten, and all are compared from the start).
"""

from __future__ import annotations

from collections.abc import Mapping

from . import seconds
from .fencing import drop_recovery
from .holders import somebody_gives
from .nodes import Node, Volume
from .values import is_file
from .words import join, plural
from .world import World

WAITS = ("joining", "resyncing", "lagging")


def lost_to(world: World, node: Node, volume: Volume) -> Mapping[bytes, bytes]:
    """Files of the truth (key to entry) that this writer is late in and no node, fenced or silent, had last.

    A second version that waits for its own writer, who has it under the plain name, is not lost: it comes with it.
    """
    analysis = node.view(volume.name).analysis
    if (
        node.name not in volume.config.writers
        or node.fenced
        or node.record.phase not in WAITS
        or analysis is None
        or analysis.truth != volume.truth
        or not world.compared(node, volume)
    ):
        return {}
    late = ((key, analysis.differing[key][1]) for key in sorted(analysis.lagging))
    return {
        key: truth
        for key, truth in late
        if truth is not None and is_file(truth) and not somebody_gives(world, volume, key)
    }


def given_up(world: World, node: Node) -> dict[str, Mapping[bytes, bytes]]:
    """The same by volume, where it is known that nobody can give them: asked for once, and in vain."""
    recovers = node.recovery is not None and bool(node.recovery.noted)
    return {
        volume.name: lost
        for volume in world.volumes_of(node)
        if (recovers or node.view(volume.name).pushing.starved) and (lost := lost_to(world, node, volume))
    }


def let_stand(world: World, node: Node, lost: Mapping[str, Mapping[bytes, bytes]]) -> None:
    """By volume: what this node has there, or has not, is its change of what nobody has."""
    drop_recovery(world, node, "an operator let its own state stand where no node has the newer one")
    for name, entries in lost.items():
        stored, analysis = node.volume(name), node.view(name).analysis
        assert analysis is not None, "asked of an analysed node"
        edited = world.tree.edit(stored.held or analysis.root, sorted(entries.items()))
        world.keep(edited.pages)
        stored.held = edited.root
    world.touch_node(node)
    count = plural(sum(map(len, lost.values())), "file")
    text = f"An operator let {node.name}'s own state of {count} stand: no node has what was there last."
    world.log("warning", text)
    incident = world.open_incident("put_back", node.name, None)
    if incident is not None:
        incident.note(world.now.wall_ms, "note", text)
        world.touch_incident(incident)


def is_gone(world: World, node: Node, volume: Volume) -> bool:
    """Whether it could wait for ever: there is no truth without it, or nobody can give a writer what it lacks of it.

    Its own state, whatever it is, is then the best there is, and only a person can say so.
    """
    if volume.truth is None and volume.config.policy == "quorum":
        # Fences came along to a coordinator that had lost all it knew.
        unfenced = sum(not one.fenced for one in world.members(volume))
        return node.session is not None and unfenced < volume.need
    if node.name not in volume.config.writers or node.session is None:
        return False
    if volume.truth is None:
        return True
    analysis = node.view(volume.name).analysis
    if analysis is None or not world.compared(node, volume):
        return False
    givers = givers_of(world, node, volume)
    return all(
        is_file(truth)
        and not seconds.lies_under_plain_name(world, volume, key)
        and not any(has(world, volume, one, key, truth) for one in givers)
        for key, (_, truth) in analysis.differing.items()
    )


def givers_of(world: World, node: Node, volume: Volume) -> list[Node]:
    """Who can give this node something, now or later: all that are not fenced, and fenced ones that can get out.

    Who is silent, held or without its tree gives nothing now, and brings back what it has. Nor does a fenced node; but
    it can be brought back and released where those before it have all that it lacks. Only nodes that wait for each
    other behind their fences have to give something up.
    """
    others = [one for one in world.members(volume) if one is not node]
    found = [one for one in others if not one.fenced]
    waiting = [one for one in others if one.fenced]
    while out := [one for one in waiting if _may_get_out(world, volume, one, found)]:
        found += out
        waiting = [one for one in waiting if one not in out]
    return found


def _may_get_out(world: World, volume: Volume, node: Node, givers: list[Node]) -> bool:
    """Whether these have every file that this fenced node lacks of the truth."""
    root, truth = node.volume(volume.name).root, volume.truth
    if root is None or truth is None:
        return False
    return all(
        not is_file(theirs) or any(has(world, volume, one, key, theirs) for one in givers)
        for key, (_, theirs) in world.differ.diff(root, truth).items()
    )


def has(world: World, volume: Volume, node: Node, key: bytes, value: bytes | None) -> bool:
    root = node.volume(volume.name).root
    return root is not None and world.tree.lookup(root, key) == value


def release_of_lost(world: World, node: Node, volume: Volume) -> str:
    """That a release would let stand what this node has where nobody has the truth's; "" where it would not."""
    count = len(lost_to(world, node, volume))
    if node.fenced and all(is_gone(world, node, one) for one in world.concerned(node)):
        analysis = node.view(volume.name).analysis
        count = 0 if analysis is None else len(analysis.differing)
    if not count:
        return ""
    return (
        f" No node, fenced or silent, had the last version of {plural(count, 'file')}. If nobody can bring one back, "
        f"`closeranks release {node.name}` lets stand what {node.name} itself has there."
    )


def way_out(world: World, node: Node, volume: Volume) -> str:
    """What an operator can do where no peer can give a node what it lacks; "" where waiting is all."""
    fenced = [one for one in world.members(volume) if one is not node and one.fenced]
    if told := release_of_lost(world, node, volume):
        return told
    if not fenced:
        return ""
    one, fence = fenced[0], fenced[0].record.fence
    verified = fence is not None and fence.verified
    first = "" if verified else f"`closeranks resync {one.name} --wait`, then "
    names = join([each.name for each in fenced])
    return f" Fenced nodes give nothing ({names}): {first}`closeranks release {one.name}`."
