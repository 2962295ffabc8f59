"""What was put right and comes back: remembered beyond the incident that told of it.

While an incident is open it counts itself what comes back between two rounds of its repair (`naming`). Here
is what lasts longer: for each volume the paths, and the contents, that repairs took away. A path that breaks
ranks again on the same node, or a content that does so on any node, opens an incident of kind `recurrence`,
which names the writer each time. A return is the opening of another incident, or another path of it: while
one repair goes on, its own rogue does not return but stay. From `recurrence_max` returns within
`auto_release_window_s` on, nodes are not released by themselves any more.

The memory is bounded: ENTRIES_MAX paths and as many contents of each volume, the oldest give way, and one
repair takes at most REPAIR_MAX places, so that a mass change does not push out everything else. Contents
below CONTENT_MIN_BYTES are not told apart: too many files have the same few bytes by chance.

A node that fails audits now and then is remembered too, whatever chunk it was: where only an alert is wanted its own
proof ends the incident, and without a brake a liar could go on so for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from closeranks_proto.entries import Kind, decode_entry

from . import hands, incidents, words
from .diffs import DiffRow
from .incidents import Incident
from .judge import Analysis
from .nodes import Node, Volume
from .records import Repaired, RepairsRecord
from .truth import Values
from .world import World

ENTRIES_MAX = 5000  # x about 200 bytes, twice: 2 MB a volume
REPAIR_MAX = 1000
RETURNS_KEPT = 20
CONTENT_MIN_BYTES = 64
SAVE_EVERY_S = 5.0
QUIET_S = 3600.0  # without a return, until it is over


# --- what is put right ----------------------------------------------------------------------------


def repaired(
    world: World, volume: Volume, node: Node, incident: str, entries: Mapping[bytes, bytes | None]
) -> None:
    """A repair (or the rejection of a hold) took these entries of the node away: key to what it held there."""
    memory = world.repairs.setdefault(volume.name, RepairsRecord())
    told, count = world.remembering.get(volume.name, ("", 0))
    count = count if told == incident else 0
    for key in sorted(entries):
        if count >= REPAIR_MAX:
            break
        count += 1
        _remember(memory.paths, _path_of(node, key), key, node, incident, world.now.wall_ms)
        digest = _content(entries[key], world.algorithm.width)
        if digest is not None:
            _remember(memory.contents, digest, key, node, incident, world.now.wall_ms)
    world.remembering[volume.name] = (incident, count)
    world.unsaved_repairs.setdefault(volume.name, world.now.mono)


def _remember(
    known: dict[bytes, Repaired], at: bytes, key: bytes, node: Node, incident: str, now_ms: int
) -> None:
    before = known.pop(at, None)
    returns = [] if before is None else before.returns_ms
    known[at] = Repaired(key, node.name, incident, now_ms, returns)
    if len(known) > ENTRIES_MAX:
        del known[next(iter(known))]


def _path_of(node: Node, key: bytes) -> bytes:
    return node.name.encode() + b"\0" + key


def _content(value: bytes | None, width: int) -> bytes | None:
    """The digest of a file that is long enough to be told from others."""
    if value is None:
        return None
    entry = decode_entry(value, width)
    return entry.digest if entry.kind is Kind.FILE and entry.size >= CONTENT_MIN_BYTES else None


# --- what comes back ------------------------------------------------------------------------------


def returned(
    world: World, volume: Volume, node: Node, accused: Incident, analysis: Analysis, rows: Iterable[DiffRow]
) -> None:
    """Look whether these own paths of a node, just named in `accused`, were put right before.

    What a tree brings that was told anew has not come back by anybody's hand: the tree is another one.
    """
    memory = world.repairs.get(volume.name)
    if memory is None or node.volume(volume.name).anew:
        return
    found: dict[bytes, Repaired] = {}
    listed: list[DiffRow] = []
    often = 0
    for one in rows:
        digest = _content(analysis.differing[one.key][0], world.algorithm.width)
        known = memory.paths.get(_path_of(node, one.key))
        content = None if digest is None else memory.contents.get(digest)
        before = [each for each in (known, content) if each is not None and each.incident != accused.id]
        if before:
            found[one.key] = before[0]
            listed.append(one)
            often = max([often, *(_count(world, each) for each in before)])
    if not found:
        return
    incident = _tell(world, volume, node, found, listed, analysis)
    world.unsaved_repairs.setdefault(volume.name, world.now.mono)
    accused.note(world.now.wall_ms, "note", f"Some of it was put right before: see incident {incident.id}.")
    if often >= world.config.recurrence_max:
        _escalate(world, node, accused, incident, "what was put right came back", often)
    world.touch_incident(incident)
    world.touch_incident(accused)


def merged(world: World, volume: Volume, node: Node, own: Mapping[bytes, Values]) -> None:
    """A writer's own changes are about to become the truth: contents that were rejected before are told of.

    What was taken away from a node that is no writer was not wrong in itself: a writer may bring it.
    """
    memory = world.repairs.get(volume.name)
    if memory is None or not memory.contents:
        return
    found: dict[bytes, Repaired] = {}
    for key, (value, _) in own.items():
        digest = _content(value, world.algorithm.width)
        known = None if digest is None else memory.contents.get(digest)
        if known is not None and known.node in volume.config.writers:
            found[key] = known
            _count(world, known)
    if found:
        rows = [DiffRow(key, "modified") for key in sorted(found)]
        world.touch_incident(_tell(world, volume, node, found, rows, None))
        world.unsaved_repairs.setdefault(volume.name, world.now.mono)


def _count(world: World, known: Repaired) -> int:
    """Note one return; how many there were within the window. What came in the same moment is one return."""
    now_ms = world.steady_ms
    recent = world.lately(known.returns_ms, world.config.auto_release_window_s)
    if not recent or now_ms - recent[-1] >= incidents.RECURRENCE_JOIN_MS:
        recent = [*recent, now_ms][-RETURNS_KEPT:]
    known.returns_ms = recent
    return len(recent)


def _tell(
    world: World, volume: Volume, node: Node, found: Mapping[bytes, Repaired], rows: list[DiffRow],
    analysis: Analysis | None,
) -> Incident:  # fmt: skip
    """One more event in the node's incident of returns, with the hands it came by."""
    now_ms = world.now.wall_ms
    incident = world.open_incident("recurrence", node.name, volume.name)
    if incident is None:
        first = min(found.values(), key=lambda one: one.at_ms)
        incident = incidents.recurrence(
            id=world.next_incident(), node=node.name, volume=volume.name, now_ms=now_ms, first_ms=first.at_ms,
            repaired_in=first.incident or "none: it was put right by hand",
        )  # fmt: skip
        world.open(incident)
        world.log("warning", f"{node.name}: what was put right on {volume.name} came back ({incident.id})")
    known = [key for key in found if key in incident.paths]
    others = [key for key in found if key not in incident.paths]
    incident.observe_paths(rows, len(incident.paths))
    incident.recur(now_ms, sorted(found), hands.words_of(world, node, volume.name, found))
    incident.quiet_since_ms = world.steady_ms
    elsewhere = [(key, one) for key, one in found.items() if one.node != node.name or one.key != key]
    if elsewhere:
        key, one = elsewhere[0]
        text = f"The content of {words.path_words(key)} is what was put right on {one.node} as "
        incident.note(
            now_ms, "note", f"{text}{words.path_words(one.key)} (incident {one.incident or 'none'})."
        )
    if analysis is not None:
        hands.tell(incident, hands.sums(world, node, volume.name, analysis, others))
        hands.tell(incident, hands.sums_of_returns(world, node, volume.name, incident, analysis, known))
    else:
        hands.tell(incident, (hands.once(world, node, volume.name, key) for key in others))
        named = {hand.key for hand in incident.hands}
        again = (hands.once(world, node, volume.name, key) for key in known)
        hands.tell(incident, [one for one in again if one.key not in named])
    return incident


