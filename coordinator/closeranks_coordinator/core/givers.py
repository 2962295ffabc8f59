"""Who can give what a node lacks: contents for a push of the newest steps, chunks for a converge.

What a fenced node has, or one whose changes are held, is given to nobody. For a push a giver must have the very version
that the truth has there, for nobody waits for another; a converge asks on, and verifies each chunk.
"""

from __future__ import annotations

from bisect import bisect_left

from closeranks_proto.entries import same_content

from .judge import Differing
from .nodes import Node, Volume
from .truth import Values
from .world import World

SOURCES_MAX = 8
ON_THEIR_WAY_MAX = 16  # nodes that are behind themselves, among the sources of one order


# --- of a push --------------------------------------------------------------------------------------


def givers_to(world: World, volume: Volume, node: Node) -> list[Node]:
    """Healthy peers whose trees are known: in rank on this volume, or on their way there without suspicion."""
    return [
        peer
        for peer in world.members(volume)
        if peer is not node
        and peer.session is not None
        and not peer.fenced
        and not world.is_held(peer, volume)
        and peer.view(volume.name).analysis is not None
        and not world.untrusted(peer, volume.name)
        and peer.volume(volume.name).held is not None
        and peer.record.phase != "suspect"
    ]


def lacked_by(volume: Volume, peers: list[Node]) -> list[Differing]:
    """In what each of these nodes differs from the truth, whoever lacks least first."""
    found = (peer.view(volume.name).analysis for peer in peers)
    return sorted((one.raw for one in found if one is not None), key=len)


def is_had(lacked: list[Differing], key: bytes, width: int) -> bool:
    """Whether one of them has what the truth has there. Mostly the first one lacks nothing at all."""
    return any(key not in raw or _gives_same(raw[key], width) for raw in lacked)


def ranked(
    world: World, volume: Volume, peers: list[Node], sample: tuple[bytes, ...]
) -> tuple[tuple[str, ...], int]:
    """(who to fetch from, best first; how many of them have everything that was looked at).

    Whoever lacks least comes first, then who is asked least, replicas before writers.
    """
    width = world.algorithm.width
    asked: dict[str, int] = {}
    for node in world.members(volume):
        state = node.view(volume.name).pushing
        if state.asked_at is not None and state.source:
            asked[state.source] = asked.get(state.source, 0) + 1
    lacks = {peer.name: _lacks(peer, volume, sample, width) for peer in peers}
    order = sorted(
        (peer.name for peer in peers if not sample or lacks[peer.name] < len(sample)),
        key=lambda name: (lacks[name], asked.get(name, 0), name in volume.config.writers, name),
    )
    return tuple(order[:SOURCES_MAX]), sum(not lacks[name] for name in order)


def _lacks(peer: Node, volume: Volume, keys: tuple[bytes, ...], width: int) -> int:
    """How many of these paths this peer has not as the truth has them."""
    analysis = peer.view(volume.name).analysis
    assert analysis is not None, "sources were analysed"
    raw = analysis.raw
    return sum(not _gives_same(raw[key], width) for key in keys if key in raw) if raw else 0


def _gives_same(values: Values, width: int) -> bool:
    ours, theirs = values
    return ours is not None and theirs is not None and same_content(ours, theirs, width)


# --- of a converge ----------------------------------------------------------------------------------


def sources_for(world: World, node: Node, volume: Volume) -> tuple[str, ...]:
    """Peers that may give chunks: those that equal the truth, and some that are only behind, as this node is.

    While none equals the truth: the healthy ones and then the rest. Whoever is fenced or held gives nothing. Suspects,
    joiners and those on their way to the truth give what they have: each chunk is verified against its digest, and
    where nobody else is left they would wait for each other for ever.
    """
    peers = [
        one
        for one in world.members(volume)
        if one is not node
        and one.session is not None
        and not one.fenced
        and one.volume(volume.name).root is not None
        and not world.is_held(one, volume)
        and not world.untrusted(one, volume.name)
    ]
    healthy = [one for one in peers if _is_healthy(world, one, volume)]
    equal = [one.name for one in healthy if one.volume(volume.name).root == volume.truth]
    if equal:
        return (*equal, *_on_their_way(node, volume, [one for one in peers if one not in healthy]))
    first = dict.fromkeys(one.name for one in healthy)
    return (*first, *(one.name for one in peers if one.name not in first))


def _on_their_way(node: Node, volume: Volume, peers: list[Node]) -> list[str]:
    """Those of the peers that nobody accuses: fifteen empty nodes must not all wait for the one source.

    Not more than ON_THEIR_WAY_MAX, others for each node, so that all of a large fleet are asked alike.
    """
    names = sorted(one.name for one in peers if _is_only_behind(one, volume))
    first = bisect_left(names, node.name)
    return (names[first:] + names[:first])[:ON_THEIR_WAY_MAX]


def _is_only_behind(node: Node, volume: Volume) -> bool:
    work = node.record.recovery
    if work is not None and volume.name in work.volumes:
        return work.purpose != "divergence"
    return node.record.phase in ("joining", "lagging")


def _is_healthy(world: World, node: Node, volume: Volume) -> bool:
    """Whether what is known of its tree is current, and nothing says that it will soon be another one."""
    return (
        world.may_vote(node, volume)
        and node.volume(volume.name).held is not None
        and node.record.phase != "suspect"
        and not (node.record.phase in ("resyncing", "verifying") and world.recovers(node, volume.name))
    )
