"""Volumes whose writes closeranks carries: what writers change becomes the truth in the order of its arrival.

A writer's own changes are merged the moment they are stored (`merging`), unless a guard holds them. Nothing
that we brought about ourselves counts as a change, nor anything of a node that is fenced, has not joined, is
being brought to another tree, or whose tree nobody can trust. The first truth is the union of the writers'
trees (`founding`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Mapping

from closeranks_proto.paths import escape, path_of

from . import conflicts, decay, guards, movement, recurrence, seconds
from .changes import Changes
from .founding import unite
from .holders import somebody_gives
from .judge import Analysis
from .merging import Merged, merging
from .nodes import Node, Volume
from .records import NodeVolume
from .stepping import key_parts, parts
from .succession import Heir, base_beside, unknown_to, up_to_date
from .truth import Decision, Values, quorum_of
from .values import is_file
from .world import World

FOUND_WAIT_S = 5.0  # beyond settle_s: how long a founding waits for the rest of the writers

Look = Callable[[World, Volume, Node], bool]


def follow(world: World, volume: Volume, look: Look) -> Iterator[None]:
    """Found the truth, or merge what writers have changed; in parts. `look` brings a node's analysis up to date."""
    volume.voters = tuple(node for node in volume.config.writers if world.may_vote(world.nodes[node], volume))
    if volume.truth is None:
        _found(world, volume)
        if volume.truth is None:
            return
    for part in parts(volume.config.writers):
        for writer in part:
            if may_write(world, volume, world.nodes[writer]):
                yield from _take_over(world, volume, world.nodes[writer], look)
        yield
    if world.kept:
        _drop_lost(world, volume)


def _take_over(world: World, volume: Volume, node: Node, look: Look) -> Iterator[None]:
    """Merge what this writer has changed, if it may; in parts."""
    if look(world, volume, node):
        yield
    view = node.view(volume.name)
    if view.analysis is None or not view.analysis.divergent:
        view.changes = None
        return
    own = own_of(node, volume)
    if (yield from guards.may_merge(world, volume, node, own)):
        yield
        recurrence.merged(world, volume, node, own)
        yield from _merge(world, volume, node, own)
        yield
        look(world, volume, node)
        yield


def may_write(world: World, volume: Volume, node: Node) -> bool:
    """Whether this node's own changes may become the truth, guards aside.

    Who is late writes on while it is brought on. Of other recoveries nothing need be asked: a divergence is repaired
    behind a fence, and who joins has held nothing yet. Nor of settings: whoever holds something has scanned by these.
    """
    stored = node.volume(volume.name)
    return (
        node.name in volume.config.writers
        and node.session is not None
        and not node.fenced
        and stored.root is not None
        and stored.held is not None
        and not world.untrusted(node, volume.name)
    )


def own_of(node: Node, volume: Volume) -> Mapping[bytes, Values]:
    """What this node has changed itself: key to (its entry, the truth's)."""
    view = node.view(volume.name)
    analysis = view.analysis
    assert analysis is not None, "asked of an analysed node"
    if view.changes is None or view.changes.analysis is not analysis:
        view.changes = Changes(analysis)
    return view.changes.own


def _merge(world: World, volume: Volume, node: Node, own: Mapping[bytes, Values]) -> Iterator[None]:
    analysis, stored = node.view(volume.name).analysis, node.volume(volume.name)
    assert analysis is not None, "asked of an analysed node"
    merged = yield from _merged(world, volume, node, analysis, own)
    winners = [_author(volume, clash.key) for clash in merged.clashes]
    if merged.changes:
        decision = yield from _after(world, analysis, merged.changes)
        yield
        movement.move(world, volume, decision, node.name)
    if merged.held:
        assert stored.held is not None, "who writes has joined"
        edited = world.tree.edit(stored.held, sorted(merged.held.items()))
        world.keep(edited.pages)
        stored.held = edited.root
        world.touch_node(node)
    for clash, winner in zip(merged.clashes, winners, strict=True):
        conflicts.add(world, volume, node, clash, winner)
    if merged.clashes:
        conflicts.close_resolved(world, volume)