def _escalate(world: World, node: Node, accused: Incident, incident: Incident, what: str, often: int) -> None:
    """The node is not released by itself: neither behind the fence that it has, nor behind the next."""
    window = words.human_duration(world.config.auto_release_window_s)
    why = f"by hand: {what} {words.times(often)} within {window}"
    if accused.evidence.get("release") == why:
        return
    accused.evidence["release"] = incident.evidence["release"] = why
    fence = node.record.fence
    if fence is not None and fence.release == "automatic":
        fence.release = "by_hand"
        world.touch_node(node)
    text = f"{what.capitalize()} {words.times(often)} within {window}: a person has to release {node.name}"
    incident.note(world.now.wall_ms, "note", f"{text} (closeranks release {node.name}).")


def by_hand(accused: Incident | None) -> bool:
    """Whether the node that this incident accuses may only be released by a person."""
    return accused is not None and "release" in accused.evidence


# --- audits ---------------------------------------------------------------------------------------


def proven(world: World, volume: Volume, node: Node, incident: Incident) -> None:
    """A node has proven what it had failed an audit for: should it fail another one, that is a return."""
    memory = world.repairs.setdefault(volume.name, RepairsRecord())
    key = next(iter(incident.paths), b"")
    _remember(memory.paths, _audits_of(node), key, node, incident.id, world.now.wall_ms)
    world.unsaved_repairs.setdefault(volume.name, world.now.mono)


