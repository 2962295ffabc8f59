"""From votes to verdicts: moves each volume's truth, holds every node against it, confirms differences.

Runs after every event that can matter; what has not changed since the last time costs a comparison of
tuples. Nobody is named here (`naming`), fenced (`fencing`) or repaired (`recovery`).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

from . import currency, decay, movement, naming, rolling, sequencing, succession, unclear
from .changes import followed
from .judge import NOTHING_PASSED, Analysis, Differing, Made, Passed, Stand, Touched, nothing_made
from .nodes import Node, View, Volume
from .records import NodeVolume
from .stepping import PART_KEYS, parts
from .truth import Decision, Values, decide_quorum
from .world import World

Unclear = frozenset[bytes]
NOTHING = (b"", None)  # no entry's value: values of entries are never empty
SILENT_LOOK_S = 1.0
FOUND_WAIT_S = 5.0  # beyond settle_s: how long a founding waits for the rest of the fleet


def judge_volume(world: World, volume: Volume) -> Iterator[None]:
    """Bring truth, undetermined paths and every node's view of this volume up to date; in parts (`stepping`)."""
    world.own_of, world.passed_of, world.moved_of = {}, {}, {}
    world.judge.begin_round()
    if volume.config.replicated:
        yield from sequencing.follow(world, volume, _look)
    else:
        decision = yield from _decide(world, volume)
        if decision is not None:
            movement.move(world, volume, decision)
    yield
    unclear.watch(world, volume)
    nodes = world.members(volume)
    for part in parts(nodes):
        for node in part:
            if _look(world, volume, node):
                yield
        yield
    if volume.config.policy == "quorum":
        rolling.restart(volume, nodes, world.now.mono)
        yield
    yield from _confirm_all(world, volume, nodes)


# --- the truth ------------------------------------------------------------------------------------


def _decide(world: World, volume: Volume) -> Generator[None, None, Decision | None]:
    """The truth as it should be now; None when nothing that it depends on has changed."""
    if volume.config.policy == "baseline":
        volume.voters = ()
        pinned = world.baselines.get(volume.record.pinned or "")
        return Decision(None if pinned is None else pinned.root)
    votes: dict[str, bytes] = {}
    for part in parts(world.members(volume)):
        for node in part:
            root = node.volume(volume.name).root
            if root is not None and world.may_vote(node, volume):
                votes[node.name] = root
        yield
    volume.voters = tuple(votes)
    if volume.truth is None and not _may_found(world, volume, votes):
        return None
    basis = tuple(votes.items())
    if basis == volume.decided:
        return None
    decision = decide_quorum(world.differ, votes, volume.need, volume.truth)
    volume.decided = basis
    return decision


def _may_found(world: World, volume: Volume, votes: dict[str, bytes]) -> bool:
    """Equal majorities found at once; a fleet that disagrees is first heard as completely as it can be."""
    roots = list(votes.values())
    if any(roots.count(root) >= volume.need for root in dict.fromkeys(roots)):
        return True
    if len(votes) < volume.need:
        volume.votes_since = None
        return False
    if volume.votes_since is None:
        volume.votes_since = world.now.mono
    due = volume.votes_since + volume.config.settle_s + FOUND_WAIT_S
    if len(votes) == len(volume.config.nodes) or world.now.mono >= due:
        return True
    world.wake(due)
    return False


# --- nodes against it -----------------------------------------------------------------------------


def _go_on(world: World, volume: Volume, node: Node, writes: bool) -> None:
    """A writer that was away while other settings had a new truth founded goes on from what it held before."""
    stored, truth = node.volume(volume.name), volume.truth
    assert stored.root is not None, "there is something to look at"
    assert stored.before is not None, "it had held something"
    assert truth is not None, "a new truth is founded"
    if (
        writes
        and stored.held is None
        and not sequencing.is_built_anew(world, stored, stored.root, stored.before)
    ):
        base = succession.base_by_new_settings(
            world.tree, stored.root, stored.before, truth, volume.record.whole_bytes
        )
        world.keep(base.pages)
        stored.held = base.root
    stored.before = None
    world.touch_node(node)