def _merged(
    world: World, volume: Volume, node: Node, analysis: Analysis, own: Mapping[bytes, Values]
) -> Generator[None, None, Merged]:
    """What becomes of these changes. Of what has decayed after it was moved, what was there goes to the new name."""

    def merge_with(
        moves: Mapping[bytes, decay.Moved], without: Container[bytes] = ()
    ) -> Generator[None, None, Merged]:
        left = {key: values for key, values in own.items() if key not in without} if without else own
        return merging(
            world.tree,
            analysis,
            decay.taken_back(left, moves),
            node.name,
            world.now.wall_ms,
            lambda key: not somebody_gives(world, volume, key),
        )

    if not node.volume(volume.name).decayed:
        return (yield from merge_with({}))
    moves = decay.moved(world, volume, node, own)
    kept = decay.done((yield from merge_with(moves)), moves, world.algorithm.width)
    dropped = decay.dropped(world, volume, node, own, kept)
    merged = yield from merge_with(kept, dropped)
    for key in kept:
        if key in merged.changes or key in merged.held:
            merged.held[key] = own[key][0]  # it is late from what lies there now
    for key, value in dropped.items():
        merged.held[key] = value
        text = (
            f"{node.name} had {escape(path_of(key))} new, and its disk spoilt it before anybody had it. It is taken "
            "away there: its content is, or was, elsewhere in the volume."
        )
        world.log("warning", f"{volume.name}: {text}")
    return merged


def _after(
    world: World, analysis: Analysis, changes: Mapping[bytes, bytes | None]
) -> Generator[None, None, Decision]:
    """The truth with these changes: mostly it is the writer's whole tree, which need not be made again."""
    raw = analysis.raw
    if len(changes) == len(raw) and all(
        key in raw and raw[key][0] == after for key, after in changes.items()
    ):
        decision = Decision(analysis.root)
    else:
        edited = world.tree.edit(analysis.truth, sorted(changes.items()))
        decision = Decision(edited.root, pages=edited.pages)
    assert decision.root is not None, "a tree was made"
    yield
    step = yield from _step_of(world, analysis, changes)
    world.differ.learn(analysis.truth, decision.root, step)
    return decision


def _step_of(
    world: World, analysis: Analysis, changes: Mapping[bytes, bytes | None]
) -> Generator[None, None, Mapping[bytes, Values]]:
    """What a merge made of the truth, path by path: (before, after)."""
    found: dict[bytes, Values] = {}
    for part in key_parts(list(changes)):
        for key in part:
            values, after = analysis.raw.get(key), changes[key]
            before = world.tree.lookup(analysis.truth, key) if values is None else values[1]
            if before != after:
                found[key] = (before, after)
        yield
    return found


def _drop_lost(world: World, volume: Volume) -> None:
    """A second version that its own writer has overwritten before anybody fetched it exists nowhere any more."""
    changes: dict[bytes, bytes | None] = {}
    for record in seconds.unplaced(world, volume):
        analysis = (
            world.nodes[record.loser].view(volume.name).analysis if record.loser in world.nodes else None
        )
        if analysis is None or record.kept is None or analysis.truth != volume.truth:
            continue
        for key in seconds.lacking(world, analysis, record):
            if is_file(analysis.raw[key][1]) and not somebody_gives(world, volume, key):
                changes[key] = None
    if changes and volume.truth is not None:
        edited = world.tree.edit(volume.truth, sorted(changes.items()))
        movement.move(world, volume, Decision(edited.root, pages=edited.pages))


def _author(volume: Volume, key: bytes) -> str:
    """Whose change the truth's entry is; "" where nobody knows any more."""
    order = volume.history.newest_order(key)
    return "" if order is None else volume.record.authors.get(order, "")


# --- the first truth ------------------------------------------------------------------------------