def failed(world: World, volume: Volume, node: Node, accused: Incident) -> None:
    """A node has failed an audit, as `accused` tells: look whether it had before, and had proven itself since."""
    memory = world.repairs.get(volume.name)
    known = None if memory is None else memory.paths.get(_audits_of(node))
    if known is None:
        return
    often = _count(world, known)
    world.unsaved_repairs.setdefault(volume.name, world.now.mono)
    now_ms = world.now.wall_ms
    incident = world.open_incident("recurrence", node.name, volume.name)
    if incident is None:
        incident = incidents.unsteady(
            id=world.next_incident(), node=node.name, volume=volume.name, now_ms=now_ms, first_ms=known.at_ms,
            failed_in=known.incident,
        )  # fmt: skip
        world.open(incident)
        world.log("warning", f"{node.name} fails audits of {volume.name} again and again ({incident.id})")
    hand = hands.words_of(world, node, volume.name, accused.paths)
    who = f"Written by {hand}" if hand else "Nobody is known to have written there"
    incident.recurrences += 1
    incident.quiet_since_ms = world.steady_ms
    incident.note(
        now_ms, "recurrence", f"{accused.summary} ({accused.id}); it had proven itself after {known.incident}. "
        f"{who}. {words.plural(incident.recurrences, 'return')} so far.",
    )  # fmt: skip
    accused.note(now_ms, "note", f"It had failed audits before: see incident {incident.id}.")
    if often >= world.config.recurrence_max:
        _escalate(world, node, accused, incident, "it failed audits again", often)
    world.touch_incident(incident)
    world.touch_incident(accused)


def _audits_of(node: Node) -> bytes:
    return b"\0" + node.name.encode()  # no path of a node begins so: a node has a name


# --- as time goes by ------------------------------------------------------------------------------


def watch(world: World) -> None:
    """Write the memory down once in a while; close what has not come back for long."""
    for name, since in list(world.unsaved_repairs.items()):
        if world.now.mono >= since + SAVE_EVERY_S or name not in world.volumes:
            del world.unsaved_repairs[name]
            world.touch("repairs", name)
        else:
            world.wake(since + SAVE_EVERY_S)
    now_ms = world.steady_ms
    for incident in world.open_incidents():
        node = world.nodes.get(incident.node or "")
        if incident.kind != "recurrence" or node is None:
            continue
        incident.quiet_since_ms = min(incident.quiet_since_ms, now_ms)
        if node.fenced or world.diverged(node, incident.volume):
            incident.quiet_since_ms = now_ms
        elif now_ms - incident.quiet_since_ms >= QUIET_S * 1000:
            quiet = words.human_duration(QUIET_S)
            incident.note(world.now.wall_ms, "note", f"Nothing has come back for {quiet}.")
            world.close(incident)