def _look(world: World, volume: Volume, node: Node) -> bool:
    """Hold one node's root against the truth. Whether that was long work: it took a step in which much is otherwise."""
    truth, stored, view = volume.truth, node.volume(volume.name), node.view(volume.name)
    if truth is None or stored.root is None:
        if view.analysis is not None:
            node.views[volume.name] = View(seen=view.seen)
        return False
    before, is_long = view.analysis, False
    writes = node.name in volume.config.writers
    if stored.before is not None and stored.settings == volume.settings:
        _go_on(world, volume, node, writes)
    passed = _passed(world, volume, view, not writes)
    known = before is not None and view.stand is not None and not _has_moved(stored, truth, view.stand)
    if before is None or not known or view.by_us or passed:
        if before is not None and not passed and _may_wait(world, volume, node, view):
            return False
        view.looked_at = world.now.mono
        # Where writers' changes count, what is our doing is asked step by step: see `_made`. What another agent has
        # brought of the truth's past is no change either: a machine that was restored from a backup is only late.
        by_us = view.by_another or (view.by_us and not volume.config.replicated)
        stand = Stand(stored.root, truth, stored.held, stored.withheld, by_us)
        made = _made(world, volume, node)
        if view.brought:
            made = _or_brought(made, view.brought, volume)
        if stored.decayed:
            made = decay.or_decayed(world, volume, node, made)
        ours = view.by_us or bool(stored.decayed) or bool(view.brought)
        after, touched = world.judge.analyse(volume.history, stand, before, made, ours, not writes, passed)
        if after.held != stored.held:
            world.keep(after.pages)
            stored.held = after.held
            world.touch("node", node.name)
        if (
            stored.withheld
            and (withheld := tuple(key for key in stored.withheld if key in after.raw)) != stored.withheld
        ):
            # The truth gave these bits up, or somebody set them here: what sets them another time is a change.
            stored.withheld = withheld
            world.touch("node", node.name)
        is_long = len(after.differing) > PART_KEYS or (
            before is not None and len(before.differing) > PART_KEYS
        )
        view.analysis, view.by_us, view.by_another = after, False, False
        view.brought = frozenset()
        view.changes = followed(view.changes, before, after, touched)
        if stored.anew and not after.divergent:
            stored.anew = False
            world.touch("node", node.name)
        view.stand = Stand(stored.root, truth, stored.held, stored.withheld)
        world.publish("node", node.name)
        _remember_sizes(view, before, after, touched)
        naming.follow(world, volume, node, before, after, touched)
        if writes:
            view.clocks.watch((), world.now.mono)  # what a writer changes is no difference of its own
            view.undetermined, view.unclear, view.lag_unclear, view.fresh = volume.undetermined, 0, 0, []
        else:
            _run_clocks(world, view, before, after, volume.undetermined, touched)
        if volume.config.replicated:
            view.lag_since = view.late.follow(volume.history, before, after, world.now.mono)
            view.lag_at_least = view.late.at_least
    elif view.undetermined is not volume.undetermined and node.name not in volume.config.writers:
        _run_clocks(world, view, before, before, volume.undetermined, ())
        world.publish("node", node.name)
    if not view.behind:
        view.lag_since, view.lag_at_least = None, False
    elif view.lag_since is None:
        view.lag_since, view.lag_at_least = world.now.mono, before is None
    return is_long