def _found(world: World, volume: Volume) -> None:
    """Found the truth once the writers have been heard, as completely as they can be."""
    config = volume.config
    roots = {
        name: root
        for name in config.writers
        if (root := world.nodes[name].volume(volume.name).root) is not None
        and world.may_vote(world.nodes[name], volume)
    }
    least = quorum_of(len(config.nodes)) if config.policy == "any-writer" else 1
    if len(roots) < least:
        volume.votes_since = None
        return
    if volume.votes_since is None:
        volume.votes_since = world.now.mono
    due = volume.votes_since + config.settle_s + FOUND_WAIT_S
    decayed = any(world.nodes[name].volume(volume.name).decayed for name in roots)
    heard = len(roots) == len(config.writers) and not (decayed and _is_somebody_unheard(world, volume))
    if not heard and world.now.mono < due:
        world.wake(due)
        return
    if not heard and any(_is_reading(world, volume, world.nodes[name]) for name in config.writers):
        return  # its end is an event
    if not heard and all(root == world.tree.empty.root for root in roots.values()):
        return  # nothing could be spread, and whoever comes with files would lose them to its trash
    sound = {name: decay.sound(world, volume, world.nodes[name], root) for name, root in roots.items()}
    before, volume.record.before = volume.record.before, None
    heirs = _heirs(world, volume, sound)
    founders = sound
    if before is not None and heirs:
        founders = up_to_date(world.tree, heirs, before, world.keep, volume.record.whole_bytes)
    union = unite(world.tree, founders, world.now.wall_ms, world.keep)
    if before is not None:
        _leave_to_absent(world, volume, heirs, before, union.root)
    movement.move(world, volume, Decision(union.root, pages=union.pages))
    for name in founders:
        node = world.nodes[name]
        node.volume(volume.name).held = roots[name]  # what it lacks of the others' is on its way to it
        world.touch_node(node)
    for clash, loser, winner in union.clashes:
        conflicts.add(world, volume, world.nodes[loser], clash, winner)
    conflicts.close_resolved(world, volume)


def _is_reading(world: World, volume: Volume, node: Node) -> bool:
    """Whether this writer is there and still reads its tree for the first time, or by new rules.

    It may take hours, and empty trees are read at once: founded on those, all that it has would go to its trash.
    """
    stored = node.volume(volume.name)
    if node.session is None or node.fenced or volume.name not in (node.offers or ()):
        return False
    if stored.status is not None and stored.status.problem is not None:
        return False  # nobody knows when it ends: it is told by name
    return stored.root is None or stored.settings != volume.settings or volume.name not in node.scanned


def _heirs(world: World, volume: Volume, roots: Mapping[str, bytes]) -> dict[str, Heir]:
    """The writers whose trees go on from the truth of before, where there was one.

    Who had not joined that joins this one as well, and so does a machine that was built anew since; unless all have.
    """
    heirs: dict[str, Heir] = {}
    for name, root in roots.items():
        stored = world.nodes[name].volume(volume.name)
        base, stored.before = stored.before, None
        world.touch_node(world.nodes[name])
        heir = None if base is None else _heir(world, volume, stored, root, base)
        if heir is not None:
            heirs[name] = heir
    return heirs


def _leave_to_absent(
    world: World, volume: Volume, heirs: Mapping[str, Heir], before: bytes, root: bytes
) -> None:
    """What was the truth and none of the founders has is not late on a writer that comes with it afterwards."""
    absent = [
        stored
        for name in volume.config.writers
        if (stored := world.nodes[name].volume(volume.name)).before is not None
    ]
    unknown = unknown_to(world.tree, heirs, before, volume.record.whole_bytes) if absent else {}
    for stored in absent:
        assert stored.before is not None, "asked above"
        edited = base_beside(world.tree, stored.before, before, root, unknown)
        world.keep(edited.pages)
        stored.before = edited.root


def _heir(world: World, volume: Volume, stored: NodeVolume, root: bytes, base: bytes) -> Heir | None:
    """None for a machine that was built anew. As many removals are believed as no guard would hold."""
    if is_built_anew(world, stored, root, base):
        return None
    entries, rules = world.tree.summary(base).entries, volume.config.guards
    share = max(rules.share_min_paths, int(rules.deleted_share * entries))
    return Heir(root, base, 0 if stored.anew else min(share, entries - 1), stored.anew)


def is_built_anew(world: World, stored: NodeVolume, root: bytes, base: bytes) -> bool:
    """Whether this tree, told by another agent or index than held `base`, lacks more than half of that."""
    if not stored.anew:
        return False
    gone = sum(ours is None for ours, _ in world.differ.diff(root, base).values())
    return 2 * gone > world.tree.summary(base).entries


def _is_somebody_unheard(world: World, volume: Volume) -> bool:
    """Whether a node that is to have this volume, writer or not, has not told of its tree yet."""
    return any(world.nodes[name].volume(volume.name).root is None for name in volume.config.nodes)
