"""Who can give the contents of a push: whoever has the truth's version there, and is trusted with it.

What a fenced node has, or one whose changes are held, is given to nobody.
"""

from __future__ import annotations

from closeranks_proto.entries import same_content

from .judge import Differing
from .nodes import Node, Volume
from .truth import Values
from .world import World

SOURCES_MAX = 8


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