def _passed(world: World, volume: Volume, view: View, replays: bool) -> Passed:
    """What the truth did where this node has something of its own doing, since it was looked at.

    Of several steps of the truth only the last is looked at. A node that had what the truth then came to is late
    from there on (RULES 1.5), however it came to have it. Where the truth came back to what the node has held, the
    node has not held that second one: a writer aside, for whom what it goes to is a change.
    """
    history, analysis = volume.history, view.analysis
    order = history.roots[-1][0]
    since, view.order = view.order, order
    if analysis is None or not analysis.divergent or since == order:
        return NOTHING_PASSED
    known = world.passed_of.get((analysis, since, order))
    if known is not None:
        return known
    met: dict[bytes, bytes | None] = {}
    returned: dict[bytes, bytes | None] = {}
    for step in history.after(since):
        for key in history.changed(step) or ():
            if not analysis.is_own(key):
                continue
            value = analysis.differing[key][0]
            if (history.latest_order(key, value) or 0) > since:
                met[key] = value
            left_for = history.left_for(key, analysis.held_value(key), since) if replays else None
            if left_for is not None:
                returned[key] = left_for[0]
    found = Passed(met, returned) if met or returned else NOTHING_PASSED
    world.passed_of[(analysis, since, order)] = found
    return found


def _may_wait(world: World, volume: Volume, node: Node, view: View) -> bool:
    """A silent node differs from a truth that moves on in more and more: it is enough to count that once a second."""
    stored, stand = node.volume(volume.name), view.stand
    return (
        volume.config.replicated
        and node.session is None
        and stand is not None
        and (stored.root, stored.held, stored.withheld) == (stand.root, stand.held, stand.withheld)
        and world.now.mono < view.looked_at + SILENT_LOOK_S
    )


def _has_moved(stored: NodeVolume, truth: bytes, stand: Stand) -> bool:
    return (
        stored.root != stand.root
        or truth != stand.truth
        or stored.held != stand.held
        or stored.withheld != stand.withheld
    )


def _made(world: World, volume: Volume, node: Node) -> Made:
    """Whether we brought a node to a value ourselves: asked where the truth's history does not tell.

    All that a commit of ours changed is our doing, also where it undid what the node itself had changed a moment
    before: a converge may end after its order was overtaken. A tree that was announced may have changes of the
    node's own in it. After a restart of ours, what it may have been told is known from the truth's history only.
    """
    view = node.view(volume.name)
    pushed, orders, before = view.pushing.made, tuple(view.orders), view.analysis
    if not view.by_us or not volume.config.replicated:
        return pushed if view.pushing.sent or view.pushing.sent_before else nothing_made
    root = node.volume(volume.name).root
    changed: Differing = {}
    if view.is_commit and before is not None and root is not None:
        changed = world.differ.diff(before.root, root)

    def made(key: bytes, step: Values) -> bool:
        if key in changed or pushed(key, step):
            return True
        if not orders and node.record.recovery is not None:
            return volume.history.latest_order(key, step[1]) is not None
        return any(
            world.tree.lookup(target, key) == step[1] != world.tree.lookup(root, key)
            for root, target in orders
        )

    return made


def _or_brought(made: Made, brought: frozenset[bytes], volume: Volume) -> Made:
    """The same of a tree that was told anew: what its agent had from us counts as that, whenever the truth was so.

    A step of ours may be told when nobody here remembers that it was ordered. Where the path had been absent twice,
    what was between would be the node's own change. Where we carry the writes this takes nothing but a change of its
    own from whoever says it. Elsewhere it excuses a difference, so it counts as a converge's commit does there:
    for what the truth has had.
    """
    if volume.config.replicated:
        return lambda key, step: key in brought or made(key, step)
    had = volume.history.latest_order
    return lambda key, step: (key in brought and had(key, step[1]) is not None) or made(key, step)


