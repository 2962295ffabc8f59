"""What operators say of scrubs, and what is known of them: faster, slower, paused, now.

A word stands until it is taken back, over restarts too: the fleet's for every node, or a node's own. What is said
of the fleet reaches nodes that have a word of their own as well, since who says "pause" means all. Sessions begin
without a word. The tours themselves are the agents': they run, throttled, while no coordinator is there.
"""

from __future__ import annotations

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.lines import timestamp

from .model import Refusal, ScrubAsked
from .nodes import Node
from .records import NodeVolume, ScrubRecord, ScrubWord
from .shapes import ScrubNodeView, ScrubView, ScrubVolumeView
from .speed import MOST_BYTES_S
from .words import human_bytes
from .world import World

LEAST_BYTES_S = 1024  # below it no tour would ever end
SILENT = ScrubWord()


def drive(world: World) -> None:
    """Tell nodes of words that have changed for them."""
    if not world.scrubs_told and world.scrubs == ScrubRecord():
        return  # nobody ever said anything
    for node in world.nodes.values():
        if node.session is None:
            continue
        said, word = node.scrub_told, _word(world, node)
        if said is None or said[0] != node.session:
            said = (node.session, SILENT)
        if said[1] != word:
            world.send(node, wire.Scrub(False, word.paused, word.bytes_s))
            world.scrubs_told = True
        node.scrub_told = (node.session, word)


def ask(world: World, event: ScrubAsked) -> ScrubView | Refusal:
    """An operator's word, for one node or for all."""
    if event.node is not None and event.node not in world.nodes:
        return Refusal(404, "unknown_node", f"There is no node {event.node!r} in this fleet.")
    given = event.bytes_s
    if given is not None and not LEAST_BYTES_S <= given <= MOST_BYTES_S:
        text = (
            f"A scrub's limit is a number of bytes/s from {LEAST_BYTES_S} to {MOST_BYTES_S}, or none at all."
        )
        return Refusal(400, "bad_speed", text)
    targets = [world.nodes[event.node]] if event.node is not None else list(world.nodes.values())
    awake = [node for node in targets if node.session is not None]
    if event.now and not awake:
        return Refusal(503, "node_unreachable", "No agent is connected that could begin.")
    _remember(world, event)
    for node in awake if event.now else ():
        word = _word(world, node)
        world.send(node, wire.Scrub(True, word.paused, word.bytes_s))
        assert node.session is not None, "it is awake"
        node.scrub_told = (node.session, word)
    world.log("info", f"an operator said of the scrubs of {event.node or 'the fleet'}: {_told(event)}")
    return view(world, event.node)


def _remember(world: World, event: ScrubAsked) -> None:
    record = world.scrubs
    if event.node is not None:
        record.nodes[event.node] = _changed(record.nodes.get(event.node, record.fleet), event)
    else:
        record.fleet = _changed(record.fleet, event)
        record.nodes = {name: _changed(word, event) for name, word in record.nodes.items()}
    record.nodes = {
        name: word for name, word in record.nodes.items() if name in world.nodes and word != record.fleet
    }
    world.touch("scrubs", "")


def _changed(word: ScrubWord, event: ScrubAsked) -> ScrubWord:
    paused = word.paused if event.paused is None else event.paused
    bytes_s = word.bytes_s
    if event.auto:
        bytes_s = None
    elif event.unlimited:
        bytes_s = 0
    elif event.bytes_s is not None:
        bytes_s = event.bytes_s
    return ScrubWord(paused and not event.now, bytes_s)


def _word(world: World, node: Node) -> ScrubWord:
    return world.scrubs.nodes.get(node.name, world.scrubs.fleet)


def _told(event: ScrubAsked) -> str:
    said = ["now"] if event.now else []
    if event.paused is not None:
        said.append("pause" if event.paused else "go on")
    if event.auto:
        said.append("as the configuration says")
    elif event.unlimited:
        said.append("no limit")
    elif event.bytes_s is not None:
        said.append(f"{human_bytes(event.bytes_s)}/s")
    return ", ".join(said) or "nothing"


# --- what is shown --------------------------------------------------------------------------------


def view(world: World, node: str | None = None) -> ScrubView:
    """All nodes, or one."""
    return ScrubView(
        tuple(_node_view(world, one) for one in world.nodes.values() if node in (None, one.name))
    )


def _node_view(world: World, node: Node) -> ScrubNodeView:
    word = _word(world, node)
    known = {volume.name: volume_view(node.volume(volume.name)) for volume in world.volumes_of(node)}
    return ScrubNodeView(node.name, node.session is not None, word.paused, word.bytes_s, known)


def volume_view(stored: NodeVolume) -> ScrubVolumeView | None:
    """How far a node's volume is, as it told last; None where it never did."""
    scrub = None if stored.status is None else stored.status.scrub
    if scrub is None:
        return None

    def moment(age_ms: int | None) -> str | None:
        return None if age_ms is None else timestamp(max(0, stored.status_ms - age_ms))

    return ScrubVolumeView(
        scrub.state, scrub.slowed, scrub.files, scrub.files_total, scrub.bytes, scrub.bytes_total, scrub.debt_bytes,
        scrub.found, scrub.unreadable, moment(scrub.started_age_ms), moment(scrub.ended_age_ms),
        moment(scrub.oldest_age_ms), scrub.bytes_s, scrub.files_s,
    )  # fmt: skip


def lasting(scrub: wire.ScrubState | None) -> wire.ScrubState | None:
    """Without what changes as a tour goes on."""
    if scrub is None:
        return None
    return msgspec.structs.replace(
        scrub, slowed=False, files=0, files_total=0, bytes=0, bytes_total=0, debt_bytes=0, started_age_ms=None,
        ended_age_ms=None, oldest_age_ms=None,
    )  # fmt: skip
