"""Entries that spread (RULES 1.4): a site rolls a change out, and nobody breaks ranks who is among its first holders.

While the number of nodes that hold the same new entry grows, its clock starts again on all of them. A whole tree that
rolls out is counted as one; otherwise entries are counted one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

from .judge import Analysis
from .nodes import Node, View, Volume

NOTHING = (b"", None)  # no entry's value: values of entries are never empty


def restart(volume: Volume, nodes: list[Node], now: float) -> None:
    """RULES 1.4: an entry that spreads restarts its clock with each new holder."""
    views = [view for node in nodes if not node.fenced and len((view := node.view(volume.name)).clocks)]
    fresh = [view for view in views if view.fresh]
    if len(views) < 2:
        volume.rolling, volume.rolled = {}, None
    elif fresh and not _spread_whole(volume, views, fresh, now):
        _spread(volume, views, fresh, now)
    for node in nodes:
        node.view(volume.name).fresh = []


def _spread_whole(volume: Volume, views: list[View], fresh: list[View], now: float) -> bool:
    """A whole tree that rolls out, one and the same on all that differ: it is counted as one. Whether it was."""
    analysis, before = views[0].analysis, volume.rolled
    if (
        analysis is None
        or volume.rolling
        or any(view.analysis is not analysis or len(view.clocks) != len(views[0].clocks) for view in views)
        or any(len(view.fresh) < len(view.clocks) for view in fresh)
        or (before is not None and before[0] is not analysis)
    ):
        if before is not None:
            differing = before[0].differing
            volume.rolling |= {key: (differing[key][0], before[1]) for key in before[0].own_keys()}
            volume.rolled = None
        return False
    if len(views) > (1 if before is None else before[1]):
        volume.rolled = (analysis, len(views))
        for view in views:
            view.clocks.restart_all(now)
    return True


def _spread(volume: Volume, views: list[View], fresh: list[View], now: float) -> None:
    """Count the holders of what some nodes have newly brought; restart the clocks of what has grown."""
    groups = Counter(view.analysis for view in views if view.analysis is not None)
    grown: dict[bytes, bytes | None] = {}
    counted: dict[bytes, bytes | None] = {}
    alike = len(groups) == 1  # a whole tree that rolls out: nothing has to be counted key by key
    for view in fresh:
        if view.analysis is None:
            continue
        differing = view.analysis.differing
        for key in view.fresh:
            if key not in view.clocks:
                continue
            value = differing[key][0]
            if counted.get(key, b"") == value:  # no entry's value is empty
                continue
            counted[key] = value
            holders = len(views) if alike else _holders(groups, key, value)
            known = volume.rolling.get(key)
            if holders > (known[1] if known is not None and known[0] == value else 1):
                volume.rolling[key] = (value, holders)
                grown[key] = value
    held = {analysis: _held_of(grown, analysis) for analysis in groups} if grown else {}
    for view in views if grown else ():
        if view.analysis is not None:
            view.clocks.restart(held[view.analysis], now)


def _holders(groups: Counter[Analysis], key: bytes, value: bytes | None) -> int:
    """How many nodes have brought this entry there."""
    return sum(
        size
        for analysis, size in groups.items()
        if analysis.differing.get(key, NOTHING)[0] == value and analysis.is_own(key)
    )


def _held_of(grown: Mapping[bytes, bytes | None], analysis: Analysis) -> Set[bytes]:
    """What of this a node has."""
    differing = analysis.differing
    if all(differing.get(key, NOTHING)[0] == value for key, value in grown.items()):
        return grown.keys()
    return {key for key, value in grown.items() if differing.get(key, NOTHING)[0] == value}