def _run_clocks(
    world: World,
    view: View,
    before: Analysis | None,
    after: Analysis,
    unclear_keys: Unclear,
    touched: Touched,
) -> None:
    """Clocks run for what a node brought itself and somebody can judge."""
    now = world.now.mono
    if not after.differing and not len(view.clocks):
        view.undetermined, view.unclear, view.lag_unclear = unclear_keys, 0, 0
        return
    if touched is not None and view.undetermined is not unclear_keys:
        if 2 * abs(len(view.undetermined) - len(unclear_keys)) > len(after.differing):
            touched = None  # most of it is otherwise: counted once for all nodes that stand alike
        else:
            touched = (*touched, *(view.undetermined ^ unclear_keys))
    if touched is None:
        own = _own_of(world, after, unclear_keys)
        view.clocks.watch(own, now)
    else:
        own, gone = _moved_of(world, after, touched, unclear_keys)
        view.clocks.change(own, gone, now)
    if before is None or not before.differing:
        view.fresh += own
    elif before is not after:
        known = before.differing
        view.fresh += [key for key in own if known.get(key, NOTHING)[0] != after.differing[key][0]]
    view.undetermined = unclear_keys
    if unclear_keys and after.differing.keys() <= unclear_keys:
        view.unclear, view.lag_unclear = len(after.differing), len(after.lagging)
    else:
        view.unclear = sum(map(after.differing.__contains__, unclear_keys))
        view.lag_unclear = sum(map(after.lagging.__contains__, unclear_keys))


def _own_of(world: World, analysis: Analysis, unclear_keys: Unclear) -> tuple[bytes, ...]:
    """Own paths that somebody can judge: of a whole fleet that stands alike they are listed once, not once a node."""
    known = world.own_of.get((analysis, id(unclear_keys)))
    if known is None:
        if not unclear_keys:
            known = tuple(analysis.own_keys())
        elif analysis.differing.keys() <= unclear_keys:
            known = ()
        else:
            known = tuple(key for key in analysis.own_keys() if key not in unclear_keys)
        world.own_of[(analysis, id(unclear_keys))] = known
    return known


def _moved_of(
    world: World, analysis: Analysis, touched: tuple[bytes, ...], unclear_keys: Unclear
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Of what a step touched: own paths that somebody can judge, and the others. Of one step of many nodes: once."""
    known = world.moved_of.get((analysis, touched, id(unclear_keys)))
    if known is None:
        own = tuple(key for key in touched if analysis.is_own(key) and key not in unclear_keys)
        ours = frozenset(own)
        known = own, tuple(key for key in touched if key not in ours)
        world.moved_of[(analysis, touched, id(unclear_keys))] = known
    return known


def _remember_sizes(view: View, before: Analysis | None, after: Analysis, touched: Touched) -> None:
    """What the differing bytes were added up from, so that only what changes is added up again."""
    if before is None or touched is None or view.size is None:
        view.size = None
        return
    for key in touched:
        view.size.changed.setdefault(key, before.differing.get(key))


# --- confirmation ---------------------------------------------------------------------------------


def _confirm_all(world: World, volume: Volume, nodes: list[Node]) -> Iterator[None]:
    """Confirm what has lasted, and ask those on whose word something still waits."""
    looks = currency.Looks(world, volume)
    waiting: list[tuple[str, float]] = []
    for part in parts(nodes):
        for node in part:
            since = _confirm(world, volume, node, looks)
            if since is not None:
                waiting.append((node.name, since))
        yield
    currency.ask_voters(world, volume, waiting)


def _confirm(world: World, volume: Volume, node: Node, looks: currency.Looks) -> float | None:
    """Confirm what has lasted, and have the node named. Since when a difference waits for others to look."""
    view, config = node.view(volume.name), volume.config
    if not len(view.clocks):
        view.confirmed = view.unconfirmed = 0
        if view.analysis is not None and not view.analysis.divergent:
            node.observed.pop(volume.name, None)
            naming.healed(world, volume, node)
        return None
    seen = looks.of_others(node.name) if config.policy == "quorum" else math.inf
    waiting = None
    if config.policy == "quorum" and not node.fenced:
        waiting = view.clocks.newest_unsettled(0.0 if seen is None else seen)
    found = view.clocks.confirm(world.now.mono, config.settle_s, config.settle_max_s, seen)
    if found.next_at is not None:
        world.wake(found.next_at)
    view.unconfirmed = found.unconfirmed
    if node.fenced:
        view.confirmed = 0
    elif world.compared(node, volume):
        view.confirmed = found.confirmed
        if found.confirmed:
            naming.name(world, volume, node, found)
    return waiting
