"""Pushing the truth's steps to the nodes of replicated volumes, as they happen.

One push for each node and volume is under way at a time, and the next is made of what the node lacks *then*:
a writer faster than the slowest replica makes larger pushes and a larger lag, never a longer queue. An edit says
what the node is known to hold, and is made only where it still does, so that a push can come late, twice or
never. Where pushes make no progress for `lag_grace_s`, `recovery` converges the node instead.
Nothing is pushed before a node has told what it has from before its session: an entry that it was brought then, and
that somebody has removed since, is as absent as it was before, and would come back.

What is sent first: what has to go before something can take its place; then new and changed entries in
ascending order, parents first, each beside the removal that its content may be taken from (so that a rename
moves no content); then the other removals, directories deepest first. Rejected: a queue of the truth's steps for
each node (unbounded, and a node that slept through a hundred versions of a file would be sent a hundred).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from closeranks_proto import messages as wire
from closeranks_proto.entries import content_digest, entry_size, same_content
from closeranks_proto.errors import MissingObject
from closeranks_proto.limits import (
    MIB,
    PUSH_GOOD_S,
    PUSH_LIST_MAX_BYTES,
    PUSH_MAX_BYTES,
    PUSH_MAX_EDITS,
    PUSH_SLOWEST_BYTES_S,
)

from . import seconds
from .givers import givers_to, is_had, lacked_by, ranked
from .holders import going
from .judge import Analysis, same_but_special_bits
from .nodes import Node, Pushing, View, Volume
from .stepping import PART_KEYS, key_parts
from .truth import Values
from .values import above_of, is_directory
from .world import World

SAMPLE_KEYS = 16  # of a push: whoever holds these is a source
LARGE_BYTES = 32 * MIB  # of a push: beyond it nodes fetch by turns
FETCH_MAX_BYTES = 256 * MIB  # of a push: one larger file goes alone
FETCHERS_OF_ONE = 4  # nodes that may fetch a large push at once from each that has it
RETRY_MIN_S = 0.2
RETRY_MAX_S = 30.0
TURN_S = 0.5  # between looks whether it is a large push's turn
NOTE_EVERY_S = 60.0  # in the log: a file that is replaced without rest fails each second; what lasts is told
EDIT_BYTES = 32  # of an edit on the wire besides its key, values and chunk list


@dataclass(frozen=True, slots=True)
class Batch:
    """One push as it is made: nodes that stand alike are sent the same. `todo` is what is left for the next.

    `fetch` are the bytes that have to be fetched for it, `sample` some of the paths that these belong to.
    """

    edits: tuple[wire.PushEdit, ...]
    fetch: int
    todo: tuple[bytes, ...]
    sent: dict[bytes, Values]
    sample: tuple[bytes, ...]


Alike = dict[int, Batch]


def drive(world: World) -> Iterator[None]:
    """Send what is due: at most one push for each node and volume is under way; in parts."""
    for volume in world.volumes.values():
        if not volume.config.replicated or volume.truth is None:
            continue
        alike: Alike = {}
        for node in world.members(volume):
            view = node.view(volume.name)
            if view.behind and _may_push(world, volume, node, view):
                yield from _push(world, volume, node, view, alike)


def answered(world: World, node: Node, result: wire.PushResult) -> None:
    """A node has made of a push what it could."""
    volume = world.volumes.get(result.volume)
    if volume is None or node.name not in volume.config.nodes:
        return
    state = node.view(result.volume).pushing
    world.count("closeranks_push_bytes_total", result.bytes_moved, node=node.name, volume=result.volume)
    if result.push != state.number or state.asked_at is None:
        return
    state.asked_at, state.fetch_bytes, state.source = None, 0, ""
    if result.applied and not volume.config.special_bits:
        _excuse(world, volume, node, state.sent)
    state.sent, state.sent_before = {}, {}  # its commits have come before its answer
    if result.problem is None:
        state.problem_since_ms = None
    elif state.problem is None or state.problem.code != result.problem.code:
        state.problem_since_ms = world.now.wall_ms
    state.problem, state.failed = result.problem, result.detail if result.failed else ""
    if result.applied:
        state.attempt, state.not_before, state.progress_at = 0, world.now.mono, world.now.mono
        if not result.failed:
            state.noted = ""
    else:
        _retry_later(world, state)
    is_due = world.now.mono >= state.noted_at + NOTE_EVERY_S
    if result.failed and result.detail and result.detail != state.noted and is_due:
        state.noted, state.noted_at = result.detail, world.now.mono
        world.log(
            "warning", f"{node.name}, {result.volume}: some pushed paths could not be made: {result.detail}"
        )
    if result.problem is not None:
        world.publish("node", node.name)


def _excuse(world: World, volume: Volume, node: Node, sent: Iterable[bytes]) -> None:
    """Special bits that the node may not write are withheld: they are not left to be done."""
    analysis, stored = node.view(volume.name).analysis, node.volume(volume.name)
    if analysis is None or not analysis.differing:
        return
    width = world.algorithm.width
    kept = [
        key
        for key in sent
        if key in analysis.differing and same_but_special_bits(analysis.differing[key], width)
    ]
    if kept:
        stored.withheld = tuple(sorted({*stored.withheld, *kept}))
        world.touch_node(node)


def arrived(node: Node, volume: str, now: float) -> None:
    """The node has got to another root by our doing: the push under way makes progress."""
    state = node.view(volume).pushing
    if state.asked_at is not None:
        state.progress_at = now
        state.due_at = max(state.due_at, now + PUSH_GOOD_S)


def forget(node: Node) -> None:
    """The session has ended. What was sent is remembered: its commits may still come."""
    for view in node.views.values():
        old = view.pushing
        view.pushing = Pushing(number=old.number, sent=old.sent, sent_before=old.sent_before)


def trouble(world: World, volume: Volume, node: Node) -> str:
    """Why some path does not get to this node, while others do; "" where it is no longer behind than usual."""
    view = node.view(volume.name)
    if not view.behind or view.lag_since is None or not view.pushing.failed:
        return ""
    is_due = world.now.mono >= view.lag_since + volume.config.lag_grace_s
    return f"{volume.name}: {view.pushing.failed}" if is_due else ""


def is_stuck(world: World, volume: Volume, node: Node) -> bool:
    """Whether pushes do not bring this node on, so that it has to be converged. Wakes when that may be."""
    view = node.view(volume.name)
    state = view.pushing
    if view.lag_since is None or state.starved or volume.name in node.unheard:
        return False
    since = max(view.lag_since, state.progress_at or 0.0, node.connected_at)
    if state.asked_at is not None:
        since = max(since, state.due_at - volume.config.lag_grace_s)
    due = since + volume.config.lag_grace_s
    if world.now.mono < due:
        world.wake(due)
    return world.now.mono >= due


# --- when -----------------------------------------------------------------------------------------


def _may_push(world: World, volume: Volume, node: Node, view: View) -> bool:
    stored, state, now = node.volume(volume.name), view.pushing, world.now.mono
    if state.asked_at is not None and now < state.due_at:
        world.wake(state.due_at)
        return False
    if (
        node.session is None
        or volume.name in node.unheard
        or node.fenced
        or world.recovers(node, volume.name)
        or stored.held is None
        or world.untrusted(node, volume.name)
        or world.is_held(node, volume)
    ):
        return False
    if state.asked_at is not None:
        state.asked_at, state.fetch_bytes, state.source = None, 0, ""
        _retry_later(world, state)
    if now < state.not_before:
        world.wake(state.not_before)
        return False
    return True


def _retry_later(world: World, state: Pushing) -> None:
    state.todo = []
    state.not_before = world.now.mono + min(RETRY_MAX_S, RETRY_MIN_S * 2.0**state.attempt)
    state.attempt = min(state.attempt + 1, 10)


# --- what -----------------------------------------------------------------------------------------


def _push(world: World, volume: Volume, node: Node, view: View, alike: Alike) -> Iterator[None]:
    """Make the next push of what the node lacks, and send it."""
    state, analysis = view.pushing, view.analysis
    assert analysis is not None, "a node that is behind was analysed"
    peers = givers_to(world, volume, node)
    batch = yield from _next(world, volume, node, state, analysis, peers, alike)
    if not batch.edits:
        state.starved = not state.todo
        if state.starved:
            state.not_before = world.now.mono + RETRY_MIN_S * 5
            world.wake(state.not_before)
        return
    state.starved = False
    fetch, sources = batch.fetch, ranked(world, volume, peers, batch.sample)
    if fetch > LARGE_BYTES and not _has_turn(volume, world, sources[1]):
        state.todo += reversed(batch.sent)  # in the order in which they were chosen
        state.not_before = world.now.mono + TURN_S
        world.wake(state.not_before)
        return
    world.pushes += 1
    state.number = world.pushes
    state.asked_at, state.fetch_bytes = world.now.mono, fetch
    state.due_at = world.now.mono + PUSH_GOOD_S + fetch / PUSH_SLOWEST_BYTES_S
    state.source = sources[0][0] if sources[0] else ""
    state.sent_before, state.sent = state.sent, batch.sent
    world.wake(state.due_at)
    world.count("closeranks_pushes_total", 1, node=node.name, volume=volume.name)
    world.send(node, wire.Push(volume.name, state.number, batch.edits, sources[0]))


def _next(
    world: World, volume: Volume, node: Node, state: Pushing, analysis: Analysis, peers: list[Node], alike: Alike
) -> Generator[None, None, Batch]:  # fmt: skip
    """The next push, and in `state.todo` what is left."""
    held_back = seconds.held_back(world, volume, node, analysis)
    kept = _kept_here(world, volume, node)
    is_common = not state.todo and not held_back and not kept
    known = alike.get(id(analysis)) if is_common else None
    if known is not None:
        state.todo = list(known.todo)
        return known
    if not state.todo:
        state.todo = yield from _ordered(world, analysis)
        state.todo.reverse()
    edits, fetch = _choose(world, volume, analysis, state, peers, held_back, kept)
    wanted = [edit.key for edit in edits if _size(edit.after)]
    batch = Batch(
        tuple(sorted(edits, key=lambda edit: edit.key)),
        fetch,
        tuple(state.todo),
        {edit.key: analysis.raw[edit.key] for edit in edits},
        tuple(wanted[:: max(1, len(wanted) // SAMPLE_KEYS)]),
    )
    if is_common:
        alike[id(analysis)] = batch
    return batch


def _ordered(world: World, analysis: Analysis) -> Generator[None, None, list[bytes]]:
    """All paths in which the node lags, in the order in which they are best sent."""
    raw, width = analysis.raw, world.algorithm.width
    keys = sorted(analysis.lagging)
    if len(keys) > PART_KEYS:
        yield
    if all(raw[key][1] is not None for key in keys):
        return keys
    replaced: set[bytes] = set()
    for part in key_parts(keys):
        replaced.update(key for key in part if is_directory(raw[key][0]) and not is_directory(raw[key][1]))
        if len(part) == PART_KEYS:
            yield
    first: list[bytes] = []
    adds: list[bytes] = []
    leaves: dict[bytes, bytes] = {}  # removals of files, by their content
    others: list[bytes] = []
    for part in key_parts(keys):
        for key in part:
            ours, theirs = raw[key]
            if theirs is not None:
                adds.append(key)
            elif replaced and any(above in replaced and raw[above][1] is not None for above in above_of(key)):
                first.append(key)
            elif ours is not None and _size(ours) and content_digest(ours, width) not in leaves:
                leaves[content_digest(ours, width)] = key
            else:
                others.append(key)
        if len(part) == PART_KEYS:
            yield
    order = first[::-1]
    for part in key_parts(adds):
        for key in part:
            order.append(key)
            theirs = raw[key][1]
            if leaves and theirs is not None and _size(theirs):
                source = leaves.pop(content_digest(theirs, width), None)
                if source is not None:
                    order.append(source)
        if len(part) == PART_KEYS:
            yield
    rest = sorted((*leaves.values(), *others), reverse=True)
    return order + rest


def _choose(
    world: World,
    volume: Volume,
    analysis: Analysis,
    state: Pushing,
    peers: list[Node],
    held_back: tuple[bytes, ...],
    kept: tuple[bytes, ...],
) -> tuple[list[wire.PushEdit], int]:
    """The edits of one push, taken off what is to be sent, and the bytes that have to be fetched for them."""
    edits: list[wire.PushEdit] = []
    size = fetch = last = 0
    width, raw, lagging = world.algorithm.width, analysis.raw, analysis.lagging
    lacked = lacked_by(volume, peers)
    while state.todo and len(edits) < PUSH_MAX_EDITS:
        key = state.todo.pop()
        values = raw.get(key)
        if values is None or key not in lagging:
            continue  # it has got there meanwhile
        if held_back and seconds.is_below(key, held_back):
            continue
        before, after = values
        length = _size(after)
        new = length if before is None or after is None or not same_content(before, after, width) else 0
        if (
            new
            and not is_had(lacked, key, width)
            and not seconds.is_below(key, kept)
            and content_digest(after, width) not in going(world, analysis)
        ):
            continue  # nobody could give it
        chunks = _chunk_list(world, volume, after) if new > volume.config.chunk_bytes else None
        cost = EDIT_BYTES + len(key) + len(before or b"") + len(after or b"") + len(chunks or b"")
        if edits and (size + cost > PUSH_MAX_BYTES or fetch + new > FETCH_MAX_BYTES):
            state.todo.append(key)
            break
        size += cost
        fetch += new
        last = new
        edits.append(wire.PushEdit(key, before, after, chunks))
    if len(edits) > 1 and state.todo and _is_source(edits[-1], raw.get(state.todo[-1]), width):
        state.todo.append(edits.pop().key)  # by itself it would be copied, and its old name searched for
        fetch -= last
    return edits, fetch


def _is_source(edit: wire.PushEdit, values: Values | None, width: int) -> bool:
    """Whether what goes there, of which these are the values, is what the edit's new file may be made of."""
    if (
        values is None
        or values[0] is None
        or values[1] is not None
        or edit.after is None
        or edit.before is not None
    ):
        return False
    return _size(edit.after) > 0 and same_content(values[0], edit.after, width)


def _kept_here(world: World, volume: Volume, node: Node) -> tuple[bytes, ...]:
    """Conflict names whose contents this node has itself, under the plain names."""
    found = seconds.unplaced(world, volume)
    return tuple(one.kept for one in found if one.loser == node.name and one.kept is not None)


def _chunk_list(world: World, volume: Volume, value: bytes | None) -> bytes | None:
    """The chunk list of a file that has one, unless it is too long to be sent along."""
    if value is None or entry_size(value) <= volume.config.chunk_bytes:
        return None
    try:
        found = world.object(content_digest(value, world.algorithm.width))
    except MissingObject:
        return None
    return found if len(found) <= PUSH_LIST_MAX_BYTES else None


def _size(value: bytes | None) -> int:
    return 0 if value is None else entry_size(value)


def _has_turn(volume: Volume, world: World, holders: int) -> bool:
    """Whether one more may fetch a large push: at most so many for each that has it."""
    states: Mapping[str, Pushing] = {
        node.name: node.view(volume.name).pushing for node in world.members(volume)
    }
    fetching = sum(one.asked_at is not None and one.fetch_bytes > LARGE_BYTES for one in states.values())
    return fetching < FETCHERS_OF_ONE * max(1, holders)
